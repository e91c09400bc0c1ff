//! Map keys and prefixes made of addresses.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;
use wire::{Family, Tuple, V4, V6};
use zerocopy::{IntoBytes, transmute};

/// Few addresses and ports, so that equal ends occur.
fn octet() -> impl Strategy<Value = u8> {
    prop_oneof![0u8..3, Just(255)]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..3, any::<u16>()]
}

fn tuple<F: Family>(
    addr: impl Fn(u8, u8) -> F::Addr,
    n: [u8; 4],
    ports: (u16, u16),
    proto: u8,
) -> Tuple<F> {
    Tuple {
        src: addr(n[0], n[1]),
        dst: addr(n[2], n[3]),
        sport: ports.0.to_be(),
        dport: ports.1.to_be(),
        proto,
    }
}

fn v4(high: u8, low: u8) -> u32 {
    transmute!([high, 0, 0, low])
}

fn v6(high: u8, low: u8) -> [u64; 2] {
    transmute!([[0xFD, 0, 0, 0, 0, 0, 0, high], [0, 0, 0, 0, 0, 0, 0, low]])
}

/// Both directions have one key, whose ends are the packet's, the lower one first.
macro_rules! symmetric {
    ($family:ident, $tuple:expr) => {{
        let t: Tuple<$family> = $tuple;
        let (key, from_b) = $family::ct_key(&t);
        let (back, back_from_b) = $family::ct_key(&t.reversed());
        prop_assert_eq!(key, back);
        let one_sided = t.src == t.dst && t.sport == t.dport;
        prop_assert_eq!(from_b != back_from_b, !one_sided);
        let end = |addr: &<$family as Family>::Addr, port: u16| {
            (addr.as_bytes().to_vec(), port.to_ne_bytes())
        };
        let (src, dst) = (end(&t.src, t.sport), end(&t.dst, t.dport));
        let (a, b) = ((key.a.to_vec(), key.port_a), (key.b.to_vec(), key.port_b));
        prop_assert!(a <= b);
        prop_assert_eq!((a, b), if from_b { (dst, src) } else { (src, dst) });
        prop_assert_eq!((key.proto, key.scope, key.pad), (t.proto, 0, [0; 2]));
        // A service entry of the same tuple is another one.
        let (service, _) = $family::ct_key_of(&t, abi::ct_scope::SERVICE);
        prop_assert!(service.scope == 1 && service != key);
    }};
}

/// The address as the standard library has it.
fn std4(addr: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be(addr))
}

fn std6(addr: [u64; 2]) -> Ipv6Addr {
    Ipv6Addr::from(V6::widen(addr))
}

proptest! {
    #[test]
    fn a_connection_has_one_key(n in [octet(), octet(), octet(), octet()], ports in (port(), port()), proto: u8) {
        symmetric!(V4, tuple(v4, n, ports, proto));
        symmetric!(V6, tuple(v6, n, ports, proto));
    }

    #[test]
    fn prefixes_contain_what_ipnet_says(addr: [u8; 4], wild: [u8; 4], same in 0u32..=32, len in 0u8..=40) {
        // Shares about `same` bits with the network.
        let mask = u32::MAX.checked_shr(same).unwrap_or(0);
        let net = u32::from_be_bytes(addr) ^ u32::from_be_bytes(wild) & mask;
        let (addr, net): (u32, u32) = (transmute!(addr), net.to_be());
        let expected = IpNet::new(IpAddr::V4(std4(net)), len).is_ok_and(|n| n.contains(&IpAddr::V4(std4(addr))));
        prop_assert_eq!(V4::in_prefix(addr, net, u32::from(len)), expected);
    }

    #[test]
    fn prefixes6_contain_what_ipnet_says(addr: [u8; 16], wild: [u8; 16], same in 0u32..=128, len in 0u8..=140) {
        let mask = u128::MAX.checked_shr(same).unwrap_or(0);
        let net = u128::from_be_bytes(addr) ^ u128::from_be_bytes(wild) & mask;
        let (addr, net): ([u64; 2], [u64; 2]) = (transmute!(addr), transmute!(net.to_be_bytes()));
        let expected = IpNet::new(IpAddr::V6(std6(net)), len).is_ok_and(|n| n.contains(&IpAddr::V6(std6(addr))));
        prop_assert_eq!(V6::in_prefix(addr, net, u32::from(len)), expected);
    }

    #[test]
    fn multicast_is_what_the_standard_library_says(addr: [u8; 4], addr6: [u8; 16], high in any::<bool>()) {
        let (mut addr, mut addr6) = (addr, addr6);
        if high {
            (addr[0], addr6[0]) = (addr[0] | 0xE0, 0xFF);
        }
        let (a, b): (u32, [u64; 2]) = (transmute!(addr), transmute!(addr6));
        let std = std4(a);
        // The reserved class E, broadcast in it, is no more a destination than multicast is.
        prop_assert_eq!(V4::is_multicast(a), std.is_multicast() || std.octets()[0] >= 240);
        prop_assert_eq!(V6::is_multicast(b), std6(b).is_multicast());
    }

    #[test]
    fn addresses_stand_first_in_their_keys(addr: [u8; 4], addr6: [u8; 16]) {
        let (a, b): (u32, [u64; 2]) = (transmute!(addr), transmute!(addr6));
        prop_assert_eq!(V4::endpoint_key(a), abi::EndpointKey::v4(addr));
        prop_assert_eq!(V6::endpoint_key(b), abi::EndpointKey::v6(addr6));
        prop_assert_eq!(V4::ipcache_key(a), abi::IpcacheKey::v4(addr, 32));
        prop_assert_eq!(V6::ipcache_key(b), abi::IpcacheKey::v6(addr6, 128));
        prop_assert_eq!(V4::less(a, 0x0100_0000u32.to_be()), addr < [1, 0, 0, 0]);
        prop_assert_eq!(V6::less(b, v6(0, 1)), addr6 < V6::widen(v6(0, 1)));
    }

    #[test]
    fn masquerade_entries_give_back_what_was_put_in(addr: [u8; 4], addr6: [u8; 16], port: u16, created: u64) {
        let (a, b): (u32, [u64; 2]) = (transmute!(addr), transmute!(addr6));
        let (entry, entry6) = (V4::snat_entry(created, a, port), V6::snat_entry(created, b, port));
        prop_assert_eq!((V4::snat_target(&entry), entry.addr), ((a, port), addr));
        prop_assert_eq!((V6::snat_target(&entry6), entry6.addr), ((b, port), addr6));
        prop_assert_eq!((entry.created, entry6.created), (created, created));
    }
}
