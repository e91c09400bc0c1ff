//! Sockets of the probes.
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

/// A raw ICMP socket; it sends and receives datagrams like a UDP socket, with port zero.
///
/// # Errors
/// Without CAP_NET_RAW.
pub fn raw_icmp(ipv4: bool) -> io::Result<UdpSocket> {
    let (family, protocol) = if ipv4 {
        (AddressFamily::Inet, SockProtocol::Icmp)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6)
    };
    Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?.into())
}

/// A UDP socket of the family of `target`, connected to it.
///
/// # Errors
/// Without a route.
pub fn connected_udp(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket)
}

/// Bytes of the largest IP packet that the kernel would send to the peer of `socket`.
///
/// # Errors
/// If the socket is not connected.
pub fn mtu(socket: &UdpSocket, ipv4: bool) -> io::Result<usize> {
    let mtu = if ipv4 {
        sockopt::ip_mtu(socket)?
    } else {
        sockopt::ipv6_mtu(socket)?
    };
    Ok(mtu as usize)
}

/// Forbids fragments: a packet that is too long is an error, here or on the way.
///
/// # Errors
/// If the kernel refuses.
pub fn forbid_fragments(socket: &UdpSocket, ipv4: bool) -> io::Result<()> {
    if ipv4 {
        sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO)?;
    } else {
        sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO)?;
    }
    Ok(())
}

/// The time left until `deadline`.
///
/// # Errors
/// `TimedOut` if there is none.
pub fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}
