//! What the node's devices receive and send, and what its own processes send to pods.
use Direction::{Egress, Ingress};
use abi::{Direction, DropReason, mark, names};

use super::{
    packet::{ACK, MACS, Packet, SYN, read},
    scene::{
        Ip, PASS, POD1, REDIRECT, REMOTE_POD_ID, SHOT, Scene, lxc_mac, native, pod_mac, tunnel,
    },
};
use crate::support::place;

#[test]
fn a_device_hands_pods_what_is_theirs() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            for (src, id) in [
                (ip.remote_pod(), REMOTE_POD_ID),
                (ip.outside(), ip.world()),
                (ip.remote_node(), 6),
            ] {
                let came =
                    scene.from_netdev(&Packet::tcp((src, 1000), (ip.pod1(), 80), SYN).bytes());
                came.forwarded(REDIRECT, Ingress);
                let said = read(&came.packet);
                let macs = (said.dst_mac, said.src_mac);
                assert_eq!((macs, said.ttl), ((pod_mac(POD1), lxc_mac(POD1)), 63));
                let tuple = format!("{src} 1000 > {} 80 proto 6 flags 0x2", ip.pod1());
                let events = [
                    format!("from-network: {tuple}, unknown, id 0 > 1001, ep 7"),
                    format!("to-endpoint: {tuple}, new forward, id {id} > 1001, ep 7"),
                ];
                assert_eq!(came.events, events);
            }
            let last = Packet::udp((ip.outside(), 1), (ip.pod1(), 2), b"x")
                .ttl(1)
                .bytes();
            scene
                .from_netdev(&last)
                .dropped(DropReason::TtlExceeded, Ingress);
        }
    });
}

#[test]
fn a_device_leaves_the_rest_to_the_stack() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let to = |dst, port| Packet::tcp((ip.outside(), 1000), (dst, port), SYN).bytes();
            let mut all = vec![
                to(ip.node(), 22),
                // A port that pods could have been given, but none was.
                to(ip.node(), 40_000),
                to(ip.gateway(), 80),
                to(ip.nobody(), 80),
                to(ip.remote_pod(), 80),
                to(ip.multicast(), 80),
                Packet::ping(ip.outside(), ip.node(), 40_000).bytes(),
                Packet::pong(ip.outside(), ip.node(), 40_000).bytes(),
                Packet::new(ip.outside(), ip.node(), 132, vec![0; 12]).bytes(),
                Packet::new(ip.outside(), ip.node(), 47, vec![0; 12]).bytes(),
            ];
            // What cannot be read is not known to be a pod's.
            all.push(to(ip.pod1(), 80)[..ip.l4() + 10].to_vec());
            all.push([&MACS.concat(), &[8, 6, 0, 1][..], &[0; 30]].concat());
            for sent in all {
                let came = scene.from_netdev(&sent);
                assert_eq!(
                    (came.verdict, came.counted, came.events, came.packet),
                    (PASS, vec![], vec![], sent)
                );
            }
        }
        assert!(scene.connections().is_empty());
    });
}

#[test]
fn what_is_marked_leaves_as_it_is() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let sent = Packet::tcp((ip.pod1(), 1000), (ip.outside(), 80), SYN).bytes();
            for marked in [mark::SNAT_DONE, mark::OVERLAY] {
                let came = scene.to_netdev(&sent, marked);
                assert_eq!(
                    (came.verdict, came.packet, came.mark),
                    (PASS, sent.clone(), marked)
                );
            }
            let others = [
                Packet::tcp((ip.pod1(), 1000), (ip.remote_pod(), 80), SYN),
                Packet::tcp((ip.pod1(), 1000), (ip.remote_node(), 80), SYN),
                Packet::tcp((ip.nobody(), 1000), (ip.outside(), 80), SYN),
                Packet::tcp((ip.gateway(), 40_000), (ip.outside(), 80), SYN),
            ];
            for sent in others {
                let came = scene.to_netdev(&sent.bytes(), mark::HOST);
                assert_eq!(
                    (came.verdict, came.packet, came.counted),
                    (PASS, sent.bytes(), vec![])
                );
            }
        }
        assert!(scene.mappings().is_empty());
    });
}

#[test]
fn the_nodes_processes_reach_pods() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            for src in [ip.node(), ip.gateway()] {
                let sent = Packet::tcp((src, 1000), (ip.pod1(), 80), SYN);
                let came = scene.from_host(&sent.bytes(), mark::HOST);
                came.forwarded(REDIRECT, Ingress);
                let said = read(&came.packet);
                let macs = (said.dst_mac, said.src_mac);
                // The stack has counted the hop, if there was one.
                assert_eq!((macs, said.ttl), ((pod_mac(POD1), lxc_mac(POD1)), 64));
                let tuple = format!("{src} 1000 > {} 80 proto 6 flags 0x2", ip.pod1());
                let events = [
                    format!("from-host: {tuple}, unknown, id 1 > 0, ep 0"),
                    format!("to-endpoint: {tuple}, new forward, id 1 > 1001, ep 7"),
                ];
                assert_eq!(came.events, events);
                let reply = Packet::tcp((ip.pod1(), 80), (src, 1000), SYN | ACK).bytes();
                let came = scene.from_pod1(&reply);
                came.forwarded(PASS, Egress);
                assert!(came.events[1].contains(", reply, id 1001 > 1, ep 7"));
            }
        }
    });
}

#[test]
fn the_stack_forwards_to_pods_for_others() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let sent = |src| Packet::udp((src, 1), (ip.pod2(), 2), b"x").bytes();
            let from = |src, mark| scene.from_host(&sent(src), mark).events[1].clone();
            assert!(from(ip.pod1(), mark::with_identity(1001)).contains(", id 1001 > 1002, ep 8"));
            let world = format!(", id {} > 1002, ep 8", ip.world());
            assert!(from(ip.outside(), 0).contains(&world));
        }
    });
}

#[test]
fn the_nodes_processes_reach_other_nodes_pods_by_the_tunnel() {
    place(|here| {
        let scene = Scene::new(here, tunnel);
        for ip in Ip::BOTH {
            let sent = Packet::tcp((ip.gateway(), 1000), (ip.remote_pod(), 80), SYN).bytes();
            let came = scene.from_host(&sent, 0);
            came.forwarded(REDIRECT, Egress);
            assert_eq!((came.packet, came.mark), (sent, mark::OVERLAY));
            let tuple = format!(
                "{} 1000 > {} 80 proto 6 flags 0x2",
                ip.gateway(),
                ip.remote_pod()
            );
            assert_eq!(
                came.events[1],
                format!("to-overlay: {tuple}, new forward tunnel, id 1 > 2001, ep 0")
            );
        }
    });
}

#[test]
fn what_the_node_sends_elsewhere() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let to = |dst| Packet::udp((ip.gateway(), 1), (dst, 2), b"x").bytes();
            for dst in [ip.nobody(), ip.remote_pod(), ip.outside()] {
                scene
                    .from_host(&to(dst), 0)
                    .dropped(DropReason::UnknownTarget, Ingress);
            }
            for dst in [ip.node(), ip.gateway(), ip.multicast()] {
                let came = scene.from_host(&to(dst), 0);
                assert_eq!(
                    (came.verdict, came.counted, came.packet),
                    (PASS, vec![], to(dst))
                );
            }
            let cut = &to(ip.pod1())[..ip.l4() + 2];
            assert_eq!(scene.from_host(cut, 0).verdict, SHOT);
        }
        let arp = [&MACS.concat(), &[8, 6, 0, 1][..], &[0; 30]].concat();
        assert_eq!(scene.from_host(&arp, 0).verdict, PASS);
    });
}

#[test]
fn pods_with_routes_of_their_own_are_reached_by_the_stack() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let sent = Packet::tcp((ip.remote_pod(), 1000), (ip.pod1(), 80), SYN).bytes();
            let run = |device, mark| scene.run(names::TO_CONTAINER, device, &sent, mark);
            let came = run(scene.lxc1, 0);
            came.forwarded(PASS, Ingress);
            let tuple = format!(
                "{} 1000 > {} 80 proto 6 flags 0x2",
                ip.remote_pod(),
                ip.pod1()
            );
            assert_eq!(
                came.events,
                [format!(
                    "to-endpoint: {tuple}, new forward, id 2001 > 1001, ep 7"
                )]
            );
            let came = run(scene.lxc1, mark::with_identity(1234));
            came.told(&format!(
                "to-endpoint: {tuple}, established forward, id 1234 > 1001, ep 7"
            ));
            // A device that is no endpoint's.
            let came = run(scene.eth0, 0);
            assert_eq!(
                (came.verdict, came.counted, came.events),
                (PASS, vec![], vec![])
            );
        }
        let arp = [&MACS.concat(), &[8, 6, 0, 1][..], &[0; 30]].concat();
        assert_eq!(
            scene.run(names::TO_CONTAINER, scene.lxc1, &arp, 0).verdict,
            PASS
        );
    });
}
