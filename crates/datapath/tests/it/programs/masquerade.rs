//! Pods leave the cluster under the node's address, and what returns finds its pod.
use std::net::IpAddr;

use Direction::{Egress, Ingress};
use abi::{Direction, DropReason, mark};

use super::{
    packet::{ACK, End, Packet, SYN, UDP, read, reassemble},
    scene::{
        ETH0_MAC, Ip, PASS, POD1, POD1_ID, REDIRECT, ROUTER_MAC, Scene, lxc_mac, native, pod_mac,
        tunnel,
    },
};
use crate::support::place;

const MIN: u16 = 32768;

/// What the pods say to `dst`, and what is answered: by protocol.
#[derive(Clone, Copy, Debug)]
enum Talk {
    Tcp,
    Udp,
    Echo,
}

impl Talk {
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Echo];

    fn ask(self, from: End, to: End) -> Packet {
        match self {
            Self::Tcp => Packet::tcp(from, to, SYN),
            Self::Udp => Packet::udp(from, to, b"an odd payload!"),
            Self::Echo => Packet::ping(from.0, to.0, from.1),
        }
    }

    fn answer(self, from: End, to: End) -> Packet {
        match self {
            Self::Tcp => Packet::tcp(from, to, SYN | ACK),
            Self::Udp => Packet::udp(from, to, b"even"),
            Self::Echo => Packet::pong(from.0, to.0, to.1),
        }
    }

    /// The port that an end of the packet shows: an echo's identifier is that of both ends.
    fn port(self, own: u16, other: u16) -> u16 {
        if matches!(self, Self::Echo) {
            other
        } else {
            own
        }
    }
}

#[test]
fn a_round_trip() {
    place(|here| {
        let scene = Scene::new(here, native);
        for (ip, talk) in Ip::BOTH
            .into_iter()
            .flat_map(|ip| Talk::ALL.map(|talk| (ip, talk)))
        {
            for port in [1000, 40_000] {
                round_trip(&scene, ip, talk, port);
            }
        }
        // Two families, three protocols, two ports, and two entries for each.
        assert_eq!(scene.mappings().len(), 24);
    });
}

fn round_trip(scene: &Scene, ip: Ip, talk: Talk, port: u16) {
    let (pod, server) = ((ip.pod1(), port), (ip.outside(), 80));
    let came = scene.from_pod1(&talk.ask(pod, server).bytes());
    came.forwarded(REDIRECT, Egress);
    let said = read(&came.packet);
    let macs = (said.dst_mac, said.src_mac);
    assert_eq!(
        (macs, said.ttl, came.mark),
        ((ROUTER_MAC, ETH0_MAC), 63, mark::SNAT_DONE)
    );
    assert_eq!(
        (said.src.0, said.dst),
        (ip.node(), (server.0, talk.port(80, said.src.1)))
    );
    assert!(
        said.src.1 >= MIN && (port < MIN || said.src.1 == port),
        "{said:?}"
    );
    let told = came.events.last().unwrap();
    assert!(
        told.starts_with(&format!("to-network: {} {port} > {} ", pod.0, server.0)),
        "{told}"
    );
    let end = format!("new forward snat, id 1001 > {}, ep 7", ip.world());
    assert!(told.ends_with(&end), "{told}");

    let back = scene.from_netdev(&talk.answer(server, said.src).bytes());
    back.forwarded(REDIRECT, Ingress);
    let said = read(&back.packet);
    let macs = (said.dst_mac, said.src_mac);
    assert_eq!((macs, said.ttl), ((pod_mac(POD1), lxc_mac(POD1)), 63));
    assert_eq!((said.src, said.dst), ((server.0, talk.port(80, port)), pod));
    let told = back.events.last().unwrap();
    assert!(
        told.starts_with(&format!("to-endpoint: {} ", server.0)),
        "{told}"
    );
    assert!(
        told.contains(&format!(" > {} {port} proto ", pod.0)),
        "{told}"
    );
    let end = format!("reply snat, id {} > {POD1_ID}, ep 7", ip.world());
    assert!(told.ends_with(&end), "{told}");

    // The connection keeps its port.
    let again = scene.from_pod1(&talk.ask(pod, server).bytes());
    assert_eq!(again.packet, came.packet);
}

#[test]
fn who_is_masqueraded_and_who_is_not() {
    for (name, config) in [("native", native as fn(&mut _)), ("tunnel", tunnel)] {
        place(|here| {
            let scene = Scene::new(here, config);
            for ip in Ip::BOTH {
                let source = |dst: IpAddr| {
                    let sent = Packet::udp((ip.pod1(), 40_000), (dst, 53), b"x").bytes();
                    read(&scene.from_pod1(&sent).packet).src.0
                };
                assert_eq!(source(ip.outside()), ip.node(), "{name}");
                assert_eq!(source(ip.stranger()), ip.node(), "{name}");
                // The rest of the pods' network, of which nothing is known.
                assert_eq!(source(ip.nobody()), ip.pod1(), "{name}");
                assert_eq!(source(ip.remote_pod()), ip.pod1(), "{name}");
                // Other nodes find back to a pod only where the network knows the way.
                let expected = if name == "native" {
                    ip.pod1()
                } else {
                    ip.node()
                };
                assert_eq!(source(ip.remote_node()), expected, "{name}");
                // A range that a rule of policy names is as far outside as before.
                scene.is_known_as(ip.outside(), 0x0100_0001);
                assert_eq!(source(ip.outside()), ip.node(), "{name}");
            }
        });
    }
}

#[test]
fn who_was_called_answers_under_the_own_address() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let (caller, pod) = ((ip.outside(), 40_000), (ip.pod1(), 80));
            let call = scene.from_netdev(&Packet::tcp(caller, pod, SYN).bytes());
            call.forwarded(REDIRECT, Ingress);
            let answer = scene.from_pod1(&Packet::tcp(pod, caller, SYN | ACK).bytes());
            answer.forwarded(REDIRECT, Egress);
            assert_eq!(read(&answer.packet).src, pod);
        }
        assert!(scene.mappings().is_empty());
    });
}

#[test]
fn two_pods_with_one_port_get_two() {
    place(|here| {
        let scene = Scene::new(here, native);
        for (ip, talk) in Ip::BOTH
            .into_iter()
            .flat_map(|ip| Talk::ALL.map(|talk| (ip, talk)))
        {
            let server = (ip.outside(), 443);
            let one = scene.from_pod1(&talk.ask((ip.pod1(), 50_000), server).bytes());
            let two = scene.from_pod2(&talk.ask((ip.pod2(), 50_000), server).bytes());
            let (one, two) = (read(&one.packet).src, read(&two.packet).src);
            assert_eq!(one, (ip.node(), 50_000));
            assert!(two.0 == ip.node() && two.1 != 50_000, "{talk:?}: {two:?}");
            let back = |to| read(&scene.from_netdev(&talk.answer(server, to).bytes()).packet).dst;
            assert_eq!(
                (back(one), back(two)),
                ((ip.pod1(), 50_000), (ip.pod2(), 50_000))
            );
            // To another server the port is free.
            let other = talk.ask((ip.pod2(), 50_000), (ip.stranger(), 443));
            assert_eq!(read(&scene.from_pod2(&other.bytes()).packet).src.1, 50_000);
        }
    });
}

#[test]
fn ports_of_the_nodes_own_connections_are_not_given_away() {
    place(|here| {
        let scene = Scene::new(here, native);
        for (ip, talk) in Ip::BOTH
            .into_iter()
            .flat_map(|ip| Talk::ALL.map(|talk| (ip, talk)))
        {
            let server = (ip.outside(), 443);
            let own = talk.ask((ip.node(), 45_000), server).bytes();
            let came = scene.to_netdev(&own, 0);
            assert_eq!((came.verdict, &came.packet), (PASS, &own));
            let pods = scene.from_pod1(&talk.ask((ip.pod1(), 45_000), server).bytes());
            let pods = read(&pods.packet).src;
            assert!(
                pods.0 == ip.node() && pods.1 != 45_000,
                "{talk:?}: {pods:?}"
            );
            // Answers to the node go up its stack untouched.
            let answer = talk.answer(server, (ip.node(), 45_000)).bytes();
            let came = scene.from_netdev(&answer);
            assert_eq!(
                (came.verdict, came.packet, came.counted),
                (PASS, answer, vec![])
            );
        }
    });
}

#[test]
fn the_node_gives_way_where_a_pod_was_first() {
    place(|here| {
        let scene = Scene::new(here, native);
        for (ip, talk) in Ip::BOTH
            .into_iter()
            .flat_map(|ip| Talk::ALL.map(|talk| (ip, talk)))
        {
            let server = (ip.outside(), 443);
            scene.from_pod1(&talk.ask((ip.pod1(), 46_000), server).bytes());
            let came = scene.to_netdev(&talk.ask((ip.node(), 46_000), server).bytes(), 0);
            let given = read(&came.packet).src;
            assert!(
                came.verdict == PASS && given.1 != 46_000,
                "{talk:?}: {given:?}"
            );
            let back = scene.from_netdev(&talk.answer(server, given).bytes());
            assert_eq!(
                (back.verdict, read(&back.packet).dst),
                (PASS, (ip.node(), 46_000))
            );
        }
    });
}

/// Ports that no pod can be given cannot collide: the node's packets stay as they are, and no entry is spent on them.
#[test]
fn the_node_keeps_ports_outside_the_range() {
    place(|here| {
        let scene = Scene::new(here, native);
        for (ip, talk) in Ip::BOTH
            .into_iter()
            .flat_map(|ip| Talk::ALL.map(|talk| (ip, talk)))
        {
            let own = talk.ask((ip.node(), 1000), (ip.outside(), 443)).bytes();
            assert_eq!(scene.to_netdev(&own, 0).packet, own, "{talk:?}");
            let answer = talk.answer((ip.node(), 443), (ip.outside(), 1000)).bytes();
            assert_eq!(scene.to_netdev(&answer, 0).packet, answer, "{talk:?}");
        }
        assert!(scene.mappings().is_empty());
    });
}

#[test]
fn no_port_left() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            native(config);
            (config.snat_min, config.snat_max) = (40_000, 40_001);
        });
        for (ip, talk) in Ip::BOTH
            .into_iter()
            .flat_map(|ip| Talk::ALL.map(|talk| (ip, talk)))
        {
            let send =
                |port| scene.from_pod1(&talk.ask((ip.pod1(), port), (ip.outside(), 1)).bytes());
            for port in [1, 2] {
                send(port).forwarded(REDIRECT, Egress);
            }
            send(3).dropped(DropReason::NatNoMapping, Egress);
            send(1).forwarded(REDIRECT, Egress);
        }
    });
}

#[test]
fn what_cannot_be_masqueraded_is_refused() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            // Messages that are neither an echo request nor an error: a timestamp, an unasked answer, a query of group members.
            let types = if ip == Ip::V4 { [13, 0] } else { [130, 129] };
            for kind in types {
                let message = Packet::icmp(
                    ip.pod1(),
                    ip.outside(),
                    kind,
                    0,
                    [0x12, 0x34, 0, 1],
                    b"12bytes long",
                );
                let came = scene.from_pod1(&message.bytes());
                came.dropped(DropReason::NatUnsupportedProtocol, Egress);
            }
            // An error about nothing that was ever sent here.
            let alien = Packet::udp((ip.outside(), 5), (ip.pod1(), 6), b"x").bytes();
            let error = Packet::unreachable(ip.pod1(), ip.outside(), &alien).bytes();
            scene
                .from_pod1(&error)
                .dropped(DropReason::NatNoMapping, Egress);
        }
        assert!(scene.mappings().is_empty());
    });
}

/// The checksum of SCTP covers all of its packet: it keeps its port, and its mapping is the only one of that port.
#[test]
fn sctp_keeps_its_port() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let (pod, node, server) = ((ip.pod1(), 1000), (ip.node(), 1000), (ip.outside(), 38412));
            let left = scene.from_pod1(&Packet::sctp(pod, server).bytes());
            left.forwarded(REDIRECT, Egress);
            let expected = Packet::sctp(node, server).ttl(63).bytes();
            assert_eq!(left.packet[14..], expected[14..]);
            let back = scene.from_netdev(&Packet::sctp(server, node).bytes());
            back.forwarded(REDIRECT, Ingress);
            let expected = Packet::sctp(server, pod).ttl(63).bytes();
            assert_eq!(back.packet[14..], expected[14..]);
            let other = Packet::sctp((ip.pod2(), 1000), server).bytes();
            scene
                .from_pod2(&other)
                .dropped(DropReason::NatNoMapping, Egress);
        }
    });
}

/// Somebody on the way, or the other end, could not deliver what a pod sent.
#[test]
fn errors_find_the_pod_they_are_for() {
    place(|here| {
        let scene = Scene::new(here, native);
        for (ip, talk) in Ip::BOTH
            .into_iter()
            .flat_map(|ip| Talk::ALL.map(|talk| (ip, talk)))
        {
            for port in [1000, 40_000] {
                let sent = talk.ask((ip.pod1(), port), (ip.outside(), 80));
                let left = scene.from_pod1(&sent.bytes());
                for reporter in [ip.outside(), ip.router()] {
                    let error = Packet::unreachable(reporter, ip.node(), &left.packet).bytes();
                    let came = scene.from_netdev(&error);
                    came.forwarded(REDIRECT, Ingress);
                    // As the pod sent it, one hop older; its checksums are right, which `run` looks at.
                    let expected =
                        Packet::unreachable(reporter, ip.pod1(), &sent.clone().ttl(63).bytes());
                    assert_eq!(
                        came.packet[14..],
                        expected.ttl(63).bytes()[14..],
                        "{talk:?} {port}"
                    );
                    let told = came.events.last().unwrap();
                    assert!(told.contains("related forward snat, id "), "{told}");
                }
            }
        }
    });
}

#[test]
fn a_pods_errors_are_about_what_the_others_know() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            for port in [1000, 40_000] {
                let (pod, server) = ((ip.pod1(), port), (ip.outside(), 53));
                let left = scene.from_pod1(&Packet::udp(pod, server, b"x").bytes());
                let node = read(&left.packet).src;
                let answer = Packet::udp(server, node, b"too late");
                let came = scene.from_netdev(&answer.bytes());
                let error = Packet::unreachable(ip.pod1(), ip.outside(), &came.packet);
                let came = scene.from_pod1(&error.bytes());
                came.forwarded(REDIRECT, Egress);
                let quoted = answer.ttl(63).bytes();
                let expected = Packet::unreachable(ip.node(), ip.outside(), &quoted).ttl(63);
                assert_eq!(came.packet[14..], expected.bytes()[14..], "{port}");
                assert!(
                    came.events
                        .last()
                        .unwrap()
                        .contains("related forward snat, id 1001 > ")
                );
            }
        }
    });
}

/// Of a message without identifier none may be rewritten, even where a mapping of identifier zero would fit.
#[test]
fn errors_about_messages_that_are_no_flows_are_refused() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let (pod, far) = (ip.pod1(), ip.outside());
            scene.from_pod1(&Packet::ping(pod, far, 0).bytes());
            let message = Packet::icmp(far, pod, 250, 0, [1, 2, 3, 4], b"12345").bytes();
            let error = Packet::unreachable(pod, far, &message).bytes();
            scene
                .from_pod1(&error)
                .dropped(DropReason::InvalidPacket, Egress);
        }
    });
}

#[test]
fn errors_that_are_nobodys_are_the_nodes() {
    place(|here| {
        let scene = Scene::new(here, native);
        for ip in Ip::BOTH {
            let unknown = Packet::udp((ip.node(), 40_000), (ip.outside(), 80), b"x").bytes();
            for quoted in [&unknown[..], &unknown[..14 + 10]] {
                let error = Packet::unreachable(ip.router(), ip.node(), quoted).bytes();
                let came = scene.from_netdev(&error);
                assert_eq!(
                    (came.verdict, came.packet, came.counted),
                    (PASS, error, vec![])
                );
            }
        }
    });
}

#[test]
fn fragments_go_out_and_come_back() {
    place(|here| {
        let scene = Scene::new(here, native);
        for (ip, port) in Ip::BOTH
            .into_iter()
            .flat_map(|ip| [(ip, 1000), (ip, 40_000)])
        {
            let (pod, server) = ((ip.pod1(), port), (ip.outside(), 53));
            let asked = Packet::udp(pod, server, &[7; 99]);
            let [first, later] = asked.split(u32::from(port), 5).map(|part| {
                let came = scene.from_pod1(&part);
                came.forwarded(REDIRECT, Egress);
                came.packet
            });
            // Put together they are right: the checksum is in the first, and covers both.
            let whole = reassemble(&first, &later);
            assert_eq!(super::packet::wrong_checksums(&whole), [""; 0]);
            let node = read(&whole).src;
            assert!(node.0 == ip.node() && node.1 >= MIN, "{node:?}");
            let answer = Packet::udp(server, node, &[8; 77]);
            let [first, later] = answer.split(u32::from(port), 3).map(|part| {
                let came = scene.from_netdev(&part);
                came.forwarded(REDIRECT, Ingress);
                came.packet
            });
            let whole = reassemble(&first, &later);
            assert_eq!(
                whole[14..],
                Packet::udp(server, pod, &[8; 77]).ttl(63).bytes()[14..]
            );
        }
    });
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    place(|here| {
        let scene = Scene::new(here, native);
        let (pod, server) = ((Ip::V4.pod1(), 1000), (Ip::V4.outside(), 53));
        let bare = |from, to| {
            Packet::udp(from, to, b"x")
                .change_l4(|l4| l4[6..8].fill(0))
                .bytes()
        };
        let left = scene.from_pod1(&bare(pod, server)).packet;
        assert_eq!(
            (read(&left).src.0, &left[40..42]),
            (Ip::V4.node(), &[0, 0][..])
        );
        let back = scene.from_netdev(&bare(server, read(&left).src)).packet;
        assert_eq!((read(&back).dst, &back[40..42]), (pod, &[0, 0][..]));
    });
}

#[test]
fn by_the_host_stack_the_device_masquerades() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            native(config);
            config.host_legacy = 1;
        });
        for (ip, talk) in Ip::BOTH
            .into_iter()
            .flat_map(|ip| Talk::ALL.map(|talk| (ip, talk)))
        {
            let (pod, server) = ((ip.pod1(), 1000), (ip.outside(), 80));
            let came = scene.from_pod1(&talk.ask(pod, server).bytes());
            let left = scene.to_netdev(&came.packet, came.mark);
            assert_eq!((left.verdict, left.counted), (PASS, vec![]));
            let node = read(&left.packet).src;
            assert!(node.0 == ip.node() && node.1 >= MIN, "{talk:?}: {node:?}");
            let back = scene.from_netdev(&talk.answer(server, node).bytes());
            assert_eq!((back.verdict, read(&back.packet).dst), (PASS, pod));
            // Somebody calls the pod: its answer is not masqueraded.
            let call = talk.ask((ip.outside(), 5000), (ip.pod2(), 80));
            assert_eq!(scene.from_netdev(&call.bytes()).verdict, PASS);
            let answer = talk.answer((ip.pod2(), 80), (ip.outside(), 5000)).bytes();
            let came = scene.from_pod2(&answer);
            assert_eq!(
                scene.to_netdev(&answer, came.mark).packet,
                answer,
                "{talk:?}"
            );
        }
    });
}

/// A full map may give up one half of a mapping: the way back is restored when the connection is next reported.
#[test]
fn a_lost_way_back_is_restored() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            native(config);
            config.report_interval = 0;
        });
        let (pod, server) = ((Ip::V4.pod1(), 1000), (Ip::V4.outside(), 53));
        let sent = Packet::udp(pod, server, b"x").bytes();
        let left = scene.from_pod1(&sent).packet;
        let mapping = *scene.mappings().iter().find(|row| !row.outgoing).unwrap();
        scene.forget(
            UDP,
            (mapping.source, mapping.source_port),
            (mapping.destination, mapping.destination_port),
        );
        assert_eq!(scene.mappings().len(), 1);
        assert_eq!(scene.from_pod1(&sent).packet, left);
        let back = scene.from_netdev(&Packet::udp(server, read(&left).src, b"x").bytes());
        assert_eq!(read(&back.packet).dst, pod);
    });
}
