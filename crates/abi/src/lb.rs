//! Services: what the programs look up to get from a frontend to a backend, and back.
//!
//! A frontend is a row of slot 0 in the services map, which says how many slots follow; each further slot names a backend. A row with
//! port and protocol zero says that an address has frontends at all: without it nobody looks further.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Stands for a frontend's number, which it never is: another node passed the connection on, and told the frontend's place. Answers find it in
/// the masquerade map, under [`crate::snat_flags::DIRECT`].
pub const DIRECT_FRONTEND: u16 = u16::MAX;

/// Values of [`crate::names::XDP_DEVICES`]: where a device's program runs, and whether frames get out by it from there.
pub mod xdp_device {
    /// In its driver, which takes frames from other drivers, too.
    pub const DRIVER: u32 = 1;
    /// Where the stack begins: frames from there leave by every device.
    pub const STACK: u32 = 2;
    /// As [`DRIVER`], at the end of a virtual cable: what programs send back the way it came waits there until something else comes by, if the
    /// other end has no program. What they send by it as by any other device does not.
    pub const CABLE: u32 = 3;
}

/// Values of [`LbKey4::scope`].
pub mod lb_scope {
    /// What comes from outside, and everybody where there is no row of the other scope.
    pub const EXTERNAL: u8 = 0;
    /// What comes from the cluster, where [`super::lb_flags::TWO_SCOPES`] is set at the other one.
    pub const INTERNAL: u8 = 1;
}

/// Bits of [`LbService::flags`]: the numbers under which tools show them, first byte and second.
pub mod lb_flags {
    /// One of `externalIPs`.
    pub const EXTERNAL_IP: u16 = 0x1;
    /// A port of the node.
    pub const NODE_PORT: u16 = 0x2;
    /// Only backends of this node for what comes from outside.
    pub const EXTERNAL_LOCAL: u16 = 0x4;
    /// A port of a pod on the node.
    pub const HOST_PORT: u16 = 0x8;
    /// Clients keep their backend.
    pub const AFFINITY: u16 = 0x10;
    /// An address of a load balancer.
    pub const LOAD_BALANCER: u16 = 0x20;
    /// Served to the outside.
    pub const ROUTABLE: u16 = 0x40;
    /// Clients are checked against [`crate::names::LB4_SOURCE_RANGES`].
    pub const SOURCE_RANGES: u16 = 0x80;
    /// Of a local redirect policy.
    pub const LOCAL_REDIRECT: u16 = 0x100;
    /// The backends are of the other family.
    pub const NAT46X64: u16 = 0x200;
    /// On a loopback address of the host.
    pub const LOOPBACK: u16 = 0x800;
    /// Only backends of this node for what comes from the cluster.
    pub const INTERNAL_LOCAL: u16 = 0x1000;
    /// There is one row for the outside and one for the cluster.
    pub const TWO_SCOPES: u16 = 0x2000;
    /// The ranges are those that are refused; whom no range has, may.
    pub const SOURCE_RANGES_DENY: u16 = 0x4000;
    /// Backends of other nodes answer directly.
    pub const DSR: u16 = 0x8000;
}

/// Values of [`LbService::algorithm`].
pub mod lb_algorithm {
    /// Any slot.
    pub const RANDOM: u8 = 1;
    /// By [`crate::names::LB4_MAGLEV`].
    pub const MAGLEV: u8 = 2;
}

/// Values of [`LbBackend4::state`] and of [`LbService::serving`].
pub mod lb_state {
    /// Takes new connections.
    pub const ACTIVE: u8 = 0;
    /// About to end: keeps its connections.
    pub const TERMINATING: u8 = 1;
    /// Its health check fails.
    pub const QUARANTINED: u8 = 2;
    /// Keeps its connections and gets no new ones.
    pub const MAINTENANCE: u8 = 3;
}

/// Value of the services maps. Slot 0 has everything but a backend, other slots a backend alone.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct LbService {
    /// Number of the slot's backend.
    pub backend: u32,
    /// Seconds for which a client keeps its backend; zero without affinity.
    pub affinity: u32,
    /// Number of slots after this one; zero: connections are refused.
    pub count: u16,
    /// Number of the frontend: [`CtEntry::rev_nat`](crate::CtEntry::rev_nat).
    pub id: u16,
    /// Bits of [`lb_flags`].
    pub flags: u16,
    /// One of [`lb_algorithm`].
    pub algorithm: u8,
    /// One of [`lb_state`]: the state of all backends in slots.
    pub serving: u8,
}

/// Places of a Maglev table in one row of its map.
pub const MAGLEV_CHUNK: usize = 256;

/// Key of the Maglev maps.
#[repr(C, align(4))]
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
pub struct LbMaglevKey {
    /// Number of the frontend.
    pub id: u16,
    /// Place divided by [`MAGLEV_CHUNK`].
    pub chunk: u16,
}

/// Value of the Maglev maps: numbers of backends; what is behind the table's end is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct LbMaglevChunk {
    /// Backends of the chunk's places.
    pub backends: [u32; MAGLEV_CHUNK],
}

/// Key of [`crate::names::LB_AFFINITY_MATCH`]: the frontend may keep clients at the backend.
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
pub struct LbAffinityMatch {
    /// Number of the backend.
    pub backend: u32,
    /// Number of the frontend.
    pub id: u16,
    /// Always zero.
    pub pad: u16,
}

/// Value of the affinity maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct LbAffinity {
    /// Number of the backend that the client keeps.
    pub backend: u32,
    /// When the client was last sent there, in seconds of the monotonic clock.
    pub used: u32,
}

/// Value of the maps of addresses that this node answers for.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct L2Answers {
    /// Answers so far.
    pub answers: u64,
    /// Until when it answers, in nanoseconds of the monotonic clock: another node may have taken over from an agent that is dead.
    pub until: u64,
    /// MAC address of the device: what is answered. All zeros: nothing is.
    pub mac: [u8; 6],
    /// Always zero.
    pub pad: [u8; 2],
}

macro_rules! lb_types {
    ($key:ident, $backend:ident, $frontend:ident, $affinity:ident, $source:ident, $sock:ident, $skip:ident, $l2:ident,
     $addr:ty, $client:ty, $family:literal, $fixed:literal, $pad4:literal) => {
        #[doc = concat!("Key of the IPv", $family, " services map.")]
        #[repr(C, align(4))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $key {
            /// Address of the frontend; zero stands for every address of the node.
            pub addr: $addr,
            /// Port, big endian; zero, with protocol zero: the address has frontends.
            pub port: [u8; 2],
            /// IP protocol.
            pub proto: u8,
            /// One of [`lb_scope`].
            pub scope: u8,
            /// Zero for the frontend itself, else one of its slots.
            pub slot: u16,
            /// Always zero.
            pub pad: u16,
        }

        #[doc = concat!("Value of the IPv", $family, " backends map; the key is the backend's number, a `u32`.")]
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $backend {
            /// Address.
            pub addr: $addr,
            /// Port, big endian.
            pub port: [u8; 2],
            /// IP protocol.
            pub proto: u8,
            /// One of [`lb_state`].
            pub state: u8,
        }

        #[doc = concat!("What clients think they talk to, IPv", $family, ": value of the reverse maps, whose key is the frontend's number, a `u16`, or a [`", stringify!($sock), "`].")]
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $frontend {
            /// Address.
            pub addr: $addr,
            /// Port, big endian.
            pub port: [u8; 2],
            /// Number of the frontend.
            pub id: u16,
        }

        #[doc = concat!("Key of the IPv", $family, " affinity map.")]
        #[repr(C, align(8))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $affinity {
            /// The client: its address (in the first bytes), or the cookie of its network namespace.
            pub client: $client,
            /// Number of the frontend.
            pub id: u16,
            /// 1: the client is known by the cookie.
            pub by_cookie: u8,
            /// Always zero.
            pub pad: [u8; 5],
        }

        #[doc = concat!("Key of the IPv", $family, " map of source ranges: whether clients of a range may use a frontend (value `u8`: 1 may, 0 may not). The longest prefix counts.")]
        #[repr(C, align(4))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $source {
            #[doc = concat!("Bits that count: ", stringify!($fixed), " for the frontend, and those of the address.")]
            pub prefix_len: u32,
            /// Number of the frontend.
            pub id: u16,
            /// Always zero.
            pub pad: u16,
            /// Address of the range.
            pub addr: $addr,
        }

        impl $source {
            /// Bits of the key before the address.
            pub const FIXED_BITS: u32 = $fixed;
        }

        #[doc = concat!("Key of the IPv", $family, " map of translated sockets.")]
        #[repr(C, align(8))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $sock {
            /// Cookie of the socket.
            pub cookie: u64,
            /// Address of the backend.
            pub addr: $addr,
            /// Port of the backend, big endian.
            pub port: [u8; 2],
            /// Always zero.
            pub pad: [u8; $pad4],
        }

        #[doc = concat!("Key of the IPv", $family, " map of what is not translated (value `u8`, 1).")]
        #[repr(C, align(8))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $skip {
            /// Cookie of the network namespace that asks.
            pub netns: u64,
            /// Address of the frontend.
            pub addr: $addr,
            /// Port of the frontend, big endian.
            pub port: [u8; 2],
            /// IP protocol.
            pub proto: u8,
            /// Always zero.
            pub pad: [u8; $pad4 - 1],
        }

        #[doc = concat!("Key of the IPv", $family, " map of addresses that this node answers for (value [`L2Answers`]).")]
        #[repr(C, align(4))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $l2 {
            /// The address.
            pub addr: $addr,
            /// Device on whose network it answers.
            pub ifindex: u32,
        }
    };
}

lb_types!(
    LbKey4,
    LbBackend4,
    LbFrontend4,
    LbAffinityKey4,
    LbSourceKey4,
    LbSockKey4,
    LbSkipKey4,
    L2Key4,
    [u8; 4],
    [u8; 8],
    "4",
    32,
    2
);
lb_types!(
    LbKey6,
    LbBackend6,
    LbFrontend6,
    LbAffinityKey6,
    LbSourceKey6,
    LbSockKey6,
    LbSkipKey6,
    L2Key6,
    [u8; 16],
    [u8; 16],
    "6",
    32,
    6
);
