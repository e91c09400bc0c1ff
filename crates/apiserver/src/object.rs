//! Small helpers over objects kept as JSON values.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// An object as it is kept: its value, and its text, which is written once for all who read it.
pub struct Object {
    value: Value,
    text: OnceLock<Bytes>,
}

impl Object {
    /// An object to be shared.
    pub fn shared(value: Value) -> Arc<Self> {
        Arc::new(Self {
            value,
            text: OnceLock::new(),
        })
    }

    /// An object whose text is known already.
    pub fn with_text(value: Value, text: Bytes) -> Arc<Self> {
        Arc::new(Self {
            value,
            text: OnceLock::from(text),
        })
    }

    /// The object as JSON text.
    pub fn json(&self) -> Bytes {
        self.text
            .get_or_init(|| Bytes::from(self.value.to_string()))
            .clone()
    }

    /// The value.
    pub fn value(&self) -> &Value {
        &self.value
    }
}

impl Deref for Object {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// Name of an object within its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// Key of a namespaced object.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self {
            namespace: String::new(),
            name: name.into(),
        }
    }

    /// Key as the object's metadata has it.
    pub fn of(object: &Value) -> Self {
        Self {
            namespace: meta_str(object, "namespace").to_owned(),
            name: meta_str(object, "name").to_owned(),
        }
    }
}

/// A string of the metadata; empty when absent.
pub fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The metadata as a map, made if it is not there.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// The map under `field`, made if it is not there or no map.
pub fn child_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let slot = &mut object[field];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("the slot was made a map above"),
    }
}

/// The revision that the object was written at; 0 when it has none.
pub fn revision(object: &Value) -> u64 {
    meta_str(object, "resourceVersion").parse().unwrap_or(0)
}

/// A copy of the object with another revision.
pub fn with_revision(object: &Value, revision: u64) -> Value {
    let mut copy = object.clone();
    set_revision(&mut copy, revision);
    copy
}

/// Writes the revision into the object.
pub fn set_revision(object: &mut Value, revision: u64) {
    meta_mut(object).insert("resourceVersion".to_owned(), json!(revision.to_string()));
}

/// Whether deletion has been asked for.
pub fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Unique identifiers of the objects that own an object.
pub fn owners(object: &Value) -> impl Iterator<Item = &str> {
    let references = object["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten();
    references.filter_map(|reference| reference["uid"].as_str())
}

/// Whether the object has a finalizer.
pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    let list = object["metadata"]["finalizers"].as_array();
    list.is_some_and(|list| list.iter().any(|f| f == finalizer))
}

/// Whether somebody still has to finish something before the object may go.
pub fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|f| !f.is_empty())
}

/// A time the way the protocol writes it, in whole seconds.
pub fn format_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Now, the way the protocol writes it.
pub fn now() -> String {
    format_time(Timestamp::now())
}

/// Inserts `value` under `field` of a map unless something is there.
pub fn set_default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value.into());
    }
}

/// A random identifier for one object's whole life.
pub fn new_uid() -> String {
    let mut b = random::<16>();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// The random end of a generated name: no vowels, so that no words come out.
pub fn name_suffix() -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    random::<5>()
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// Random bytes. Without a random source the process's own hashing seeds stand in: names need to differ, not to be secret.
fn random<const N: usize>() -> [u8; N] {
    use std::hash::{BuildHasher, RandomState};
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = RandomState::new().hash_one(i).to_le_bytes()[0];
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_version_4_and_differ() {
        let (a, b) = (new_uid(), new_uid());
        assert_ne!(a, b);
        assert_eq!(a.len(), 36);
        assert_eq!(a.as_bytes()[14], b'4');
    }

    #[test]
    fn the_text_of_an_object_is_written_once() {
        let object = Object::shared(json!({"a": 1}));
        assert_eq!(object.json(), "{\"a\":1}");
        assert_eq!(object.json().as_ptr(), object.json().as_ptr());
    }

    #[test]
    fn metadata_is_made_where_it_is_missing_or_wrong() {
        for mut object in [json!(null), json!(3), json!({}), json!({"metadata": "x"})] {
            set_revision(&mut object, 7);
            assert_eq!(revision(&object), 7);
        }
    }
}
