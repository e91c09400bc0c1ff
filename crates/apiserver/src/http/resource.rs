//! Verbs on collections and objects.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;

use super::super::error::{self, ApiError, Reason};
use super::super::kind::Kind;
use super::super::object::{Key, meta_str};
use super::super::patch::Patch;
use super::super::server::Shared;
use super::super::store::{Deleted, List, Part};
use super::query::Query;
use super::render::View;
use super::watch::{WatchBody, error_body};
use super::{body, is_get, json, not_allowed, respond, value};

/// Verbs on the objects of a kind.
pub async fn collection(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri().query())?;
    let view = View::choose(request.headers(), &query);
    let placed = namespace.is_some() || !kind.namespaced;
    match request.method() {
        method if is_get(method) && query.is_watch()? => {
            watch(server, kind, namespace, &query, view)
        }
        method if is_get(method) => list(server, kind, namespace, &query, view),
        &Method::POST if placed => {
            let options = query.write()?;
            let object = kind.stored(body::read_json(request).await?);
            let home = server.stored_kind(kind)?;
            let namespace = namespace.unwrap_or_default();
            let stored = server.store.create(&home, namespace, object, &options)?;
            Ok(json(201, view.object(kind, &stored)))
        }
        &Method::DELETE if placed => {
            let filter = query.filter(kind, namespace)?;
            let options = query.delete(&body::read_json(request).await?)?;
            let home = server.stored_kind(kind)?;
            let items = server.store.delete_collection(&home, &filter, &options)?;
            let revision = server.store.revision();
            let list = List {
                items,
                revision,
                token: None,
                remaining: 0,
            };
            Ok(json(200, view.list(kind, &list, false)))
        }
        _ => Err(not_allowed()),
    }
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
    Ok(json(200, view.list(kind, &list, !selected)))
}

fn watch(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    query: &Query,
    view: View,
) -> Result<Response, ApiError> {
    let options = query.watch(kind, namespace)?;
    // A revision that is gone is told inside the watch: clients expect it there.
    let stored = server.stored_kind(kind)?;
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
            watch.stream(&first)
        }
    };
    Ok(respond(200, "application/json", body))
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
            let stored = write(server, kind, key, Part::Main, &query, request).await?;
            Ok(json(200, view.object(kind, &stored)))
        }
        &Method::DELETE => {
            let options = query.delete(&body::read_json(request).await?)?;
            let deleted = server.store.delete(&home, key, &options)?;
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
) -> Result<Arc<Value>, ApiError> {
    let options = query.write()?;
    let stored = server.stored_kind(kind)?;
    if request.method() == Method::PUT {
        let object = body::read_json(request).await?;
        return server
            .store
            .update(&stored, key, kind.stored(object), part, &options);
    }
    let content_type = body::content_type(request.headers());
    let body = body::read(request.into_body()).await?;
    let patch = Patch::parse(kind, &content_type, &body)?;
    server
        .store
        .modify(&stored, key, part, &options, |current| {
            patch
                .apply(kind, &kind.shown(current))
                .map(|object| kind.stored(object))
        })
}

/// The status of an object, which is read and written apart from the rest.
pub async fn status(
    server: &Arc<Shared>,
    kind: &Arc<Kind>,
    key: &Key,
    request: Request,
) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri().query())?;
    let stored = match request.method() {
        method if is_get(method) => server.store.get(kind, key)?,
        &Method::PUT | &Method::PATCH => {
            write(server, kind, key, Part::Status, &query, request).await?
        }
        _ => return Err(not_allowed()),
    };
    Ok(value(200, &stored))
}
