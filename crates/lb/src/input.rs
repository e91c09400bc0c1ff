//! What is known: services, what is behind them, pods of this node, and the node itself.
pub use model::Protocol;
pub use model::service::{
    Endpoint, HostPort, Ingress, Service, ServicePort, ServiceType, Slice, SlicePort,
    TrafficPolicy, names,
};
use model::{LabelMap, Text};
use std::net::IpAddr;

/// Label of a node: its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// This node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: Text,
    /// Zone; empty where unknown.
    pub zone: Text,
    /// Labels.
    pub labels: LabelMap,
    /// Addresses at which node ports and ports of pods on the host are served, see [`crate::node_addresses`].
    pub addresses: Vec<IpAddr>,
}

impl Node {
    /// What a node object says, with the addresses at which this node serves node ports.
    #[must_use]
    pub fn new(object: &model::Node, addresses: Vec<IpAddr>) -> Self {
        Self {
            name: Text::shared(&object.name),
            zone: Text::shared(object.labels.get(ZONE).unwrap_or_default()),
            labels: object.labels.clone(),
            addresses,
        }
    }
}

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// `namespace/name`.
    pub key: Text,
    /// Labels.
    pub labels: LabelMap,
    /// When it was created, in seconds.
    pub created: i64,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It uses the node's own network.
    pub host_network: bool,
    /// Condition `Ready`.
    pub ready: bool,
    /// It was asked to end, or has ended.
    pub terminating: bool,
    /// Ports on the host.
    pub host_ports: Vec<HostPort>,
}

impl From<&model::Pod> for Pod {
    fn from(pod: &model::Pod) -> Self {
        Self {
            key: pod.key.clone(),
            labels: pod.labels.clone(),
            created: pod.created,
            addresses: pod.addresses.to_vec(),
            host_network: pod.host_network,
            ready: pod.ready,
            terminating: pod.terminating || pod.finished,
            host_ports: pod.host_ports.to_vec(),
        }
    }
}

/// What is said of a backend besides what slices say: by health checks, or by a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Its health check fails.
    Quarantined,
    /// It is to get nothing new.
    Maintenance,
}
