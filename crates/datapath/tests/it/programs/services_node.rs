//! Services packet by packet, as those outside meet them.
use std::{collections::BTreeMap, net::IpAddr, thread::sleep, time::Duration};

use Direction::{Egress, Ingress};
use abi::{Direction, DropReason, lb_flags, mark};

use super::{
    frontends::{Frontends, Service},
    packet::{ACK, Packet, SCTP, SYN, TCP, UDP, icmp_of, read, reassemble},
    scene::{
        ETH0_MAC, Ip, PASS, POD1, REDIRECT, ROUTER_MAC, Scene, lxc_mac, native, pod_mac, tunnel,
    },
    services::{all, answer, ask, by_the_stack, is, macs},
};
use crate::support::place;

#[test]
fn a_pod_of_this_node_serves() {
    for config in [native as fn(&mut _), tunnel, by_the_stack] {
        place(|here| {
            let scene = Scene::new(here, config);
            let lb = Frontends::of(&scene);
            for (n, (ip, proto)) in (1..).zip(all()) {
                let port = if proto == SCTP { 30080 } else { 8080 };
                let (client, backend) = ((ip.outside(), 50_000), (ip.pod1(), port));
                lb.backend(u32::from(n), backend);
                for (k, addr) in (0..).zip([ip.node(), ip.balancer()]) {
                    let at = (addr, 30080);
                    lb.serve(&Service::new(n + 100 * k, at, proto, &[u32::from(n)]));
                    let client = (client.0, client.1 + k);
                    let there = scene.from_netdev(&ask(proto, client, at).bytes());
                    there.forwarded(REDIRECT, Ingress);
                    is(&there, ask(proto, client, backend).ttl(63));
                    assert_eq!(macs(&there), (pod_mac(POD1), lxc_mac(POD1)));
                    let back = scene.from_pod1(&answer(proto, backend, client).bytes());
                    back.forwarded(REDIRECT, Egress);
                    is(&back, answer(proto, at, client).ttl(63));
                    assert_eq!(macs(&back), (ROUTER_MAC, ETH0_MAC));
                    assert_eq!(back.mark, mark::SNAT_DONE);
                }
            }
            assert!(scene.mappings().is_empty());
        });
    }
}

#[test]
fn a_pod_of_another_node_serves() {
    for config in [native as fn(&mut _), by_the_stack] {
        place(|here| {
            let scene = Scene::new(here, config);
            let lb = Frontends::of(&scene);
            for (n, (ip, proto)) in (1..).zip(all()) {
                let port = if proto == SCTP { 30080 } else { 8080 };
                let backend = (ip.remote_pod(), port);
                lb.backend(u32::from(n), backend);
                for (k, addr) in (0..).zip([ip.node(), ip.balancer()]) {
                    // One port of the range, and one that is not.
                    let (at, client) = ((addr, 30080), (ip.outside(), 1000 + 49_000 * k));
                    lb.serve(&Service::new(n + 100 * k, at, proto, &[u32::from(n)]));
                    let there = scene.from_netdev(&ask(proto, client, at).bytes());
                    there.forwarded(REDIRECT, Egress);
                    let port = if proto == SCTP {
                        client.1
                    } else {
                        read(&there.packet).src.1
                    };
                    let node = (ip.node(), port);
                    is(&there, ask(proto, node, backend).ttl(63));
                    assert!(port >= 32768 || proto == SCTP, "{port}");
                    assert_eq!(macs(&there), (ROUTER_MAC, ETH0_MAC));
                    assert_eq!(there.mark, mark::SNAT_DONE);
                    // The connection keeps its port.
                    let again = scene.from_netdev(&ask(proto, client, at).bytes());
                    assert_eq!(again.packet, there.packet);
                    let back = scene.from_netdev(&answer(proto, backend, node).bytes());
                    back.forwarded(REDIRECT, Egress);
                    is(&back, answer(proto, at, client).ttl(63));
                    assert_eq!(macs(&back), (ROUTER_MAC, ETH0_MAC));
                }
            }
            assert_eq!(scene.mappings().len(), 24);
        });
    }
}

#[test]
fn through_the_tunnel_clients_have_the_routers_address() {
    place(|here| {
        let scene = Scene::new(here, tunnel);
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30080));
            let backend = (ip.remote_pod(), 30080);
            lb.backend(u32::from(n), backend);
            lb.serve(&Service::new(n, at, proto, &[u32::from(n)]));
            let there = scene.from_netdev(&ask(proto, client, at).bytes());
            is(&there, ask(proto, (ip.gateway(), 50_000), backend).ttl(63));
            let told = there.events.last().unwrap();
            assert!(told.starts_with("to-overlay"), "{told}");
        }
    });
}

/// A process of the node is the backend.
#[test]
fn the_node_itself_serves() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let port = if proto == SCTP { 80 } else { 8080 };
            let (client, at, backend) = (
                (ip.outside(), 50_000),
                (ip.balancer(), 80),
                (ip.node(), port),
            );
            lb.backend(u32::from(n), backend);
            lb.serve(&Service::new(n, at, proto, &[u32::from(n)]));
            let there = scene.from_netdev(&ask(proto, client, at).bytes());
            assert_eq!(there.verdict, PASS);
            assert_eq!(
                there.packet[14..],
                ask(proto, client, backend).bytes()[14..]
            );
            let back = scene.to_netdev(&answer(proto, backend, client).bytes(), 0);
            assert_eq!(back.verdict, PASS);
            assert_eq!(back.packet[14..], answer(proto, at, client).bytes()[14..]);
            let error = Packet::unreachable(backend.0, client.0, &there.packet);
            let quoted = ask(proto, client, at).bytes();
            let expected = Packet::unreachable(at.0, client.0, &quoted).bytes();
            let error = scene.to_netdev(&error.bytes(), 0);
            assert_eq!(error.packet[14..], expected[14..]);
            // A pod that was led there hears the service, too.
            let pod = (ip.pod1(), 1000);
            let there = scene.from_pod1(&ask(proto, pod, at).bytes());
            assert_eq!(there.packet[14..], ask(proto, pod, backend).bytes()[14..]);
            let back = scene.from_host(&answer(proto, backend, pod).bytes(), 0);
            assert_eq!(back.packet[14..], answer(proto, at, pod).bytes()[14..]);
        }
    });
}

#[test]
fn pods_reach_ports_of_their_own_node() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            let (pod, at, backend) = ((ip.pod1(), 1000), (ip.node(), 30080), (ip.pod2(), 80));
            lb.backend(n, backend);
            lb.serve(&Service::new(n as u16, at, TCP, &[n]));
            is(
                &scene.from_pod1(&ask(TCP, pod, at).bytes()),
                ask(TCP, pod, backend).ttl(63),
            );
            is(
                &scene.from_pod2(&answer(TCP, backend, pod).bytes()),
                answer(TCP, at, pod).ttl(63),
            );
            // Another port is the node's.
            let own = ask(TCP, pod, (ip.node(), 22)).bytes();
            let came = scene.from_pod1(&own);
            assert_eq!((came.verdict, came.packet), (PASS, own));
        }
    });
}

#[test]
fn who_may_use_it() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).step_by(10).zip(Ip::BOTH) {
            let bits = if ip == Ip::V4 { 32 } else { 128 };
            lb.backend(1, (ip.pod1(), 80));
            let balancer = ip.balancer();
            let ranges = lb_flags::SOURCE_RANGES;
            let try_from = |client: IpAddr, port| {
                let sent = ask(TCP, (client, 50_000), (balancer, port)).bytes();
                let came = scene.from_netdev(&sent);
                if came.verdict != REDIRECT {
                    came.dropped(DropReason::LbSourceRange, Ingress);
                }
                came.verdict == REDIRECT
            };
            // Those that may.
            lb.serve(&Service::new(n, (balancer, 80), TCP, &[1]).flags(ranges));
            lb.source(n, (ip.outside(), bits - 8), true);
            lb.source(n, (ip.router(), bits - 8), true);
            lb.source(n, (ip.stranger(), bits), false);
            // Those that may not.
            let denies = ranges | lb_flags::SOURCE_RANGES_DENY;
            lb.serve(&Service::new(n + 1, (balancer, 81), TCP, &[1]).flags(denies));
            lb.source(n + 1, (ip.outside(), bits - 8), false);
            for port in [80, 81] {
                assert_eq!(try_from(ip.outside(), port), port == 80);
                assert_eq!(try_from(ip.stranger(), port), port == 81);
            }
            assert!(try_from(ip.router(), 80) && try_from(ip.router(), 81));
            assert!(!try_from(ip.unreachable(), 80) && try_from(ip.unreachable(), 81));
            // Ranges are of those outside.
            let inside = ask(TCP, (ip.pod1(), 1), (balancer, 80)).bytes();
            assert_eq!(scene.from_pod1(&inside).verdict, REDIRECT);
            // What is the cluster's is not for others.
            lb.serve(&Service::new(n + 2, (ip.vip(), 80), TCP, &[1]).inside());
            let came = scene.from_netdev(&ask(TCP, (ip.outside(), 1), (ip.vip(), 80)).bytes());
            came.dropped(DropReason::IsClusterIp, Ingress);
        }
    });
}

#[test]
fn clients_keep_their_backend() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            let backends: Vec<u32> = (1..=20).map(|k| 100 * u32::from(n) + k).collect();
            for id in &backends {
                lb.backend(*id, (ip.pod1(), 5000 + *id as u16));
            }
            let at = (ip.balancer(), 80);
            let mut service = Service::new(n, at, TCP, &backends).flags(lb_flags::AFFINITY);
            service.affinity = 1;
            lb.serve(&service);
            let to = |client, port| {
                let sent = ask(TCP, (client, port), at).bytes();
                read(&scene.from_netdev(&sent).packet).dst.1
            };
            let kept = to(ip.outside(), 1);
            assert!((2..30).all(|port| to(ip.outside(), port) == kept));
            let others: Vec<_> = (2..30)
                .filter(|port| to(ip.stranger(), *port) != kept)
                .collect();
            assert!(others.is_empty() || others.len() == 28);
            // Not longer than it is told, and not where it is taken away.
            sleep(Duration::from_millis(2500));
            let later: Vec<u16> = (100..112)
                .map(|port| {
                    let got = to(ip.outside(), port);
                    lb.let_go(n, u32::from(got) - 5000);
                    got
                })
                .collect();
            // Each is drawn anew of twenty: the same one twice in a row is luck, twelve times is not.
            assert!(later.iter().any(|port| *port != later[0]), "{later:?}");
        }
    });
}

/// The table is asked with the hash of the tuple, which is the same on every node.
#[test]
fn maglev_says_who_serves() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            // As many backends as places: each shows which place was asked.
            let backends: Vec<u32> = (0..251).map(|k| 1000 * u32::from(n) + k).collect();
            for id in &backends {
                lb.backend(*id, (ip.pod1(), 5000 + *id as u16));
            }
            let at = (ip.node(), 30080);
            let mut service = Service::new(n, at, TCP, &backends[..3]);
            service.maglev.clone_from(&backends);
            lb.serve(&service);
            let mut seen = BTreeMap::new();
            for port in 1000..1500 {
                let client = (ip.outside(), port);
                let came = scene.from_netdev(&ask(TCP, client, at).bytes());
                let place = u32::from(read(&came.packet).dst.1) - 5000 - backends[0];
                assert_eq!(place, hash(client.0, at.0, port, at.1) % 251);
                *seen.entry(place).or_insert(0) += 1;
            }
            assert!(seen.len() > 180, "{}", seen.len());
        }
    });
}

/// Murmur3 of the tuple of a TCP packet, as its inventor writes it.
fn hash(src: IpAddr, dst: IpAddr, sport: u16, dport: u16) -> u32 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    let bytes = [octets(src), octets(dst), ports, vec![0, 0, 0, TCP]].concat();
    let mut h: u32 = 0;
    for word in bytes.chunks(4) {
        let mut k = u32::from_be_bytes(word.try_into().unwrap());
        k = k.wrapping_mul(0xcc9e_2d51).rotate_left(15);
        h = (h ^ k.wrapping_mul(0x1b87_3593)).rotate_left(13);
        h = h.wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// Errors about what goes through the node, in either direction, wherever the backend is and whoever reports them.
#[test]
fn errors_find_whom_they_are_for() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let port = if proto == SCTP { 30080 } else { 8080 };
            let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30080));
            let (near, far) = ((ip.pod1(), port), (ip.remote_pod(), port));
            lb.backend(u32::from(n), near);
            lb.serve(&Service::new(n, at, proto, &[u32::from(n)]));
            let sent = ask(proto, client, at);
            let about_sent =
                |from| Packet::unreachable(from, client.0, &sent.clone().ttl(63).bytes());
            // The pod complains about what it got.
            let left = scene.from_netdev(&sent.bytes()).packet;
            let error = Packet::unreachable(near.0, client.0, &left).bytes();
            is(&scene.from_pod1(&error), about_sent(at.0).ttl(63));
            // The client, or somebody on the way to it, complains about the answer.
            let reply = answer(proto, near, client);
            let back = scene.from_pod1(&reply.bytes()).packet;
            let about_reply = |from, node: IpAddr, quoted: Packet| {
                Packet::unreachable(from, node, &quoted.ttl(63).bytes()).ttl(63)
            };
            for reporter in [client.0, ip.router()] {
                let error = Packet::unreachable(reporter, at.0, &back).bytes();
                is(
                    &scene.from_netdev(&error),
                    about_reply(reporter, near.0, reply.clone()),
                );
            }
            // The same with a backend that hears the node.
            let client = (client.0, 50_001);
            let sent = ask(proto, client, at);
            lb.backend(u32::from(n) + 100, far);
            lb.serve(&Service::new(n, at, proto, &[u32::from(n) + 100]));
            let left = scene.from_netdev(&sent.bytes()).packet;
            let node = (ip.node(), 50_001);
            for (reporter, seen) in [(far.0, at.0), (ip.router(), ip.router())] {
                let error = Packet::unreachable(reporter, node.0, &left).bytes();
                let expected = Packet::unreachable(seen, client.0, &sent.clone().ttl(63).bytes());
                is(&scene.from_netdev(&error), expected.ttl(63));
            }
            let reply = answer(proto, far, node);
            let back = scene.from_netdev(&reply.bytes()).packet;
            let error = Packet::unreachable(client.0, at.0, &back).bytes();
            is(
                &scene.from_netdev(&error),
                about_reply(node.0, far.0, reply),
            );
        }
    });
}

#[test]
fn fragments_go_through_the_node() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            let (client, at) = ((ip.outside(), 1000), (ip.node(), 30053));
            let backends: Vec<u32> = (0..8).map(|k| n * 10 + k).collect();
            for id in &backends {
                lb.backend(*id, (ip.remote_pod(), 5000 + *id as u16));
            }
            lb.serve(&Service::new(n as u16, at, UDP, &backends));
            let asked = Packet::udp(client, at, &[7; 99]);
            let [first, later] = asked
                .split(77, 5)
                .map(|part| scene.from_netdev(&part).packet);
            let whole = reassemble(&first, &later);
            let said = read(&whole);
            let expected = Packet::udp(said.src, said.dst, &[7; 99]).ttl(63).bytes();
            assert_eq!(whole[14..], expected[14..]);
            assert_eq!((said.src.0, said.dst.0), (ip.node(), ip.remote_pod()));
            let reply = Packet::udp(said.dst, said.src, &[8; 77]);
            let [first, later] = reply
                .split(78, 3)
                .map(|part| scene.from_netdev(&part).packet);
            let whole = reassemble(&first, &later);
            let expected = Packet::udp(at, client, &[8; 77]).ttl(63).bytes();
            assert_eq!(whole[14..], expected[14..]);
        }
    });
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        let (client, at) = ((Ip::V4.outside(), 50_000), (Ip::V4.node(), 30053));
        let backend = (Ip::V4.remote_pod(), 53);
        lb.backend(1, backend);
        lb.serve(&Service::new(1, at, UDP, &[1]));
        let bare = |from, to| Packet::udp(from, to, b"x").change_l4(|l4| l4[6..8].fill(0));
        let node = (Ip::V4.node(), 50_000);
        is(
            &scene.from_netdev(&bare(client, at).bytes()),
            bare(node, backend).ttl(63),
        );
        is(
            &scene.from_netdev(&bare(backend, node).bytes()),
            bare(at, client).ttl(63),
        );
    });
}

/// Where no route leads to the backend there is no stack to be asked: it does not know of the mapping.
#[test]
fn a_backend_without_a_route() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for ip in Ip::BOTH {
            lb.backend(1, (ip.unreachable(), 80));
            lb.serve(&Service::new(1, (ip.node(), 30080), TCP, &[1]));
            let sent = ask(TCP, (ip.outside(), 1), (ip.node(), 30080)).bytes();
            let came = scene.from_netdev(&sent);
            came.dropped(DropReason::FibLookupFailed, Ingress);
        }
    });
}

/// An answer to a mapping whose connection nobody knows any more is nobody's.
#[test]
fn what_is_not_a_services_stays_the_nodes() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for ip in Ip::BOTH {
            lb.backend(1, (ip.pod1(), 80));
            lb.serve(&Service::new(1, (ip.node(), 30080), TCP, &[1]));
            for sent in [
                Packet::tcp((ip.outside(), 1), (ip.node(), 22), SYN),
                Packet::udp((ip.outside(), 1), (ip.node(), 30080), b"x"),
                Packet::ping(ip.outside(), ip.node(), 7),
                Packet::new(ip.outside(), ip.node(), 47, vec![0; 8]),
                Packet::tcp((ip.outside(), 1), (ip.nobody(), 80), ACK),
            ] {
                let came = scene.from_netdev(&sent.bytes());
                assert_eq!((came.verdict, came.packet), (PASS, sent.bytes()));
            }
            let own = Packet::tcp((ip.node(), 22), (ip.outside(), 1), SYN | ACK).bytes();
            let came = scene.to_netdev(&own, 0);
            assert_eq!((came.verdict, came.packet), (PASS, own));
        }
    });
}

/// Neighbours that ask for an address of a service hear the device's MAC address from the node that announces it.
#[test]
fn announced_addresses_are_answered_for() {
    place(|here| {
        let scene = Scene::new(here, native);
        let rows = scene.datapath.l2_responder().unwrap();
        let asker = [2, 0xAA, 0, 0, 0, 2];
        for ip in Ip::BOTH {
            let address = ip.balancer();
            let sent = match (ip.stranger(), address) {
                (IpAddr::V4(from), IpAddr::V4(to)) => request(asker, from.octets(), to.octets()),
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    let option = [1, 1, 2, 0xAA, 0, 0, 0, 2];
                    let body = [&to.octets()[..], &option].concat();
                    Packet::icmp(from.into(), to.into(), 135, 0, [0; 4], &body)
                        .ttl(255)
                        .bytes()
                }
                _ => panic!("two families"),
            };
            let passes = || {
                let came = scene.from_netdev(&sent);
                assert_eq!((came.verdict, &came.packet), (PASS, &sent));
            };
            passes();
            let hour = Duration::from_secs(3600);
            rows.answer(address, scene.lxc1, ETH0_MAC, hour).unwrap();
            rows.answer(address, scene.eth0, [0; 6], hour).unwrap();
            passes();
            rows.answer(address, scene.eth0, ETH0_MAC, Duration::ZERO)
                .unwrap();
            passes();
            rows.answer(address, scene.eth0, ETH0_MAC, hour).unwrap();
            for _ in 0..2 {
                let came = scene.from_netdev(&sent);
                assert_eq!(came.verdict, REDIRECT);
                assert_eq!(
                    (&came.packet[..6], &came.packet[6..12]),
                    (&asker[..], &ETH0_MAC[..])
                );
                match (ip.stranger(), address) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => {
                        let mut reply = request(ETH0_MAC, to.octets(), from.octets());
                        reply[20..22].copy_from_slice(&[0, 2]);
                        reply[32..38].copy_from_slice(&asker);
                        assert_eq!(came.packet[12..], reply[12..]);
                    }
                    (from, to) => {
                        let IpAddr::V6(target) = to else {
                            panic!("two families")
                        };
                        let body = [&target.octets()[..], &[2, 1], &ETH0_MAC].concat();
                        let expected = Packet::icmp(to, from, 136, 0, [0x60, 0, 0, 0], &body);
                        assert_eq!(came.packet[14..], expected.ttl(255).bytes()[14..]);
                        assert_eq!(icmp_of(to), 58);
                    }
                }
            }
            let row = rows.rows().unwrap().into_iter();
            let row = row.filter(|row| (row.address, row.ifindex) == (address, scene.eth0));
            assert_eq!(row.map(|row| row.answers).sum::<u64>(), 2);
        }
    });
}

/// An ARP request.
fn request(mac: [u8; 6], from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let head = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    let kind = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    [&head[..], &mac, &kind, &mac, &from, &[0; 6], &to].concat()
}
