//! Who is behind an address: the rows that become `cilium_ipcache`.
use crate::Text;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where the knowledge about a prefix comes from; where several sources speak of one prefix, the greater one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrefixSource {
    /// Made up by the agent, as the world's `0.0.0.0/0`, or the range of a node's pods, of which single ones are not known.
    Generated,
    /// A pod, as the agent of its node published it.
    CustomResource,
    /// An address of a node, from its objects.
    Kubernetes,
    /// An endpoint of this node.
    Endpoint,
    /// An address of this node.
    Local,
}

/// One row of the address cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// The addresses.
    pub prefix: IpNet,
    /// Their security identity.
    pub identity: u32,
    /// Node to encapsulate to; none where packets are routed.
    pub tunnel: Option<IpAddr>,
    /// Where the row comes from.
    pub source: PrefixSource,
    /// Who it is: `namespace/name` of a pod, name of a node, empty for generated rows.
    pub owner: Text,
}

impl Prefix {
    /// Key of the row in the kernel's map.
    #[must_use]
    pub fn abi_key(&self) -> abi::IpcacheKey {
        let bits = u32::from(self.prefix.prefix_len());
        match self.prefix.network() {
            IpAddr::V4(ip) => abi::IpcacheKey::v4(ip.octets(), bits),
            IpAddr::V6(ip) => abi::IpcacheKey::v6(ip.octets(), bits),
        }
    }

    /// Value of the row in the kernel's map.
    #[must_use]
    pub fn abi_value(&self) -> abi::IpcacheValue {
        let (tunnel, flags) = match self.tunnel {
            None => ([0; 16], 0),
            Some(IpAddr::V4(ip)) => {
                let [a, b, c, d] = ip.octets();
                (
                    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                    abi::ipcache_flags::TUNNEL,
                )
            }
            Some(IpAddr::V6(ip)) => (
                ip.octets(),
                abi::ipcache_flags::TUNNEL | abi::ipcache_flags::TUNNEL_V6,
            ),
        };
        abi::IpcacheValue {
            sec_id: self.identity,
            tunnel,
            flags,
            key: 0,
            pad: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(prefix: &str, tunnel: Option<&str>) -> Prefix {
        Prefix {
            prefix: prefix.parse().unwrap(),
            identity: 6,
            tunnel: tunnel.map(|t| t.parse().unwrap()),
            source: PrefixSource::Kubernetes,
            owner: Text::default(),
        }
    }

    #[test]
    fn the_key_holds_the_network_and_counts_the_static_bits() {
        let key = row("10.244.2.7/24", None).abi_key();
        assert_eq!(key.prefix_len, 32 + 24);
        assert_eq!(&key.ip[..5], &[10, 244, 2, 0, 0]);
        assert_eq!(row("fd00::/32", None).abi_key().prefix_len, 64);
    }

    #[test]
    fn the_value_tells_the_family_of_the_tunnel() {
        use abi::ipcache_flags::{TUNNEL, TUNNEL_V6};
        assert_eq!(row("10.0.0.0/8", None).abi_value().flags, 0);
        assert_eq!(
            row("10.0.0.0/8", Some("192.0.2.1")).abi_value().flags,
            TUNNEL
        );
        assert_eq!(
            row("10.0.0.0/8", Some("fd00::1")).abi_value().flags,
            TUNNEL | TUNNEL_V6
        );
    }
}
