//! Connections of both families.
use std::net::{IpAddr, SocketAddr};

use abi::{CtEntry, CtKey4, CtKey6, ct_flags};
use wire::{
    Family, Tuple, V4, V6,
    conntrack::{ACK, SYN},
    headers::TCP,
};
use zerocopy::transmute;

use super::{Nat, TypedMap};
use crate::{Result, sys::Record};

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

    /// Whether one of its ends is `address`, be it in IPv6's form.
    #[must_use]
    pub fn involves(&self, address: IpAddr) -> bool {
        let is = |end: IpAddr| end == address || end.to_canonical() == address;
        is(self.source) || is(self.destination)
    }
}

/// A key of either family, with its entry, as a connection.
pub(super) trait Flow: Copy {
    fn connection(&self, entry: &CtEntry) -> Connection;
    /// One of [`abi::ct_scope`].
    fn scope(&self) -> u8;
}

macro_rules! flow {
    ($key:ident) => {
        impl Flow for $key {
            fn scope(&self) -> u8 {
                self.scope
            }

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

    /// Enters a TCP connection that `source` has opened before any program looked, to live for `lifetime` seconds. One that was seen to
    /// be opened stays as it is; one that was taken for the other side's is put right. Whether anything was written.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn adopt(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        lifetime: u32,
    ) -> Result<bool> {
        let ports = [source, destination].map(|end| end.port().to_be());
        match (source.ip(), destination.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let ends = [transmute!(src.octets()), transmute!(dst.octets())];
                adopt(&self.v4, V4::ct_key(&tcp(ends, ports)), lifetime)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ends = [transmute!(src.octets()), transmute!(dst.octets())];
                adopt(&self.v6, V6::ct_key(&tcp(ends, ports)), lifetime)
            }
            _ => Ok(false),
        }
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

    /// Deletes those that `which` takes by themselves and their [scope](abi::ct_scope), ended or not; how many.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_where(&self, mut which: impl FnMut(&Connection, u8) -> bool) -> Result<usize> {
        let removed = remove_where(&self.v4, &mut which)?;
        Ok(removed + remove_where(&self.v6, &mut which)?)
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

fn tcp<F: Family>([src, dst]: [F::Addr; 2], [sport, dport]: [u16; 2]) -> Tuple<F> {
    Tuple {
        src,
        dst,
        sport,
        dport,
        proto: TCP,
    }
}

fn adopt<K: Record>(
    map: &TypedMap<K, CtEntry>,
    (key, from_b): (K, bool),
    lifetime: u32,
) -> Result<bool> {
    let now = Conntrack::now();
    let opener = if from_b { ct_flags::FROM_B } else { 0 };
    let is_right =
        |known: &CtEntry| known.flags & ct_flags::FROM_B == opener || known.orig_tcp & SYN != 0;
    let known = map.get(&key)?.filter(|known| now <= known.expires);
    if known.is_some_and(|known| is_right(&known)) {
        return Ok(false);
    }
    let entry = CtEntry {
        expires: now.saturating_add(lifetime),
        created: now,
        last_report: now,
        flags: opener | ct_flags::SEEN_NON_SYN | ct_flags::SEEN_REPLY,
        orig_tcp: SYN | ACK,
        reply_tcp: SYN | ACK,
        ..CtEntry::default()
    };
    map.put(&key, &entry).map(|()| true)
}

fn remove_where<K: Flow + crate::sys::Record>(
    map: &TypedMap<K, CtEntry>,
    which: &mut impl FnMut(&Connection, u8) -> bool,
) -> Result<usize> {
    let mut keys = Vec::new();
    map.for_each_batch(|batch, entries| {
        let all = batch.iter().zip(entries);
        let taken = all.filter(|(key, entry)| which(&key.connection(entry), key.scope()));
        keys.extend(taken.map(|(key, _)| *key));
        Ok(())
    })?;
    map.remove_all(&keys)
}
