//! Who may use the kubelet's API, as every kubelet decides it: a client is known by a certificate of the authority that the API
//! server's own is of, or by a token; and the API server is asked whether whoever it is may do that to a node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use apiserver::auth::{ADMINS, User};
use http::{HeaderMap, Method, StatusCode, header};
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::PostParams;
use kube::{Api, Client};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use serde_json::json;

use super::{Refused, refuse};

/// How long an answer of the API server holds.
const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
/// How many answers are kept.
const KEPT: usize = 1024;

/// Decides for all kubelets of a lab.
pub struct Access {
    client: Client,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    answers: Mutex<HashMap<Question, (bool, Instant)>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    node: String,
    verb: &'static str,
    user: String,
    groups: Vec<String>,
}

impl Access {
    /// `authority`: the certificates (PEM) of those who sign clients' certificates; without one tokens alone count.
    ///
    /// # Errors
    /// What is given holds no certificate.
    pub fn new(client: Client, authority: Option<&str>) -> anyhow::Result<Access> {
        Ok(Access {
            client,
            verifier: authority.map(verifier).transpose()?,
            answers: Mutex::default(),
        })
    }

    /// What checks certificates of clients, who need not have one.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        match &self.verifier {
            Some(verifier) => verifier.clone(),
            None => WebPkiClientVerifier::no_client_auth(),
        }
    }

    /// Whether whoever makes a request may make it. A certificate has been checked already.
    pub(super) async fn check(
        &self,
        node: &str,
        certificate: Option<&User>,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<(), Refused> {
        let user = match (certificate, bearer(headers)) {
            (Some(user), _) => user.clone(),
            (None, Some(token)) => self.user_of(token).await?,
            (None, None) => return unauthorized(),
        };
        // They may do everything in any cluster, and the API server is one of them.
        if user.groups.iter().any(|group| group == ADMINS) {
            return Ok(());
        }
        let question = Question {
            node: node.to_owned(),
            verb: verb(method),
            user: user.name.clone(),
            groups: user.groups.clone(),
        };
        let allowed = match self.known(&question) {
            Some(allowed) => allowed,
            None => self.ask(&question, &user).await?,
        };
        if allowed {
            return Ok(());
        }
        refuse(
            StatusCode::FORBIDDEN,
            format!(
                "Forbidden (user={}, verb={}, resource=nodes, subresource=proxy)",
                user.name, question.verb
            ),
        )
    }

    fn known(&self, question: &Question) -> Option<bool> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (allowed, at) = answers.get(question)?;
        let holds = if *allowed { ALLOWED_FOR } else { DENIED_FOR };
        (at.elapsed() < holds).then_some(*allowed)
    }

    async fn ask(&self, question: &Question, user: &User) -> Result<bool, Refused> {
        let extra: HashMap<_, _> = user.extra.iter().cloned().collect();
        let review = json!({"spec": {
            "user": user.name, "uid": user.uid, "groups": user.groups, "extra": extra,
            "resourceAttributes": {"verb": question.verb, "version": "v1", "resource": "nodes", "subresource": "proxy", "name": question.node},
        }});
        let review: SubjectAccessReview = serde_json::from_value(review).or_else(internal)?;
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews
            .create(&PostParams::default(), &review)
            .await
            .or_else(internal)?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= KEPT {
            answers.clear();
        }
        answers.insert(question.clone(), (allowed, Instant::now()));
        Ok(allowed)
    }

    async fn user_of(&self, token: &str) -> Result<User, Refused> {
        let review = json!({"spec": {"token": token}});
        let review: TokenReview = serde_json::from_value(review).or_else(internal)?;
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = reviews
            .create(&PostParams::default(), &review)
            .await
            .or_else(internal)?;
        let status = answer.status.unwrap_or_default();
        match status.user {
            Some(user) if status.authenticated == Some(true) => Ok(User {
                name: user.username.unwrap_or_default(),
                uid: user.uid.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.into_iter().flatten().collect(),
            }),
            _ => unauthorized(),
        }
    }
}

fn verifier(authority: &str) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let certificate = certificate.context("the authority of kubelets' clients")?;
        roots
            .add(certificate)
            .context("the authority of kubelets' clients")?;
    }
    let provider = Arc::new(ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .context("the authority of kubelets' clients")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// What a request is to the rules of access.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

fn unauthorized<T>() -> Result<T, Refused> {
    refuse(StatusCode::UNAUTHORIZED, "Unauthorized")
}

fn internal<T>(error: impl std::fmt::Display) -> Result<T, Refused> {
    refuse(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!(
            "the API server was asked who that is and what it may do, and failed to say: {error}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_headers() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc ").as_deref(), Some("abc"));
        for nothing in ["Bearer ", "Bearer", "Basic abc", ""] {
            assert_eq!(of(nothing), None, "{nothing:?}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn methods_are_verbs() {
        let verbs = [Method::GET, Method::HEAD, Method::POST, Method::DELETE].map(|m| verb(&m));
        assert_eq!(verbs, ["get", "get", "create", "delete"]);
    }

    #[test]
    fn an_authority_without_a_certificate_is_refused() {
        assert!(verifier("nothing").is_err());
        assert!(
            verifier("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err()
        );
    }
}
