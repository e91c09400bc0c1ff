//! Network policy: the rows that the programs ask, and the epoch that says how long an answer holds.
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use abi::{PolicyKey, PolicyPortKey, PolicyValue, names};

use super::TypedMap;
use crate::{Error, Result};

/// The rows of every subject of the node, in two maps: those of one port in a table, all others in a trie.
///
/// The kernel makes room row by row, and knows each of the two full at [`PolicyMap::capacity`] rows. Kernels before 6.13 then
/// refuse to overwrite rows of the trie that are there, too.
#[derive(Clone, Debug)]
pub struct PolicyMap {
    prefixes: TypedMap<PolicyKey, PolicyValue>,
    ports: TypedMap<PolicyPortKey, PolicyValue>,
    capacity: u32,
}

/// What became of a write.
#[must_use = "a row that is missing must have consequences"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The row is there.
    Written,
    /// The map is full: nothing has changed.
    Full,
}

impl PolicyMap {
    pub(super) fn new(
        prefixes: TypedMap<PolicyKey, PolicyValue>,
        ports: TypedMap<PolicyPortKey, PolicyValue>,
        capacity: u32,
    ) -> Self {
        Self {
            prefixes,
            ports,
            capacity,
        }
    }

    /// Writes a row; one that is there gets the new value between two look-ups of any program.
    ///
    /// # Errors
    /// When the kernel refuses for another reason than that the map is full.
    pub fn put(&self, key: &PolicyKey, value: &PolicyValue) -> Result<Put> {
        match self.put_all(&[(*key, *value)])? {
            0 => Ok(Put::Full),
            _ => Ok(Put::Written),
        }
    }

    /// Writes rows in their order with few system calls, up to the first for which there is no room; how many were written.
    ///
    /// # Errors
    /// As [`PolicyMap::put`].
    pub fn put_all(&self, rows: &[(PolicyKey, PolicyValue)]) -> Result<usize> {
        debug_assert!(rows.iter().all(|(key, value)| is_whole(key, value)));
        let mut written = 0;
        for run in rows.chunk_by(|a, b| a.0.is_port() == b.0.is_port()) {
            let (done, refused) = if run[0].0.is_port() {
                let run: Vec<_> = run
                    .iter()
                    .map(|(key, value)| ((*key).into(), *value))
                    .collect();
                self.ports.put_until(&run)
            } else {
                self.prefixes.put_until(run)
            };
            written += done;
            match refused {
                None => {}
                Some(e) if is_full(&e) => break,
                Some(e) => return Err(Error::bpf("write map", names::POLICY)(e)),
            }
        }
        Ok(written)
    }

    /// Removes a row; whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete(&self, key: &PolicyKey) -> Result<bool> {
        Ok(self.delete_all(&[*key])? == 1)
    }

    /// Removes those of the rows that are there, in their order; how many were.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_all(&self, keys: &[PolicyKey]) -> Result<usize> {
        let mut deleted = 0;
        for run in keys.chunk_by(|a, b| a.is_port() == b.is_port()) {
            deleted += if run[0].is_port() {
                let run: Vec<_> = run.iter().map(|key| (*key).into()).collect();
                self.ports.remove_all(&run)?
            } else {
                self.prefixes.remove_all(run)?
            };
        }
        Ok(deleted)
    }

    /// Every row, sorted by subject, direction, remote, protocol and port.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&self) -> Result<Vec<(PolicyKey, PolicyValue)>> {
        let mut rows = self.prefixes.dump()?;
        let ports = self.ports.dump()?;
        rows.extend(ports.into_iter().map(|(key, value)| (key.into(), value)));
        rows.sort_by_key(|(k, _)| {
            (
                k.subject,
                k.direction,
                k.remote,
                k.proto,
                k.port,
                k.prefix_len,
            )
        });
        Ok(rows)
    }

    /// Number of rows. Walks the maps.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn len(&self) -> Result<usize> {
        Ok(self.prefixes.len()? + self.ports.len()?)
    }

    /// Whether there is no row.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Rows that there is room for.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }
}

/// Whether the parts of a row agree: the programs believe the value's length of the prefix.
fn is_whole(key: &PolicyKey, value: &PolicyValue) -> bool {
    let len = key.l4_len();
    key.prefix_len >= PolicyKey::FIXED_BITS
        && len <= PolicyKey::L4_BITS
        && u32::from(value.l4_len) == len
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::E2BIG))
}

/// One number: connections that were allowed under another one are asked about again with their next packet.
#[derive(Clone, Debug)]
pub struct PolicyEpoch {
    map: TypedMap<u32, u32>,
    /// Raising is reading and writing.
    raising: Arc<Mutex<()>>,
}

impl PolicyEpoch {
    pub(super) fn new(map: TypedMap<u32, u32>) -> Self {
        Self {
            map,
            raising: Arc::default(),
        }
    }

    /// The number now; 1 where it was never raised.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn get(&self) -> Result<u32> {
        Ok(self.map.get(&0)?.unwrap_or(0).max(1))
    }

    /// Takes another number, and returns it: to be called after rows were written, or after an address or endpoint that was there
    /// before got another identity, subject or flag.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn raise(&self) -> Result<u32> {
        let _raising = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.get()?.checked_add(1).unwrap_or(2);
        self.map.put(&0, &next)?;
        Ok(next)
    }
}
