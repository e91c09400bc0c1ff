//! What the user chose, as far as load balancing is concerned.
use crate::frontend::Algorithm;
use crate::maglev;
use model::Text;
use std::ops::RangeInclusive;

/// How packets from outside get to a backend on another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// With this node's address as source: the answer comes back this way.
    #[default]
    Snat,
    /// With the client's address: the backend's node answers by itself.
    Dsr,
    /// Direct answers for TCP, this node's address for the rest.
    Hybrid,
}

impl Forwarding {
    /// The mode of this name: `snat`, `dsr` or `hybrid`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "snat" => Self::Snat,
            "dsr" => Self::Dsr,
            "hybrid" => Self::Hybrid,
            _ => return None,
        })
    }
}

/// How much the kernel's maps hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of addresses, frontends and their slots, per family.
    pub services: usize,
    /// Rows of backends, per family.
    pub backends: usize,
    /// Rows of session affinity.
    pub affinity: usize,
    /// Source ranges, per family.
    pub sources: usize,
    /// Maglev tables, per family.
    pub tables: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: 65_536,
            backends: 65_536,
            affinity: 65_536,
            sources: 65_536,
            tables: 65_536,
        }
    }
}

/// The settings that plans depend on. Another set means another planner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Frontends and backends have IPv4 addresses.
    pub ipv4: bool,
    /// Frontends and backends have IPv6 addresses.
    pub ipv6: bool,
    /// How a backend is chosen where a service does not say (`bpf-lb-algorithm`).
    pub algorithm: Algorithm,
    /// Services may say it by annotation (`bpf-lb-algorithm-annotation`).
    pub algorithm_annotation: bool,
    /// Size and seed of Maglev tables.
    pub maglev: maglev::Shape,
    /// How packets are passed on where a service does not say (`bpf-lb-mode`).
    pub forwarding: Forwarding,
    /// Services may say it by annotation (`bpf-lb-mode-annotation`).
    pub forwarding_annotation: bool,
    /// Hints of slices count (`enable-service-topology`).
    pub topology: bool,
    /// Session affinity (`enable-session-affinity`).
    pub affinity: bool,
    /// `internalTrafficPolicy` counts (`enable-internal-traffic-policy`).
    pub internal_policy: bool,
    /// Backends that terminate serve where nothing else does (`enable-k8s-terminating-endpoint`).
    pub terminating: bool,
    /// Node ports (`enable-node-port`).
    pub node_ports: bool,
    /// Where node ports should lie; others are served, and complained of.
    pub node_port_range: RangeInclusive<u16>,
    /// `externalIPs` of services (`enable-external-ips`).
    pub external_ips: bool,
    /// Ports of pods on the host (`enable-host-port`).
    pub host_ports: bool,
    /// Local redirect policies (`enable-local-redirect-policy`).
    pub local_redirects: bool,
    /// Cluster addresses are served to the outside, too (`bpf-lb-external-clusterip`).
    pub external_cluster_ip: bool,
    /// `loadBalancerSourceRanges` count (`enable-svc-source-range-check`).
    pub source_ranges: bool,
    /// They count for node ports and external addresses, too (`bpf-lb-source-range-all-types`).
    pub source_ranges_all: bool,
    /// A frontend of one family may have backends of the other (`enable-nat46x64-gateway`).
    pub nat46x64: bool,
    /// Services are ours whose label `service.kubernetes.io/service-proxy-name` has this value; empty: those without it.
    pub proxy_name: Text,
    /// Capacity of the maps.
    pub limits: Limits,
    /// A number that was given back rests for so many generations, see [`crate::Planner::tick`].
    pub rest: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: true,
            algorithm: Algorithm::Random,
            algorithm_annotation: false,
            maglev: maglev::Shape::default(),
            forwarding: Forwarding::Snat,
            forwarding_annotation: false,
            topology: false,
            affinity: true,
            internal_policy: true,
            terminating: true,
            node_ports: true,
            node_port_range: 30_000..=32_767,
            external_ips: true,
            host_ports: true,
            local_redirects: true,
            external_cluster_ip: false,
            source_ranges: true,
            source_ranges_all: false,
            nat46x64: false,
            proxy_name: Text::default(),
            limits: Limits::default(),
            rest: 2,
        }
    }
}

impl Settings {
    /// Whether a family is on.
    #[must_use]
    pub fn has(&self, ipv6: bool) -> bool {
        if ipv6 { self.ipv6 } else { self.ipv4 }
    }
}
