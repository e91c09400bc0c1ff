//! What a request path leads to.

use std::sync::Arc;

use super::super::error::{ApiError, Reason};
use super::super::kind::{Kind, Registry};
use super::super::object::Key;

/// Where a path leads.
#[derive(Debug, Clone)]
pub enum Route {
    /// Where everything is.
    Root,
    /// Health and readiness, or one check of it.
    Health(String),
    /// The server's version.
    Version,
    /// Versions of the core group.
    CoreVersions,
    /// All other groups.
    Groups,
    /// One group.
    Group(String),
    /// The kinds of a group and version.
    Kinds(String, String),
    /// The whole OpenAPI document of version 2.
    OpenApi2,
    /// Where the OpenAPI documents are.
    OpenApiIndex,
    /// The OpenAPI document of a group and version.
    OpenApi(String, String),
    /// The objects of a kind, of one namespace or all.
    Collection(Arc<Kind>, Option<String>),
    /// An object, or a subresource of it.
    Object(Arc<Kind>, Key, Option<String>),
    /// What a node's kubelet serves: node and path.
    NodeProxy(String, String),
}

/// Finds out where a path leads.
pub fn parse(registry: &Registry, path: &str) -> Result<Route, ApiError> {
    let segments: Option<Vec<String>> = path
        .split('/')
        .filter(|s| !s.is_empty())
        .map(|s| percent_decode(s, false))
        .collect();
    let segments = segments
        .ok_or_else(|| ApiError::bad_request("the path is not valid percent-encoded UTF-8"))?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let route = match segments.as_slice() {
        [] => Some(Route::Root),
        ["healthz" | "livez" | "readyz"] => Some(Route::Health(String::new())),
        ["healthz" | "livez" | "readyz", check] => Some(Route::Health((*check).to_owned())),
        ["openapi", "v2"] => Some(Route::OpenApi2),
        ["api", "v1", "nodes", name, "proxy", rest @ ..] => {
            Some(Route::NodeProxy((*name).to_owned(), rest.join("/")))
        }
        ["version"] => Some(Route::Version),
        ["openapi", "v3"] => Some(Route::OpenApiIndex),
        ["openapi", "v3", "api", version] => {
            Some(Route::OpenApi(String::new(), (*version).to_owned()))
        }
        ["openapi", "v3", "apis", group, version] => {
            Some(Route::OpenApi((*group).to_owned(), (*version).to_owned()))
        }
        ["api"] => Some(Route::CoreVersions),
        ["apis"] => Some(Route::Groups),
        ["apis", group] => Some(Route::Group((*group).to_owned())),
        ["api", version] => Some(Route::Kinds(String::new(), (*version).to_owned())),
        ["apis", group, version] => Some(Route::Kinds((*group).to_owned(), (*version).to_owned())),
        ["api", version, rest @ ..] => resource(registry, "", version, rest),
        ["apis", group, version, rest @ ..] => resource(registry, group, version, rest),
        _ => None,
    };
    route.ok_or_else(|| match segments.as_slice() {
        ["apis", group, _, rest @ ..] => no_such_version(registry, group, rest),
        _ => ApiError::no_such_path(),
    })
}

/// Nothing there; if only the version is another one, the answer says which.
fn no_such_version(registry: &Registry, group: &str, rest: &[&str]) -> ApiError {
    let plural = match rest {
        ["namespaces", _, plural, ..] | [plural, ..] => *plural,
        [] => return ApiError::no_such_path(),
    };
    let mut others = registry
        .iter()
        .filter(|kind| kind.group == group && kind.plural == plural);
    match others.next() {
        Some(kind) => ApiError::new(
            Reason::NotFound,
            format!(
                "the server could not find the requested resource: {plural} are in {} here",
                kind.api_version()
            ),
        ),
        None => ApiError::no_such_path(),
    }
}

fn resource(registry: &Registry, group: &str, version: &str, rest: &[&str]) -> Option<Route> {
    let find = |plural: &str, namespaced: bool| {
        registry
            .get(group, version, plural)
            .filter(|kind| kind.namespaced == namespaced)
    };
    let own = |text: &str| Some(text.to_owned());
    match rest {
        // Subresources of a namespace come before kinds in it; no kind may take these names.
        ["namespaces", name, sub @ ("status" | "finalize")] => Some(Route::Object(
            find("namespaces", false)?,
            Key::cluster(*name),
            own(sub),
        )),
        ["namespaces", namespace, plural] => {
            Some(Route::Collection(find(plural, true)?, own(namespace)))
        }
        ["namespaces", namespace, plural, name] => Some(Route::Object(
            find(plural, true)?,
            Key::namespaced(*namespace, *name),
            None,
        )),
        ["namespaces", namespace, plural, name, sub] => Some(Route::Object(
            find(plural, true)?,
            Key::namespaced(*namespace, *name),
            own(sub),
        )),
        [plural] => Some(Route::Collection(
            registry.get(group, version, plural)?,
            None,
        )),
        [plural, name] => Some(Route::Object(
            find(plural, false)?,
            Key::cluster(*name),
            None,
        )),
        [plural, name, sub] => Some(Route::Object(
            find(plural, false)?,
            Key::cluster(*name),
            own(sub),
        )),
        _ => None,
    }
}

/// Decodes percent-encoding (and in forms `+` for a space); `None` if it is broken or no UTF-8.
pub fn percent_decode(text: &str, form: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if form => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::super::super::kinds;
    use super::*;
    use proptest::prelude::*;

    fn show(path: &str) -> String {
        match parse(&kinds::builtin(), path) {
            Ok(Route::Collection(kind, namespace)) => format!("{} in {namespace:?}", kind.plural),
            Ok(Route::Object(kind, key, sub)) => {
                format!("{} {}/{} {sub:?}", kind.plural, key.namespace, key.name)
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => error.code().to_string(),
        }
    }

    #[test]
    fn paths() {
        for (path, expected) in [
            ("/api", "CoreVersions"),
            ("/readyz/ping", "Health(\"ping\")"),
            ("/healthz", "Health(\"\")"),
            ("/openapi/v2", "OpenApi2"),
            (
                "/api/v1/nodes/n/proxy/metrics/x",
                "NodeProxy(\"n\", \"metrics/x\")",
            ),
            ("/api/v1/pods", "pods in None"),
            ("/api/v1/namespaces/d/pods", "pods in Some(\"d\")"),
            ("/api/v1/namespaces/d/pods/p", "pods d/p None"),
            (
                "/api/v1/namespaces/d/pods/p/status",
                "pods d/p Some(\"status\")",
            ),
            ("/api/v1/namespaces/d", "namespaces /d None"),
            (
                "/api/v1/namespaces/d/status",
                "namespaces /d Some(\"status\")",
            ),
            ("/api/v1/namespaces", "namespaces in None"),
            ("/api/v1/nodes/n%31", "nodes /n1 None"),
            (
                "/apis/coordination.k8s.io/v1/namespaces/d/leases/l",
                "leases d/l None",
            ),
            ("/api/v1/pods/p", "404"),
            ("/api/v1/namespaces/d/nodes", "404"),
            ("/api/v2/pods", "404"),
            ("/api/v1/namespaces/d/pods/p/a/b", "404"),
            ("/nothing", "404"),
            ("/", "Root"),
            ("/api/v1/nodes/%zz", "400"),
            ("/api/v1/nodes/%ff", "400"),
        ] {
            assert_eq!(show(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_fine(path in "(/(api|apis|v1|namespaces|pods|%|%2|%2f|\\PC{0,4})){0,8}") {
            let _ = parse(&kinds::builtin(), &path);
        }
    }
}
