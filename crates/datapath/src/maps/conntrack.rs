//! Connections of both families.
use std::net::IpAddr;

use abi::{CtEntry, CtKey4, CtKey6, ct_flags};

use super::{Nat, TypedMap};
use crate::Result;

/// The conntrack maps of both families, and the masquerade mappings that go with their entries.
#[derive(Clone, Debug)]
pub struct Conntrack {
    pub(super) v4: TypedMap<CtKey4, CtEntry>,
    pub(super) v6: TypedMap<CtKey6, CtEntry>,
    pub(super) nat: Nat,
}

/// One connection, as seen from the side that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The side that opened.
    pub source: IpAddr,
    /// Its port; the identifier of an ICMP echo.
    pub source_port: u16,
    /// The other side.
    pub destination: IpAddr,
    /// Its port.
    pub destination_port: u16,
    /// IP protocol.
    pub proto: u8,
    /// The rest, as it stands in the map.
    pub entry: CtEntry,
}

impl Connection {
    /// Seconds until it ends if nothing more is seen; zero when it has ended.
    #[must_use]
    pub const fn remaining(&self, now: u32) -> u32 {
        self.entry.expires.saturating_sub(now)
    }

    /// Whether it has ended at second `now` of the monotonic clock.
    #[must_use]
    pub const fn is_over(&self, now: u32) -> bool {
        now > self.entry.expires
    }

    /// Whether one of its ends is `address`.
    #[must_use]
    pub fn involves(&self, address: IpAddr) -> bool {
        self.source == address || self.destination == address
    }
}

/// A key of either family, with its entry, as a connection.
pub(super) trait Flow: Copy {
    fn connection(&self, entry: &CtEntry) -> Connection;
}

macro_rules! flow {
    ($key:ident) => {
        impl Flow for $key {
            fn connection(&self, entry: &CtEntry) -> Connection {
                let a = (IpAddr::from(self.a), u16::from_be_bytes(self.port_a));
                let b = (IpAddr::from(self.b), u16::from_be_bytes(self.port_b));
                let (source, destination) = if entry.flags & ct_flags::FROM_B == 0 {
                    (a, b)
                } else {
                    (b, a)
                };
                Connection {
                    source: source.0,
                    source_port: source.1,
                    destination: destination.0,
                    destination_port: destination.1,
                    proto: self.proto,
                    entry: *entry,
                }
            }
        }
    };
}
flow!(CtKey4);
flow!(CtKey6);

impl Conntrack {
    pub(super) fn new(
        v4: TypedMap<CtKey4, CtEntry>,
        v6: TypedMap<CtKey6, CtEntry>,
        nat: Nat,
    ) -> Self {
        Self { v4, v6, nat }
    }

    /// Now, on the clock of the entries' times.
    #[must_use]
    pub fn now() -> u32 {
        (crate::sys::monotonic_nanoseconds() / 1_000_000_000) as u32
    }

    /// Hands every connection to `each`, IPv4 first, without holding all of them in memory.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn for_each(&self, mut each: impl FnMut(Connection)) -> Result<()> {
        self.v4.for_each_batch(|keys, entries| {
            keys.iter()
                .zip(entries)
                .for_each(|(key, entry)| each(key.connection(entry)));
            Ok(())
        })?;
        self.v6.for_each_batch(|keys, entries| {
            keys.iter()
                .zip(entries)
                .for_each(|(key, entry)| each(key.connection(entry)));
            Ok(())
        })
    }

    /// Every connection, IPv4 first.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&self) -> Result<Vec<Connection>> {
        let mut all = Vec::new();
        self.for_each(|connection| all.push(connection))?;
        Ok(all)
    }

    /// Number of connections.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn count(&self) -> Result<usize> {
        let mut count = 0;
        self.for_each(|_| count += 1)?;
        Ok(count)
    }
}
