//! Small helpers over objects kept as JSON values.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The field of the metadata that says who manages which fields.
const MANAGED: &str = "managedFields";

/// An object as it is kept: its value, and its text, which is written once for all who read it.
///
/// Who manages which fields stands in the text alone: only writers ask, and as a tree it takes more memory than all the rest.
/// [`Object::whole`] has everything.
pub struct Object {
    value: Value,
    text: Text,
}

impl Object {
    /// An object to be shared.
    pub fn shared(mut value: Value) -> Arc<Self> {
        let managed = match value.get_mut("metadata") {
            Some(Value::Object(metadata)) => metadata.remove(MANAGED),
            _ => None,
        };
        let text = Text::of(&value, managed.as_ref());
        Arc::new(Self { value, text })
    }

    /// The object as JSON text.
    pub fn json(&self) -> Bytes {
        self.text.all.clone()
    }

    /// The same, for whoever copies it.
    pub fn text(&self) -> &[u8] {
        &self.text.all
    }

    /// Whether it is this whole value.
    pub fn is(&self, whole: &Value) -> bool {
        // Most changes show in the generation, which stands before all that could be long.
        let differs = |name| whole["metadata"].get(name) != self.value["metadata"].get(name);
        !differs("generation") && serde_json::to_vec(whole).is_ok_and(|text| text == self.text.all)
    }

    /// Its metadata as JSON text.
    pub fn metadata_json(&self) -> &[u8] {
        &self.text.all[self.text.metadata.clone()]
    }

    /// The value without `metadata.managedFields`.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The whole value, for whoever makes another object of it.
    pub fn whole(&self) -> Value {
        let mut value = self.value.clone();
        if let Ok(managed) = serde_json::from_slice(&self.text.all[self.text.managed.clone()]) {
            meta_mut(&mut value).insert(MANAGED.to_owned(), managed);
        }
        value
    }
}

/// The text of an object, and where in it the metadata and the managed fields stand; nowhere if there are none.
struct Text {
    all: Bytes,
    metadata: Range<usize>,
    managed: Range<usize>,
}

impl Text {
    fn of(value: &Value, managed: Option<&Value>) -> Self {
        let mut out = Vec::with_capacity(1024);
        let (mut metadata, mut place) = (0..0, 0..0);
        match value {
            Value::Object(fields) => write_map(&mut out, fields, |out, name, value| match value {
                Value::Object(fields) if name == "metadata" => {
                    let from = out.len();
                    place = write_metadata(out, fields, managed);
                    metadata = from..out.len();
                }
                other => write_json(out, other),
            }),
            other => write_json(&mut out, other),
        }
        Self {
            all: Bytes::from(out.into_boxed_slice()),
            metadata,
            managed: place,
        }
    }
}

/// Writes metadata with the managed fields at their place, which is returned.
fn write_metadata(
    out: &mut Vec<u8>,
    fields: &Map<String, Value>,
    managed: Option<&Value>,
) -> Range<usize> {
    let Some(managed) = managed else {
        write_map(out, fields, |out, _, value| write_json(out, value));
        return 0..0;
    };
    let (mut place, mut left) = (0..0, Some(managed));
    let mut put = |out: &mut Vec<u8>, before: &str| {
        if before > MANAGED
            && let Some(managed) = left.take()
        {
            write_name(out, MANAGED);
            let from = out.len();
            write_json(out, managed);
            place = from..out.len();
            out.push(b',');
        }
    };
    out.push(b'{');
    for (name, value) in fields {
        put(out, name);
        write_name(out, name);
        write_json(out, value);
        out.push(b',');
    }
    put(out, "\u{10ffff}");
    // At least the managed fields stand before this comma.
    out.pop();
    out.push(b'}');
    place
}

fn write_map(
    out: &mut Vec<u8>,
    fields: &Map<String, Value>,
    mut write: impl FnMut(&mut Vec<u8>, &str, &Value),
) {
    out.push(b'{');
    for (i, (name, value)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_name(out, name);
        write(out, name, value);
    }
    out.push(b'}');
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    write_json(out, name);
    out.push(b':');
}

/// Writes text, values and lists of them: nothing that could fail.
pub fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "JSON values can be written into memory");
}

impl Deref for Object {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text.all))
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.text.all == other.text.all
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
    fn managers_stand_in_the_text_at_their_place() {
        for metadata in [
            json!({}),
            json!({"name": "a"}),
            json!({"labels": {"a": "b"}}),
            json!({"labels": {}, "name": "a"}),
        ] {
            let mut whole = json!({"a": 1, "metadata": metadata, "z": [null]});
            let bare = Object::shared(whole.clone());
            assert_eq!(bare.json(), whole.to_string());
            assert_eq!(bare.whole(), whole);
            whole["metadata"]["managedFields"] = json!([{"manager": "m"}]);
            let object = Object::shared(whole.clone());
            assert_eq!(object.json(), whole.to_string());
            assert_eq!(
                object.metadata_json(),
                whole["metadata"].to_string().as_bytes()
            );
            assert_eq!(object.value(), bare.value());
            assert_eq!(object.whole(), whole);
        }
        for odd in [json!(null), json!({"metadata": 3}), json!([])] {
            let object = Object::shared(odd.clone());
            assert_eq!(
                (object.whole(), object.json()),
                (odd.clone(), Bytes::from(odd.to_string()))
            );
            assert!(object.metadata_json().is_empty());
        }
    }

    #[test]
    fn metadata_is_made_where_it_is_missing_or_wrong() {
        for mut object in [json!(null), json!(3), json!({}), json!({"metadata": "x"})] {
            set_revision(&mut object, 7);
            assert_eq!(revision(&object), 7);
        }
    }
}
