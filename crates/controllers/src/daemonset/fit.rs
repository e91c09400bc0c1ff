//! Which nodes a DaemonSet wants, and its pods for them.
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{
        Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
        Toleration,
    },
};

use crate::{history::HASH, meta, nodematch, pods};

const NAME_FIELD: &str = "metadata.name";
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";
/// What the pods of every DaemonSet may live with.
const TOLERATED: [(&str, &str); 6] = [
    (nodematch::NOT_READY, "NoExecute"),
    (nodematch::UNREACHABLE, "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    (nodematch::UNSCHEDULABLE, "NoSchedule"),
];

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let exists = |(key, effect): (&str, &str)| Toleration {
        key: Some(key.into()),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    };
    let own = spec.tolerations.clone().unwrap_or_default();
    let on_host = spec.host_network == Some(true);
    let network = on_host.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let mut all = own;
    for toleration in TOLERATED.into_iter().chain(network).map(exists) {
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

/// Whether the set wants a pod on the node, and whether one that is there may stay.
pub(super) fn suits(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let spec = set.spec.template.spec.clone().unwrap_or_default();
    let other = spec
        .node_name
        .as_deref()
        .is_some_and(|name| !name.is_empty() && name != meta::name(&node.metadata));
    if other || meta::is_ending(&node.metadata) || !nodematch::suits(&spec, node) {
        return (false, false);
    }
    let tolerations = tolerations(&spec);
    let mut evicting = nodematch::taints(node)
        .iter()
        .filter(|t| t.effect == "NoExecute");
    let tolerated = evicting.all(|taint| nodematch::is_tolerated(&tolerations, taint));
    (
        nodematch::repelling(node, &tolerations).is_none(),
        tolerated,
    )
}

/// The node a pod is on, or is meant for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node(pod) {
        return Some(node);
    }
    let affinity = pod
        .spec
        .as_ref()?
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required.node_selector_terms.iter();
    let mut fields = fields.flat_map(|term| term.match_fields.iter().flatten());
    let named = fields.find(|field| field.key == NAME_FIELD && field.operator == "In")?;
    named.values.as_ref()?.first().map(String::as_str)
}

/// A pod of the current template that only this node will do for.
pub(super) fn pod_for(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let mut pod = pods::from_template(set, &set.spec.template);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.into());
    if let Some(generation) = meta::annotation(&set.metadata, GENERATION) {
        labels.insert(GENERATION_LABEL.into(), generation.into());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let only = NodeSelectorRequirement {
        key: NAME_FIELD.into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity = affinity.node_affinity.get_or_insert_default();
    // The template's own terms were looked at when the node was chosen.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![only]),
        }],
    });
    pod
}
