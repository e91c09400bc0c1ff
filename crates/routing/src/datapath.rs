//! What the programs are told when they are loaded.
use crate::{Plan, mtus};
use abi::DatapathConfig;
use ipnet::IpNet;
use model::{LocalNode, Mac};
use std::net::IpAddr;

/// The virtual devices of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostPair {
    /// Number of `cilium_host`.
    pub host_ifindex: u32,
    /// MAC address of `cilium_host`.
    pub host_mac: Mac,
    /// MAC address of `cilium_net`.
    pub net_mac: Mac,
    /// Number of the tunnel device, zero without a tunnel.
    pub tunnel_ifindex: u32,
}

/// The programs' configuration.
///
/// Not masqueraded: the native-routing range if one is given, else this node's own pod range. The ranges of other nodes are
/// not guessed to be one; in tunnel mode their pods are found by the address cache before masquerading is thought of.
#[must_use]
pub fn datapath_config(plan: &Plan, local: &LocalNode, pair: &HostPair) -> DatapathConfig {
    let (native4, native4_len) = native(plan.native4.map(IpNet::V4), local, false);
    let (native6, native6_len) = native(plan.native6.map(IpNet::V6), local, true);
    let node4 = local.primary(false);
    let node6 = local.primary(true);
    let flag = u8::from;
    DatapathConfig {
        host_netns: 0,
        tunnel_ifindex: pair.tunnel_ifindex,
        report_interval: plan.events.interval,
        ct_tcp: plan.timeouts.tcp,
        ct_tcp_syn: plan.timeouts.tcp_syn,
        ct_tcp_fin: plan.timeouts.tcp_fin,
        ct_any: plan.timeouts.any,
        snat_min: plan.snat_min,
        snat_max: u16::MAX,
        routing: if plan.routes_by_tunnel() {
            abi::Routing::Tunnel
        } else {
            abi::Routing::Native
        } as u8,
        aggregation: plan.events.aggregation as u8,
        ipv4: flag(plan.ipv4),
        ipv6: flag(plan.ipv6),
        masquerade4: flag(plan.ipv4 && plan.masquerade4 && node4.is_some()),
        masquerade6: flag(plan.ipv6 && plan.masquerade6 && node6.is_some()),
        host_legacy: flag(plan.host_legacy),
        accounting: flag(plan.accounting),
        coarse_clock: 0,
        host_firewall: 0,
        tunnel_port: plan.tunnel.map_or(0, |(_, port)| port),
        services: 0,
        sock_host_only: 0,
        no_backend_drops: 0,
        dsr_dispatch: abi::DsrDispatch::None as u8,
        node_port_min: 0,
        node_port_max: 0,
        maglev_size: 0,
        refusal_says_why: 0,
        bind_protection: 0,
        trace_sock: 0,
        xdp: 0,
        proxy_ifindex: 0,
        proxy_mac: [0; 6],
        proxy_node_mac: [0; 6],
        mtu: mtus(plan, local).device,
        native4_len,
        native6_len,
        node_ipv4: octets4(node4),
        router_ipv4: octets4(local.router(false)),
        native4: octets4(Some(native4)),
        node_ipv6: octets6(node6),
        router_ipv6: octets6(local.router(true)),
        native6: octets6(Some(native6)),
        nat46x64: 0,
        pad: [0; 7],
    }
}

/// The range that is not masqueraded; a family without any has one that holds its unspecified address alone.
fn native(given: Option<IpNet>, local: &LocalNode, ipv6: bool) -> (IpAddr, u32) {
    let net = given.or_else(|| local.node.cidrs(ipv6).next());
    match net {
        Some(net) => (net.network(), u32::from(net.prefix_len())),
        None if ipv6 => (IpAddr::from([0u8; 16]), 128),
        None => (IpAddr::from([0u8; 4]), 32),
    }
}

fn octets4(ip: Option<IpAddr>) -> [u8; 4] {
    match ip {
        Some(IpAddr::V4(ip)) => ip.octets(),
        _ => [0; 4],
    }
}

fn octets6(ip: Option<IpAddr>) -> [u8; 16] {
    match ip {
        Some(IpAddr::V6(ip)) => ip.octets(),
        _ => [0; 16],
    }
}
