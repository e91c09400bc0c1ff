//! Layer 7: connections that go by way of the node's proxy.
//!
//! A client's connection ends at the proxy (leg 1), which opens another one to the server (leg 2) from the client's address and another
//! port. Both legs keep both addresses and the server's port.
use core::ops::RangeInclusive;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Ports of a client's address from which the proxy opens leg 2. Programs take what comes from the proxy out of others for answers.
pub const UPSTREAM_PORTS: RangeInclusive<u16> = 10_000..=29_999;

/// Names of Kafka's requests by their numbers, as rules give them in any case.
pub const KAFKA_REQUESTS: [&str; 38] = [
    "produce",
    "fetch",
    "offsets",
    "metadata",
    "leaderandisr",
    "stopreplica",
    "updatemetadata",
    "controlledshutdown",
    "offsetcommit",
    "offsetfetch",
    "findcoordinator",
    "joingroup",
    "heartbeat",
    "leavegroup",
    "syncgroup",
    "describegroups",
    "listgroups",
    "saslhandshake",
    "apiversions",
    "createtopics",
    "deletetopics",
    "deleterecords",
    "initproducerid",
    "offsetforleaderepoch",
    "addpartitionstotxn",
    "addoffsetstotxn",
    "endtxn",
    "writetxnmarkers",
    "txnoffsetcommit",
    "describeacls",
    "createacls",
    "deleteacls",
    "describeconfigs",
    "alterconfigs",
    "alterreplicalogdirs",
    "describelogdirs",
    "saslauthenticate",
    "createpartitions",
];

/// Requests of clients that write, by number: produce, metadata, versions.
pub const KAFKA_PRODUCE: &[i16] = &[0, 3, 18];
/// Requests of clients that read: fetch, offsets, metadata, the group's requests, versions.
pub const KAFKA_CONSUME: &[i16] = &[1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18];

/// What the proxy understands of a connection ([`PolicyValue::proxy`](crate::PolicyValue::proxy), [`ProxySession::kind`]).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyKind {
    /// It does not go there.
    None = 0,
    /// HTTP.
    Http = 1,
    /// Kafka.
    Kafka = 2,
    /// DNS, by TCP and UDP.
    Dns = 3,
    /// TLS, of which the server's name is read.
    Tls = 4,
}

impl ProxyKind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Self; 5] = [Self::None, Self::Http, Self::Kafka, Self::Dns, Self::Tls];

    /// The kind with this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Http),
            2 => Some(Self::Kafka),
            3 => Some(Self::Dns),
            4 => Some(Self::Tls),
            _ => None,
        }
    }

    /// Port at which the proxy listens for such connections, on the loopback addresses of its network namespace; host order.
    #[inline(always)]
    #[must_use]
    pub const fn port(self) -> Option<u16> {
        match self {
            Self::None => None,
            Self::Http => Some(15_001),
            Self::Kafka => Some(15_002),
            Self::Dns => Some(15_003),
            Self::Tls => Some(15_004),
        }
    }

    /// True if connections of this IP protocol can be of the kind.
    #[inline(always)]
    #[must_use]
    pub const fn takes(self, proto: u8) -> bool {
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        match self {
            Self::None => false,
            Self::Http | Self::Kafka | Self::Tls => proto == TCP,
            Self::Dns => proto == TCP || proto == UDP,
        }
    }
}

/// Key of [`crate::names::PROXY_SESSIONS`]: leg 1 as its client opened it, with services translated already.
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
pub struct ProxySessionKey {
    /// The client's address, an IPv4 one in the first four bytes.
    pub src: [u8; 16],
    /// The server's address, an IPv4 one in the first four bytes.
    pub dst: [u8; 16],
    /// The client's port, big endian.
    pub sport: [u8; 2],
    /// The server's port, big endian.
    pub dport: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// One of [`crate::family`].
    pub family: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

/// Value of [`crate::names::PROXY_SESSIONS`]: what was found out about a connection that goes by way of the proxy.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ProxySession {
    /// Security identity of the client.
    pub src_id: u32,
    /// Security identity of the server.
    pub dst_id: u32,
    /// Number of the client's endpoint, if its egress rules say more about the connection; else zero.
    pub egress_endpoint: u16,
    /// Number of the server's endpoint, if its ingress rules say more about the connection; else zero.
    pub ingress_endpoint: u16,
    /// A [`ProxyKind`].
    pub kind: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ports_name_one_kind_each() {
        for kind in ProxyKind::ALL {
            assert_eq!(ProxyKind::from_u8(kind as u8), Some(kind));
        }
        assert_eq!(ProxyKind::from_u8(5), None);
        let ports = ProxyKind::ALL.map(ProxyKind::port);
        assert_eq!(
            ports,
            [None, Some(15_001), Some(15_002), Some(15_003), Some(15_004)]
        );
        assert!(ProxyKind::Dns.takes(17) && !ProxyKind::Http.takes(17));
        assert!(!ProxyKind::None.takes(6));
    }
}
