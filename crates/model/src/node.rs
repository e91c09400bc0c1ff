//! Nodes of the cluster, and this one.
use crate::Device;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A node object of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Addresses of type `InternalIP`, in the object's order.
    pub addresses: Vec<IpAddr>,
    /// Further addresses that belong to the node (`ExternalIP`): they have its identity, nothing is sent to them.
    pub external: Vec<IpAddr>,
    /// Ranges from which the node gives pods their addresses.
    pub pod_cidrs: Vec<IpNet>,
}

impl Node {
    /// The first internal address of a family.
    #[must_use]
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|ip| ip.is_ipv6() == ipv6)
    }

    /// The pod ranges of a family.
    pub fn cidrs(&self, ipv6: bool) -> impl Iterator<Item = IpNet> + '_ {
        self.pod_cidrs
            .iter()
            .copied()
            .filter(move |net| net.addr().is_ipv6() == ipv6)
    }
}

/// This node: its object, and what the agent found and chose on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNode {
    /// Name, addresses and pod ranges as in the node object.
    pub node: Node,
    /// The pods' IPv4 gateway, the address of `cilium_host`.
    pub router4: Option<Ipv4Addr>,
    /// The pods' IPv6 gateway, the address of `cilium_host`.
    pub router6: Option<Ipv6Addr>,
    /// Devices that join the node to its network.
    pub devices: Vec<Device>,
    /// Every address of the node, those of devices that are not in `devices` too.
    pub addresses: Vec<IpAddr>,
}

impl LocalNode {
    /// The router address of a family.
    #[must_use]
    pub fn router(&self, ipv6: bool) -> Option<IpAddr> {
        if ipv6 {
            self.router6.map(IpAddr::V6)
        } else {
            self.router4.map(IpAddr::V4)
        }
    }

    /// The address that other nodes and the outside know the node by: its internal address if a device has it, else the
    /// primary address of the first device that has one.
    #[must_use]
    pub fn primary(&self, ipv6: bool) -> Option<IpAddr> {
        let known = self
            .node
            .address(ipv6)
            .filter(|ip| self.addresses.contains(ip));
        known.or_else(|| self.devices.iter().find_map(|device| device.primary(ipv6)))
    }
}
