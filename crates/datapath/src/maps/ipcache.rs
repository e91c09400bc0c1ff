//! The address cache: identity and tunnel end of every known prefix.
use abi::{IpcacheKey, IpcacheValue};

use super::TypedMap;
use crate::Result;

/// The address cache.
#[derive(Clone, Debug)]
pub struct Ipcache {
    map: TypedMap<IpcacheKey, IpcacheValue>,
}

impl Ipcache {
    pub(super) fn new(map: TypedMap<IpcacheKey, IpcacheValue>) -> Self {
        Self { map }
    }

    /// Writes a prefix.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    pub fn upsert(&self, key: &IpcacheKey, value: &IpcacheValue) -> Result<()> {
        self.map.put(key, value)
    }

    /// Writes many prefixes with few system calls.
    ///
    /// # Errors
    /// As [`Ipcache::upsert`].
    pub fn upsert_all(&self, entries: &[(IpcacheKey, IpcacheValue)]) -> Result<()> {
        self.map.put_all(entries)
    }

    /// Removes a prefix; whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&self, key: &IpcacheKey) -> Result<bool> {
        self.map.remove(key)
    }

    /// The entry of the longest prefix that covers `key`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lookup(&self, key: &IpcacheKey) -> Result<Option<IpcacheValue>> {
        self.map.get(key)
    }

    /// Every prefix, sorted by family, address and length.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&self) -> Result<Vec<(IpcacheKey, IpcacheValue)>> {
        let mut all = self.map.dump()?;
        all.sort_by_key(|(key, _)| (key.family, key.ip, key.prefix_len));
        Ok(all)
    }
}
