//! Addresses of the node at which node ports are served.
use ipnet::IpNet;
use std::net::IpAddr;

/// A device that joins the node to its network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceAddresses {
    /// Addresses in the kernel's order.
    pub addresses: Vec<IpAddr>,
}

/// The addresses for node ports: those in the given ranges, or without ranges (`nodeport-addresses`) the first of each
/// device and family. Loopback, multicast and link-local addresses are never among those that are chosen without ranges.
#[must_use]
pub fn node_port_addresses(devices: &[DeviceAddresses], ranges: &[IpNet]) -> Vec<IpAddr> {
    let mut chosen = Vec::new();
    for device in devices {
        for ipv6 in [false, true] {
            let family = device.addresses.iter().filter(|ip| ip.is_ipv6() == ipv6);
            if ranges.is_empty() {
                chosen.extend(family.copied().find(is_global));
            } else {
                chosen.extend(family.filter(|ip| ranges.iter().any(|net| net.contains(*ip))));
            }
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

fn is_global(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(addresses: &[&str]) -> DeviceAddresses {
        DeviceAddresses {
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    fn chosen(ranges: &[&str]) -> Vec<String> {
        let devices = [
            device(&["fe80::1", "fd00::7", "fd00::8", "192.0.2.11", "192.0.2.12"]),
            device(&["169.254.3.4", "198.51.100.5"]),
        ];
        let ranges: Vec<_> = ranges.iter().map(|net| net.parse().unwrap()).collect();
        let all = node_port_addresses(&devices, &ranges);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_of_each_device_and_family() {
        assert_eq!(chosen(&[]), ["192.0.2.11", "198.51.100.5", "fd00::7"]);
    }

    #[test]
    fn or_those_in_ranges() {
        assert_eq!(chosen(&["192.0.2.0/24"]), ["192.0.2.11", "192.0.2.12"]);
        assert_eq!(
            chosen(&["fe80::/10", "169.254.0.0/16"]),
            ["169.254.3.4", "fe80::1"]
        );
        assert!(chosen(&["10.0.0.0/8"]).is_empty());
    }
}
