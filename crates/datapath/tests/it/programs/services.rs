//! Services packet by packet, as pods meet them.
use std::net::IpAddr;

use Direction::{Egress, Ingress};
use abi::{DatapathConfig, Direction, DropReason, ct_flags, lb_flags, lb_scope};

use super::{
    frontends::{Frontends, Service},
    packet::{ACK, End, FIN, Packet, RST, SCTP, SYN, TCP, UDP, read, reassemble, wrong_checksums},
    policy::{key, port},
    scene::{
        Came, ETH0_MAC, Ip, POD1, POD1_ID, POD2, REDIRECT, ROUTER_MAC, SHOT, Scene, lxc_mac,
        native, pod_mac, tunnel,
    },
};
use crate::support::place;

pub const PROTOCOLS: [u8; 3] = [TCP, UDP, SCTP];

/// A packet that opens a connection, or goes on with it.
pub fn ask(proto: u8, from: End, to: End) -> Packet {
    match proto {
        TCP => Packet::tcp(from, to, SYN),
        UDP => Packet::udp(from, to, b"an odd payload!"),
        _ => Packet::sctp(from, to),
    }
}

/// Its answer.
pub fn answer(proto: u8, from: End, to: End) -> Packet {
    match proto {
        TCP => Packet::tcp(from, to, SYN | ACK),
        UDP => Packet::udp(from, to, b"even"),
        _ => Packet::sctp(from, to),
    }
}

/// Asserts that the packet is exactly `expected`, but for its MAC addresses.
#[track_caller]
pub fn is(came: &Came, expected: Packet) {
    assert_eq!(came.verdict, REDIRECT, "{came:?}");
    assert_eq!(came.packet[14..], expected.bytes()[14..], "{came:?}");
}

pub fn macs(came: &Came) -> ([u8; 6], [u8; 6]) {
    let said = read(&came.packet);
    (said.dst_mac, said.src_mac)
}

/// Each family with each protocol.
pub fn all() -> impl Iterator<Item = (Ip, u8)> {
    Ip::BOTH
        .into_iter()
        .flat_map(|ip| PROTOCOLS.map(|proto| (ip, proto)))
}

pub fn by_the_stack(config: &mut DatapathConfig) {
    native(config);
    config.host_legacy = 1;
}

#[test]
fn a_pod_of_the_same_node_serves() {
    for config in [native as fn(&mut _), tunnel, by_the_stack] {
        place(|here| {
            let scene = Scene::new(here, config);
            let lb = Frontends::of(&scene);
            for (n, (ip, proto)) in (1..).zip(all()) {
                let (pod, vip) = ((ip.pod1(), 1000), (ip.vip(), 8080));
                let backend = (ip.pod2(), 8080);
                lb.backend(u32::from(n), backend);
                lb.serve(&Service::new(n, vip, proto, &[u32::from(n)]).inside());
                let there = scene.from_pod1(&ask(proto, pod, vip).bytes());
                there.forwarded(REDIRECT, Ingress);
                is(&there, ask(proto, pod, backend).ttl(63));
                assert_eq!(macs(&there), (pod_mac(POD2), lxc_mac(POD2)));
                let ids = "new forward, id 1001 > 1002, ep 7";
                assert!(there.events.last().unwrap().ends_with(ids), "{there:?}");
                let back = scene.from_pod2(&answer(proto, backend, pod).bytes());
                is(&back, answer(proto, vip, pod).ttl(63));
                assert_eq!(macs(&back), (pod_mac(POD1), lxc_mac(POD1)));
                let ids = "reply, id 1002 > 1001, ep 8";
                assert!(back.events.last().unwrap().ends_with(ids), "{back:?}");
                // Who calls the backend itself hears the backend itself.
                let own = (ip.pod1(), 1001);
                is(
                    &scene.from_pod1(&ask(proto, own, backend).bytes()),
                    ask(proto, own, backend).ttl(63),
                );
                is(
                    &scene.from_pod2(&answer(proto, backend, own).bytes()),
                    answer(proto, backend, own).ttl(63),
                );
            }
            assert!(scene.mappings().is_empty());
        });
    }
}

#[test]
fn ports_are_translated_and_those_of_sctp_are_refused() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let (pod, vip, backend) = ((ip.pod1(), 1000), (ip.vip(), 80), (ip.pod2(), 8080));
            lb.backend(u32::from(n), backend);
            lb.serve(&Service::new(n, vip, proto, &[u32::from(n)]).inside());
            let there = scene.from_pod1(&ask(proto, pod, vip).bytes());
            if proto == SCTP {
                there.dropped(DropReason::NatUnsupportedProtocol, Egress);
                continue;
            }
            is(&there, ask(proto, pod, backend).ttl(63));
            let back = scene.from_pod2(&answer(proto, backend, pod).bytes());
            is(&back, answer(proto, vip, pod).ttl(63));
        }
    });
}

#[test]
fn a_pod_of_another_node_serves() {
    for (config, by_stack) in [(native as fn(&mut _), false), (by_the_stack, true)] {
        place(|here| {
            let scene = Scene::new(here, config);
            let lb = Frontends::of(&scene);
            for (n, (ip, proto)) in (1..).zip(all()) {
                let port = if proto == SCTP { 80 } else { 8080 };
                let (pod, vip, backend) =
                    ((ip.pod1(), 1000), (ip.vip(), 80), (ip.remote_pod(), port));
                lb.backend(u32::from(n), backend);
                lb.serve(&Service::new(n, vip, proto, &[u32::from(n)]).inside());
                let there = scene.from_pod1(&ask(proto, pod, vip).bytes());
                if by_stack {
                    assert_eq!(there.verdict, 0);
                    assert_eq!(there.packet[14..], ask(proto, pod, backend).bytes()[14..]);
                } else {
                    is(&there, ask(proto, pod, backend).ttl(63));
                    assert_eq!(macs(&there), (ROUTER_MAC, ETH0_MAC));
                }
                let back = scene.from_netdev(&answer(proto, backend, pod).bytes());
                is(&back, answer(proto, vip, pod).ttl(63));
                assert_eq!(macs(&back), (pod_mac(POD1), lxc_mac(POD1)));
            }
        });
    }
}

#[test]
fn a_pod_behind_the_tunnel_or_outside_serves() {
    place(|here| {
        let scene = Scene::new(here, tunnel);
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let (pod, vip) = ((ip.pod1(), 40_000), (ip.vip(), 80));
            let id = u32::from(n);
            lb.backend(id, (ip.remote_pod(), 80));
            lb.serve(&Service::new(n, vip, proto, &[id]).inside());
            let there = scene.from_pod1(&ask(proto, pod, vip).bytes());
            is(&there, ask(proto, pod, (ip.remote_pod(), 80)).ttl(63));
            assert!(there.events.last().unwrap().starts_with("to-overlay"));
            // A backend outside hears the node; the answer comes back to the pod as the service's.
            let (balancer, far) = ((ip.balancer(), 80), (ip.outside(), 80));
            lb.backend(id + 100, far);
            lb.serve(&Service::new(n + 100, balancer, proto, &[id + 100]));
            let there = scene.from_pod1(&ask(proto, pod, balancer).bytes());
            is(&there, ask(proto, (ip.node(), 40_000), far).ttl(63));
            let back = scene.from_netdev(&answer(proto, far, (ip.node(), 40_000)).bytes());
            is(&back, answer(proto, balancer, pod).ttl(63));
        }
    });
}

#[test]
fn a_pod_reaches_itself() {
    for config in [native as fn(&mut _), tunnel, by_the_stack] {
        place(|here| {
            let scene = Scene::new(here, config);
            let lb = Frontends::of(&scene);
            // Policy is not asked whether a pod may talk to itself.
            scene.subject(scene.lxc1, 5001, 0);
            for (n, (ip, proto)) in (1..).zip(all()) {
                let port = if proto == SCTP { 80 } else { 8080 };
                let (pod, vip, backend) = ((ip.pod1(), 1000), (ip.vip(), 80), (ip.pod1(), port));
                let itself: IpAddr = match ip {
                    Ip::V4 => [169, 254, 42, 1].into(),
                    Ip::V6 => "100::a9fe:2a01".parse().unwrap(),
                };
                lb.backend(u32::from(n), backend);
                lb.serve(&Service::new(n, vip, proto, &[u32::from(n)]).inside());
                let there = scene.from_pod1(&ask(proto, pod, vip).bytes());
                is(&there, ask(proto, (itself, 1000), backend).ttl(63));
                assert_eq!(macs(&there), (pod_mac(POD1), lxc_mac(POD1)));
                let back = scene.from_pod1(&answer(proto, backend, (itself, 1000)).bytes());
                is(&back, answer(proto, vip, pod).ttl(63));
                assert_eq!(macs(&back), (pod_mac(POD1), lxc_mac(POD1)));
                // The server's error is about what the client sent.
                let error = Packet::unreachable(ip.pod1(), itself, &there.packet);
                let quoted = ask(proto, pod, vip).ttl(63).bytes();
                let expected = Packet::unreachable(vip.0, pod.0, &quoted).ttl(63);
                is(&scene.from_pod1(&error.bytes()), expected);
                // Nobody calls the pod from there.
                let call = ask(proto, (ip.pod1(), 9), (itself, 9)).bytes();
                scene
                    .from_pod1(&call)
                    .dropped(DropReason::UnknownTarget, Egress);
            }
            let looped = scene.connections().into_iter();
            let looped = looped.filter(|c| c.entry.flags & ct_flags::LOOPBACK != 0);
            assert_eq!(looped.count(), 6);
        });
    }
}

#[test]
fn nobody_serves() {
    for drops in [0, 1] {
        place(|here| {
            let scene = Scene::new(here, |config| {
                native(config);
                config.no_backend_drops = drops;
            });
            let lb = Frontends::of(&scene);
            for (n, (ip, proto)) in (1..).zip(all()) {
                let vip = (ip.vip(), 80);
                lb.serve(&Service::new(n, vip, proto, &[]));
                let from_outside = |bytes: &[u8]| scene.from_netdev(bytes);
                let from_pod = |bytes: &[u8]| scene.from_pod1(bytes);
                refused(proto, (ip.pod1(), 1000), vip, drops == 1, Egress, from_pod);
                let client = (ip.outside(), 1000);
                refused(proto, client, vip, drops == 1, Ingress, from_outside);
            }
            // Neither a reset nor a part of a datagram is answered.
            let (pod, vip) = ((Ip::V4.pod1(), 1000), (Ip::V4.vip(), 80));
            let reset = scene.from_pod1(&Packet::tcp(pod, vip, RST).bytes());
            reset.dropped(DropReason::NoServiceBackend, Egress);
            for part in Packet::udp(pod, vip, &[0; 64]).split(8, 2) {
                let came = scene.from_pod1(&part);
                came.dropped(DropReason::NoServiceBackend, Egress);
            }
        });
    }
}

fn refused(
    proto: u8,
    from: End,
    to: End,
    drops: bool,
    direction: Direction,
    run: impl Fn(&[u8]) -> Came,
) {
    let sent = ask(proto, from, to).bytes();
    let came = run(&sent);
    let counted = [(DropReason::NoServiceBackend as u8, direction)];
    assert_eq!(came.counted, counted);
    let told = came.events.last().unwrap();
    assert!(
        told.starts_with("drop Service backend not found: "),
        "{told}"
    );
    if drops {
        assert_eq!(came.verdict, SHOT);
        return;
    }
    assert_eq!((came.verdict, came.mark), (REDIRECT, abi::mark::SNAT_DONE));
    assert_eq!(wrong_checksums(&came.packet), [""; 0]);
    let [to_mac, from_mac] = super::packet::MACS;
    assert_eq!(macs(&came), (from_mac, to_mac));
    let l4 = if from.0.is_ipv4() { 34 } else { 54 };
    if proto == TCP {
        let said = read(&came.packet);
        assert_eq!((said.src, said.dst, said.ttl), (to, from, 64));
        let word =
            |at: usize| u32::from_be_bytes(came.packet[l4 + at..l4 + at + 4].try_into().unwrap());
        // The segment had sixteen bytes and a SYN.
        assert_eq!((word(4), word(8)), (0, 0x0102_0304 + 17));
        assert_eq!(came.packet[l4 + 13], RST | ACK);
        // What belongs to a connection is answered with the number that the client waits for.
        let mut later = Packet::tcp(from, to, ACK | FIN);
        later = later.change_l4(|l4| {
            l4[8..12].copy_from_slice(&[9, 8, 7, 6]);
            l4[16..18].fill(0);
        });
        let later = fixed(later.bytes(), l4);
        let came = run(&later);
        assert_eq!(wrong_checksums(&came.packet), [""; 0]);
        assert_eq!(came.packet[l4 + 4..l4 + 8], [9, 8, 7, 6]);
    } else {
        let expected = Packet::unreachable(to.0, from.0, &sent[..l4 + 8]).bytes();
        // The DF bit of IPv4 is of no interest.
        let skip = if l4 == 34 { 26 } else { 18 };
        assert_eq!(came.packet[skip..], expected[skip..]);
        assert_eq!(came.packet.len(), expected.len());
    }
}

/// Puts the TCP checksum right.
fn fixed(mut bytes: Vec<u8>, l4: usize) -> Vec<u8> {
    let addresses = if l4 == 34 { 26..34 } else { 22..54 };
    let len = (bytes.len() - l4) as u16;
    let pseudo = [[0, TCP], len.to_be_bytes()].concat();
    let sum = super::packet::checksum(&[&bytes[addresses], &pseudo, &bytes[l4..]]);
    bytes[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(wrong_checksums(&bytes), [""; 0]);
    bytes
}

/// What goes to an address with frontends, but to none of them, goes its way; and that is not remembered for those.
#[test]
fn other_ports_do_not_hide_a_service() {
    for config in [native as fn(&mut _), tunnel, by_the_stack] {
        place(|here| {
            let scene = Scene::new(here, config);
            let lb = Frontends::of(&scene);
            for (n, ip) in (1..).zip(Ip::BOTH) {
                let (pod, vip) = (ip.pod1(), ip.balancer());
                lb.backend(u32::from(n), (ip.pod2(), 80));
                lb.serve(&Service::new(n, (vip, 80), TCP, &[u32::from(n)]));
                for _ in 0..3 {
                    let other = scene.from_pod1(&ask(TCP, (pod, 1), (vip, 81)).bytes());
                    assert_eq!(read(&other.packet).dst, (vip, 81));
                    let served = scene.from_pod1(&ask(TCP, (pod, 1), (vip, 80)).bytes());
                    is(&served, ask(TCP, (pod, 1), (ip.pod2(), 80)).ttl(63));
                }
            }
        });
    }
}

/// A connection keeps its backend whatever becomes of the service, unless the backend is gone.
#[test]
fn a_connection_keeps_its_backend() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (ip, proto) in all() {
            let vip = (ip.vip(), 80);
            let backends = [(ip.pod2(), 80), (ip.remote_pod(), 80)];
            let n: u16 = if ip == Ip::V4 { 1 } else { 2 };
            for (id, backend) in (1..).zip(backends) {
                lb.backend(id, backend);
            }
            let to = |port, flags| {
                let from = (ip.pod1(), port);
                let sent = match proto {
                    TCP => Packet::tcp(from, vip, flags),
                    _ => ask(proto, from, vip),
                };
                read(&scene.from_pod1(&sent.bytes()).packet).dst.0
            };
            lb.serve(&Service::new(n, vip, proto, &[1]));
            for port in 1..20 {
                assert_eq!(to(port, SYN), backends[0].0);
            }
            lb.serve(&Service::new(n, vip, proto, &[2]));
            for port in 1..20 {
                assert_eq!(to(port, ACK), backends[0].0, "{proto}");
                assert_eq!(to(port + 100, SYN), backends[1].0);
            }
            lb.serve(&Service::new(n, vip, proto, &[]));
            assert_eq!(to(1, ACK), backends[0].0);
            lb.serve(&Service::new(n, vip, proto, &[2]));
            lb.remove_backend(1);
            for port in 1..20 {
                assert_eq!(to(port, ACK), backends[1].0, "{proto}");
            }
            if proto == TCP {
                // Both sides end the connection: the next one of the same ports begins anew.
                lb.backend(1, backends[0]);
                lb.serve(&Service::new(n, vip, proto, &[1]));
                assert_eq!(to(50, SYN), backends[0].0);
                lb.serve(&Service::new(n, vip, proto, &[2]));
                let end = Packet::tcp(backends[0], (ip.pod1(), 50), FIN | ACK).bytes();
                is(
                    &scene.from_pod2(&end),
                    Packet::tcp(vip, (ip.pod1(), 50), FIN | ACK).ttl(63),
                );
                assert_eq!(to(50, FIN | ACK), backends[0].0);
                assert_eq!(to(50, SYN), backends[1].0);
            }
        }
    });
}

#[test]
fn the_cluster_sees_its_own_side() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).step_by(10).zip(Ip::BOTH) {
            let place = (ip.balancer(), 80);
            let id = u32::from(n);
            lb.backend(id, (ip.pod2(), 80));
            lb.backend(id + 1, (ip.remote_pod(), 80));
            let mut inner = Service::new(n, place, TCP, &[id + 1]).flags(lb_flags::TWO_SCOPES);
            inner.scope = lb_scope::INTERNAL;
            lb.serve(&inner);
            lb.serve(&Service::new(n, place, TCP, &[id]).flags(lb_flags::TWO_SCOPES));
            let inside = scene.from_pod1(&ask(TCP, (ip.pod1(), 1), place).bytes());
            assert_eq!(read(&inside.packet).dst.0, ip.remote_pod());
            let outside = scene.from_netdev(&ask(TCP, (ip.outside(), 1), place).bytes());
            assert_eq!(read(&outside.packet).dst.0, ip.pod2());
        }
    });
}

#[test]
fn fragments_reach_one_backend() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            let (pod, vip) = ((ip.pod1(), 1000), (ip.vip(), 53));
            let backends: Vec<u32> = (0..8).map(|k| u32::from(n) * 10 + k).collect();
            for id in &backends {
                lb.backend(*id, (ip.pod2(), 5000 + *id as u16));
            }
            lb.serve(&Service::new(n, vip, UDP, &backends));
            let asked = Packet::udp(pod, vip, &[7; 99]);
            let [first, later] = asked.split(77, 5).map(|part| scene.from_pod1(&part).packet);
            let whole = reassemble(&first, &later);
            let backend = read(&whole).dst;
            assert_eq!(backend.0, ip.pod2());
            assert_eq!(
                whole[14..],
                Packet::udp(pod, backend, &[7; 99]).ttl(63).bytes()[14..]
            );
            let reply = Packet::udp(backend, pod, &[8; 77]);
            let [first, later] = reply.split(78, 3).map(|part| scene.from_pod2(&part).packet);
            let whole = reassemble(&first, &later);
            assert_eq!(
                whole[14..],
                Packet::udp(vip, pod, &[8; 77]).ttl(63).bytes()[14..]
            );
        }
    });
}

/// Errors about what a pod sent to a service are about the service, whoever reports them.
#[test]
fn errors_are_about_what_the_pod_sent() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let port = if proto == SCTP { 80 } else { 8080 };
            let (pod, vip, backend) = ((ip.pod1(), 1000), (ip.vip(), 80), (ip.remote_pod(), port));
            lb.backend(u32::from(n), backend);
            lb.serve(&Service::new(n, vip, proto, &[u32::from(n)]));
            let sent = ask(proto, pod, vip);
            let left = scene.from_pod1(&sent.bytes()).packet;
            for (reporter, seen) in [(ip.router(), ip.router()), (backend.0, vip.0)] {
                let error = Packet::unreachable(reporter, pod.0, &left);
                let expected = Packet::unreachable(seen, pod.0, &sent.clone().ttl(63).bytes());
                is(&scene.from_netdev(&error.bytes()), expected.ttl(63));
            }
            // The pod complains about the answer: to the backend.
            let back = scene
                .from_netdev(&answer(proto, backend, pod).bytes())
                .packet;
            let error = Packet::unreachable(pod.0, vip.0, &back);
            let quoted = answer(proto, backend, pod).ttl(63).bytes();
            let expected = Packet::unreachable(pod.0, backend.0, &quoted).ttl(63);
            is(&scene.from_pod1(&error.bytes()), expected);
        }
    });
}

/// The pod's own policy and that of the backend are asked about the backend, not about the service.
#[test]
fn policy_is_asked_about_the_backend() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        scene.subject(scene.lxc2, 5002, 0);
        let allowed = key(5002, Ingress, POD1_ID, port(TCP, 8080));
        scene.allow(allowed);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            let id = u32::from(n) * 2;
            let (pod, vip) = ((ip.pod1(), 1000), ip.vip());
            lb.backend(id, (ip.pod2(), 8080));
            lb.backend(id + 1, (ip.pod2(), 80));
            lb.serve(&Service::new(n, (vip, 80), TCP, &[id]));
            lb.serve(&Service::new(n + 10, (vip, 8080), TCP, &[id + 1]));
            let came = scene.from_pod1(&ask(TCP, pod, (vip, 80)).bytes());
            is(&came, ask(TCP, pod, (ip.pod2(), 8080)).ttl(63));
            let back = scene.from_pod2(&answer(TCP, (ip.pod2(), 8080), pod).bytes());
            is(&back, answer(TCP, (vip, 80), pod).ttl(63));
            let came = scene.from_pod1(&ask(TCP, pod, (vip, 8080)).bytes());
            came.dropped(DropReason::PolicyDenied, Ingress);
        }
    });
}
