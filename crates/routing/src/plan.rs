//! What the user asked for, as far as routing is concerned.
use ipnet::{Ipv4Net, Ipv6Net};

/// Encapsulation between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// VXLAN.
    Vxlan,
    /// Geneve.
    Geneve,
}

impl Encapsulation {
    /// The UDP port that is used where none is given.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Vxlan => 8472,
            Self::Geneve => 6081,
        }
    }

    /// The tunnel device.
    #[must_use]
    pub const fn device(self) -> &'static str {
        match self {
            Self::Vxlan => "cilium_vxlan",
            Self::Geneve => "cilium_geneve",
        }
    }

    /// The name that users know.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }
}

/// Lifetimes of connections, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP.
    pub tcp: u32,
    /// TCP of which only the first packet was seen.
    pub tcp_syn: u32,
    /// Closing TCP.
    pub tcp_fin: u32,
    /// Other protocols.
    pub any: u32,
}

/// How much the datapath reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// Level.
    pub aggregation: abi::Aggregation,
    /// Seconds between two reports of a busy connection.
    pub interval: u32,
}

/// The settings that routing depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Pods have IPv4 addresses.
    pub ipv4: bool,
    /// Pods have IPv6 addresses.
    pub ipv6: bool,
    /// Encapsulation and its UDP port; none: no tunnel.
    pub tunnel: Option<(Encapsulation, u16)>,
    /// The tunnel is only for what is passed on to the backends of services: the network knows the way to pods.
    pub tunnel_for_services: bool,
    /// The tunnel carries the frontends of services, too.
    pub tunnel_options: bool,
    /// Install routes to the pods of nodes on the same L2 network.
    pub direct_node_routes: bool,
    /// Say nothing of nodes that direct routes cannot reach.
    pub skip_unreachable: bool,
    /// Reached without masquerading.
    pub native4: Option<Ipv4Net>,
    /// Reached without masquerading.
    pub native6: Option<Ipv6Net>,
    /// Masquerade IPv4.
    pub masquerade4: bool,
    /// Masquerade IPv6.
    pub masquerade6: bool,
    /// First port of the masquerade range.
    pub snat_min: u16,
    /// Packets of pods take the host stack.
    pub host_legacy: bool,
    /// Count per connection.
    pub accounting: bool,
    /// Lifetimes.
    pub timeouts: Timeouts,
    /// Reports.
    pub events: Events,
    /// MTU as given by the user; none: that of the devices.
    pub mtu: Option<u32>,
}

impl Plan {
    /// Whether the tunnel is the way to the pods of other nodes.
    #[must_use]
    pub const fn routes_by_tunnel(&self) -> bool {
        self.tunnel.is_some() && !self.tunnel_for_services
    }

    /// Whether a family is on.
    #[must_use]
    pub fn has(&self, ipv6: bool) -> bool {
        if ipv6 { self.ipv6 } else { self.ipv4 }
    }

    /// The families that are on, IPv4 first.
    pub fn families(&self) -> impl Iterator<Item = bool> {
        [false, true].into_iter().filter(|ipv6| self.has(*ipv6))
    }
}
