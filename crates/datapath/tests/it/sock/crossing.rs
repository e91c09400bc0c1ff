//! Frontends of one family with backends of the other.
use std::{
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
};

use abi::{DatapathConfig, lb_flags};

use super::scene::{
    NO_ROUTE, Scene, Service, TCP, UDP, UNREACHABLE, at, listen_at, mapped, own_netns, scene_with,
    talk, udp, wait_readable,
};

/// As the node itself, or as a pod.
fn across(is_host: bool) -> impl FnOnce(&mut DatapathConfig) + Send {
    move |config| {
        config.nat46x64 = 1;
        let own = datapath::netns_cookie().unwrap().unwrap_or(7);
        config.host_netns = if is_host { own } else { own + 1 };
    }
}

fn serve(scene: &mut Scene, id: u16, frontend: &str, proto: u8, backend: &str) {
    let service = Service::new(id, frontend, proto, &[backend]);
    scene.serve(&service.flags(lb_flags::NAT46X64));
}

#[test]
fn an_ipv6_socket_reaches_an_ipv4_backend_and_shows_the_frontend() {
    for is_host in [true, false] {
        scene_with("cross", across(is_host), |scene| {
            let (frontend, backend) = ("[fd00:96::10]:80", "10.1.0.1:8080");
            let listener = listen_at(backend);
            serve(scene, 1, frontend, TCP, backend);
            let client = TcpStream::connect(frontend).unwrap();
            assert_eq!(client.peer_addr().unwrap(), at(frontend));
            wait_readable([&listener]);
            let (_, from) = listener.accept().unwrap();
            assert_eq!(mapped(from), client.local_addr().unwrap());
            // A frontend of its own family, named in the other's form, is as ever.
            let own = at("10.96.0.10:80");
            scene.serve(&Service::new(2, "10.96.0.10:80", TCP, &[backend]));
            let client = TcpStream::connect(mapped(own)).unwrap();
            assert_eq!(client.peer_addr().unwrap(), mapped(own));
            wait_readable([&listener]);
            listener.accept().unwrap();
            talk(TcpStream::connect(own).unwrap(), &listener);

            let server = udp("10.1.0.1:5353");
            serve(scene, 3, "[fd00:96::10]:53", UDP, "10.1.0.1:5353");
            let client = udp("[::]:0");
            client.connect("[fd00:96::10]:53").unwrap();
            assert_eq!(client.peer_addr().unwrap(), at("[fd00:96::10]:53"));
            client.send(b"ask").unwrap();
            assert_eq!(mapped(answered(&server)), client.local_addr().unwrap());
            let mut word = [0; 16];
            let from = client.recv_from(&mut word).unwrap().1;
            assert_eq!(from, at("[fd00:96::10]:53"));
        });
    }
}

/// Answers one datagram; who sent it.
fn answered(server: &UdpSocket) -> SocketAddr {
    let mut word = [0; 16];
    let (len, from) = server.recv_from(&mut word).unwrap();
    server.send_to(&word[..len], from).unwrap();
    from
}

/// What a socket cannot do is left to the programs of devices for pods, and refused at once for the node itself.
#[test]
fn what_sockets_cannot_do() {
    for is_host in [true, false] {
        scene_with("crossnot", across(is_host), |scene| {
            if own_netns().is_none() {
                return;
            }
            serve(scene, 1, "10.96.0.10:80", TCP, "[fd01::1]:8080");
            serve(scene, 2, "10.96.0.10:53", UDP, "[fd01::1]:5353");
            serve(scene, 3, "[fd00:96::10]:53", UDP, "10.1.0.1:5353");
            serve(scene, 4, "[fd00:96::10]:80", TCP, "10.1.0.1:8080");
            let bound = bound_client("[fd01::2]:0", "[fd00:96::10]:80");
            let refused = [
                TcpStream::connect("10.96.0.10:80").map(|_| ()),
                TcpStream::connect(mapped(at("10.96.0.10:80"))).map(|_| ()),
                udp("0.0.0.0:0")
                    .send_to(b"ask", "10.96.0.10:53")
                    .map(|_| ()),
                udp("[::]:0")
                    .send_to(b"ask", "[fd00:96::10]:53")
                    .map(|_| ()),
                bound,
            ];
            for tried in refused {
                let error = tried.unwrap_err();
                if is_host {
                    scene.refused(&error, UNREACHABLE);
                } else {
                    assert_eq!(error.raw_os_error(), Some(NO_ROUTE), "{error}");
                }
            }
        });
    }
}

/// Connects from an address that the socket was given before.
fn bound_client(from: &str, to: &str) -> std::io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, bind, connect, socket};
    let place = |text: &str| match at(text) {
        SocketAddr::V6(place) => SockaddrIn6::from(place),
        SocketAddr::V4(_) => panic!("not IPv6"),
    };
    let (family, kind) = (AddressFamily::Inet6, SockType::Stream);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &place(from))?;
    Ok(connect(socket.as_raw_fd(), &place(to))?)
}
