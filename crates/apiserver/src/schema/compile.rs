//! Makes schemas out of built-in types and out of the schemas in definitions of custom kinds.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};

use super::super::types::{self, Field, ListKind, Ty};
use super::super::validate::FieldErrors;
use super::check::{Format, Rules};
use super::{Schema, Type, check_value, named, object_meta};

/// Why a schema cannot be used: place within it, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Field within the schema, such as `.properties[spec].type`.
    pub place: String,
    /// Whether something is missing (as opposed to wrong).
    pub missing: bool,
    /// What is wrong.
    pub why: String,
}

/// The schema of a built-in struct.
pub(super) fn from_type(name: &str) -> Schema {
    let Some(ty) = types::named(name) else {
        return Schema {
            open: true,
            ..Schema::default()
        };
    };
    let properties = ty.fields.values().map(|field| {
        let mut schema = of_field(field);
        // Ports are told apart by number and protocol, and the protocol may be left out.
        if field.name == "protocol" && matches!(ty.short_name(), "ContainerPort" | "ServicePort") {
            schema.default = Some(Value::from("TCP"));
        }
        (field.name.clone(), Arc::new(schema))
    });
    Schema {
        of: Some(Type::Object),
        properties: properties.collect(),
        atomic: ty.atomic,
        ..Schema::default()
    }
}

fn of_field(field: &Field) -> Schema {
    let mut schema = of_ty(&field.ty);
    match field.list {
        ListKind::Atomic => schema.atomic = true,
        _ => schema.list = field.list.clone(),
    }
    // An empty list of managers is more than none: it makes the server forget them.
    schema.omit_empty = field.omit_zero
        || !field.required
            && matches!(field.ty, Ty::List(_) | Ty::Map(_))
            && field.name != "managedFields";
    schema.merge.clone_from(&field.merge);
    schema.replace = field.replace;
    schema
}

fn of_ty(ty: &Ty) -> Schema {
    let plain = |of: Type| Schema {
        of: Some(of),
        ..Schema::default()
    };
    match ty {
        Ty::Str | Ty::Duration => plain(Type::String),
        Ty::Bytes => plain(Type::Bytes),
        Ty::Bool => plain(Type::Boolean),
        Ty::Int32 => plain(Type::Integer { short: true }),
        Ty::Int64 => plain(Type::Integer { short: false }),
        Ty::Float => plain(Type::Number),
        Ty::Time | Ty::MicroTime => plain(Type::Time),
        Ty::Quantity => plain(Type::Quantity),
        Ty::IntOrString => plain(Type::IntOrString),
        Ty::Any | Ty::SchemaOrList | Ty::SchemaOrBool | Ty::SchemaOrNames => Schema {
            open: true,
            ..Schema::default()
        },
        // Schemas hold schemas: what is in them is checked when they are compiled.
        Ty::Object(name) if name.ends_with(".JSONSchemaProps") => Schema {
            open: true,
            ..Schema::default()
        },
        Ty::Object(name) => copy(&named(name)),
        Ty::Items => Schema {
            items: Some(Arc::new(plain(Type::String))),
            ..plain(Type::Array)
        },
        Ty::List(of) => Schema {
            items: Some(Arc::new(of_ty(of))),
            ..plain(Type::Array)
        },
        Ty::Map(of) => Schema {
            additional: Some(Arc::new(of_ty(of))),
            ..plain(Type::Object)
        },
    }
}

/// A copy of a struct's schema, whose fields are shared.
fn copy(schema: &Schema) -> Schema {
    Schema {
        of: schema.of,
        properties: schema.properties.clone(),
        additional: schema.additional.clone(),
        open: schema.open,
        atomic: schema.atomic,
        ..Schema::default()
    }
}

/// The schema of a custom kind from its definition, or everything that is wrong with it.
pub fn compile(schema: &Value) -> Result<Schema, Vec<Fault>> {
    let mut faults = Faults(Vec::new());
    let mut root = node(schema, "", &mut faults);
    if root.of != Some(Type::Object) {
        faults.wrong(".type", "must be object at the root");
    }
    as_object(&mut root);
    if faults.0.is_empty() {
        Ok(root)
    } else {
        Err(faults.0)
    }
}

/// Gives a schema the fields that every object has.
fn as_object(schema: &mut Schema) {
    let text = || {
        Arc::new(Schema {
            of: Some(Type::String),
            ..Schema::default()
        })
    };
    schema.embedded = true;
    schema.properties.insert("apiVersion".to_owned(), text());
    schema.properties.insert("kind".to_owned(), text());
    schema
        .properties
        .insert("metadata".to_owned(), object_meta());
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, place: &str, missing: bool, why: impl Into<String>) {
        self.0.push(Fault {
            place: place.to_owned(),
            missing,
            why: why.into(),
        });
    }

    fn wrong(&mut self, place: &str, why: impl Into<String>) {
        self.add(place, false, why);
    }
}

fn flag(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn node(schema: &Value, place: &str, faults: &mut Faults) -> Schema {
    let Some(map) = schema.as_object() else {
        faults.wrong(place, "must be an object");
        return Schema::default();
    };
    let int_or_string = flag(map, "x-kubernetes-int-or-string");
    let open = flag(map, "x-kubernetes-preserve-unknown-fields");
    let mut out = Schema {
        of: type_of(map, place, faults),
        nullable: flag(map, "nullable"),
        open,
        embedded: flag(map, "x-kubernetes-embedded-resource"),
        atomic: map
            .get("x-kubernetes-map-type")
            .is_some_and(|t| t == "atomic"),
        list: list_kind(map, place, faults),
        ..Schema::default()
    };
    if out.of.is_none() && !int_or_string && !open {
        faults.add(
            &format!("{place}.type"),
            true,
            "must not be empty for specified object fields",
        );
    }
    members(map, place, &mut out, faults);
    out.required = strings(map, "required");
    out.rules = rules(map, place, faults);
    if out.embedded {
        as_object(&mut out);
    }
    if let Some(default) = map.get("default") {
        let mut errors = FieldErrors::default();
        let mut filled = default.clone();
        super::fill_defaults(&mut filled, &out);
        check_value(&out, &filled, &mut errors);
        for cause in errors.take() {
            let dot = if cause.field.is_empty() { "" } else { "." };
            faults.wrong(
                &format!("{place}.default{dot}{}", cause.field),
                cause.message,
            );
        }
        out.default = Some(default.clone());
    }
    out
}

fn members(map: &Map<String, Value>, place: &str, out: &mut Schema, faults: &mut Faults) {
    if let Some(properties) = map.get("properties").and_then(Value::as_object) {
        let compile = |(name, schema): (&String, &Value)| {
            let place = format!("{place}.properties[{name}]");
            (name.clone(), Arc::new(node(schema, &place, faults)))
        };
        out.properties = properties.iter().map(compile).collect::<BTreeMap<_, _>>();
    }
    match map.get("additionalProperties") {
        Some(Value::Bool(true)) => out.open = true,
        Some(schema @ Value::Object(_)) => {
            out.additional = Some(Arc::new(node(
                schema,
                &format!("{place}.additionalProperties"),
                faults,
            )));
        }
        _ => {}
    }
    if let Some(items) = map.get("items") {
        out.items = Some(Arc::new(node(items, &format!("{place}.items"), faults)));
    } else if out.of == Some(Type::Array) {
        faults.add(&format!("{place}.items"), true, "must be specified");
    }
}

fn type_of(map: &Map<String, Value>, place: &str, faults: &mut Faults) -> Option<Type> {
    if flag(map, "x-kubernetes-int-or-string") {
        return Some(Type::IntOrString);
    }
    Some(match map.get("type")?.as_str().unwrap_or_default() {
        "object" => Type::Object,
        "array" => Type::Array,
        "string" => Type::String,
        "integer" => Type::Integer { short: false },
        "number" => Type::Number,
        "boolean" => Type::Boolean,
        "" => return None,
        other => {
            let why =
                format!("\"{other}\" is none of array, boolean, integer, number, object, string");
            faults.wrong(&format!("{place}.type"), why);
            return None;
        }
    })
}

fn list_kind(map: &Map<String, Value>, place: &str, faults: &mut Faults) -> ListKind {
    match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = strings(map, "x-kubernetes-list-map-keys");
            if keys.is_empty() {
                let place = format!("{place}.x-kubernetes-list-map-keys");
                faults.add(
                    &place,
                    true,
                    "must not be empty if x-kubernetes-list-type is map",
                );
            }
            ListKind::Map(keys)
        }
        Some("atomic") => ListKind::Atomic,
        _ => ListKind::Unsaid,
    }
}

fn strings(map: &Map<String, Value>, name: &str) -> Vec<String> {
    let list = map
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn rules(map: &Map<String, Value>, place: &str, faults: &mut Faults) -> Option<Box<Rules>> {
    let number = |name: &str| map.get(name).and_then(Value::as_f64);
    let count = |name: &str| {
        map.get(name)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
    };
    let pattern = map
        .get("pattern")
        .and_then(Value::as_str)
        .and_then(|pattern| match Regex::new(pattern) {
            Ok(regex) => Some(regex),
            Err(_) => {
                faults.wrong(
                    &format!("{place}.pattern"),
                    format!("\"{pattern}\" is not a regular expression"),
                );
                None
            }
        });
    let mut inner = |name: &str| -> Vec<Schema> {
        let list = map.get(name).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .map(branch)
            .collect::<Result<_, _>>()
            .unwrap_or_else(|fault: Fault| {
                faults.wrong(&format!("{place}.{name}{}", fault.place), fault.why);
                Vec::new()
            })
    };
    let (all_of, any_of, one_of) = (inner("allOf"), inner("anyOf"), inner("oneOf"));
    let rules = Rules {
        choices: map
            .get("enum")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default(),
        minimum: number("minimum"),
        maximum: number("maximum"),
        above: flag(map, "exclusiveMinimum"),
        below: flag(map, "exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        unique: flag(map, "uniqueItems"),
        pattern,
        format: map
            .get("format")
            .and_then(Value::as_str)
            .and_then(Format::named),
        all_of,
        any_of,
        one_of,
        not: map
            .get("not")
            .and_then(|schema| branch(schema).ok())
            .map(Box::new),
    };
    (!rules.is_empty()).then(|| Box::new(rules))
}

/// A schema inside `allOf`, `anyOf`, `oneOf` or `not`: it only adds conditions, so it need not say types.
fn branch(schema: &Value) -> Result<Schema, Fault> {
    let mut faults = Faults(Vec::new());
    let mut compiled = node(schema, "", &mut faults);
    open(&mut compiled);
    match faults.0.into_iter().find(|fault| !fault.missing) {
        Some(fault) => Err(fault),
        None => Ok(compiled),
    }
}

fn open(schema: &mut Schema) {
    schema.open = true;
    schema.nullable = true;
}
