//! Real sockets around the proxy: clients, servers that give back what they hear, and a toy that turns every word round.
use std::{
    io::{IoSliceMut, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicU16, Ordering},
};

use abi::{ProxyKind, ProxySession, proxy::UPSTREAM_PORTS};
use datapath::ProxySessions;
use netlink::Netns;
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

use super::packet::{TCP, UDP};

pub const WORD: &[u8] = b"hello from a client";
/// No datagram is longer.
const LONGEST: usize = 65_535;

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

/// The proxy.
pub enum Toy {
    Tcp(TcpListener),
    Udp(OwnedFd),
}

impl Toy {
    pub fn listen(ns: &Netns, proto: u8, family: IpAddr) -> Self {
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
    pub fn pass(
        self,
        ns: &Netns,
        sessions: &ProxySessions,
    ) -> (SocketAddr, SocketAddr, ProxySession) {
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
                word.resize(LONGEST, 0);
                let len = server.recv(&mut word).expect("an answer on leg 2");
                word.truncate(len);
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

pub enum Server {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

pub fn serve(ns: &Netns, proto: u8, at: SocketAddr) -> Server {
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
    /// Gives back what comes, a datagram so many times in one; from whom that was.
    pub fn echo(self, times: usize) -> IpAddr {
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
                socket.send_to(&word[..len].repeat(times), from).unwrap();
                from.ip()
            }
        }
    }
}

/// Says a word at the address, and hears what comes back.
pub fn ask(ns: &Netns, proto: u8, from: IpAddr, to: SocketAddr) -> Vec<u8> {
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
        word.resize(LONGEST, 0);
        let len = socket.recv(&mut word).expect("an answer");
        word.truncate(len);
    }
    word
}
