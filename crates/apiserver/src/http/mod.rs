//! The REST side: from a request to the store and back. Semantics live in the store.

mod body;
mod discovery;
mod disruption;
mod openapi;
mod path;
mod query;
mod render;
mod resource;
mod review;
mod scale;
mod subresource;
mod watch;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;

pub(super) use render::{RowObject, metadata_only};

use super::error::{ApiError, Reason};
use super::server::Shared;
use path::Route;

/// Largest request body.
pub const MAX_BODY: usize = 3 << 20;

/// Answers any request.
pub(super) async fn handle(State(server): State<Arc<Shared>>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = match answer(&server, request).await {
        Ok(response) => response,
        Err(error) => json(error.code(), Bytes::from(error.to_status().to_string())),
    };
    tracing::debug!(%method, %uri, status = response.status().as_u16(), "API request");
    response
}

async fn answer(server: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let registry = server.store.registry();
    let route = path::parse(&registry, request.uri().path())?;
    let fixed = match &route {
        Route::Collection(kind, namespace) => {
            return resource::collection(server, kind, namespace.as_deref(), request).await;
        }
        Route::Object(kind, key, None) => {
            return resource::object(server, kind, key, request).await;
        }
        Route::Object(kind, key, Some(sub)) => {
            return subresource::answer(server, kind, key, sub, request).await;
        }
        Route::Health => {
            only_get(request.method())?;
            return Ok(text("ok"));
        }
        Route::Version => Some(discovery::version()),
        Route::CoreVersions => Some(discovery::core_versions(&registry)),
        Route::Groups => Some(discovery::groups(&registry)),
        Route::Group(group) => discovery::group(&registry, group).filter(|_| !group.is_empty()),
        Route::OpenApiIndex => Some(openapi::index(&registry)),
        Route::OpenApi(group, version) => openapi::document(&registry, group, version),
        Route::Kinds(group, version) => discovery::kinds(&registry, group, version),
    };
    only_get(request.method())?;
    let fixed = fixed.ok_or_else(ApiError::no_such_path)?;
    Ok(json(200, Bytes::from(fixed.to_string())))
}

fn only_get(method: &Method) -> Result<(), ApiError> {
    if is_get(method) {
        Ok(())
    } else {
        Err(not_allowed())
    }
}

fn is_get(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn not_allowed() -> ApiError {
    ApiError::new(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
}

fn text(body: &'static str) -> Response {
    respond(200, "text/plain; charset=utf-8", Body::from(body))
}

fn json(code: u16, body: Bytes) -> Response {
    respond(code, "application/json", Body::from(body))
}

fn value(code: u16, body: &Value) -> Response {
    json(code, Bytes::from(body.to_string()))
}

fn respond(code: u16, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
