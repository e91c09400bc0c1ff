//! The subresource `scale`: how many are wanted, in the same form for every kind.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::crd::{at_path, set_path};
use super::super::error::ApiError;
use super::super::kind::{Kind, Scale};
use super::super::object::{Key, meta_str};
use super::super::patch::Patch;
use super::super::selector::selector_text;
use super::super::server::Shared;
use super::super::store::Part;
use super::super::validate::FieldErrors;
use super::query::Query;
use super::resource::write_options;
use super::{body, is_get, not_allowed, value};

/// What becomes of a scale.
type Change = Box<dyn Fn(Value) -> Result<Value, ApiError> + Send>;

/// A request for the scale of an object.
pub async fn answer(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    key: &Key,
    request: Request,
) -> Result<Response, ApiError> {
    let Some(scale) = &kind.scale else {
        return Err(ApiError::no_such_path());
    };
    let query = Query::parse(request.uri().query())?;
    let method = request.method().clone();
    if is_get(&method) {
        return Ok(value(
            200,
            &shown(scale, server.store.get(kind, key)?.value()),
        ));
    }
    if method != Method::PUT && method != Method::PATCH {
        return Err(not_allowed());
    }
    let options = write_options(&query, request.headers())?;
    let content_type = body::content_type(request.headers());
    let text = body::read(request.into_body()).await?;
    let change: Change = if method == Method::PUT {
        let sent = body::parse(&content_type, &text)?.value;
        Box::new(move |_| Ok(sent.clone()))
    } else if content_type == "application/apply-patch+yaml" {
        let config = body::parse(&content_type, &text)?.value;
        let patch = Patch::Merge(json!({ "spec": config["spec"] }));
        let kind = Arc::clone(kind);
        Box::new(move |before| patch.clone().apply(&kind, before))
    } else {
        let of_scale = super::super::kinds::scale();
        let (patch, _) = Patch::parse(&of_scale, &content_type, &text)?;
        Box::new(move |before| patch.clone().apply(&of_scale, before))
    };
    let changed = |object: &Value| {
        let after = change(shown(scale, object))?;
        scaled(kind, scale, object, &after)
    };
    let stored = server
        .store
        .modify(kind, key, Part::Main, &options, changed)?;
    server.store.kept()?;
    Ok(value(200, &shown(scale, &stored)))
}

/// An object with the replicas of a changed scale.
fn scaled(kind: &Kind, scale: &Scale, object: &Value, after: &Value) -> Result<Value, ApiError> {
    let name = meta_str(object, "name");
    let sent = meta_str(after, "resourceVersion");
    if !sent.is_empty() && sent != meta_str(object, "resourceVersion") {
        return Err(ApiError::stale(kind, name));
    }
    let replicas = after["spec"].get("replicas").cloned().unwrap_or(json!(0));
    if !replicas
        .as_i64()
        .is_some_and(|n| (0..=i64::from(i32::MAX)).contains(&n))
    {
        let mut errors = FieldErrors::default();
        errors.invalid(
            "spec.replicas",
            &replicas,
            "must be greater than or equal to 0",
        );
        errors.into_result(kind, name)?;
    }
    let mut object = object.clone();
    set_path(&mut object, &scale.spec, replicas);
    Ok(object)
}

fn shown(scale: &Scale, object: &Value) -> Value {
    let number = |path: &str| at_path(object, path).as_i64().unwrap_or(0);
    let meta = &object["metadata"];
    let mut metadata = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if !meta[field].is_null() {
            metadata[field] = meta[field].clone();
        }
    }
    let mut status = json!({ "replicas": number(&scale.status) });
    if let Some(path) = &scale.selector {
        status["selector"] = json!(selector_text(at_path(object, path)));
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": { "replicas": number(&scale.spec) },
        "status": status,
    })
}
