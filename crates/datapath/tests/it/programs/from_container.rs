//! What a pod sends: delivery on the node, to the node, to other nodes, and what is refused.
use std::time::{Duration, Instant};

use Direction::{Egress, Ingress};
use abi::{Direction, DropReason, endpoint_flags, mark, names};

use super::{
    packet::{ACK, MACS, Packet, SYN, TCP, read},
    scene::{
        Came, ETH0_MAC, Ip, OTHER_ROUTER_MAC, PASS, POD1, POD1_ID, POD2, POD2_ID, REDIRECT,
        ROUTER_MAC, SHOT, Scene, lxc_mac, native, pod_mac, tunnel,
    },
};
use crate::support::place;

#[test]
fn pods_of_one_node_reach_each_other() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let (a, b) = (ip.pod1(), ip.pod2());
            let came = scene.from_pod1(&Packet::tcp((a, 1000), (b, 80), SYN).bytes());
            came.forwarded(REDIRECT, Ingress);
            let said = read(&came.packet);
            let macs = (said.dst_mac, said.src_mac);
            assert_eq!((macs, said.ttl), ((pod_mac(POD2), lxc_mac(POD2)), 63));
            assert_eq!((said.src, said.dst), ((a, 1000), (b, 80)));
            let tuple = format!("{a} 1000 > {b} 80 proto 6 flags 0x2");
            let events = [
                format!("from-endpoint: {tuple}, unknown, id 1001 > 0, ep 7"),
                format!("to-endpoint: {tuple}, new forward, id 1001 > 1002, ep 7"),
            ];
            assert_eq!(came.events, events);
            let reply = scene.from_pod2(&Packet::tcp((b, 80), (a, 1000), SYN | ACK).bytes());
            let tuple = format!("{b} 80 > {a} 1000 proto 6 flags 0x12");
            reply.forwarded(REDIRECT, Ingress).told(&format!(
                "to-endpoint: {tuple}, reply, id 1002 > 1001, ep 8"
            ));
            assert_eq!(read(&reply.packet).dst_mac, pod_mac(POD1));
        }
        let connections = scene.connections();
        assert_eq!(connections.len(), 2);
        for c in connections {
            assert_eq!(
                (c.source_port, c.destination_port, c.proto),
                (1000, 80, TCP)
            );
            assert_eq!((c.entry.src_id, c.entry.dst_id), (POD1_ID, POD2_ID));
            assert_eq!(c.entry.packets, [1, 1]);
        }
    });
}

#[test]
fn a_pod_reaches_the_node_through_its_stack() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            for (n, dst) in [ip.node(), ip.gateway()].into_iter().enumerate() {
                // It is at its destination: no hop is needed.
                let sent = Packet::tcp((ip.pod1(), 1000), (dst, 10250), SYN)
                    .ttl(1)
                    .bytes();
                let came = scene.from_pod1(&sent);
                came.forwarded(PASS, Egress);
                assert_eq!((came.packet, came.mark), (sent, 0));
                let tuple = format!("{} 1000 > {dst} 10250 proto 6 flags 0x2", ip.pod1());
                let told = format!("to-host: {tuple}, new forward, id 1001 > 1, ep 7");
                assert_eq!(came.events[1], told, "{n}");
            }
        }
        assert_eq!(scene.connections().len(), 4);
    });
}

#[test]
fn a_source_that_is_not_the_pods_is_refused() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            for src in [ip.pod2(), ip.nobody(), ip.node(), ip.outside()] {
                let sent = Packet::udp((src, 1000), (ip.pod2(), 53), b"x").bytes();
                let came = scene.from_pod1(&sent);
                came.dropped(DropReason::InvalidSourceIp, Egress);
                let tuple = format!("{src} 1000 > {} 53 proto 17 flags 0x0", ip.pod2());
                let told = format!("drop Invalid source ip: {tuple}, unknown, id 1001 > 0, ep 7");
                assert_eq!(came.events, [told]);
                assert_eq!(came.packet, sent);
            }
        }
        assert!(scene.connections().is_empty());
    });
}

#[test]
fn an_unknown_device_or_protocol_is_refused_without_an_event() {
    place(|here| {
        let scene = Scene::new(here, native);
        let refused = |came: super::scene::Came, reason: DropReason| {
            assert_eq!(came.verdict, SHOT);
            assert_eq!(came.counted, [(reason as u8, Egress)]);
            assert!(came.events.is_empty());
        };
        let packet = Packet::udp((Ip::V4.pod1(), 1), (Ip::V4.pod2(), 2), b"x").bytes();
        let came = scene.run(names::FROM_CONTAINER, scene.eth0, &packet, 0);
        refused(came, DropReason::EndpointNotReady);
        for ether_type in [0x0000u16, 0x0805, 0x8100, 0x8847, 0x88CC, 0xFFFF] {
            let mut other = packet.clone();
            other[12..14].copy_from_slice(&ether_type.to_be_bytes());
            refused(scene.from_pod1(&other), DropReason::UnsupportedL3);
        }
    });
}

#[test]
fn a_family_that_is_off_is_refused() {
    for on in Ip::BOTH {
        place(|here| {
            let scene = Scene::new(here, |config| {
                native(config);
                (config.ipv4, config.ipv6) = (u8::from(on == Ip::V4), u8::from(on == Ip::V6));
            });
            let udp = |ip: Ip, dst| Packet::udp((ip.pod1(), 1), (dst, 2), b"x").bytes();
            for ip in Ip::BOTH {
                let came = scene.from_pod1(&udp(ip, ip.pod2()));
                if ip == on {
                    came.forwarded(REDIRECT, Ingress);
                    continue;
                }
                assert_eq!(came.counted, [(DropReason::UnsupportedL3 as u8, Egress)]);
                // Elsewhere such packets are the stack's.
                for program in [
                    names::FROM_NETDEV,
                    names::TO_NETDEV,
                    names::FROM_OVERLAY,
                    names::FROM_HOST,
                ] {
                    let sent = udp(ip, ip.pod2());
                    let came = scene.run(program, scene.eth0, &sent, 0);
                    assert_eq!(
                        (came.verdict, came.counted, came.packet),
                        (PASS, vec![], sent)
                    );
                }
            }
        });
    }
}

#[test]
fn other_nodes_pods_are_reached_by_the_tunnel() {
    place(|here| {
        let scene = Scene::new(here, tunnel);
        for ip in Ip::BOTH {
            let (a, b) = (ip.pod1(), ip.remote_pod());
            let sent = Packet::tcp((a, 1000), (b, 80), SYN);
            let came = scene.from_pod1(&sent.bytes());
            came.forwarded(REDIRECT, Egress);
            // Nothing in it changes but the hops it may go.
            assert_eq!(came.packet, sent.ttl(63).bytes());
            assert_eq!(came.mark, mark::OVERLAY);
            let tuple = format!("{a} 1000 > {b} 80 proto 6 flags 0x2");
            came.told(&format!(
                "to-overlay: {tuple}, new forward tunnel, id 1001 > 2001, ep 7"
            ));
        }
        assert!(scene.mappings().is_empty());
    });
}

#[test]
fn other_nodes_pods_are_reached_by_the_network() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let (a, b) = (ip.pod1(), ip.remote_pod());
            let came = scene.from_pod1(&Packet::tcp((a, 1000), (b, 80), SYN).bytes());
            came.forwarded(REDIRECT, Egress);
            let said = read(&came.packet);
            let macs = (said.dst_mac, said.src_mac);
            assert_eq!((macs, said.ttl), ((ROUTER_MAC, ETH0_MAC), 63));
            assert_eq!(
                (said.src, said.dst, came.mark),
                ((a, 1000), (b, 80), mark::SNAT_DONE)
            );
            let tuple = format!("{a} 1000 > {b} 80 proto 6 flags 0x2");
            came.told(&format!(
                "to-network: {tuple}, new forward, id 1001 > 2001, ep 7"
            ));
        }
        assert!(scene.mappings().is_empty());
    });
}

/// What the routing table said is remembered for a moment only: a neighbour that is another machine by now gets the packets, and
/// an address that becomes a pod of this node is served here.
#[test]
fn what_the_routing_table_says_now_counts() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let packet = Packet::udp((ip.pod1(), 1000), (ip.remote_pod(), 53), b"x").bytes();
            let soon_reaches = |mac: [u8; 6]| {
                let end = Instant::now() + Duration::from_secs(10);
                while read(&scene.from_pod1(&packet).packet).dst_mac != mac {
                    assert!(Instant::now() < end, "{mac:?} gets nothing");
                }
            };
            soon_reaches(ROUTER_MAC);
            scene.router_is(ip, OTHER_ROUTER_MAC);
            soon_reaches(OTHER_ROUTER_MAC);
            scene.pod2_has(ip.remote_pod());
            soon_reaches(pod_mac(POD2));
        }
    });
}

/// The way through the tunnel is remembered for a moment only, identities not even that: a new connection has the one that the
/// address cache names now.
#[test]
fn what_the_address_cache_says_now_counts() {
    place(|here| {
        let scene = Scene::new(here, tunnel);
        for ip in Ip::BOTH {
            let packet = |port| Packet::udp((ip.pod1(), port), (ip.remote_pod(), 53), b"x").bytes();
            assert_eq!(scene.from_pod1(&packet(1000)).mark, mark::OVERLAY);
            scene.remote_pod_is(ip, 2002, Some(ip.remote_node()));
            let tuple = format!("{} 1001 > {} 53", ip.pod1(), ip.remote_pod());
            scene.from_pod1(&packet(1001)).told(&format!(
                "to-overlay: {tuple} proto 17 flags 0x0, new forward tunnel, id 1001 > 2002, ep 7"
            ));
            let soon = |what: &str, holds: &dyn Fn(&Came) -> bool| {
                let end = Instant::now() + Duration::from_secs(10);
                while !holds(&scene.from_pod1(&packet(1000))) {
                    assert!(Instant::now() < end, "{what} gets nothing");
                }
            };
            scene.remote_pod_is(ip, 2002, None);
            soon("the network", &|came| came.mark == mark::SNAT_DONE);
            scene.pod2_has(ip.remote_pod());
            soon("the pod", &|came| {
                read(&came.packet).dst_mac == pod_mac(POD2)
            });
        }
    });
}

#[test]
fn a_next_hop_without_a_mac_address_is_left_to_the_kernel() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            native(config);
            (config.masquerade4, config.masquerade6) = (0, 0);
        });
        for ip in Ip::BOTH {
            let sent = Packet::ping(ip.pod1(), ip.stranger(), 5);
            let came = scene.from_pod1(&sent.bytes());
            came.forwarded(REDIRECT, Egress);
            assert_eq!(came.packet, sent.ttl(63).bytes());
            assert_eq!(read(&came.packet).dst_mac, MACS[0]);
        }
    });
}

/// The stack answers a pod whose packet finds no way: it must still see the pod as the sender.
#[test]
fn what_finds_no_way_goes_up_the_stack_as_it_came() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let sent = Packet::udp((ip.pod1(), 1000), (ip.unreachable(), 53), b"x").bytes();
            let came = scene.from_pod1(&sent);
            came.forwarded(PASS, Egress);
            assert_eq!(
                (&came.packet, came.mark),
                (&sent, mark::with_identity(POD1_ID))
            );
            let tuple = format!("{} 1000 > {} 53", ip.pod1(), ip.unreachable());
            let world = ip.world();
            came.told(&format!(
                "to-stack: {tuple} proto 17 flags 0x0, new forward, id 1001 > {world}, ep 7"
            ));
        }
        assert!(scene.mappings().is_empty());
    });
}

#[test]
fn the_last_hop_is_the_last() {
    for config in [native, tunnel] {
        place(|here| {
            let scene = Scene::new(here, config);
            for ip in Ip::BOTH {
                for dst in [ip.pod2(), ip.remote_pod(), ip.outside(), ip.stranger()] {
                    for ttl in [0, 1] {
                        let sent = Packet::udp((ip.pod1(), 40_000), (dst, 53), b"x")
                            .ttl(ttl)
                            .bytes();
                        scene
                            .from_pod1(&sent)
                            .dropped(DropReason::TtlExceeded, Egress);
                    }
                    let sent = Packet::udp((ip.pod1(), 40_000), (dst, 53), b"x")
                        .ttl(2)
                        .bytes();
                    let came = scene.from_pod1(&sent);
                    assert_eq!((came.verdict, read(&came.packet).ttl), (REDIRECT, 1));
                }
            }
        });
    }
}

#[test]
fn the_host_stack_can_be_the_way() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            native(config);
            config.host_legacy = 1;
        });
        for ip in Ip::BOTH {
            for dst in [ip.remote_pod(), ip.outside()] {
                let sent = Packet::udp((ip.pod1(), 1000), (dst, 53), b"x").bytes();
                let came = scene.from_pod1(&sent);
                came.forwarded(PASS, Egress);
                assert_eq!(
                    (came.packet, came.mark),
                    (sent, mark::with_identity(POD1_ID))
                );
                assert!(came.events[1].starts_with("to-stack: "));
            }
            // On the node itself the way is short in any case.
            let near = Packet::udp((ip.pod1(), 1000), (ip.pod2(), 53), b"x").bytes();
            scene.from_pod1(&near).forwarded(REDIRECT, Ingress);
        }
        assert!(scene.mappings().is_empty());
    });
}

#[test]
fn an_endpoint_may_want_no_direct_hand_over() {
    place(|here| {
        let scene = Scene::new(here, native);
        scene.flag_pod(scene.lxc2, endpoint_flags::NO_PEER_REDIRECT);
        for ip in Ip::BOTH {
            let came = scene.from_pod1(&Packet::ping(ip.pod1(), ip.pod2(), 1).bytes());
            came.forwarded(REDIRECT, Ingress);
            assert_eq!(read(&came.packet).dst_mac, pod_mac(POD2));
        }
    });
}
