//! Frontends of one family with backends of the other.
use std::net::IpAddr;

use Direction::{Egress, Ingress};
use abi::{DatapathConfig, Direction, DropReason, lb_flags, mark};

use super::{
    frontends::{Frontends, Service},
    packet::{ACK, End, FIN, Packet, RST, SCTP, SYN, TCP, UDP, read},
    policy::{ALL, key},
    scene::{
        Came, ETH0_MAC, Ip, POD1, POD1_ID, POD2, POD2_ID, REDIRECT, ROUTER_MAC, Scene, lxc_mac,
        native, pod_mac, tunnel,
    },
    services::{answer, ask, is, macs},
};
use crate::support::place;

/// As [`native`], with backends of the other family than their frontends.
fn across(config: &mut DatapathConfig) {
    native(config);
    config.nat46x64 = 1;
}

/// Each family of clients, with each protocol, numbered.
fn all() -> impl Iterator<Item = (u16, Ip, u8)> {
    let all = Ip::BOTH
        .into_iter()
        .flat_map(|ip| [TCP, UDP].map(|proto| (ip, proto)));
    (1..).zip(all).map(|(n, (ip, proto))| (n, ip, proto))
}

/// Has `at` served by `backend` alone.
fn serve(lb: &Frontends, n: u16, at: End, proto: u8, backend: End) {
    lb.backend(u32::from(n), backend);
    let service = Service::new(n, at, proto, &[u32::from(n)]);
    // That clients are answered directly is not for these.
    lb.serve(&service.flags(lb_flags::NAT46X64 | lb_flags::DSR));
}

/// Asserts that the packet went on as that of a client at `addr`, which it sees there; the client's place.
#[track_caller]
fn seen(came: &Came, addr: IpAddr) -> End {
    assert_eq!(came.verdict, REDIRECT, "{came:?}");
    let client = read(&came.packet).src;
    assert_eq!(client.0, addr, "{came:?}");
    assert!(client.1 >= 32768, "{client:?}");
    client
}

#[test]
fn a_pod_of_another_node_serves_the_outside() {
    place(|here| {
        let scene = Scene::new(here, across);
        let lb = Frontends::of(&scene);
        for (n, ip, proto) in all() {
            let theirs = ip.other();
            let backend = (theirs.remote_pod(), 8080);
            for (k, addr) in (0..).zip([ip.node(), ip.balancer()]) {
                // One port of the range, and one that is not.
                let (at, client) = ((addr, 30080), (ip.outside(), 1000 + 49_000 * k));
                serve(&lb, n + 100 * k, at, proto, backend);
                let there = scene.from_netdev(&ask(proto, client, at).bytes());
                there.forwarded(REDIRECT, Egress);
                let node = seen(&there, theirs.node());
                is(&there, ask(proto, node, backend).ttl(63));
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
    });
}

#[test]
fn a_pod_of_this_node_serves_the_outside() {
    for config in [across, |config: &mut _| {
        across(config);
        config.host_legacy = 1;
    }] {
        place(|here| {
            let scene = Scene::new(here, config);
            let lb = Frontends::of(&scene);
            for (n, ip, proto) in all() {
                let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30080));
                let backend = (ip.other().pod1(), 8080);
                serve(&lb, n, at, proto, backend);
                let there = scene.from_netdev(&ask(proto, client, at).bytes());
                there.forwarded(REDIRECT, Ingress);
                let router = seen(&there, ip.other().gateway());
                is(&there, ask(proto, router, backend).ttl(63));
                assert_eq!(macs(&there), (pod_mac(POD1), lxc_mac(POD1)));
                let back = scene.from_pod1(&answer(proto, backend, router).bytes());
                back.forwarded(REDIRECT, Egress);
                is(&back, answer(proto, at, client).ttl(63));
                assert_eq!(macs(&back), (ROUTER_MAC, ETH0_MAC));
            }
        });
    }
}

#[test]
fn pods_ask() {
    place(|here| {
        let scene = Scene::new(here, across);
        let lb = Frontends::of(&scene);
        for (n, ip, proto) in all() {
            let theirs = ip.other();
            let (client, at) = ((ip.pod1(), 50_000), (ip.vip(), 80));
            // A pod of this node, who may be the client itself, and one of another.
            for (k, near) in (1..).zip([theirs.pod2(), theirs.pod1()]) {
                serve(&lb, n + 100 * k, at, proto, (near, 8080));
                let client = (client.0, client.1 + k);
                let there = scene.from_pod1(&ask(proto, client, at).bytes());
                there.forwarded(REDIRECT, Ingress);
                let router = seen(&there, theirs.gateway());
                is(&there, ask(proto, router, (near, 8080)).ttl(63));
                let answered = answer(proto, (near, 8080), router).bytes();
                let back = match k {
                    1 => scene.from_pod2(&answered),
                    _ => scene.from_pod1(&answered),
                };
                back.forwarded(REDIRECT, Ingress);
                is(&back, answer(proto, at, client).ttl(63));
                assert_eq!(macs(&back), (pod_mac(POD1), lxc_mac(POD1)));
            }
            let far = (theirs.remote_pod(), 8080);
            serve(&lb, n, at, proto, far);
            let there = scene.from_pod1(&ask(proto, client, at).bytes());
            let node = seen(&there, theirs.node());
            is(&there, ask(proto, node, far).ttl(63));
            let back = scene.from_netdev(&answer(proto, far, node).bytes());
            back.forwarded(REDIRECT, Ingress);
            is(&back, answer(proto, at, client).ttl(63));
        }
    });
}

#[test]
fn backends_behind_the_tunnel_see_the_router() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            tunnel(config);
            config.nat46x64 = 1;
        });
        let lb = Frontends::of(&scene);
        for (n, ip, proto) in all() {
            let at = (ip.node(), 30080);
            let backend = (ip.other().remote_pod(), 8080);
            serve(&lb, n, at, proto, backend);
            let client = (ip.outside(), 50_000);
            let there = scene.from_netdev(&ask(proto, client, at).bytes());
            let router = seen(&there, ip.other().gateway());
            is(&there, ask(proto, router, backend).ttl(63));
            let told = there.events.last().unwrap();
            assert!(told.starts_with("to-overlay"), "{told}");
            let at = (ip.vip(), 80);
            serve(&lb, n + 100, at, proto, backend);
            let there = scene.from_pod1(&ask(proto, (ip.pod1(), 50_000), at).bytes());
            seen(&there, ip.other().gateway());
            let told = there.events.last().unwrap();
            assert!(told.contains(&format!("id {POD1_ID} > ")), "{told}");
        }
    });
}

/// Both ends' policies are asked about each other, whatever addresses they see.
#[test]
fn policy_is_asked_about_client_and_backend() {
    place(|here| {
        let scene = Scene::new(here, across);
        let lb = Frontends::of(&scene);
        scene.subjects(5001, 5002);
        scene.allow(key(5001, Egress, POD2_ID, ALL));
        scene.allow(key(5002, Ingress, POD1_ID, ALL));
        for (n, ip, proto) in all() {
            let backend = (ip.other().pod2(), 8080);
            let at = (ip.vip(), 80);
            serve(&lb, n, at, proto, backend);
            let client = (ip.pod1(), 1000);
            let there = scene.from_pod1(&ask(proto, client, at).bytes());
            let router = seen(&there, ip.other().gateway());
            let back = scene.from_pod2(&answer(proto, backend, router).bytes());
            is(&back, answer(proto, at, client).ttl(63));
            let outside = scene.from_netdev(&ask(proto, (ip.outside(), 1000), at).bytes());
            outside.dropped(DropReason::PolicyDenied, Ingress);
            let told = outside.events.last().unwrap();
            let ids = format!("id {} > {POD2_ID}, ep {POD2}", ip.world());
            assert!(told.contains(&ids), "{told}");
        }
        // Connections that are there end as soon as nobody allows them.
        scene.subjects(5003, 5002);
        scene.datapath.policy_epoch().unwrap().raise().unwrap();
        for (_, ip, proto) in all() {
            let there = scene.from_pod1(&ask(proto, (ip.pod1(), 1000), (ip.vip(), 80)).bytes());
            there.dropped(DropReason::PolicyDenied, Egress);
        }
    });
}

#[test]
fn a_port_is_one_clients_of_either_family() {
    place(|here| {
        let scene = Scene::new(here, across);
        let lb = Frontends::of(&scene);
        let ends = |ip: Ip| ((ip.outside(), 50_000), (ip.node(), 30080));
        let backend = (Ip::V4.remote_pod(), 8080);
        lb.backend(1, backend);
        lb.serve(&Service::new(1, ends(Ip::V4).1, TCP, &[1]));
        serve(&lb, 2, ends(Ip::V6).1, TCP, backend);
        for first in Ip::BOTH {
            let nodes = [first, first.other()].map(|ip| {
                let (client, at) = ends(ip);
                let came = scene.from_netdev(&ask(TCP, client, at).bytes());
                (ip, seen(&came, Ip::V4.node()))
            });
            assert_eq!(nodes[0].1.1, 50_000);
            assert_ne!(nodes[0].1, nodes[1].1);
            for (ip, node) in nodes {
                let (client, at) = ends(ip);
                let back = scene.from_netdev(&answer(TCP, backend, node).bytes());
                is(&back, answer(TCP, at, client).ttl(63));
            }
            // What the connections need stays as long as they do.
            assert_eq!(scene.mappings().len(), 5);
            let conntrack = scene.datapath.conntrack().unwrap();
            let soon = datapath::maps::Conntrack::now() + 60;
            conntrack
                .collect(soon, datapath::maps::GcFilter::Expired)
                .unwrap();
            assert_eq!(scene.mappings().len(), 5);
            conntrack.flush().unwrap();
            assert!(scene.mappings().is_empty());
        }
    });
}

#[test]
fn what_does_not_cross_is_dropped_with_a_reason() {
    place(|here| {
        let scene = Scene::new(here, across);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            let reason = match ip {
                Ip::V4 => DropReason::Nat46,
                Ip::V6 => DropReason::Nat64,
            };
            let (client, at) = ((ip.outside(), 50_000), (ip.balancer(), 80));
            let backend = (ip.other().remote_pod(), 80);
            for proto in [TCP, UDP, SCTP] {
                serve(&lb, n * 10 + u16::from(proto), at, proto, backend);
            }
            let sctp = scene.from_netdev(&ask(SCTP, client, at).bytes());
            sctp.dropped(reason, Ingress);
            let whole = Packet::udp(client, at, &[7; 64]);
            let [first, later] = whole.split(3, 4);
            scene.from_netdev(&first).dropped(reason, Ingress);
            scene.from_netdev(&later).dropped(reason, Ingress);
            // IPv6 has no datagrams without a checksum.
            if ip == Ip::V4 {
                let bare = whole.change_l4(|l4| l4[6..8].fill(0));
                scene.from_netdev(&bare.bytes()).dropped(reason, Ingress);
            }
            // Somebody on the way to the backend reports an error.
            let there = scene.from_netdev(&ask(TCP, client, at).bytes());
            let node = seen(&there, ip.other().node());
            let error = Packet::unreachable(backend.0, node.0, &there.packet);
            let other = match ip {
                Ip::V4 => DropReason::Nat64,
                Ip::V6 => DropReason::Nat46,
            };
            scene.from_netdev(&error.bytes()).dropped(other, Ingress);
            // The node would have to talk to itself under its own address.
            serve(
                &lb,
                n * 10,
                (ip.balancer(), 81),
                TCP,
                (ip.other().node(), 80),
            );
            let own = scene.from_netdev(&ask(TCP, client, (ip.balancer(), 81)).bytes());
            own.dropped(DropReason::LocalHostUnreachable, Ingress);
        }
    });
}

/// Addresses of IPv4 stand so in the tables: who had one would be taken for somebody else.
#[test]
fn nobody_has_an_address_that_stands_for_another() {
    place(|here| {
        let scene = Scene::new(here, across);
        let IpAddr::V4(client) = Ip::V4.outside() else {
            panic!("an address of IPv4")
        };
        let (mapped, pod) = (IpAddr::from(client.to_ipv6_mapped()), Ip::V6.pod1());
        let from = scene.from_netdev(&ask(TCP, (mapped, 50_000), (pod, 80)).bytes());
        from.dropped(DropReason::InvalidPacket, Ingress);
        let to = scene.from_pod1(&ask(TCP, (pod, 50_000), (mapped, 80)).bytes());
        to.dropped(DropReason::InvalidPacket, Egress);
    });
}

/// Resets and ends reach the client, and end what remembers its backend.
#[test]
fn connections_end() {
    place(|here| {
        let scene = Scene::new(here, across);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).zip(Ip::BOTH) {
            let (client, at) = ((ip.outside(), 50_000), (ip.node(), 30080));
            let backend = (ip.other().remote_pod(), 8080);
            serve(&lb, n, at, TCP, backend);
            let there = scene.from_netdev(&ask(TCP, client, at).bytes());
            let node = seen(&there, ip.other().node());
            for flags in [FIN | ACK, RST | ACK] {
                let end = scene.from_netdev(&Packet::tcp(backend, node, flags).bytes());
                is(&end, Packet::tcp(at, client, flags).ttl(63));
            }
            let soon = datapath::maps::Conntrack::now() + 15;
            let conntrack = scene.datapath.conntrack().unwrap();
            let ended = conntrack.collect(soon, datapath::maps::GcFilter::Expired);
            assert_eq!(ended.unwrap().deleted, 2);
            let again = scene.from_netdev(&Packet::tcp(client, at, SYN).bytes());
            seen(&again, ip.other().node());
            conntrack.flush().unwrap();
        }
    });
}

/// The header of IPv6 is longer: senders hear how long their packets may be.
#[test]
fn too_long_for_ipv6() {
    place(|here| {
        let scene = Scene::new(here, across);
        let lb = Frontends::of(&scene);
        let (client, at) = ((Ip::V4.outside(), 50_000), (Ip::V4.node(), 30080));
        let backend = (Ip::V6.remote_pod(), 8080);
        serve(&lb, 1, at, UDP, backend);
        let long = |len: usize| Packet::udp(client, at, &vec![7; len - 28]).bytes();
        let there = scene.from_netdev(&long(1480));
        assert_eq!(there.packet.len(), 14 + 1500);
        seen(&there, Ip::V6.node());
        let told = scene.from_netdev(&long(1481)).packet;
        // "Fragmentation needed", and to what.
        assert_eq!((told[34], told[35]), (3, 4));
        assert_eq!(u16::from_be_bytes([told[40], told[41]]), 1480);
        let said = read(&told);
        assert_eq!((said.src.0, said.dst.0), (at.0, client.0));
        // The other way there is room.
        let (client, at) = ((Ip::V6.outside(), 50_000), (Ip::V6.node(), 30080));
        let backend = (Ip::V4.remote_pod(), 8080);
        serve(&lb, 2, at, UDP, backend);
        let there = scene.from_netdev(&Packet::udp(client, at, &[7; 1452]).bytes());
        let node = seen(&there, Ip::V4.node());
        let answer = |len: usize| Packet::udp(backend, node, &vec![7; len - 28]).bytes();
        let back = scene.from_netdev(&answer(1480));
        assert_eq!(read(&back.packet).src, at);
        let told = scene.from_netdev(&answer(1481)).packet;
        assert_eq!((told[34], told[35]), (3, 4));
        assert_eq!(read(&told).dst.0, backend.0);
    });
}
