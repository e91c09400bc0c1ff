//! `CiliumNodeConfig`: settings of the agents of some nodes.
use super::{
    AGE, Crd, Scope,
    schema::{Object, label_selector, map, text},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) const CRD: Crd = Crd {
    kind: "CiliumNodeConfig",
    plural: "ciliumnodeconfigs",
    short: &[],
    scope: Scope::Namespaced,
    versions: &["v2", "v2alpha1"],
    status: false,
    categories: &[],
    columns: &[AGE],
    schema,
};

/// Settings of the agents of some nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumNodeConfig {
    /// Name and the like.
    pub metadata: ObjectMeta,
    /// Which nodes, which settings.
    pub spec: CiliumNodeConfigSpec,
}

/// Which nodes, which settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CiliumNodeConfigSpec {
    /// The nodes, by the labels of their objects.
    pub node_selector: LabelSelector,
    /// Settings by key.
    pub defaults: BTreeMap<String, String>,
}

/// A selector of labels; an empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must have exactly these values.
    pub match_labels: BTreeMap<String, String>,
    /// Conditions that must all hold.
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// One condition of a selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelSelectorRequirement {
    /// Label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values for the first two.
    pub values: Vec<String>,
}

impl LabelSelector {
    /// Whether it selects what has these labels. A condition with an unknown operator selects nothing.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.match_labels.iter().all(equal)
            && self.match_expressions.iter().all(|one| one.holds(labels))
    }
}

impl LabelSelectorRequirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

fn schema() -> Value {
    let spec = Object::new("Which nodes, which settings.")
        .required(
            "nodeSelector",
            label_selector(),
            "The nodes, by the labels of their objects.",
        )
        .required(
            "defaults",
            map(text()),
            "Settings by key; they stand above those of the ConfigMap.",
        );
    Object::new("Settings of the agents of some nodes.")
        .required("spec", spec.build(), "Which nodes, which settings.")
        .root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_select_as_those_of_kubernetes() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let condition = |operator: &str, values: &[&str]| LabelSelector {
            match_expressions: vec![LabelSelectorRequirement {
                key: "zone".to_owned(),
                operator: operator.to_owned(),
                values: values.iter().map(|v| (*v).to_owned()).collect(),
            }],
            ..LabelSelector::default()
        };
        assert!(LabelSelector::default().selects(&labels));
        assert!(condition("In", &["a", "b"]).selects(&labels));
        assert!(!condition("In", &["b"]).selects(&labels));
        assert!(condition("NotIn", &["b"]).selects(&labels));
        assert!(condition("NotIn", &["b"]).selects(&BTreeMap::new()));
        assert!(condition("Exists", &[]).selects(&labels));
        assert!(condition("DoesNotExist", &[]).selects(&BTreeMap::new()));
        assert!(!condition("Near", &["a"]).selects(&labels));
        let exact = LabelSelector {
            match_labels: [("zone".to_owned(), "b".to_owned())].into(),
            ..LabelSelector::default()
        };
        assert!(!exact.selects(&labels));
    }
}
