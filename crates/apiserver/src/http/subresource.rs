//! Subresources: status, and those of pods and namespaces whose effect is the server's own.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::auth;
use super::super::error::{self, ApiError};
use super::super::kind::Kind;
use super::super::object::{Key, child_mut, is_deleting, meta_mut, meta_str, now};
use super::super::proxy;
use super::super::server::Shared;
use super::super::signing;
use super::super::store::Part;
use super::super::validate::check_dns_subdomain;
use super::query::Query;
use super::{body, disruption, json, not_allowed, resource, scale, value};

/// A request for a subresource.
pub async fn answer(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    key: &Key,
    sub: &str,
    request: Request,
) -> Result<Response, ApiError> {
    match sub {
        "status" if kind.has_status => resource::status(server, kind, key, request).await,
        // The verdict stands in the status, beside what the signer writes.
        "approval" if serves(kind, sub) => {
            let answer = resource::status(server, kind, key, request).await?;
            signing::sign_approved(server, key)?;
            Ok(answer)
        }
        "scale" if kind.scale.is_some() => scale::answer(server, kind, key, request).await,
        "ephemeralcontainers" if serves(kind, sub) => ephemeral(server, kind, key, request).await,
        "finalize" if kind.is_namespace() => finalize(server, kind, key, request).await,
        "binding" if serves(kind, sub) => bind(server, kind, key, request).await,
        "eviction" if serves(kind, sub) => evict(server, kind, key, request).await,
        "token" if serves(kind, sub) => auth::token(server, key, request).await,
        "log" | "exec" | "attach" | "portforward" if serves(kind, sub) => {
            proxy::pod(server, key, sub, request).await
        }
        _ => Err(ApiError::no_such_path()),
    }
}

fn serves(kind: &Kind, sub: &str) -> bool {
    kind.subresources.iter().any(|s| s.name == sub)
}

/// Containers for debugging, which only ever come.
async fn ephemeral(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    key: &Key,
    request: Request,
) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri().query())?;
    match request.method() {
        &Method::GET => Ok(json(200, server.store.get(kind, key)?.json())),
        &Method::PUT | &Method::PATCH => {
            resource::write(server, kind, key, Part::Main, &query, request).await
        }
        _ => Err(not_allowed()),
    }
}

async fn post(request: Request, expected: &str) -> Result<(Query, Value), ApiError> {
    if request.method() != Method::POST {
        return Err(not_allowed());
    }
    let query = Query::parse(request.uri().query())?;
    let body = body::read_json(request).await?;
    let kind = body["kind"].as_str().unwrap_or(expected);
    if kind != expected {
        return Err(ApiError::bad_request(format!(
            "kind in the data (\"{kind}\") is not \"{expected}\""
        )));
    }
    Ok((query, body))
}

/// Gives a pod to a node, once.
async fn bind(
    server: &Arc<Shared>,
    kind: &Kind,
    key: &Key,
    request: Request,
) -> Result<Response, ApiError> {
    let (query, body) = post(request, "Binding").await?;
    let node = body["target"]["name"].as_str().unwrap_or_default();
    check_dns_subdomain(node)
        .map_err(|why| ApiError::bad_request(format!("target.name: \"{node}\": {why}")))?;
    let dry_run = query.write("")?.dry_run;
    let bound = server.store.modify_unchecked(kind, key, dry_run, |pod| {
        let uid = meta_str(&body, "uid");
        if !uid.is_empty() && uid != meta_str(pod, "uid") {
            return Err(ApiError::conflict(
                kind,
                &key.name,
                "the uid of the binding is not that of the pod",
            ));
        }
        if is_deleting(pod) {
            let why = format!(
                "pod {} is being deleted, cannot be assigned to a host",
                key.name
            );
            return Err(ApiError::conflict(kind, &key.name, &why));
        }
        match pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
            Some(taken) => {
                let why = format!("pod {} is already assigned to node \"{taken}\"", key.name);
                Err(ApiError::conflict(kind, &key.name, &why))
            }
            None => Ok(bound_to(pod, node)),
        }
    })?;
    server.store.kept()?;
    let mut status = error::success(kind, &key.name, meta_str(&bound, "uid"));
    status["code"] = json!(201);
    Ok(value(201, &status))
}

fn bound_to(pod: &Value, node: &str) -> Value {
    let mut pod = pod.clone();
    child_mut(&mut pod, "spec").insert("nodeName".to_owned(), json!(node));
    let scheduled = json!({ "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now() });
    let conditions = child_mut(&mut pod, "status")
        .entry("conditions")
        .or_insert_with(|| json!([]));
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|c| c["type"] != "PodScheduled");
        list.push(scheduled);
    }
    pod
}

/// Deletes a pod the way a drain asks for it, unless a disruption budget refuses.
async fn evict(
    server: &Arc<Shared>,
    kind: &Kind,
    key: &Key,
    request: Request,
) -> Result<Response, ApiError> {
    let (query, body) = post(request, "Eviction").await?;
    let options = query.delete(&body["deleteOptions"])?;
    disruption::check(&server.store, kind, key)?;
    server.store.delete(kind, key, &options)?;
    server.store.kept()?;
    Ok(value(
        201,
        &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 }),
    ))
}

/// Lets a namespace go by writing its `spec.finalizers`, which nothing else may change.
async fn finalize(
    server: &Arc<Shared>,
    kind: &Kind,
    key: &Key,
    request: Request,
) -> Result<Response, ApiError> {
    if request.method() != Method::PUT {
        return Err(not_allowed());
    }
    let query = Query::parse(request.uri().query())?;
    let body = body::read_json(request).await?;
    let stored =
        server
            .store
            .modify_unchecked(kind, key, query.write("")?.dry_run, |namespace| {
                let given = meta_str(&body, "resourceVersion");
                if !given.is_empty() && given != meta_str(namespace, "resourceVersion") {
                    return Err(ApiError::stale(kind, &key.name));
                }
                let mut namespace = namespace.clone();
                let finalizers = body["spec"]["finalizers"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                child_mut(&mut namespace, "spec")
                    .insert("finalizers".to_owned(), Value::Array(finalizers));
                meta_mut(&mut namespace);
                Ok(namespace)
            })?;
    server.store.kept()?;
    Ok(json(200, stored.json()))
}
