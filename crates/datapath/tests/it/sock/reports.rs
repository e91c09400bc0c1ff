//! What is told of translations.
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
};

use abi::{Aggregation, EventKind, SockEvent, SockPoint, event_flags};
use datapath::events::EventReader;

use super::scene::{Scene, Service, TCP, UDP, at, listen_at, mapped, own_netns, scene_with, udp};

/// What has been told since the last time.
fn told(reader: &mut EventReader) -> Vec<SockEvent> {
    let mut all = Vec::new();
    reader.drain(|event| {
        assert_eq!(event.kind, EventKind::TraceSock as u8);
        all.extend(event.sock().copied());
    });
    all
}

fn shown(events: &[SockEvent]) -> Vec<(&'static str, SocketAddr)> {
    let show = |event: &SockEvent| {
        let [a, b, c, d, ..] = event.dst;
        let ip = match event.flags & event_flags::IPV6 {
            0 => [a, b, c, d].into(),
            _ => event.dst.into(),
        };
        let point = SockPoint::from_u8(event.point).expect("a point");
        let port = u16::from_be_bytes(event.dport);
        (point.text(), SocketAddr::new(ip, port))
    };
    events.iter().map(show).collect()
}

fn traced(name: &str, level: Aggregation, test: impl FnOnce(&mut Scene, &mut EventReader) + Send) {
    let set = |config: &mut abi::DatapathConfig| {
        config.trace_sock = 1;
        config.aggregation = level as u8;
    };
    scene_with(name, set, |scene| {
        let mut reader = scene.datapath.events().unwrap();
        told(&mut reader);
        test(scene, &mut reader);
    });
}

#[test]
fn a_connection_is_told_before_and_after_each_way() {
    traced("told", Aggregation::Medium, |scene, reader| {
        for (id, frontend, backend) in [
            (1, "10.96.0.10:80", "10.1.0.1:8080"),
            (2, "[fd00:96::10]:80", "[fd01::1]:8080"),
        ] {
            let _listener = listen_at(backend);
            scene.serve(&Service::new(id, frontend, TCP, &[backend]));
            let client = TcpStream::connect(frontend).unwrap();
            let there = told(reader);
            assert_eq!(
                shown(&there),
                [
                    ("pre-xlate-fwd", at(frontend)),
                    ("post-xlate-fwd", at(backend))
                ]
            );
            client.peer_addr().unwrap();
            let back = told(reader);
            assert_eq!(
                shown(&back),
                [
                    ("pre-xlate-rev", at(backend)),
                    ("post-xlate-rev", at(frontend))
                ]
            );
            let group = fs::metadata(&scene.group.path).unwrap().ino();
            for event in there.iter().chain(&back) {
                assert_eq!((event.proto, event.cgroup), (TCP, group));
                assert_eq!(event.cookie, there[0].cookie);
                assert_ne!(event.cookie, 0);
                if let Some(netns) = own_netns() {
                    assert_eq!(event.netns, netns);
                }
            }
            assert!(there[0].time <= there[1].time && there[1].time <= back[0].time);
        }
        // An IPv4 address is one, whatever socket means it.
        let client = TcpStream::connect(mapped(at("10.96.0.10:80")));
        assert_eq!(
            shown(&told(reader))[0],
            ("pre-xlate-fwd", at("10.96.0.10:80"))
        );
        drop(client);
    });
}

#[test]
fn who_has_no_backend_is_told_of_and_others_are_not() {
    traced("told-none", Aggregation::Medium, |scene, reader| {
        scene.serve(&Service::new(1, "10.96.0.10:80", TCP, &[]));
        TcpStream::connect("10.96.0.10:80").unwrap_err();
        assert_eq!(
            shown(&told(reader)),
            [("pre-xlate-fwd", at("10.96.0.10:80"))]
        );
        let _listener = listen_at("10.1.0.1:8080");
        let client = TcpStream::connect("10.1.0.1:8080").unwrap();
        client.peer_addr().unwrap();
        assert_eq!(shown(&told(reader)), []);
    });
    scene_with(
        "untold",
        |_| (),
        |scene| {
            let _listener = listen_at("10.1.0.1:8080");
            scene.serve(&Service::new(1, "10.96.0.10:80", TCP, &["10.1.0.1:8080"]));
            let mut reader = scene.datapath.events().unwrap();
            TcpStream::connect("10.96.0.10:80").unwrap();
            assert_eq!(shown(&told(&mut reader)), []);
        },
    );
}

/// Three questions by one socket: how often the ways there and back are told.
fn datagrams(scene: &mut Scene, reader: &mut EventReader) -> (usize, usize) {
    let server = udp("10.1.0.1:5353");
    scene.serve(&Service::new(1, "10.96.0.10:53", UDP, &["10.1.0.1:5353"]));
    let client = udp("10.1.0.2:0");
    let mut word = [0; 8];
    for _ in 0..3 {
        client.send_to(b"ping", "10.96.0.10:53").unwrap();
        let (_, from) = server.recv_from(&mut word).unwrap();
        server.send_to(b"pong", from).unwrap();
        let (_, from) = client.recv_from(&mut word).unwrap();
        assert_eq!(from, at("10.96.0.10:53"));
    }
    let all = shown(&told(reader));
    let count = |point| all.iter().filter(|(name, _)| *name == point).count();
    assert_eq!(count("pre-xlate-fwd"), count("post-xlate-fwd"));
    assert_eq!(count("pre-xlate-rev"), count("post-xlate-rev"));
    (count("pre-xlate-fwd"), count("pre-xlate-rev"))
}

#[test]
fn of_datagrams_only_what_is_new_is_told_unless_all_is_asked_for() {
    traced("told-new", Aggregation::Medium, |scene, reader| {
        assert_eq!(datagrams(scene, reader), (1, 0));
    });
    traced("told-all", Aggregation::None, |scene, reader| {
        assert_eq!(datagrams(scene, reader), (3, 3));
    });
}
