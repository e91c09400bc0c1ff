//! Synchronous rtnetlink and network-namespace helpers.
//!
//! [`Handle`] is one netlink socket in one network namespace. Single operations are methods on it; work that must be
//! fast is put together as [`Request`]s and sent with [`Handle::batch`], one system call for all of them.
//! [`netns`] opens, makes, removes and enters namespaces; [`sysctl`] writes kernel parameters in one of them.
//!
//! No async runtime and no `unsafe`: the CNI plugin links this crate and has to start in a millisecond or two.
#![forbid(unsafe_code)]

mod address;
mod error;
mod handle;
mod link;
mod link_change;
mod link_new;
mod mac;
mod neighbour;
pub mod netns;
mod qdisc;
mod request;
mod route;
mod rule;
pub mod sock_diag;
pub mod sysctl;
mod wire;

pub use address::Address;
pub use error::{Error, Result};
pub use handle::Handle;
pub use link::{Link, LinkFlag, LinkRef};
pub use link_change::{AddrGenMode, LinkChange};
pub use link_new::{LinkKind, NetkitMode, NetkitPolicy, NewLink, Peer};
pub use mac::{Mac, ParseMacError};
pub use neighbour::{Neighbour, NeighbourState};
pub use netns::Netns;
pub use nix::errno::Errno;
pub use qdisc::Qdisc;
pub use request::Request;
pub use route::{Route, RouteFilter, RouteKind, protocol, table};
pub use rule::Rule;

/// Address family of an operation that lists or flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(ip: std::net::IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
    /// Number of bits in an address of this family.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
    pub(crate) fn af(self) -> netlink_packet_route::AddressFamily {
        match self {
            Self::V4 => netlink_packet_route::AddressFamily::Inet,
            Self::V6 => netlink_packet_route::AddressFamily::Inet6,
        }
    }
    pub(crate) fn from_af(af: u8) -> Option<Self> {
        match i32::from(af) {
            nix::libc::AF_INET => Some(Self::V4),
            nix::libc::AF_INET6 => Some(Self::V6),
            _ => None,
        }
    }
}

/// Scope of an address or a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Scope {
    /// Valid everywhere.
    #[default]
    Global,
    /// Valid on this link only.
    Link,
    /// Valid inside this host only.
    Host,
    /// Any other kernel value.
    Other(u8),
}

impl Scope {
    pub(crate) fn raw(self) -> u8 {
        match self {
            Self::Global => 0,
            Self::Link => 253,
            Self::Host => 254,
            Self::Other(v) => v,
        }
    }
    pub(crate) fn from_raw(v: u8) -> Self {
        match v {
            0 => Self::Global,
            253 => Self::Link,
            254 => Self::Host,
            v => Self::Other(v),
        }
    }
}
