//! Network devices of the node.
use crate::Mac;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A device that joins the node to its network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Name, as `eth0`.
    pub name: String,
    /// Kernel's number of it.
    pub ifindex: u32,
    /// Link-layer address; zero where there is none.
    pub mac: Mac,
    /// Largest packet.
    pub mtu: u32,
    /// Addresses with their subnets, in the kernel's order (the first of a family is the primary one).
    pub addresses: Vec<IpNet>,
    /// A default route leaves by it.
    pub default_route: bool,
}

impl Device {
    /// The first address of a family that other nodes can reach: link-local ones do not count.
    #[must_use]
    pub fn primary(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .map(IpNet::addr)
            .find(|ip| ip.is_ipv6() == ipv6 && !is_link_local(*ip))
    }

    /// The subnet of this device that `ip` is in, if it is a direct neighbour.
    #[must_use]
    pub fn subnet_of(&self, ip: IpAddr) -> Option<IpNet> {
        self.addresses
            .iter()
            .copied()
            .find(|net| net.contains(&ip) && net.prefix_len() < net.max_prefix_len())
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
