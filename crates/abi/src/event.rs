//! Records of the event ring, and the metrics.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Kind of a record ([`FlowEvent::kind`]).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A packet was dropped; [`FlowEvent::subtype`] is the [`crate::DropReason`].
    Drop = 1,
    /// A packet passed a point; [`FlowEvent::subtype`] is the [`TracePoint`].
    Trace = 4,
    /// A policy was asked; [`FlowEvent::subtype`] is zero if it allows the packet, else the [`crate::DropReason`].
    PolicyVerdict = 5,
    /// A service was translated at a socket: the record is a [`crate::SockEvent`].
    TraceSock = 7,
}

/// Where a packet was seen.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracePoint {
    /// Handed to a pod.
    ToEndpoint = 0,
    /// Handed to the L7 proxy.
    ToProxy = 1,
    /// Handed to the node itself.
    ToHost = 2,
    /// Handed to the node's network stack to be routed.
    ToStack = 3,
    /// Sent into the tunnel.
    ToOverlay = 4,
    /// Received from a pod.
    FromEndpoint = 5,
    /// Received from the L7 proxy.
    FromProxy = 6,
    /// Received from the node itself.
    FromHost = 7,
    /// Received from the node's network stack.
    FromStack = 8,
    /// Received from the tunnel.
    FromOverlay = 9,
    /// Received from a node device.
    FromNetwork = 10,
    /// Sent to a node device.
    ToNetwork = 11,
}

impl TracePoint {
    /// Every point, in the order of the numbers.
    pub const ALL: [Self; 12] = [
        Self::ToEndpoint,
        Self::ToProxy,
        Self::ToHost,
        Self::ToStack,
        Self::ToOverlay,
        Self::FromEndpoint,
        Self::FromProxy,
        Self::FromHost,
        Self::FromStack,
        Self::FromOverlay,
        Self::FromNetwork,
        Self::ToNetwork,
    ];

    /// The point with this number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        if (number as usize) < Self::ALL.len() {
            Some(Self::ALL[number as usize])
        } else {
            None
        }
    }

    /// The name that users see, as `to-endpoint`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::ToEndpoint => "to-endpoint",
            Self::ToProxy => "to-proxy",
            Self::ToHost => "to-host",
            Self::ToStack => "to-stack",
            Self::ToOverlay => "to-overlay",
            Self::FromEndpoint => "from-endpoint",
            Self::FromProxy => "from-proxy",
            Self::FromHost => "from-host",
            Self::FromStack => "from-stack",
            Self::FromOverlay => "from-overlay",
            Self::FromNetwork => "from-network",
            Self::ToNetwork => "to-network",
        }
    }
}

/// Bits of [`FlowEvent::flags`].
pub mod event_flags {
    /// The addresses are IPv6.
    pub const IPV6: u8 = 1;
    /// The packet goes from the side that opened the connection to the other; unset for replies.
    pub const FORWARD: u8 = 2;
    /// The source address was masqueraded, or the destination translated back.
    pub const SNAT: u8 = 4;
    /// The packet came out of the tunnel or goes into it.
    pub const TUNNEL: u8 = 8;
    /// The ports are not known: the packet was dropped before they were read, or has none.
    pub const NO_PORTS: u8 = 16;
    /// The packet was forwarded although policy denies it.
    pub const AUDITED: u8 = 32;
}

/// One record of the event ring: what happened to one packet, with its addresses already taken out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct FlowEvent {
    /// When, in nanoseconds of the monotonic clock.
    pub time: u64,
    /// An [`EventKind`].
    pub kind: u8,
    /// A [`TracePoint`] or a [`crate::DropReason`]; see [`EventKind`].
    pub subtype: u8,
    /// A [`crate::CtStatus`].
    pub ct_status: u8,
    /// Bits of [`event_flags`].
    pub flags: u8,
    /// Number of the endpoint whose program reports, or whose policy decided; zero is none.
    pub endpoint: u16,
    /// IP protocol.
    pub proto: u8,
    /// TCP flags: of this packet, and those of the same direction that were not reported before; ICMP type.
    pub tcp_flags: u8,
    /// Length of the packet in bytes, link-layer header included.
    pub len: u32,
    /// Device it was seen on.
    pub ifindex: u32,
    /// Security identity of the sender.
    pub src_id: u32,
    /// Security identity of the receiver.
    pub dst_id: u32,
    /// Source address, an IPv4 one in the first four bytes.
    pub src: [u8; 16],
    /// Destination address, an IPv4 one in the first four bytes.
    pub dst: [u8; 16],
    /// Source port, big endian; identifier for ICMP echo.
    pub sport: [u8; 2],
    /// Destination port, big endian; ICMP code otherwise.
    pub dport: [u8; 2],
    /// Line of the source file that decided.
    pub line: u16,
    /// Number of the source file; see [`source_file`].
    pub file: u8,
    /// Kernel errno behind a drop, negated; zero is none.
    pub ext_error: i8,
    /// Origin of the policy row that decided, of verdicts and of drops by policy; see [`crate::PolicyValue`].
    pub origin: u32,
    /// Of verdicts: the [`Direction`] that was asked about.
    pub direction: u8,
    /// Of verdicts: a [`crate::PolicyMatch`].
    pub matched: u8,
    /// Always zero.
    pub pad: u16,
}

/// Direction of a metric.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Not known.
    Unknown = 0,
    /// Towards an endpoint.
    Ingress = 1,
    /// From an endpoint.
    Egress = 2,
    /// Through a service.
    Service = 3,
}

impl Direction {
    /// The Prometheus label and the word in `bpf metrics list`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Ingress => "INGRESS",
            Self::Egress => "EGRESS",
            Self::Service => "SERVICE",
        }
    }

    /// The direction with this number, modulo four.
    #[must_use]
    pub const fn from_index(n: u32) -> Self {
        match n & 3 {
            1 => Self::Ingress,
            2 => Self::Egress,
            3 => Self::Service,
            _ => Self::Unknown,
        }
    }
}

/// Index into [`crate::names::METRICS`]; `reason` is 0 for forwarded packets, else a [`crate::DropReason`].
#[inline(always)]
#[must_use]
pub const fn metrics_index(reason: u8, direction: Direction) -> u32 {
    (reason as u32) << 2 | direction as u32
}

/// Per-CPU value of [`crate::names::METRICS`].
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct MetricsValue {
    /// Packets counted.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Line of the source file that counted last.
    pub line: u32,
    /// Number of that file; see [`source_file`].
    pub file: u32,
}

/// Names of the datapath's source files by the number in events and metrics.
pub mod source_file {
    /// Number → name, index 0 is not used.
    pub const NAMES: [&str; 12] = [
        "unknown",
        "from_container.rs",
        "to_container.rs",
        "from_netdev.rs",
        "to_netdev.rs",
        "from_overlay.rs",
        "from_host.rs",
        "forward.rs",
        "sock.rs",
        "xdp_entry.rs",
        "from_proxy.rs",
        "to_proxy.rs",
    ];

    /// The name of file `number`.
    #[must_use]
    pub fn name(number: u8) -> &'static str {
        NAMES.get(number as usize).copied().unwrap_or("unknown")
    }
}

/// "Reason" under which [`crate::names::METRICS`] counts events that found the ring full.
pub const LOST_EVENTS: u8 = 255;
