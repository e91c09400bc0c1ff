//! Version 3: a document for each group and version.

use serde_json::{Map, Value, json};

use super::super::http::{api_path, git_version};
use super::super::kind::{Kind, Registry};
use super::schema;

/// The document of a group and version, if there are kinds in it.
pub(super) fn document(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> = registry
        .iter()
        .map(AsRef::as_ref)
        .filter(|k| k.group == group && k.version == version)
        .collect();
    kinds.first()?;
    let mut paths = Map::new();
    for kind in &kinds {
        for (path, item) in path_items(kind) {
            paths.insert(path, item);
        }
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": git_version() },
        "paths": paths,
        "components": { "schemas": schema::collect(kinds.into_iter()) },
    }))
}

/// The paths of a kind's objects: all in one place, and each by its name.
pub(super) fn paths(kind: &Kind) -> [String; 2] {
    let namespace = if kind.namespaced {
        "namespaces/{namespace}/"
    } else {
        ""
    };
    let all = format!(
        "/{}/{namespace}{}",
        api_path(&kind.group, &kind.version),
        kind.plural
    );
    let one = format!("{all}/{{name}}");
    [all, one]
}

fn path_items(kind: &Kind) -> Vec<(String, Value)> {
    let [all, one] = paths(kind);
    let mut items = if kind.stored {
        vec![
            (
                all,
                json!({ "get": operation(kind, "list"), "post": operation(kind, "create") }),
            ),
            (
                one,
                json!({
                    "get": operation(kind, "get"), "put": operation(kind, "update"),
                    "patch": operation(kind, "patch"), "delete": operation(kind, "delete"),
                }),
            ),
        ]
    } else {
        vec![(all, json!({ "post": operation(kind, "create") }))]
    };
    for (path, item) in &mut items {
        let mut given = Vec::new();
        for name in ["namespace", "name"] {
            if path.contains(&format!("{{{name}}}")) {
                given.push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
            }
        }
        if !given.is_empty() {
            item["parameters"] = json!(given);
        }
    }
    items
}

/// The options of a verb that clients look for.
pub(super) fn options(verb: &str) -> &'static [&'static str] {
    match verb {
        "create" | "update" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun"],
        _ => &[],
    }
}

fn operation(kind: &Kind, verb: &str) -> Value {
    let option = |name: &&str| {
        let ty = if *name == "force" {
            "boolean"
        } else {
            "string"
        };
        json!({ "name": name, "in": "query", "schema": { "type": ty } })
    };
    let reference = json!({ "$ref": format!("#/components/schemas/{}", schema::name(kind)) });
    let content = json!({ "application/json": { "schema": reference } });
    let mut operation = json!({
        "operationId": format!("{verb}{}{}", kind.version, kind.kind),
        "responses": { "200": { "description": "OK", "content": content } },
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": { "group": kind.group, "version": kind.version, "kind": kind.kind },
    });
    let options: Vec<Value> = options(verb).iter().map(option).collect();
    if !options.is_empty() {
        operation["parameters"] = json!(options);
    }
    if matches!(verb, "create" | "update") {
        operation["requestBody"] = json!({ "content": content });
    }
    operation
}
