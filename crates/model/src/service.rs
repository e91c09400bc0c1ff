//! Services, and what is behind them, as Kubernetes says it.
use crate::{LabelMap, Protocol, Text};
use serde::Serialize;
use std::net::IpAddr;
use tables::{Db, DuplicateTable, Index, Row, Table, TableDef};

/// Type of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TrafficPolicy {
    /// Those of the cluster.
    #[default]
    Cluster,
    /// Those of the node.
    Local,
}

/// How many families a service has (`ipFamilyPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Families {
    /// One.
    #[default]
    Single,
    /// Both where the cluster has both.
    PreferDual,
    /// Both.
    RequireDual,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ingress {
    /// The address.
    pub address: IpAddr,
    /// Packets must not be short-cut to the service on the node: `ipMode: Proxy`.
    pub proxy: bool,
}

/// A service object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// `namespace/name`.
    pub key: Text,
    /// Labels.
    pub labels: LabelMap,
    /// Annotations, of which only those with our prefixes are kept.
    pub annotations: LabelMap,
    /// When it was created, in seconds: of two that want the same, the older one gets it.
    pub created: i64,
    /// Type.
    pub kind: ServiceType,
    /// The pods behind it; empty where somebody else says what is behind it.
    pub selector: LabelMap,
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
    /// `loadBalancerIP`; empty is none.
    pub wanted_address: Text,
    /// `ipFamilyPolicy`.
    pub families: Families,
    /// `ipFamilies`: whether each is IPv6.
    pub ipv6: Vec<bool>,
    /// What of the object cannot be read, and is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlicePort {
    /// Name of the service's port.
    pub name: Text,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the endpoints.
    pub port: u16,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// `namespace/name` of the slice.
    pub key: Text,
    /// `namespace/name` of its service; empty where it has none.
    pub service: Text,
    /// Annotations, of which only those with our prefixes are kept.
    pub annotations: LabelMap,
    /// Ports.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// What of the object cannot be read, and is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A port of a pod on its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// A custom object that says what somebody wants, not yet read any further.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Declared {
    /// `namespace/name`, or the name of what has no namespace.
    pub key: Text,
    /// Unique number of this incarnation.
    pub uid: Box<str>,
    /// When it was created, in seconds.
    pub created: i64,
    /// Its `spec`, as JSON.
    pub spec: Box<str>,
    /// The conditions of its status, as JSON; empty without.
    pub conditions: Box<str>,
}

/// An address of a service that this node answers for, on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Announcement {
    /// The address.
    #[serde(rename = "IP")]
    pub address: IpAddr,
    /// Name of the device.
    #[serde(rename = "NetworkInterface")]
    pub device: Text,
}

impl Row for Announcement {
    type Key = (IpAddr, Text);

    fn key(&self) -> Self::Key {
        (self.address, self.device.clone())
    }
}

macro_rules! keyed {
    ($($type:ty),+) => {
        $(impl Row for $type {
            type Key = Text;

            fn key(&self) -> Text {
                self.key.clone()
            }
        })+
    };
}

keyed!(Service, Slice, Declared);

/// Input, from Kubernetes: services, what is behind them, and what else says how they are served.
#[derive(Clone, Debug)]
pub struct ServiceTables {
    /// Services.
    pub services: Table<Service>,
    /// EndpointSlices.
    pub slices: Table<Slice>,
    /// Those by `namespace/name` of their service.
    pub slices_by_service: Index<Slice, Text>,
    /// CiliumLocalRedirectPolicies.
    pub redirects: Table<Declared>,
    /// CiliumL2AnnouncementPolicies.
    pub l2_policies: Table<Declared>,
    /// Which of their addresses this node answers for; whoever holds the leases writes it.
    pub announcements: Table<Announcement>,
}

impl ServiceTables {
    pub(crate) fn register(db: &Db) -> Result<Self, DuplicateTable> {
        let mut slices = watched("endpoint-slices");
        let slices_by_service = slices.index("service", |row: &Slice| [row.service.clone()]);
        Ok(Self {
            services: db.register(watched("services"))?,
            slices: db.register(slices)?,
            slices_by_service,
            redirects: db.register(watched("local-redirect-policies"))?,
            l2_policies: db.register(watched("l2-announcement-policies"))?,
            announcements: db.register(TableDef::new("l2-announce"))?,
        })
    }
}

fn watched<T: Row>(name: &'static str) -> TableDef<T> {
    let mut def = TableDef::new(name);
    def.initializer(crate::KUBERNETES);
    def
}
