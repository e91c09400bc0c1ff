//! Secrets of Kubernetes that policies need. What is in them is shown to nobody: `Debug` and lists of tables have names alone.
use crate::Text;
use serde::{Serialize, Serializer};
use std::{collections::BTreeMap, fmt};
use tables::Row;

/// A Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// `namespace/name`.
    pub key: Text,
    /// What is in it.
    pub contents: Contents,
}

impl Row for Secret {
    type Key = Text;

    fn key(&self) -> Text {
        self.key.clone()
    }
}

/// What is in a Secret, by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contents(BTreeMap<String, Box<[u8]>>);

impl Contents {
    /// The entry of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// The names of all entries.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl FromIterator<(String, Box<[u8]>)> for Contents {
    fn from_iter<I: IntoIterator<Item = (String, Box<[u8]>)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Serialize for Contents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.keys())
    }
}
