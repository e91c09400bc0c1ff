//! Version 2: one document for everything, in the poorer language that older clients know.

use serde_json::{Map, Value, json};

use super::super::http::git_version;
use super::super::kind::{Kind, Registry};
use super::{schema, v3};

/// Parts of a schema that are kept as they are.
const PLAIN: [&str; 4] = ["type", "format", "description", "required"];

/// The document.
pub(super) fn document(registry: &Registry) -> Value {
    let kinds = || registry.iter().map(AsRef::as_ref);
    let mut paths = Map::new();
    for kind in kinds().filter(|k| k.stored) {
        let [all, one] = v3::paths(kind);
        paths.insert(
            all,
            json!({ "get": operation(kind, "list"), "post": operation(kind, "create") }),
        );
        paths.insert(
            one,
            json!({ "get": operation(kind, "get"), "put": operation(kind, "update"), "patch": operation(kind, "patch") }),
        );
    }
    let definitions: Map<String, Value> = schema::collect(kinds())
        .into_iter()
        .map(|(name, schema)| (name, reduced(&schema)))
        .collect();
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": git_version() },
        "paths": paths,
        "definitions": definitions,
    })
}

fn operation(kind: &Kind, verb: &str) -> Value {
    let option =
        |name: &&str| json!({ "name": name, "in": "query", "type": "string", "uniqueItems": true });
    let options: Vec<Value> = v3::options(verb).iter().map(option).collect();
    let mut operation = json!({
        "operationId": format!("{verb}{}{}", kind.version, kind.kind),
        "responses": { "200": { "description": "OK" } },
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": { "group": kind.group, "version": kind.version, "kind": kind.kind },
    });
    if !options.is_empty() {
        operation["parameters"] = json!(options);
    }
    operation
}

/// What version 2 can say of a schema. What it cannot say is left open rather than said wrongly.
fn reduced(schema: &Value) -> Value {
    let Some(map) = schema.as_object() else {
        // `true` in place of a schema: anything.
        return json!({});
    };
    // A reference beside a description is wrapped.
    let wrapped = map
        .get("allOf")
        .and_then(|all| all.get(0))
        .and_then(|one| one.get("$ref"));
    if let Some(reference) = map.get("$ref").or(wrapped).and_then(Value::as_str) {
        let mut out =
            json!({ "$ref": reference.replace("#/components/schemas/", "#/definitions/") });
        for (key, value) in map
            .iter()
            .filter(|(key, _)| key.starts_with("x-") || *key == "description")
        {
            out[key] = value.clone();
        }
        return out;
    }
    let is = |key: &str| map.get(key) == Some(&Value::Bool(true));
    let open = is("nullable")
        || is("x-kubernetes-preserve-unknown-fields")
        || is("x-kubernetes-int-or-string");
    let mut out = Map::new();
    for (key, value) in map {
        match key.as_str() {
            "type" | "format" | "required" if open => {}
            key if PLAIN.contains(&key) || key.starts_with("x-kubernetes-") => {
                out.insert(key.to_owned(), value.clone());
            }
            "properties" if !open => {
                let reduced_all = value.as_object().into_iter().flatten();
                let properties = reduced_all
                    .map(|(name, s)| (name.clone(), reduced(s)))
                    .collect();
                out.insert(key.clone(), Value::Object(properties));
            }
            "items" | "additionalProperties" if !open => {
                out.insert(key.clone(), reduced(value));
            }
            _ => {}
        }
    }
    // Text or number is text to older clients, which take both then.
    if map.contains_key("oneOf") && !out.contains_key("type") && !open {
        out.insert("type".to_owned(), json!("string"));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_reduced_to_what_version_2_can_say() {
        let rich = json!({"type": "object", "properties": {
            "a": {"allOf": [{"$ref": "#/components/schemas/x.Y"}], "description": "d"},
            "b": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}]},
            "c": {"type": "array", "nullable": true, "items": {"type": "string"}},
            "d": {"type": "string", "enum": ["a"], "pattern": "x"},
            "e": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }});
        assert_eq!(
            reduced(&rich),
            json!({"type": "object", "properties": {
                "a": {"$ref": "#/definitions/x.Y", "description": "d"},
                "b": {"x-kubernetes-int-or-string": true},
                "c": {},
                "d": {"type": "string"},
                "e": {"x-kubernetes-preserve-unknown-fields": true},
            }})
        );
    }
}
