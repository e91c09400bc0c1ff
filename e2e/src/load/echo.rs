//! One packet there, one packet back: pings and datagrams, each numbered.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{Route, Stop, Tally, flow, made_in};

/// Time between two packets.
const PACE: Duration = Duration::from_millis(5);
/// What has no answer this long after the end is lost.
const LATE: Duration = Duration::from_secs(3);
/// Data of a packet: number, time is kept here.
const SIZE: usize = 64;
const ICMP_HEADER: usize = 8;

/// A ping every five milliseconds; the kernel of the target answers.
pub(super) fn pings(route: &Route, stop: &Stop) -> JoinHandle<Tally> {
    let (target, stop) = (route.target, stop.clone());
    let socket = made_in(&route.client, "a raw socket", || raw_icmp(target));
    // The answers to this socket's own pings are told by the number.
    let id = socket_id();
    flow("pings", route, move |tally| {
        let packet = |number: u64| echo_request(target, id, &payload(number));
        let number = |packet: &[u8]| echo_reply(target, id, packet);
        ask(&socket, &stop, tally, &packet, &number);
    })
}

/// A UDP datagram every five milliseconds to a server that sends it back.
pub(super) fn datagrams(route: &Route, stop: &Stop) -> JoinHandle<Tally> {
    let (target, stop) = (route.target, stop.clone());
    let server = made_in(&route.server, "a UDP server", || {
        UdpSocket::bind((target, 0))
    });
    let client = made_in(&route.client, "a UDP client", || {
        let any: IpAddr = if target.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server.local_addr()?).map(|()| socket)
    });
    flow("datagrams", route, move |tally| {
        let done = Stop::default();
        thread::scope(|scope| {
            scope.spawn(|| send_back(&server, &done));
            ask(&client, &stop, tally, &|number| payload(number), &|data| {
                first_number(data)
            });
            done.0.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    })
}

fn send_back(server: &UdpSocket, done: &Stop) {
    let _ = server.set_read_timeout(Some(Duration::from_millis(50)));
    let mut buffer = [0; 2048];
    while !done.told() {
        if let Ok((length, from)) = server.recv_from(&mut buffer) {
            // What is lost here is missed by the client.
            let _ = server.send_to(&buffer[..length], from);
        }
    }
}

/// Sends numbered packets until told to stop, then waits for the answers that are missing.
fn ask(
    socket: &UdpSocket,
    stop: &Stop,
    tally: &mut Tally,
    packet: &dyn Fn(u64) -> Vec<u8>,
    number: &dyn Fn(&[u8]) -> Option<u64>,
) {
    if let Err(e) = socket.set_read_timeout(Some(Duration::from_millis(1))) {
        return tally.fail(e.to_string());
    }
    let (mut sent, mut next, mut end) = (Vec::<Option<Instant>>::new(), Instant::now(), None);
    let mut buffer = [0; 2048];
    while tally.received < tally.sent || end.is_none() {
        let now = Instant::now();
        match end {
            Some(end) if now >= end => break,
            None if stop.told() => end = Some(now + LATE),
            None if now >= next => {
                next = (next + PACE).max(now);
                // Refused by the kernel is lost, too.
                if let Err(e) = socket.send(&packet(tally.sent)) {
                    tally.fail(format!("packet {}: {e}", tally.sent));
                }
                sent.push(Some(now));
                tally.sent += 1;
            }
            _ => {}
        }
        match socket.recv(&mut buffer) {
            Ok(length) => answered(&mut sent, number(&buffer[..length]), tally),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(e) => tally.fail(format!("after packet {}: {e}", tally.sent)),
        }
    }
    let missing: Vec<String> = sent
        .iter()
        .enumerate()
        .filter(|(_, at)| at.is_some())
        .map(|(n, _)| n.to_string())
        .collect();
    if !missing.is_empty() {
        tally.fail(format!(
            "no answer to {}",
            missing[..missing.len().min(20)].join(" ")
        ));
    }
}

/// Notes an answer, the first to each packet.
fn answered(sent: &mut [Option<Instant>], number: Option<u64>, tally: &mut Tally) {
    let slot = number.and_then(|number| sent.get_mut(usize::try_from(number).ok()?));
    if let Some(at) = slot.and_then(Option::take) {
        tally.received += 1;
        tally.slowest = tally.slowest.max(at.elapsed());
    }
}

fn payload(number: u64) -> Vec<u8> {
    let mut data = number.to_be_bytes().to_vec();
    data.resize(SIZE, 0x5a);
    data
}

fn first_number(data: &[u8]) -> Option<u64> {
    (data.len() == SIZE).then(|| data.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)))?
}

fn raw_icmp(target: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = if target.is_ipv4() {
        (AddressFamily::Inet, SockProtocol::Icmp)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6)
    };
    let socket: UdpSocket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?.into();
    // A raw socket hears all ICMP of its namespace: it must not run over.
    let _ =
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(4 << 20));
    socket.connect((target, 0))?;
    Ok(socket)
}

/// Differs between the flows of a test.
fn socket_id() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0x4850);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// The kernel fills in the checksum of IPv6.
fn echo_request(target: IpAddr, id: u16, data: &[u8]) -> Vec<u8> {
    let mut message = vec![if target.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([data[6], data[7]]);
    message.extend(data);
    if target.is_ipv4() {
        let sum = message.chunks(2).fold(0u32, |sum, pair| {
            sum + u32::from(pair[0]) * 256 + u32::from(pair[1])
        });
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
    message
}

/// The number in an answer to one of our pings. For IPv4 the IP header stands before the message.
fn echo_reply(target: IpAddr, id: u16, packet: &[u8]) -> Option<u64> {
    let message = if target.is_ipv4() {
        packet.get(usize::from(packet.first()? & 15) * 4..)?
    } else {
        packet
    };
    let kind = if target.is_ipv4() { 0 } else { 129 };
    let ours = *message.first()? == kind && message.get(4..6)? == id.to_be_bytes();
    ours.then(|| first_number(message.get(ICMP_HEADER..)?))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_carry_their_number() {
        let target: IpAddr = [192, 0, 2, 1].into();
        let mut message = echo_request(target, 7, &payload(300));
        let sum = message.chunks(2).fold(0u32, |sum, pair| {
            sum + u32::from(pair[0]) * 256 + u32::from(pair[1])
        });
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        message[0] = 0;
        let mut packet = vec![0x45; 20];
        packet.extend(&message);
        assert_eq!(echo_reply(target, 7, &packet), Some(300));
        assert_eq!(echo_reply(target, 8, &packet), None);
        assert_eq!(echo_reply(target, 7, &packet[..40]), None);
    }
}
