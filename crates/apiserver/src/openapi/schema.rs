//! The schemas of kinds and of everything that they reach.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::kind::Kind;
use super::super::types::{self, OBJECT_META};

/// Where schemas refer to each other.
const PREFIX: &str = "#/components/schemas/";

/// Full name of a kind's schema: that of its type, or made from group, version and kind.
pub(super) fn name(kind: &Kind) -> String {
    if let Some(ty) = types::root(&kind.group, &kind.version, &kind.kind).filter(|_| kind.built_in)
    {
        return ty.name.clone();
    }
    let mut parts: Vec<&str> = kind
        .group
        .split('.')
        .filter(|p| !p.is_empty())
        .rev()
        .collect();
    parts.extend([kind.version.as_str(), kind.kind.as_str()]);
    parts.join(".")
}

/// Adds the schemas of kinds, and what they reach.
pub(super) fn collect<'a>(kinds: impl Iterator<Item = &'a Kind>) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut wanted: Vec<String> =
        vec!["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned()];
    for kind in kinds {
        let name = name(kind);
        if types::schemas().contains_key(&name) {
            wanted.push(name);
        } else {
            let schema = custom(kind);
            references(&schema, &mut wanted);
            found.insert(name, schema);
        }
    }
    while let Some(name) = wanted.pop() {
        if found.contains_key(&name) {
            continue;
        }
        if let Some(schema) = types::schemas().get(&name) {
            references(schema, &mut wanted);
            found.insert(name.clone(), described(&name, schema));
        }
    }
    found
}

/// Collects the names that a schema refers to.
fn references(schema: &Value, into: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            let name = map.get("$ref").and_then(Value::as_str);
            into.extend(name.and_then(|r| r.strip_prefix(PREFIX)).map(str::to_owned));
            map.values().for_each(|inner| references(inner, into));
        }
        Value::Array(list) => list.iter().for_each(|inner| references(inner, into)),
        _ => {}
    }
}

/// The schema of a custom kind: as its definition has it, with the fields of every object.
fn custom(kind: &Kind) -> Value {
    let mut schema = kind
        .open_api
        .as_deref()
        .cloned()
        .unwrap_or_else(|| json!({ "type": "object" }));
    if !schema.is_object() {
        schema = json!({ "type": "object" });
    }
    if !schema["properties"].is_object() {
        schema["properties"] = Value::Object(Map::new());
    }
    let text = |what: &str| json!({ "type": "string", "description": what });
    schema["properties"]["apiVersion"] = text(API_VERSION);
    schema["properties"]["kind"] = text(KIND);
    schema["properties"]["metadata"] =
        json!({ "allOf": [{ "$ref": format!("{PREFIX}{OBJECT_META}") }], "description": METADATA });
    schema["x-kubernetes-group-version-kind"] =
        json!([{ "group": kind.group, "version": kind.version, "kind": kind.kind }]);
    schema
}

const API_VERSION: &str = "Group and version of the form in which this object is written.";
const KIND: &str = "What kind of object this is.";
const METADATA: &str = "Name, namespace, labels and what else every object has.";

/// Adds what is known of a type and its fields in words.
fn described(name: &str, schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(text) = types::description(name, "") {
        schema["description"] = json!(text);
    }
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (field, property) in properties.into_iter().flatten() {
        let general = match field.as_str() {
            "apiVersion" => Some(API_VERSION),
            "kind" => Some(KIND),
            "metadata" => Some(METADATA),
            _ => None,
        };
        let Some(text) = types::description(name, field).or(general) else {
            continue;
        };
        // A reference may have no neighbours.
        if let Some(reference) = property.get("$ref") {
            *property = json!({ "allOf": [{ "$ref": reference }] });
        }
        property["description"] = json!(text);
    }
    schema
}
