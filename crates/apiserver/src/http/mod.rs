//! The REST side: from a request to the store and back. Semantics live in the store.

pub(super) mod body;
mod discovery;
mod disruption;
mod path;
mod query;
mod render;
mod resource;
mod rights;
mod scale;
mod subresource;
mod watch;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;

pub(super) use discovery::{api_path, git_version};
pub(super) use query::Query;
pub(super) use render::{RowObject, write_metadata_only, write_whole};

use super::auth::{self, Peer};
use super::error::{ApiError, Reason};
use super::kind::Kind;
use super::proxy;
use super::server::{Authorization, Shared};
use super::store::WriteOptions;
use path::Route;

/// Largest request body.
pub const MAX_BODY: usize = 3 << 20;

/// Answers any request.
pub(super) async fn handle(State(server): State<Arc<Shared>>, request: Request) -> Response {
    let began = Instant::now();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut who = String::new();
    let response = match answer(&server, request, &mut who).await {
        Ok(response) => response,
        Err(error) => json(error.code(), Bytes::from(error.to_status().to_string())),
    };
    let (status, took) = (response.status().as_u16(), began.elapsed());
    tracing::debug!(user = who, %method, %uri, status, ?took, "API request");
    response
}

async fn answer(
    server: &Arc<Shared>,
    mut request: Request,
    who: &mut String,
) -> Result<Response, ApiError> {
    let peer = request.extensions_mut().remove::<Peer>();
    let user = auth::authenticate(server, peer.as_ref(), request.headers())?;
    who.clone_from(&user.name);
    let registry = server.store.registry();
    let route = path::parse(&registry, request.uri().path());
    match server.options.authorization {
        Authorization::AlwaysAllow => {
            auth::authorize(&user, request.method(), request.uri().path())?;
        }
        Authorization::Rbac => rights::check(server, &user, &request, route.as_ref().ok())?,
    }
    request.extensions_mut().insert(user);
    let route = route?;
    let accept = accepted(request.headers());
    let fixed = match &route {
        Route::Collection(kind, namespace) => {
            let reads = is_get(request.method());
            let answer = resource::collection(server, kind, namespace.as_deref(), request).await;
            return answer.map(|answer| told(answer, kind, reads));
        }
        Route::Object(kind, key, None) => {
            let reads = is_get(request.method());
            let answer = resource::object(server, kind, key, request).await;
            return answer.map(|answer| told(answer, kind, reads));
        }
        Route::Object(kind, key, Some(sub)) => {
            return subresource::answer(server, kind, key, sub, request).await;
        }
        Route::NodeProxy(name, path) => return proxy::node(server, name, path, request).await,
        Route::Health(wanted) => {
            only_get(request.method())?;
            return Ok(health(request.uri(), wanted));
        }
        Route::OpenApi2 => {
            only_get(request.method())?;
            return Ok(server.documents.version_2(&registry, &accept));
        }
        Route::OpenApi(group, version) => {
            only_get(request.method())?;
            let document = server.documents.version_3(&registry, group, version);
            return document.ok_or_else(ApiError::no_such_path);
        }
        Route::CoreVersions | Route::Groups if discovery::wants_all(&accept).is_some() => {
            only_get(request.method())?;
            return Ok(discovery::all(&registry, &route, &accept));
        }
        Route::CoreVersions => Some(discovery::core_versions(&registry)),
        Route::Groups => Some(discovery::groups(&registry)),
        Route::Version => Some(discovery::version()),
        Route::Group(group) => discovery::group(&registry, group),
        Route::OpenApiIndex => Some(server.documents.index(&registry)),
        Route::Root => Some(discovery::root(&registry)),
        Route::Kinds(group, version) => discovery::kinds(&registry, group, version),
    };
    only_get(request.method())?;
    let fixed = fixed.ok_or_else(ApiError::no_such_path)?;
    Ok(value(200, &fixed))
}

/// What the client would like to get.
fn accepted(headers: &HeaderMap) -> String {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok());
    accept.unwrap_or_default().to_owned()
}

/// Tells readers that a version is on its way out; writers are told with what else there is to say.
fn told(answer: Response, kind: &Kind, reads: bool) -> Response {
    match reads {
        true => resource::warned(answer, kind, &WriteOptions::default()),
        false => answer,
    }
}

/// The checks of which health is made, by name.
const CHECKS: [&str; 2] = ["ping", "store"];

fn health(uri: &Uri, wanted: &str) -> Response {
    let options = uri.query().unwrap_or_default().split('&');
    let verbose = options
        .into_iter()
        .any(|o| o == "verbose" || o.starts_with("verbose="));
    if wanted.is_empty() && verbose {
        let checks: String = CHECKS
            .iter()
            .map(|check| format!("[+]{check} ok\n"))
            .collect();
        let name = uri.path().trim_matches('/');
        return text(200, format!("{checks}{name} check passed\n"));
    }
    match wanted.is_empty() || CHECKS.contains(&wanted) {
        true => text(200, "ok"),
        false => text(404, "404 page not found\n"),
    }
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

pub(super) fn not_allowed() -> ApiError {
    ApiError::new(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
}

fn text(code: u16, body: impl Into<Body>) -> Response {
    respond(code, "text/plain; charset=utf-8", body.into())
}

fn json(code: u16, body: Bytes) -> Response {
    respond(code, "application/json", Body::from(body))
}

pub(super) fn value(code: u16, body: &Value) -> Response {
    json(code, Bytes::from(body.to_string()))
}

pub(super) fn respond(code: u16, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    response
}
