//! UDP, connected and not.
use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
};

use super::scene::{NO_ROUTE, Scene, Service, UDP, UNREACHABLE, at, mapped, scene, udp};

/// Waits for a datagram at a server and answers it; who sent it.
fn answer(server: &UdpSocket) -> SocketAddr {
    let mut word = [0; 16];
    let (len, from) = server.recv_from(&mut word).unwrap();
    server.send_to(&word[..len], from).unwrap();
    from
}

fn heard(client: &UdpSocket) -> SocketAddr {
    let mut word = [0; 16];
    client.recv_from(&mut word).unwrap().1
}

fn dual(scene: &mut Scene) -> [(SocketAddr, UdpSocket, &'static str); 2] {
    [
        (1, "10.96.0.10:53", "10.1.0.1:5353", "0.0.0.0:0"),
        (2, "[fd00:96::10]:53", "[fd01::1]:5353", "[::]:0"),
    ]
    .map(|(id, frontend, backend, any)| {
        scene.serve(&Service::new(id, frontend, UDP, &[backend]));
        (at(frontend), udp(backend), any)
    })
}

#[test]
fn a_connected_socket_talks_to_a_backend_and_means_the_frontend() {
    scene("udpconnect", |scene| {
        for (frontend, server, any) in dual(scene) {
            let client = udp(any);
            client.connect(frontend).unwrap();
            assert_eq!(client.peer_addr().unwrap(), frontend);
            client.send(b"ask").unwrap();
            assert_eq!(answer(&server), client.local_addr().unwrap());
            assert_eq!(heard(&client), frontend);
        }
    });
}

#[test]
fn answers_to_datagrams_come_from_the_frontend() {
    scene("udpsend", |scene| {
        for (frontend, server, any) in dual(scene) {
            let client = udp(any);
            for _ in 0..3 {
                client.send_to(b"ask", frontend).unwrap();
                answer(&server);
                assert_eq!(heard(&client), frontend);
            }
        }
        // One note for each socket that sent, however often it did.
        assert_eq!(scene.lb.v4.sockets.len().unwrap(), 1);
        assert_eq!(scene.lb.v6.sockets.len().unwrap(), 1);
    });
}

#[test]
fn one_socket_may_mean_many() {
    scene("udpmany", |scene| {
        let servers = ["10.1.0.1:5353", "10.1.0.2:5353", "10.1.0.3:5353"].map(udp);
        scene.serve(&Service::new(1, "10.96.0.10:53", UDP, &["10.1.0.1:5353"]));
        scene.serve(&Service::new(2, "10.96.0.11:99", UDP, &["10.1.0.2:5353"]));
        let client = udp("0.0.0.0:0");
        for (to, server) in ["10.96.0.10:53", "10.96.0.11:99", "10.1.0.3:5353"]
            .into_iter()
            .zip(&servers)
        {
            client.send_to(b"ask", to).unwrap();
            answer(server);
            assert_eq!(heard(&client), at(to));
        }
        // Two frontends of one backend: the last one that was meant.
        scene.serve(&Service::new(3, "10.96.0.12:53", UDP, &["10.1.0.1:5353"]));
        for to in ["10.96.0.12:53", "10.96.0.10:53"] {
            client.send_to(b"ask", to).unwrap();
            answer(&servers[0]);
            assert_eq!(heard(&client), at(to));
        }
    });
}

#[test]
fn an_ipv6_socket_may_mean_an_ipv4_frontend() {
    scene("udpmapped", |scene| {
        let server = udp("10.1.0.1:5353");
        scene.serve(&Service::new(1, "10.96.0.10:53", UDP, &["10.1.0.1:5353"]));
        let frontend = mapped(at("10.96.0.10:53"));
        let client = udp("[::]:0");
        client.send_to(b"ask", frontend).unwrap();
        answer(&server);
        assert_eq!(heard(&client), frontend);
        let client = udp("[::]:0");
        client.connect(frontend).unwrap();
        assert_eq!(client.peer_addr().unwrap(), frontend);
        client.send(b"ask").unwrap();
        answer(&server);
        assert_eq!(heard(&client), frontend);
    });
}

#[test]
fn without_backends_datagrams_fail_at_once() {
    scene("udpempty", |scene| {
        scene.serve(&Service::new(1, "10.96.0.10:53", UDP, &[]));
        scene.serve(&Service::new(2, "[fd00:96::10]:53", UDP, &[]));
        for (frontend, any) in [
            ("10.96.0.10:53", "0.0.0.0:0"),
            ("[fd00:96::10]:53", "[::]:0"),
        ] {
            let client = udp(any);
            let error = client.send_to(b"ask", frontend).unwrap_err();
            scene.refused(&error, UNREACHABLE);
            let error = client.connect(frontend).unwrap_err();
            scene.refused(&error, UNREACHABLE);
        }
        let error = udp("0.0.0.0:0").send_to(b"ask", "10.96.0.11:53");
        assert_eq!(error.unwrap_err().raw_os_error(), Some(NO_ROUTE));
    });
}

#[test]
fn a_socket_keeps_its_backend_and_sockets_are_spread() {
    const BACKENDS: [&str; 3] = ["10.1.0.1:5353", "10.1.0.2:5353", "10.1.0.3:5353"];
    scene("udpkeep", |scene| {
        let servers = BACKENDS.map(udp);
        scene.serve(&Service::new(1, "10.96.0.10:53", UDP, &BACKENDS));
        let mut seen = BTreeSet::new();
        for _ in 0..64 {
            let client = udp("0.0.0.0:0");
            for _ in 0..4 {
                client.send_to(b"ask", "10.96.0.10:53").unwrap();
            }
            // Where the first went, the others did.
            let key = |row: &(abi::LbSockKey4, abi::LbFrontend4)| (row.0.cookie, row.0.addr);
            let rows = scene.lb.v4.sockets.dump().unwrap();
            let newest = rows.iter().map(key).max().unwrap();
            assert_eq!(
                rows.iter().filter(|row| row.0.cookie == newest.0).count(),
                1
            );
            let place = BACKENDS
                .iter()
                .position(|backend| at(backend).ip() == std::net::IpAddr::from(newest.1))
                .unwrap();
            for _ in 0..4 {
                answer(&servers[place]);
                assert_eq!(heard(&client), at("10.96.0.10:53"));
            }
            seen.insert(place);
        }
        assert_eq!(seen.len(), BACKENDS.len());
    });
}
