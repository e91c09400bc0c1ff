//! The ranges of identities.
use crate::labels::{RESERVED, cidr_label};
use abi::identity::{MAX_ALLOCATED, MIN_ALLOCATED, WORLD, WORLD_IPV4, WORLD_IPV6, reserved_name};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::Labels;
use std::{net::IpAddr, ops::RangeInclusive};

/// A range of identities and what its numbers are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The same on every node of every cluster: host, world …
    Reserved,
    /// Given to labels by the settings.
    Fixed,
    /// Given to labels by this cluster.
    Cluster,
    /// Given to labels by another cluster.
    Remote,
    /// Given to address ranges by this node, and known to it alone.
    Local,
    /// Given to other nodes by this node.
    RemoteNode,
}

impl Scope {
    /// The numbers of the scope; of clusters other than this one, those of all of them.
    #[must_use]
    pub const fn range(self) -> RangeInclusive<u32> {
        match self {
            Self::Reserved => 0..=127,
            Self::Fixed => 128..=255,
            Self::Cluster => MIN_ALLOCATED..=MAX_ALLOCATED,
            Self::Remote => MAX_ALLOCATED + 1..=0x00ff_ffff,
            Self::Local => 0x0100_0001..=0x01ff_ffff,
            Self::RemoteNode => 0x0200_0000..=0x02ff_ffff,
        }
    }

    /// The scope of a number; none where it has none.
    #[must_use]
    pub fn of(id: u32) -> Option<Self> {
        [
            Self::Reserved,
            Self::Fixed,
            Self::Cluster,
            Self::Remote,
            Self::Local,
            Self::RemoteNode,
        ]
        .into_iter()
        .find(|scope| scope.range().contains(&id))
    }

    /// True for numbers that other nodes know as well, so that they may travel with a packet.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        !matches!(self, Self::Local | Self::RemoteNode)
    }
}

/// The world's identities and labels, with the families that are on. A rule on all addresses of a family means them.
#[must_use]
pub fn world_labels(v4: bool, v6: bool) -> Vec<(u32, Labels)> {
    let all4 = || cidr_label(IpNet::V4(Ipv4Net::default()));
    let all6 = || cidr_label(IpNet::V6(Ipv6Net::default()));
    let with = |id: u32, cidr: Option<String>| {
        let own = reserved_name(id).map(|name| format!("{RESERVED}:{name}"));
        // Whoever selects the world by its label means both families.
        let world = format!("{RESERVED}:world");
        (id, own.into_iter().chain([world]).chain(cidr).collect())
    };
    match (v4, v6) {
        (true, true) => vec![
            with(WORLD, None),
            with(WORLD_IPV4, Some(all4())),
            with(WORLD_IPV6, Some(all6())),
        ],
        (true, false) => vec![with(WORLD, Some(all4()))],
        (false, true) => vec![with(WORLD, Some(all6()))],
        (false, false) => vec![with(WORLD, None)],
    }
}

/// The identity of an address of which nothing is known.
#[must_use]
pub const fn world_of(address: IpAddr, both_families: bool) -> u32 {
    match (both_families, address) {
        (false, _) => WORLD,
        (true, IpAddr::V4(_)) => WORLD_IPV4,
        (true, IpAddr::V6(_)) => WORLD_IPV6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_that_is_given_has_one_scope() {
        assert_eq!(Scope::of(1), Some(Scope::Reserved));
        assert_eq!(Scope::of(200), Some(Scope::Fixed));
        assert_eq!(Scope::of(256), Some(Scope::Cluster));
        assert_eq!(Scope::of(2 << 16 | 300), Some(Scope::Remote));
        assert_eq!(Scope::of(0x0100_0001), Some(Scope::Local));
        assert_eq!(Scope::of(0x0200_0000), Some(Scope::RemoteNode));
        assert_eq!(Scope::of(0x0100_0000), None);
        assert_eq!(Scope::of(u32::MAX), None);
    }

    #[test]
    fn the_world_is_one_or_one_for_each_family() {
        let texts = |v4, v6| -> Vec<String> {
            world_labels(v4, v6)
                .iter()
                .map(|(id, labels)| format!("{id} {labels}"))
                .collect()
        };
        assert_eq!(texts(true, false), ["2 cidr:0.0.0.0/0,reserved:world"]);
        assert_eq!(
            texts(true, true),
            [
                "2 reserved:world",
                "9 cidr:0.0.0.0/0,reserved:world,reserved:world-ipv4",
                "10 cidr:0--0/0,reserved:world,reserved:world-ipv6"
            ]
        );
    }
}
