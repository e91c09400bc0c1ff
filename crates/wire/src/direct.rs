//! The frontend's place in a packet that goes on to the node of its backend, which answers the client in the frontend's name.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use crate::{
    Family, Headers, V4, V6,
    conntrack::{ACK, SYN},
    headers::{SCTP, TCP, UDP},
};

/// Type of the IPv4 option: fragments carry it, too.
const OPTION4: u8 = 0x9A;
/// Type of the IPv6 option: who does not know it passes it over, and nobody changes it on the way.
const OPTION6: u8 = 0x1B;
/// Length of the IPv6 option, without type and length.
const OPTION6_LEN: u8 = 20;
/// The IPv6 extension header whose options are for the receiver.
const DESTINATION_OPTIONS: u8 = 60;
/// Class of the Geneve option, network order.
const GENEVE_CLASS: u16 = 0x014B_u16.to_be();
/// Type of the Geneve option: who does not know it must not take the packet.
const GENEVE_KIND: u8 = 0x81;

/// The IPv4 option.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Option4 {
    kind: u8,
    len: u8,
    port: u16,
    addr: u32,
}

/// An IPv6 extension header with the one option.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Option6 {
    next: u8,
    size: u8,
    kind: u8,
    len: u8,
    addr: [u32; 4],
    port: u16,
    pad: u16,
}

/// Defines the Geneve option with an address of so many words.
macro_rules! geneve {
    ($name:ident, $words:literal) => {
        /// The Geneve option.
        #[repr(C)]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
        )]
        pub struct $name {
            class: u16,
            kind: u8,
            words: u8,
            addr: [u32; $words],
            port: u16,
            pad: u16,
        }

        impl $name {
            /// Words behind the first: address, port and padding.
            const WORDS: u8 = $words + 1;

            #[inline(always)]
            fn new(addr: [u32; $words], port: u16) -> Self {
                Self {
                    class: GENEVE_CLASS,
                    kind: GENEVE_KIND,
                    words: Self::WORDS,
                    addr,
                    port,
                    pad: 0,
                }
            }

            #[inline(always)]
            fn is_one(&self) -> bool {
                // The upper bits of the length are reserved.
                self.class == GENEVE_CLASS
                    && self.kind == GENEVE_KIND
                    && self.words & 0x1F == Self::WORDS
            }
        }
    };
}
geneve!(Geneve4, 1);
geneve!(Geneve6, 4);

/// How the families tell a frontend's place; ports and addresses in network order.
pub trait Direct: Family {
    /// What stands between the fixed header and the rest of the packet.
    type Label: Copy + FromBytes + IntoBytes;
    /// An option of a Geneve tunnel.
    type Geneve: Copy + FromBytes + IntoBytes;

    /// Whether the packet has a label, by the word of its fixed header that says what follows ([`Direct::WORD`]).
    fn may_have_label(word: u16) -> bool;
    /// Offset of that word.
    const WORD: usize;

    /// The label; `next` is the protocol of what follows.
    fn option(addr: Self::Addr, port: u16, next: u8) -> Self::Label;
    /// Address and port that a label tells.
    fn read_option(label: &Self::Label) -> Option<(Self::Addr, u16)>;
    /// The option of a tunnel.
    fn geneve(addr: Self::Addr, port: u16) -> Self::Geneve;
    /// Address and port that a tunnel's option tells.
    fn read_geneve(option: &Self::Geneve) -> Option<(Self::Addr, u16)>;
}

impl Direct for V4 {
    type Label = Option4;
    type Geneve = Geneve4;

    const WORD: usize = 0;

    #[inline(always)]
    fn may_have_label(word: u16) -> bool {
        word.to_ne_bytes()[0] & 0xF >= 7
    }

    #[inline(always)]
    fn option(addr: u32, port: u16, _: u8) -> Option4 {
        Option4 {
            kind: OPTION4,
            len: size_of::<Option4>() as u8,
            port,
            addr,
        }
    }

    #[inline(always)]
    fn read_option(label: &Option4) -> Option<(u32, u16)> {
        let is_one = label.kind == OPTION4 && label.len as usize == size_of::<Option4>();
        is_one.then_some((label.addr, label.port))
    }

    #[inline(always)]
    fn geneve(addr: u32, port: u16) -> Geneve4 {
        Geneve4::new([addr], port)
    }

    #[inline(always)]
    fn read_geneve(option: &Geneve4) -> Option<(u32, u16)> {
        option.is_one().then_some((option.addr[0], option.port))
    }
}

impl Direct for V6 {
    type Label = Option6;
    type Geneve = Geneve6;

    const WORD: usize = 6;

    #[inline(always)]
    fn may_have_label(word: u16) -> bool {
        word.to_ne_bytes()[0] == DESTINATION_OPTIONS
    }

    #[inline(always)]
    fn option(addr: [u64; 2], port: u16, next: u8) -> Option6 {
        Option6 {
            next,
            size: (size_of::<Option6>() / 8 - 1) as u8,
            kind: OPTION6,
            len: OPTION6_LEN,
            addr: transmute!(addr),
            port,
            pad: 0,
        }
    }

    #[inline(always)]
    fn read_option(label: &Option6) -> Option<([u64; 2], u16)> {
        let is_one = label.size == 2 && label.kind == OPTION6 && label.len == OPTION6_LEN;
        is_one.then_some((transmute!(label.addr), label.port))
    }

    #[inline(always)]
    fn geneve(addr: [u64; 2], port: u16) -> Geneve6 {
        Geneve6::new(transmute!(addr), port)
    }

    #[inline(always)]
    fn read_geneve(option: &Geneve6) -> Option<([u64; 2], u16)> {
        option
            .is_one()
            .then_some((transmute!(option.addr), option.port))
    }
}

/// What follows an IPv6 header with a label.
pub const LABELLED6: u8 = DESTINATION_OPTIONS;

/// Whether the packet tells its frontend: the first segment of a connection, every datagram; not what is in the middle of one.
#[inline(always)]
#[must_use]
pub const fn tells<F: Family>(h: &Headers<F>) -> bool {
    match h.tuple.proto {
        TCP => h.tcp_flags & (SYN | ACK) == SYN,
        UDP | SCTP => !h.fragment.is_later(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As they are on the wire of other implementations.
    #[test]
    fn labels_are_what_others_read() {
        let (addr, port) = (u32::from_ne_bytes([192, 0, 2, 7]), 30080_u16.to_be());
        let label = V4::option(addr, port, 6);
        assert_eq!(label.as_bytes(), [0x9A, 8, 0x75, 0x80, 192, 0, 2, 7]);
        assert_eq!(V4::read_option(&label), Some((addr, port)));
        let option = V4::geneve(addr, port);
        let bytes = [1, 0x4B, 0x81, 2, 192, 0, 2, 7, 0x75, 0x80, 0, 0];
        assert_eq!(option.as_bytes(), bytes);
        assert_eq!(V4::read_geneve(&option), Some((addr, port)));

        let octets: [u8; 16] = core::array::from_fn(|i| i as u8 + 0x20);
        let addr: [u64; 2] = transmute!(octets);
        let label = V6::option(addr, port, 17);
        let bytes = [&[17, 2, 0x1B, 20], &octets[..], &[0x75, 0x80, 0, 0]].concat();
        assert_eq!(label.as_bytes(), bytes);
        assert_eq!(V6::read_option(&label), Some((addr, port)));
        let option = V6::geneve(addr, port);
        let bytes = [&[1, 0x4B, 0x81, 5], &octets[..], &[0x75, 0x80, 0, 0]].concat();
        assert_eq!(option.as_bytes(), bytes);
        assert_eq!(V6::read_geneve(&option), Some((addr, port)));
    }

    #[test]
    fn other_options_tell_nothing() {
        let mut label = V4::option(1, 2, 6);
        label.kind = 0x94;
        assert_eq!(V4::read_option(&label), None);
        let mut label = V6::option([1, 2], 3, 6);
        label.size = 3;
        assert_eq!(V6::read_option(&label), None);
        let mut option = V4::geneve(1, 2);
        option.class = 0;
        assert_eq!(V4::read_geneve(&option), None);
        assert!(!V4::may_have_label(u16::from_ne_bytes([0x46, 0])));
        assert!(V4::may_have_label(u16::from_ne_bytes([0x47, 0])));
        assert!(V6::may_have_label(u16::from_ne_bytes([60, 64])));
        assert!(!V6::may_have_label(u16::from_ne_bytes([0, 64])));
    }
}
