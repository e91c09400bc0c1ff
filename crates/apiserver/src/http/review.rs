//! Reviews: questions that are answered and not kept. Everybody who got in may do everything.

use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::kind::Kind;
use super::{body, not_allowed, value};

/// Who asks, as the request's extensions tell it.
#[derive(Debug, Clone)]
pub struct User {
    /// Name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl Default for User {
    fn default() -> Self {
        Self {
            name: "system:admin".to_owned(),
            groups: vec![
                "system:masters".to_owned(),
                "system:authenticated".to_owned(),
            ],
        }
    }
}

/// Answers a review.
pub async fn answer(kind: &Kind, request: Request) -> Result<Response, ApiError> {
    if request.method() != Method::POST {
        return Err(not_allowed());
    }
    let user = request
        .extensions()
        .get::<User>()
        .cloned()
        .unwrap_or_default();
    let mut review = body::read_json(request).await?;
    if !review.is_object() {
        return Err(ApiError::bad_request(format!(
            "the body is not an object: expected a {}",
            kind.kind
        )));
    }
    review["apiVersion"] = json!(kind.api_version());
    review["kind"] = json!(kind.kind);
    review["status"] = status(kind, &user, &review);
    if review["metadata"].is_null() {
        review["metadata"] = json!({ "creationTimestamp": null });
    }
    Ok(value(201, &review))
}

fn status(kind: &Kind, user: &User, review: &Value) -> Value {
    let info = json!({ "username": user.name, "groups": user.groups });
    match kind.kind.as_str() {
        "SelfSubjectReview" => json!({ "userInfo": info }),
        "TokenReview" if review["spec"]["token"].as_str().is_none_or(str::is_empty) => {
            json!({ "authenticated": false, "user": {}, "error": "no token" })
        }
        "TokenReview" => json!({ "authenticated": true, "user": info }),
        "SelfSubjectRulesReview" => json!({
            "incomplete": false,
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
        }),
        _ => json!({ "allowed": true, "reason": "everybody who is let in may do everything" }),
    }
}
