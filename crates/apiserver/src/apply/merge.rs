//! Merging an applied configuration into an object, and taking out what is no longer applied.

use serde_json::{Map, Value};

use super::super::schema::Schema;
use super::super::types::ListKind;
use super::set::FieldSet;

/// The step that leads to an element of a list; `None` if the element cannot be told from others.
pub(crate) fn element_id(element: &Value, list: &Schema) -> Option<String> {
    match &list.list {
        ListKind::Set => Some(format!("v:{element}")),
        ListKind::Map(keys) => {
            let mut id = Map::new();
            for key in keys {
                let default = || {
                    list.element()
                        .field(key)
                        .and_then(|field| field.default.clone())
                };
                let value = element.get(key).cloned().or_else(default)?;
                id.insert(key.clone(), value);
            }
            Some(format!("k:{}", Value::Object(id)))
        }
        _ => None,
    }
}

/// Merges `config` into `live`: structs and maps by field, keyed lists and sets by element, everything else as a whole.
pub(super) fn merge(live: &mut Value, config: &Value, schema: &Schema) {
    let any = Schema::any();
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if !schema.atomic => {
            for (name, value) in config {
                let field = schema.field(name).unwrap_or(&any);
                match live.get_mut(name) {
                    Some(before) => merge(before, value, field),
                    None => drop(live.insert(name.clone(), value.clone())),
                }
            }
        }
        (Value::Array(live), Value::Array(config)) if is_keyed(schema) => {
            merge_list(live, config, schema);
        }
        (live, config) => *live = config.clone(),
    }
}

/// Takes out keyed lists without elements, which say nothing, and structs in which nothing else is said.
pub(super) fn drop_nothing(config: &mut Value, schema: &Schema) {
    let any = Schema::any();
    match config {
        Value::Object(map) => map.retain(|name, value| {
            let field = schema.field(name).unwrap_or(&any);
            let before = is_empty(value);
            drop_nothing(value, field);
            !(is_empty(value) && (!before || is_keyed(field)))
        }),
        Value::Array(list) => list
            .iter_mut()
            .for_each(|element| drop_nothing(element, schema.element())),
        _ => {}
    }
}

/// Whether the elements of a list are owned one by one.
fn is_keyed(schema: &Schema) -> bool {
    !schema.atomic && matches!(schema.list, ListKind::Set | ListKind::Map(_))
}

fn merge_list(live: &mut Vec<Value>, config: &[Value], schema: &Schema) {
    let id = |element: &Value| element_id(element, schema);
    let mut places: std::collections::HashMap<String, usize> = live
        .iter()
        .enumerate()
        .filter_map(|(i, e)| Some((id(e)?, i)))
        .collect();
    for element in config {
        match id(element).and_then(|id| places.get(&id).copied()) {
            Some(at) => merge(&mut live[at], element, schema.element()),
            None => {
                if let Some(id) = id(element) {
                    places.insert(id, live.len());
                }
                live.push(element.clone());
            }
        }
    }
    let order: Vec<Option<String>> = config.iter().map(id).collect();
    *live = reorder(std::mem::take(live), &order, id);
}

/// Puts the elements that `order` names into that order; each other one stays behind the element it stood behind.
pub(crate) fn reorder<T: Eq + std::hash::Hash + Clone>(
    elements: Vec<Value>,
    order: &[T],
    id: impl Fn(&Value) -> T,
) -> Vec<Value> {
    use std::collections::HashMap;
    let places: HashMap<&T, usize> = order
        .iter()
        .enumerate()
        .rev()
        .map(|(i, id)| (id, i))
        .collect();
    let mut named: Vec<(usize, Value)> = Vec::new();
    let mut first: Vec<Value> = Vec::new();
    let mut behind: HashMap<usize, Vec<Value>> = HashMap::new();
    let mut last: Option<usize> = None;
    for element in elements {
        match places.get(&id(&element)) {
            Some(at) => {
                last = Some(*at);
                named.push((*at, element));
            }
            None => match last {
                Some(at) => behind.entry(at).or_default().push(element),
                None => first.push(element),
            },
        }
    }
    named.sort_by_key(|(at, _)| *at);
    let mut result = first;
    for (at, element) in named {
        result.push(element);
        result.extend(behind.remove(&at).into_iter().flatten());
    }
    result
}

/// Takes out the places in `gone`, but nothing that has a place of `kept` in it.
pub(super) fn remove(value: &mut Value, gone: &FieldSet, kept: &FieldSet, schema: &Schema) {
    let any = Schema::any();
    let nothing = FieldSet::default();
    match value {
        Value::Object(map) => {
            for (step, below) in gone.children() {
                let Some(name) = step.strip_prefix("f:") else {
                    continue;
                };
                let others = kept.child(step).unwrap_or(&nothing);
                let Some(inner) = map.get_mut(name) else {
                    continue;
                };
                if below.is_here() && others.is_empty() {
                    map.remove(name);
                    continue;
                }
                remove(inner, below, others, schema.field(name).unwrap_or(&any));
                if others.is_empty() && is_empty(inner) {
                    map.remove(name);
                }
            }
        }
        Value::Array(list) => list.retain_mut(|element| {
            let Some(step) = element_id(element, schema) else {
                return true;
            };
            let Some(below) = gone.child(&step) else {
                return true;
            };
            let others = kept.child(&step).unwrap_or(&nothing);
            if below.is_here() && others.is_empty() {
                return false;
            }
            remove(element, below, others, schema.element());
            true
        }),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
