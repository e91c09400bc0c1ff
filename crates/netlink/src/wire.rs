//! Reading of kernel answers: message headers and attributes, tolerant of everything it does not know.
//!
//! Answers are read here by hand, not through the packet crates' decoders: a newer kernel's unknown attribute must not
//! make a whole dump unreadable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ALIGN: usize = 4;
const HEADER: usize = 16;
const ATTR_HEADER: usize = 4;
const TYPE_MASK: u16 = 0x3fff;

/// One netlink message inside a datagram.
pub(crate) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub payload: &'a [u8],
}

/// Splits a datagram into messages; stops at the first malformed one.
pub(crate) fn messages(mut buf: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = read_u32(buf)? as usize;
        if len < HEADER || len > buf.len() {
            return None;
        }
        let message = Message {
            kind: read_u16(&buf[4..])?,
            flags: read_u16(&buf[6..])?,
            seq: read_u32(&buf[8..])?,
            payload: &buf[HEADER..len],
        };
        buf = &buf[len.next_multiple_of(ALIGN).min(buf.len())..];
        Some(message)
    })
}

/// Attributes of a message after its fixed header of `skip` bytes.
pub(crate) fn attrs(buf: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut buf = buf.get(skip.next_multiple_of(ALIGN)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = usize::from(read_u16(buf)?);
        if len < ATTR_HEADER || len > buf.len() {
            return None;
        }
        let attr = (read_u16(&buf[2..])? & TYPE_MASK, &buf[ATTR_HEADER..len]);
        buf = &buf[len.next_multiple_of(ALIGN).min(buf.len())..];
        Some(attr)
    })
}

pub(crate) fn read_u16(buf: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*buf.first_chunk()?))
}

pub(crate) fn read_u16_be(buf: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*buf.first_chunk()?))
}

pub(crate) fn read_u32(buf: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*buf.first_chunk()?))
}

pub(crate) fn read_i32(buf: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(*buf.first_chunk()?))
}

pub(crate) fn read_str(buf: &[u8]) -> String {
    let end = buf.iter().position(|b| *b == 0).unwrap_or(buf.len());
    String::from_utf8_lossy(&buf[..end]).into_owned()
}

pub(crate) fn read_ip(buf: &[u8]) -> Option<IpAddr> {
    match buf.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(*buf.first_chunk::<4>()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(*buf.first_chunk::<16>()?))),
        _ => None,
    }
}

/// The kernel's words in an error answer whose payload (after the number) is `body`.
pub(crate) fn ext_ack(body: &[u8], flags: u16) -> Option<String> {
    const ACK_TLVS: u16 = 512;
    const CAPPED: u16 = 256;
    const MSG: u16 = 1;
    if flags & ACK_TLVS == 0 {
        return None;
    }
    let request = if flags & CAPPED != 0 {
        HEADER
    } else {
        read_u32(body)? as usize
    };
    attrs(body, request)
        .find(|(kind, _)| *kind == MSG)
        .map(|(_, text)| read_str(text))
        .filter(|t| !t.is_empty())
}

/// One attribute as raw bytes, for what the packet crate cannot express.
pub(crate) fn raw_attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = (ATTR_HEADER + value.len()) as u16;
    let mut out = Vec::with_capacity(usize::from(len).next_multiple_of(ALIGN));
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_answers_end_the_iteration() {
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(messages(&[4, 0, 0, 0, 1, 2, 3, 4]).count(), 0);
        assert_eq!(messages(&[255; 64]).count(), 0);
        assert_eq!(attrs(&[3, 0, 1, 0], 0).count(), 0);
        assert_eq!(attrs(&[8, 0, 1, 0, 9, 9], 0).count(), 0);
        assert_eq!(attrs(&[1, 2], 16).count(), 0);
    }

    #[test]
    fn attributes_are_split_with_padding() {
        let mut buf = raw_attr(1, b"abc");
        buf.extend(raw_attr(2 | 0x8000, &7u32.to_ne_bytes()));
        let got: Vec<_> = attrs(&buf, 0).collect();
        assert_eq!(got, vec![(1, &b"abc"[..]), (2, &7u32.to_ne_bytes()[..])]);
    }
}
