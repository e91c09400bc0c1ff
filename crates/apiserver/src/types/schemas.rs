//! The types as JSON schemas.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::{Field, ListKind, Ty, Type, all};

const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let structs = all().map(|ty| (ty.name.clone(), object(ty)));
    structs.chain(leaves()).collect()
});

/// Every type as a JSON schema, by full name. References read `#/components/schemas/NAME`.
pub fn schemas() -> &'static BTreeMap<String, Value> {
    &SCHEMAS
}

/// The types that are named but no structs.
fn leaves() -> impl Iterator<Item = (String, Value)> {
    [
        (TIME, json!({ "type": "string", "format": "date-time" })),
        (MICRO_TIME, json!({ "type": "string", "format": "date-time" })),
        (QUANTITY, json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] })),
        (
            INT_OR_STRING,
            json!({ "format": "int-or-string", "oneOf": [{ "type": "integer" }, { "type": "string" }] }),
        ),
    ]
    .into_iter()
    .map(|(name, schema)| (name.to_owned(), schema))
}

fn object(ty: &Type) -> Value {
    let properties: Map<String, Value> = ty
        .fields
        .values()
        .map(|f| (f.name.clone(), property(f)))
        .collect();
    let required: Vec<&str> = ty
        .fields
        .values()
        .filter(|f| f.required)
        .map(|f| f.name.as_str())
        .collect();
    let mut schema = json!({ "type": "object" });
    if !properties.is_empty() {
        schema["properties"] = Value::Object(properties);
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if ty.atomic {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    if let Some(kind) = &ty.kind {
        schema["x-kubernetes-group-version-kind"] = kinds(ty, kind);
    }
    schema
}

/// Options of deletions are sent under the name of any group; that of the core group stands for all.
fn kinds(ty: &Type, kind: &str) -> Value {
    let group = if ty.group == "meta.k8s.io" {
        ""
    } else {
        &ty.group
    };
    json!([{ "group": group, "version": ty.version, "kind": kind }])
}

fn property(field: &Field) -> Value {
    let mut schema = value(&field.ty);
    match (&field.list, &field.ty) {
        (ListKind::Unsaid, _) => {}
        (ListKind::Atomic, Ty::List(_)) => schema["x-kubernetes-list-type"] = json!("atomic"),
        (ListKind::Atomic, _) => schema["x-kubernetes-map-type"] = json!("atomic"),
        (ListKind::Set, _) => schema["x-kubernetes-list-type"] = json!("set"),
        (ListKind::Map(keys), _) => {
            schema["x-kubernetes-list-type"] = json!("map");
            schema["x-kubernetes-list-map-keys"] = json!(keys);
        }
    }
    let mut strategy = Vec::new();
    if let Some(key) = &field.merge {
        strategy.push("merge");
        if !key.is_empty() {
            schema["x-kubernetes-patch-merge-key"] = json!(key);
        }
    }
    if field.replace {
        strategy.push("replace");
    }
    if field.retain_keys {
        strategy.push("retainKeys");
    }
    if !strategy.is_empty() {
        schema["x-kubernetes-patch-strategy"] = json!(strategy.join(","));
    }
    schema
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn value(ty: &Ty) -> Value {
    match ty {
        Ty::Str | Ty::Duration => json!({ "type": "string" }),
        Ty::Bytes => json!({ "type": "string", "format": "byte" }),
        Ty::Bool => json!({ "type": "boolean" }),
        Ty::Int32 => json!({ "type": "integer", "format": "int32" }),
        Ty::Int64 => json!({ "type": "integer", "format": "int64" }),
        Ty::Float => json!({ "type": "number", "format": "double" }),
        Ty::Time => reference(TIME),
        Ty::MicroTime => reference(MICRO_TIME),
        Ty::Quantity => reference(QUANTITY),
        Ty::IntOrString => reference(INT_OR_STRING),
        Ty::Items => json!({ "type": "array", "items": { "type": "string" } }),
        Ty::Any | Ty::SchemaOrList | Ty::SchemaOrBool | Ty::SchemaOrNames => {
            json!({ "x-kubernetes-preserve-unknown-fields": true })
        }
        Ty::Object(name) => reference(name),
        Ty::List(of) => json!({ "type": "array", "items": value(of) }),
        Ty::Map(of) => json!({ "type": "object", "additionalProperties": value(of) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_says_what_the_table_says() {
        let spec = &schemas()["io.k8s.api.core.v1.PodSpec"];
        assert_eq!(spec["required"], json!(["containers"]));
        let volumes = &spec["properties"]["volumes"];
        assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
        assert_eq!(volumes["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(
            volumes["items"]["$ref"],
            "#/components/schemas/io.k8s.api.core.v1.Volume"
        );
        assert_eq!(
            spec["properties"]["nodeSelector"]["x-kubernetes-map-type"],
            "atomic"
        );
        let pod = &schemas()["io.k8s.api.core.v1.Pod"];
        assert_eq!(
            pod["x-kubernetes-group-version-kind"],
            json!([{"group": "", "version": "v1", "kind": "Pod"}])
        );
    }
}
