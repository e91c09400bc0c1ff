//! The client side of one cell: real sockets, in the calling thread's network namespace.
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::plan::{Protocol, Size};
use super::server::Nonce;
use super::{icmp, socket};

/// Data of a small probe.
const SMALL: usize = 64;
/// Data of a large TCP probe, in each direction.
const BULK: usize = 256 * 1024;

/// What a probe that was answered found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The address it was sent from.
    pub local: IpAddr,
    /// Bytes that went there and came back.
    pub bytes: usize,
}

/// Probes `target` once (for ICMP the port does not matter).
///
/// # Errors
/// What the socket said; `TimedOut` after `timeout`, `InvalidData` if something else came back than was sent.
pub fn probe(
    target: SocketAddr,
    protocol: Protocol,
    size: Size,
    nonce: &Nonce,
    timeout: Duration,
) -> io::Result<Answer> {
    let deadline = Instant::now() + timeout;
    match protocol {
        Protocol::Tcp => tcp(target, size, nonce, deadline),
        Protocol::Udp => udp(target, size, nonce, deadline),
        Protocol::Icmp => ping(target.ip(), size, nonce, deadline),
    }
}

/// `length` bytes that begin with the nonce and are not the same everywhere.
fn payload(nonce: &Nonce, length: usize) -> Vec<u8> {
    let pattern = (0..length.saturating_sub(nonce.len())).map(|n| (n % 251) as u8);
    nonce.iter().copied().chain(pattern).collect()
}

/// Data of one datagram whose headers (IP header included) take `headers` bytes.
fn datagram_length(
    socket: &UdpSocket,
    ipv4: bool,
    size: Size,
    headers: usize,
) -> io::Result<usize> {
    Ok(match size {
        Size::Small => SMALL,
        Size::Full => socket::mtu(socket, ipv4)?.saturating_sub(headers),
        Size::Large => socket::mtu(socket, ipv4)? * 2 + 500,
    })
}

const fn ip_header(ipv4: bool) -> usize {
    if ipv4 { 20 } else { 40 }
}

fn udp(target: SocketAddr, size: Size, nonce: &Nonce, deadline: Instant) -> io::Result<Answer> {
    let ipv4 = target.is_ipv4();
    let socket = socket::connected_udp(target)?;
    if size == Size::Full {
        socket::forbid_fragments(&socket, ipv4)?;
    }
    let sent = payload(
        nonce,
        datagram_length(&socket, ipv4, size, ip_header(ipv4) + 8)?,
    );
    socket.send(&sent)?;
    let mut buffer = vec![0; 65536];
    loop {
        socket.set_read_timeout(Some(socket::left(deadline)?))?;
        let length = socket.recv(&mut buffer).map_err(timed_out)?;
        if buffer[..length].starts_with(nonce) {
            compare(&sent, &buffer[..length])?;
            return Ok(Answer {
                local: socket.local_addr()?.ip(),
                bytes: length,
            });
        }
    }
}

fn ping(target: IpAddr, size: Size, nonce: &Nonce, deadline: Instant) -> io::Result<Answer> {
    let ipv4 = target.is_ipv4();
    let socket = socket::raw_icmp(ipv4)?;
    socket.connect((target, 0))?;
    if size == Size::Full {
        socket::forbid_fragments(&socket, ipv4)?;
    }
    let sent = payload(
        nonce,
        datagram_length(&socket, ipv4, size, ip_header(ipv4) + icmp::HEADER)?,
    );
    // The nonce tells the answers apart; the identifier only has to differ between probes of one host.
    let id = u16::from_be_bytes([nonce[14], nonce[15]]);
    socket.send(&icmp::request(target, id, &sent))?;
    let mut buffer = vec![0; 65536];
    loop {
        socket.set_read_timeout(Some(socket::left(deadline)?))?;
        let length = socket.recv(&mut buffer).map_err(timed_out)?;
        match icmp::parse(ipv4, &buffer[..length]) {
            Some(echo) if !echo.request && echo.id == id && echo.data.starts_with(nonce) => {
                compare(&sent, echo.data)?;
                return Ok(Answer {
                    local: socket.local_addr()?.ip(),
                    bytes: sent.len(),
                });
            }
            _ => {}
        }
    }
}

fn tcp(target: SocketAddr, size: Size, nonce: &Nonce, deadline: Instant) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&target, socket::left(deadline)?)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(socket::left(deadline)?))?;
    let length = match size {
        Size::Small => SMALL,
        Size::Full => {
            nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::TcpMaxSeg)? as usize
        }
        Size::Large => BULK,
    };
    let sent = payload(nonce, length);
    let mut seen = vec![0; length];
    if size == Size::Large {
        // Written while the echo is read: both directions are busy at once.
        let mut writer = stream.try_clone()?;
        thread::scope(|scope| {
            let writing = scope.spawn(|| writer.write_all(&sent));
            let read = read_all(&mut stream, &mut seen, deadline);
            if read.is_err() {
                // The writer may wait for room that will never come; a socket already closed is as good.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            let written = writing
                .join()
                .map_err(|_| io::Error::other("the writer ended early"))?;
            read.and(written)
        })?;
    } else {
        stream.write_all(&sent)?;
        read_all(&mut stream, &mut seen, deadline)?;
    }
    compare(&sent, &seen)?;
    Ok(Answer {
        local: stream.local_addr()?.ip(),
        bytes: length,
    })
}

fn read_all(stream: &mut TcpStream, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    let (mut filled, wanted) = (0, buffer.len());
    while filled < wanted {
        stream.set_read_timeout(Some(socket::left(deadline)?))?;
        match stream.read(&mut buffer[filled..]).map_err(timed_out) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("closed after {filled} of {wanted} bytes"),
                ));
            }
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::TimedOut && filled > 0 => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("stalled after {filled} of {wanted} bytes"),
                ));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn compare(sent: &[u8], seen: &[u8]) -> io::Result<()> {
    if sent == seen {
        return Ok(());
    }
    let what = if sent.len() == seen.len() {
        let place = sent.iter().zip(seen).position(|(a, b)| a != b).unwrap_or(0);
        format!("answer differs at byte {place} of {}", sent.len())
    } else {
        format!("answer of {} bytes to {} bytes", seen.len(), sent.len())
    };
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// A socket's read time-out is reported as "would block".
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        io::ErrorKind::TimedOut.into()
    } else {
        error
    }
}
