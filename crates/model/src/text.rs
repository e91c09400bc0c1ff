//! Texts that many rows share: a cluster has 100,000 pods, but few nodes, namespaces and sets of labels.
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

/// What a pool holds at least before it is looked through for values that nobody has any more.
const SWEEP_FROM: usize = 1024;

/// Values of which equal ones are kept once. Those that nobody has are forgotten when the pool has doubled.
struct Pool<T: ?Sized> {
    values: BTreeSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized + Ord> Pool<T> {
    const fn new() -> Self {
        Self {
            values: BTreeSet::new(),
            sweep_at: SWEEP_FROM,
        }
    }

    fn share(&mut self, value: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        if let Some(present) = self.values.get(value) {
            return present.clone();
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.values.len() * 2).max(SWEEP_FROM);
        }
        let made = make();
        self.values.insert(made.clone());
        made
    }
}

static TEXTS: Mutex<Pool<str>> = Mutex::new(Pool::new());
static LABELS: Mutex<Pool<[(Text, Text)]>> = Mutex::new(Pool::new());

/// A text that is cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<str>);

impl Text {
    /// The text, kept once however often it is asked for: for names that many rows have.
    #[must_use]
    pub fn shared(text: &str) -> Self {
        let mut pool = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        Self(pool.share(text, || text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::shared("")
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        *self.0 == **other
    }
}

impl PartialEq<Text> for String {
    fn eq(&self, other: &Text) -> bool {
        other == self
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// Labels of an object, in the order of their keys. Equal sets are kept once: all pods of a workload share theirs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelMap(Arc<[(Text, Text)]>);

impl LabelMap {
    /// Every label, key first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        Some(&self.0[found].1)
    }

    /// A number that equal sets have in common while one of them exists.
    #[must_use]
    pub fn id(&self) -> usize {
        self.0.as_ptr().addr()
    }
}

impl Default for LabelMap {
    fn default() -> Self {
        Self::from(BTreeMap::new())
    }
}

impl From<BTreeMap<String, String>> for LabelMap {
    fn from(labels: BTreeMap<String, String>) -> Self {
        let all: Vec<(Text, Text)> = labels
            .into_iter()
            .map(|(key, value)| (Text::shared(&key), Text::from(value)))
            .collect();
        let mut pool = LABELS.lock().unwrap_or_else(PoisonError::into_inner);
        Self(pool.share(&all[..], || all.as_slice().into()))
    }
}

impl FromIterator<(String, String)> for LabelMap {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(labels: I) -> Self {
        Self::from(labels.into_iter().collect::<BTreeMap<_, _>>())
    }
}

impl<const N: usize> From<[(String, String); N]> for LabelMap {
    fn from(labels: [(String, String); N]) -> Self {
        labels.into_iter().collect()
    }
}

impl fmt::Debug for LabelMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'de> Deserialize<'de> for LabelMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<String, String>::deserialize(deserializer).map(Self::from)
    }
}

impl Serialize for LabelMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(value: &str) -> LabelMap {
        LabelMap::from([
            ("b".to_owned(), value.to_owned()),
            ("a".to_owned(), "1".to_owned()),
        ])
    }

    #[test]
    fn equal_values_are_kept_once() {
        let (one, two) = (Text::shared("node-1"), Text::shared("node-1"));
        assert!(Arc::ptr_eq(&one.0, &two.0));
        assert_eq!(labels("x").id(), labels("x").clone().id());
        let (x, also, y) = (labels("x"), labels("x"), labels("y"));
        assert_eq!((x.id(), &x), (also.id(), &also));
        assert!(x.id() != y.id() && x != y);
    }

    #[test]
    fn labels_are_found_and_read_as_an_object() {
        let all = labels("x");
        assert_eq!(
            (all.get("a"), all.get("b"), all.get("c")),
            (Some("1"), Some("x"), None)
        );
        assert_eq!(serde_json::to_string(&all).unwrap(), r#"{"a":"1","b":"x"}"#);
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let mut pool: Pool<str> = Pool::new();
        let kept: Vec<_> = (0..10)
            .map(|n| pool.share(&format!("kept{n}"), || format!("kept{n}").into()))
            .collect();
        for n in 0..10 * SWEEP_FROM {
            let text = format!("gone{n}");
            drop(pool.share(&text, || text.as_str().into()));
        }
        assert!(pool.values.len() <= SWEEP_FROM, "{}", pool.values.len());
        assert!(kept.iter().all(|text| pool.values.contains(text)));
    }
}
