//! From bytes to headers: IPv4 with options, IPv6 with extension headers, TCP, UDP, SCTP, ICMP and the packet inside an ICMP error.
use crate::{Family, Tuple};

/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// SCTP.
pub const SCTP: u8 = 132;

/// Read access to a packet, bounds checked; numbers come as they lie in memory.
pub trait Bytes {
    /// One byte, `None` beyond the end.
    fn u8(&self, offset: usize) -> Option<u8>;
    /// Two bytes in network order.
    fn u16(&self, offset: usize) -> Option<u16>;
    /// Four bytes in network order.
    fn u32(&self, offset: usize) -> Option<u32>;
    /// Eight bytes in network order.
    fn u64(&self, offset: usize) -> Option<u64>;
}

impl Bytes for [u8] {
    fn u8(&self, offset: usize) -> Option<u8> {
        self.get(offset).copied()
    }

    fn u16(&self, offset: usize) -> Option<u16> {
        self.get(offset..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        self.get(offset..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        self.get(offset..)?.first_chunk().map(|b| u64::from_ne_bytes(*b))
    }
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

/// What part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first fragment, with the L4 header; the datagram's identification.
    First(u32),
    /// A later fragment, without L4 header; the datagram's identification.
    Later(u32),
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
    /// Offset of the L4 header.
    pub l4: usize,
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

/// Reads the IPv4 or IPv6 header at `offset`.
///
/// # Errors
/// See [`Malformed`].
#[inline(always)]
pub fn network<F: Family, B: Bytes + ?Sized>(b: &B, offset: usize) -> Result<Network<F>, Malformed> {
    if F::IS_V6 { network6(b, offset) } else { network4(b, offset) }
}

#[inline(always)]
fn network4<F: Family, B: Bytes + ?Sized>(b: &B, offset: usize) -> Result<Network<F>, Malformed> {
    let first = b.u8(offset).ok_or(Malformed::Truncated)?;
    let header_len = ((first & 0xF) as usize) << 2;
    if first >> 4 != 4 || header_len < F::HEADER_LEN {
        return Err(Malformed::Invalid);
    }
    let src = address::<F, B>(b, offset + F::SRC_OFFSET).ok_or(Malformed::Truncated)?;
    let dst = address::<F, B>(b, offset + F::SRC_OFFSET + F::ADDR_LEN).ok_or(Malformed::Truncated)?;
    let total = u16::from_be(b.u16(offset + 2).ok_or(Malformed::Truncated)?);
    let frag = u16::from_be(b.u16(offset + 6).ok_or(Malformed::Truncated)?);
    let proto = b.u8(offset + 9).ok_or(Malformed::Truncated)?;
    if (total as usize) < header_len && total != 0 {
        return Err(Malformed::Invalid);
    }
    let fragment = match (frag & 0x1FFF, frag & 0x2000) {
        (0, 0) => Fragment::Whole,
        (at, _) => {
            let id = u32::from(b.u16(offset + 4).ok_or(Malformed::Truncated)?);
            if at == 0 { Fragment::First(id) } else { Fragment::Later(id) }
        }
    };
    Ok(Network { src, dst, proto, payload: offset + header_len, fragment })
}

/// Extension headers that are passed over before a packet is given up.
const MAX_EXTENSIONS: usize = 6;

#[inline(always)]
fn network6<F: Family, B: Bytes + ?Sized>(b: &B, offset: usize) -> Result<Network<F>, Malformed> {
    let first = b.u8(offset).ok_or(Malformed::Truncated)?;
    if first >> 4 != 6 {
        return Err(Malformed::Invalid);
    }
    let src = address::<F, B>(b, offset + F::SRC_OFFSET).ok_or(Malformed::Truncated)?;
    let dst = address::<F, B>(b, offset + F::SRC_OFFSET + F::ADDR_LEN).ok_or(Malformed::Truncated)?;
    let mut proto = b.u8(offset + 6).ok_or(Malformed::Truncated)?;
    let mut payload = offset + F::HEADER_LEN;
    let mut fragment = Fragment::Whole;
    if is_extension(proto) {
        (proto, payload, fragment) = extensions(b, proto, payload)?;
    }
    Ok(Network { src, dst, proto, payload, fragment })
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

#[inline(always)]
const fn is_extension(proto: u8) -> bool {
    matches!(proto, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY)
}

/// Walks the extension headers from `at`: final protocol, its offset, and the fragment header's word.
#[inline(always)]
fn extensions<B: Bytes + ?Sized>(b: &B, mut proto: u8, mut at: usize) -> Result<(u8, usize, Fragment), Malformed> {
    let mut fragment = Fragment::Whole;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(proto) {
            return Ok((proto, at, fragment));
        }
        let next = b.u8(at).ok_or(Malformed::Truncated)?;
        let size = b.u8(at + 1).ok_or(Malformed::Truncated)? as usize;
        at += match proto {
            FRAGMENT => {
                let word = u16::from_be(b.u16(at + 2).ok_or(Malformed::Truncated)?);
                let id = b.u32(at + 4).ok_or(Malformed::Truncated)?;
                if word & 0xFFF8 != 0 {
                    // The rest is payload of a datagram whose headers came with the first fragment.
                    return Ok((next, at + 8, Fragment::Later(id)));
                }
                if word & 1 != 0 {
                    fragment = Fragment::First(id);
                }
                8
            }
            AUTHENTICATION => (size + 2) << 2,
            _ => (size + 1) << 3,
        };
        proto = next;
    }
    if is_extension(proto) { Err(Malformed::Extension) } else { Ok((proto, at, fragment)) }
}

/// The address at `offset`.
#[inline(always)]
pub fn address<F: Family, B: Bytes + ?Sized>(b: &B, offset: usize) -> Option<F::Addr> {
    use zerocopy::FromBytes;
    if F::IS_V6 {
        let words = [b.u64(offset)?, b.u64(offset + 8)?];
        F::Addr::read_from_bytes(zerocopy::IntoBytes::as_bytes(&words)).ok()
    } else {
        let word = b.u32(offset)?;
        F::Addr::read_from_bytes(zerocopy::IntoBytes::as_bytes(&word)).ok()
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
/// [`Malformed::Truncated`] if the ports are not in the packet, [`Malformed::Invalid`] for a TCP header shorter than its minimum.
#[inline(always)]
pub fn transport<F: Family, B: Bytes + ?Sized>(b: &B, net: &Network<F>) -> Result<Headers<F>, Malformed> {
    let mut h = Headers {
        tuple: Tuple { src: net.src, dst: net.dst, sport: 0, dport: 0, proto: net.proto },
        l4: net.payload,
        fragment: net.fragment,
        tcp_flags: 0,
        icmp: Icmp::None,
        icmp_type: 0,
        icmp_code: 0,
    };
    if matches!(net.fragment, Fragment::Later(_)) {
        return Ok(h);
    }
    let at = net.payload;
    if net.proto == TCP || net.proto == UDP || net.proto == SCTP {
        h.tuple.sport = b.u16(at).ok_or(Malformed::Truncated)?;
        h.tuple.dport = b.u16(at + 2).ok_or(Malformed::Truncated)?;
        if net.proto == TCP {
            h.tcp_flags = b.u8(at + 13).ok_or(Malformed::Truncated)?;
            if b.u8(at + 12).ok_or(Malformed::Truncated)? >> 4 < 5 {
                return Err(Malformed::Invalid);
            }
        }
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
    if F::IS_V6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 11 | 12) }
}

#[inline(always)]
fn icmp<F: Family, B: Bytes + ?Sized>(b: &B, at: usize, h: &mut Headers<F>) -> Result<(), Malformed> {
    h.icmp_type = b.u8(at).ok_or(Malformed::Truncated)?;
    h.icmp_code = b.u8(at + 1).ok_or(Malformed::Truncated)?;
    if h.icmp_type == echo_request::<F>() || h.icmp_type == echo_reply::<F>() {
        h.icmp = Icmp::Echo;
        let id = b.u16(at + 4).ok_or(Malformed::Truncated)?;
        if h.icmp_type == echo_request::<F>() { h.tuple.sport = id } else { h.tuple.dport = id }
    } else if is_icmp_error::<F>(h.icmp_type) {
        h.icmp = Icmp::Error;
    }
    Ok(())
}

/// The packet that the ICMP error `h` is about; of TCP only the first eight bytes need be there.
///
/// # Errors
/// See [`Malformed`]; an error about an ICMP error is [`Malformed::Invalid`].
#[inline(always)]
pub fn embedded<F: Family, B: Bytes + ?Sized>(b: &B, h: &Headers<F>) -> Result<Headers<F>, Malformed> {
    let net = network::<F, B>(b, h.l4 + 8)?;
    if net.proto == TCP {
        let at = net.payload;
        let mut inner = transport(b, &Network { proto: UDP, ..net })?;
        inner.tuple.proto = TCP;
        inner.l4 = at;
        return Ok(inner);
    }
    let inner = transport(b, &net)?;
    if inner.icmp == Icmp::Error { Err(Malformed::Invalid) } else { Ok(inner) }
}
