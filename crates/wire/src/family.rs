//! What differs between IPv4 and IPv6.
use abi::{
    CtKey4, CtKey6, EndpointKey, FragKey4, FragKey6, IpcacheKey, SnatEntry4, SnatEntry6, SnatKey4,
    SnatKey6, ct_scope, identity,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use crate::{
    Tuple,
    headers::{self, Bytes, Malformed, Network},
};

/// IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4;
/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6;

/// An address family: sizes, numbers, and the map keys made of its addresses.
///
/// Addresses are held in words as they lie in memory (network order), since the eBPF back end moves words; they become byte
/// arrays only in keys.
pub trait Family: Copy + core::fmt::Debug + Eq + 'static {
    /// An address as words in network order.
    type Addr: Copy + core::fmt::Debug + Eq + FromBytes + IntoBytes + KnownLayout + Immutable;
    /// Key of the conntrack map.
    type CtKey: Copy;
    /// Key of the masquerade map.
    type SnatKey: Copy;
    /// Value of the masquerade map.
    type SnatEntry: Copy;
    /// Key of the fragment map.
    type FragKey: Copy;

    /// True for IPv6.
    const IS_V6: bool;
    /// `EtherType`, host order.
    const ETHERTYPE: u16;
    /// Protocol number of this family's ICMP.
    const ICMP: u8;
    /// Length of the fixed header.
    const HEADER_LEN: usize;
    /// Offset of the source address in the header; the destination follows.
    const SRC_OFFSET: usize;
    /// Length of an address.
    const ADDR_LEN: usize;
    /// Identity of addresses outside the cluster where both families are on.
    const WORLD: u32;

    /// True if `a` orders before `b` as a network-order number.
    fn less(a: Self::Addr, b: Self::Addr) -> bool;
    /// The unspecified address.
    fn zero() -> Self::Addr;
    /// Reads this family's header at `offset`.
    ///
    /// # Errors
    /// See [`Malformed`].
    fn network<B: Bytes + ?Sized>(b: &B, offset: usize) -> Result<Network<Self>, Malformed>;
    /// The address's first four bytes: all of it in IPv4.
    fn first_word(addr: Self::Addr) -> u32;
    /// The address in sixteen bytes.
    fn widen(addr: Self::Addr) -> [u8; 16];
    /// True for multicast and, in IPv4, broadcast.
    fn is_multicast(addr: Self::Addr) -> bool;
    /// True if `addr` lies in the prefix of `len` bits of `net`; a `len` beyond the address never matches.
    fn in_prefix(addr: Self::Addr, net: Self::Addr, len: u32) -> bool;
    /// Key of the endpoint map.
    fn endpoint_key(addr: Self::Addr) -> EndpointKey;
    /// Key of the address cache for exactly this address.
    fn ipcache_key(addr: Self::Addr) -> IpcacheKey;
    /// The address of a machine for itself.
    fn local_host() -> Self::Addr;
    /// The address under which a pod meets itself, where a service leads it back: nobody else has it.
    fn loopback() -> Self::Addr;
    /// Key of a connection in the conntrack map, and whether the packet comes from end `b` of it.
    #[inline(always)]
    fn ct_key(tuple: &Tuple<Self>) -> (Self::CtKey, bool) {
        Self::ct_key_of(tuple, ct_scope::CONNECTION)
    }
    /// As [`Family::ct_key`], for one of [`ct_scope`].
    fn ct_key_of(tuple: &Tuple<Self>, scope: u8) -> (Self::CtKey, bool);
    /// Key of the masquerade map.
    fn snat_key(tuple: &Tuple<Self>, flags: u8) -> Self::SnatKey;
    /// Value of the masquerade map.
    fn snat_entry(created: u64, addr: Self::Addr, port: u16) -> Self::SnatEntry;
    /// Address and port of a masquerade entry.
    fn snat_target(entry: &Self::SnatEntry) -> (Self::Addr, u16);
    /// Key of the fragment map.
    fn frag_key(src: Self::Addr, dst: Self::Addr, id: u32, proto: u8) -> Self::FragKey;
}

macro_rules! keys {
    ($ct:ident, $snat:ident, $entry:ident, $frag:ident, $pad:literal) => {
        type CtKey = $ct;
        type SnatKey = $snat;
        type SnatEntry = $entry;
        type FragKey = $frag;

        #[inline(always)]
        fn ct_key_of(t: &Tuple<Self>, scope: u8) -> ($ct, bool) {
            let from_b = if t.src == t.dst {
                u16::from_be(t.sport) > u16::from_be(t.dport)
            } else {
                Self::less(t.dst, t.src)
            };
            let (a, b, port_a, port_b) = if from_b {
                (t.dst, t.src, t.dport, t.sport)
            } else {
                (t.src, t.dst, t.sport, t.dport)
            };
            let key = $ct {
                a: transmute!(a),
                b: transmute!(b),
                port_a: port_a.to_ne_bytes(),
                port_b: port_b.to_ne_bytes(),
                proto: t.proto,
                scope,
                pad: [0; 2],
            };
            (key, from_b)
        }

        #[inline(always)]
        fn snat_key(t: &Tuple<Self>, flags: u8) -> $snat {
            $snat {
                src: transmute!(t.src),
                dst: transmute!(t.dst),
                sport: t.sport.to_ne_bytes(),
                dport: t.dport.to_ne_bytes(),
                proto: t.proto,
                flags,
                pad: [0; 2],
            }
        }

        #[inline(always)]
        fn snat_entry(created: u64, addr: Self::Addr, port: u16) -> $entry {
            $entry {
                created,
                addr: transmute!(addr),
                port: port.to_ne_bytes(),
                pad: [0; $pad],
            }
        }

        #[inline(always)]
        fn snat_target(entry: &$entry) -> (Self::Addr, u16) {
            (transmute!(entry.addr), u16::from_ne_bytes(entry.port))
        }

        #[inline(always)]
        fn frag_key(src: Self::Addr, dst: Self::Addr, id: u32, proto: u8) -> $frag {
            $frag {
                src: transmute!(src),
                dst: transmute!(dst),
                id: id.to_ne_bytes(),
                proto,
                pad: [0; 3],
            }
        }
    };
}

impl Family for V4 {
    type Addr = u32;

    const IS_V6: bool = false;
    const ETHERTYPE: u16 = 0x0800;
    const ICMP: u8 = 1;
    const HEADER_LEN: usize = 20;
    const SRC_OFFSET: usize = 12;
    const ADDR_LEN: usize = 4;
    const WORLD: u32 = identity::WORLD_IPV4;

    #[inline(always)]
    fn less(a: u32, b: u32) -> bool {
        u32::from_be(a) < u32::from_be(b)
    }

    #[inline(always)]
    fn zero() -> u32 {
        0
    }

    #[inline(always)]
    fn local_host() -> u32 {
        u32::from_ne_bytes([127, 0, 0, 1])
    }

    /// 169.254.42.1.
    #[inline(always)]
    fn loopback() -> u32 {
        u32::from_ne_bytes([169, 254, 42, 1])
    }

    #[inline(always)]
    fn network<B: Bytes + ?Sized>(b: &B, offset: usize) -> Result<Network<Self>, Malformed> {
        headers::network4(b, offset)
    }

    #[inline(always)]
    fn first_word(addr: u32) -> u32 {
        addr
    }

    #[inline(always)]
    fn widen(addr: u32) -> [u8; 16] {
        transmute!([addr, 0, 0, 0])
    }

    #[inline(always)]
    fn is_multicast(addr: u32) -> bool {
        u32::from_be(addr) >= 0xE000_0000
    }

    #[inline(always)]
    fn in_prefix(addr: u32, net: u32, len: u32) -> bool {
        len <= 32 && u64::from(u32::from_be(addr ^ net)) >> (32 - len) == 0
    }

    #[inline(always)]
    fn endpoint_key(addr: u32) -> EndpointKey {
        EndpointKey {
            ip: Self::widen(addr),
            family: abi::family::V4,
            pad: 0,
            cluster_id: 0,
        }
    }

    #[inline(always)]
    fn ipcache_key(addr: u32) -> IpcacheKey {
        IpcacheKey {
            prefix_len: IpcacheKey::STATIC_BITS + 32,
            cluster_id: 0,
            pad: 0,
            family: abi::family::V4,
            ip: Self::widen(addr),
        }
    }

    keys!(CtKey4, SnatKey4, SnatEntry4, FragKey4, 2);
}

impl V6 {
    /// `::ffff:a.b.c.d`: how an address of IPv4 is written as one of IPv6. No packet has such a one.
    #[inline(always)]
    #[must_use]
    pub const fn mapped(addr: u32) -> [u64; 2] {
        [0, (MAPPED | (u32::from_be(addr) as u64)).to_be()]
    }

    /// The address of IPv4 that this one of IPv6 stands for.
    #[inline(always)]
    #[must_use]
    pub const fn unmapped(addr: [u64; 2]) -> Option<u32> {
        let low = u64::from_be(addr[1]);
        if addr[0] == 0 && low >> 32 == MAPPED >> 32 {
            Some((low as u32).to_be())
        } else {
            None
        }
    }
}

/// The low half of `::ffff:0:0/96`, host order.
const MAPPED: u64 = 0xFFFF << 32;

impl Family for V6 {
    type Addr = [u64; 2];

    const IS_V6: bool = true;
    const ETHERTYPE: u16 = 0x86DD;
    const ICMP: u8 = 58;
    const HEADER_LEN: usize = 40;
    const SRC_OFFSET: usize = 8;
    const ADDR_LEN: usize = 16;
    const WORLD: u32 = identity::WORLD_IPV6;

    #[inline(always)]
    fn less(a: [u64; 2], b: [u64; 2]) -> bool {
        if a[0] == b[0] {
            u64::from_be(a[1]) < u64::from_be(b[1])
        } else {
            u64::from_be(a[0]) < u64::from_be(b[0])
        }
    }

    #[inline(always)]
    fn zero() -> [u64; 2] {
        [0; 2]
    }

    #[inline(always)]
    fn local_host() -> [u64; 2] {
        [0, 1_u64.to_be()]
    }

    /// 100::a9fe:2a01, of the range whose packets every router discards.
    #[inline(always)]
    fn loopback() -> [u64; 2] {
        [0x0100_u64 << 48, 0xA9FE_2A01].map(u64::to_be)
    }

    #[inline(always)]
    fn network<B: Bytes + ?Sized>(b: &B, offset: usize) -> Result<Network<Self>, Malformed> {
        headers::network6(b, offset)
    }

    #[inline(always)]
    fn first_word(addr: [u64; 2]) -> u32 {
        let halves: [u32; 4] = transmute!(addr);
        halves[0]
    }

    #[inline(always)]
    fn widen(addr: [u64; 2]) -> [u8; 16] {
        transmute!(addr)
    }

    #[inline(always)]
    fn is_multicast(addr: [u64; 2]) -> bool {
        u64::from_be(addr[0]) >> 56 == 0xFF
    }

    #[inline(always)]
    fn in_prefix(addr: [u64; 2], net: [u64; 2], len: u32) -> bool {
        let high = u64::from_be(addr[0] ^ net[0]);
        let low = u64::from_be(addr[1] ^ net[1]);
        match len {
            0 => true,
            1..=64 => high >> (64 - len) == 0,
            65..=128 => high == 0 && low >> (128 - len) == 0,
            _ => false,
        }
    }

    #[inline(always)]
    fn endpoint_key(addr: [u64; 2]) -> EndpointKey {
        EndpointKey {
            ip: transmute!(addr),
            family: abi::family::V6,
            pad: 0,
            cluster_id: 0,
        }
    }

    #[inline(always)]
    fn ipcache_key(addr: [u64; 2]) -> IpcacheKey {
        IpcacheKey {
            prefix_len: IpcacheKey::STATIC_BITS + 128,
            cluster_id: 0,
            pad: 0,
            family: abi::family::V6,
            ip: transmute!(addr),
        }
    }

    keys!(CtKey6, SnatKey6, SnatEntry6, FragKey6, 6);
}
