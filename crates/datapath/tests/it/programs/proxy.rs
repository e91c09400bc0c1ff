//! Connections by way of the proxy, packet by packet: what goes there, what comes from there, and what nobody else may send.
use abi::{DatapathConfig, Direction, DropReason, ProxyKind, names, proxy::UPSTREAM_PORTS};

use super::{
    packet::{ACK, Packet, SYN, TCP, UDP},
    policy::{SUBJECT1, SUBJECT2, key, port},
    scene::{Ip, POD1_ID, POD2_ID, REDIRECT, Scene, native},
};
use crate::support::place;

use Direction::{Egress, Ingress};

const PROXY_MAC: [u8; 6] = [2, 7, 0, 0, 0, 1];
const DOOR_MAC: [u8; 6] = [2, 7, 0, 0, 0, 2];

fn with_proxy(config: &mut DatapathConfig) {
    native(config);
    config.proxy_ifindex = 1;
    (config.proxy_mac, config.proxy_node_mac) = (PROXY_MAC, DOOR_MAC);
}

fn goes_to_proxy(packet: &[u8]) -> bool {
    packet[..6] == PROXY_MAC && packet[6..12] == DOOR_MAC
}

/// Both legs, both ways.
#[test]
fn two_legs() {
    place(|here| {
        let scene = Scene::new(here, with_proxy);
        scene.subjects(SUBJECT1, SUBJECT2);
        for proto in [TCP, UDP] {
            let kind = if proto == TCP {
                ProxyKind::Http
            } else {
                ProxyKind::Dns
            };
            scene.allow_by(kind, key(SUBJECT1, Egress, POD2_ID, port(proto, 80)));
            scene.allow(key(SUBJECT2, Ingress, POD1_ID, port(proto, 80)));
        }
        scene.raise();
        for ip in Ip::BOTH {
            for proto in [TCP, UDP] {
                let packet = |from, to, flags| {
                    if proto == TCP {
                        Packet::tcp(from, to, flags).bytes()
                    } else {
                        Packet::udp(from, to, b"a question").bytes()
                    }
                };
                let (client, server) = ((ip.pod1(), 40000), (ip.pod2(), 80));
                let leg2 = (ip.pod1(), *UPSTREAM_PORTS.start());
                let first = scene.from_pod1(&packet(client, server, SYN));
                assert_eq!(first.verdict, REDIRECT);
                assert!(goes_to_proxy(&first.packet), "{first:?}");
                assert!(first.events.last().unwrap().starts_with("to-proxy"));
                let answer = scene.from_proxy(&packet(server, client, SYN | ACK));
                answer.forwarded(REDIRECT, Ingress);
                assert!(!goes_to_proxy(&answer.packet));
                let more = scene.from_pod1(&packet(client, server, ACK));
                assert!(goes_to_proxy(&more.packet));
                // The server does not know leg 1, and nobody knows leg 2 but the proxy.
                scene
                    .from_pod2(&packet(server, client, ACK))
                    .dropped(DropReason::PolicyDenied, Egress);
                let opens = scene.from_proxy(&packet(leg2, server, SYN));
                opens.forwarded(REDIRECT, Ingress);
                assert!(!goes_to_proxy(&opens.packet));
                scene
                    .from_pod1(&packet(leg2, server, ACK))
                    .dropped(DropReason::PolicyDenied, Egress);
                let back = scene.from_pod2(&packet(server, leg2, SYN | ACK));
                assert!(goes_to_proxy(&back.packet), "{back:?}");
                // It is the client's connection that policy knows.
                scene.raise();
                let more = scene.from_pod1(&packet(client, server, ACK));
                assert!(goes_to_proxy(&more.packet));
                assert!(goes_to_proxy(
                    &scene.from_pod2(&packet(server, leg2, ACK)).packet
                ));
            }
        }
    });
}

/// What the proxy sends is an answer, or from one of its ports.
#[test]
fn what_is_not_the_proxys() {
    place(|here| {
        let scene = Scene::new(here, with_proxy);
        for ip in Ip::BOTH {
            let stray = Packet::tcp((ip.pod1(), 40000), (ip.pod2(), 80), SYN).bytes();
            scene
                .from_proxy(&stray)
                .dropped(DropReason::CtUnknownState, Egress);
            // A connection of the pod's own from such a port stays its own.
            let own = (ip.pod1(), *UPSTREAM_PORTS.end());
            let mine = Packet::tcp(own, (ip.pod2(), 80), SYN).bytes();
            scene.from_pod1(&mine).forwarded(REDIRECT, Ingress);
            scene
                .from_proxy(&mine)
                .dropped(DropReason::CtUnknownState, Egress);
        }
    });
}

/// Rules that come and go cut streams, and change the way of datagrams and of what begins.
#[test]
fn rules_that_come_and_go() {
    place(|here| {
        let scene = Scene::new(here, with_proxy);
        scene.subjects(SUBJECT1, 0);
        for ip in Ip::BOTH {
            scene.forget_rows();
            scene.no_connections();
            let (client, server) = ((ip.pod1(), 40000), (ip.pod2(), 80));
            let tcp = |flags| Packet::tcp(client, server, flags).bytes();
            let udp = Packet::udp(client, server, b"a question").bytes();
            let rows = [TCP, UDP].map(|proto| key(SUBJECT1, Egress, POD2_ID, port(proto, 80)));
            rows.iter().for_each(|row| scene.allow(*row));
            scene.raise();
            for packet in [tcp(SYN), tcp(ACK), udp.clone()] {
                assert!(!goes_to_proxy(&scene.from_pod1(&packet).passed().packet));
            }
            rows.iter().for_each(|row| {
                let kind = if row.proto == TCP {
                    ProxyKind::Http
                } else {
                    ProxyKind::Dns
                };
                scene.allow_by(kind, *row);
            });
            scene.raise();
            let cut = scene.from_pod1(&tcp(ACK));
            cut.dropped(DropReason::PolicyDenied, Egress);
            let reply = Packet::tcp(server, client, ACK).bytes();
            assert_eq!(scene.from_pod2(&reply).verdict, super::scene::SHOT);
            for packet in [tcp(SYN), tcp(ACK), udp.clone()] {
                assert!(goes_to_proxy(&scene.from_pod1(&packet).passed().packet));
            }
            rows.iter().for_each(|row| scene.allow(*row));
            scene.raise();
            let cut = scene.from_pod1(&tcp(ACK));
            cut.dropped(DropReason::PolicyDenied, Egress);
            for packet in [tcp(SYN), tcp(ACK), udp.clone()] {
                assert!(!goes_to_proxy(&scene.from_pod1(&packet).passed().packet));
            }
        }
    });
}

/// What no proxy understands is not let by it.
#[test]
fn what_no_proxy_takes() {
    place(|here| {
        let scene = Scene::new(here, with_proxy);
        scene.subjects(SUBJECT1, SUBJECT2);
        let l4 = |proto| port(proto, 80);
        scene.allow_by(ProxyKind::Http, key(SUBJECT1, Egress, POD2_ID, l4(UDP)));
        scene.allow_by(ProxyKind::Http, key(SUBJECT1, Egress, POD2_ID, l4(TCP)));
        scene.allow_by(ProxyKind::Kafka, key(SUBJECT2, Ingress, POD1_ID, l4(TCP)));
        scene.raise();
        for ip in Ip::BOTH {
            let (client, server) = ((ip.pod1(), 40000), (ip.pod2(), 80));
            let unsupported = DropReason::ProxyUnsupportedProtocol;
            let udp = Packet::udp(client, server, b"?").bytes();
            scene.from_pod1(&udp).dropped(unsupported, Egress);
            let tcp = Packet::tcp(client, server, SYN).bytes();
            scene.from_pod1(&tcp).dropped(unsupported, Ingress);
        }
    });
}

#[test]
fn without_a_proxy_nothing_passes_that_wants_one() {
    place(|here| {
        let scene = Scene::new(here, native);
        scene.subjects(SUBJECT1, 0);
        scene.allow_by(
            ProxyKind::Http,
            key(SUBJECT1, Egress, POD2_ID, port(TCP, 80)),
        );
        scene.raise();
        for ip in Ip::BOTH {
            let tcp = Packet::tcp((ip.pod1(), 40000), (ip.pod2(), 80), SYN).bytes();
            scene
                .from_pod1(&tcp)
                .dropped(DropReason::SocketLookupFailed, Egress);
        }
    });
}

/// Errors go to whom the packet was from that they are about.
#[test]
fn errors() {
    place(|here| {
        let scene = Scene::new(here, with_proxy);
        scene.subjects(SUBJECT1, 0);
        scene.allow_by(
            ProxyKind::Http,
            key(SUBJECT1, Egress, POD2_ID, port(TCP, 80)),
        );
        scene.raise();
        for ip in Ip::BOTH {
            let (client, server) = ((ip.pod1(), 40000), (ip.pod2(), 80));
            let leg2 = (ip.pod1(), *UPSTREAM_PORTS.start());
            let tcp = |from, to, flags| Packet::tcp(from, to, flags).bytes();
            scene.from_pod1(&tcp(client, server, SYN)).passed();
            scene.from_proxy(&tcp(leg2, server, SYN)).passed();
            let big = |from, to, quoted: &[u8]| {
                let (kind, code) = if ip == Ip::V4 { (3, 4) } else { (2, 0) };
                Packet::icmp(from, to, kind, code, [0, 0, 5, 0], &quoted[14..]).bytes()
            };
            // Somebody on the way to the server, about leg 2; the client, about leg 1.
            let about = big(ip.pod2(), ip.pod1(), &tcp(leg2, server, ACK));
            assert!(goes_to_proxy(&scene.from_pod2(&about).passed().packet));
            let about = big(ip.pod1(), ip.pod2(), &tcp(server, client, ACK));
            assert!(goes_to_proxy(&scene.from_pod1(&about).passed().packet));
            // The proxy itself, to the client.
            let about = big(ip.pod2(), ip.pod1(), &tcp(client, server, ACK));
            let came = scene.from_proxy(&about);
            assert!(!goes_to_proxy(&came.passed().packet), "{came:?}");
            let stray = big(ip.pod2(), ip.pod1(), &tcp((ip.pod1(), 1), server, ACK));
            scene
                .from_proxy(&stray)
                .dropped(DropReason::CtUnknownState, Egress);
        }
    });
}

/// The door lets nothing in that it knows nobody for.
#[test]
fn the_door_without_listeners() {
    place(|here| {
        let scene = Scene::new(here, with_proxy);
        scene.subjects(SUBJECT1, 0);
        for proto in [TCP, UDP] {
            let row = key(SUBJECT1, Egress, POD2_ID, port(proto, 53));
            scene.allow_by(ProxyKind::Dns, row);
        }
        scene.raise();
        for ip in Ip::BOTH {
            let (client, server) = ((ip.pod1(), 40000), (ip.pod2(), 53));
            let first = Packet::tcp(client, server, SYN).bytes();
            let question = Packet::udp(client, server, &[7; 64]);
            for packet in [first, question.bytes()] {
                let sent = scene.from_pod1(&packet);
                let came = scene.run(names::TO_PROXY, scene.eth0, &sent.packet, 0);
                came.dropped(DropReason::SocketLookupFailed, Ingress);
            }
            for part in question.split(9, 2) {
                let sent = scene.from_pod1(&part);
                assert!(goes_to_proxy(&sent.packet));
                let came = scene.run(names::TO_PROXY, scene.eth0, &sent.packet, 0);
                came.dropped(DropReason::FragmentsUnsupported, Ingress);
            }
            // Answers of leg 2 find their socket, or the stack says that there is none.
            let leg2 = (ip.pod1(), *UPSTREAM_PORTS.start());
            scene
                .from_proxy(&Packet::udp(leg2, server, b"?").bytes())
                .passed();
            let answer = scene.from_pod2(&Packet::udp(server, leg2, b"!").bytes());
            assert!(goes_to_proxy(&answer.packet));
            let came = scene.run(names::TO_PROXY, scene.eth0, &answer.packet, 0);
            assert_eq!(came.verdict, super::scene::PASS);
        }
    });
}
