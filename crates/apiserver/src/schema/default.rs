//! Defaults of custom kinds.

use serde_json::Value;

use super::Schema;

/// Fills in defaults, and takes out nulls where null is not a value.
pub fn fill(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| {
                let keeps = |field: &Schema| field.nullable || field.of.is_none();
                !value.is_null() || schema.field(name).is_none_or(|field| keeps(field))
            });
            for (name, field) in &schema.properties {
                if let Some(default) = &field.default {
                    map.entry(name).or_insert_with(|| default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if let Some(field) = schema.field(name) {
                    fill(value, field);
                }
            }
        }
        Value::Array(list) => list
            .iter_mut()
            .for_each(|element| fill(element, schema.element())),
        _ => {}
    }
}
