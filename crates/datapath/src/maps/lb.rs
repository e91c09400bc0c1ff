//! Services: frontends, slots, backends, and what belongs to them.
//!
//! The maps are told nothing of each other: the order of writes is the caller's.
use std::io;

use abi::{
    LbAffinity, LbAffinityKey4, LbAffinityKey6, LbAffinityMatch, LbBackend4, LbBackend6,
    LbFrontend4, LbFrontend6, LbKey4, LbKey6, LbMaglevChunk, LbMaglevKey, LbService, LbSkipKey4,
    LbSkipKey6, LbSockKey4, LbSockKey6, LbSourceKey4, LbSourceKey6, names,
};

use super::TypedMap;
use crate::{Datapath, Error, Result, sys::Record};

/// A map whose rows the agent writes.
#[derive(Debug)]
pub struct LbMap<K, V> {
    map: TypedMap<K, V>,
    name: &'static str,
    capacity: u32,
}

impl<K, V> Clone for LbMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            map: self.map.clone(),
            name: self.name,
            capacity: self.capacity,
        }
    }
}

impl<K: Record, V: Record> LbMap<K, V> {
    /// Writes rows in their order with few system calls, up to the first for which there is no room; how many were written. One
    /// that is there gets the new value between two look-ups of any program.
    ///
    /// # Errors
    /// When the kernel refuses for another reason than that the map is full: how many were written, and why no more.
    pub fn put_all(&self, rows: &[(K, V)]) -> std::result::Result<usize, (usize, Error)> {
        match self.map.put_until(rows) {
            (written, None) => Ok(written),
            (written, Some(e)) if is_full(&e) => Ok(written),
            (written, Some(e)) => Err((written, Error::bpf("write map", self.name)(e))),
        }
    }

    /// Removes those of the rows that are there, in their order; how many were.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_all(&self, keys: &[K]) -> Result<usize> {
        self.map.remove_all(keys)
    }

    /// One row.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        self.map.get(key)
    }

    /// Every row, in no order.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&self) -> Result<Vec<(K, V)>> {
        self.map.dump()
    }

    /// Every key, in no order: for maps whose values are big.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn keys(&self) -> Result<Vec<K>> {
        let mut all = Vec::new();
        self.map.for_each_batch(|keys, _| {
            all.extend_from_slice(keys);
            Ok(())
        })?;
        Ok(all)
    }

    /// Number of rows. Walks the map.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn len(&self) -> Result<usize> {
        self.map.len()
    }

    /// Whether there is no row.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Name of the map.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Rows that there is room for.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::E2BIG))
}

/// The maps of one family.
#[derive(Clone, Debug)]
pub struct LbFamily<Key, Backend, Frontend, Source, Skip, Affinity, Sock> {
    /// Addresses, frontends and their slots.
    pub services: LbMap<Key, LbService>,
    /// Backends by number.
    pub backends: LbMap<u32, Backend>,
    /// Frontends by number.
    pub reverse: LbMap<u16, Frontend>,
    /// Which clients may use which frontend.
    pub sources: LbMap<Source, u8>,
    /// Tables of consistent hashing, in chunks.
    pub maglev: LbMap<LbMaglevKey, LbMaglevChunk>,
    /// Who is not translated.
    pub skips: LbMap<Skip, u8>,
    /// Which backend clients keep; the programs write it.
    pub affinity: LbMap<Affinity, LbAffinity>,
    /// What sockets think they talk to; the programs write it.
    pub sockets: LbMap<Sock, Frontend>,
}

/// The maps of IPv4.
pub type Lb4 =
    LbFamily<LbKey4, LbBackend4, LbFrontend4, LbSourceKey4, LbSkipKey4, LbAffinityKey4, LbSockKey4>;
/// The maps of IPv6.
pub type Lb6 =
    LbFamily<LbKey6, LbBackend6, LbFrontend6, LbSourceKey6, LbSkipKey6, LbAffinityKey6, LbSockKey6>;

/// All maps of services.
#[derive(Clone, Debug)]
pub struct LbMaps {
    /// IPv4.
    pub v4: Lb4,
    /// IPv6.
    pub v6: Lb6,
    /// Backends at which frontends may keep their clients.
    pub affinity: LbMap<LbAffinityMatch, u8>,
}

impl Datapath {
    /// The maps of services.
    ///
    /// # Errors
    /// As [`Datapath::endpoints`].
    pub fn services(&self) -> Result<LbMaps> {
        Ok(LbMaps {
            v4: LbFamily {
                services: self.lb(names::LB4_SERVICES)?,
                backends: self.lb(names::LB4_BACKENDS)?,
                reverse: self.lb(names::LB4_REVERSE)?,
                sources: self.lb(names::LB4_SOURCE_RANGES)?,
                maglev: self.lb(names::LB4_MAGLEV)?,
                skips: self.lb(names::SKIP_LB4)?,
                affinity: self.lb(names::LB4_AFFINITY)?,
                sockets: self.lb(names::LB4_REVERSE_SK)?,
            },
            v6: LbFamily {
                services: self.lb(names::LB6_SERVICES)?,
                backends: self.lb(names::LB6_BACKENDS)?,
                reverse: self.lb(names::LB6_REVERSE)?,
                sources: self.lb(names::LB6_SOURCE_RANGES)?,
                maglev: self.lb(names::LB6_MAGLEV)?,
                skips: self.lb(names::SKIP_LB6)?,
                affinity: self.lb(names::LB6_AFFINITY)?,
                sockets: self.lb(names::LB6_REVERSE_SK)?,
            },
            affinity: self.lb(names::LB_AFFINITY_MATCH)?,
        })
    }

    fn lb<K: Record, V: Record>(&self, name: &'static str) -> Result<LbMap<K, V>> {
        let map = self.handle(name)?;
        let capacity = map.spec.max_entries;
        Ok(LbMap {
            map: TypedMap::new(map)?,
            name,
            capacity,
        })
    }
}
