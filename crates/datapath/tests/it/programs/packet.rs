//! Packets: built by `etherparse`, told apart and checked by plain code that shares nothing with the programs.
use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpFragOffset,
    IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, NetSlice, SlicedPacket, TcpHeader,
    TransportSlice, UdpHeader,
};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const FIN: u8 = 1;
pub const RST: u8 = 4;

/// MAC addresses of packets that nobody rewrote: destination, source.
pub const MACS: [[u8; 6]; 2] = [[2, 0xAA, 0, 0, 0, 1], [2, 0xAA, 0, 0, 0, 2]];

/// Address and port, or identifier.
pub type End = (IpAddr, u16);

/// Protocol number of an address's ICMP.
pub fn icmp_of(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 1 } else { 58 }
}

/// A packet to build.
#[derive(Clone, Debug)]
pub struct Packet {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    ttl: u8,
    /// Without the Ethernet header.
    l4: Vec<u8>,
    /// Identification, offset in units of eight bytes, "more fragments".
    part: Option<(u32, u16, bool)>,
}

impl Packet {
    pub fn new(src: IpAddr, dst: IpAddr, proto: u8, l4: Vec<u8>) -> Self {
        Self {
            src,
            dst,
            proto,
            ttl: 64,
            l4,
            part: None,
        }
    }

    pub fn tcp(from: End, to: End, flags: u8) -> Self {
        let payload = b"sixteen bytes...";
        let mut header = TcpHeader::new(from.1, to.1, 0x0102_0304, 512);
        (header.fin, header.syn, header.rst) =
            (flags & FIN != 0, flags & SYN != 0, flags & RST != 0);
        header.ack = flags & ACK != 0;
        header.checksum = match (from.0, to.0) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                header.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload)
            }
            _ => panic!("two families"),
        }
        .unwrap();
        Self::new(
            from.0,
            to.0,
            TCP,
            [&header.to_bytes(), &payload[..]].concat(),
        )
    }

    pub fn udp(from: End, to: End, payload: &[u8]) -> Self {
        let length = 8 + payload.len() as u16;
        let mut header = UdpHeader {
            source_port: from.1,
            destination_port: to.1,
            length,
            checksum: 0,
        };
        header.checksum = match (from.0, to.0) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                header.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload)
            }
            _ => panic!("two families"),
        }
        .unwrap();
        Self::new(from.0, to.0, UDP, [&header.to_bytes(), payload].concat())
    }

    /// An SCTP packet whose checksum is never looked at: nobody may change what it covers.
    pub fn sctp(from: End, to: End) -> Self {
        let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        Self::new(from.0, to.0, SCTP, [&ports[..], &[7; 20]].concat())
    }

    /// An ICMP message; `rest` are the last four bytes of its header.
    pub fn icmp(
        src: IpAddr,
        dst: IpAddr,
        kind: u8,
        code: u8,
        rest: [u8; 4],
        payload: &[u8],
    ) -> Self {
        let header = match (src, dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let kind = Icmpv4Type::Unknown {
                    type_u8: kind,
                    code_u8: code,
                    bytes5to8: rest,
                };
                Icmpv4Header::with_checksum(kind, payload)
                    .to_bytes()
                    .to_vec()
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let kind = Icmpv6Type::Unknown {
                    type_u8: kind,
                    code_u8: code,
                    bytes5to8: rest,
                };
                let header = Icmpv6Header::with_checksum(kind, s.octets(), d.octets(), payload);
                header.unwrap().to_bytes().to_vec()
            }
            _ => panic!("two families"),
        };
        Self::new(src, dst, icmp_of(src), [&header, payload].concat())
    }

    pub fn ping(src: IpAddr, dst: IpAddr, id: u16) -> Self {
        let kind = if src.is_ipv4() { 8 } else { 128 };
        Self::icmp(src, dst, kind, 0, echo(id), b"ping payload")
    }

    pub fn pong(src: IpAddr, dst: IpAddr, id: u16) -> Self {
        let kind = if src.is_ipv4() { 0 } else { 129 };
        Self::icmp(src, dst, kind, 0, echo(id), b"ping payload")
    }

    /// "Port unreachable" about the packet `quoted`, which begins with its Ethernet header.
    pub fn unreachable(src: IpAddr, dst: IpAddr, quoted: &[u8]) -> Self {
        let (kind, code) = if src.is_ipv4() { (3, 3) } else { (1, 4) };
        Self::icmp(src, dst, kind, code, [0; 4], &quoted[14..])
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn change_l4(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.l4);
        self
    }

    /// The packet in two fragments, the first with `units` times eight bytes.
    pub fn split(&self, id: u32, units: u16) -> [Vec<u8>; 2] {
        let at = usize::from(units) * 8;
        let piece = |l4: &[u8], offset, more| {
            Self {
                l4: l4.to_vec(),
                part: Some((id, offset, more)),
                ..self.clone()
            }
            .bytes()
        };
        [
            piece(&self.l4[..at], 0, true),
            piece(&self.l4[at..], units, false),
        ]
    }

    /// The packet as it lies on the wire, Ethernet header included.
    pub fn bytes(&self) -> Vec<u8> {
        let (ether_type, l3) = match (self.src, self.dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                (EtherType::IPV4, self.header4(s.octets(), d.octets()))
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                (EtherType::IPV6, self.header6(s.octets(), d.octets()))
            }
            _ => panic!("two families"),
        };
        let [destination, source] = MACS;
        let ethernet = Ethernet2Header {
            source,
            destination,
            ether_type,
        };
        [&ethernet.to_bytes(), &l3[..], &self.l4].concat()
    }

    fn header4(&self, src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
        let proto = IpNumber(self.proto);
        let mut header = Ipv4Header::new(self.l4.len() as u16, self.ttl, proto, src, dst).unwrap();
        if let Some((id, offset, more)) = self.part {
            (header.identification, header.more_fragments) = (id as u16, more);
            (header.fragment_offset, header.dont_fragment) =
                (IpFragOffset::try_new(offset).unwrap(), false);
        }
        header.header_checksum = header.calc_header_checksum();
        header.to_bytes().to_vec()
    }

    fn header6(&self, source: [u8; 16], destination: [u8; 16]) -> Vec<u8> {
        let part = self.part.map(|(identification, offset, more_fragments)| {
            let fragment_offset = IpFragOffset::try_new(offset).unwrap();
            Ipv6FragmentHeader {
                next_header: IpNumber(self.proto),
                fragment_offset,
                more_fragments,
                identification,
            }
            .to_bytes()
        });
        let header = Ipv6Header {
            payload_length: (self.l4.len() + part.map_or(0, |p| p.len())) as u16,
            next_header: IpNumber(if part.is_some() { 44 } else { self.proto }),
            hop_limit: self.ttl,
            source,
            destination,
            ..Ipv6Header::default()
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(part.iter().flatten());
        bytes
    }
}

fn echo(id: u16) -> [u8; 4] {
    let [a, b] = id.to_be_bytes();
    [a, b, 0, 7]
}

/// A datagram put together again from its two fragments, as [`Packet::split`] makes them.
pub fn reassemble(first: &[u8], later: &[u8]) -> Vec<u8> {
    let v6 = first[12] == 0x86;
    let headers = if v6 { 14 + 40 + 8 } else { 14 + 20 };
    let mut whole = [first, &later[headers..]].concat();
    if v6 {
        let len = (whole.len() - headers) as u16;
        whole[20] = whole[54];
        whole[18..20].copy_from_slice(&len.to_be_bytes());
        whole.drain(54..62);
    } else {
        let len = ((whole.len() - 14) as u16).to_be_bytes();
        whole[16..18].copy_from_slice(&len);
        whole[18..22].copy_from_slice(&[0, 0, 0x40, 0]);
        whole[24..26].fill(0);
        let sum = checksum(&[&whole[14..34]]);
        whole[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    whole
}

/// What a packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    pub ttl: u8,
    pub src: End,
    pub dst: End,
}

/// Reads a packet; an echo's identifier stands as the port of both ends, what has no ports has zeros.
pub fn read(bytes: &[u8]) -> Said {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    let net = packet.net.unwrap();
    let (ttl, src, dst): (u8, IpAddr, IpAddr) = match &net {
        NetSlice::Ipv4(ip) => (
            ip.header().ttl(),
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        NetSlice::Ipv6(ip) => (
            ip.header().hop_limit(),
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        _ => panic!("no IP packet"),
    };
    let id = |bytes: [u8; 4]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let (sport, dport) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Icmpv4(icmp)) if matches!(icmp.type_u8(), 0 | 8) => {
            (id(icmp.bytes5to8()), id(icmp.bytes5to8()))
        }
        Some(TransportSlice::Icmpv6(icmp)) if matches!(icmp.type_u8(), 128 | 129) => {
            (id(icmp.bytes5to8()), id(icmp.bytes5to8()))
        }
        _ => (0, 0),
    };
    Said {
        dst_mac: bytes[..6].try_into().unwrap(),
        src_mac: bytes[6..12].try_into().unwrap(),
        ttl,
        src: (src, sport),
        dst: (dst, dport),
    }
}

/// The Internet checksum of the parts one after the other, of which all but the last have an even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
    }
    !(sum as u16)
}

/// The checksums of an Ethernet packet that are wrong, those of a packet inside an ICMP error included.
pub fn wrong_checksums(bytes: &[u8]) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    match bytes.get(12..14) {
        Some([8, 0]) => wrong4(&bytes[14..], &mut wrong),
        Some([0x86, 0xDD]) => wrong6(&bytes[14..], &mut wrong),
        _ => {}
    }
    wrong
}

fn wrong4(ip: &[u8], wrong: &mut Vec<&'static str>) {
    let header = ip.first().map_or(0, |b| usize::from(b & 15) * 4);
    if header < 20 || ip.len() < header {
        return;
    }
    if checksum(&[&ip[..header]]) != 0 {
        wrong.push("IPv4 header");
    }
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3FFF != 0;
    if let (false, Some(l4)) = (fragment, ip.get(header..total)) {
        wrong_l4(ip[9], &ip[12..20], l4, wrong);
    } else if ip[9] == 1 && !fragment && ip.len() > header + 8 {
        wrong4(&ip[header + 8..], wrong);
    }
}

fn wrong6(ip: &[u8], wrong: &mut Vec<&'static str>) {
    if ip.len() < 40 {
        return;
    }
    let total = 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let (mut next, mut at) = (ip[6], 40);
    while matches!(next, 0 | 43 | 44 | 51 | 60 | 135) && at + 8 <= ip.len() {
        if next == 44 && u16::from_be_bytes([ip[at + 2], ip[at + 3]]) & 0xFFF9 != 0 {
            return;
        }
        let size = usize::from(ip[at + 1]);
        let len = match next {
            44 => 8,
            51 => (size + 2) * 4,
            _ => (size + 1) * 8,
        };
        (next, at) = (ip[at], at + len);
    }
    if let Some(l4) = ip.get(at..total) {
        wrong_l4(next, &ip[8..40], l4, wrong);
    }
}

fn wrong_l4(proto: u8, addresses: &[u8], l4: &[u8], wrong: &mut Vec<&'static str>) {
    let pseudo = [[0, proto], (l4.len() as u16).to_be_bytes()].concat();
    let with_pseudo = || checksum(&[addresses, &pseudo, l4]);
    match proto {
        1 if l4.len() >= 8 => {
            if checksum(&[l4]) != 0 {
                wrong.push("ICMP");
            }
            if matches!(l4[0], 3 | 4 | 11 | 12) {
                wrong4(&l4[8..], wrong);
            }
        }
        58 if l4.len() >= 8 => {
            if with_pseudo() != 0 {
                wrong.push("ICMPv6");
            }
            if matches!(l4[0], 1..=4) {
                wrong6(&l4[8..], wrong);
            }
        }
        TCP if l4.len() >= 20 && with_pseudo() != 0 => wrong.push("TCP"),
        UDP if l4.len() >= 8 && l4[6..8] != [0, 0] && with_pseudo() != 0 => wrong.push("UDP"),
        _ => {}
    }
}

#[test]
fn packets_that_are_built_are_right() {
    let (a4, b4): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let (a6, b6): (IpAddr, IpAddr) = ([0xFD; 16].into(), [0xFC; 16].into());
    for (a, b) in [(a4, b4), (a6, b6)] {
        let udp = Packet::udp((a, 1), (b, 2), &[1; 33]);
        let quoted = udp.bytes();
        let all = [
            udp.clone(),
            Packet::tcp((a, 1), (b, 2), SYN),
            Packet::ping(a, b, 9),
            Packet::unreachable(b, a, &quoted),
        ];
        for packet in all {
            let mut bytes = packet.bytes();
            assert_eq!(wrong_checksums(&bytes), [""; 0], "{packet:?}");
            *bytes.last_mut().unwrap() ^= 1;
            assert!(!wrong_checksums(&bytes).is_empty());
        }
        let [first, later] = udp.split(5, 2);
        assert_eq!(reassemble(&first, &later).len(), quoted.len());
        assert_eq!(wrong_checksums(&reassemble(&first, &later)), [""; 0]);
    }
}
