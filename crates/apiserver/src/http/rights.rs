//! What a request wishes for, in the words of roles.

use axum::extract::Request;
use axum::http::Method;

use super::super::auth::{User, Wish};
use super::super::error::ApiError;
use super::super::server::Shared;
use super::path::Route;
use super::query::Query;

/// Refuses what no role allows. A path that leads nowhere has to be allowed, too, before that is told.
pub fn check(
    server: &Shared,
    user: &User,
    request: &Request,
    route: Option<&Route>,
) -> Result<(), ApiError> {
    let query = Query::parse(request.uri().query())?;
    let wish = wish(request.method(), request.uri().path(), route, &query);
    if wish.granted(&server.store, user).is_some() {
        return Ok(());
    }
    let nodes = server.store.kind("nodes").ok();
    let kind = match route {
        Some(Route::Collection(kind, _) | Route::Object(kind, ..)) => Some(kind),
        Some(Route::NodeProxy(..)) => nodes.as_ref(),
        _ => None,
    };
    Err(wish.refused(kind.map(AsRef::as_ref), user))
}

fn wish(method: &Method, path: &str, route: Option<&Route>, query: &Query) -> Wish {
    let verb = match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    match route {
        Some(Route::Collection(kind, namespace)) => Wish {
            verb: match verb {
                "get" if query.is_watch().unwrap_or(false) => "watch",
                "get" => "list",
                "delete" => "deletecollection",
                other => other,
            }
            .to_owned(),
            group: kind.group.clone(),
            resource: kind.plural.clone(),
            namespace: namespace.clone().unwrap_or_default(),
            // Whoever may see one object alone may list and watch it.
            name: match query.filter(kind, None) {
                Ok(filter) if verb == "get" => filter.fields.name().unwrap_or_default().to_owned(),
                _ => String::new(),
            },
            path: None,
        },
        Some(Route::Object(kind, key, sub)) => Wish {
            verb: verb.to_owned(),
            group: kind.group.clone(),
            resource: match sub {
                Some(sub) => format!("{}/{sub}", kind.plural),
                None => kind.plural.clone(),
            },
            // A namespace is in itself.
            namespace: if kind.is_namespace() {
                key.name.clone()
            } else {
                key.namespace.clone()
            },
            name: key.name.clone(),
            path: None,
        },
        Some(Route::NodeProxy(node, _)) => Wish {
            verb: verb.to_owned(),
            resource: "nodes/proxy".to_owned(),
            name: node.clone(),
            ..Wish::default()
        },
        _ => Wish {
            verb: match *method {
                Method::HEAD => "get".to_owned(),
                ref other => other.as_str().to_lowercase(),
            },
            path: Some(path.to_owned()),
            ..Wish::default()
        },
    }
}
