//! Connections of the node that are older than the programs: its firewall wants to know who opened them, which no packet tells
//! any more. The kernel's list of sockets does: what the node opened has a port that nobody listens on, out of those that the
//! kernel gives away.
use datapath::maps::Conntrack;
use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

/// Tables of the network namespace that this thread is in.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
const OWN_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Numbers of states, as the tables have them.
const SYN_SENT: u8 = 2;
const LISTEN: u8 = 10;
/// Established, half open, half closed.
const ALIVE: [u8; 6] = [1, SYN_SENT, 3, 4, 5, 8];

/// Enters the node's TCP connections; how many were not known, or not who opened them. Each lives for `lifetime` seconds without
/// a packet.
///
/// # Errors
/// The sockets cannot be read, or the map not be written.
pub fn adopt(conntrack: &Conntrack, lifetime: u32) -> anyhow::Result<usize> {
    let mut sockets = Vec::new();
    for table in TABLES {
        match fs::read_to_string(table) {
            Ok(text) => sockets.extend(text.lines().filter_map(socket)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let own = own_ports(&fs::read_to_string(OWN_PORTS)?);
    let mut adopted = 0;
    for (source, destination) in connections(&sockets, &own) {
        adopted += usize::from(conntrack.adopt(source, destination, lifetime)?);
    }
    Ok(adopted)
}

/// A socket: its own end, the other, and its state.
type Socket = (SocketAddr, SocketAddr, u8);

/// A line of a table; none for its head, and for what is not understood.
fn socket(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let [local, remote] = [fields.next()?, fields.next()?];
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    Some((end(local)?, end(remote)?, state))
}

/// Address and port: words of the address as they lie in memory, and the port as a number.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (index, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index)?);
            }
            // A socket of both families has IPv4 peers, too.
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The ports that the kernel gives to who asks for none; no port where that cannot be read.
fn own_ports(text: &str) -> RangeInclusive<u16> {
    let mut numbers = text
        .split_ascii_whitespace()
        .map_while(|number| number.parse().ok());
    numbers.next().unwrap_or(1)..=numbers.next().unwrap_or(0)
}

/// Connections with others, whoever opened each first.
fn connections<'a>(
    sockets: &'a [Socket],
    own: &'a RangeInclusive<u16>,
) -> impl Iterator<Item = (SocketAddr, SocketAddr)> + 'a {
    let listening = sockets.iter().filter(|(.., state)| *state == LISTEN);
    let listening: BTreeSet<u16> = listening.map(|(local, ..)| local.port()).collect();
    let alive = sockets.iter().filter(|(local, remote, state)| {
        ALIVE.contains(state) && local.ip() != remote.ip() && !remote.ip().is_loopback()
    });
    alive.map(move |(local, remote, state)| {
        let port = local.port();
        if *state == SYN_SENT || own.contains(&port) && !listening.contains(&port) {
            (*local, *remote)
        } else {
            (*remote, *local)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn who_opened_a_connection_is_read_off_the_sockets() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 020A0A0A:0016 090A0A0A:C001 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 020A0A0A:C002 010A0A0A:192B 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 020A0A0A:0345 010A0A0A:0801 02 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
   4: 020A0A0A:0346 010A0A0A:0801 01 00000000:00000000 00:00000000 00000000     0        0 5 1 0 20 4 30 10 -1
   5: 0100007F:C003 0100007F:192B 01 00000000:00000000 00:00000000 00000000     0        0 6 1 0 20 4 30 10 -1
   6: 020A0A0A:C004 010A0A0A:192B 06 00000000:00000000 00:00000000 00000000     0        0 0 3 0 20 4 30 10 -1
   7: 0000000000000000FFFF0000020A0A0A:C005 0000000000000000FFFF0000010A0A0A:192B 08 0:0 00:0 0 0 0 7 1 0 20 4 30 10 -1
   8: B80D0120000000000000000002000000:C006 B80D0120000000000000000001000000:192B 01 0:0 00:0 0 0 0 8 1 0 20 4 30 10 -1
   9: torn";
        let sockets: Vec<Socket> = table.lines().filter_map(socket).collect();
        assert_eq!(sockets.len(), 9);
        let own = own_ports("32768\t60999\n");
        let found: Vec<_> = connections(&sockets, &own)
            .map(|(source, destination)| format!("{source} {destination}"))
            .collect();
        assert_eq!(
            found,
            [
                "10.10.10.9:49153 10.10.10.2:22",
                "10.10.10.2:49154 10.10.10.1:6443",
                "10.10.10.2:837 10.10.10.1:2049",
                // Nobody listens, but no port of the kernel's choice: what may be incoming is asked about as such.
                "10.10.10.1:2049 10.10.10.2:838",
                "10.10.10.2:49157 10.10.10.1:6443",
                "[2001:db8::2]:49158 [2001:db8::1]:6443",
            ]
        );
        assert!(own_ports("odd").is_empty());
    }
}
