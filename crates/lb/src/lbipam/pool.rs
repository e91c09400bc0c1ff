//! Pools of addresses.
use super::Request;
use crate::selector::Selector;
use ipnet::IpNet;
use model::Text;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    ipv6: bool,
    first: u128,
    last: u128,
    /// The range is a CIDR: its first and last address may be kept back.
    cidr: bool,
    text: String,
}

impl Block {
    /// The addresses of a CIDR.
    #[must_use]
    pub fn cidr(net: IpNet) -> Self {
        let net = net.trunc();
        Self {
            ipv6: net.addr().is_ipv6(),
            first: number(net.network()),
            last: number(net.broadcast()),
            cidr: true,
            text: net.to_string(),
        }
    }

    /// The addresses from one to another, both included.
    ///
    /// # Errors
    /// They are of different families, or in the wrong order.
    pub fn range(start: IpAddr, stop: IpAddr) -> Result<Self, String> {
        if start.is_ipv6() != stop.is_ipv6() || start > stop {
            return Err(format!(
                "{start} - {stop} is no range: both must be of one family, and start not after stop"
            ));
        }
        Ok(Self {
            ipv6: start.is_ipv6(),
            first: number(start),
            last: number(stop),
            cidr: false,
            text: format!("{start} - {stop}"),
        })
    }

    /// The block as written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether two blocks have addresses in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.ipv6 == other.ipv6 && self.first <= other.last && other.first <= self.last
    }
}

/// A CiliumLoadBalancerIPPool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Name.
    pub name: Text,
    /// When it was created, in seconds: of two that overlap, the older one is used.
    pub created: i64,
    /// Ranges.
    pub blocks: Vec<Block>,
    /// Services that it is for.
    pub selector: Selector,
    /// First and last addresses of CIDRs are given, too.
    pub first_last: bool,
    /// It keeps what it gave, and gives nothing more.
    pub disabled: bool,
}

impl Pool {
    /// What stands for a pool of which nobody can tell what it says: every address may come from it, so that services keep what
    /// they have, and none is given.
    #[must_use]
    pub fn unreadable(name: &str) -> Self {
        let whole = |ipv6, last| Block {
            ipv6,
            first: 0,
            last,
            cidr: false,
            text: "(unreadable)".to_owned(),
        };
        Self {
            name: Text::from(name),
            // Nobody conflicts with it.
            created: i64::MAX,
            blocks: vec![whole(false, u128::from(u32::MAX)), whole(true, u128::MAX)],
            selector: Selector::default(),
            first_last: true,
            disabled: true,
        }
    }

    /// First and last number of each block that may be given, and whether they are IPv6.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (bool, u128, u128)> + '_ {
        self.blocks.iter().map(|block| {
            // One or two addresses have neither a network nor a broadcast address.
            let keep = block.cidr && !self.first_last && block.last - block.first > 1;
            let back = u128::from(keep);
            (block.ipv6, block.first + back, block.last - back)
        })
    }

    /// Addresses in all.
    #[must_use]
    pub fn total(&self) -> u128 {
        self.ranges()
            .map(|(_, first, last)| (last - first).saturating_add(1))
            .fold(0, u128::saturating_add)
    }

    /// Whether an address may be given from it.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let n = number(ip);
        self.ranges()
            .any(|(ipv6, first, last)| ipv6 == ip.is_ipv6() && (first..=last).contains(&n))
    }

    /// Whether it is for a service.
    #[must_use]
    pub fn selects(&self, request: &Request) -> bool {
        self.selector.matches_service(&request.key, &request.labels)
    }

    /// The older pool of these that it overlaps with, or itself where its own blocks do, in words.
    pub(super) fn conflict<'a>(&self, older: impl Iterator<Item = &'a Self>) -> Option<String> {
        for (index, block) in self.blocks.iter().enumerate() {
            if let Some(other) = self.blocks[..index]
                .iter()
                .find(|other| other.overlaps(block))
            {
                return Some(format!(
                    "{} overlaps {} of the same pool",
                    block.text, other.text
                ));
            }
        }
        for pool in older {
            for block in &self.blocks {
                if let Some(other) = pool.blocks.iter().find(|other| other.overlaps(block)) {
                    return Some(format!(
                        "{} overlaps {} of pool {}",
                        block.text, other.text, pool.name
                    ));
                }
            }
        }
        None
    }
}

pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

pub(super) fn address(ipv6: bool, n: u128) -> IpAddr {
    if ipv6 {
        Ipv6Addr::from(n).into()
    } else {
        // Numbers of IPv4 blocks come from IPv4 addresses.
        Ipv4Addr::from(n as u32).into()
    }
}
