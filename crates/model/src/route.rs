//! Routes that the agent wants in the node's main table.
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Why a route is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteOrigin {
    /// The node's own pods, by `cilium_host`.
    LocalPods,
    /// Makes the router address reachable on `cilium_host`.
    Router,
    /// Another node's pods, through the tunnel.
    TunnelPods,
    /// Another node's pods, by that node's address (`auto-direct-node-routes`).
    DirectNode,
}

/// A desired route; its key is the destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub destination: IpNet,
    /// Next hop; none: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Name of the device.
    pub device: String,
    /// Preferred source address of the node's own packets.
    pub source: Option<IpAddr>,
    /// Limit for packets on this route; none: the device's.
    pub mtu: Option<u32>,
    /// Why it is there.
    pub origin: RouteOrigin,
}
