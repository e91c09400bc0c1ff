//! Collection of connections that have ended, and of the masquerade mappings that no connection needs any more.
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use abi::{CtEntry, CtKey4, CtKey6, SnatEntry4, SnatEntry6, SnatKey4, SnatKey6, snat_flags};
use wire::{Family, Tuple, V4, V6};
use zerocopy::transmute;

use super::{Conntrack, TypedMap, conntrack::Flow};
use crate::{Result, sys, sys::Record};

/// A mapping younger than this may belong to a connection whose entry is just being made.
const YOUNG: Duration = Duration::from_secs(10);
/// The node's own connections have no conntrack entry; their mappings go after the life of an idle TCP connection. One that is
/// still used is made again by its next packet.
const OWN_LIFETIME: Duration = Duration::from_secs(8000);

/// Which connections to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcFilter<'a> {
    /// Those that have ended.
    Expired,
    /// Those of which an end is one of the addresses, ended or not.
    Addresses(&'a [IpAddr]),
    /// All.
    All,
}

impl GcFilter<'_> {
    fn takes(&self, key: &impl Flow, entry: &CtEntry, now: u32) -> bool {
        match self {
            Self::Expired => now > entry.expires,
            Self::Addresses(addresses) => {
                addresses.iter().any(|a| key.connection(entry).involves(*a))
            }
            Self::All => true,
        }
    }
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcStats {
    /// Connections seen.
    pub seen: usize,
    /// Connections deleted.
    pub deleted: usize,
    /// Entries of masquerade mappings seen; a mapping has two.
    pub nat_seen: usize,
    /// Entries of masquerade mappings deleted.
    pub nat_deleted: usize,
    /// Time it took.
    pub elapsed: Duration,
}

/// A masquerade entry of either family, and what it belongs to.
trait Mapping: Record {
    type Entry: Record;
    type Ct: Record;

    fn is_outgoing(&self) -> bool;
    /// The outgoing key of the pair that this entry is half of.
    fn outgoing(&self, entry: &Self::Entry) -> Self;
    /// Key of the connection of an outgoing key.
    fn connection(&self) -> Self::Ct;
    /// Whether the entry is of a connection of the node itself: the address stays as it is.
    fn is_own(&self, entry: &Self::Entry) -> bool;
    fn created(entry: &Self::Entry) -> u64;
    /// The mapping of an IPv6 client for whom this entry keeps a port: it has no address of its own.
    fn kept_for(&self, entry: &Self::Entry) -> Option<SnatKey6>;
}

macro_rules! mapping {
    ($key:ident, $entry:ident, $ct:ident, $family:ident, $kept:expr) => {
        impl Mapping for $key {
            type Entry = $entry;
            type Ct = $ct;

            fn is_outgoing(&self) -> bool {
                self.flags != snat_flags::IN
            }

            fn outgoing(&self, entry: &$entry) -> Self {
                if self.is_outgoing() {
                    return *self;
                }
                Self {
                    src: entry.addr,
                    dst: self.src,
                    sport: entry.port,
                    dport: self.sport,
                    flags: snat_flags::OUT,
                    ..*self
                }
            }

            fn connection(&self) -> $ct {
                let tuple = Tuple::<$family> {
                    src: transmute!(self.src),
                    dst: transmute!(self.dst),
                    sport: u16::from_ne_bytes(self.sport),
                    dport: u16::from_ne_bytes(self.dport),
                    proto: self.proto,
                };
                $family::ct_key(&tuple).0
            }

            fn is_own(&self, entry: &$entry) -> bool {
                entry.addr
                    == if self.is_outgoing() {
                        self.src
                    } else {
                        self.dst
                    }
            }

            fn created(entry: &$entry) -> u64 {
                entry.created
            }

            fn kept_for(&self, entry: &$entry) -> Option<SnatKey6> {
                let kept: fn(&Self) -> Option<SnatKey6> = $kept;
                let is_nobodys = entry.addr.iter().all(|byte| *byte == 0);
                kept(self).filter(|_| is_nobodys && !self.is_outgoing())
            }
        }
    };
}
mapping!(SnatKey4, SnatEntry4, CtKey4, V4, |key| {
    let tuple = Tuple::<V6> {
        src: V6::mapped(transmute!(key.src)),
        dst: V6::mapped(transmute!(key.dst)),
        sport: u16::from_ne_bytes(key.sport),
        dport: u16::from_ne_bytes(key.dport),
        proto: key.proto,
    };
    Some(V6::snat_key(&tuple, snat_flags::IN))
});
mapping!(SnatKey6, SnatEntry6, CtKey6, V6, |_| None);

impl Conntrack {
    /// Deletes what `filter` takes at second `now` of the monotonic clock, and masquerade mappings without a connection.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn collect(&self, now: u32, filter: GcFilter<'_>) -> Result<GcStats> {
        let start = Instant::now();
        let mut stats = GcStats::default();
        sweep(&self.v4, now, filter, &mut stats)?;
        sweep(&self.v6, now, filter, &mut stats)?;
        // With all or an endpoint's connections gone their mappings go at once: the address may be given to another pod.
        let young = if filter == GcFilter::Expired {
            YOUNG
        } else {
            Duration::ZERO
        };
        // What keeps ports for mappings of IPv6 goes after those.
        let clients = &self.nat.v6;
        sweep_mappings(&self.nat.v6, &self.v6, clients, now, young, &mut stats)?;
        sweep_mappings(&self.nat.v4, &self.v4, clients, now, young, &mut stats)?;
        stats.elapsed = start.elapsed();
        Ok(stats)
    }

    /// Deletes the connections of an endpoint that is gone, by its addresses.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_endpoint(&self, addresses: &[IpAddr]) -> Result<GcStats> {
        self.collect(Self::now(), GcFilter::Addresses(addresses))
    }

    /// Deletes every connection and every mapping that belongs to one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn flush(&self) -> Result<GcStats> {
        self.collect(Self::now(), GcFilter::All)
    }
}

fn sweep<K: Record + Flow>(
    map: &TypedMap<K, CtEntry>,
    now: u32,
    filter: GcFilter<'_>,
    stats: &mut GcStats,
) -> Result<()> {
    let mut doomed = Vec::new();
    map.for_each_batch(|keys, entries| {
        stats.seen += keys.len();
        let taken = keys
            .iter()
            .zip(entries)
            .filter(|(key, entry)| filter.takes(*key, entry, now));
        doomed.extend(taken.map(|(key, _)| *key));
        Ok(())
    })?;
    stats.deleted += map.remove_all(&doomed)?;
    Ok(())
}

fn sweep_mappings<K: Mapping>(
    nat: &TypedMap<K, K::Entry>,
    ct: &TypedMap<K::Ct, CtEntry>,
    clients: &TypedMap<SnatKey6, SnatEntry6>,
    now: u32,
    young: Duration,
    stats: &mut GcStats,
) -> Result<()> {
    let now = (u64::from(now) * 1_000_000_000).max(sys::monotonic_nanoseconds());
    let mut doomed = Vec::new();
    nat.for_each_batch(|keys, entries| {
        stats.nat_seen += keys.len();
        for (key, entry) in keys.iter().zip(entries) {
            let age = Duration::from_nanos(now.saturating_sub(K::created(entry)));
            if age >= young && is_orphan(ct, clients, key, entry, age)? {
                doomed.push(*key);
            }
        }
        Ok(())
    })?;
    stats.nat_deleted += nat.remove_all(&doomed)?;
    Ok(())
}

fn is_orphan<K: Mapping>(
    ct: &TypedMap<K::Ct, CtEntry>,
    clients: &TypedMap<SnatKey6, SnatEntry6>,
    key: &K,
    entry: &K::Entry,
    age: Duration,
) -> Result<bool> {
    if key.is_own(entry) {
        return Ok(age >= OWN_LIFETIME);
    }
    if let Some(client) = key.kept_for(entry) {
        return Ok(clients.get(&client)?.is_none());
    }
    Ok(ct.get(&key.outgoing(entry).connection())?.is_none())
}
