//! TCP.
use std::net::TcpStream;

use abi::{lb_flags, lb_scope};

use super::scene::{
    NO_ROUTE, Service, TCP, UNREACHABLE, at, listen_at, mapped, own_netns, scene, scene_with, talk,
    wait_readable,
};

#[test]
fn a_connection_to_a_frontend_reaches_a_backend_and_shows_the_frontend() {
    scene("connect", |scene| {
        for (id, frontend, backend) in [
            (1, "10.96.0.10:80", "10.1.0.1:8080"),
            (2, "[fd00:96::10]:80", "[fd01::1]:8080"),
        ] {
            let listener = listen_at(backend);
            scene.serve(&Service::new(id, frontend, TCP, &[backend]));
            let client = TcpStream::connect(frontend).unwrap();
            assert_eq!(client.peer_addr().unwrap(), at(frontend));
            talk(client, &listener);
        }
    });
}

#[test]
fn an_ipv6_socket_may_mean_an_ipv4_frontend() {
    scene("mapped", |scene| {
        let listener = listen_at("10.1.0.1:8080");
        let frontend = at("10.96.0.10:80");
        scene.serve(&Service::new(1, "10.96.0.10:80", TCP, &["10.1.0.1:8080"]));
        let client = TcpStream::connect(mapped(frontend)).unwrap();
        assert!(client.local_addr().unwrap().is_ipv6());
        assert_eq!(client.peer_addr().unwrap(), mapped(frontend));
        wait_readable([&listener]);
        let (_, from) = listener.accept().unwrap();
        assert_eq!(mapped(from), client.local_addr().unwrap());
    });
}

#[test]
fn what_is_no_frontend_is_left_alone() {
    scene("direct", |scene| {
        let listener = listen_at("10.1.0.1:8080");
        scene.serve(&Service::new(1, "10.96.0.10:80", TCP, &["10.1.0.2:8080"]));
        let client = TcpStream::connect("10.1.0.1:8080").unwrap();
        assert_eq!(client.peer_addr().unwrap(), at("10.1.0.1:8080"));
        talk(client, &listener);
        // The same address, another port; the same port, another protocol.
        let error = TcpStream::connect("10.96.0.10:81").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(NO_ROUTE), "{error}");
        scene.serve(&Service::new(2, "10.96.0.11:53", 17, &["10.1.0.1:8080"]));
        let error = TcpStream::connect("10.96.0.11:53").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(NO_ROUTE), "{error}");
        // A direct connection shows the backend even after the socket's neighbour came by way of the frontend.
        scene.serve(&Service::new(3, "10.96.0.12:80", TCP, &["10.1.0.1:8080"]));
        let one = TcpStream::connect("10.96.0.12:80").unwrap();
        let other = TcpStream::connect("10.1.0.1:8080").unwrap();
        assert_eq!(one.peer_addr().unwrap(), at("10.96.0.12:80"));
        assert_eq!(other.peer_addr().unwrap(), at("10.1.0.1:8080"));
    });
}

#[test]
fn processes_of_other_control_groups_are_left_alone() {
    scene("group", |scene| {
        let _listener = listen_at("10.1.0.1:8080");
        scene.serve(&Service::new(1, "10.96.0.10:80", TCP, &["10.1.0.1:8080"]));
        scene.group.leave();
        let error = TcpStream::connect("10.96.0.10:80").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(NO_ROUTE), "{error}");
        scene.group.join();
        TcpStream::connect("10.96.0.10:80").unwrap();
    });
}

#[test]
fn without_backends_a_connection_fails_at_once() {
    scene("empty", |scene| {
        scene.serve(&Service::new(1, "10.96.0.10:80", TCP, &[]));
        scene.serve(&Service::new(2, "[fd00:96::10]:80", TCP, &[]));
        for frontend in ["10.96.0.10:80", "[fd00:96::10]:80"] {
            let error = TcpStream::connect(frontend).unwrap_err();
            scene.refused(&error, UNREACHABLE);
            let error = TcpStream::connect(mapped(at(frontend))).unwrap_err();
            scene.refused(&error, UNREACHABLE);
        }
        // A slot that names a backend which is not there is as good as none.
        let listener = listen_at("10.1.0.1:8080");
        scene.serve(&Service::new(1, "10.96.0.10:80", TCP, &["10.1.0.1:8080"]));
        talk(TcpStream::connect("10.96.0.10:80").unwrap(), &listener);
        let number = scene.backend(at("10.1.0.1:8080"), TCP);
        assert_eq!(scene.lb.v4.backends.delete_all(&[number]).unwrap(), 1);
        let error = TcpStream::connect("10.96.0.10:80").unwrap_err();
        scene.refused(&error, UNREACHABLE);
    });
}

#[test]
fn the_cluster_sees_its_own_side_of_a_frontend() {
    scene("scopes", |scene| {
        let inner = listen_at("10.1.0.2:8080");
        let both = lb_flags::TWO_SCOPES | lb_flags::LOAD_BALANCER;
        let outer = Service::new(1, "10.96.0.10:80", TCP, &["10.1.0.1:8080"]);
        scene.serve(&outer.flags(both));
        let inside = Service::new(2, "10.96.0.10:80", TCP, &["10.1.0.2:8080"]);
        scene.serve(&Service {
            scope: lb_scope::INTERNAL,
            ..inside.flags(both)
        });
        talk(TcpStream::connect("10.96.0.10:80").unwrap(), &inner);
    });
}

#[test]
fn who_is_to_be_skipped_is_left_alone() {
    scene("skip", |scene| {
        let Some(own) = own_netns() else { return };
        let redirected = lb_flags::LOCAL_REDIRECT;
        let listener = listen_at("10.1.0.1:8080");
        let direct = listen_at("10.1.0.2:80");
        for (id, frontend) in [(1, "10.1.0.2:80"), (2, "10.1.0.3:80")] {
            let service = Service::new(id, frontend, TCP, &["10.1.0.1:8080"]);
            scene.serve(&service.flags(redirected));
        }
        talk(TcpStream::connect("10.1.0.2:80").unwrap(), &listener);
        scene.skip(own + 1, at("10.1.0.2:80"), TCP);
        talk(TcpStream::connect("10.1.0.2:80").unwrap(), &listener);
        scene.skip(own, at("10.1.0.2:80"), TCP);
        talk(TcpStream::connect("10.1.0.2:80").unwrap(), &direct);
        talk(TcpStream::connect("10.1.0.3:80").unwrap(), &listener);
    });
}

#[test]
fn pods_can_be_left_alone() {
    for (is_host, expected) in [(true, None), (false, Some(NO_ROUTE))] {
        // The test's namespace is made before the programs know its number.
        let set = move |config: &mut abi::DatapathConfig| {
            config.sock_host_only = 1;
            let own = datapath::netns_cookie().unwrap().unwrap_or(7);
            config.host_netns = if is_host { own } else { own + 1 };
        };
        scene_with("hostonly", set, |scene| {
            if own_netns().is_none() {
                return;
            }
            let _listener = listen_at("10.1.0.1:8080");
            scene.serve(&Service::new(1, "10.96.0.10:80", TCP, &["10.1.0.1:8080"]));
            let tried = TcpStream::connect("10.96.0.10:80");
            assert_eq!(tried.err().and_then(|e| e.raw_os_error()), expected);
        });
    }
}
