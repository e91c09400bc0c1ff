//! Services as the node serves them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An address and port that are served (`GET /v1/service/{id}`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceInfo {
    /// Number in the kernel; zero where there was no room for it.
    pub id: u16,
    /// `10.96.0.1:443/TCP`, with `/i` at the end for clients of the cluster alone.
    pub frontend: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalIPs`, `HostPort` or `LocalRedirect`.
    pub kind: String,
    /// Where it comes from: `service shop/cart`, `pod shop/cart-0`, `local redirect policy kube-system/dns`.
    pub owner: String,
    /// Name of the port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub port_name: String,
    /// What is particular, in the words of `bpf lb list`.
    #[serde(default)]
    pub flags: Vec<String>,
    /// `random` or `maglev`.
    #[serde(default)]
    pub algorithm: String,
    /// Seconds for which a client keeps its backend; zero without affinity.
    #[serde(default)]
    pub affinity_seconds: u32,
    /// Ranges of clients that may use it, or may not where `flags` has `check source-range deny`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<String>,
    /// Those that get new connections, then those that only keep theirs.
    #[serde(default)]
    pub backends: Vec<ServiceBackend>,
}

/// A backend of a frontend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBackend {
    /// Number in the kernel; zero where there was no room for it.
    pub id: u32,
    /// `10.7.1.12:80/TCP`.
    pub address: String,
    /// `active`, `terminating`, `quarantined` or `maintenance`.
    pub state: String,
    /// Share of new connections, 100 as a rule.
    pub weight: u16,
    /// It gets new connections.
    pub used: bool,
    /// Node, where known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Zone, where known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
}

/// Something that cannot be done as an object asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceProblem {
    /// The object, as [`ServiceInfo::owner`].
    pub object: String,
    /// What is wrong.
    pub what: String,
}

/// `GET /v1/service`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceList {
    /// Every frontend, in the order of their numbers.
    pub services: Vec<ServiceInfo>,
    /// What cannot be done as asked.
    #[serde(default)]
    pub problems: Vec<ServiceProblem>,
}

/// Why a frontend has its backends (`GET /v1/service/why?frontend=…`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceWhy {
    /// The frontend.
    pub service: ServiceInfo,
    /// Everybody who might serve it.
    #[serde(default)]
    pub candidates: Vec<ServiceCandidate>,
    /// Other objects that want the same address and port.
    #[serde(default)]
    pub others: Vec<String>,
    /// What besides matters.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Somebody who might serve a frontend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceCandidate {
    /// `10.7.1.12:80/TCP`.
    pub address: String,
    /// Whether it gets new connections, and why it does not, in words.
    pub fate: String,
    /// It gets new connections.
    pub used: bool,
    /// Where it is, as far as known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
}

/// How services are, as a part of `GET /v1/healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesStatus {
    /// Services are served here: the node needs no kube-proxy.
    pub enabled: bool,
    /// What of the inputs is not known yet; empty once everything was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub missing: String,
    /// Sockets are translated.
    #[serde(default)]
    pub sockets: bool,
    /// Sockets of the host alone are.
    #[serde(default)]
    pub host_sockets_only: bool,
    /// Devices with the addresses at which node ports are served.
    #[serde(default)]
    pub devices: BTreeMap<String, Vec<String>>,
    /// The device by which other nodes are reached.
    #[serde(default)]
    pub direct_device: String,
    /// `snat`, `dsr` or `hybrid`.
    #[serde(default)]
    pub mode: String,
    /// `opt` or `geneve`.
    #[serde(default)]
    pub dsr_dispatch: String,
    /// `random` or `maglev`.
    #[serde(default)]
    pub algorithm: String,
    /// Places of a Maglev table.
    #[serde(default)]
    pub maglev_size: u32,
    /// Clients may keep their backend.
    #[serde(default)]
    pub affinity: bool,
    /// Backends that are about to end keep their connections.
    #[serde(default)]
    pub graceful_termination: bool,
    /// A service of one family may have backends of the other.
    #[serde(default)]
    pub nat46x64: bool,
    /// `disabled`, `native`, `best-effort` or `testing-only`.
    #[serde(default)]
    pub acceleration: String,
    /// First and last port of services on nodes.
    #[serde(default)]
    pub node_ports: (u16, u16),
    /// Annotations of services that are followed.
    #[serde(default)]
    pub annotations: Vec<String>,
    /// Frontends in the kernel, by kind.
    #[serde(default)]
    pub frontends: BTreeMap<String, u64>,
    /// Backends in the kernel.
    #[serde(default)]
    pub backends: u64,
    /// Rows of each map of services: how many there are and how many fit.
    #[serde(default)]
    pub maps: BTreeMap<String, (u64, u64)>,
    /// What cannot be done as objects ask, counted.
    #[serde(default)]
    pub problems: u64,
    /// What this machine cannot do, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
}
