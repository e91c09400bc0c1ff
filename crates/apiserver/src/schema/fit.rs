//! Type checks and unknown fields.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::super::kinds::is_quantity;
use super::{Path, Schema, Type};

/// What was found on the way.
#[derive(Debug, Default)]
pub struct Report {
    /// The first value of a wrong type, with its place.
    pub mismatch: Option<String>,
    /// Fields that the schema does not have. They have been taken out.
    pub unknown: Vec<String>,
}

/// Takes out what the schema does not know, and of built-in kinds (`typed`) checks types and takes out nulls: there, a field that
/// is null is a field that is not there.
pub fn fit(value: &mut Value, schema: &Schema, typed: bool, report: &mut Report) {
    walk(value, schema, typed, &Path::root(), report);
}

/// Takes out empty maps and lists of built-in kinds, false and zero, where they mean the same as a field that is left out.
pub fn drop_empty(value: &mut Value, schema: &Schema) {
    let is_empty = |value: &Value| match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        plain => *plain == false || *plain == 0,
    };
    match value {
        Value::Object(map) => map.retain(|name, value| {
            let Some(field) = schema.field(name) else {
                return true;
            };
            if field.omit_empty && is_empty(value) {
                return false;
            }
            drop_empty(value, field);
            true
        }),
        Value::Array(list) => list
            .iter_mut()
            .for_each(|element| drop_empty(element, schema.element())),
        _ => {}
    }
}

fn walk(value: &mut Value, schema: &Schema, typed: bool, path: &Path<'_>, report: &mut Report) {
    if typed && !has_type(value, schema) && report.mismatch.is_none() {
        report.mismatch = Some(mismatch(value, schema, path));
        return;
    }
    match value {
        Value::Object(map) => {
            // The metadata of every object is that of built-in kinds.
            let plain = |name: &str| typed || (name == "metadata" && schema.embedded);
            map.retain(|name, value| {
                if plain(name) && value.is_null() {
                    return false;
                }
                let at = path.field(name);
                match schema.field(name) {
                    Some(field) => {
                        if !value.is_null() {
                            walk(value, field, plain(name), &at, report);
                        }
                        true
                    }
                    None => {
                        report.unknown.push(at.to_string());
                        false
                    }
                }
            });
        }
        Value::Array(list) => {
            for (i, element) in list.iter_mut().enumerate() {
                walk(element, schema.element(), typed, &path.index(i), report);
            }
        }
        Value::Number(number) if schema.of == Some(Type::Quantity) => {
            *value = Value::String(number.to_string())
        }
        _ => {}
    }
}

fn has_type(value: &Value, schema: &Schema) -> bool {
    match (schema.of, value) {
        (None, _)
        | (Some(Type::Object), Value::Object(_))
        | (Some(Type::Array), Value::Array(_))
        | (Some(Type::String), Value::String(_))
        | (Some(Type::Number | Type::Quantity), Value::Number(_))
        | (Some(Type::IntOrString), Value::String(_))
        | (Some(Type::Boolean), Value::Bool(_)) => true,
        (Some(Type::Integer { short: true } | Type::IntOrString), Value::Number(n)) => {
            n.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
        }
        (Some(Type::Integer { short: false }), Value::Number(n)) => n.as_i64().is_some(),
        (Some(Type::Quantity), Value::String(text)) => is_quantity(text),
        (Some(Type::Bytes), Value::String(text)) => STANDARD.decode(text).is_ok(),
        (Some(Type::Time), Value::String(text)) => {
            text.is_empty() || text.parse::<Timestamp>().is_ok()
        }
        _ => false,
    }
}

fn mismatch(value: &Value, schema: &Schema, path: &Path<'_>) -> String {
    let expected = match schema.of {
        None => "anything",
        Some(Type::Object) => "an object",
        Some(Type::Array) => "a list",
        Some(Type::String) => "a string",
        Some(Type::Integer { short: true }) => "a whole number of 32 bits",
        Some(Type::Integer { short: false }) => "a whole number",
        Some(Type::Number) => "a number",
        Some(Type::Boolean) => "true or false",
        Some(Type::Quantity) => "a quantity such as 500m or 1Gi",
        Some(Type::IntOrString) => "a whole number or a string",
        Some(Type::Bytes) => "base64",
        Some(Type::Time) => "a time such as 2006-01-02T15:04:05Z",
    };
    let shown = match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        plain => plain.to_string().chars().take(60).collect(),
    };
    format!("{path}: expected {expected}, got {shown}")
}
