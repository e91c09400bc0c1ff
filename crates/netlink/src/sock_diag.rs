//! Sockets of a network namespace: connected datagram sockets, listed and ended.
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::{TimeVal, TimeValLike},
    },
};
use std::os::fd::AsFd;

use crate::{Error, Result, wire};

const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ANSWER_TIMEOUT_SECONDS: i64 = 10;
const RECEIVE_BUFFER: usize = 64 * 1024;
/// A connected datagram socket is in the state of an established connection.
const CONNECTED: u32 = 1 << 1;
/// Bytes of `struct inet_diag_sockid`.
const ID: usize = 48;
/// Place of the cookie in it.
const COOKIE: usize = 40;

/// A connected datagram socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// The other side; an IPv4 address also where an IPv6 socket means one.
    pub destination: IpAddr,
    /// Its port.
    pub port: u16,
    /// The kernel's number of the socket, as programs see it.
    pub cookie: u64,
    ipv6: bool,
    id: [u8; ID],
}

/// Asks for sockets. It keeps to the network namespace in which it was opened.
pub struct SockDiag {
    socket: Socket,
    seq: u32,
    buf: Vec<u8>,
}

impl SockDiag {
    /// In the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no such sockets.
    pub fn new() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(Error::socket("open"))?;
        socket
            .bind(&SocketAddr::new(0, 0))
            .map_err(Error::socket("bind"))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(Error::socket("connect"))?;
        let limit = TimeVal::seconds(ANSWER_TIMEOUT_SECONDS);
        setsockopt(&socket.as_fd(), ReceiveTimeout, &limit).map_err(|e| Error::Socket {
            op: "set the receive time-out",
            source: e.into(),
        })?;
        Ok(Self {
            socket,
            seq: 0,
            buf: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// The connected UDP sockets of both families.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn connected_udp(&mut self) -> Result<Vec<Connected>> {
        let mut found = Vec::new();
        for ipv6 in [false, true] {
            self.send(BY_FAMILY, DUMP, ipv6, &[0; ID])?;
            let listed = self.answers(|payload| found.extend(read(payload, ipv6)))?;
            // A kernel without IPv6 has no such sockets.
            match listed {
                0 => {}
                _ if ipv6 => {}
                errno => return Err(refused("list the UDP sockets of", errno)),
            }
        }
        Ok(found)
    }

    /// Ends a socket: whoever reads or writes it gets an error. Whether it was still there.
    ///
    /// # Errors
    /// The kernel refuses; [`is_unsupported`] tells whether it cannot do so at all.
    pub fn destroy(&mut self, socket: &Connected) -> Result<bool> {
        self.send(DESTROY, ACK, socket.ipv6, &socket.id)?;
        match self.answers(|_| {})? {
            0 => Ok(true),
            errno if errno == -libc::ENOENT => Ok(false),
            errno => Err(refused("end a UDP socket of", errno)),
        }
    }

    fn send(&mut self, kind: u16, flags: u16, ipv6: bool, id: &[u8; ID]) -> Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let mut message = Vec::with_capacity(72);
        message.extend_from_slice(&72_u32.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&self.seq.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&[family as u8, libc::IPPROTO_UDP as u8, 0, 0]);
        message.extend_from_slice(&CONNECTED.to_ne_bytes());
        message.extend_from_slice(id);
        let sent = self.socket.send(&message, 0);
        sent.map(drop).map_err(Error::socket("send"))
    }

    /// Hands every object of an answer to `each`; gives the number that ends it.
    fn answers(&mut self, mut each: impl FnMut(&[u8])) -> Result<i32> {
        loop {
            self.buf.clear();
            match self.socket.recv(&mut self.buf, 0) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::socket("receive")(e)),
            }
            for message in wire::messages(&self.buf).filter(|message| message.seq == self.seq) {
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return Ok(wire::read_i32(message.payload).unwrap_or(0));
                    }
                    BY_FAMILY => each(message.payload),
                    _ => {}
                }
            }
        }
    }
}

fn refused(op: &'static str, errno: i32) -> Error {
    Error::Kernel {
        op,
        object: "the namespace".to_owned(),
        errno: Errno::from_raw(errno.saturating_neg()),
        detail: None,
    }
}

/// True if an error of [`SockDiag::destroy`] means that the kernel cannot end sockets at all.
#[must_use]
pub fn is_unsupported(error: &Error) -> bool {
    matches!(
        error,
        Error::Kernel {
            errno: Errno::EOPNOTSUPP,
            ..
        }
    )
}

/// A socket out of `struct inet_diag_msg`.
fn read(payload: &[u8], ipv6: bool) -> Option<Connected> {
    let id: [u8; ID] = *payload.get(4..)?.first_chunk()?;
    let port = wire::read_u16_be(&id[2..])?;
    let destination = &id[20..36];
    let destination = if ipv6 {
        let bytes: [u8; 16] = destination.try_into().ok()?;
        Ipv6Addr::from(bytes).to_canonical()
    } else {
        let bytes: [u8; 4] = *destination.first_chunk()?;
        IpAddr::V4(Ipv4Addr::from(bytes))
    };
    let cookie = wire::read_u32(&id[COOKIE..])?;
    let upper = wire::read_u32(&id[COOKIE + 4..])?;
    Some(Connected {
        destination,
        port,
        cookie: u64::from(upper) << 32 | u64::from(cookie),
        ipv6,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Uid;
    use std::net::UdpSocket;

    #[test]
    fn a_connected_socket_is_listed_and_ended() {
        if !Uid::effective().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let mut diag = SockDiag::new().unwrap();
        for (own, dual) in [("127.0.0.1", false), ("::1", false), ("::", true)] {
            let Ok(other) = UdpSocket::bind((if dual { "127.0.0.1" } else { own }, 0)) else {
                continue;
            };
            let place = other.local_addr().unwrap();
            let socket = UdpSocket::bind((own, 0)).unwrap();
            let to = match place.ip() {
                IpAddr::V4(ip) if dual => IpAddr::V6(ip.to_ipv6_mapped()),
                ip => ip,
            };
            socket.connect((to, place.port())).unwrap();
            let all = diag.connected_udp().unwrap();
            let found = all
                .iter()
                .find(|one| one.port == place.port() && one.destination == place.ip())
                .unwrap();
            match diag.destroy(found) {
                Err(error) if is_unsupported(&error) => {
                    eprintln!("skipped: this kernel cannot end sockets");
                    return;
                }
                outcome => assert!(outcome.unwrap()),
            }
            let mut buf = [0; 1];
            let ended = socket.recv(&mut buf).unwrap_err();
            assert_eq!(ended.raw_os_error(), Some(libc::ECONNABORTED), "{ended}");
            assert!(!diag.destroy(found).unwrap());
        }
    }
}
