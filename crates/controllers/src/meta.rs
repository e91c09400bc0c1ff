//! Small questions about objects: owners, labels, conditions.
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    Resource,
    api::core::v1::{Node, NodeCondition, ObjectReference},
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time},
        util::intstr::IntOrString,
    },
};

use crate::kinds::Kept;

/// An object's name.
pub fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// An object's namespace; empty if it has none.
pub fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// An object's UID.
pub fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The value of a label.
pub fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// The value of an annotation.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether somebody has asked for the object's end.
pub fn is_ending(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// When the object was made; the beginning of time if that is not known.
pub fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// The owner that controls the object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = meta.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The name of the object's controlling owner, if that is of this kind.
pub fn controller_named<K: Resource>(meta: &ObjectMeta) -> Option<&str> {
    controller_of(meta)
        .filter(|owner| owner.kind == K::KIND && owner.api_version == K::API_VERSION)
        .map(|owner| owner.name.as_str())
}

/// A reference that makes `owner` the controlling owner.
pub fn owner_reference<K: Kept>(owner: &K) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.into(),
        kind: <K as Resource>::KIND.into(),
        name: name(meta).into(),
        uid: uid(meta).into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A reference to an object, as events have it.
pub fn reference<K: Kept>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.into()),
        kind: Some(<K as Resource>::KIND.into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// A node's condition.
pub fn node_condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a selector selects these labels. An empty one selects everything; one with an unknown operator nothing.
pub fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    let plain = selector.match_labels.iter().flatten();
    let equal = plain
        .into_iter()
        .all(|(key, want)| value(key) == Some(want));
    let expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions.into_iter().all(|requirement| {
            let found = value(&requirement.key);
            let listed = |v: &String| requirement.values.iter().flatten().any(|one| one == v);
            match requirement.operator.as_str() {
                "In" => found.is_some_and(listed),
                "NotIn" => !found.is_some_and(listed),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

/// Whether a selector has no requirement.
pub fn is_empty_selector(selector: &LabelSelector) -> bool {
    selector
        .match_labels
        .as_ref()
        .is_none_or(BTreeMap::is_empty)
        && selector
            .match_expressions
            .as_ref()
            .is_none_or(Vec::is_empty)
}

/// A number, or a share of `total` given as percents; what is neither counts as nothing.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|t| t.parse::<i64>().ok());
            let product = percent.unwrap_or(0).saturating_mul(i64::from(total));
            let share = if round_up {
                product.saturating_add(99).div_euclid(100)
            } else {
                product.div_euclid(100)
            };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// A moment as objects have it: whole seconds.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short text that stands for a value: the same for equal JSON. No vowels, so that it never reads as a word.
pub fn fingerprint(value: &serde_json::Value, salt: i32) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let text = value.to_string();
    let salt = if salt == 0 {
        String::new()
    } else {
        salt.to_string()
    };
    for byte in text.bytes().chain(salt.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The low bits of this hash depend on few others.
    hash ^= hash >> 32;
    let mut out = String::new();
    for _ in 0..10 {
        out.push(char::from(ALPHABET[(hash % 27) as usize]));
        hash /= 27;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn selectors_follow_all_operators() {
        let labels: BTreeMap<_, _> = [("app".to_owned(), "a".to_owned())].into();
        let ok = |selector| selects(&from_value(selector).unwrap(), Some(&labels));
        let needs = |key: &str, op: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]});
        assert!(ok(json!({})) && ok(json!({"matchLabels": {"app": "a"}})));
        assert!(!ok(json!({"matchLabels": {"app": "b"}})));
        assert!(ok(needs("app", "In", &["a", "b"])) && !ok(needs("x", "In", &["a"])));
        assert!(ok(needs("app", "NotIn", &["b"])) && ok(needs("x", "NotIn", &["a"])));
        assert!(!ok(needs("app", "NotIn", &["a"])));
        assert!(ok(needs("app", "Exists", &[])) && ok(needs("x", "DoesNotExist", &[])));
        assert!(!ok(needs("app", "Sometimes", &[])));
        assert!(!selects(
            &from_value(json!({"matchLabels": {"app": "a"}})).unwrap(),
            None
        ));
    }

    #[test]
    fn percents_round_as_asked() {
        let percent = |text: &str, up| scaled(Some(&IntOrString::String(text.into())), 10, up);
        assert_eq!((percent("25%", true), percent("25%", false)), (3, 2));
        assert_eq!((percent("100%", true), percent("x", true)), (10, 0));
        assert_eq!(scaled(Some(&IntOrString::Int(4)), 10, false), 4);
        assert_eq!(scaled(None, 10, false), 0);
    }

    #[test]
    fn fingerprints_differ_and_repeat() {
        let (a, b) = (json!({"x": 1}), json!({"x": 2}));
        assert_eq!(fingerprint(&a, 0), fingerprint(&a, 0));
        assert_ne!(fingerprint(&a, 0), fingerprint(&b, 0));
        assert_ne!(fingerprint(&a, 0), fingerprint(&a, 1));
        assert_eq!(fingerprint(&a, 0).len(), 10);
    }
}
