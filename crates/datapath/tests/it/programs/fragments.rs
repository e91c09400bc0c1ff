//! Fragments: the first one tells the ports of those that follow.
use abi::{Direction::Egress, Direction::Ingress, DropReason};

use super::{
    packet::{MACS, Packet, reassemble},
    scene::{Ip, PASS, REDIRECT, Scene, native, tunnel},
};
use crate::support::place;

#[test]
fn later_fragments_follow_the_first() {
    for config in [native, tunnel] {
        place(|here| {
            let scene = Scene::new(here, config);
            for ip in Ip::BOTH {
                let (a, b) = ((ip.pod1(), 1000), (ip.pod2(), 53));
                let packet = Packet::udp(a, b, &[5; 100]);
                let [first, later] = packet.split(0x1234, 4).map(|part| {
                    let came = scene.from_pod1(&part);
                    came.forwarded(REDIRECT, Ingress);
                    let tuple = format!("{} 1000 > {} 53 proto 17 flags 0x0", a.0, b.0);
                    assert!(came.events[1].starts_with(&format!("to-endpoint: {tuple}, ")));
                    came.packet
                });
                let mut whole = reassemble(&first, &later);
                whole[..12].copy_from_slice(&MACS.concat());
                assert_eq!(whole, packet.ttl(63).bytes());
            }
            let rows = scene.datapath.fragments().unwrap().dump().unwrap();
            assert_eq!(rows.len(), 2);
            assert!(
                rows.iter()
                    .all(|row| (row.source_port, row.destination_port) == (1000, 53))
            );
        });
    }
}

#[test]
fn an_echo_in_fragments_is_one_connection() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let (request, reply) = (
                if ip == Ip::V4 { 8 } else { 128 },
                if ip == Ip::V4 { 0 } else { 129 },
            );
            let echo = |src, dst, kind| Packet::icmp(src, dst, kind, 0, [0, 99, 0, 1], &[1; 64]);
            for part in echo(ip.pod1(), ip.pod2(), request).split(1, 2) {
                let came = scene.from_pod1(&part);
                assert!(came.events[1].contains(&format!(
                    "{} 99 > {} 0 proto",
                    ip.pod1(),
                    ip.pod2()
                )));
            }
            for part in echo(ip.pod2(), ip.pod1(), reply).split(2, 2) {
                let came = scene.from_pod2(&part);
                assert!(came.events[1].contains(", reply, "), "{:?}", came.events);
            }
        }
        assert_eq!(scene.connections().len(), 2);
    });
}

#[test]
fn a_later_fragment_alone_is_nobodys() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let [_, later] = Packet::udp((ip.pod1(), 1), (ip.pod2(), 2), &[5; 100]).split(77, 4);
            let came = scene.from_pod1(&later);
            came.dropped(DropReason::FragmentNotFound, Egress);
            let tuple = format!("{} 0 > {} 0 proto 17 flags 0x0", ip.pod1(), ip.pod2());
            let reason = "drop First logical datagram fragment not found";
            assert_eq!(
                came.events,
                [format!("{reason}: {tuple}, unknown, id 0 > 0, ep 7")]
            );
            // On a device it may be the node's own: the stack puts it together.
            let [_, later] = Packet::udp((ip.outside(), 1), (ip.node(), 2), &[5; 100]).split(78, 4);
            let came = scene.from_netdev(&later);
            assert_eq!(
                (came.verdict, came.counted, came.packet),
                (PASS, vec![], later)
            );
        }
    });
}

/// A datagram's number is told apart by who sends it to whom.
#[test]
fn datagrams_are_not_mixed_up() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let [first, _] = Packet::udp((ip.pod1(), 1000), (ip.pod2(), 53), &[5; 100]).split(9, 4);
            scene.from_pod1(&first).forwarded(REDIRECT, Ingress);
            let others = [
                Packet::udp((ip.pod1(), 1000), (ip.pod2(), 53), &[5; 100]).split(10, 4),
                Packet::udp((ip.pod1(), 1000), (ip.node(), 53), &[5; 100]).split(9, 4),
                Packet::ping(ip.pod1(), ip.pod2(), 1000).split(9, 2),
            ];
            for [_, later] in others {
                scene
                    .from_pod1(&later)
                    .dropped(DropReason::FragmentNotFound, Egress);
            }
        }
    });
}
