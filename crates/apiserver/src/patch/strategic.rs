//! Strategic merge patch: like a merge patch, but the elements of known lists are merged by a key of theirs.

use serde_json::{Map, Value};

use super::super::apply::reorder;
use super::super::schema::Schema;

/// How a list is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListRule<'a> {
    /// The list of the patch replaces the list.
    Replace,
    /// Elements with the same value under this key are one element.
    ByKey(&'a str),
    /// A set of plain values.
    Set,
}

/// The rule for a list.
fn list_rule(schema: &Schema) -> ListRule<'_> {
    match schema.merge.as_deref() {
        Some("") => ListRule::Set,
        Some(key) => ListRule::ByKey(key),
        None => ListRule::Replace,
    }
}

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const TAKE_OUT: &str = "$deleteFromPrimitiveList/";

/// How many comparisons the merge of one list may take; real lists need a few hundred.
const MAX_COMPARISONS: usize = 4_000_000;

fn check_size(field: &str, a: usize, b: usize) -> Result<(), String> {
    let few = a.saturating_mul(b) <= MAX_COMPARISONS;
    if few {
        Ok(())
    } else {
        Err(format!(
            "{field}: lists of {a} and {b} elements are too long to be merged"
        ))
    }
}

/// Merges `patch` into an object of the kind.
pub fn apply(schema: &Schema, target: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        return Err("the patch is not a JSON object".to_owned());
    };
    merge_map(schema, target, patch)
}

fn merge_map(
    schema: &Schema,
    target: &mut Value,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else {
        return Ok(());
    };
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => map.clear(),
        Some("delete") => {
            map.clear();
            return Ok(());
        }
        Some(other) => return Err(format!("unknown {DIRECTIVE} directive \"{other}\"")),
    }
    if let Some(keep) = patch.get(RETAIN) {
        let keep = keep
            .as_array()
            .ok_or_else(|| format!("{RETAIN} is not a list"))?;
        map.retain(|key, _| keep.iter().any(|k| k == key));
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        merge_field(schema, map, key, value)?;
    }
    patch
        .iter()
        .try_for_each(|(key, value)| merge_list_directive(schema, map, key, value))
}

fn merge_field(
    schema: &Schema,
    map: &mut Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<(), String> {
    let any = Schema::any();
    let field = schema.field(key).unwrap_or(&any);
    match value {
        Value::Null => drop(map.remove(key)),
        Value::Object(_) if field.replace => drop(map.insert(key.to_owned(), value.clone())),
        Value::Object(patch) if patch.get(DIRECTIVE).is_some_and(|d| d == "delete") => {
            drop(map.remove(key))
        }
        Value::Object(patch) => merge_map(field, map.entry(key).or_insert(Value::Null), patch)?,
        Value::Array(patch) => {
            let list = map.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            if !list.is_array() {
                *list = Value::Array(Vec::new());
            }
            let Value::Array(list) = list else {
                return Ok(());
            };
            merge_list(field, key, list, patch)?;
        }
        plain => drop(map.insert(key.to_owned(), plain.clone())),
    }
    Ok(())
}

fn merge_list(
    schema: &Schema,
    field: &str,
    list: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), String> {
    let rule = list_rule(schema);
    if rule != ListRule::Replace {
        check_size(field, list.len() + patch.len(), patch.len())?;
    }
    match rule {
        ListRule::Replace => *list = patch.to_vec(),
        ListRule::Set => {
            for value in patch {
                if !list.contains(value) {
                    list.push(value.clone());
                }
            }
        }
        ListRule::ByKey(key) => {
            if patch.iter().any(|p| p[DIRECTIVE] == "replace") {
                *list = patch
                    .iter()
                    .filter(|p| p[DIRECTIVE] != "replace")
                    .cloned()
                    .collect();
                return Ok(());
            }
            patch
                .iter()
                .try_for_each(|element| merge_element(schema, field, key, list, element))?;
        }
    }
    Ok(())
}

fn merge_element(
    schema: &Schema,
    field: &str,
    key: &str,
    list: &mut Vec<Value>,
    element: &Value,
) -> Result<(), String> {
    let id = element
        .get(key)
        .filter(|id| id.is_string() || id.is_number());
    let (Some(id), Value::Object(patch)) = (id, element) else {
        return Err(format!(
            "an element of {field} in the patch does not have the merge key \"{key}\": {element}"
        ));
    };
    if element[DIRECTIVE] == "delete" {
        list.retain(|e| e.get(key) != Some(id));
        return Ok(());
    }
    if let Some(found) = list.iter_mut().find(|e| e.get(key) == Some(id)) {
        return merge_map(schema.element(), found, patch);
    }
    let mut new = Value::Null;
    merge_map(schema.element(), &mut new, patch)?;
    list.push(new);
    Ok(())
}

/// Directives about a list that stand beside it.
fn merge_list_directive(
    schema: &Schema,
    map: &mut Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<(), String> {
    let arguments = || {
        value
            .as_array()
            .ok_or_else(|| format!("{key} is not a list"))
    };
    if let Some(field) = key.strip_prefix(TAKE_OUT) {
        let arguments = arguments()?;
        if let Some(Value::Array(list)) = map.get_mut(field) {
            list.retain(|v| !arguments.contains(v));
        }
    } else if let Some(field) = key.strip_prefix(ORDER) {
        let arguments = arguments()?;
        if let Some(Value::Array(elements)) =
            map.get_mut(field).filter(|v| v.is_array()).map(Value::take)
        {
            check_size(field, elements.len(), arguments.len().max(elements.len()))?;
            let any = Schema::any();
            let rule = list_rule(schema.field(field).unwrap_or(&any));
            let id = |element: &Value| match rule {
                ListRule::ByKey(key) => element.get(key).cloned().unwrap_or(Value::Null),
                _ => element.clone(),
            };
            let order: Vec<Value> = arguments.iter().map(id).collect();
            map.insert(
                field.to_owned(),
                Value::Array(reorder(elements, &order, id)),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::kinds;
    use super::*;
    use std::sync::Arc;

    fn pod() -> Arc<Schema> {
        kinds::pod().schema()
    }

    use proptest::prelude::*;
    use serde_json::json;

    fn patched(target: Value, patch: Value) -> Value {
        let mut target = target;
        apply(&pod(), &mut target, &patch).unwrap();
        target
    }

    #[test]
    fn containers_and_their_lists_merge_by_key() {
        let pod = json!({"spec": {"containers": [
            {"name": "a", "image": "x", "env": [{"name": "A", "value": "1"}], "args": ["1", "2"]},
            {"name": "b"}]}});
        let patch = json!({"spec": {"containers": [
            {"name": "a", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}], "args": ["9"]},
            {"name": "c", "image": "z"},
            {"name": "b", "$patch": "delete"}]}});
        assert_eq!(
            patched(pod, patch),
            json!({"spec": {"containers": [
                {"name": "a", "image": "x", "args": ["9"],
                 "env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}]},
                {"name": "c", "image": "z"}]}})
        );
    }

    #[test]
    fn conditions_merge_by_type_and_addresses_too() {
        let node = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}]}});
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "True"}]}});
        assert_eq!(
            patched(node, patch)["status"]["conditions"],
            json!([{"type": "Ready", "status": "True", "reason": "x"}, {"type": "Disk", "status": "True"}])
        );
    }

    #[test]
    fn directives() {
        let object = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"x": {"k": 1, "l": 2}, "y": {"k": 1}, "z": {"k": 1},
            "volumes": [{"name": "1"}, {"name": "2"}, {"name": "3"}]}});
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]},
            "spec": {"x": {"$retainKeys": ["l"], "m": 3}, "y": {"$patch": "replace", "n": 1}, "z": {"$patch": "delete"},
                "$setElementOrder/volumes": [{"name": "4"}, {"name": "1"}], "volumes": [{"name": "4"}]}});
        assert_eq!(
            patched(object, patch),
            json!({"metadata": {"finalizers": ["b", "c"]},
                "spec": {"x": {"l": 2, "m": 3}, "y": {"n": 1},
                    "volumes": [{"name": "4"}, {"name": "1"}, {"name": "2"}, {"name": "3"}]}})
        );
    }

    #[test]
    fn a_missing_merge_key_is_an_error() {
        let patch = json!({"spec": {"containers": [{"image": "x"}]}});
        assert!(
            apply(&pod(), &mut json!({}), &patch)
                .unwrap_err()
                .contains("merge key")
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let key = prop::sample::select(vec![
            "spec",
            "status",
            "metadata",
            "containers",
            "env",
            "name",
            "conditions",
            "type",
            "finalizers",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            Just(json!(1)),
            prop::sample::select(vec!["a", "b", "delete", "replace", "merge"])
                .prop_map(|s| json!(s)),
        ];
        leaf.prop_recursive(5, 40, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((key.clone(), inner), 0..4).prop_map(|fields| Value::Object(
                    fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
                )),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_patch_panics_and_merging_twice_changes_nothing(target in any_json(), patch in any_json()) {
            let mut once = target;
            if apply(&pod(), &mut once, &patch).is_ok() && !patch.to_string().contains('$') {
                let mut twice = once.clone();
                prop_assert!(apply(&pod(), &mut twice, &patch).is_ok());
                prop_assert_eq!(once, twice);
            }
        }
    }
}
