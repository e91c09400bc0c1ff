//! The node's own devices.
use std::net::IpAddr;

use datapath::devices::{self, Families, HostDevices, TunnelKind};
use netlink::{Handle, LinkFlag, sysctl};

use crate::support::place;

fn addresses(names: &[&str]) -> Vec<IpAddr> {
    names.iter().map(|n| n.parse().unwrap()).collect()
}

fn on_host(netlink: &mut Handle, ifindex: u32) -> Vec<(IpAddr, u8)> {
    let mut found: Vec<_> = netlink
        .addresses(Some(ifindex))
        .unwrap()
        .iter()
        .map(|a| (a.ip, a.prefix_len))
        .collect();
    found.sort();
    found
}

#[test]
fn the_host_pair_is_made_once_and_kept_right() {
    place(|_| {
        let mut netlink = Handle::new().unwrap();
        let mut wanted = HostDevices {
            addresses: addresses(&["10.244.1.1", "fd00:244:1::1"]),
            mtu: 1450,
        };
        let pair = devices::ensure_host(&mut netlink, &wanted).unwrap();
        assert_eq!(devices::ensure_host(&mut netlink, &wanted).unwrap(), pair);
        for name in [devices::HOST_DEVICE, devices::NET_DEVICE] {
            let link = netlink.link(name).unwrap();
            assert!(
                link.is_up() && link.has(LinkFlag::NoArp) && link.mtu == 1450,
                "{link:?}"
            );
        }
        let full = addresses(&["10.244.1.1", "fd00:244:1::1"])
            .into_iter()
            .zip([32, 128])
            .collect::<Vec<_>>();
        assert_eq!(on_host(&mut netlink, pair.host_ifindex), full);
        wanted = HostDevices {
            addresses: addresses(&["10.244.2.1"]),
            mtu: 1500,
        };
        assert_eq!(devices::ensure_host(&mut netlink, &wanted).unwrap(), pair);
        assert_eq!(netlink.link(devices::NET_DEVICE).unwrap().mtu, 1500);
        assert_eq!(
            on_host(&mut netlink, pair.host_ifindex),
            [(wanted.addresses[0], 32)]
        );
        assert!(devices::remove_host(&mut netlink).unwrap());
        assert!(!devices::remove_host(&mut netlink).unwrap());
    });
}

#[test]
fn a_host_device_that_is_no_pair_is_made_anew() {
    place(|here| {
        let other = here.veth(devices::HOST_DEVICE);
        let mut netlink = Handle::new().unwrap();
        let pair = devices::ensure_host(
            &mut netlink,
            &HostDevices {
                addresses: vec![],
                mtu: 1500,
            },
        )
        .unwrap();
        assert_ne!(pair.host_ifindex, other);
        assert_ne!(pair.host_mac, pair.net_mac);
    });
}

#[test]
fn the_tunnel_device_follows_its_settings() {
    place(|_| {
        let mut netlink = Handle::new().unwrap();
        let first = devices::ensure_tunnel(&mut netlink, TunnelKind::Vxlan, 8472, 1500).unwrap();
        assert_eq!(
            devices::ensure_tunnel(&mut netlink, TunnelKind::Vxlan, 8472, 1450).unwrap(),
            first
        );
        let link = netlink.link("cilium_vxlan").unwrap();
        assert!(
            link.is_up() && link.mtu == 1450 && link.tunnel_external,
            "{link:?}"
        );
        let second = devices::ensure_tunnel(&mut netlink, TunnelKind::Vxlan, 4789, 1450).unwrap();
        assert_ne!(second, first);
        assert!(devices::remove_tunnels(&mut netlink).unwrap());
        assert!(!devices::remove_tunnels(&mut netlink).unwrap());
    });
}

#[test]
fn kernel_parameters_are_set_once() {
    place(|here| {
        here.veth("eth0.5");
        let families = Families {
            ipv4: true,
            ipv6: true,
        };
        devices::ensure_sysctls(families, &["eth0.5"]).unwrap();
        assert_eq!(
            devices::ensure_sysctls(families, &["eth0.5"]).unwrap(),
            Vec::<String>::new()
        );
        assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "1");
        assert_eq!(
            sysctl::read("net/ipv6/conf/eth0.5/forwarding").unwrap(),
            "1"
        );
        let error = devices::ensure_sysctls(families, &["gone"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("net/ipv4/conf/gone/rp_filter"), "{error}");
    });
}
