//! Tokens of service accounts: signed by the server, bound to an account and perhaps to a pod, valid for a time.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde_json::{Value, json};

use super::super::error::{ApiError, Reason};
use super::super::http::{body, not_allowed, value};
use super::super::object::{Key, meta_str, new_uid};
use super::super::server::Shared;
use super::{ACCOUNT, AUTHENTICATED, User, account_groups};

/// Who gives out tokens, and whom they are for.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How long a token is valid if nobody says.
const DEFAULT_SECONDS: i64 = 3600;
/// The shortest and the longest time.
const LIMITS: std::ops::RangeInclusive<i64> = 600..=(1 << 32);

/// Signs tokens and checks them.
pub(crate) struct Tokens {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Tokens {
    /// With a private key of the curve P-256 as PKCS 8.
    pub(crate) fn new(pkcs8: &[u8]) -> Option<Self> {
        let random = SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random).ok()?;
        Some(Self { pair, random })
    }

    fn sign(&self, claims: &Value) -> Option<String> {
        let head = json!({ "alg": "ES256", "typ": "JWT" });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(claims));
        let signature = self.pair.sign(&self.random, signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this server signed.
    fn verify(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key());
        key.verify(signed.as_bytes(), &signature).ok()?;
        let (_, claims) = signed.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// Whose a token is, or why it is nobody's.
    pub(crate) fn user_of(&self, server: &Shared, token: &str) -> Result<User, String> {
        let claims = self
            .verify(token)
            .ok_or("the token is not one of this server")?;
        if claims["exp"].as_i64().unwrap_or(0) <= Timestamp::now().as_second() {
            return Err("the token has expired".to_owned());
        }
        let about = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, account) = (text(&about["namespace"]), &about["serviceaccount"]);
        let name = text(&account["name"]);
        still_there(server, "serviceaccounts", &namespace, account)?;
        let mut extra = vec![(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("JTI={}", text(&claims["jti"]))],
        )];
        let pod = &about["pod"];
        if pod.is_object() {
            still_there(server, "pods", &namespace, pod)?;
            for field in ["name", "uid"] {
                extra.push((
                    format!("authentication.kubernetes.io/pod-{field}"),
                    vec![text(&pod[field])],
                ));
            }
        }
        let mut groups = account_groups(&namespace);
        groups.push(AUTHENTICATED.to_owned());
        Ok(User {
            name: format!("{ACCOUNT}{namespace}:{name}"),
            uid: text(&account["uid"]),
            groups,
            extra,
        })
    }
}

/// Whether what a token is bound to is still the same object.
fn still_there(server: &Shared, table: &str, namespace: &str, bound: &Value) -> Result<(), String> {
    let name = bound["name"].as_str().unwrap_or_default();
    let found = server
        .store
        .kind(table)
        .and_then(|kind| server.store.get(&kind, &Key::namespaced(namespace, name)));
    match found {
        Ok(object) if bound["uid"] == object["metadata"]["uid"] => Ok(()),
        _ => Err(format!(
            "what the token is bound to ({table} {namespace}/{name}) is gone"
        )),
    }
}

/// `TokenRequest`: a new token for a service account.
pub(crate) async fn token(
    server: &Arc<Shared>,
    key: &Key,
    request: Request,
) -> Result<Response, ApiError> {
    if request.method() != Method::POST {
        return Err(not_allowed());
    }
    let mut object = body::read_json(request).await?;
    let kind = server.store.kind("serviceaccounts")?;
    let account = server.store.get(&kind, key)?;
    let spec = &object["spec"];
    let seconds = spec["expirationSeconds"]
        .as_i64()
        .unwrap_or(DEFAULT_SECONDS);
    if !LIMITS.contains(&seconds) {
        let why = format!(
            "spec.expirationSeconds: {seconds} is not between {} and {}",
            LIMITS.start(),
            LIMITS.end()
        );
        return Err(ApiError::bad_request(why));
    }
    let audiences = match &spec["audiences"] {
        Value::Array(list) if !list.is_empty() => json!(list),
        _ => json!([ISSUER]),
    };
    let now = Timestamp::now().as_second();
    let uid = meta_str(&account, "uid");
    let mut about =
        json!({ "namespace": key.namespace, "serviceaccount": { "name": key.name, "uid": uid } });
    if let Some(pod) = bound_pod(server, &key.namespace, &spec["boundObjectRef"])? {
        about["pod"] = pod;
    }
    let claims = json!({
        "iss": ISSUER, "aud": audiences, "iat": now, "nbf": now, "exp": now + seconds, "jti": new_uid(),
        "sub": format!("system:serviceaccount:{}:{}", key.namespace, key.name), "kubernetes.io": about,
    });
    let token = server.tokens.sign(&claims);
    let token =
        token.ok_or_else(|| ApiError::new(Reason::InternalError, "the token cannot be signed"))?;
    let expires = Timestamp::from_second(now + seconds)
        .map(crate::object::format_time)
        .unwrap_or_default();
    object["apiVersion"] = json!("authentication.k8s.io/v1");
    object["kind"] = json!("TokenRequest");
    object["metadata"]["name"] = json!(key.name);
    object["metadata"]["namespace"] = json!(key.namespace);
    object["metadata"]["creationTimestamp"] = json!(crate::object::now());
    object["spec"]["audiences"] = audiences;
    object["spec"]["expirationSeconds"] = json!(seconds);
    object["status"] = json!({ "token": token, "expirationTimestamp": expires });
    Ok(value(201, &object))
}

/// The pod that a token shall end with.
fn bound_pod(server: &Shared, namespace: &str, wanted: &Value) -> Result<Option<Value>, ApiError> {
    if wanted.is_null() {
        return Ok(None);
    }
    if wanted["kind"] != "Pod" {
        return Err(ApiError::bad_request(format!(
            "spec.boundObjectRef.kind: {} is not supported; tokens can be bound to a Pod",
            wanted["kind"]
        )));
    }
    let name = wanted["name"].as_str().unwrap_or_default();
    let kind = server.store.kind("pods")?;
    let pod = server.store.get(&kind, &Key::namespaced(namespace, name))?;
    let (uid, given) = (
        meta_str(&pod, "uid"),
        wanted["uid"].as_str().unwrap_or_default(),
    );
    if !given.is_empty() && given != uid {
        let why = format!(
            "the UID in the bound object reference ({given}) does not match the UID in record ({uid})"
        );
        return Err(ApiError::conflict(&kind, name, &why));
    }
    Ok(Some(json!({ "name": name, "uid": uid })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_tokens_hold() {
        let key = |authority: &crate::tls::Authority| Tokens::new(authority.token_key()).unwrap();
        let open = || crate::tls::Authority::open(&crate::tls::TlsOptions::default()).unwrap();
        let (ours, other) = (key(&open()), key(&open()));
        let token = ours.sign(&json!({"sub": "x"})).unwrap();
        assert_eq!(ours.verify(&token), Some(json!({"sub": "x"})));
        assert_eq!(other.verify(&token), None);
        for bad in ["", "a.b", "a.b.c", &token[1..], &format!("{token}A")] {
            assert_eq!(ours.verify(bad), None, "{bad}");
        }
    }
}
