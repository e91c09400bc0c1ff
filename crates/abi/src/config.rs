//! What the agent tells the programs when it loads them.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How packets reach pods on other nodes ([`DatapathConfig::routing`]).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// The network knows the way to pod addresses.
    Native = 0,
    /// Encapsulated; the source identity is the tunnel's key.
    Tunnel = 1,
}

/// How a packet carries its frontend to the node of the backend, which then answers the client itself
/// ([`DatapathConfig::dsr_dispatch`]).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsrDispatch {
    /// It does not: all answers come back by the node that was asked.
    None = 0,
    /// An IPv4 option, an IPv6 destination option.
    Option = 1,
    /// An option of a Geneve tunnel.
    Geneve = 2,
}

/// How many packets are reported ([`DatapathConfig::aggregation`]).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aggregation {
    /// Every packet at every point.
    None = 0,
    /// Every packet, but not where it is received.
    Lowest = 1,
    /// As `Lowest`.
    Low = 2,
    /// Per connection and direction: its first packet, new TCP flags, and once per interval.
    Medium = 3,
    /// As `Medium`.
    Maximum = 4,
}

/// Value of the read-only global [`crate::names::CONFIG_GLOBAL`]; the verifier sees constants and drops the code of what is off.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DatapathConfig {
    /// Cookie of the node's own network namespace.
    pub host_netns: u64,
    /// Tunnel device; zero without a tunnel.
    pub tunnel_ifindex: u32,
    /// Seconds between two reports of a busy connection.
    pub report_interval: u32,
    /// Lifetime of an established TCP connection, seconds.
    pub ct_tcp: u32,
    /// Lifetime of a TCP connection of which only the first SYN was seen, seconds.
    pub ct_tcp_syn: u32,
    /// Lifetime of a TCP connection that is closing, seconds.
    pub ct_tcp_fin: u32,
    /// Lifetime of anything else, seconds.
    pub ct_any: u32,
    /// First port of the masquerade range, host order.
    pub snat_min: u16,
    /// Last port of the masquerade range, host order.
    pub snat_max: u16,
    /// A [`Routing`].
    pub routing: u8,
    /// An [`Aggregation`].
    pub aggregation: u8,
    /// 1: IPv4 is on.
    pub ipv4: u8,
    /// 1: IPv6 is on.
    pub ipv6: u8,
    /// 1: masquerade IPv4 to `node_ipv4`.
    pub masquerade4: u8,
    /// 1: masquerade IPv6 to `node_ipv6`.
    pub masquerade6: u8,
    /// 1: packets of pods take the host stack, not the redirect path.
    pub host_legacy: u8,
    /// 1: count packets and bytes per connection.
    pub accounting: u8,
    /// 1: the kernel has a clock that is cheap to read (Linux 5.11). The loader finds that out and sets it.
    pub coarse_clock: u8,
    /// 1: policy is asked about what the node itself sends and receives, too, where its addresses have a subject.
    pub host_firewall: u8,
    /// UDP port of the tunnel, host order; zero without one. The host firewall lets it in.
    pub tunnel_port: u16,
    /// 1: services are translated.
    pub services: u8,
    /// 1: sockets of pods are left alone; their packets are translated.
    pub sock_host_only: u8,
    /// 1: what a frontend without backends gets is dropped without an answer.
    pub no_backend_drops: u8,
    /// A [`DsrDispatch`].
    pub dsr_dispatch: u8,
    /// First node port, host order.
    pub node_port_min: u16,
    /// Last node port, host order.
    pub node_port_max: u16,
    /// Places of a Maglev table.
    pub maglev_size: u32,
    /// 1: programs at sockets can say why they refuse a call (Linux 6.1). The loader finds that out and sets it.
    pub refusal_says_why: u8,
    /// 1: the node's processes cannot bind a port at which a service is served.
    pub bind_protection: u8,
    /// 1: services that are translated at sockets are reported.
    pub trace_sock: u8,
    /// 1: there is a program for devices' drivers.
    pub xdp: u8,
    /// Device of this node that leads to the proxy; zero: there is no proxy, and what policy wants to go there is dropped.
    pub proxy_ifindex: u32,
    /// MAC address of the proxy's own end of that device.
    pub proxy_mac: [u8; 6],
    /// MAC address of this node's end of it.
    pub proxy_node_mac: [u8; 6],
    /// Longest packet that other nodes take, in bytes from the IP header on.
    pub mtu: u32,
    /// Prefix length of `native4`.
    pub native4_len: u32,
    /// Prefix length of `native6`.
    pub native6_len: u32,
    /// Address that IPv4 traffic is masqueraded to.
    pub node_ipv4: [u8; 4],
    /// Address of `cilium_host`, the pods' IPv4 gateway.
    pub router_ipv4: [u8; 4],
    /// Destinations that are not masqueraded, IPv4; see `native4_len`.
    pub native4: [u8; 4],
    /// Address that IPv6 traffic is masqueraded to.
    pub node_ipv6: [u8; 16],
    /// Address of `cilium_host`, the pods' IPv6 gateway.
    pub router_ipv6: [u8; 16],
    /// Destinations that are not masqueraded, IPv6; see `native6_len`.
    pub native6: [u8; 16],
    /// 1: a frontend may have backends of the other family ([`crate::lb_flags::NAT46X64`]).
    pub nat46x64: u8,
    /// Zero.
    pub pad: [u8; 7],
}
