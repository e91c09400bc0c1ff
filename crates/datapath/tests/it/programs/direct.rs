//! Direct answers: the client goes on to the backend's node as itself, with the frontend in an option, and hears the frontend from there.
use std::net::IpAddr;

use Direction::{Egress, Ingress};
use abi::{
    DIRECT_FRONTEND, DatapathConfig, Direction, DropReason, DsrDispatch, ct_flags, lb_flags, mark,
};

use super::{
    frontends::{Frontends, Service},
    packet::{ACK, End, FIN, Packet, SCTP, TCP, UDP, checksum},
    scene::{
        Came, ETH0_MAC, Ip, PASS, POD1, REDIRECT, ROUTER_MAC, SHOT, Scene, lxc_mac, native,
        pod_mac, tunnel,
    },
    services::{all, answer, ask, by_the_stack, macs},
};
use crate::support::place;

/// Native routing, with frontends in options.
pub fn options(config: &mut DatapathConfig) {
    native(config);
    config.dsr_dispatch = DsrDispatch::Option as u8;
}

fn options_by_the_stack(config: &mut DatapathConfig) {
    by_the_stack(config);
    config.dsr_dispatch = DsrDispatch::Option as u8;
}

/// The packet with the option that tells `at`.
pub fn labelled(packet: &[u8], (addr, port): End) -> Vec<u8> {
    let port = port.to_be_bytes();
    let mut made = packet.to_vec();
    match addr {
        IpAddr::V4(addr) => {
            let option = [&[0x9A, 8], &port[..], &addr.octets()].concat();
            made.splice(34..34, option);
            made[14] += 2;
            let total = ((made.len() - 14) as u16).to_be_bytes();
            made[16..18].copy_from_slice(&total);
            made[24..26].fill(0);
            let header = usize::from(made[14] & 15) * 4;
            let sum = checksum(&[&made[14..14 + header]]);
            made[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        IpAddr::V6(addr) => {
            let next = std::mem::replace(&mut made[20], 60);
            let option = [&[next, 2, 0x1B, 20], &addr.octets()[..], &port, &[0, 0]].concat();
            made.splice(54..54, option);
            let len = ((made.len() - 54) as u16).to_be_bytes();
            made[18..20].copy_from_slice(&len);
        }
    }
    made
}

/// Asserts that the packet goes on as `expected`, but for its MAC addresses.
#[track_caller]
fn goes_on(came: &Came, expected: &[u8]) {
    assert_eq!(came.verdict, REDIRECT, "{came:?}");
    assert_eq!(came.packet[14..], expected[14..], "{came:?}");
}

fn port_of(proto: u8) -> u16 {
    if proto == SCTP { 30080 } else { 8080 }
}

/// A service whose backend is elsewhere.
fn remote(lb: &Frontends, n: u16, ip: Ip, at: End, proto: u8) -> End {
    let backend = (ip.remote_pod(), port_of(proto));
    lb.backend(u32::from(n), backend);
    lb.serve(&Service::new(n, at, proto, &[u32::from(n)]).flags(lb_flags::DSR));
    backend
}

#[test]
fn a_client_goes_on_with_the_frontend() {
    for config in [options as fn(&mut _), options_by_the_stack] {
        place(|here| {
            let scene = Scene::new(here, config);
            let lb = Frontends::of(&scene);
            for (n, (ip, proto)) in (1..).zip(all()) {
                for (k, addr) in (0..).zip([ip.node(), ip.balancer()]) {
                    let (at, client) = ((addr, 30080), (ip.outside(), 1000 + 49_000 * k));
                    let backend = remote(&lb, n + 100 * k, ip, at, proto);
                    let sent = ask(proto, client, at).bytes();
                    let there = scene.from_netdev(&sent);
                    there.forwarded(REDIRECT, Egress);
                    let expected = labelled(&ask(proto, client, backend).ttl(63).bytes(), at);
                    goes_on(&there, &expected);
                    assert_eq!(macs(&there), (ROUTER_MAC, ETH0_MAC));
                    assert_eq!(there.mark, mark::SNAT_DONE);
                    let told = there.events.last().unwrap();
                    let ids = format!("new forward, id {} > 2001, ep 0", ip.world());
                    assert!(
                        told.starts_with("to-network") && told.ends_with(&ids),
                        "{told}"
                    );
                    // The same again; of TCP, what is no beginning says nothing.
                    goes_on(&scene.from_netdev(&sent), &expected);
                    if proto == TCP {
                        let later = |to| Packet::tcp(client, to, ACK);
                        let came = scene.from_netdev(&later(at).bytes());
                        goes_on(&came, &later(backend).ttl(63).bytes());
                        let told = came.events.last().unwrap();
                        assert!(told.contains("established forward, id"), "{told}");
                    }
                }
            }
            assert!(scene.mappings().is_empty());
            // Nothing is known here but which backend the client has.
            let known = scene.connections();
            let all_pass = known.iter().all(|one| one.entry.flags & ct_flags::DSR != 0);
            assert!(known.len() == 12 && all_pass, "{known:?}");
        });
    }
}

#[test]
fn the_backends_node_answers_as_the_frontend() {
    for config in [options as fn(&mut _), options_by_the_stack] {
        place(|here| {
            let scene = Scene::new(here, config);
            for (ip, proto) in all() {
                let (client, pod) = ((ip.outside(), 50_000), (ip.pod1(), port_of(proto)));
                let at = (ip.remote_node(), 30080);
                let sent = labelled(&ask(proto, client, pod).bytes(), at);
                let there = scene.from_netdev(&sent);
                there.forwarded(REDIRECT, Ingress);
                let expected = labelled(&ask(proto, client, pod).ttl(63).bytes(), at);
                goes_on(&there, &expected);
                assert_eq!(macs(&there), (pod_mac(POD1), lxc_mac(POD1)));
                let back = scene.from_pod1(&answer(proto, pod, client).bytes());
                back.forwarded(REDIRECT, Egress);
                goes_on(&back, &answer(proto, at, client).ttl(63).bytes());
                assert_eq!(macs(&back), (ROUTER_MAC, ETH0_MAC));
                assert_eq!(back.mark, mark::SNAT_DONE);
                // What follows without an option is of the same connection.
                if proto == TCP {
                    let later = Packet::tcp(client, pod, ACK).bytes();
                    let came = scene.from_netdev(&later);
                    assert!([PASS, REDIRECT].contains(&came.verdict), "{came:?}");
                    let back = scene.from_pod1(&answer(proto, pod, client).bytes());
                    goes_on(&back, &answer(proto, at, client).ttl(63).bytes());
                }
                // The pod complains, and the client hears it of the frontend.
                let error = Packet::unreachable(pod.0, client.0, &there.packet).bytes();
                let about = scene.from_pod1(&error);
                assert_eq!(about.verdict, REDIRECT);
                let said = super::packet::read(&about.packet);
                assert_eq!((said.src.0, said.dst.0), (at.0, client.0));
                // Another frontend with the same client.
                let at = (ip.balancer(), if proto == SCTP { 30080 } else { 80 });
                scene.from_netdev(&labelled(&ask(proto, client, pod).bytes(), at));
                let back = scene.from_pod1(&answer(proto, pod, client).bytes());
                goes_on(&back, &answer(proto, at, client).ttl(63).bytes());
            }
            assert_eq!(scene.mappings().len(), 6);
            let known = scene.connections();
            let all_pass = known.iter().all(|one| one.entry.rev_nat == DIRECT_FRONTEND);
            assert!(known.len() == 6 && all_pass, "{known:?}");
        });
    }
}

#[test]
fn a_process_of_the_node_answers_as_the_frontend() {
    place(|here| {
        let scene = Scene::new(here, options);
        for (ip, proto) in all() {
            let (client, own) = ((ip.outside(), 50_000), (ip.node(), port_of(proto)));
            let at = (ip.remote_node(), 30080);
            let sent = labelled(&ask(proto, client, own).bytes(), at);
            let there = scene.from_netdev(&sent);
            assert_eq!((there.verdict, &there.packet), (PASS, &sent));
            let back = scene.to_netdev(&answer(proto, own, client).bytes(), 0);
            assert_eq!(back.verdict, PASS);
            assert_eq!(back.packet[14..], answer(proto, at, client).bytes()[14..]);
        }
    });
}

#[test]
fn a_client_in_a_pod_of_the_backends_node() {
    place(|here| {
        let scene = Scene::new(here, options);
        for (ip, proto) in all() {
            let (client, pod) = ((ip.pod2(), 5000), (ip.pod1(), port_of(proto)));
            let at = (ip.remote_node(), 30080);
            scene.from_netdev(&labelled(&ask(proto, client, pod).bytes(), at));
            let back = scene.from_pod1(&answer(proto, pod, client).bytes());
            goes_on(&back, &answer(proto, at, client).ttl(63).bytes());
        }
    });
}

/// What is here is answered from here, without options.
#[test]
fn a_backend_of_this_node_needs_none() {
    place(|here| {
        let scene = Scene::new(here, options);
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30080));
            let backend = (ip.pod1(), port_of(proto));
            lb.backend(u32::from(n), backend);
            lb.serve(&Service::new(n, at, proto, &[u32::from(n)]).flags(lb_flags::DSR));
            let there = scene.from_netdev(&ask(proto, client, at).bytes());
            goes_on(&there, &ask(proto, client, backend).ttl(63).bytes());
            let back = scene.from_pod1(&answer(proto, backend, client).bytes());
            goes_on(&back, &answer(proto, at, client).ttl(63).bytes());
        }
        assert!(scene.mappings().is_empty());
    });
}

/// Services say for themselves how it is done, and pods of the node do not need it.
#[test]
fn only_what_asks_for_it_is_passed_on() {
    place(|here| {
        let scene = Scene::new(here, options);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).step_by(10).zip(Ip::BOTH) {
            let (at, client) = ((ip.node(), 30080), (ip.outside(), 50_000));
            let backend = remote(&lb, n, ip, at, TCP);
            lb.serve(&Service::new(n + 1, at, UDP, &[u32::from(n)]));
            let there = scene.from_netdev(&ask(UDP, client, at).bytes());
            let node = (ip.node(), 50_000);
            goes_on(&there, &ask(UDP, node, backend).ttl(63).bytes());
            let pod = (ip.pod1(), 4000);
            let there = scene.from_pod1(&ask(TCP, pod, at).bytes());
            goes_on(&there, &ask(TCP, pod, backend).ttl(63).bytes());
        }
    });
}

/// Where it is off nobody is passed on, and options of others mean nothing.
#[test]
fn where_it_is_off() {
    place(|here| {
        let scene = Scene::new(here, native);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            let (at, client) = ((ip.node(), 30080), (ip.outside(), 50_000));
            let backend = remote(&lb, n, ip, at, TCP);
            let there = scene.from_netdev(&ask(TCP, client, at).bytes());
            let node = (ip.node(), 50_000);
            goes_on(&there, &ask(TCP, node, backend).ttl(63).bytes());
            let pod = (ip.pod1(), 8080);
            let other = (ip.remote_node(), 1);
            scene.from_netdev(&labelled(&ask(UDP, client, pod).bytes(), other));
            let back = scene.from_pod1(&answer(UDP, pod, client).bytes());
            goes_on(&back, &answer(UDP, pod, client).ttl(63).bytes());
        }
    });
}

/// An option that is none, of what does not begin anything, or for somebody else.
#[test]
fn other_options_mean_nothing() {
    place(|here| {
        let scene = Scene::new(here, options);
        for ip in Ip::BOTH {
            let (at, pod) = ((ip.remote_node(), 30080), (ip.pod1(), 8080));
            let client = |port| (ip.outside(), port);
            let mut wrong = labelled(&ask(UDP, client(1), pod).bytes(), at);
            let (kind, other) = if ip == Ip::V4 { (34, 1) } else { (56, 1) };
            wrong[kind] = other;
            if ip == Ip::V4 {
                // Padding to the end of the header.
                wrong[34..42].fill(1);
                wrong[24..26].fill(0);
                let sum = checksum(&[&wrong[14..42]]);
                wrong[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            let late = labelled(&Packet::tcp(client(2), pod, ACK).bytes(), at);
            for (proto, port, sent) in [(UDP, 1, wrong), (TCP, 2, late)] {
                assert_eq!(scene.from_netdev(&sent).verdict, REDIRECT);
                let back = scene.from_pod1(&answer(proto, pod, client(port)).bytes());
                goes_on(&back, &answer(proto, pod, client(port)).ttl(63).bytes());
            }
            let through = labelled(&ask(UDP, client(3), (ip.nobody(), 1)).bytes(), at);
            let came = scene.from_netdev(&through);
            assert_eq!((came.verdict, came.packet), (PASS, through));
        }
        assert!(scene.mappings().is_empty());
    });
}

/// Errors about what the frontend seemed to answer are for the backend, wherever it is.
#[test]
fn errors_are_passed_on() {
    place(|here| {
        let scene = Scene::new(here, options);
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30080));
            let backend = remote(&lb, n, ip, at, proto);
            scene.from_netdev(&ask(proto, client, at).bytes());
            for reporter in [client.0, ip.router()] {
                let about = |end| answer(proto, end, client).bytes();
                let error = Packet::unreachable(reporter, at.0, &about(at)).bytes();
                let there = scene.from_netdev(&error);
                let expected = Packet::unreachable(reporter, backend.0, &about(backend));
                goes_on(&there, &expected.ttl(63).bytes());
            }
        }
    });
}

/// "Too big", as it must be.
fn too_big(ip: Ip, from: IpAddr, to: IpAddr, mtu: u16, sent: &[u8]) -> Vec<u8> {
    let [a, b] = mtu.to_be_bytes();
    let (kind, code, quoted) = if ip == Ip::V4 {
        (3, 4, 28)
    } else if sent[20] == 44 {
        (2, 0, 56)
    } else {
        (2, 0, 48)
    };
    let told = Packet::icmp(from, to, kind, code, [0, 0, a, b], &sent[14..14 + quoted]).bytes();
    if ip == Ip::V4 { may_be_cut(told) } else { told }
}

/// An IPv4 packet that routers may cut.
fn may_be_cut(mut packet: Vec<u8>) -> Vec<u8> {
    packet[20] = 0;
    packet[24..26].fill(0);
    let sum = checksum(&[&packet[14..34]]);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn what_has_no_room_for_the_option_hears_how_long_it_may_be() {
    place(|here| {
        let scene = Scene::new(here, options);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            let (client, at) = ((ip.outside(), 50_000), (ip.balancer(), 30080));
            let backend = remote(&lb, n, ip, at, UDP);
            let (headers, mtu) = if ip == Ip::V4 { (28, 1492) } else { (48, 1476) };
            let datagram = |len: u16, to| Packet::udp(client, to, &vec![7; usize::from(len)]);
            let longest = mtu - headers;
            let came = scene.from_netdev(&datagram(longest, at).bytes());
            let expected = datagram(longest, backend).ttl(63).bytes();
            goes_on(&came, &labelled(&expected, at));
            assert_eq!(came.packet.len(), 1514);
            let sent = datagram(longest + 1, at).bytes();
            let came = scene.from_netdev(&sent);
            assert_eq!(came.verdict, REDIRECT);
            let expected = too_big(ip, at.0, client.0, mtu, &sent);
            assert_eq!(came.packet[14..], expected[14..]);
            assert_eq!(came.packet[..12], [&sent[6..12], &sent[..6]].concat());
            assert_eq!(
                came.counted,
                [(DropReason::FragmentationNeeded as u8, Ingress)]
            );
        }
    });
}

/// IPv4 senders that allow it are cut on the way; IPv6 senders of fragments hear how long those may be.
#[test]
fn fragments_and_what_may_become_some() {
    place(|here| {
        let scene = Scene::new(here, options);
        let lb = Frontends::of(&scene);
        let ip = Ip::V4;
        let (client, at) = ((ip.outside(), 50_000), (ip.balancer(), 30080));
        let backend = remote(&lb, 1, ip, at, UDP);
        let datagram = |to| may_be_cut(Packet::udp(client, to, &[7; 1472]).bytes());
        let came = scene.from_netdev(&datagram(at));
        if came.verdict == SHOT {
            // Linux before 5.12 makes no packet longer than its device takes.
            came.dropped(DropReason::ErrorWritingToPacket, Ingress);
        } else {
            assert_eq!(came.verdict, PASS);
            assert_eq!(came.packet[14..], labelled(&datagram(backend), at)[14..]);
        }
        for (n, ip) in (2..).zip(Ip::BOTH) {
            let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30053));
            let backend = remote(&lb, n, ip, at, UDP);
            // The first fragment has the option, others follow it.
            let asked = Packet::udp(client, at, &[7; 99]);
            let [first, later] = asked.split(77, 5).map(|part| scene.from_netdev(&part));
            let expected = Packet::udp(client, backend, &[7; 99]).ttl(63);
            let parts = expected.split(77, 5);
            goes_on(&first, &labelled(&parts[0], at));
            goes_on(&later, &parts[1]);
            let pod = (ip.pod1(), 53);
            let parts = Packet::udp(client, pod, &[7; 99]).split(78, 5);
            let [first, later] = [labelled(&parts[0], at), parts[1].clone()]
                .map(|part| scene.from_netdev(&part).verdict);
            assert_eq!([first, later], [REDIRECT; 2]);
            let back = scene.from_pod1(&answer(UDP, pod, client).bytes());
            goes_on(&back, &answer(UDP, at, client).ttl(63).bytes());
        }
        let ip = Ip::V6;
        let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30053));
        let [first, _] = Packet::udp(client, at, &[7; 2000]).split(79, 181);
        assert_eq!(first.len(), 1510);
        let came = scene.from_netdev(&first);
        assert_eq!(came.verdict, REDIRECT);
        let expected = too_big(ip, at.0, client.0, 1476, &first);
        assert_eq!(came.packet[14..], expected[14..]);
    });
}

/// There is room in every header that has some, and an extension that must be the first stays it.
#[test]
fn headers_without_a_place_for_it() {
    place(|here| {
        let scene = Scene::new(here, options);
        let lb = Frontends::of(&scene);
        let (client, at) = ((Ip::V4.outside(), 50_000), (Ip::V4.node(), 30080));
        remote(&lb, 1, Ip::V4, at, TCP);
        let padded = |words: usize| {
            let mut sent = ask(TCP, client, at).bytes();
            sent.splice(34..34, vec![1; words * 4]);
            sent[14] += words as u8;
            let total = ((sent.len() - 14) as u16).to_be_bytes();
            sent[16..18].copy_from_slice(&total);
            sent[24..26].fill(0);
            let sum = checksum(&[&sent[14..34 + words * 4]]);
            sent[24..26].copy_from_slice(&sum.to_be_bytes());
            scene.from_netdev(&sent)
        };
        let came = padded(8);
        assert_eq!((came.verdict, came.packet[14]), (REDIRECT, 0x4F));
        padded(9).dropped(DropReason::InvalidPacket, Ingress);

        let (client, at) = ((Ip::V6.outside(), 50_000), (Ip::V6.node(), 30080));
        remote(&lb, 2, Ip::V6, at, TCP);
        let mut sent = ask(TCP, client, at).bytes();
        sent.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
        sent[20] = 0;
        let len = ((sent.len() - 54) as u16).to_be_bytes();
        sent[18..20].copy_from_slice(&len);
        let came = scene.from_netdev(&sent);
        came.dropped(DropReason::InvalidExtensionHeader, Ingress);
    });
}

/// A client that has said its last is not remembered for hours: whether it heard the other's last is not seen here.
#[test]
fn a_client_that_ends_is_soon_forgotten() {
    place(|here| {
        let scene = Scene::new(here, options);
        let lb = Frontends::of(&scene);
        let ip = Ip::V4;
        let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30080));
        remote(&lb, 1, ip, at, TCP);
        let left = || {
            let known = scene.connections();
            assert_eq!(known.len(), 1);
            known[0].entry.expires - datapath::maps::Conntrack::now()
        };
        scene.from_netdev(&ask(TCP, client, at).bytes());
        scene.from_netdev(&Packet::tcp(client, at, ACK).bytes());
        assert!(left() > 7000);
        scene.from_netdev(&Packet::tcp(client, at, FIN | ACK).bytes());
        assert!(left() <= 60);
    });
}

/// By a tunnel the packet itself stays as it is. Which key and option it has is seen where there is a tunnel.
#[test]
fn by_a_tunnel() {
    let native_with_tunnel = |config: &mut DatapathConfig| {
        native(config);
        config.tunnel_ifindex = 77;
    };
    for config in [tunnel as fn(&mut _), native_with_tunnel] {
        place(|here| {
            let scene = Scene::new(here, |all| {
                config(all);
                all.dsr_dispatch = DsrDispatch::Geneve as u8;
            });
            let lb = Frontends::of(&scene);
            for (n, (ip, proto)) in (1..).zip(all()) {
                let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30080));
                let backend = remote(&lb, n, ip, at, proto);
                for _ in 0..2 {
                    let there = scene.from_netdev(&ask(proto, client, at).bytes());
                    goes_on(&there, &ask(proto, client, backend).ttl(63).bytes());
                    assert_eq!(there.mark, mark::OVERLAY);
                    let told = there.events.last().unwrap();
                    assert!(told.starts_with("to-overlay"), "{told}");
                }
                // A process of the other node.
                let (at, backend) = ((ip.balancer(), 30080), (ip.remote_node(), 30080));
                lb.backend(u32::from(n) + 100, backend);
                let service = Service::new(n + 100, at, proto, &[u32::from(n) + 100]);
                lb.serve(&service.flags(lb_flags::DSR));
                let there = scene.from_netdev(&ask(proto, client, at).bytes());
                goes_on(&there, &ask(proto, client, backend).ttl(63).bytes());
                assert_eq!(there.mark, mark::OVERLAY);
            }
            // Somebody of whom nobody knows where he is.
            let ip = Ip::V4;
            let at = (ip.node(), 30099);
            lb.backend(200, (ip.nobody(), 80));
            lb.serve(&Service::new(200, at, TCP, &[200]).flags(lb_flags::DSR));
            let came = scene.from_netdev(&ask(TCP, (ip.outside(), 1), at).bytes());
            came.dropped(DropReason::NoTunnelEndpoint, Ingress);
            assert!(scene.mappings().is_empty());
        });
    }
}
