//! Who makes a request, and whether it may.
//!
//! Clients show a certificate of the server's authority or a token of a service account. Without rights by roles whoever is
//! somebody may do everything, and whoever is nobody may see versions, health and discovery.

mod rbac;
mod review;
mod token;

use std::sync::Arc;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use rustls::pki_types::CertificateDer;
use serde_json::{Map, Value, json};

pub(crate) use rbac::Wish;
pub(crate) use review::review;
pub(crate) use token::{Tokens, token};

use super::error::{ApiError, Reason};
use super::object::child_mut;
use super::server::{Authorization, Shared};

/// The group of those who may do everything in any cluster.
pub const ADMINS: &str = "system:masters";
/// The group of everybody who is known.
const AUTHENTICATED: &str = "system:authenticated";
/// What names of service accounts begin with; namespace and name follow.
const ACCOUNT: &str = "system:serviceaccount:";
/// The group of everybody who is not.
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Somebody who makes requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Name.
    pub name: String,
    /// Identifier of a service account.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else is known, such as the pod that a token is for.
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// The administrator: whoever calls the server inside its own process, or through a plain listener.
    pub fn admin() -> Self {
        Self::known("kubernetes-admin", &[ADMINS])
    }

    fn known(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().chain([&AUTHENTICATED]);
        Self {
            name: name.to_owned(),
            groups: groups.map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// Whether it is somebody.
    pub fn is_known(&self) -> bool {
        self.groups
            .iter()
            .any(|g| g == AUTHENTICATED || g == ADMINS)
    }

    /// `UserInfo` of the protocol.
    pub(crate) fn to_json(&self) -> Value {
        let mut info = json!({ "username": self.name, "groups": self.groups });
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            let extra: Map<String, Value> = self
                .extra
                .iter()
                .map(|(k, v)| (k.clone(), json!(v)))
                .collect();
            info["extra"] = Value::Object(extra);
        }
        info
    }

    /// Whom a certificate names. It has been checked against the authority already.
    pub fn of_certificate(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        let groups: Vec<&str> = subject
            .iter_organization()
            .filter_map(|group| group.as_str().ok())
            .collect();
        Some(Self::known(name, &groups))
    }
}

/// Notes in a request for a certificate who asks for it, whatever it says itself.
pub(crate) fn sign_with(user: &User, request: &mut Value) {
    let spec = child_mut(request, "spec");
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    if let Value::Object(info) = user.to_json() {
        spec.extend(info);
    }
}

/// How a connection was made.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// With a certificate, or as somebody who is known otherwise.
    Known(Arc<User>),
    /// With nothing.
    Unknown,
}

fn unauthorized(why: &str) -> ApiError {
    let why = if why.is_empty() {
        "Unauthorized".to_owned()
    } else {
        format!("Unauthorized: {why}")
    };
    ApiError::new(Reason::Unauthorized, why)
}

/// Who makes a request, by its token or else by its connection; `None` for requests inside the process.
pub(crate) fn authenticate(
    server: &Shared,
    peer: Option<&Peer>,
    headers: &HeaderMap,
) -> Result<User, ApiError> {
    let bearer = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    let token = bearer
        .and_then(|v| v.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let user = match (token, peer) {
        (Some((_, token)), _) => server
            .tokens
            .user_of(server, token.trim())
            .map_err(|why| unauthorized(&why))?,
        (None, None) => User::admin(),
        (None, Some(Peer::Known(user))) => User::clone(user),
        (None, Some(Peer::Unknown)) => User::anonymous(),
    };
    impersonated(server, user, headers)
}

/// The user that a request is made as (`kubectl --as`).
fn impersonated(server: &Shared, user: User, headers: &HeaderMap) -> Result<User, ApiError> {
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let Some(name) = headers.get("impersonate-user").map(text) else {
        return Ok(user);
    };
    if !user.is_known() {
        return Err(unauthorized(
            "nobody in particular cannot act as somebody else",
        ));
    }
    let groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .map(text)
        .collect();
    may_impersonate(server, &user, &name, &groups)?;
    if name == User::anonymous().name {
        return Ok(User::anonymous());
    }
    let account = name.strip_prefix(ACCOUNT).and_then(|a| a.split_once(':'));
    let groups = match account {
        Some((namespace, _)) if groups.is_empty() => account_groups(namespace),
        _ => groups,
    };
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    Ok(User::known(&name, &groups))
}

/// The groups of a service account, beside that of everybody who is known.
fn account_groups(namespace: &str) -> Vec<String> {
    let all = "system:serviceaccounts";
    vec![all.to_owned(), format!("{all}:{namespace}")]
}

/// Whether somebody may act as a user of these groups, where that is a right.
fn may_impersonate(
    server: &Shared,
    user: &User,
    name: &str,
    groups: &[String],
) -> Result<(), ApiError> {
    if server.options.authorization == Authorization::AlwaysAllow {
        return Ok(());
    }
    let wish = |resource: &str, namespace: &str, name: &str| Wish {
        verb: "impersonate".to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Wish::default()
    };
    let account = name.strip_prefix(ACCOUNT).and_then(|a| a.split_once(':'));
    let whom = match account {
        Some((namespace, name)) => wish("serviceaccounts", namespace, name),
        None => wish("users", "", name),
    };
    for wish in groups.iter().map(|g| wish("groups", "", g)).chain([whom]) {
        if wish.granted(&server.store, user).is_none() {
            let why = format!(
                "{} \"{}\" is forbidden: User \"{}\" cannot impersonate resource \"{}\" in API group \"\"",
                wish.resource, wish.name, user.name, wish.resource
            );
            return Err(ApiError::new(Reason::Forbidden, why));
        }
    }
    Ok(())
}

/// Whether a user may ask for a path at all.
pub(crate) fn authorize(user: &User, method: &Method, path: &str) -> Result<(), ApiError> {
    if user.is_known() {
        return Ok(());
    }
    let reads = method == Method::GET || method == Method::HEAD;
    if reads && is_public(path) {
        return Ok(());
    }
    Err(unauthorized(""))
}

/// Versions, health and discovery.
fn is_public(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    matches!(
        segments.as_slice(),
        ["healthz" | "livez" | "readyz" | "openapi", ..]
            | ["version"]
            | ["api"]
            | ["api", _]
            | ["apis"]
            | ["apis", _]
            | ["apis", _, _]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sees_discovery_alone() {
        let nobody = User::anonymous();
        for path in [
            "/version",
            "/healthz",
            "/livez/ping",
            "/api",
            "/api/v1",
            "/apis/apps/v1",
            "/openapi/v2",
        ] {
            assert!(authorize(&nobody, &Method::GET, path).is_ok(), "{path}");
        }
        for path in ["/", "/api/v1/pods", "/apis/apps/v1/deployments", "/metrics"] {
            assert!(authorize(&nobody, &Method::GET, path).is_err(), "{path}");
        }
        assert!(authorize(&nobody, &Method::POST, "/apis/apps/v1").is_err());
        assert!(authorize(&User::admin(), &Method::POST, "/apis/apps/v1").is_ok());
    }

    #[test]
    fn certificates_name_users() {
        use rustls::pki_types::pem::PemObject;
        let authority = crate::tls::Authority::open(&crate::tls::TlsOptions::default()).unwrap();
        let identity = authority
            .client("system:node:n1", Some("system:nodes"))
            .unwrap();
        let der = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
        let user = User::of_certificate(&der).unwrap();
        assert_eq!(user.name, "system:node:n1");
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
    }
}
