//! From bytes to headers: IPv4 with options, IPv6 with extension headers, TCP, UDP, SCTP, ICMP and the packet inside an ICMP error.
use zerocopy::FromBytes;

use crate::{Family, Tuple, V4, V6};

/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// SCTP.
pub const SCTP: u8 = 132;

/// Read access to a packet.
pub trait Bytes {
    /// The header at `offset`, fields as they lie in memory; `None` beyond the end.
    fn get<T: FromBytes + Copy>(&self, offset: usize) -> Option<T>;
}

impl Bytes for [u8] {
    fn get<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        T::read_from_prefix(self.split_at_checked(offset)?.1)
            .ok()
            .map(|(value, _)| value)
    }
}

/// The fixed IPv4 header; numbers in network order.
#[repr(C)]
#[derive(Clone, Copy, FromBytes)]
pub struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    checksum: u16,
    src: u32,
    dst: u32,
}

/// The fixed IPv6 header; numbers in network order.
#[repr(C)]
#[derive(Clone, Copy, FromBytes)]
pub struct Ipv6 {
    version_class_flow: u32,
    length: u16,
    next: u8,
    hop_limit: u8,
    src: [u64; 2],
    dst: [u64; 2],
}

/// The beginning of any extension header; in a fragment header `word` is the offset and `id` the identification.
#[repr(C)]
#[derive(Clone, Copy, FromBytes)]
struct Extension {
    next: u8,
    size: u8,
    word: u16,
    id: u32,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes)]
struct Udp {
    src: u16,
    dst: u16,
    /// Length and checksum; the sequence number of TCP, the verification tag of SCTP.
    rest: u32,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes)]
struct Tcp {
    begin: Udp,
    ack: u32,
    offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes)]
struct IcmpHeader {
    kind: u8,
    code: u8,
    checksum: u16,
    id: u16,
    seq: u16,
}

/// Why a packet could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The packet ends before the header does.
    Truncated,
    /// A header contradicts itself.
    Invalid,
    /// Too many IPv6 extension headers, or one that is not known.
    Extension,
}

/// What part of a datagram a packet is. Plain fields, and not an enum with the identification in it: programs copy it as a whole,
/// and old verifiers refuse to read bytes that a variant leaves undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Which part.
    pub part: Part,
    /// The datagram's identification; zero when the packet is all of it.
    pub id: u32,
}

/// See [`Fragment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment, with the L4 header.
    First,
    /// A later fragment, without L4 header.
    Later,
}

impl Fragment {
    /// A packet that is all of its datagram.
    pub const WHOLE: Self = Self {
        part: Part::Whole,
        id: 0,
    };

    /// The first fragment of datagram `id`.
    #[inline(always)]
    #[must_use]
    pub const fn first(id: u32) -> Self {
        Self {
            part: Part::First,
            id,
        }
    }

    /// A later fragment of datagram `id`.
    #[inline(always)]
    #[must_use]
    pub const fn later(id: u32) -> Self {
        Self {
            part: Part::Later,
            id,
        }
    }

    /// True if the packet has no L4 header.
    #[inline(always)]
    #[must_use]
    pub const fn is_later(self) -> bool {
        matches!(self.part, Part::Later)
    }

    /// True if the packet is all of its datagram.
    #[inline(always)]
    #[must_use]
    pub const fn is_whole(self) -> bool {
        matches!(self.part, Part::Whole)
    }
}

/// The L3 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network<F: Family> {
    /// Source address.
    pub src: F::Addr,
    /// Destination address.
    pub dst: F::Addr,
    /// Protocol of the payload, behind all extension headers.
    pub proto: u8,
    /// Offset of the payload in the packet.
    pub payload: usize,
    /// Which part of the datagram this is.
    pub fragment: Fragment,
}

/// What an ICMP message is to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Not ICMP, or a message of no flow.
    None,
    /// Echo request or reply: a flow of its own, named by its identifier.
    Echo,
    /// An error about another packet, which follows its header.
    Error,
}

/// All that the datapath wants to know of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<F: Family> {
    /// Addresses, ports and protocol; ports are zero in later fragments and for protocols without.
    pub tuple: Tuple<F>,
    /// Offset of the L4 header; see [`Headers::l4`].
    pub l4: u16,
    /// Which part of the datagram this is.
    pub fragment: Fragment,
    /// TCP flags; zero for anything else.
    pub tcp_flags: u8,
    /// What an ICMP message is.
    pub icmp: Icmp,
    /// ICMP type and code; zero for anything else.
    pub icmp_type: u8,
    /// See `icmp_type`.
    pub icmp_code: u8,
}

impl<F: Family> Headers<F> {
    /// Headers of no packet.
    #[must_use]
    pub fn empty() -> Self {
        let tuple = Tuple {
            src: F::zero(),
            dst: F::zero(),
            sport: 0,
            dport: 0,
            proto: 0,
        };
        Self {
            tuple,
            l4: 0,
            fragment: Fragment::WHOLE,
            tcp_flags: 0,
            icmp: Icmp::None,
            icmp_type: 0,
            icmp_code: 0,
        }
    }

    /// Offset of the L4 header in the packet.
    #[inline(always)]
    #[must_use]
    pub fn l4(&self) -> usize {
        self.l4 as usize
    }
}

/// Reads the IPv4 or IPv6 header at `offset`.
///
/// # Errors
/// See [`Malformed`].
#[inline(always)]
pub fn network<F: Family, B: Bytes + ?Sized>(
    b: &B,
    offset: usize,
) -> Result<Network<F>, Malformed> {
    F::network(b, offset)
}

/// Reads the IPv4 header at `offset`.
#[inline(always)]
pub(crate) fn network4<B: Bytes + ?Sized>(b: &B, offset: usize) -> Result<Network<V4>, Malformed> {
    let ip: Ipv4 = b.get(offset).ok_or(Malformed::Truncated)?;
    let header_len = ((ip.version_ihl & 0xF) as usize) << 2;
    let total = u16::from_be(ip.total) as usize;
    if ip.version_ihl >> 4 != 4 || header_len < V4::HEADER_LEN || (total < header_len && total != 0)
    {
        return Err(Malformed::Invalid);
    }
    let frag = u16::from_be(ip.fragment);
    let id = u32::from(ip.id);
    let fragment = match (frag & 0x1FFF, frag & 0x2000) {
        (0, 0) => Fragment::WHOLE,
        (0, _) => Fragment::first(id),
        _ => Fragment::later(id),
    };
    Ok(Network {
        src: ip.src,
        dst: ip.dst,
        proto: ip.proto,
        payload: offset + header_len,
        fragment,
    })
}

/// Extension headers that are passed over before a packet is given up.
const MAX_EXTENSIONS: usize = 4;

/// Reads the IPv6 header at `offset`, and what stands between it and the payload.
#[inline(always)]
pub(crate) fn network6<B: Bytes + ?Sized>(b: &B, offset: usize) -> Result<Network<V6>, Malformed> {
    let ip: Ipv6 = b.get(offset).ok_or(Malformed::Truncated)?;
    if u32::from_be(ip.version_class_flow) >> 28 != 6 {
        return Err(Malformed::Invalid);
    }
    let (mut proto, mut payload, mut fragment) =
        (ip.next, offset + V6::HEADER_LEN, Fragment::WHOLE);
    if is_extension(proto) {
        (proto, payload, fragment) = extensions(b, proto, payload)?;
    }
    Ok(Network {
        src: ip.src,
        dst: ip.dst,
        proto,
        payload,
        fragment,
    })
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

#[inline(always)]
const fn is_extension(proto: u8) -> bool {
    matches!(
        proto,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY
    )
}

/// Walks the extension headers from `at`: final protocol, its offset, and the fragment header's word.
#[inline(always)]
fn extensions<B: Bytes + ?Sized>(
    b: &B,
    mut proto: u8,
    mut at: usize,
) -> Result<(u8, usize, Fragment), Malformed> {
    let mut fragment = Fragment::WHOLE;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(proto) {
            return Ok((proto, at, fragment));
        }
        let ext: Extension = b.get(at).ok_or(Malformed::Truncated)?;
        let size = ext.size as usize;
        at += match proto {
            FRAGMENT => {
                let word = u16::from_be(ext.word);
                if word & 0xFFF8 != 0 {
                    // The rest is payload of a datagram whose headers came with the first fragment.
                    return Ok((ext.next, at + 8, Fragment::later(ext.id)));
                }
                if word & 1 != 0 {
                    fragment = Fragment::first(ext.id);
                }
                8
            }
            AUTHENTICATION => (size + 2) << 2,
            _ => (size + 1) << 3,
        };
        proto = ext.next;
    }
    if is_extension(proto) {
        Err(Malformed::Extension)
    } else {
        Ok((proto, at, fragment))
    }
}

/// Reads the packet whose L3 header begins at `offset`.
///
/// # Errors
/// See [`Malformed`].
#[inline(always)]
pub fn parse<F: Family, B: Bytes + ?Sized>(b: &B, offset: usize) -> Result<Headers<F>, Malformed> {
    let net = network::<F, B>(b, offset)?;
    transport(b, &net)
}

/// Reads the L4 header behind `net`.
///
/// # Errors
/// [`Malformed::Truncated`] if the header is not whole in the packet (of SCTP its first eight bytes), [`Malformed::Invalid`] for a TCP header shorter than its minimum.
#[inline(always)]
pub fn transport<F: Family, B: Bytes + ?Sized>(
    b: &B,
    net: &Network<F>,
) -> Result<Headers<F>, Malformed> {
    let mut h = Headers {
        tuple: Tuple {
            src: net.src,
            dst: net.dst,
            sport: 0,
            dport: 0,
            proto: net.proto,
        },
        l4: net.payload as u16,
        fragment: net.fragment,
        tcp_flags: 0,
        icmp: Icmp::None,
        icmp_type: 0,
        icmp_code: 0,
    };
    if net.fragment.is_later() {
        return Ok(h);
    }
    let at = net.payload;
    if net.proto == TCP {
        let tcp: Tcp = b.get(at).ok_or(Malformed::Truncated)?;
        if tcp.offset >> 4 < 5 {
            return Err(Malformed::Invalid);
        }
        (h.tuple.sport, h.tuple.dport, h.tcp_flags) = (tcp.begin.src, tcp.begin.dst, tcp.flags);
    } else if net.proto == UDP || net.proto == SCTP {
        let ports: Udp = b.get(at).ok_or(Malformed::Truncated)?;
        (h.tuple.sport, h.tuple.dport) = (ports.src, ports.dst);
    } else if net.proto == F::ICMP {
        icmp::<F, B>(b, at, &mut h)?;
    }
    Ok(h)
}

/// ICMP echo request, by family.
#[must_use]
pub const fn echo_request<F: Family>() -> u8 {
    if F::IS_V6 { 128 } else { 8 }
}

/// ICMP echo reply, by family.
#[must_use]
pub const fn echo_reply<F: Family>() -> u8 {
    if F::IS_V6 { 129 } else { 0 }
}

/// True for messages that carry the packet they are about: unreachable, too big, time exceeded, parameter problem.
#[inline(always)]
#[must_use]
pub const fn is_icmp_error<F: Family>(kind: u8) -> bool {
    if F::IS_V6 {
        matches!(kind, 1..=4)
    } else {
        matches!(kind, 3 | 4 | 11 | 12)
    }
}

#[inline(always)]
fn icmp<F: Family, B: Bytes + ?Sized>(
    b: &B,
    at: usize,
    h: &mut Headers<F>,
) -> Result<(), Malformed> {
    let header: IcmpHeader = b.get(at).ok_or(Malformed::Truncated)?;
    (h.icmp_type, h.icmp_code) = (header.kind, header.code);
    if h.icmp_type == echo_request::<F>() || h.icmp_type == echo_reply::<F>() {
        h.icmp = Icmp::Echo;
        if h.icmp_type == echo_request::<F>() {
            h.tuple.sport = header.id
        } else {
            h.tuple.dport = header.id
        }
    } else if is_icmp_error::<F>(h.icmp_type) {
        h.icmp = Icmp::Error;
    }
    Ok(())
}

/// The packet that the ICMP error `h` is about; of TCP only the first eight bytes need be there.
///
/// # Errors
/// See [`Malformed`]; an error about an ICMP message that is no flow's, another error above all, is [`Malformed::Invalid`].
#[inline(always)]
pub fn embedded<F: Family, B: Bytes + ?Sized>(
    b: &B,
    h: &Headers<F>,
) -> Result<Headers<F>, Malformed> {
    let net = network::<F, B>(b, h.l4() + 8)?;
    if net.proto == TCP {
        // Its ports stand where those of UDP stand, and more than them need not be there.
        let mut inner = transport(b, &Network { proto: UDP, ..net })?;
        inner.tuple.proto = TCP;
        return Ok(inner);
    }
    let inner = transport(b, &net)?;
    let has_ports = net.proto != F::ICMP || inner.icmp == Icmp::Echo || inner.fragment.is_later();
    if has_ports {
        Ok(inner)
    } else {
        Err(Malformed::Invalid)
    }
}
