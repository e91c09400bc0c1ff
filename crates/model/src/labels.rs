//! Labels with their source, and which of a pod's labels make its identity.
use crate::LabelMap;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Key of the label that holds a pod's namespace.
pub const POD_NAMESPACE: &str = "k8s:io.kubernetes.pod.namespace";
/// Prefix of the labels that repeat the labels of a pod's namespace.
pub const POD_NAMESPACE_LABELS: &str = "k8s:io.cilium.k8s.namespace.labels.";
/// Key of the label that holds the name of a pod's cluster.
pub const POD_CLUSTER: &str = "k8s:io.cilium.k8s.policy.cluster";
/// Key of the label that holds the name of a pod's service account.
pub const POD_SERVICE_ACCOUNT: &str = "k8s:io.cilium.k8s.policy.serviceaccount";

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

/// Prefixes of label keys that say nothing about what a pod is: they are set by controllers and differ from one
/// replica or rollout to the next, and an identity each would be waste.
const IRRELEVANT: [&str; 10] = [
    "io.kubernetes",
    "kubernetes.io",
    "k8s.io",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "annotation.",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/",
];

impl Labels {
    /// The security-relevant labels of a pod.
    #[must_use]
    pub fn of_pod(pod: &PodLabels<'_>) -> Self {
        let mut all: BTreeMap<String, String> = pod
            .labels
            .iter()
            .filter(|(key, _)| is_relevant(key))
            .map(|(key, value)| (format!("k8s:{key}"), value.to_owned()))
            .collect();
        for (key, value) in pod.namespace_labels.iter() {
            all.insert(format!("{POD_NAMESPACE_LABELS}{key}"), value.to_owned());
        }
        // The API server sets this one on every namespace; setting it here lets all nodes agree before they saw the object.
        all.insert(
            format!("{POD_NAMESPACE_LABELS}kubernetes.io/metadata.name"),
            pod.namespace.to_owned(),
        );
        all.insert(POD_NAMESPACE.to_owned(), pod.namespace.to_owned());
        all.insert(POD_CLUSTER.to_owned(), pod.cluster.to_owned());
        let account = if pod.service_account.is_empty() {
            "default"
        } else {
            pod.service_account
        };
        all.insert(POD_SERVICE_ACCOUNT.to_owned(), account.to_owned());
        Self(all)
    }

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

fn is_relevant(key: &str) -> bool {
    if key.starts_with("app.kubernetes.io") {
        return true;
    }
    !key.contains("beta.kubernetes.io") && !IRRELEVANT.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> LabelMap {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn pod_labels_leave_out_what_controllers_set() {
        let labels = map(&[
            ("app", "cart"),
            ("pod-template-hash", "x1"),
            ("app.kubernetes.io/name", "cart"),
        ]);
        let namespace_labels = map(&[("team", "shop")]);
        let got = Labels::of_pod(&PodLabels {
            cluster: "default",
            namespace: "shop",
            namespace_labels: &namespace_labels,
            service_account: "",
            labels: &labels,
        });
        assert_eq!(
            got.to_strings(),
            [
                "k8s:app=cart",
                "k8s:app.kubernetes.io/name=cart",
                "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
                "k8s:io.cilium.k8s.namespace.labels.team=shop",
                "k8s:io.cilium.k8s.policy.cluster=default",
                "k8s:io.cilium.k8s.policy.serviceaccount=default",
                "k8s:io.kubernetes.pod.namespace=shop",
            ]
        );
    }

    #[test]
    fn json_is_a_list_of_texts() {
        let labels = Labels::reserved("host");
        let json = serde_json::to_string(&labels).unwrap();
        assert_eq!(json, r#"["reserved:host"]"#);
        assert_eq!(serde_json::from_str::<Labels>(&json).unwrap(), labels);
    }
}
