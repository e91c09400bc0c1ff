//! Kinds that are questions: may somebody do something, whose is a token, who am I. They are answered and forgotten.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::kind::Kind;
use super::super::server::{Authorization, Shared};
use super::{ADMINS, User, Wish, rbac};

/// Answers a question.
pub(crate) fn review(
    server: &Arc<Shared>,
    kind: &Kind,
    namespace: Option<&str>,
    user: &User,
    mut object: Value,
) -> Result<Value, ApiError> {
    let given = object["kind"].as_str().unwrap_or(&kind.kind);
    if given != kind.kind {
        let why = format!("kind in the data (\"{given}\") is not \"{}\"", kind.kind);
        return Err(ApiError::bad_request(why));
    }
    let status = match kind.kind.as_str() {
        "SelfSubjectAccessReview" => access(server, user, &object["spec"]),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            access(server, &named(&object["spec"]), &object["spec"])
        }
        "SelfSubjectRulesReview" if server.options.authorization == Authorization::Rbac => {
            let namespace = object["spec"]["namespace"].as_str().unwrap_or_default();
            rbac::rules_of(&server.store, user, namespace)
        }
        "SelfSubjectRulesReview" => rules_of_everybody(user),
        "SelfSubjectReview" => json!({ "userInfo": user.to_json() }),
        "TokenReview" => token(server, &object["spec"]),
        _ => return Err(ApiError::no_such_path()),
    };
    object["apiVersion"] = json!(kind.api_version());
    object["kind"] = json!(kind.kind);
    object["metadata"]["creationTimestamp"] = Value::Null;
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object["status"] = status;
    Ok(object)
}

/// The user that a review names.
fn named(spec: &Value) -> User {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let groups = spec["groups"].as_array().into_iter().flatten().map(text);
    let mut user = User {
        name: text(&spec["user"]),
        groups: groups.collect(),
        ..User::default()
    };
    // Whoever is asked about by name alone is somebody, unless it is the name of nobody.
    if !user.name.is_empty() && user.name != User::anonymous().name {
        user.groups.push(super::AUTHENTICATED.to_owned());
    }
    user
}

fn access(server: &Shared, user: &User, spec: &Value) -> Value {
    if user.groups.iter().any(|g| g == ADMINS) {
        return json!({ "allowed": true });
    }
    if server.options.authorization == Authorization::Rbac {
        return match Wish::of_review(spec).granted(&server.store, user) {
            Some(why) => json!({ "allowed": true, "reason": why }),
            None => json!({ "allowed": false }),
        };
    }
    match user.is_known() {
        true => {
            json!({ "allowed": true, "reason": "this server lets every known user do everything" })
        }
        false => {
            json!({ "allowed": false, "reason": "nobody in particular may see versions, health and discovery alone" })
        }
    }
}

/// Everything, for everybody who is known.
fn rules_of_everybody(user: &User) -> Value {
    if !user.is_known() {
        return json!({ "resourceRules": [], "incomplete": false, "nonResourceRules": [
            { "verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi/*", "/readyz", "/version"] }] });
    }
    json!({
        "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
        "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
        "incomplete": false,
    })
}

fn token(server: &Shared, spec: &Value) -> Value {
    let token = spec["token"].as_str().unwrap_or_default();
    match server.tokens.user_of(server, token) {
        Ok(user) => {
            json!({ "authenticated": true, "user": user.to_json(), "audiences": spec["audiences"] })
        }
        Err(why) => json!({ "authenticated": false, "error": why }),
    }
}
