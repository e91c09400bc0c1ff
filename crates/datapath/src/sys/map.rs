//! Maps: single entries and batches.
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use zerocopy::FromZeros;

use super::{Command, Record, address, address_mut, attr, bpf, bpf_fd, info, name_text, raw};

/// What the kernel says of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapShape {
    pub(crate) id: u32,
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
    pub(crate) name: String,
}

pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    let mut found = attr::MapInfo::new_zeroed();
    info(map, &mut found)?;
    Ok(MapShape {
        id: found.id,
        kind: found.kind,
        key_size: found.key_size,
        value_size: found.value_size,
        max_entries: found.max_entries,
        flags: found.map_flags,
        name: name_text(&found.name),
    })
}

/// Makes a map; the number and the name's end (over 15 bytes) of `shape` are not used.
pub(crate) fn map_create(shape: &MapShape) -> io::Result<OwnedFd> {
    let mut attr = attr::MapCreate::new_zeroed();
    attr.map_type = shape.kind;
    attr.key_size = shape.key_size;
    attr.value_size = shape.value_size;
    attr.max_entries = shape.max_entries;
    attr.map_flags = shape.flags;
    let len = shape.name.len().min(attr.map_name.len() - 1);
    attr.map_name[..len].copy_from_slice(&shape.name.as_bytes()[..len]);
    bpf_fd(Command::MapCreate, &mut attr)
}

/// Makes a map constant for user space; the verifier may then take its values for known.
pub(crate) fn map_freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    bpf(
        Command::MapFreeze,
        &mut attr::MapFreeze { map_fd: raw(map) },
    )
    .map(drop)
}

fn elem(map: BorrowedFd<'_>, key: &[u8], value: u64, flags: u64) -> attr::MapElem {
    attr::MapElem {
        map_fd: raw(map),
        pad: 0,
        key: address(key),
        value,
        flags,
    }
}

/// Whether an entry of that key was there; `value` then holds it. `value` must have the map's value size (per-CPU maps: of
/// every possible CPU).
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    found(bpf(
        Command::MapLookup,
        &mut elem(map, key, address_mut(value), 0),
    ))
}

/// Writes an entry; both slices must have the map's sizes.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    bpf(
        Command::MapUpdate,
        &mut elem(map, key, address(value), flags),
    )
    .map(drop)
}

/// Whether the entry was there.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    found(bpf(Command::MapDelete, &mut elem(map, key, 0, 0)))
}

/// Puts the key that follows `after` (the first one without) into `key`; whether there is one.
pub(crate) fn next_key(
    map: BorrowedFd<'_>,
    after: Option<&[u8]>,
    key: &mut [u8],
) -> io::Result<bool> {
    let mut attr = elem(map, after.unwrap_or_default(), address_mut(key), 0);
    if after.is_none() {
        attr.key = 0;
    }
    found(bpf(Command::MapNextKey, &mut attr))
}

fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Where a batched walk stands; opaque to all but the kernel, which never writes more than a key's size or four bytes.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    position: Vec<u8>,
    started: bool,
}

impl Batch {
    pub(crate) fn new(key_size: usize) -> Self {
        Self {
            position: vec![0; key_size.max(8)],
            started: false,
        }
    }
}

/// Reads the next entries into `keys` and `values`, which have room for `count` of them; how many, and whether they were the last.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    batch: &mut Batch,
    keys: &mut [u8],
    values: &mut [u8],
    count: usize,
) -> io::Result<(usize, bool)> {
    let mut next = vec![0u8; batch.position.len()];
    let mut attr = attr::MapBatch {
        in_batch: if batch.started {
            address(batch.position.as_slice())
        } else {
            0
        },
        out_batch: address_mut(next.as_mut_slice()),
        keys: address_mut(keys),
        values: address_mut(values),
        count: count as u32,
        map_fd: raw(map),
        elem_flags: 0,
        flags: 0,
    };
    let last = !found(bpf(Command::MapLookupBatch, &mut attr))?;
    batch.position = next;
    batch.started = true;
    Ok((attr.count as usize, last))
}

fn batch_of<K: Record>(map: BorrowedFd<'_>, keys: &[K], values: u64) -> attr::MapBatch {
    attr::MapBatch {
        in_batch: 0,
        out_batch: 0,
        keys: address(keys),
        values,
        count: keys.len() as u32,
        map_fd: raw(map),
        elem_flags: 0,
        flags: 0,
    }
}

/// Deletes `keys` in order up to the first that is not there; how many were deleted.
pub(crate) fn delete_batch<K: Record>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<usize> {
    let mut attr = batch_of(map, keys, 0);
    found(bpf(Command::MapDeleteBatch, &mut attr))?;
    Ok(attr.count as usize)
}

/// Writes entries in order up to the first that is refused; `values` has the length of `keys`. How many were written, and why
/// one was not. A kernel that has no batches leaves the number as it was: then none was.
pub(crate) fn update_batch<K: Record, V: Record>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> (usize, Option<io::Error>) {
    debug_assert_eq!(keys.len(), values.len());
    let mut attr = batch_of(map, keys, address(values));
    match bpf(Command::MapUpdateBatch, &mut attr) {
        Ok(_) => (keys.len(), None),
        Err(e) if attr.count as usize >= keys.len() => (0, Some(e)),
        Err(e) => (attr.count as usize, Some(e)),
    }
}
