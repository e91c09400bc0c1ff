//! What is known: services, what is behind them, pods of this node, and the node itself.
use model::{LabelMap, Text};
use std::{fmt, net::IpAddr};

/// A transport protocol that services can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol of this name; none given means TCP, as in Kubernetes.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "" | "TCP" => Self::Tcp,
            "UDP" => Self::Udp,
            "SCTP" => Self::Sctp,
            _ => return None,
        })
    }

    /// The number in an IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            132 => Self::Sctp,
            _ => return None,
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Type of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceType {
    /// An address in the cluster, or none (headless).
    #[default]
    ClusterIp,
    /// And a port of every node.
    NodePort,
    /// And addresses outside.
    LoadBalancer,
    /// A name only.
    ExternalName,
}

impl ServiceType {
    /// The type of this name; none given means `ClusterIP`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "" | "ClusterIP" => Self::ClusterIp,
            "NodePort" => Self::NodePort,
            "LoadBalancer" => Self::LoadBalancer,
            "ExternalName" => Self::ExternalName,
            _ => return None,
        })
    }
}

/// Which backends a frontend has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// Those of the cluster.
    #[default]
    Cluster,
    /// Those of the node.
    Local,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty where there is but one.
    pub name: Text,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
    /// Port on nodes; zero is none.
    pub node_port: u16,
}

/// An address in the status of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// The address.
    pub address: IpAddr,
    /// Packets must not be short-cut to the service on the node: `ipMode: Proxy`.
    pub proxy: bool,
}

/// A service object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`.
    pub key: Text,
    /// Labels.
    pub labels: LabelMap,
    /// Annotations; only those of [`crate::annotations`] are read.
    pub annotations: LabelMap,
    /// When it was created, in seconds: of two that want the same, the older one gets it.
    pub created: i64,
    /// Type.
    pub kind: ServiceType,
    /// Addresses in the cluster; empty for a headless service.
    pub cluster_ips: Vec<IpAddr>,
    /// `externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses in the status.
    pub ingress: Vec<Ingress>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// For what comes from outside.
    pub external_policy: TrafficPolicy,
    /// For what comes from the cluster.
    pub internal_policy: TrafficPolicy,
    /// Seconds for which a client keeps its backend.
    pub affinity: Option<u32>,
    /// `loadBalancerSourceRanges`, as written.
    pub source_ranges: Vec<Text>,
    /// Backends count as ready whatever they say.
    pub publish_not_ready: bool,
    /// `healthCheckNodePort`; zero is none.
    pub health_check_port: u16,
    /// `loadBalancerClass`; empty is none.
    pub class: Text,
}

impl Service {
    /// Namespace and name.
    #[must_use]
    pub fn names(&self) -> (&str, &str) {
        names(&self.key)
    }
}

/// Namespace and name of a key `namespace/name`; what has no namespace has an empty one.
#[must_use]
pub fn names(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// A port of the endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the service's port.
    pub name: Text,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the endpoints.
    pub port: u16,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address; all of an endpoint's addresses are as good as the first.
    pub address: IpAddr,
    /// Condition `ready`; absent is true.
    pub ready: bool,
    /// Condition `serving`; absent is as `ready`.
    pub serving: bool,
    /// Condition `terminating`; absent is false.
    pub terminating: bool,
    /// Node; empty where unknown.
    pub node: Text,
    /// Zone; empty where unknown.
    pub zone: Text,
    /// Zones that should use it.
    pub zones: Box<[Text]>,
    /// Nodes that should use it.
    pub nodes: Box<[Text]>,
}

impl Endpoint {
    /// A ready endpoint of a node, without zone and hints.
    #[must_use]
    pub fn ready(address: IpAddr, node: &str) -> Self {
        Self {
            address,
            ready: true,
            serving: true,
            terminating: false,
            node: Text::shared(node),
            zone: Text::default(),
            zones: Box::default(),
            nodes: Box::default(),
        }
    }
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// `namespace/name` of the slice.
    pub key: Text,
    /// `namespace/name` of its service; empty where it has none.
    pub service: Text,
    /// Annotations; only the weight is read.
    pub annotations: LabelMap,
    /// Ports.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

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

/// A port of a pod on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Address of the host; none is all.
    pub address: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the container.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
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

/// What is said of a backend besides what slices say: by health checks, or by a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Its health check fails.
    Quarantined,
    /// It is to get nothing new.
    Maintenance,
}
