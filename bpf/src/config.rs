//! The agent's settings as constants: the verifier reads them from a frozen map and drops the code of what is off.
use abi::{Aggregation, DatapathConfig, Routing};
use wire::{V4, V6, conntrack::Timeouts, snat::Range};
use zerocopy::transmute;

use crate::maps::Maps;

/// Filled in by the agent before the programs are loaded.
#[unsafe(no_mangle)]
static CONFIG: DatapathConfig = zerocopy::transmute!([0u8; size_of::<DatapathConfig>()]);

/// Reads one setting. Volatile, or the compiler would take the zeros above for the values.
macro_rules! setting {
    ($field:ident) => {
        // SAFETY: a plain read of an initialised static.
        unsafe { core::ptr::read_volatile(&raw const CONFIG.$field) }
    };
}

pub use inner::*;

mod inner {
    use super::*;

    #[inline(always)]
    pub fn tunnel_ifindex() -> u32 {
        setting!(tunnel_ifindex)
    }

    #[inline(always)]
    pub fn is_tunnel() -> bool {
        setting!(routing) == Routing::Tunnel as u8
    }

    #[inline(always)]
    pub fn takes_host_stack() -> bool {
        setting!(host_legacy) != 0
    }

    #[inline(always)]
    pub fn accounting() -> bool {
        setting!(accounting) != 0
    }

    #[inline(always)]
    pub fn coarse_clock() -> bool {
        setting!(coarse_clock) != 0
    }

    #[inline(always)]
    pub fn host_firewall() -> bool {
        setting!(host_firewall) != 0
    }

    /// UDP port of the tunnel, host order; zero without one.
    #[inline(always)]
    pub fn tunnel_port() -> u16 {
        setting!(tunnel_port)
    }

    /// True if there is a proxy.
    #[inline(always)]
    pub fn has_proxy() -> bool {
        setting!(proxy_ifindex) != 0
    }

    /// Device that leads to the proxy.
    #[inline(always)]
    pub fn proxy_ifindex() -> u32 {
        setting!(proxy_ifindex)
    }

    /// MAC address of the proxy's end of it.
    #[inline(always)]
    pub fn proxy_mac() -> [u8; 6] {
        setting!(proxy_mac)
    }

    /// MAC address of this node's end of it.
    #[inline(always)]
    pub fn proxy_node_mac() -> [u8; 6] {
        setting!(proxy_node_mac)
    }

    /// True if every packet is reported.
    #[inline(always)]
    pub fn reports_all() -> bool {
        setting!(aggregation) < Aggregation::Medium as u8
    }

    /// True if packets are also reported where they are received.
    #[inline(always)]
    pub fn reports_receive() -> bool {
        setting!(aggregation) == Aggregation::None as u8
    }

    #[inline(always)]
    pub fn timeouts() -> Timeouts {
        Timeouts {
            tcp: setting!(ct_tcp),
            syn: setting!(ct_tcp_syn),
            fin: setting!(ct_tcp_fin),
            any: setting!(ct_any),
            report: setting!(report_interval),
        }
    }

    #[inline(always)]
    pub fn snat_range() -> Range {
        Range {
            min: setting!(snat_min),
            max: setting!(snat_max),
        }
    }

    /// True if services are translated.
    #[inline(always)]
    pub fn services() -> bool {
        setting!(services) != 0
    }

    /// True if what a frontend without backends gets is answered.
    #[inline(always)]
    pub fn refuses() -> bool {
        setting!(no_backend_drops) == 0
    }

    /// How packets carry their frontend to the node of the backend: an [`abi::DsrDispatch`].
    #[inline(always)]
    pub fn dsr_dispatch() -> u8 {
        setting!(dsr_dispatch)
    }

    /// Longest packet that other nodes take, from the IP header on.
    #[inline(always)]
    pub fn mtu() -> u32 {
        setting!(mtu)
    }

    /// Places of a Maglev table; at least one.
    #[inline(always)]
    pub fn maglev_size() -> u32 {
        match setting!(maglev_size) {
            0 => 1,
            size => size,
        }
    }

    /// Cookie of the node's own network namespace; zero: it is the first one of the machine.
    #[inline(always)]
    pub fn host_netns() -> u64 {
        setting!(host_netns)
    }

    /// True if sockets of pods are left alone.
    #[inline(always)]
    pub fn translates_host_only() -> bool {
        setting!(sock_host_only) != 0
    }

    /// True if a refused call can be given an error of its own.
    #[inline(always)]
    pub fn refusal_says_why() -> bool {
        setting!(refusal_says_why) != 0
    }

    /// True if frontends may have backends of the other family.
    #[inline(always)]
    pub fn crosses() -> bool {
        setting!(nat46x64) != 0
    }

    #[inline(always)]
    pub fn bind_protection() -> bool {
        setting!(bind_protection) != 0
    }

    /// True if it is reported how sockets are translated.
    #[inline(always)]
    pub fn traces_sockets() -> bool {
        setting!(trace_sock) != 0
    }

    #[inline(always)]
    pub fn ipv4() -> bool {
        setting!(ipv4) != 0
    }

    #[inline(always)]
    pub fn ipv6() -> bool {
        setting!(ipv6) != 0
    }
}

/// Settings that exist per family.
pub trait Settings: wire::Family {
    /// Outgoing traffic of pods is masqueraded.
    fn masquerade() -> bool;
    /// The address it is masqueraded to.
    fn node_addr() -> Self::Addr;
    /// The pods' gateway.
    fn router_addr() -> Self::Addr;
    /// True if `addr` is reached without masquerading.
    fn is_native(addr: Self::Addr) -> bool;
}

impl Settings for V4 {
    #[inline(always)]
    fn masquerade() -> bool {
        setting!(masquerade4) != 0
    }

    #[inline(always)]
    fn node_addr() -> u32 {
        transmute!(setting!(node_ipv4))
    }

    #[inline(always)]
    fn router_addr() -> u32 {
        transmute!(setting!(router_ipv4))
    }

    #[inline(always)]
    fn is_native(addr: u32) -> bool {
        let len = setting!(native4_len);
        len != 0 && <Self as wire::Family>::in_prefix(addr, transmute!(setting!(native4)), len)
    }
}

impl Settings for V6 {
    #[inline(always)]
    fn masquerade() -> bool {
        setting!(masquerade6) != 0
    }

    #[inline(always)]
    fn node_addr() -> [u64; 2] {
        transmute!(setting!(node_ipv6))
    }

    #[inline(always)]
    fn router_addr() -> [u64; 2] {
        transmute!(setting!(router_ipv6))
    }

    #[inline(always)]
    fn is_native(addr: [u64; 2]) -> bool {
        let len = setting!(native6_len);
        len != 0 && <Self as wire::Family>::in_prefix(addr, transmute!(setting!(native6)), len)
    }
}

/// World's identity: one for both families unless both are on.
#[inline(always)]
pub fn world<F: Maps>() -> u32 {
    if ipv4() && ipv6() {
        F::WORLD
    } else {
        abi::identity::WORLD
    }
}
