//! The parser says of every packet what `etherparse` says of it, and of no bytes more than is there.
use etherparse::{
    Icmpv4Slice, Icmpv6Slice, IpSlice, Ipv4HeaderSlice, TcpHeaderSlice, UdpHeaderSlice, ip_number,
};
use proptest::{collection::vec, prelude::*};
use wire::{
    Family, Fragment, Headers, Malformed, V4, V6,
    headers::{Icmp, embedded},
    parse,
};

use crate::packets;

/// What another parser reads: addresses, protocol, offset of the payload, ports as the tuple has them, TCP flags, ICMP type and code.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    src: Vec<u8>,
    dst: Vec<u8>,
    proto: u8,
    payload: usize,
    ports: (u16, u16),
    tcp_flags: u8,
    icmp: (Icmp, u8, u8),
}

fn ours<F: Family>(h: &Headers<F>) -> Read {
    use zerocopy::IntoBytes;
    let port = |p: u16| u16::from_be(p);
    Read {
        src: h.tuple.src.as_bytes().to_vec(),
        dst: h.tuple.dst.as_bytes().to_vec(),
        proto: h.tuple.proto,
        payload: h.l4(),
        ports: (port(h.tuple.sport), port(h.tuple.dport)),
        tcp_flags: h.tcp_flags,
        icmp: (h.icmp, h.icmp_type, h.icmp_code),
    }
}

fn theirs(packet: &[u8], fragment: Fragment) -> Read {
    let ip = IpSlice::from_slice(packet).unwrap();
    let (src, dst) = match &ip {
        IpSlice::Ipv4(v4) => (
            v4.header().source().to_vec(),
            v4.header().destination().to_vec(),
        ),
        IpSlice::Ipv6(v6) => (
            v6.header().source().to_vec(),
            v6.header().destination().to_vec(),
        ),
    };
    let body = ip.payload();
    let mut read = Read {
        src,
        dst,
        proto: body.ip_number.0,
        payload: body.payload.as_ptr() as usize - packet.as_ptr() as usize,
        ports: (0, 0),
        tcp_flags: 0,
        icmp: (Icmp::None, 0, 0),
    };
    if !fragment.is_later() {
        read.transport(body.payload);
    }
    read
}

impl Read {
    fn transport(&mut self, bytes: &[u8]) {
        match self.proto {
            6 => {
                let tcp = TcpHeaderSlice::from_slice(bytes).unwrap();
                self.ports = (tcp.source_port(), tcp.destination_port());
                self.tcp_flags = bytes[13];
            }
            17 => {
                let udp = UdpHeaderSlice::from_slice(bytes).unwrap();
                self.ports = (udp.source_port(), udp.destination_port());
            }
            // SCTP's header begins as that of UDP does.
            132 => {
                let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                self.ports = (port(0), port(2));
            }
            1 => {
                let icmp = Icmpv4Slice::from_slice(bytes).unwrap();
                self.icmp(false, icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8());
            }
            58 => {
                let icmp = Icmpv6Slice::from_slice(bytes).unwrap();
                self.icmp(true, icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8());
            }
            _ => {}
        }
    }

    fn icmp(&mut self, is_v6: bool, kind: u8, code: u8, rest: [u8; 4]) {
        let (request, reply) = if is_v6 { (128, 129) } else { (8, 0) };
        let id = u16::from_be_bytes([rest[0], rest[1]]);
        let what = if kind == request {
            self.ports.0 = id;
            Icmp::Echo
        } else if kind == reply {
            self.ports.1 = id;
            Icmp::Echo
        } else if packets::is_error(is_v6, kind) {
            Icmp::Error
        } else {
            Icmp::None
        };
        self.icmp = (what, kind, code);
    }
}

/// The fragment of an IPv4 header by etherparse.
fn fragment4(packet: &[u8]) -> Fragment {
    let header = Ipv4HeaderSlice::from_slice(packet).unwrap();
    let id = u32::from(header.identification().to_be());
    match (header.fragments_offset().value(), header.more_fragments()) {
        (0, false) => Fragment::WHOLE,
        (0, true) => Fragment::first(id),
        _ => Fragment::later(id),
    }
}

/// The fragment of an IPv6 packet by etherparse's walk over its extension headers.
fn fragment6(packet: &[u8]) -> Fragment {
    let Ok(IpSlice::Ipv6(ip)) = IpSlice::from_slice(packet) else {
        panic!("not IPv6")
    };
    for extension in ip.extensions().clone() {
        if let etherparse::Ipv6ExtensionSlice::Fragment(header) = extension {
            let id = header.identification().to_be();
            return match (header.fragment_offset().value(), header.more_fragments()) {
                (0, false) => Fragment::WHOLE,
                (0, true) => Fragment::first(id),
                _ => Fragment::later(id),
            };
        }
    }
    Fragment::WHOLE
}

/// Parses `packet` at every length and demands the whole packet's answer, or an error.
fn truncated<F: Family>(packet: &[u8], whole: &Headers<F>) -> Result<(), TestCaseError> {
    for len in 0..packet.len() {
        match parse::<F, [u8]>(&packet[..len], 0) {
            Ok(h) => prop_assert_eq!(&h, whole, "of {} bytes", len),
            Err(e) => prop_assert_eq!(e, Malformed::Truncated, "of {} bytes", len),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn ipv4_reads_as_etherparse_reads_it(packet in packets::ipv4(), lead in vec(any::<u8>(), 0..20)) {
        let h = parse::<V4, [u8]>(&packet, 0).unwrap();
        prop_assert_eq!(h.fragment, fragment4(&packet));
        prop_assert_eq!(ours(&h), theirs(&packet, h.fragment));
        truncated(&packet, &h)?;
        // Elsewhere in the bytes it is the same packet.
        let there = parse::<V4, [u8]>(&[&lead[..], &packet].concat(), lead.len()).unwrap();
        prop_assert_eq!(there.l4(), h.l4() + lead.len());
        prop_assert_eq!(there.tuple, h.tuple);
    }

    #[test]
    fn ipv6_reads_as_etherparse_reads_it((packet, extensions) in packets::ipv6()) {
        let Ok(h) = parse::<V6, [u8]>(&packet, 0) else {
            prop_assert!(extensions > 4);
            return Ok(());
        };
        prop_assert!(extensions <= 4 || h.fragment.is_later());
        prop_assert_eq!(h.fragment, fragment6(&packet));
        prop_assert_eq!(ours(&h), theirs(&packet, h.fragment));
        truncated(&packet, &h)?;
    }

    #[test]
    fn an_icmp_error_shows_the_packet_inside(inner in packets::ipv4(), cut in 28usize..200) {
        let whole = parse::<V4, [u8]>(&inner, 0).unwrap();
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0, 0, 0, 0, 0];
        bytes.extend(&inner[..cut.min(inner.len())]);
        check_embedded::<V4>(&bytes, &whole, 28)?;
    }

    #[test]
    fn an_icmpv6_error_shows_the_packet_inside((inner, _) in packets::ipv6(), cut in 48usize..300) {
        let Ok(whole) = parse::<V6, [u8]>(&inner, 0) else { return Ok(()) };
        let mut bytes = vec![0; 48];
        (bytes[0], bytes[6], bytes[40]) = (0x60, 58, 1);
        bytes.extend(&inner[..cut.min(inner.len())]);
        check_embedded::<V6>(&bytes, &whole, 48)?;
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200), offset in 0usize..220, version in any::<bool>()) {
        let mut bytes = bytes;
        if let Some(first) = bytes.get_mut(offset) {
            *first = if version { 0x45 } else { 0x60 };
        }
        harmless::<V4>(&bytes, offset)?;
        harmless::<V6>(&bytes, offset)?;
    }
}

/// Whatever is read lies within the bytes, and so does what is read of the packet inside.
fn harmless<F: Family>(bytes: &[u8], offset: usize) -> Result<(), TestCaseError> {
    let Ok(h) = parse::<F, [u8]>(bytes, offset) else {
        return Ok(());
    };
    if h.tcp_flags != 0 || h.icmp != Icmp::None || h.tuple.sport != 0 {
        prop_assert!(h.l4() + 8 <= bytes.len());
    }
    if h.icmp == Icmp::Error
        && let Ok(inner) = embedded::<F, [u8]>(bytes, &h)
    {
        prop_assert!(inner.l4() >= h.l4() + 8 + F::HEADER_LEN);
        prop_assert!(inner.icmp != Icmp::Error);
    }
    Ok(())
}

/// `bytes` is an ICMP error of which the packet inside, read alone and whole, is `whole`.
fn check_embedded<F: Family>(
    bytes: &[u8],
    whole: &Headers<F>,
    shift: usize,
) -> Result<(), TestCaseError> {
    let h = parse::<F, [u8]>(bytes, 0).unwrap();
    prop_assert_eq!(h.icmp, Icmp::Error);
    match embedded::<F, [u8]>(bytes, &h) {
        Ok(inner) => {
            prop_assert_eq!(inner.tuple, whole.tuple);
            prop_assert_eq!(inner.l4(), whole.l4() + shift);
            prop_assert_eq!(inner.fragment, whole.fragment);
            prop_assert_eq!(inner.icmp, whole.icmp);
        }
        // About an ICMP message that belongs to no flow, or the quote is too short.
        Err(Malformed::Invalid) => {
            prop_assert_eq!(whole.tuple.proto, F::ICMP);
            prop_assert!(whole.icmp != Icmp::Echo && !whole.fragment.is_later());
        }
        Err(Malformed::Truncated) => prop_assert!(bytes.len() < whole.l4() + shift + 8),
        Err(e) => prop_assert!(false, "{:?}", e),
    }
    Ok(())
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let mut v4 = vec![0; 60];
    (v4[0], v4[3], v4[9]) = (0x45, 60, 6);
    (v4[32], v4[33]) = (0x50, 2);
    let read = |bytes: &[u8]| parse::<V4, [u8]>(bytes, 0).map(|h| h.tcp_flags);
    assert_eq!(read(&v4), Ok(2));
    for (at, value) in [(0, 0x44), (0, 0x65), (0, 0x4F), (3, 19), (32, 0x40)] {
        let mut bad = v4.clone();
        bad[at] = value;
        let expected = match (at, value) {
            (0, 0x4F) => Err(Malformed::Truncated),
            _ => Err(Malformed::Invalid),
        };
        assert_eq!(read(&bad), expected, "byte {at} is {value:#x}");
    }
    let mut v6 = vec![0; 60];
    v6[0] = 0x45;
    assert_eq!(parse::<V6, [u8]>(&v6, 0).unwrap_err(), Malformed::Invalid);
    // A segment that was offloaded to the device has no total length.
    v4[3] = 0;
    assert_eq!(read(&v4), Ok(2));
    assert_eq!(ip_number::TCP.0, wire::headers::TCP);
}
