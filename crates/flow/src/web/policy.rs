//! Objects of the policies that flows name: each is read when somebody looks at it, and nothing is kept.
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;

use super::Refusal;

/// How long the API server may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Kinds of policies, and whether they are of a namespace.
const KINDS: [(&str, bool); 5] = [
    ("CiliumNetworkPolicy", true),
    ("CiliumClusterwideNetworkPolicy", false),
    ("NetworkPolicy", true),
    ("AdminNetworkPolicy", false),
    ("BaselineAdminNetworkPolicy", false),
];

/// A policy, as flows name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Its kind, one of the five that there are.
    pub kind: String,
    /// Its namespace, if the kind has one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// An object, or none where there is none, or why nobody can say, in one line.
pub type Found<'a> = Pin<Box<dyn Future<Output = Result<Option<Value>, String>> + Send + 'a>>;

/// Where the objects of policies are.
pub trait Policies: Send + Sync + 'static {
    /// The object of a policy, as it is now.
    fn object<'a>(&'a self, policy: &'a Named) -> Found<'a>;
}

/// What a query asks for, as YAML.
pub(super) async fn yaml(
    policies: Option<&Arc<dyn Policies>>,
    query: &str,
) -> Result<String, Refusal> {
    let Some(policies) = policies else {
        let text = "this relay reads no objects of policies; accepted with hubble.ui.policies.enabled=true";
        return Err((StatusCode::NOT_IMPLEMENTED, text.to_owned()));
    };
    let policy = named(query).map_err(|text| (StatusCode::BAD_REQUEST, text))?;
    let found = tokio::time::timeout(LIMIT, policies.object(&policy)).await;
    let found = found.unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
    let object = found.map_err(|text| (StatusCode::BAD_GATEWAY, format!("API server: {text}")))?;
    let object = object.ok_or_else(|| {
        let text = "there is no such policy any more, or it comes from a file of a node";
        (StatusCode::NOT_FOUND, text.to_owned())
    })?;
    serde_saphyr::to_string(&object)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// The policy that a query names. What cannot be a name is not asked for: it would be a part of a path.
fn named(query: &str) -> Result<Named, String> {
    let mut policy = Named::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "kind" => policy.kind = value.into_owned(),
            "namespace" => policy.namespace = Some(value.into_owned()).filter(|it| !it.is_empty()),
            "name" => policy.name = value.into_owned(),
            _ => {
                return Err(format!(
                    "{name}={value}: there is no such parameter; accepted: kind, namespace, name"
                ));
            }
        }
    }
    let kind = KINDS.iter().find(|(kind, _)| *kind == policy.kind);
    let Some((kind, within)) = kind else {
        let kinds = KINDS.map(|(kind, _)| kind).join(", ");
        return Err(format!("kind={}: accepted: {kinds}", policy.kind));
    };
    let namespace = policy.namespace.as_deref();
    if namespace.is_some() != *within {
        let wanted = if *within { "a" } else { "no" };
        return Err(format!("namespace: a {kind} has {wanted} namespace"));
    }
    if let Some(namespace) = namespace.filter(|text| !is_label(text)) {
        return Err(format!("namespace={namespace}: this is no namespace"));
    }
    if policy.name.len() > 253 || !policy.name.split('.').all(is_label) {
        return Err(format!("name={}: this is no name", policy.name));
    }
    Ok(policy)
}

/// Small letters, digits and `-` between them, as DNS has it.
fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.iter().all(|byte| byte.is_some_and(inside))
        && text.len() <= 253
        && text.bytes().all(|byte| inside(byte) || byte == b'-')
}
