//! The fields that an object has, and those in which two objects differ.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::schema::Schema;
use super::super::types::ListKind;
use super::merge::element_id;
use super::set::FieldSet;

/// In what two objects differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New fields, and those with another value.
    pub changed: FieldSet,
    /// Fields that are gone.
    pub removed: FieldSet,
}

/// Every field of an object that somebody can own.
pub fn fields_of(object: &Value, schema: &Schema) -> FieldSet {
    let mut set = FieldSet::default();
    collect(object, schema, &mut set);
    set
}

/// How a value is owned.
enum Shape<'a> {
    Fields(&'a serde_json::Map<String, Value>),
    Elements(BTreeMap<String, &'a Value>),
    Whole,
}

fn shape<'a>(value: &'a Value, schema: &Schema) -> Shape<'a> {
    match value {
        Value::Object(map) if !schema.atomic => Shape::Fields(map),
        Value::Array(list)
            if !schema.atomic && matches!(schema.list, ListKind::Set | ListKind::Map(_)) =>
        {
            let named = list.iter().map(|e| element_id(e, schema).map(|id| (id, e)));
            // An element without its keys cannot be told from others: then the list is one value.
            named
                .collect::<Option<_>>()
                .map_or(Shape::Whole, Shape::Elements)
        }
        _ => Shape::Whole,
    }
}

fn collect(value: &Value, schema: &Schema, set: &mut FieldSet) {
    match shape(value, schema) {
        Shape::Whole => set.mark(),
        Shape::Fields(map) => {
            for (name, value) in map {
                collect_field(name, value, schema, set);
            }
        }
        Shape::Elements(elements) => {
            for (id, element) in elements {
                let child = set.entry(id);
                collect_element(element, schema, child);
            }
        }
    }
}

fn collect_field(name: &str, value: &Value, schema: &Schema, set: &mut FieldSet) {
    let any = Schema::any();
    let child = set.entry(format!("f:{name}"));
    collect(value, schema.field(name).unwrap_or(&any), child);
    // The keys of maps are owned themselves, and so is what is empty; structs are what is in them.
    let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
    if empty || !schema.is_named(name) {
        child.mark();
    }
    set.drop_empty(&format!("f:{name}"));
}

fn collect_element(element: &Value, schema: &Schema, child: &mut FieldSet) {
    if !matches!(schema.list, ListKind::Set) {
        collect(element, schema.element(), child);
    }
    child.mark();
}

/// In what `new` differs from `old`; null stands for no object.
pub fn compare(old: &Value, new: &Value, schema: &Schema) -> Changes {
    let mut changes = Changes::default();
    diff(old, new, schema, &mut changes.changed, &mut changes.removed);
    changes
}

fn diff(old: &Value, new: &Value, schema: &Schema, changed: &mut FieldSet, removed: &mut FieldSet) {
    if old == new {
        return;
    }
    match (shape(old, schema), shape(new, schema)) {
        (Shape::Fields(before), Shape::Fields(after)) => {
            diff_fields((before, after), schema, changed, removed)
        }
        (Shape::Elements(before), Shape::Elements(after)) => {
            for (id, element) in &before {
                match after.get(id) {
                    None => collect_element(element, schema, removed.entry(id.clone())),
                    Some(now) => {
                        diff(
                            element,
                            now,
                            schema.element(),
                            changed.entry(id.clone()),
                            removed.entry(id.clone()),
                        );
                        changed.drop_empty(id);
                        removed.drop_empty(id);
                    }
                }
            }
            for (id, element) in after.iter().filter(|(id, _)| !before.contains_key(*id)) {
                collect_element(element, schema, changed.entry(id.clone()));
            }
        }
        (Shape::Whole, Shape::Whole) if !old.is_null() && !new.is_null() => changed.mark(),
        _ => {
            if !old.is_null() {
                collect(old, schema, removed);
            }
            if !new.is_null() {
                collect(new, schema, changed);
            }
        }
    }
}

fn diff_fields(
    (before, after): (
        &serde_json::Map<String, Value>,
        &serde_json::Map<String, Value>,
    ),
    schema: &Schema,
    changed: &mut FieldSet,
    removed: &mut FieldSet,
) {
    let any = Schema::any();
    for (name, old) in before {
        match after.get(name) {
            None => collect_field(name, old, schema, removed),
            Some(new) => {
                let step = format!("f:{name}");
                let field = schema.field(name).unwrap_or(&any);
                diff(
                    old,
                    new,
                    field,
                    changed.entry(step.clone()),
                    removed.entry(step.clone()),
                );
                changed.drop_empty(&step);
                removed.drop_empty(&step);
            }
        }
    }
    for (name, new) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        collect_field(name, new, schema, changed);
    }
}
