//! Packets of protocols that have no ordinary sockets here: SCTP, whose kernel module may be missing, and ICMP.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};

/// Chunk types of SCTP.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A raw socket of one protocol; it sends and receives datagrams, with port zero, and never waits.
fn raw(ipv4: bool, protocol: Protocol) -> io::Result<UdpSocket> {
    let family = if ipv4 {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::RAW, flags, Some(protocol))?.into())
}

/// For SCTP packets.
pub(super) fn sctp_socket(ipv4: bool) -> io::Result<UdpSocket> {
    raw(ipv4, ipproto::SCTP)
}

/// For pings.
pub(super) fn icmp_socket(ipv4: bool) -> io::Result<UdpSocket> {
    raw(ipv4, if ipv4 { ipproto::ICMP } else { ipproto::ICMPV6 })
}

/// An SCTP packet that opens an association, or answers one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sctp {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) is_answer: bool,
    /// Number of the question.
    pub(super) tag: u32,
}

impl Sctp {
    /// The packet without IP header. Nobody checks the checksum: no stack is behind these sockets.
    pub(super) fn bytes(self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(32);
        packet.extend(self.source.to_be_bytes());
        packet.extend(self.destination.to_be_bytes());
        let verification = if self.is_answer { self.tag } else { 0 };
        packet.extend(verification.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend([if self.is_answer { INIT_ACK } else { INIT }, 0, 0, 20]);
        packet.extend(self.tag.to_be_bytes());
        packet.extend(65536_u32.to_be_bytes());
        packet.extend([0, 1, 0, 1]);
        packet.extend(self.tag.to_be_bytes());
        packet
    }

    /// What a raw socket received.
    pub(super) fn read(received: &[u8], ipv4: bool) -> Option<Self> {
        let packet = without_header(received, ipv4)?;
        let number = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
        let is_answer = match *packet.get(12)? {
            INIT => false,
            INIT_ACK => true,
            _ => return None,
        };
        Some(Self {
            source: number(0)?,
            destination: number(2)?,
            is_answer,
            tag: u32::from_be_bytes(packet.get(16..20)?.try_into().ok()?),
        })
    }
}

/// A ping's request. The kernel fills in the checksum of ICMPv6; that of ICMP is ours.
pub(super) fn echo_request(ipv4: bool, id: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![if ipv4 { 8 } else { 128 }, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    if ipv4 {
        let words = packet
            .chunks_exact(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
        let mut sum: u32 = words.sum();
        sum = (sum & 0xffff) + (sum >> 16);
        let checksum = !(sum as u16);
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

/// Identifier and sequence of a reply that a raw socket received.
pub(super) fn echo_reply(received: &[u8], ipv4: bool) -> Option<(u16, u16)> {
    let packet = without_header(received, ipv4)?;
    let wanted = if ipv4 { 0 } else { 129 };
    let number = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    (*packet.first()? == wanted).then_some((number(4)?, number(6)?))
}

/// Raw sockets of IPv4 receive the IP header, too.
fn without_header(received: &[u8], ipv4: bool) -> Option<&[u8]> {
    if !ipv4 {
        return Some(received);
    }
    let length = usize::from(received.first()? & 15) * 4;
    received.get(length..)
}

/// Raw sockets have no port.
pub(super) fn to(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_were_written() {
        let packet = Sctp {
            source: 40000,
            destination: 7080,
            is_answer: false,
            tag: 0x0102_0304,
        };
        assert_eq!(Sctp::read(&packet.bytes(), false), Some(packet));
        let with_header = [&[0x45; 20][..], &packet.bytes()].concat();
        assert_eq!(Sctp::read(&with_header, true), Some(packet));
        assert_eq!(Sctp::read(&[0x45; 24], true), None);
        let mut reply = echo_request(false, 7, 9);
        reply[0] = 129;
        assert_eq!(echo_reply(&reply, false), Some((7, 9)));
    }
}
