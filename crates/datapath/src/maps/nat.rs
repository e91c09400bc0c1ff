//! Masquerade mappings of both families.
use std::net::IpAddr;

use abi::{SnatEntry4, SnatEntry6, SnatKey4, SnatKey6, snat_flags};

use super::TypedMap;
use crate::Result;

/// The masquerade maps of both families.
#[derive(Clone, Debug)]
pub struct Nat {
    pub(super) v4: TypedMap<SnatKey4, SnatEntry4>,
    pub(super) v6: TypedMap<SnatKey6, SnatEntry6>,
}

/// One direction of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NatRow {
    /// Whether packets that leave are rewritten (their source), or those that return (their destination).
    pub outgoing: bool,
    /// Source address, as it stands in the packet.
    pub source: IpAddr,
    /// Source port; identifier of an ICMP echo request.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port; identifier of an ICMP echo reply.
    pub destination_port: u16,
    /// IP protocol.
    pub proto: u8,
    /// The address it gets.
    pub to: IpAddr,
    /// The port or identifier it gets.
    pub to_port: u16,
    /// When the mapping was made, in nanoseconds of the monotonic clock.
    pub created: u64,
}

macro_rules! row {
    ($key:ident, $entry:ident) => {
        NatRow {
            outgoing: $key.flags != snat_flags::IN,
            source: $key.src.into(),
            source_port: u16::from_be_bytes($key.sport),
            destination: $key.dst.into(),
            destination_port: u16::from_be_bytes($key.dport),
            proto: $key.proto,
            to: $entry.addr.into(),
            to_port: u16::from_be_bytes($entry.port),
            created: $entry.created,
        }
    };
}

impl Nat {
    pub(super) fn new(
        v4: TypedMap<SnatKey4, SnatEntry4>,
        v6: TypedMap<SnatKey6, SnatEntry6>,
    ) -> Self {
        Self { v4, v6 }
    }

    /// Every mapping, sorted, IPv4 first.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&self) -> Result<Vec<NatRow>> {
        let v4 = self
            .v4
            .dump()?
            .into_iter()
            .map(|(key, entry)| row!(key, entry));
        let v6 = self
            .v6
            .dump()?
            .into_iter()
            .map(|(key, entry)| row!(key, entry));
        let mut rows: Vec<_> = v4.chain(v6).collect();
        rows.sort_by_key(|row| (row.source.is_ipv6(), *row));
        Ok(rows)
    }

    /// Forgets every mapping; how many entries there were. Connections through them break.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn flush(&self) -> Result<usize> {
        Ok(self.v4.clear()? + self.v6.clear()?)
    }
}
