//! The cluster as one round of scheduling sees it: nodes with their pods, kept up to date as pods are placed.
use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Namespace, Node, Pod, PodAffinityTerm, PodSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};

use super::resources::{self, Amounts, Capacity};
use crate::{Key, World, meta, pods};

/// All nodes.
pub(super) struct Cluster<'a> {
    pub(super) nodes: Vec<NodeView>,
    pub(super) world: &'a World,
    /// Pods that keep others away, with the place of their node.
    pub(super) repelling: Vec<(usize, Arc<Pod>)>,
}

/// A node.
pub(super) struct NodeView {
    pub(super) node: Arc<Node>,
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) used: Amounts,
    pub(super) capacity: Capacity,
    pub(super) ports: Vec<HostPort>,
}

/// A port of the node that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    protocol: String,
    address: String,
    port: i32,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        let any = |address: &str| address.is_empty() || address == "0.0.0.0" || address == "::";
        let same = self.address == other.address || any(&self.address) || any(&other.address);
        self.port == other.port && self.protocol == other.protocol && same
    }
}

/// The ports of the node that a pod asks for.
pub(super) fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let wanted = ports.filter_map(|port| {
        let on_host = spec.host_network == Some(true);
        let number = port.host_port.or(on_host.then_some(port.container_port))?;
        (number > 0).then(|| HostPort {
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            address: port.host_ip.clone().unwrap_or_default(),
            port: number,
        })
    });
    wanted.collect()
}

impl<'a> Cluster<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let nodes = world.all::<Node>().iter();
        let nodes = nodes.filter(|node| !meta::is_ending(&node.metadata));
        let mut cluster = Self {
            nodes: nodes.map(|node| NodeView::new(node.clone())).collect(),
            world,
            repelling: Vec::new(),
        };
        for index in 0..cluster.nodes.len() {
            let name = cluster.nodes[index].name().to_owned();
            for pod in world
                .all::<Pod>()
                .group(&name)
                .filter(|p| !pods::is_over(p))
            {
                cluster.place(index, pod.clone());
            }
        }
        cluster
    }

    /// The pod is on this node from now on.
    pub(super) fn place(&mut self, index: usize, pod: Arc<Pod>) {
        let Some(view) = self.nodes.get_mut(index) else {
            return;
        };
        if let Some(spec) = &pod.spec {
            view.used.add(&resources::requests(spec));
            view.ports.extend(host_ports(spec));
            if !anti_terms(spec).is_empty() {
                self.repelling.push((index, pod.clone()));
            }
        }
        view.pods.push(pod);
    }

    /// Whether a term of `owner` means this pod.
    pub(super) fn term_means(&self, term: &PodAffinityTerm, owner: &Pod, pod: &Pod) -> bool {
        let namespace = meta::namespace(&pod.metadata);
        let named = term.namespaces.as_deref().unwrap_or_default();
        let in_namespace = match &term.namespace_selector {
            None if named.is_empty() => namespace == meta::namespace(&owner.metadata),
            None => named.iter().any(|name| name == namespace),
            Some(selector) => {
                named.iter().any(|name| name == namespace) || {
                    let object = self.world.get::<Namespace>(&Key::new("", namespace));
                    let labels = object.and_then(|object| object.metadata.labels.as_ref());
                    meta::selects(selector, labels)
                }
            }
        };
        let Some(selector) = &term.label_selector else {
            return false;
        };
        let keys = term.match_label_keys.as_deref().unwrap_or_default();
        let not = term.mismatch_label_keys.as_deref().unwrap_or_default();
        let selector = narrowed(selector, keys, not, owner);
        in_namespace && meta::selects(&selector, pod.metadata.labels.as_ref())
    }
}

/// A selector with the values that the owner has for the listed labels: the same (`keys`), or another one (`not`).
pub(super) fn narrowed(
    selector: &LabelSelector,
    keys: &[String],
    not: &[String],
    owner: &Pod,
) -> LabelSelector {
    let mut selector = selector.clone();
    for (list, operator) in [(keys, "In"), (not, "NotIn")] {
        for key in list {
            if let Some(value) = meta::label(&owner.metadata, key) {
                let requirements = selector.match_expressions.get_or_insert_default();
                requirements.push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.into(),
                    values: Some(vec![value.to_owned()]),
                });
            }
        }
    }
    selector
}

/// The terms of pods that must be near.
pub(super) fn affinity_terms(spec: &PodSpec) -> &[PodAffinityTerm] {
    let affinity = spec.affinity.as_ref().and_then(|a| a.pod_affinity.as_ref());
    affinity
        .and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default()
}

/// The terms of pods that must not be near.
pub(super) fn anti_terms(spec: &PodSpec) -> &[PodAffinityTerm] {
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|a| a.pod_anti_affinity.as_ref());
    affinity
        .and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default()
}

impl NodeView {
    fn new(node: Arc<Node>) -> Self {
        Self {
            capacity: Capacity::of(&node),
            node,
            pods: Vec::new(),
            used: Amounts::default(),
            ports: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        meta::name(&self.node.metadata)
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        meta::label(&self.node.metadata, key)
    }
}

/// How many pods of each value of a label of nodes a test accepts; nodes without the label do not count.
pub(super) fn by_domain<'c>(
    cluster: &'c Cluster<'_>,
    key: &str,
    counts_node: impl Fn(&NodeView) -> bool,
    counts_pod: impl Fn(&Pod) -> bool,
) -> BTreeMap<&'c str, usize> {
    let mut domains = BTreeMap::new();
    for view in cluster.nodes.iter().filter(|view| counts_node(view)) {
        if let Some(domain) = view.label(key) {
            let found = view.pods.iter().filter(|pod| counts_pod(pod)).count();
            *domains.entry(domain).or_default() += found;
        }
    }
    domains
}
