//! A map whose keys and values are structs of the contract, read and deleted in batches where the kernel can.
use std::{
    io,
    marker::PhantomData,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicBool, Ordering},
};

use zerocopy::IntoBytes;

use super::MapHandle;
use crate::{
    Error, Result,
    spec::MapSpec,
    sys::{self, Batch, Record},
};

/// Entries of one batch: enough that the system call costs nothing, few enough that the buffers stay small.
const BATCH: usize = 1024;

/// Set once the kernel refused a batch: maps of that kind have none there.
#[derive(Debug, Default)]
struct NoBatch(AtomicBool);

/// A view of a map by the types of its keys and values.
#[derive(Debug)]
pub(crate) struct TypedMap<K, V> {
    map: MapHandle,
    no_batch: std::sync::Arc<NoBatch>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for TypedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            map: self.map.clone(),
            no_batch: self.no_batch.clone(),
            types: PhantomData,
        }
    }
}

impl<K: Record, V: Record> TypedMap<K, V> {
    /// The view; the types' sizes must be those of the map, since the kernel writes as many bytes.
    pub(crate) fn new(map: MapHandle) -> Result<Self> {
        let spec = &map.spec;
        if (size_of::<K>(), size_of::<V>()) != (spec.key_size as usize, spec.value_size as usize) {
            let what = format!(
                "is read as keys of {} B and values of {} B",
                size_of::<K>(),
                size_of::<V>()
            );
            return Err(Error::Layout {
                name: spec.name,
                what,
            });
        }
        Ok(Self {
            map,
            no_batch: std::sync::Arc::default(),
            types: PhantomData,
        })
    }

    fn failed(&self, op: &'static str) -> impl FnOnce(io::Error) -> Error {
        Error::bpf(op, self.map.spec.name)
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>> {
        let mut value = V::new_zeroed();
        let found = sys::lookup(self.map.as_fd(), key.as_bytes(), value.as_mut_bytes())
            .map_err(self.failed("read map"))?;
        Ok(found.then_some(value))
    }

    pub(crate) fn put(&self, key: &K, value: &V) -> Result<()> {
        sys::update(self.map.as_fd(), key.as_bytes(), value.as_bytes(), 0)
            .map_err(self.failed("write map"))
    }

    /// Writes many entries, in order.
    pub(crate) fn put_all(&self, entries: &[(K, V)]) -> Result<()> {
        match self.put_until(entries).1 {
            None => Ok(()),
            Some(e) => Err(self.failed("write map")(e)),
        }
    }

    /// Writes entries in order up to the first that the kernel refuses; how many were written, and why it refused.
    pub(crate) fn put_until(&self, entries: &[(K, V)]) -> (usize, Option<io::Error>) {
        let mut written = 0;
        while written < entries.len() {
            let rest = &entries[written..];
            let chunk = &rest[..rest.len().min(BATCH)];
            if chunk.len() > 1 && self.batches() {
                let (keys, values): (Vec<K>, Vec<V>) = chunk.iter().copied().unzip();
                let (done, error) = sys::update_batch(self.map.as_fd(), &keys, &values);
                written += done.min(chunk.len());
                match error {
                    None => continue,
                    Some(e) if done == 0 && self.refused(&e) => {}
                    Some(e) => return (written, Some(e)),
                }
            }
            let (key, value) = &entries[written];
            let put = sys::update(self.map.as_fd(), key.as_bytes(), value.as_bytes(), 0);
            if let Err(e) = put {
                return (written, Some(e));
            }
            written += 1;
        }
        (written, None)
    }

    pub(crate) fn remove(&self, key: &K) -> Result<bool> {
        sys::delete(self.map.as_fd(), key.as_bytes()).map_err(self.failed("delete from map"))
    }

    /// Deletes those of `keys` that are there; how many were.
    pub(crate) fn remove_all(&self, keys: &[K]) -> Result<usize> {
        let mut deleted = 0;
        let mut rest = keys;
        while !rest.is_empty() {
            let chunk = &rest[..rest.len().min(BATCH)];
            let done = if self.batches() {
                self.remove_batch(chunk)?
            } else {
                0
            };
            deleted += done;
            if done == chunk.len() {
                rest = &rest[done..];
                continue;
            }
            // The batch stopped at a key that is gone, or there are no batches: go on one by one past it.
            deleted += usize::from(self.remove(&chunk[done])?);
            rest = &rest[done + 1..];
        }
        Ok(deleted)
    }

    fn remove_batch(&self, keys: &[K]) -> Result<usize> {
        match sys::delete_batch(self.map.as_fd(), keys) {
            Ok(done) => Ok(done.min(keys.len())),
            Err(e) if self.refused(&e) => Ok(0),
            Err(e) => Err(self.failed("delete from map")(e)),
        }
    }

    fn batches(&self) -> bool {
        !self.no_batch.0.load(Ordering::Relaxed)
    }

    /// Whether the kernel has no batches for this map; remembered.
    fn refused(&self, e: &io::Error) -> bool {
        let refused = matches!(
            e.raw_os_error(),
            Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP)
        );
        if refused {
            self.no_batch.0.store(true, Ordering::Relaxed);
        }
        refused
    }

    /// Hands every entry to `each`, in batches of entries read together.
    pub(crate) fn for_each_batch(
        &self,
        mut each: impl FnMut(&[K], &[V]) -> Result<()>,
    ) -> Result<()> {
        if self.batches() && self.walk_batches(&mut each)? {
            return Ok(());
        }
        each_key(
            self.map.as_fd(),
            size_of::<K>(),
            self.map.spec.name,
            |bytes| {
                let Ok(key) = K::read_from_bytes(bytes) else {
                    return Ok(());
                };
                match self.get(&key)? {
                    Some(value) => each(&[key], &[value]),
                    None => Ok(()),
                }
            },
        )
    }

    /// Whether the kernel has batches for this map.
    fn walk_batches(&self, each: &mut impl FnMut(&[K], &[V]) -> Result<()>) -> Result<bool> {
        let mut batch = Batch::new(size_of::<K>());
        let mut keys = vec![K::new_zeroed(); BATCH];
        let mut values = vec![V::new_zeroed(); BATCH];
        loop {
            let room = keys.len();
            let read = sys::lookup_batch(
                self.map.as_fd(),
                &mut batch,
                keys.as_mut_bytes(),
                values.as_mut_bytes(),
                room,
            );
            match read {
                Ok((count, last)) => {
                    each(&keys[..count], &values[..count])?;
                    if last {
                        return Ok(true);
                    }
                }
                // One bucket holds more than the buffers.
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                    keys.resize(room * 2, K::new_zeroed());
                    values.resize(room * 2, V::new_zeroed());
                }
                Err(e) if self.refused(&e) => return Ok(false),
                Err(e) => return Err(self.failed("read map")(e)),
            }
        }
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> Result<usize> {
        count(&self.map)
    }

    pub(crate) fn dump(&self) -> Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        self.for_each_batch(|keys, values| {
            all.extend(keys.iter().copied().zip(values.iter().copied()));
            Ok(())
        })?;
        Ok(all)
    }

    /// Deletes every entry; how many there were.
    pub(crate) fn clear(&self) -> Result<usize> {
        let mut keys = Vec::new();
        self.for_each_batch(|batch, _| {
            keys.extend_from_slice(batch);
            Ok(())
        })?;
        self.remove_all(&keys)
    }
}

/// The kernel's own "not supported", which libc does not name.
const ENOTSUPP: i32 = 524;

/// Walks the keys of a map, tolerant of changes meanwhile: what is deleted under the walk may be missed, and the walk ends
/// after as many steps as the map could have entries even if it must begin again.
fn each_key(
    map: BorrowedFd<'_>,
    key_size: usize,
    name: &'static str,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let shape = sys::map_info(map).map_err(Error::bpf("look at map", name))?;
    let mut key = vec![0; key_size];
    let mut next = vec![0; key_size];
    for step in 0..=shape.max_entries {
        let after = (step > 0).then_some(key.as_slice());
        if !sys::next_key(map, after, &mut next).map_err(Error::bpf("walk map", name))? {
            break;
        }
        key.copy_from_slice(&next);
        each(&key)?;
    }
    Ok(())
}

fn has_no_batches(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP)
    )
}

/// Number of entries.
pub(super) fn count(map: &MapHandle) -> Result<usize> {
    let mut count = 0;
    each_batch(map.as_fd(), &map.spec, |keys, _| {
        count += keys.len() / map.spec.key_size as usize;
        Ok(())
    })?;
    Ok(count)
}

/// Hands the keys and values of a map to `each` as bytes, many at a time where the kernel can.
pub(super) fn each_batch(
    map: BorrowedFd<'_>,
    spec: &MapSpec,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let (key_size, value_size) = (spec.key_size as usize, spec.value_size as usize);
    let mut batch = Batch::new(key_size);
    let mut room = BATCH;
    loop {
        let mut keys = vec![0; key_size * room];
        let mut values = vec![0; value_size * room];
        match sys::lookup_batch(map, &mut batch, &mut keys, &mut values, room) {
            Ok((count, last)) => {
                each(&keys[..count * key_size], &values[..count * value_size])?;
                if last {
                    return Ok(());
                }
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => room *= 2,
            Err(e) if has_no_batches(&e) => break,
            Err(e) => return Err(Error::bpf("read map", spec.name)(e)),
        }
    }
    let mut value = vec![0; value_size];
    each_key(map, key_size, spec.name, |key| {
        match sys::lookup(map, key, &mut value).map_err(Error::bpf("read map", spec.name))? {
            true => each(key, &value),
            false => Ok(()),
        }
    })
}
