//! What the programs at sockets report.
use crate::{EventKind, FlowEvent};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which address of a call a record shows ([`SockEvent::point`]).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockPoint {
    /// The frontend that a process named.
    PreForward = 1,
    /// The backend that the kernel gets in its place.
    PostForward = 2,
    /// The backend that the kernel named.
    PreReverse = 3,
    /// The frontend that the process gets in its place.
    PostReverse = 4,
}

impl SockPoint {
    /// Every point, in the order of the numbers.
    pub const ALL: [Self; 4] = [
        Self::PreForward,
        Self::PostForward,
        Self::PreReverse,
        Self::PostReverse,
    ];

    /// The point with this number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|point| *point as u8 == number)
    }

    /// The name that users see, as `pre-xlate-fwd`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::PreForward => "pre-xlate-fwd",
            Self::PostForward => "post-xlate-fwd",
            Self::PreReverse => "pre-xlate-rev",
            Self::PostReverse => "post-xlate-rev",
        }
    }

    /// True if the address is the translated one.
    #[must_use]
    pub const fn is_translated(self) -> bool {
        matches!(self, Self::PostForward | Self::PostReverse)
    }
}

/// A record of [`EventKind::TraceSock`]. It is as large as a [`FlowEvent`], and what both have lies at the same places. A socket
/// that asks has no address of its own yet: its network namespace says whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SockEvent {
    /// When, in nanoseconds of the monotonic clock.
    pub time: u64,
    /// [`EventKind::TraceSock`].
    pub kind: u8,
    /// A [`SockPoint`].
    pub point: u8,
    /// Always zero.
    pub pad: u8,
    /// [`crate::event_flags::IPV6`], or nothing.
    pub flags: u8,
    /// Always zero.
    pub pad2: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// Always zero.
    pub pad3: u8,
    /// Number of the socket, unique since boot.
    pub cookie: u64,
    /// Number of the control group (version 2) of whoever asks.
    pub cgroup: u64,
    /// Number of the socket's network namespace, unique since boot.
    pub netns: u64,
    /// Always zero.
    pub pad4: u64,
    /// The other side's address, an IPv4 one in the first four bytes.
    pub dst: [u8; 16],
    /// Always zero.
    pub pad5: [u8; 2],
    /// The other side's port, big endian.
    pub dport: [u8; 2],
    /// Always zero.
    pub pad6: [u8; 12],
}

impl FlowEvent {
    /// The record as what it is if it comes from a program at sockets.
    #[must_use]
    pub fn sock(&self) -> Option<&SockEvent> {
        (self.kind == EventKind::TraceSock as u8).then(|| zerocopy::transmute_ref!(self))
    }
}
