//! Network policy: the rows that the programs ask, and what comes of it.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Direction;

/// Key of a row. Subject, direction and remote are compared whole, protocol and port by prefix.
///
/// Rows whose prefix is whole stand in [`crate::names::POLICY_PORTS`], all others in [`crate::names::POLICY`].
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
pub struct PolicyKey {
    /// Bits that count: [`PolicyKey::FIXED_BITS`] and those of protocol and port.
    pub prefix_len: u32,
    /// Whose policy it is: a number that endpoints of the same policy share.
    pub subject: u32,
    /// Security identity of the other side; zero stands for anybody.
    pub remote: u32,
    /// A [`Direction`], seen from the subject: ingress or egress.
    pub direction: u8,
    /// IP protocol.
    pub proto: u8,
    /// Destination port, big endian; the type of an ICMP message.
    pub port: [u8; 2],
}

impl PolicyKey {
    /// Bits of the key before protocol and port.
    pub const FIXED_BITS: u32 = 72;
    /// Bits of protocol and port.
    pub const L4_BITS: u32 = 24;
    /// Bits of the protocol.
    pub const PROTO_BITS: u32 = 8;

    /// Bits of protocol and port that count.
    #[must_use]
    pub const fn l4_len(&self) -> u32 {
        self.prefix_len.saturating_sub(Self::FIXED_BITS)
    }

    /// True if the key is of one port.
    #[must_use]
    pub const fn is_port(&self) -> bool {
        self.prefix_len == Self::FIXED_BITS + Self::L4_BITS
    }
}

/// Key of [`crate::names::POLICY_PORTS`]: a [`PolicyKey`] without the length of its prefix, which is whole.
///
/// Most rows are of one port. A trie takes five times as long to take one as a table, and longer to find it.
#[repr(C)]
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
pub struct PolicyPortKey {
    /// As [`PolicyKey::subject`].
    pub subject: u32,
    /// As [`PolicyKey::remote`].
    pub remote: u32,
    /// As [`PolicyKey::direction`].
    pub direction: u8,
    /// As [`PolicyKey::proto`].
    pub proto: u8,
    /// As [`PolicyKey::port`].
    pub port: [u8; 2],
}

impl From<PolicyKey> for PolicyPortKey {
    fn from(key: PolicyKey) -> Self {
        Self {
            subject: key.subject,
            remote: key.remote,
            direction: key.direction,
            proto: key.proto,
            port: key.port,
        }
    }
}

impl From<PolicyPortKey> for PolicyKey {
    fn from(key: PolicyPortKey) -> Self {
        Self {
            prefix_len: Self::FIXED_BITS + Self::L4_BITS,
            subject: key.subject,
            remote: key.remote,
            direction: key.direction,
            proto: key.proto,
            port: key.port,
        }
    }
}

/// Values of [`PolicyValue::verdict`]; any other number drops, too.
pub mod policy_verdict {
    /// Pass.
    pub const ALLOW: u8 = 1;
    /// Drop: a rule says so.
    pub const DENY: u8 = 2;
    /// Drop: as if there were no row. Stands beside shorter prefixes that say otherwise.
    pub const UNMATCHED: u8 = 3;
}

/// Origins of rows ([`PolicyValue::origin`]) that stand for no rule.
pub mod policy_origin {
    /// No row.
    pub const NOTHING: u32 = 0;
    /// Nothing is needed in this direction: no event tells of such packets.
    pub const DEFAULT_ALLOW: u32 = 1;
    /// The host reaches its pods.
    pub const LOCALHOST: u32 = 2;
}

/// Value of [`crate::names::POLICY`] and [`crate::names::POLICY_PORTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PolicyValue {
    /// One of [`policy_verdict`].
    pub verdict: u8,
    /// [`PolicyKey::l4_len`] of the key: a look-up does not tell which prefix it found.
    pub l4_len: u8,
    /// A [`ProxyKind`](crate::ProxyKind): what the row allows goes by way of the proxy; zero: it goes as it is. Of rows that drop always zero.
    pub proxy: u8,
    /// Always zero.
    pub pad: u8,
    /// Of two rows the one with the greater number counts.
    pub precedence: u32,
    /// Which rules the row came from: a number for events.
    pub origin: u32,
    /// How often the row decided on a packet that begins something. Programs count; what is written anew begins at zero.
    pub decided: u32,
}

/// By which parts of its key the row that counts was found ([`crate::FlowEvent::matched`]).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyMatch {
    /// No row.
    None = 0,
    /// Identity.
    L3Only = 1,
    /// Identity, protocol and port.
    L3L4 = 2,
    /// Protocol and port.
    L4Only = 3,
    /// A row for everything.
    All = 4,
    /// Identity and protocol.
    L3Proto = 5,
    /// Protocol.
    ProtoOnly = 6,
}

impl PolicyMatch {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::L3Only,
        Self::L3L4,
        Self::L4Only,
        Self::All,
        Self::L3Proto,
        Self::ProtoOnly,
    ];

    /// The kind with this number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        if (number as usize) < Self::ALL.len() {
            Some(Self::ALL[number as usize])
        } else {
            None
        }
    }

    /// The word that `monitor` and Hubble print.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::L3Only => "L3-Only",
            Self::L3L4 => "L3-L4",
            Self::L4Only => "L4-Only",
            Self::All => "all",
            Self::L3Proto => "L3-Proto",
            Self::ProtoOnly => "Proto-Only",
        }
    }
}

const _: () =
    assert!(size_of::<PolicyKey>() as u32 * 8 == 32 + PolicyKey::FIXED_BITS + PolicyKey::L4_BITS);
const _: () = assert!(
    core::mem::offset_of!(PolicyKey, subject) + size_of::<PolicyPortKey>()
        == size_of::<PolicyKey>(),
    "the programs take the one out of the other"
);
const _: () = assert!(
    Direction::Ingress as u8 == 1 && Direction::Egress as u8 == 2,
    "they are in keys"
);
