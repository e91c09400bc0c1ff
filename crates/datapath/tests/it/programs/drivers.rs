//! Services balanced before the stack: what goes on from there is what would have gone on from the stack, all else goes up as it came.
use std::net::IpAddr;

use Direction::Egress;
use abi::{DatapathConfig, Direction, DsrDispatch, ct_flags, lb_flags};

use super::{
    direct::{labelled, options},
    frontends::{Frontends, Service},
    packet::{ACK, Packet, SCTP, TCP, UDP, read},
    scene::{BACK, Came, ETH0_MAC, Ip, REDIRECT, ROUTER_MAC, Scene, UP, native, tunnel},
    services::{answer, ask, macs},
};
use crate::support::place;

/// With the program for drivers.
pub fn driver(config: &mut DatapathConfig) {
    native(config);
    config.xdp = 1;
}

/// Each family with each protocol whose ports can be changed.
fn all() -> impl Iterator<Item = (Ip, u8)> {
    Ip::BOTH
        .into_iter()
        .flat_map(|ip| [TCP, UDP].map(|proto| (ip, proto)))
}

/// Asserts that the packet leaves as `expected`, by the device that it came by.
#[track_caller]
fn leaves(came: &Came, expected: &[u8]) {
    came.forwarded(BACK, Egress);
    assert_eq!(came.packet[14..], expected[14..], "{came:?}");
    assert_eq!(macs(came), (ROUTER_MAC, ETH0_MAC));
}

/// Asserts that the packet goes up, and that nobody was told of it.
#[track_caller]
fn goes_up(scene: &Scene, packet: &[u8]) {
    let came = scene.from_driver(packet);
    assert_eq!((came.verdict, &came.packet[..]), (UP, packet), "{came:?}");
    assert!(
        came.events.is_empty() && came.counted.is_empty(),
        "{came:?}"
    );
}

#[test]
fn who_asks_goes_on_and_is_answered() {
    place(|here| {
        let scene = Scene::new(here, driver);
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let backend = (ip.remote_pod(), 8080);
            lb.backend(u32::from(n), backend);
            for (k, addr) in (0..).zip([ip.node(), ip.balancer()]) {
                // One port of the range, and one that is not.
                let (at, client) = ((addr, 30080), (ip.outside(), 1000 + 49_000 * k));
                lb.serve(&Service::new(n + 100 * k, at, proto, &[u32::from(n)]));
                let sent = ask(proto, client, at).bytes();
                let there = scene.from_driver(&sent);
                let node = (ip.node(), read(&there.packet).src.1);
                leaves(&there, &ask(proto, node, backend).ttl(63).bytes());
                assert!(node.1 >= 32768);
                let ids = format!("new forward snat, id {} > 2001, ep 0", ip.world());
                let told = there.events.last().unwrap();
                assert!(
                    told.starts_with("to-network") && told.ends_with(&ids),
                    "{told}"
                );
                // The connection is one, whoever sees its packets.
                leaves(&scene.from_driver(&sent), &there.packet);
                let by_stack = scene.from_netdev(&sent);
                assert_eq!(
                    (by_stack.verdict, &by_stack.packet),
                    (REDIRECT, &there.packet)
                );
                let reply = answer(proto, backend, node).bytes();
                let back = scene.from_driver(&reply);
                leaves(&back, &answer(proto, at, client).ttl(63).bytes());
                let told = back.events.last().unwrap();
                let ids = format!("reply snat, id 2001 > {}, ep 0", ip.world());
                assert!(
                    told.starts_with("to-network") && told.ends_with(&ids),
                    "{told}"
                );
                let by_stack = scene.from_netdev(&reply);
                assert_eq!((by_stack.verdict, by_stack.packet), (REDIRECT, back.packet));
            }
        }
        assert_eq!(
            (scene.mappings().len(), scene.connections().len()),
            (16, 16)
        );
    });
}

#[test]
fn what_the_stack_began_goes_on_from_the_driver() {
    place(|here| {
        let scene = Scene::new(here, driver);
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let (client, at, backend) = (
                (ip.outside(), 2000),
                (ip.node(), 30080),
                (ip.remote_pod(), 8080),
            );
            lb.backend(u32::from(n), backend);
            lb.serve(&Service::new(n, at, proto, &[u32::from(n)]));
            let sent = ask(proto, client, at).bytes();
            let there = scene.from_netdev(&sent);
            leaves(&scene.from_driver(&sent), &there.packet);
            let node = (ip.node(), read(&there.packet).src.1);
            let back = scene.from_driver(&answer(proto, backend, node).bytes());
            leaves(&back, &answer(proto, at, client).ttl(63).bytes());
        }
    });
}

/// Packets of all kinds that somebody else deals with.
fn others(scene: &Scene, lb: &Frontends, ip: Ip) -> Vec<Vec<u8>> {
    let base = if ip == Ip::V4 { 0 } else { 100 };
    let client = (ip.outside(), 50_000);
    let at = |port| (ip.node(), port);
    let to = |port| ask(TCP, client, at(port));
    for (n, backend) in (1..).zip([
        (ip.remote_pod(), 80),
        (ip.pod1(), 80),
        (ip.node(), 80),
        (ip.stranger(), 80),
        (ip.unreachable(), 80),
    ]) {
        lb.backend(base + n, backend);
        let served = Service::new((base + n) as u16, at(30_000 + n as u16), TCP, &[base + n]);
        lb.serve(&served);
    }
    let remote = base + 1;
    let service = |n: u16, port, proto| Service::new(base as u16 + n, at(port), proto, &[remote]);
    lb.serve(&Service::new(base as u16 + 10, at(30_010), TCP, &[]));
    lb.serve(&service(11, 30_011, TCP).flags(lb_flags::SOURCE_RANGES));
    lb.serve(&service(12, 30_012, TCP).inside());
    lb.serve(&service(13, 80, SCTP));
    lb.serve(&service(14, 30_001, UDP));
    // From here on the first one, to which there is a way, has something about it.
    let good = to(30_001).bytes();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let l4 = ip.l4();
    let [first, later] = Packet::udp(client, at(30_001), &[1; 60]).split(7, 2);
    let own = Packet::tcp(at(40_001), client, ACK).bytes();
    scene.to_netdev(&own, 0);
    let left = scene.from_pod1(&Packet::tcp((ip.pod1(), 40_002), client, ACK).bytes());
    let pod = read(&left.packet).src;
    vec![
        to(30_002).bytes(),
        to(30_003).bytes(),
        to(30_004).bytes(),
        to(30_005).bytes(),
        to(30_010).bytes(),
        to(30_011).bytes(),
        to(30_012).bytes(),
        to(22).bytes(),
        ask(TCP, client, (ip.balancer(), 30_001)).bytes(),
        ask(TCP, client, (ip.pod1(), 30_001)).bytes(),
        ask(TCP, client, (ip.outside(), 30_001)).bytes(),
        ask(SCTP, client, at(80)).bytes(),
        Packet::ping(client.0, ip.node(), 40_000).bytes(),
        Packet::unreachable(client.0, ip.node(), &good).bytes(),
        first,
        later,
        to(30_001).ttl(1).bytes(),
        labelled(&good, at(1)),
        Packet::udp(client, at(30_001), &[0; 1480]).bytes(),
        changed(&|bytes| bytes[0] = 1),
        changed(&|bytes| bytes[12..14].copy_from_slice(&[0x81, 0])),
        changed(&|bytes| bytes.truncate(l4 + 6)),
        changed(&|bytes| bytes.truncate(30)),
        unfinished(ip, &good, l4 + 16),
        unfinished(ip, &ask(UDP, client, at(30_001)).bytes(), l4 + 6),
        // Answers to the node itself, and to a pod.
        Packet::tcp(client, at(40_001), ACK).bytes(),
        Packet::tcp(client, pod, ACK).bytes(),
    ]
}

/// The packet as it comes by a device that leaves its checksum at `sum` to others.
fn unfinished(ip: Ip, packet: &[u8], sum: usize) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let addresses = if ip == Ip::V4 { 26..34 } else { 22..54 };
    let proto = if sum == ip.l4() + 16 { TCP } else { UDP };
    let len = (bytes.len() - ip.l4()) as u16;
    let rest = [&[0, proto][..], &len.to_be_bytes()].concat();
    let complement = super::packet::checksum(&[&bytes[addresses], &rest]);
    bytes[sum..sum + 2].copy_from_slice(&(!complement).to_be_bytes());
    bytes
}

#[test]
fn all_else_goes_up_as_it_came() {
    place(|here| {
        let scene = Scene::new(here, driver);
        let lb = Frontends::of(&scene);
        for ip in Ip::BOTH {
            for packet in others(&scene, &lb, ip) {
                goes_up(&scene, &packet);
            }
            // The way is there.
            let client = (ip.outside(), 50_000);
            let came = scene.from_driver(&ask(TCP, client, (ip.node(), 30_001)).bytes());
            assert_eq!(came.verdict, BACK, "{came:?}");
        }
        goes_up(&scene, &[0xFF; 42]);
    });
}

/// Encapsulation is the stack's; what needs none goes on.
#[test]
fn what_goes_by_the_tunnel_goes_up() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            tunnel(config);
            (config.xdp, config.tunnel_port) = (1, 8472);
        });
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).step_by(10).zip(Ip::BOTH) {
            let client = (ip.stranger(), 50_000);
            let (there, other) = ((ip.node(), 30_001), (ip.node(), 30_002));
            lb.backend(n, (ip.remote_pod(), 80));
            lb.backend(n + 1, (ip.outside(), 80));
            lb.serve(&Service::new(n as u16, there, TCP, &[n]));
            lb.serve(&Service::new(n as u16 + 1, other, TCP, &[n + 1]));
            lb.serve(&Service::new(
                n as u16 + 2,
                (ip.node(), 8472),
                UDP,
                &[n + 1],
            ));
            goes_up(&scene, &ask(TCP, client, there).bytes());
            // Others' packets, whoever serves that port.
            goes_up(&scene, &ask(UDP, client, (ip.node(), 8472)).bytes());
            let came = scene.from_driver(&ask(TCP, client, other).bytes());
            let node = (ip.node(), 50_000);
            leaves(&came, &ask(TCP, node, (ip.outside(), 80)).ttl(63).bytes());
        }
    });
}

/// Who was chosen by the one program is asked by the other.
#[test]
fn each_backend_gets_its_share() {
    place(|here| {
        let scene = Scene::new(here, driver);
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).step_by(10).zip(Ip::BOTH) {
            lb.backend(n, (ip.pod1(), 80));
            lb.backend(n + 1, (ip.remote_pod(), 80));
            let at = (ip.node(), 30_001);
            lb.serve(&Service::new(n as u16, at, UDP, &[n, n + 1]));
            let mut here = 0;
            for port in 1000..1400 {
                let sent = ask(UDP, (ip.outside(), port), at).bytes();
                let came = scene.from_driver(&sent);
                if came.verdict == UP {
                    here += 1;
                    let said = read(&scene.from_netdev(&sent).packet);
                    assert_eq!(said.dst, (ip.pod1(), 80));
                }
            }
            // Ten times the deviation of so many tosses.
            assert!((100..300).contains(&here), "{here} of 400");
        }
    });
}

#[test]
fn direct_answers_begin_in_the_driver() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            options(config);
            config.xdp = 1;
        });
        let lb = Frontends::of(&scene);
        for (n, (ip, proto)) in (1..).zip(all()) {
            let (at, client) = ((ip.node(), 30080), (ip.outside(), 1000));
            let backend = (ip.remote_pod(), 8080);
            lb.backend(u32::from(n), backend);
            lb.serve(&Service::new(n, at, proto, &[u32::from(n)]).flags(lb_flags::DSR));
            let sent = ask(proto, client, at).bytes();
            let there = scene.from_driver(&sent);
            leaves(
                &there,
                &labelled(&ask(proto, client, backend).ttl(63).bytes(), at),
            );
            let told = there.events.last().unwrap();
            let ids = format!("new forward, id {} > 2001, ep 0", ip.world());
            assert!(told.ends_with(&ids), "{told}");
            let by_stack = scene.from_netdev(&sent);
            assert_eq!(
                (by_stack.verdict, by_stack.packet),
                (REDIRECT, there.packet)
            );
            if proto == TCP {
                let later = |to| Packet::tcp(client, to, ACK);
                let came = scene.from_driver(&later(at).bytes());
                leaves(&came, &later(backend).ttl(63).bytes());
            } else {
                // The option does not fit, and the client is to hear of it.
                let long = vec![0; 1500 - (ip.l4() - 14) - 8 - 4];
                goes_up(&scene, &Packet::udp(client, at, &long).bytes());
            }
        }
        assert!(scene.mappings().is_empty());
        let known = scene.connections();
        let all_pass = known.iter().all(|one| one.entry.flags & ct_flags::DSR != 0);
        assert!(known.len() == 4 && all_pass, "{known:?}");
    });
}

#[test]
fn direct_answers_by_a_tunnel_begin_in_the_stack() {
    place(|here| {
        let scene = Scene::new(here, |config| {
            driver(config);
            config.tunnel_ifindex = 77;
            config.dsr_dispatch = DsrDispatch::Geneve as u8;
        });
        let lb = Frontends::of(&scene);
        for (n, ip) in (1..).step_by(10).zip(Ip::BOTH) {
            let client = (ip.outside(), 50_000);
            let (direct, other) = ((ip.node(), 30_001), (ip.node(), 30_002));
            let backend: (IpAddr, u16) = (ip.remote_pod(), 80);
            lb.backend(n, backend);
            lb.serve(&Service::new(n as u16, direct, TCP, &[n]).flags(lb_flags::DSR));
            lb.serve(&Service::new(n as u16 + 1, other, TCP, &[n]));
            let sent = ask(TCP, client, direct).bytes();
            goes_up(&scene, &sent);
            scene.from_netdev(&sent);
            goes_up(&scene, &sent);
            // The service is another one now; the connection stays what it was.
            lb.serve(&Service::new(n as u16, direct, TCP, &[n]));
            goes_up(&scene, &sent);
            let came = scene.from_driver(&ask(TCP, client, other).bytes());
            leaves(
                &came,
                &ask(TCP, (ip.node(), 50_000), backend).ttl(63).bytes(),
            );
        }
    });
}
