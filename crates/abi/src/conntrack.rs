//! Connection tracking: one entry per connection, both directions in it.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of [`crate::names::CT4`]: a tuple whose lower (address, port) end stands first, so that both directions of a connection
/// find the same entry.
#[repr(C, align(8))]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
)]
pub struct CtKey4 {
    /// Lower address.
    pub a: [u8; 4],
    /// Higher address.
    pub b: [u8; 4],
    /// Port at `a`, big endian; the identifier for ICMP echo.
    pub port_a: [u8; 2],
    /// Port at `b`, big endian; the identifier for ICMP echo.
    pub port_b: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// One of [`ct_scope`].
    pub scope: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

/// Key of [`crate::names::CT6`]; see [`CtKey4`].
#[repr(C, align(8))]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
)]
pub struct CtKey6 {
    /// Lower address.
    pub a: [u8; 16],
    /// Higher address.
    pub b: [u8; 16],
    /// Port at `a`, big endian; the identifier for ICMP echo.
    pub port_a: [u8; 2],
    /// Port at `b`, big endian; the identifier for ICMP echo.
    pub port_b: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// One of [`ct_scope`].
    pub scope: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

/// Values of the `scope` field of the keys.
pub mod ct_scope {
    /// A connection as its packets show it.
    pub const CONNECTION: u8 = 0;
    /// A client's connection to a frontend, which remembers the backend. What comes of it has an entry of the other scope.
    pub const SERVICE: u8 = 1;
}

/// Bits of [`CtEntry::flags`].
pub mod ct_flags {
    /// The connection was opened by end `b` of the key.
    pub const FROM_B: u16 = 1;
    /// A FIN was seen from the side that opened.
    pub const ORIG_CLOSING: u16 = 2;
    /// A FIN was seen from the other side.
    pub const REPLY_CLOSING: u16 = 4;
    /// A RST was seen.
    pub const RESET: u16 = 8;
    /// A TCP segment other than the first SYN was seen from the side that opened.
    pub const SEEN_NON_SYN: u16 = 0x10;
    /// A packet of the other side was seen.
    pub const SEEN_REPLY: u16 = 0x20;
    /// The connection came in or goes out by the tunnel.
    pub const TUNNEL: u16 = 0x40;
    /// The source is masqueraded.
    pub const SNAT: u16 = 0x80;
    /// The connection came by a frontend at this node from outside.
    pub const NODE_PORT: u16 = 0x100;
    /// In an entry of [`super::ct_scope::SERVICE`]: the backend's node answers the client itself, so that only the side that opened is seen here.
    pub const DSR: u16 = 0x200;
    /// A pod reached itself by a frontend.
    pub const LOOPBACK: u16 = 0x400;
    /// Leg from the client to the proxy: what the side that opened sends goes to the proxy, and what it gets comes from there alone.
    pub const PROXY_FORWARD: u16 = 0x800;
    /// Leg from the proxy to the server: what the other side sends goes to the proxy, and what it gets comes from there alone.
    pub const PROXY_REPLY: u16 = 0x1000;
    /// Either leg of a connection that goes by way of the proxy.
    pub const PROXIED: u16 = PROXY_FORWARD | PROXY_REPLY;
}

/// Value of the conntrack maps.
///
/// Programs on several CPUs may write one entry at a time without locks: every field is written whole, and a lost update
/// costs at most one report or one second of life.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct CtEntry {
    /// When the entry ends if nothing more is seen, in seconds of the monotonic clock.
    pub expires: u32,
    /// When it began, in seconds of the monotonic clock.
    pub created: u32,
    /// When a packet of the connection was last reported, in seconds of the monotonic clock.
    pub last_report: u32,
    /// Bits of [`ct_flags`].
    pub flags: u16,
    /// TCP flags seen so far from the side that opened.
    pub orig_tcp: u8,
    /// TCP flags seen so far from the other side.
    pub reply_tcp: u8,
    /// Security identity of the side that opened.
    pub src_id: u32,
    /// Security identity of the other side; in an entry of [`ct_scope::SERVICE`] the number of the backend.
    pub dst_id: u32,
    /// Value of [`crate::names::POLICY_EPOCH`] when policy last allowed the connection: egress of the side that opened, ingress of
    /// the other. Zero where it was not asked, or denied it since.
    pub epochs: [u32; 2],
    /// Frontend that the connection came by, [`LbService::id`](crate::LbService::id) or [`DIRECT_FRONTEND`](crate::DIRECT_FRONTEND); zero is none.
    pub rev_nat: u16,
    /// Number of the local endpoint that the entry belongs to.
    pub endpoint: u16,
    /// Device by which the connection came from outside; zero if it did not.
    pub ifindex: u32,
    /// Packets from the side that opened, from the other side; zero unless accounting is on.
    pub packets: [u32; 2],
    /// Bytes from the side that opened, from the other side; zero unless accounting is on.
    pub bytes: [u64; 2],
}

/// What conntrack says of a packet; the numbers are those of the trace events' `reason` field.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtStatus {
    /// First packet of a connection.
    New = 0,
    /// From the side that opened.
    Established = 1,
    /// From the other side.
    Reply = 2,
    /// An ICMP error about a known connection.
    Related = 3,
    /// A new connection in place of one that had ended.
    Reopened = 4,
    /// Not looked up.
    Unknown = 5,
}

impl CtStatus {
    /// The number's status; unknown numbers give [`CtStatus::Unknown`].
    #[must_use]
    pub const fn from_u8(n: u8) -> Self {
        match n {
            0 => Self::New,
            1 => Self::Established,
            2 => Self::Reply,
            3 => Self::Related,
            4 => Self::Reopened,
            _ => Self::Unknown,
        }
    }

    /// The word that `monitor` prints.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Reply => "reply",
            Self::Related => "related",
            Self::Reopened => "reopened",
            Self::Unknown => "unknown",
        }
    }
}
