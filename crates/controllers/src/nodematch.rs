//! Whether a node suits a pod by labels and taints: what scheduler, DaemonSets and evictions have in common.
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::meta;

/// Taint of nodes that are closed to new pods.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taint of nodes that say that they are not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of nodes that say nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// The node's taints.
pub fn taints(node: &Node) -> &[Taint] {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    taints.unwrap_or_default()
}

/// Whether a node is closed to new pods.
pub fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
}

/// Whether two states of a node differ in what pods are chosen by.
pub fn differ(old: &Node, new: &Node) -> bool {
    old.metadata.labels != new.metadata.labels
        || taints(old) != taints(new)
        || is_cordoned(old) != is_cordoned(new)
}

/// Whether a pod with this toleration may live with the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let same = |wanted: &Option<String>, is: &str| {
        let wanted = wanted.as_deref().unwrap_or_default();
        wanted.is_empty() || wanted == is
    };
    if !same(&toleration.effect, &taint.effect) || !same(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            let key = toleration.key.as_deref().unwrap_or_default();
            // Without a key only the operator `Exists` means every taint.
            !key.is_empty() && toleration.value.as_deref().unwrap_or_default() == value(taint)
        }
        _ => false,
    }
}

/// The taint's value.
pub fn value(taint: &Taint) -> &str {
    taint.value.as_deref().unwrap_or_default()
}

/// Whether one of the tolerations lets a pod live with the taint.
pub fn is_tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations
        .iter()
        .any(|toleration| tolerates(toleration, taint))
}

/// The pod's tolerations.
pub fn tolerations(spec: &PodSpec) -> &[Toleration] {
    spec.tolerations.as_deref().unwrap_or_default()
}

/// The first taint that keeps pods with these tolerations away.
pub fn repelling<'a>(node: &'a Node, tolerations: &[Toleration]) -> Option<&'a Taint> {
    let mut hard = taints(node)
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.find(|taint| !is_tolerated(tolerations, taint))
}

/// Whether the node has the labels that the pod asks for, and is among those its required affinity names.
pub fn suits(spec: &PodSpec, node: &Node) -> bool {
    let has =
        |(key, value): (&String, &String)| meta::label(&node.metadata, key) == Some(value.as_str());
    let selected = spec.node_selector.iter().flatten().all(has);
    selected && required(spec).is_none_or(|selector| selects(selector, node))
}

fn required(spec: &PodSpec) -> Option<&NodeSelector> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()
}

/// Whether one of the terms selects the node.
pub fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| term_selects(term, node))
}

/// Whether a term selects the node; an empty one selects none.
pub fn term_selects(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = |requirement: &NodeSelectorRequirement| {
        let is_name = requirement.key == "metadata.name";
        is_name && meets(requirement, Some(meta::name(&node.metadata)))
    };
    let label = |requirement: &NodeSelectorRequirement| {
        meets(requirement, meta::label(&node.metadata, &requirement.key))
    };
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(label)
        && fields.iter().all(name)
}

fn meets(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|one| one == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|text| number(text));
    let found_number = found.and_then(number);
    match requirement.operator.as_str() {
        "In" => found.is_some_and(listed),
        "NotIn" => !found.is_some_and(listed),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => found_number
            .zip(bound)
            .is_some_and(|(is, bound)| is > bound),
        "Lt" => found_number
            .zip(bound)
            .is_some_and(|(is, bound)| is < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn tolerated(toleration: Value, taint: Value) -> bool {
        tolerates(
            &from_value(toleration).unwrap(),
            &from_value(taint).unwrap(),
        )
    }

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        let taint = json!({"key": "k", "value": "v", "effect": "NoSchedule"});
        let yes = [
            json!({"key": "k", "value": "v"}),
            json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}),
            json!({"operator": "Exists"}),
        ];
        let no = [
            json!({"key": "k"}),
            json!({"key": "x", "operator": "Exists"}),
            json!({"key": "k", "value": "v", "effect": "NoExecute"}),
            json!({"value": "v"}),
        ];
        for toleration in yes {
            assert!(tolerated(toleration.clone(), taint.clone()), "{toleration}");
        }
        for toleration in no {
            assert!(
                !tolerated(toleration.clone(), taint.clone()),
                "{toleration}"
            );
        }
    }

    #[test]
    fn terms_select_by_labels_and_by_name() {
        let node: Node = from_value(
            json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}}}),
        )
        .unwrap();
        let ok = |term: Value| term_selects(&from_value(term).unwrap(), &node);
        let label = |key: &str, op: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]});
        assert!(ok(label("disk", "In", &["ssd"])) && !ok(label("disk", "NotIn", &["ssd"])));
        assert!(ok(label("cores", "Gt", &["7"])) && !ok(label("cores", "Gt", &["8"])));
        assert!(ok(label("cores", "Lt", &["9"])) && !ok(label("disk", "Lt", &["9"])));
        assert!(ok(label("x", "DoesNotExist", &[])) && !ok(json!({})));
        let name = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        assert!(ok(name("n1")) && !ok(name("n2")));
    }
}
