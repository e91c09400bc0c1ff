//! Strategic merge patch: like a merge patch, but the elements of known lists are merged by a key of theirs.

use serde_json::{Map, Value};

/// How a list is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListRule {
    /// The list of the patch replaces the list.
    Replace,
    /// Elements with the same value under this key are one element.
    ByKey(&'static str),
    /// A set of plain values.
    Set,
}

/// The rule for a list by the names of the field and of the map around it (for elements: the list's own name).
fn list_rule(kind: &str, parent: &str, field: &str) -> ListRule {
    use ListRule::{ByKey, Replace, Set};
    match (parent, field) {
        ("metadata", "finalizers") | ("spec", "podCIDRs") => Set,
        ("metadata", "ownerReferences") => ByKey("uid"),
        ("status", "conditions" | "addresses") => ByKey("type"),
        ("status", "podIPs" | "hostIPs") | ("spec", "hostAliases") => ByKey("ip"),
        ("spec", "ports") if kind == "Service" => ByKey("port"),
        ("spec", "topologySpreadConstraints") => ByKey("topologyKey"),
        (
            "spec",
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "volumes"
            | "imagePullSecrets"
            | "schedulingGates"
            | "resourceClaims",
        ) => ByKey("name"),
        ("containers" | "initContainers" | "ephemeralContainers", field) => match field {
            "env" => ByKey("name"),
            "ports" => ByKey("containerPort"),
            "volumeMounts" => ByKey("mountPath"),
            "volumeDevices" => ByKey("devicePath"),
            _ => Replace,
        },
        ("", "secrets") if kind == "ServiceAccount" => ByKey("name"),
        _ => Replace,
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
pub fn apply(kind: &str, target: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        return Err("the patch is not a JSON object".to_owned());
    };
    merge_map(kind, "", target, patch)
}

fn merge_map(
    kind: &str,
    parent: &str,
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
        merge_field(kind, parent, map, key, value)?;
    }
    patch
        .iter()
        .try_for_each(|(key, value)| merge_list_directive(kind, parent, map, key, value))
}

fn merge_field(
    kind: &str,
    parent: &str,
    map: &mut Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<(), String> {
    match value {
        Value::Null => drop(map.remove(key)),
        Value::Object(patch) if patch.get(DIRECTIVE).is_some_and(|d| d == "delete") => {
            drop(map.remove(key))
        }
        Value::Object(patch) => merge_map(kind, key, map.entry(key).or_insert(Value::Null), patch)?,
        Value::Array(patch) => {
            let list = map.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            if !list.is_array() {
                *list = Value::Array(Vec::new());
            }
            let Value::Array(list) = list else {
                return Ok(());
            };
            merge_list(kind, key, list_rule(kind, parent, key), list, patch)?;
        }
        plain => drop(map.insert(key.to_owned(), plain.clone())),
    }
    Ok(())
}

fn merge_list(
    kind: &str,
    field: &str,
    rule: ListRule,
    list: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), String> {
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
                .try_for_each(|element| merge_element(kind, field, key, list, element))?;
        }
    }
    Ok(())
}

fn merge_element(
    kind: &str,
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
        return merge_map(kind, field, found, patch);
    }
    let mut new = Value::Null;
    merge_map(kind, field, &mut new, patch)?;
    list.push(new);
    Ok(())
}

/// Directives about a list that stand beside it.
fn merge_list_directive(
    kind: &str,
    parent: &str,
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
            let rule = list_rule(kind, parent, field);
            map.insert(
                field.to_owned(),
                Value::Array(reorder(rule, elements, arguments)),
            );
        }
    }
    Ok(())
}

/// Puts the elements that `order` names into that order; each other one stays behind the element it stood behind.
fn reorder(rule: ListRule, elements: Vec<Value>, order: &[Value]) -> Vec<Value> {
    let id = |element: &Value| match rule {
        ListRule::ByKey(key) => element.get(key).cloned().unwrap_or(Value::Null),
        _ => element.clone(),
    };
    let place = |element: &Value| order.iter().position(|o| id(o) == id(element));
    let mut named: Vec<(usize, Value)> = elements
        .iter()
        .filter_map(|e| place(e).map(|at| (at, e.clone())))
        .collect();
    named.sort_by_key(|(at, _)| *at);
    let mut result: Vec<Value> = named.into_iter().map(|(_, e)| e).collect();
    let mut previous: Option<Value> = None;
    for element in elements {
        if place(&element).is_none() {
            let behind = previous
                .as_ref()
                .and_then(|p| result.iter().position(|e| id(e) == *p));
            result.insert(behind.map_or(0, |at| at + 1), element.clone());
        }
        previous = Some(id(&element));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn patched(target: Value, patch: Value) -> Value {
        let mut target = target;
        apply("Pod", &mut target, &patch).unwrap();
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
            apply("Pod", &mut json!({}), &patch)
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
            if apply("Pod", &mut once, &patch).is_ok() && !patch.to_string().contains('$') {
                let mut twice = once.clone();
                prop_assert!(apply("Pod", &mut twice, &patch).is_ok());
                prop_assert_eq!(once, twice);
            }
        }
    }
}
