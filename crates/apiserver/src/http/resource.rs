//! Verbs on collections and objects.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{HeaderName, HeaderValue, USER_AGENT};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use bytes::Bytes;

use super::super::auth::{self, User};
use super::super::error::{self, ApiError, Reason};
use super::super::kind::Kind;
use super::super::object::{Key, Object, meta_str};
use super::super::patch::Patch;
use super::super::server::Shared;
use super::super::store::{Deleted, List, Part, WriteOptions};
use super::query::Query;
use super::render::View;
use super::watch::{WatchBody, error_body};
use super::{body, is_get, json, not_allowed, respond, value};

const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json";

/// Verbs on the objects of a kind.
pub async fn collection(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri().query())?;
    let view = View::choose(request.headers(), &query);
    if !kind.stored {
        return review(server, kind, namespace, request).await;
    }
    let placed = namespace.is_some() || !kind.namespaced;
    match request.method() {
        method if is_get(method) && query.is_watch()? => {
            watch(server, kind, namespace, &query, view)
        }
        method if is_get(method) => list(server, kind, namespace, &query, view),
        &Method::POST if placed => {
            let mut options = write_options(&query, request.headers())?;
            options.warnings.add(kind.notice().into_iter().collect());
            let user = request.extensions().get::<User>().cloned();
            let mut object = kind.stored(body::read_object(request, &mut options).await?);
            if let Some(user) = user.filter(|_| kind.kind == "CertificateSigningRequest") {
                auth::sign_with(&user, &mut object);
            }
            let home = server.stored_kind(kind)?;
            let namespace = namespace.unwrap_or_default();
            let stored = server.store.create(&home, namespace, object, &options)?;
            server.store.kept()?;
            Ok(warned(
                json(201, view.object(kind, &stored)),
                kind,
                &options,
            ))
        }
        &Method::DELETE if placed => {
            let filter = query.filter(kind, namespace)?;
            let options = query.delete(&body::read_json(request).await?)?;
            let home = server.stored_kind(kind)?;
            let items = server.store.delete_collection(&home, &filter, &options)?;
            server.store.kept()?;
            let revision = server.store.revision();
            let list = List {
                items,
                revision,
                token: None,
                remaining: 0,
            };
            Ok(respond(200, JSON, view.list(kind, list, false)))
        }
        _ => Err(not_allowed()),
    }
}

/// How a request wants to write.
pub fn write_options(query: &Query, headers: &HeaderMap) -> Result<WriteOptions, ApiError> {
    let agent = headers
        .get(USER_AGENT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    query.write(agent)
}

/// Adds what the writer should know.
pub fn warned(mut response: Response, kind: &Kind, options: &WriteOptions) -> Response {
    for warning in kind
        .deprecation
        .iter()
        .cloned()
        .chain(options.warnings.list())
    {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let text: String = quoted.chars().filter(|c| !c.is_control()).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response
                .headers_mut()
                .append(HeaderName::from_static("warning"), value);
        }
    }
    response
}

/// Answers a question and forgets it.
async fn review(
    server: &Arc<Shared>,
    kind: &Kind,
    namespace: Option<&str>,
    request: Request,
) -> Result<Response, ApiError> {
    if request.method() != Method::POST {
        return Err(not_allowed());
    }
    let user = request.extensions().get::<User>().cloned();
    let object = body::read_json(request).await?;
    let user = user.unwrap_or_else(User::anonymous);
    let answer = auth::review(server, kind, namespace, &user, object)?;
    Ok(value(201, &answer))
}

fn list(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    query: &Query,
    view: View,
) -> Result<Response, ApiError> {
    let options = query.list(kind, namespace)?;
    let selected = query
        .get("labelSelector")
        .or(query.get("fieldSelector"))
        .is_some();
    let home = server.stored_kind(kind)?;
    let list = server.store.list(&home, &options)?;
    Ok(respond(200, JSON, view.list(kind, list, !selected)))
}

fn watch(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    query: &Query,
    view: View,
) -> Result<Response, ApiError> {
    let options = query.watch(kind, namespace)?;
    let stored = server.stored_kind(kind)?;
    // What is wrong with a revision is told inside the watch: clients expect it there.
    let current = server.store.revision();
    if let Some(asked) = options.not_older.filter(|asked| *asked > current) {
        let error = ApiError::future_revision(asked, current);
        return Ok(respond(200, JSON, error_body(&error)));
    }
    let body = match server.store.watch(&stored, options.filter, options.start) {
        Err(error) if error.reason() == Reason::Expired => error_body(&error),
        Err(error) => return Err(error),
        Ok((first, watch)) => {
            let watch = WatchBody {
                watch,
                kind: Arc::clone(kind),
                view,
                bookmarks: options.bookmarks,
                mark_initial: options.mark_initial,
                bookmark_interval: server.options.bookmark_interval,
                timeout: options.timeout,
                stopping: server.stopping.subscribe(),
            };
            watch.stream(first)
        }
    };
    Ok(respond(200, JSON, body))
}

/// Verbs on one object.
pub async fn object(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    key: &Key,
    request: Request,
) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri().query())?;
    let view = View::choose(request.headers(), &query);
    let home = server.stored_kind(kind)?;
    match request.method() {
        method if is_get(method) => {
            let stored = server.store.get(&home, key)?;
            Ok(json(200, view.object(kind, &stored)))
        }
        &Method::PUT | &Method::PATCH => {
            write(server, kind, key, Part::Main, &query, request).await
        }
        &Method::DELETE => {
            let options = query.delete(&body::read_json(request).await?)?;
            let deleted = server.store.delete(&home, key, &options)?;
            server.store.kept()?;
            Ok(json(200, show_deleted(kind, view, &deleted)))
        }
        _ => Err(not_allowed()),
    }
}

fn show_deleted(kind: &Kind, view: View, deleted: &Deleted) -> Bytes {
    match deleted {
        Deleted::Gone(last) if !kind.returns_deleted => Bytes::from(
            error::success(kind, meta_str(last, "name"), meta_str(last, "uid")).to_string(),
        ),
        other => view.object(kind, other.object()),
    }
}

/// PUT or PATCH of an object or its status.
pub async fn write(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    key: &Key,
    part: Part,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let mut options = write_options(query, request.headers())?;
    if part == Part::Main {
        options.warnings.add(kind.notice().into_iter().collect());
    }
    let view = View::choose(request.headers(), query);
    let (stored, made) = change(server, kind, key, part, query, request, &mut options).await?;
    server.store.kept()?;
    let code = if made { 201 } else { 200 };
    Ok(warned(
        json(code, view.object(kind, &stored)),
        kind,
        &options,
    ))
}

async fn change(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    key: &Key,
    part: Part,
    query: &Query,
    request: Request,
    options: &mut WriteOptions,
) -> Result<(Arc<Object>, bool), ApiError> {
    let home = server.stored_kind(kind)?;
    let store = &server.store;
    if request.method() == Method::PUT {
        let object = kind.stored(body::read_object(request, options).await?);
        return Ok((store.update(&home, key, object, part, options)?, false));
    }
    let content_type = body::content_type(request.headers());
    let body = body::read(request.into_body()).await?;
    if content_type == APPLY {
        if query.get("fieldManager").is_none() {
            return Err(ApiError::bad_request(
                "fieldManager is required for apply patch",
            ));
        }
        let config = body::parse(APPLY, &body)?;
        options.repeated = config.repeated;
        let config = kind.stored(config.value);
        return store.apply(&home, key, &config, part, options);
    }
    let read = || Patch::parse(kind, &content_type, &body);
    let (patch, repeated) = read()?;
    options.repeated = repeated;
    // What a patch says moves into the object; it is read again only where another writer was quicker.
    let mut first = Some(patch);
    let patched = |current: &serde_json::Value| {
        let patch = match first.take() {
            Some(patch) => patch,
            None => read()?.0,
        };
        let object = patch.apply(kind, kind.shown(current).into_owned())?;
        Ok(kind.stored(object))
    };
    Ok((store.modify(&home, key, part, options, patched)?, false))
}

/// The status of an object, which is read and written apart from the rest.
pub async fn status(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    key: &Key,
    request: Request,
) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri().query())?;
    match request.method() {
        method if is_get(method) => {
            let view = View::choose(request.headers(), &query);
            Ok(json(200, view.object(kind, &*server.store.get(kind, key)?)))
        }
        &Method::PUT | &Method::PATCH => {
            write(server, kind, key, Part::Status, &query, request).await
        }
        _ => Err(not_allowed()),
    }
}
