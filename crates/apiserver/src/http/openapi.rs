//! The little of OpenAPI that `kubectl` needs: that patches can be validated by the server, for which kinds.
//!
//! There are no schemas: the server itself checks the fields (`fieldValidation=Strict`).

use serde_json::{Map, Value, json};

use super::super::kind::{Kind, Registry};

/// `/openapi/v3`: where the document of each group and version is.
pub fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = api_path(group, version);
            let document = json!({ "serverRelativeURL": format!("/openapi/v3/{path}") });
            paths.insert(path, document);
        }
    }
    json!({ "paths": paths })
}

/// `/openapi/v3/…`: the document of a group and version.
pub fn document(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<_> = registry
        .iter()
        .filter(|k| k.group == group && k.version == version)
        .collect();
    kinds.first()?;
    let paths: Map<String, Value> = kinds.iter().map(|kind| path_item(kind)).collect();
    Some(json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": super::discovery::git_version() },
        "paths": paths,
        "components": { "schemas": {} },
    }))
}

fn api_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn path_item(kind: &Kind) -> (String, Value) {
    let namespace = if kind.namespaced {
        "namespaces/{namespace}/"
    } else {
        ""
    };
    let path = format!(
        "/{}/{namespace}{}/{{name}}",
        api_path(&kind.group, &kind.version),
        kind.plural
    );
    let option =
        |name: &str| json!({ "name": name, "in": "query", "schema": { "type": "string" } });
    let patch = json!({
        "operationId": format!("patch{}", kind.kind),
        "parameters": [option("dryRun"), option("fieldManager"), option("fieldValidation")],
        "responses": {},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind":
            { "group": kind.group, "version": kind.version, "kind": kind.kind },
    });
    (path, json!({ "patch": patch }))
}
