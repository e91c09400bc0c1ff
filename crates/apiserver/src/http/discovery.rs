//! What the server tells about itself and its kinds.

use axum::body::Body;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::kind::{Kind, Registry, Subresource};
use super::path::Route;
use super::respond;

/// The Kubernetes version whose protocol is spoken.
const MINOR: &str = "33";
/// The whole version.
pub fn git_version() -> String {
    format!("v1.{MINOR}.0+hypha")
}

/// `/version`.
pub fn version() -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "major": "1",
        "minor": MINOR,
        "emulationMajor": "1",
        "emulationMinor": MINOR,
        "gitVersion": git_version(),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{architecture}", std::env::consts::OS),
    })
}

/// `api/v1` or `apis/group/version`.
pub fn api_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// `/`: every path that is no object's.
pub fn root(registry: &Registry) -> Value {
    let mut paths: Vec<String> = [
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    for (group, versions) in registry.groups() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
        }
        paths.extend(versions.iter().map(|v| format!("/{}", api_path(group, v))));
    }
    paths.sort();
    json!({ "paths": paths })
}

/// `/api`.
pub fn core_versions(registry: &Registry) -> Value {
    let versions = registry.groups().remove("").unwrap_or_default();
    json!({ "kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": [] })
}

/// `/apis`.
pub fn groups(registry: &Registry) -> Value {
    let groups: Vec<Value> = registry
        .groups()
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(g, v)| group_object(g, v))
        .collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/<group>`.
pub fn group(registry: &Registry, name: &str) -> Option<Value> {
    let versions = registry
        .groups()
        .remove(name)
        .filter(|_| !name.is_empty())?;
    let mut group = group_object(name, &versions);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

fn group_object(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|v| json!({ "groupVersion": format!("{group}/{v}"), "version": v }))
        .collect();
    json!({ "name": group, "versions": versions, "preferredVersion": versions[0] })
}

/// `/api/<version>` and `/apis/<group>/<version>`.
pub fn kinds(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<_> = registry
        .iter()
        .filter(|k| k.group == group && k.version == version)
        .collect();
    let first = kinds.first()?;
    let resources: Vec<Value> = kinds.iter().flat_map(|k| resources(k)).collect();
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version(),
        "resources": resources,
    }))
}

/// The subresources of a kind, in the order of their names.
fn subresources(kind: &Kind) -> Vec<Subresource> {
    let writable = |name: &str, group: &str, version: &str, body: &str| Subresource {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: body.to_owned(),
        verbs: ["get", "patch", "update"].map(str::to_owned).to_vec(),
    };
    let mut all = kind.subresources.clone();
    if kind.has_status {
        all.push(writable("status", &kind.group, &kind.version, &kind.kind));
    }
    if kind.scale.is_some() {
        all.push(writable("scale", "autoscaling", "v1", "Scale"));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn resources(kind: &Kind) -> Vec<Value> {
    let mut main = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": kind.verbs(),
    });
    if !kind.short_names.is_empty() {
        main["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        main["categories"] = json!(kind.categories);
    }
    let others = subresources(kind).into_iter().map(|sub| {
        let mut entry = json!({
            "name": format!("{}/{}", kind.plural, sub.name),
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": sub.kind,
            "verbs": sub.verbs,
        });
        if (&sub.group, &sub.version) != (&kind.group, &kind.version) {
            entry["group"] = json!(sub.group);
            entry["version"] = json!(sub.version);
        }
        entry
    });
    [main].into_iter().chain(others).collect()
}

/// Whether a client wants all kinds of all groups at once, and in which version of that form.
pub fn wants_all(accept: &str) -> Option<&'static str> {
    accept.split(',').find_map(|offer| {
        let has = |wanted: &str| offer.split(';').any(|part| part.trim() == wanted);
        let ours = has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList");
        match (ours, has("v=v2"), has("v=v2beta1")) {
            (true, true, _) => Some("v2"),
            (true, _, true) => Some("v2beta1"),
            _ => None,
        }
    })
}

/// `/api` or `/apis` with all kinds.
pub fn all(registry: &Registry, route: &Route, accept: &str) -> Response {
    let core = matches!(route, Route::CoreVersions);
    let version = wants_all(accept).unwrap_or("v2");
    let items: Vec<Value> = registry
        .groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| discovered(registry, group, &versions))
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let content_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    respond(200, content_type, Body::from(body.to_string()))
}

fn discovered(registry: &Registry, group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let kinds = registry
                .iter()
                .filter(|k| k.group == group && k.version == *version);
            let resources: Vec<Value> = kinds.map(|k| discovered_kind(k)).collect();
            json!({ "version": version, "resources": resources, "freshness": "Current" })
        })
        .collect();
    let mut metadata = json!({ "creationTimestamp": null });
    if !group.is_empty() {
        metadata["name"] = json!(group);
    }
    json!({ "metadata": metadata, "versions": versions })
}

fn discovered_kind(kind: &Kind) -> Value {
    let response = |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": response(&kind.group, &kind.version, &kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs(),
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    let others: Vec<Value> = subresources(kind)
        .iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": response(&sub.group, &sub.version, &sub.kind),
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !others.is_empty() {
        entry["subresources"] = json!(others);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_chosen_by_what_the_client_takes_first() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        assert_eq!(
            wants_all(&format!("{v2},{beta},application/json")),
            Some("v2")
        );
        assert_eq!(
            wants_all(&format!("{beta},application/json")),
            Some("v2beta1")
        );
        assert_eq!(wants_all("application/json, */*"), None);
    }
}
