//! Nodes of the cluster, and this one.
use crate::{Device, LabelMap};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A node object of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Unique number of the node object; empty where there is none.
    #[serde(default)]
    pub uid: String,
    /// Addresses of type `InternalIP`, in the object's order.
    pub addresses: Vec<IpAddr>,
    /// Further addresses that belong to the node (`ExternalIP`): they have its identity, nothing is sent to them.
    pub external: Vec<IpAddr>,
    /// Ranges from which the node gives pods their addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Labels of the node object.
    #[serde(default)]
    pub labels: LabelMap,
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

    /// Its addresses and the ranges of its pods.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        let addresses = self.addresses.iter().chain(&self.external);
        let ranges = self.pod_cidrs.iter().map(IpNet::trunc);
        addresses.copied().map(IpNet::from).chain(ranges)
    }

    /// The pod ranges of a family.
    pub fn cidrs(&self, ipv6: bool) -> impl Iterator<Item = IpNet> + '_ {
        self.pod_cidrs
            .iter()
            .copied()
            .filter(move |net| net.addr().is_ipv6() == ipv6)
    }
}

/// A node as its agent and the operator describe it (`CiliumNode`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CiliumNode {
    /// Name, the node's.
    pub name: String,
    /// Unique number of this incarnation of the object.
    pub uid: String,
    /// Version of the object.
    pub version: String,
    /// Addresses of type `InternalIP`.
    pub addresses: Vec<IpAddr>,
    /// Addresses of type `ExternalIP`.
    pub external: Vec<IpAddr>,
    /// Addresses of type `CiliumInternalIP`: the pods' gateways.
    pub routers: Vec<IpAddr>,
    /// Ranges of the node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Ranges of the node's pods by pool.
    pub pools: BTreeMap<String, Vec<IpNet>>,
    /// IPv4 and IPv6 addresses that the node asks for, by pool.
    pub requested: BTreeMap<String, (u32, u32)>,
    /// Single addresses for the node's pods.
    pub singles: Vec<IpAddr>,
    /// What the operator complains of.
    pub error: String,
    /// What policies of nodes deny this node passes, and is told; none where no policy is enforced for it.
    #[serde(default)]
    pub audit: Option<bool>,
}

impl CiliumNode {
    /// Every range of the node's pods: its own, those of its pools, and its single addresses.
    pub fn ranges(&self) -> impl Iterator<Item = IpNet> + '_ {
        let pools = self.pools.values().flatten().copied();
        let singles = self.singles.iter().copied().map(IpNet::from);
        self.pod_cidrs.iter().copied().chain(pools).chain(singles)
    }
}

/// This node: its object, and what the agent found and chose on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNode {
    /// Name, addresses and pod ranges as in the node object.
    pub node: Node,
    /// The ranges that pods get their addresses from, by pool.
    #[serde(default)]
    pub pools: BTreeMap<String, Vec<IpNet>>,
    /// The pods' IPv4 gateway, the address of `cilium_host`.
    pub router4: Option<Ipv4Addr>,
    /// The pods' IPv6 gateway, the address of `cilium_host`.
    pub router6: Option<Ipv6Addr>,
    /// Devices that join the node to its network.
    pub devices: Vec<Device>,
    /// Every address of the node, those of devices that are not in `devices` too.
    pub addresses: Vec<IpAddr>,
    /// As [`crate::Endpoint::policy_audit`], of the node itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_audit: Option<bool>,
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
