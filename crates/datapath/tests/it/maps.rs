//! Typed maps: writes, dumps, conntrack collection.
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use abi::{
    CtEntry, CtKey4, CtKey6, Direction, EndpointInfo, EndpointKey, IpcacheKey, IpcacheValue,
    LocalEndpoint, SnatEntry4, SnatKey4, ct_flags, names, snat_flags,
};
use aya::maps::{HashMap, Map, MapData};
use datapath::maps::{Conntrack, GcFilter};
use zerocopy::{Immutable, IntoBytes};

use crate::support::{Place, place};

const POD: [u8; 4] = [10, 244, 1, 10];
const REMOTE: [u8; 4] = [10, 10, 1, 200];
const NODE: [u8; 4] = [192, 168, 10, 100];

fn endpoint(id: u16, ifindex: u32, last: u8) -> LocalEndpoint {
    let info = EndpointInfo {
        ifindex,
        sec_id: 300,
        id,
        flags: 0,
        mac: [2; 6],
        node_mac: [4; 6],
        subject: 0,
    };
    let mut ipv6 = [0; 16];
    (ipv6[0], ipv6[15]) = (0xFD, last);
    LocalEndpoint {
        info,
        ipv4: [10, 244, 1, last],
        ipv6,
    }
}

#[test]
fn the_two_endpoint_maps_stay_in_step() {
    place(|here| {
        let (datapath, _) = here.open();
        let map = datapath.endpoints().unwrap();
        let (one, two) = (endpoint(1, 11, 10), endpoint(2, 12, 20));
        map.upsert(&two).unwrap();
        map.upsert(&one).unwrap();
        assert_eq!(map.dump().unwrap(), [one, two]);
        assert_eq!(map.dump_addresses().unwrap().len(), 4);
        assert_eq!(
            map.address(&EndpointKey::v4(one.ipv4)).unwrap(),
            Some(one.info)
        );
        // Another address: the old one goes.
        let moved = LocalEndpoint {
            ipv4: [10, 244, 1, 30],
            ..one
        };
        map.upsert(&moved).unwrap();
        assert_eq!(map.address(&EndpointKey::v4(one.ipv4)).unwrap(), None);
        // An address that a newer endpoint has taken over stays when the older one goes.
        let heir = LocalEndpoint {
            ipv4: two.ipv4,
            ..endpoint(3, 13, 40)
        };
        map.upsert(&heir).unwrap();
        assert_eq!(map.remove(12).unwrap(), Some(two));
        assert_eq!(map.remove(12).unwrap(), None);
        assert_eq!(
            map.address(&EndpointKey::v4(two.ipv4)).unwrap(),
            Some(heir.info)
        );
        assert_eq!(map.address(&EndpointKey::v6(two.ipv6)).unwrap(), None);
        assert_eq!(map.dump().unwrap(), [moved, heir]);
    });
}

#[test]
fn the_address_cache_finds_the_longest_prefix() {
    place(|here| {
        let (datapath, _) = here.open();
        let map = datapath.ipcache().unwrap();
        let value = |sec_id| IpcacheValue {
            sec_id,
            tunnel: [0; 16],
            flags: 0,
            key: 0,
            pad: 0,
        };
        let many: Vec<_> = (0..200u8)
            .map(|i| (IpcacheKey::v4([10, 1, i, 0], 24), value(u32::from(i))))
            .collect();
        map.upsert_all(&many).unwrap();
        map.upsert(&IpcacheKey::v4([0; 4], 0), &value(2)).unwrap();
        map.upsert(&IpcacheKey::v6([0; 16], 0), &value(3)).unwrap();
        assert_eq!(map.dump().unwrap().len(), 202);
        let find = |key| map.lookup(&key).unwrap().map(|v| v.sec_id);
        assert_eq!(find(IpcacheKey::v4([10, 1, 7, 9], 32)), Some(7));
        assert_eq!(find(IpcacheKey::v4([9, 1, 7, 9], 32)), Some(2));
        assert_eq!(find(IpcacheKey::v6([1; 16], 128)), Some(3));
        assert!(map.remove(&IpcacheKey::v4([10, 1, 7, 0], 24)).unwrap());
        assert!(!map.remove(&IpcacheKey::v4([10, 1, 7, 0], 24)).unwrap());
        assert_eq!(find(IpcacheKey::v4([10, 1, 7, 9], 32)), Some(2));
    });
}

/// Writes into a map that only the programs write, through its pin.
fn put<const K: usize, const V: usize>(
    here: &Place,
    map: &str,
    key: &(impl IntoBytes + Immutable),
    value: &(impl IntoBytes + Immutable),
) {
    let pin = MapData::from_pin(here.bpffs().join("tc/globals").join(map)).unwrap();
    let mut map: HashMap<_, [u8; K], [u8; V]> = Map::LruHashMap(pin).try_into().unwrap();
    let key: [u8; K] = key.as_bytes().try_into().unwrap();
    let value: [u8; V] = value.as_bytes().try_into().unwrap();
    map.insert(key, value, 0).unwrap();
}

fn ct4(here: &Place, n: u16, expires: u32, flags: u16) -> CtKey4 {
    let key = CtKey4 {
        a: REMOTE,
        b: POD,
        port_a: 80u16.to_be_bytes(),
        port_b: n.to_be_bytes(),
        proto: 6,
        scope: 0,
        pad: [0; 2],
    };
    let entry = CtEntry {
        expires,
        flags: flags | ct_flags::FROM_B,
        ..CtEntry::default()
    };
    put::<{ size_of::<CtKey4>() }, { size_of::<CtEntry>() }>(here, names::CT4, &key, &entry);
    key
}

fn put_mapping(here: &Place, key: &SnatKey4, entry: &SnatEntry4) {
    put::<{ size_of::<SnatKey4>() }, { size_of::<SnatEntry4>() }>(here, names::SNAT4, key, entry);
}

fn mapping(here: &Place, port: u16, created: u64) {
    let (port, remote) = (port.to_be_bytes(), 80u16.to_be_bytes());
    let out = SnatKey4 {
        src: POD,
        dst: REMOTE,
        sport: port,
        dport: remote,
        proto: 6,
        flags: snat_flags::OUT,
        pad: [0; 2],
    };
    let back = SnatKey4 {
        src: REMOTE,
        dst: NODE,
        sport: remote,
        dport: port,
        proto: 6,
        flags: snat_flags::IN,
        pad: [0; 2],
    };
    let entry = |addr| SnatEntry4 {
        created,
        addr,
        port,
        pad: [0; 2],
    };
    put_mapping(here, &out, &entry(NODE));
    put_mapping(here, &back, &entry(POD));
}

#[test]
fn ended_connections_are_collected_with_their_mappings() {
    place(|here| {
        let (datapath, _) = here.open();
        let conntrack = datapath.conntrack().unwrap();
        let now = Conntrack::now() + 1000;
        for n in 0..3000 {
            ct4(here, n, if n % 3 == 0 { now - 1 } else { now + 10 }, 0);
        }
        mapping(here, 3, 1); // its connection has ended
        mapping(here, 4, 1); // has not
        mapping(here, 5000, 1); // has none
        let stats = conntrack.collect(now, GcFilter::Expired).unwrap();
        assert_eq!((stats.seen, stats.deleted), (3000, 1000));
        assert_eq!((stats.nat_seen, stats.nat_deleted), (6, 4));
        assert_eq!(conntrack.count().unwrap(), 2000);
        let left = datapath.nat().unwrap().dump().unwrap();
        assert_eq!(left.len(), 2);
        assert!(
            left.iter()
                .all(|row| row.source_port == 4 || row.destination_port == 4)
        );
        let again = conntrack.collect(now, GcFilter::Expired).unwrap();
        assert_eq!((again.deleted, again.nat_deleted), (0, 0));
    });
}

#[test]
fn young_mappings_and_those_of_the_node_are_left() {
    place(|here| {
        let (datapath, _) = here.open();
        let conntrack = datapath.conntrack().unwrap();
        let now = Conntrack::now() + 1000;
        let nanoseconds = |second: u32| u64::from(second) * 1_000_000_000;
        mapping(here, 7, nanoseconds(now - 5));
        let port = 40_000u16.to_be_bytes();
        let key = SnatKey4 {
            src: NODE,
            dst: REMOTE,
            sport: port,
            dport: [0, 80],
            proto: 6,
            flags: snat_flags::OUT,
            pad: [0; 2],
        };
        let entry = SnatEntry4 {
            created: nanoseconds(now - 100),
            addr: NODE,
            port,
            pad: [0; 2],
        };
        put_mapping(here, &key, &entry);
        assert_eq!(
            conntrack
                .collect(now, GcFilter::Expired)
                .unwrap()
                .nat_deleted,
            0
        );
        assert_eq!(
            conntrack
                .collect(now + 6, GcFilter::Expired)
                .unwrap()
                .nat_deleted,
            2
        );
        assert_eq!(
            conntrack
                .collect(now + 8000, GcFilter::Expired)
                .unwrap()
                .nat_deleted,
            1
        );
    });
}

#[test]
fn a_removed_endpoint_takes_its_connections_along() {
    place(|here| {
        let (datapath, _) = here.open();
        let conntrack = datapath.conntrack().unwrap();
        let later = Conntrack::now() + 1000;
        ct4(here, 1, later, 0);
        mapping(here, 1, 1);
        let mut key = CtKey6 {
            a: [0; 16],
            b: [0xFD; 16],
            port_a: [0; 2],
            port_b: [0; 2],
            proto: 17,
            scope: 0,
            pad: [0; 2],
        };
        key.a[0] = 0xFC;
        let entry = CtEntry {
            expires: later,
            ..CtEntry::default()
        };
        put::<{ size_of::<CtKey6>() }, { size_of::<CtEntry>() }>(here, names::CT6, &key, &entry);
        let connections = conntrack.dump().unwrap();
        assert_eq!(connections.len(), 2);
        assert_eq!(connections[0].source, IpAddr::from(POD));
        assert_eq!(
            (connections[0].source_port, connections[0].destination_port),
            (1, 80)
        );
        let other = conntrack
            .remove_endpoint(&[Ipv4Addr::new(10, 244, 1, 99).into()])
            .unwrap();
        assert_eq!((other.deleted, other.nat_deleted), (0, 0));
        let stats = conntrack
            .remove_endpoint(&[POD.into(), key.a.into()])
            .unwrap();
        assert_eq!((stats.deleted, stats.nat_deleted), (2, 2));
        ct4(here, 2, later, 0);
        assert_eq!(conntrack.flush().unwrap().deleted, 1);
        assert_eq!(conntrack.count().unwrap(), 0);
    });
}

#[test]
fn every_map_is_listed_with_its_entries() {
    place(|here| {
        let (datapath, _) = here.open();
        datapath
            .endpoints()
            .unwrap()
            .upsert(&endpoint(1, 11, 10))
            .unwrap();
        let maps = datapath.maps().unwrap();
        assert_eq!(maps.iter().map(|m| m.name).collect::<Vec<_>>(), names::MAPS);
        let entries = |name| maps.iter().find(|m| m.name == name).unwrap().entries;
        assert_eq!(
            (
                entries(names::LXC),
                entries(names::LXC_IFINDEX),
                entries(names::IPCACHE)
            ),
            (2, 1, 0)
        );
        assert_eq!(
            datapath
                .metrics()
                .unwrap()
                .get(0, Direction::Egress)
                .unwrap()
                .packets,
            0
        );
        assert_eq!(datapath.metrics().unwrap().dump().unwrap(), []);
        assert_eq!(datapath.fragments().unwrap().dump().unwrap(), []);
    });
}

#[test]
fn announced_addresses_hold_for_a_while_and_count_their_answers() {
    place(|here| {
        let (datapath, _) = here.open();
        let map = datapath.l2_responder().unwrap();
        let addresses: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        let (mac, time) = ([2, 0, 0, 0, 0, 7], Duration::from_secs(600));
        for address in addresses {
            map.answer(address, 3, mac, Duration::ZERO).unwrap();
        }
        let rows = map.rows().unwrap();
        assert!(rows.iter().all(|row| row.left.is_zero()), "{rows:?}");
        for address in addresses {
            map.answer(address, 3, mac, time).unwrap();
        }
        let mut rows = map.rows().unwrap();
        rows.sort_by_key(|row| row.address);
        assert_eq!(rows.len(), 2);
        for (row, address) in rows.iter().zip(addresses) {
            assert_eq!((row.address, row.ifindex, row.mac), (address, 3, mac));
            assert!(row.left > time / 2 && row.left <= time, "{row:?}");
        }
        assert!(map.silence(addresses[0], 3).unwrap());
        assert!(!map.silence(addresses[0], 3).unwrap());
        assert!(!map.silence(addresses[1], 4).unwrap(), "another device");
        assert_eq!(map.rows().unwrap().len(), 1);
    });
}
