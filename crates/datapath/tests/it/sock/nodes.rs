//! Ports of nodes: served at every address of the cluster's nodes.
use std::net::TcpStream;

use abi::{identity, lb_flags};

use super::scene::{
    NO_ROUTE, Scene, Service, TCP, at, listen_at, own_netns, scene, scene_with, talk,
};

const BACKENDS: [&str; 2] = ["10.1.0.1:8080", "[fd01::1]:8080"];

fn serve_everywhere(scene: &mut Scene, port: u16, flag: u16) {
    for (id, any) in [(1, "0.0.0.0"), (2, "[::]")] {
        let frontend = format!("{any}:{port}");
        let backend = BACKENDS[usize::from(id) - 1];
        let service = Service::new(id, &frontend, TCP, &[backend]);
        scene.serve(&service.flags(flag | lb_flags::ROUTABLE));
    }
}

fn connects(to: &str) -> bool {
    match TcpStream::connect(to) {
        Ok(client) => {
            assert_eq!(client.peer_addr().unwrap(), at(to));
            true
        }
        Err(error) => {
            // Nobody listens at an address of this machine, there is no way to another.
            let refused = nix::errno::Errno::ECONNREFUSED as i32;
            let errno = error.raw_os_error();
            assert!(errno == Some(refused) || errno == Some(NO_ROUTE), "{error}");
            false
        }
    }
}

#[test]
fn a_node_port_is_served_at_every_node() {
    scene("nodeport", |scene| {
        let _listeners = BACKENDS.map(listen_at);
        serve_everywhere(scene, 30080, lb_flags::NODE_PORT);
        scene.own_address("10.1.0.2");
        scene.own_address("fd01::2");
        scene.known_address("192.168.10.101", identity::REMOTE_NODE);
        scene.known_address("192.168.10.102", 0x0200_0001);
        scene.known_address("fd00::101", identity::REMOTE_NODE);
        scene.known_address("10.1.0.3", 5000);
        for node in [
            "10.1.0.2:30080",
            "192.168.10.101:30080",
            "192.168.10.102:30080",
            "[fd01::2]:30080",
            "[fd00::101]:30080",
        ] {
            assert!(connects(node), "{node}");
        }
        for other in [
            "10.1.0.3:30080",
            "192.168.10.103:30080",
            "10.1.0.2:30081",
            "[fd00::102]:30080",
        ] {
            assert!(!connects(other), "{other}");
        }
    });
}

#[test]
fn a_host_port_is_served_at_its_node_alone() {
    scene("hostport", |scene| {
        let _listeners = BACKENDS.map(listen_at);
        serve_everywhere(scene, 8443, lb_flags::HOST_PORT);
        scene.own_address("10.1.0.2");
        scene.own_address("fd01::2");
        scene.known_address("192.168.10.101", identity::REMOTE_NODE);
        assert!(connects("10.1.0.2:8443"));
        assert!(connects("[fd01::2]:8443"));
        assert!(!connects("192.168.10.101:8443"));
    });
}

#[test]
fn the_node_alone_means_its_ports_by_loopback_addresses() {
    for is_host in [true, false] {
        let set = move |config: &mut abi::DatapathConfig| {
            let own = datapath::netns_cookie().unwrap().unwrap_or(7);
            config.host_netns = if is_host { own } else { own + 1 };
        };
        scene_with("loopback", set, |scene| {
            if own_netns().is_none() {
                return;
            }
            let _listeners = BACKENDS.map(listen_at);
            serve_everywhere(scene, 30080, lb_flags::NODE_PORT);
            for own in ["127.0.0.1:30080", "127.8.9.1:30080", "[::1]:30080"] {
                assert_eq!(connects(own), is_host, "{own}");
            }
            let unspecified = TcpStream::connect("0.0.0.0:30080");
            assert_eq!(unspecified.is_ok(), is_host);
        });
    }
}

#[test]
fn a_frontend_of_its_own_comes_first() {
    scene("nodefirst", |scene| {
        let listener = listen_at("10.1.0.3:8080");
        serve_everywhere(scene, 30080, lb_flags::NODE_PORT);
        scene.own_address("10.1.0.2");
        let own = Service::new(3, "10.1.0.2:30080", TCP, &["10.1.0.3:8080"]);
        scene.serve(&own.flags(lb_flags::NODE_PORT));
        talk(TcpStream::connect("10.1.0.2:30080").unwrap(), &listener);
    });
}
