//! Masquerade mappings and fragments.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Values of the `flags` field of the masquerade keys.
pub mod snat_flags {
    /// The original tuple of a packet that leaves; the entry says what its source becomes.
    pub const OUT: u8 = 0;
    /// The tuple of a packet that returns; the entry says what its destination becomes.
    pub const IN: u8 = 1;
    /// The tuple of an answer to a client whose packets another node passed on; the entry says what its source becomes: the frontend.
    pub const DIRECT: u8 = 2;
}

macro_rules! nat_types {
    ($key:ident, $entry:ident, $frag:ident, $addr:ty, $family:literal, $pad:literal) => {
        #[doc = concat!("Key of the IPv", $family, " masquerade map: a tuple as it stands in the packet.")]
        #[repr(C, align(8))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $key {
            /// Source address.
            pub src: $addr,
            /// Destination address.
            pub dst: $addr,
            /// Source port, big endian; the identifier for ICMP echo requests.
            pub sport: [u8; 2],
            /// Destination port, big endian; the identifier for ICMP echo replies.
            pub dport: [u8; 2],
            /// IP protocol.
            pub proto: u8,
            /// One of [`snat_flags`].
            pub flags: u8,
            /// Always zero.
            pub pad: [u8; 2],
        }

        #[doc = concat!("Value of the IPv", $family, " masquerade map.")]
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $entry {
            /// When the mapping was made, in nanoseconds of the monotonic clock.
            pub created: u64,
            /// The new source (outwards, directly) or destination (inwards) address.
            pub addr: $addr,
            /// The new port or identifier, big endian.
            pub port: [u8; 2],
            /// Always zero.
            pub pad: [u8; $pad],
        }

        #[doc = concat!("Key of the IPv", $family, " fragment map.")]
        #[repr(C, align(8))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $frag {
            /// Source address.
            pub src: $addr,
            /// Destination address.
            pub dst: $addr,
            /// The datagram's identification (two bytes of it in IPv4).
            pub id: [u8; 4],
            /// IP protocol of the whole datagram.
            pub proto: u8,
            /// Always zero.
            pub pad: [u8; 3],
        }
    };
}

nat_types!(SnatKey4, SnatEntry4, FragKey4, [u8; 4], "4", 2);
nat_types!(SnatKey6, SnatEntry6, FragKey6, [u8; 16], "6", 6);

/// Value of the fragment maps: what only the first fragment tells.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct FragValue {
    /// Source port, big endian.
    pub sport: [u8; 2],
    /// Destination port, big endian.
    pub dport: [u8; 2],
}
