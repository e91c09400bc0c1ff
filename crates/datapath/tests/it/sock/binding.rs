//! Ports of services that processes of the node cannot have.
use std::{
    io,
    net::{TcpListener, UdpSocket},
};

use abi::lb_flags;

use super::scene::{IN_USE, Scene, Service, TCP, UDP, own_netns, scene_with};

fn protected(config: &mut abi::DatapathConfig) {
    config.bind_protection = 1;
    config.host_netns = datapath::netns_cookie().unwrap().unwrap_or(7);
}

fn services(scene: &mut Scene) {
    let rows = [
        ("0.0.0.0:30080", TCP, lb_flags::NODE_PORT),
        ("10.1.0.2:30080", TCP, lb_flags::NODE_PORT),
        ("[::]:30081", UDP, lb_flags::NODE_PORT),
        ("10.1.0.3:80", TCP, lb_flags::LOAD_BALANCER),
        ("[fd01::3]:80", TCP, lb_flags::EXTERNAL_IP),
        ("0.0.0.0:8443", TCP, lb_flags::HOST_PORT),
    ];
    for (id, (frontend, proto, flag)) in (1..).zip(rows) {
        scene.serve(&Service::new(id, frontend, proto, &[]).flags(flag));
    }
    scene.own_address("10.1.0.2");
}

#[test]
fn ports_of_services_cannot_be_bound_on_the_node() {
    scene_with("bind", protected, |scene| {
        if own_netns().is_none() {
            return;
        }
        services(scene);
        let refused = |tried: io::Result<()>, place: &str| {
            let Err(error) = tried else {
                panic!("{place} was bound")
            };
            scene.refused(&error, IN_USE);
        };
        for place in [
            "0.0.0.0:30080",
            "[::]:30080",
            "127.0.0.1:30080",
            "10.1.0.2:30080",
            "[::ffff:10.1.0.2]:30080",
            "10.1.0.3:80",
            "[fd01::3]:80",
        ] {
            refused(TcpListener::bind(place).map(drop), place);
        }
        refused(UdpSocket::bind("[::]:30081").map(drop), "[::]:30081");
        refused(UdpSocket::bind("[::1]:30081").map(drop), "[::1]:30081");
        for place in [
            "10.1.0.1:30080",
            "0.0.0.0:30081",
            "10.1.0.2:80",
            "0.0.0.0:8443",
            "[fd01::3]:81",
            "0.0.0.0:0",
            "[::]:0",
        ] {
            TcpListener::bind(place).expect(place);
        }
        UdpSocket::bind("0.0.0.0:30080").unwrap();
        UdpSocket::bind("0.0.0.0:30081").unwrap();
    });
}

#[test]
fn pods_bind_what_they_like() {
    let other = |config: &mut abi::DatapathConfig| {
        protected(config);
        config.host_netns += 1;
    };
    scene_with("bindpod", other, |scene| {
        services(scene);
        TcpListener::bind("0.0.0.0:30080").unwrap();
        TcpListener::bind("10.1.0.3:80").unwrap();
    });
}

#[test]
fn protection_can_be_off() {
    let off = |config: &mut abi::DatapathConfig| {
        protected(config);
        config.bind_protection = 0;
    };
    scene_with("bindoff", off, |scene| {
        services(scene);
        TcpListener::bind("0.0.0.0:30080").unwrap();
    });
}
