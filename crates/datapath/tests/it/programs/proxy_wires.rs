//! The proxy, with real sockets in namespaces: a toy that turns every word round, in the place where the proxy is.
use std::{
    io::{self, IoSliceMut, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Duration,
};

use abi::{DatapathConfig, Direction, ProxyKind, ProxySession, proxy::UPSTREAM_PORTS};
use datapath::{
    Attached, ProxySessions,
    proxy::{self, ProxyLink, ProxyNetns},
};
use netlink::{Handle, Netns, Route, netns};
use nix::{
    cmsg_space,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage,
            bind, connect, recvmsg, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use super::{
    overlay::move_away,
    packet::{TCP, UDP},
    policy::{SUBJECT1, SUBJECT2, key, port},
    scene::{Ip, POD1, POD1_ID, POD2, POD2_ID, REMOTE_POD_ID, ROUTER_MAC, Scene, native, pod_mac},
    wires::lives_at,
};
use crate::support::{Place, place};

use Direction::{Egress, Ingress};

const SERVER: u16 = 8080;
const WORD: &[u8] = b"hello from a client";

/// A node with two pods, the proxy's place, and a machine at its device.
struct Node {
    scene: Scene,
    pods: [Netns; 2],
    router: Netns,
    netns: ProxyNetns,
    inside: Netns,
    sessions: ProxySessions,
    dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = proxy::remove(&mut Handle::new().unwrap(), &self.dir.path().join("proxy"));
    }
}

fn tell(config: &mut DatapathConfig, link: &ProxyLink) {
    config.proxy_ifindex = link.ifindex;
    (config.proxy_mac, config.proxy_node_mac) = (link.mac, link.node_mac);
}

impl Node {
    fn new(here: &Place, change: impl FnOnce(&mut DatapathConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy");
        let mut netns = ProxyNetns::open(&path).unwrap();
        let link = netns
            .ensure_link(&mut Handle::new().unwrap(), 1500)
            .unwrap();
        let scene = Scene::new(here, |config| {
            change(config);
            tell(config, &link);
        });
        let datapath = &scene.datapath;
        assert_eq!(
            datapath.attach_proxy(&mut netns, &link).unwrap(),
            Attached::New
        );
        let pods = [
            (POD1, scene.lxc1, "lxc1", Ip::BOTH.map(Ip::pod1)),
            (POD2, scene.lxc2, "lxc2", Ip::BOTH.map(Ip::pod2)),
        ]
        .map(|(id, index, name, addresses)| {
            let pod = move_away(&format!("{name}p"), pod_mac(id), &addresses, true);
            datapath.attach_endpoint(id, index, name, false).unwrap();
            pod
        });
        datapath.attach_device("eth0", scene.eth0).unwrap();
        let router = move_away("eth0p", ROUTER_MAC, &Ip::BOTH.map(Ip::router), false);
        for of in [Ip::outside, Ip::remote_pod] {
            lives_at(&router, &Ip::BOTH.map(of));
        }
        let mut netlink = Handle::in_netns(&router).unwrap();
        let index = netlink.link("eth0p").unwrap().index;
        for ip in Ip::BOTH {
            let len = if ip == Ip::V4 { 24 } else { 64 };
            let pods = Route::to(ip.pod1(), len).via(ip.node()).dev(index);
            let _ = netlink.route_add(&Route {
                dst: (masked(ip.pod1()), len),
                ..pods
            });
        }
        let inside = netns::open(&path).unwrap();
        let sessions = ProxySessions::open(here.bpffs()).unwrap();
        scene.subjects(SUBJECT1, SUBJECT2);
        Self {
            scene,
            pods,
            router,
            netns,
            inside,
            sessions,
            dir,
        }
    }

    /// One word from the client through the toy to the server and back; what the server saw of the client, and the session.
    fn talk(
        &self,
        proto: u8,
        (client, from): (&Netns, IpAddr),
        (server, to): (&Netns, IpAddr),
    ) -> (IpAddr, ProxySession) {
        let to = SocketAddr::new(to, SERVER);
        let toy = Toy::listen(&self.inside, proto, from);
        let server = serve(server, proto, to);
        let (inside, sessions) = (&self.inside, &self.sessions);
        thread::scope(|scope| {
            let server = scope.spawn(move || server.echo());
            let toy = scope.spawn(move || toy.pass(inside, sessions));
            let heard = ask(client, proto, from, to);
            let turned: Vec<u8> = WORD.iter().rev().copied().collect();
            assert_eq!(heard, turned, "{proto} from {from} to {to}");
            let seen = server.join().unwrap();
            let (client, destination, session) = toy.join().unwrap();
            assert_eq!((client.ip(), destination), (from, to));
            (seen, session)
        })
    }
}

fn masked(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(a) => {
            let [x, y, z, _] = a.octets();
            [x, y, z, 0].into()
        }
        IpAddr::V6(a) => {
            let [x, y, z, w, ..] = a.segments();
            [x, y, z, w, 0, 0, 0, 0].into()
        }
    }
}

/// A socket that may have others' addresses.
fn transparent(ns: &Netns, kind: SockType, at: SocketAddr) -> OwnedFd {
    ns.run(|| {
        let family = match at {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&fd, sockopt::IpTransparent, &true).unwrap();
        setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(10)).unwrap();
        bind(fd.as_raw_fd(), &SockaddrStorage::from(at)).unwrap();
        fd
    })
    .unwrap()
}

/// One that is connected, from the client's address and a port of the proxy's.
fn upstream(ns: &Netns, kind: SockType, client: IpAddr, to: SocketAddr) -> OwnedFd {
    static PORT: AtomicU16 = AtomicU16::new(*UPSTREAM_PORTS.start());
    let from = SocketAddr::new(client, PORT.fetch_add(1, Ordering::Relaxed));
    let fd = transparent(ns, kind, from);
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).expect("leg 2");
    fd
}

enum Toy {
    Tcp(TcpListener),
    Udp(OwnedFd),
}

impl Toy {
    fn listen(ns: &Netns, proto: u8, family: IpAddr) -> Self {
        let local: IpAddr = match family {
            IpAddr::V4(_) => [127, 0, 0, 1].into(),
            IpAddr::V6(_) => "::1".parse().unwrap(),
        };
        if proto == TCP {
            let at = SocketAddr::new(local, ProxyKind::Http.port().unwrap());
            let fd = transparent(ns, SockType::Stream, at);
            nix::sys::socket::listen(&fd, nix::sys::socket::Backlog::new(8).unwrap()).unwrap();
            return Self::Tcp(fd.into());
        }
        let at = SocketAddr::new(local, ProxyKind::Dns.port().unwrap());
        let fd = transparent(ns, SockType::Datagram, at);
        match family {
            IpAddr::V4(_) => setsockopt(&fd, sockopt::Ipv4OrigDstAddr, &true).unwrap(),
            IpAddr::V6(_) => setsockopt(&fd, sockopt::Ipv6OrigDstAddr, &true).unwrap(),
        }
        Self::Udp(fd)
    }

    /// Passes one word on, and the answer back, turned round; the two ends and what is known of them.
    fn pass(self, ns: &Netns, sessions: &ProxySessions) -> (SocketAddr, SocketAddr, ProxySession) {
        let known = |proto, client, to| {
            let found = sessions.lookup(proto, client, to).unwrap();
            found.unwrap_or_else(|| panic!("no session from {client} to {to}"))
        };
        match self {
            Self::Tcp(listener) => {
                let (mut client, from) = listener.accept().expect("leg 1");
                let to = client.local_addr().unwrap();
                let mut word = vec![0; WORD.len()];
                client.read_exact(&mut word).unwrap();
                let fd = upstream(ns, SockType::Stream, from.ip(), to);
                let mut server = TcpStream::from(fd);
                server.write_all(&word).unwrap();
                server.read_exact(&mut word).expect("an answer on leg 2");
                word.reverse();
                client.write_all(&word).unwrap();
                (from, to, known(TCP, from, to))
            }
            Self::Udp(fd) => {
                let (mut word, from, to) = receive(&fd);
                let server = UdpSocket::from(upstream(ns, SockType::Datagram, from.ip(), to));
                server.send(&word).unwrap();
                server.recv(&mut word).expect("an answer on leg 2");
                word.reverse();
                let back = UdpSocket::from(transparent(ns, SockType::Datagram, to));
                back.send_to(&word, from).unwrap();
                (from, to, known(UDP, from, to))
            }
        }
    }
}

/// A datagram, who sent it, and to whom.
fn receive(fd: &OwnedFd) -> (Vec<u8>, SocketAddr, SocketAddr) {
    let mut word = vec![0; 2000];
    let mut space = cmsg_space!(nix::libc::sockaddr_in6);
    let mut slices = [IoSliceMut::new(&mut word)];
    let got = recvmsg::<SockaddrStorage>(
        fd.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .expect("leg 1");
    let from = got.address.unwrap();
    let from: SocketAddr = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(v4), _) => std::net::SocketAddrV4::from(*v4).into(),
        (_, Some(v6)) => std::net::SocketAddrV6::from(*v6).into(),
        _ => panic!("no address"),
    };
    let to = got.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(at) => Some(SocketAddr::from((
            u32::from_be(at.sin_addr.s_addr).to_be_bytes(),
            u16::from_be(at.sin_port),
        ))),
        ControlMessageOwned::Ipv6OrigDstAddr(at) => Some(SocketAddr::from((
            at.sin6_addr.s6_addr,
            u16::from_be(at.sin6_port),
        ))),
        _ => None,
    });
    let len = got.bytes;
    word.truncate(len);
    (word, from, to.expect("the first destination"))
}

enum Server {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

fn serve(ns: &Netns, proto: u8, at: SocketAddr) -> Server {
    let kind = if proto == TCP {
        SockType::Stream
    } else {
        SockType::Datagram
    };
    let fd = transparent(ns, kind, at);
    if proto == UDP {
        return Server::Udp(fd.into());
    }
    nix::sys::socket::listen(&fd, nix::sys::socket::Backlog::new(8).unwrap()).unwrap();
    Server::Tcp(fd.into())
}

impl Server {
    /// Gives back what comes; from whom that was.
    fn echo(self) -> IpAddr {
        let mut word = vec![0; WORD.len()];
        match self {
            Self::Tcp(listener) => {
                let (mut stream, from) = listener.accept().expect("a connection");
                stream.read_exact(&mut word).unwrap();
                stream.write_all(&word).unwrap();
                from.ip()
            }
            Self::Udp(socket) => {
                let (len, from) = socket.recv_from(&mut word).expect("a datagram");
                socket.send_to(&word[..len], from).unwrap();
                from.ip()
            }
        }
    }
}

fn ask(ns: &Netns, proto: u8, from: IpAddr, to: SocketAddr) -> Vec<u8> {
    let mut word = vec![0; WORD.len()];
    let from = SocketAddr::new(from, 0);
    if proto == TCP {
        let fd = transparent(ns, SockType::Stream, from);
        connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).expect("a connection");
        let mut stream = TcpStream::from(fd);
        stream.write_all(WORD).unwrap();
        stream.read_exact(&mut word).expect("an answer");
    } else {
        let socket = UdpSocket::from(transparent(ns, SockType::Datagram, from));
        socket.connect(to).unwrap();
        socket.send(WORD).unwrap();
        let len = socket.recv(&mut word).expect("an answer");
        word.truncate(len);
    }
    word
}

const KINDS: [(u8, ProxyKind); 2] = [(TCP, ProxyKind::Http), (UDP, ProxyKind::Dns)];

/// Between two pods of the node, at the wish of the sender, of the receiver, and of both.
#[test]
fn pods_of_one_node() {
    place(|here| {
        let node = Node::new(here, native);
        for (egress, ingress) in [(true, false), (false, true), (true, true)] {
            node.scene.forget_rows();
            for (proto, kind) in KINDS {
                let out = key(SUBJECT1, Egress, POD2_ID, port(proto, SERVER));
                let into = key(SUBJECT2, Ingress, POD1_ID, port(proto, SERVER));
                for (row, by_proxy) in [(out, egress), (into, ingress)] {
                    let kind = if by_proxy { kind } else { ProxyKind::None };
                    node.scene.allow_by(kind, row);
                }
            }
            node.scene.raise();
            for ip in Ip::BOTH {
                for (proto, kind) in KINDS {
                    let (a, b) = (ip.pod1(), ip.pod2());
                    let (seen, session) = node.talk(proto, (&node.pods[0], a), (&node.pods[1], b));
                    assert_eq!(seen, a, "the server sees the client's own address");
                    assert_eq!((session.src_id, session.dst_id), (POD1_ID, POD2_ID));
                    assert_eq!(session.kind, kind as u8);
                    let of = |wanted, id| if wanted { id } else { 0 };
                    assert_eq!(session.egress_endpoint, of(egress, POD1));
                    assert_eq!(session.ingress_endpoint, of(ingress, POD2));
                }
            }
        }
    });
}

/// To the world under the node's address, and from a pod of another node.
#[test]
fn by_the_device() {
    for legacy in [0, 1] {
        place(|here| {
            let node = Node::new(here, |config| {
                native(config);
                config.host_legacy = legacy;
            });
            for ip in Ip::BOTH {
                for (proto, kind) in KINDS {
                    let l4 = port(proto, SERVER);
                    node.scene
                        .allow_by(kind, key(SUBJECT1, Egress, ip.world(), l4));
                    node.scene
                        .allow_by(kind, key(SUBJECT2, Ingress, REMOTE_POD_ID, l4));
                }
            }
            node.scene.raise();
            for ip in Ip::BOTH {
                for (proto, _) in KINDS {
                    if legacy == 0 {
                        let world = (&node.router, ip.outside());
                        let (seen, session) = node.talk(proto, (&node.pods[0], ip.pod1()), world);
                        assert_eq!(seen, ip.node());
                        assert_eq!((session.src_id, session.dst_id), (POD1_ID, ip.world()));
                    }
                    let remote = (&node.router, ip.remote_pod());
                    let (seen, session) = node.talk(proto, remote, (&node.pods[1], ip.pod2()));
                    assert_eq!(seen, ip.remote_pod());
                    assert_eq!((session.src_id, session.dst_id), (REMOTE_POD_ID, POD2_ID));
                    assert_eq!(
                        (session.egress_endpoint, session.ingress_endpoint),
                        (0, POD2)
                    );
                }
            }
        });
    }
}

/// A second agent finds everything as it is; a device that was taken away is made again.
#[test]
fn the_place_is_adopted_and_repaired() {
    place(|here| {
        let mut node = Node::new(here, native);
        let mut netlink = Handle::new().unwrap();
        let before = node.netns.ensure_link(&mut netlink, 1500).unwrap();
        let path = node.dir.path().join("proxy");
        let mut second = ProxyNetns::open(&path).unwrap();
        assert!(netns::same(&node.inside, netns::open(&path).unwrap()).unwrap());
        let adopted = second.ensure_link(&mut netlink, 1500).unwrap();
        assert_eq!(adopted, before);
        let datapath = &node.scene.datapath;
        let again = datapath.attach_proxy(&mut second, &adopted).unwrap();
        assert_eq!(again, Attached::Unchanged);
        here.remove_link(proxy::DEVICE);
        let made = second.ensure_link(&mut netlink, 1400).unwrap();
        assert_ne!(made.mac, before.mac);
        assert_eq!(netlink.link(proxy::DEVICE).unwrap().mtu, 1400);
        assert_eq!(
            datapath.attach_proxy(&mut second, &made).unwrap(),
            Attached::New
        );
        assert!(proxy::remove(&mut netlink, &path).unwrap());
        assert!(!proxy::remove(&mut netlink, &path).unwrap());
    });
}

/// A proxy that is not there: nobody gets through, and nobody is told that there is no server.
#[test]
fn nobody_listens() {
    place(|here| {
        let node = Node::new(here, native);
        let row = key(SUBJECT1, Egress, POD2_ID, port(TCP, SERVER));
        node.scene.allow_by(ProxyKind::Http, row);
        node.scene
            .allow(key(SUBJECT2, Ingress, POD1_ID, port(TCP, SERVER)));
        node.scene.raise();
        for ip in Ip::BOTH {
            let to = SocketAddr::new(ip.pod2(), SERVER);
            let server = serve(&node.pods[1], TCP, to);
            let connected = node.pods[0]
                .run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))
                .unwrap();
            assert_eq!(connected.unwrap_err().kind(), io::ErrorKind::TimedOut);
            drop(server);
        }
        node.scene.wait_for(&["drop Socket lookup failed"]);
    });
}
