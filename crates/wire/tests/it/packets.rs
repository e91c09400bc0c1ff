//! Random packets that are valid, built by `etherparse`.
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpAuthHeader, IpFragOffset,
    IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, TcpHeader, UdpHeader,
    icmpv4, icmpv6, ip_number,
};
use proptest::{collection::vec, option, prelude::*};

/// An L4 header with its payload.
#[derive(Clone, Debug)]
pub struct Transport {
    pub proto: u8,
    pub bytes: Vec<u8>,
}

/// TCP, UDP, SCTP, ICMP of the family, or a protocol without ports; all long enough for their headers.
pub fn transport(is_v6: bool) -> impl Strategy<Value = Transport> {
    prop_oneof![
        tcp(),
        (any::<[u16; 2]>(), any::<[u8; 8]>()).prop_map(|([src, dst], data)| udp(src, dst, &data)),
        any::<[u8; 12]>().prop_map(|bytes| Transport {
            proto: 132,
            bytes: bytes.to_vec()
        }),
        icmp(is_v6),
        (
            prop_oneof![Just(47u8), Just(50), Just(115)],
            vec(any::<u8>(), 0..16)
        )
            .prop_map(|(proto, bytes)| Transport { proto, bytes }),
    ]
}

fn tcp() -> impl Strategy<Value = Transport> {
    (any::<[u16; 2]>(), any::<u8>(), 0usize..=10, any::<u32>()).prop_map(
        |([src, dst], flags, options, seq)| {
            let mut header = TcpHeader::new(src, dst, seq, 0);
            header.set_options_raw(&vec![1; options * 4]).unwrap();
            let mut bytes = header.to_bytes().to_vec();
            bytes[13] = flags;
            Transport { proto: 6, bytes }
        },
    )
}

fn udp(src: u16, dst: u16, data: &[u8]) -> Transport {
    let header = UdpHeader {
        source_port: src,
        destination_port: dst,
        length: 8 + data.len() as u16,
        checksum: 0,
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(data);
    Transport { proto: 17, bytes }
}

fn icmp(is_v6: bool) -> impl Strategy<Value = Transport> {
    let echo = any::<(u16, u16, bool)>().prop_map(move |(id, seq, request)| {
        let echo = IcmpEchoHeader { id, seq };
        icmp_message(is_v6, echo, request)
    });
    // Any type but the echoes, with whatever follows.
    let other = any::<[u8; 12]>().prop_map(move |bytes| Transport {
        proto: if is_v6 { 58 } else { 1 },
        bytes: bytes.to_vec(),
    });
    prop_oneof![echo, other]
}

fn icmp_message(is_v6: bool, echo: IcmpEchoHeader, request: bool) -> Transport {
    let (proto, bytes) = if is_v6 {
        let kind = match request {
            true => Icmpv6Type::EchoRequest(echo),
            false => Icmpv6Type::EchoReply(echo),
        };
        (58, Icmpv6Header::new(kind).to_bytes().to_vec())
    } else {
        let kind = match request {
            true => Icmpv4Type::EchoRequest(echo),
            false => Icmpv4Type::EchoReply(echo),
        };
        (1, Icmpv4Header::new(kind).to_bytes().to_vec())
    };
    Transport { proto, bytes }
}

/// What `etherparse` calls the types that carry a packet.
pub fn is_error(is_v6: bool, kind: u8) -> bool {
    if is_v6 {
        matches!(
            kind,
            icmpv6::TYPE_DST_UNREACH
                | icmpv6::TYPE_PACKET_TOO_BIG
                | icmpv6::TYPE_TIME_EXCEEDED
                | icmpv6::TYPE_PARAMETER_PROBLEM
        )
    } else {
        matches!(
            kind,
            icmpv4::TYPE_DEST_UNREACH
                | icmpv4::TYPE_SOURCE_QUENCH
                | icmpv4::TYPE_TIME_EXCEEDED
                | icmpv4::TYPE_PARAMETER_PROBLEM
        )
    }
}

/// Offset in units of eight bytes, and "more fragments".
pub type Part = Option<(u16, bool)>;

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![3 => Just(None), 1 => Just(Some((0, true))), 1 => (1u16..0x1FFF, any::<bool>()).prop_map(Some)]
}

prop_compose! {
    /// An IPv4 packet with options, maybe a fragment.
    pub fn ipv4()(
        body in transport(false), src: [u8; 4], dst: [u8; 4], ttl: u8, id: u16, options in 0usize..=10, part in part(), dont: bool,
    ) -> Vec<u8> {
        v4_packet(&body, src, dst, |header| {
            header.options = [1; 40][..options * 4].try_into().unwrap();
            (header.time_to_live, header.identification, header.dont_fragment) = (ttl, id, dont);
            if let Some((offset, more)) = part {
                (header.fragment_offset, header.more_fragments) = (IpFragOffset::try_new(offset).unwrap(), more);
            }
        })
    }
}

fn v4_packet(
    body: &Transport,
    src: [u8; 4],
    dst: [u8; 4],
    change: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let len = body.bytes.len() as u16;
    let mut header = Ipv4Header::new(len, 64, IpNumber(body.proto), src, dst).unwrap();
    change(&mut header);
    header.set_payload_len(body.bytes.len()).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(&body.bytes);
    bytes
}

/// An extension header: protocol number and payload in units of eight bytes beyond the first.
type Extension = (u8, usize);

fn extension() -> impl Strategy<Value = Extension> {
    let kind = prop_oneof![Just(43u8), Just(60), Just(51)];
    (kind, 0usize..3)
}

prop_compose! {
    /// An IPv6 packet with extension headers, maybe a fragment. The number of its extension headers comes with it.
    pub fn ipv6()(
        body in transport(true), src: [u8; 16], dst: [u8; 16], hop: bool, mut chain in vec(extension(), 0..5),
        fragment in option::of((part(), any::<u32>())), flow in 0u32..0x10_0000,
    ) -> (Vec<u8>, usize) {
        if hop {
            chain.insert(0, (0, 0));
        }
        let count = chain.len() + usize::from(fragment.is_some());
        (v6_packet(&body, src, dst, &chain, fragment, flow), count)
    }
}

fn v6_packet(
    body: &Transport,
    src: [u8; 16],
    dst: [u8; 16],
    chain: &[Extension],
    fragment: Option<(Part, u32)>,
    flow: u32,
) -> Vec<u8> {
    let mut next = body.proto;
    let mut rest = body.bytes.clone();
    if let Some((part, identification)) = fragment {
        let (offset, more_fragments) = part.unwrap_or((0, false));
        let header = Ipv6FragmentHeader {
            next_header: IpNumber(next),
            fragment_offset: IpFragOffset::try_new(offset).unwrap(),
            more_fragments,
            identification,
        };
        rest.splice(0..0, header.to_bytes());
        next = ip_number::IPV6_FRAGMENTATION_HEADER.0;
    }
    for (kind, size) in chain.iter().rev() {
        let bytes = match kind {
            51 => IpAuthHeader::new(IpNumber(next), 1, 2, &vec![0; size * 4])
                .unwrap()
                .to_bytes()
                .to_vec(),
            _ => Ipv6RawExtHeader::new_raw(IpNumber(next), &vec![0; size * 8 + 6])
                .unwrap()
                .to_bytes()
                .to_vec(),
        };
        rest.splice(0..0, bytes);
        next = *kind;
    }
    let header = Ipv6Header {
        flow_label: flow.try_into().unwrap(),
        payload_length: rest.len() as u16,
        next_header: IpNumber(next),
        hop_limit: 64,
        source: src,
        destination: dst,
        ..Ipv6Header::default()
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(rest);
    bytes
}
