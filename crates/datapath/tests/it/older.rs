//! Connections that are older than the programs.
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use abi::{CtEntry, CtKey4, names};
use aya::maps::{HashMap, Map, MapData};
use datapath::maps::Conntrack;
use zerocopy::{FromZeros, IntoBytes};

use crate::support::{Place, place};

const REMOTE: [u8; 4] = [10, 10, 1, 200];
const NODE: [u8; 4] = [192, 168, 10, 100];

fn end(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// Writes the entry of the connection between the two as programs do.
fn write(here: &Place, entry: &CtEntry) {
    let mut key = CtKey4::new_zeroed();
    (key.a, key.b, key.proto) = (REMOTE, NODE, 6);
    (key.port_a, key.port_b) = (6443_u16.to_be_bytes(), 40_000_u16.to_be_bytes());
    let pin = MapData::from_pin(here.bpffs().join("tc/globals").join(names::CT4)).unwrap();
    let map = Map::LruHashMap(pin);
    let mut map: HashMap<_, [u8; size_of::<CtKey4>()], [u8; size_of::<CtEntry>()]> =
        map.try_into().unwrap();
    let key: [u8; size_of::<CtKey4>()] = key.as_bytes().try_into().unwrap();
    let entry: [u8; size_of::<CtEntry>()] = entry.as_bytes().try_into().unwrap();
    map.insert(key, entry, 0).unwrap();
}

#[test]
fn a_connection_from_before_belongs_to_who_opened_it() {
    place(|here| {
        let (datapath, _) = here.open();
        let conntrack = datapath.conntrack().unwrap();
        let (api, node) = (end(REMOTE, 6443), end(NODE, 40_000));
        assert!(conntrack.adopt(node, api, 100).unwrap());
        assert!(!conntrack.adopt(node, api, 100).unwrap());
        let known = conntrack.dump().unwrap();
        assert_eq!(known.len(), 1);
        assert_eq!((known[0].source, known[0].source_port), (node.ip(), 40_000));
        assert_eq!(known[0].destination_port, 6443);
        assert!(known[0].remaining(Conntrack::now()) > 90);
        // Its opening was seen: what sockets seem to say does not count.
        assert!(!conntrack.adopt(api, node, 100).unwrap());
        assert_eq!(conntrack.dump().unwrap(), known);
        // Somebody's answer was what was seen first.
        let orig_tcp = 16;
        write(
            here,
            &CtEntry {
                orig_tcp,
                ..known[0].entry
            },
        );
        assert!(conntrack.adopt(api, node, 100).unwrap());
        assert_eq!(conntrack.dump().unwrap()[0].source, api.ip());
        // An entry whose time is over says nothing.
        write(
            here,
            &CtEntry {
                expires: 1,
                ..known[0].entry
            },
        );
        assert!(conntrack.adopt(api, node, 100).unwrap());
        let v6 = |last| end(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last), 9);
        assert!(conntrack.adopt(v6(2), v6(1), 100).unwrap());
        assert_eq!(conntrack.dump().unwrap()[1].source, v6(2).ip());
        assert!(!conntrack.adopt(node, v6(1), 100).unwrap());
    });
}
