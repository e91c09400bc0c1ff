//! Labels with their source.
use crate::LabelMap;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Labels in the order of their keys; a key begins with its source, as in `k8s:app`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(BTreeMap<String, String>);

/// What a pod's identity is made of.
#[derive(Clone, Copy, Debug)]
pub struct PodLabels<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Labels of the namespace object.
    pub namespace_labels: &'a LabelMap,
    /// Service account of the pod.
    pub service_account: &'a str,
    /// Labels of the pod object.
    pub labels: &'a LabelMap,
}

impl Labels {
    /// The one label `reserved:<name>`.
    #[must_use]
    pub fn reserved(name: &str) -> Self {
        Self(BTreeMap::from([(
            format!("reserved:{name}"),
            String::new(),
        )]))
    }

    /// True without any label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `key` (with its source).
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Every label, key first, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Every label as users see it: `source:key=value`, or `source:key` without a value.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        self.iter()
            .map(|(key, value)| {
                if value.is_empty() {
                    key.to_owned()
                } else {
                    format!("{key}={value}")
                }
            })
            .collect()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_strings().join(","))
    }
}

impl FromIterator<String> for Labels {
    fn from_iter<I: IntoIterator<Item = String>>(texts: I) -> Self {
        let split = |text: String| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (text, String::new()),
        };
        Self(texts.into_iter().map(split).collect())
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl Serialize for Labels {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.to_strings())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<String>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_a_list_of_texts() {
        let labels = Labels::reserved("host");
        let json = serde_json::to_string(&labels).unwrap();
        assert_eq!(json, r#"["reserved:host"]"#);
        assert_eq!(serde_json::from_str::<Labels>(&json).unwrap(), labels);
    }
}
