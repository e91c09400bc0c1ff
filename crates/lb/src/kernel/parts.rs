//! What belongs to one frontend: its slots, ranges and affinity, from what is there to what should be.
use super::{Installed, Writes, family};
use crate::frontend::{Frontend, FrontendKey, flags};
use crate::rows::{BackendId, FrontendId, Op, Row, RowKey};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// Puts backends into slots so that as few as possible change.
pub(super) fn settle_slots(
    installed: &mut Installed,
    key: FrontendKey,
    ids: &[BackendId],
    writes: &mut Writes,
) {
    let old = std::mem::take(&mut installed.slots);
    let mut missing: BTreeSet<BackendId> = ids.iter().copied().collect();
    let mut slots: Vec<BackendId> = old
        .iter()
        .take(ids.len())
        .map(|id| if missing.remove(id) { *id } else { 0 })
        .collect();
    slots.resize(ids.len(), 0);
    let mut missing = missing.into_iter();
    for slot in slots.iter_mut().filter(|slot| **slot == 0) {
        *slot = missing.next().unwrap_or_default();
    }
    for (index, id) in slots.iter().enumerate() {
        if old.get(index) != Some(id) {
            writes
                .slots
                .push(Op::Put(Row::Slot(key, index as u16 + 1, *id)));
        }
    }
    for index in slots.len()..old.len() {
        writes
            .last
            .push(Op::Delete(RowKey::Slot(key, index as u16 + 1)));
    }
    writes.rows_freed.services[family(key.address)] += old.len().saturating_sub(slots.len());
    installed.slots = slots;
}

/// Gives how many rows there are more of for the time being.
pub(super) fn settle_ranges(
    installed: &mut Installed,
    id: FrontendId,
    frontend: &Frontend,
    writes: &mut Writes,
) -> usize {
    let wanted: BTreeMap<IpNet, bool> = match &frontend.ranges {
        Some(ranges) => ranges.nets.iter().map(|net| (*net, !ranges.deny)).collect(),
        None => BTreeMap::new(),
    };
    debug_assert!(wanted.is_empty() || frontend.has(flags::SOURCE_RANGES));
    for (net, allow) in &wanted {
        if installed.ranges.get(net) != Some(allow) {
            writes.first.push(Op::Put(Row::Source(id, *net, *allow)));
        }
    }
    for net in installed
        .ranges
        .keys()
        .filter(|net| !wanted.contains_key(net))
    {
        writes.last.push(Op::Delete(RowKey::Source(id, *net)));
        writes.rows_freed.sources[family(frontend.key.address)] += 1;
    }
    let known = &installed.ranges;
    let more = wanted.keys().filter(|net| !known.contains_key(net)).count();
    installed.ranges = wanted;
    more
}

/// Gives how many rows there are more of for the time being.
pub(super) fn settle_affinity(
    installed: &mut Installed,
    id: FrontendId,
    on: bool,
    ids: &[BackendId],
    writes: &mut Writes,
) -> usize {
    let wanted: BTreeSet<BackendId> = ids.iter().copied().filter(|_| on).collect();
    for backend in wanted.difference(&installed.affinity) {
        writes.first.push(Op::Put(Row::Affinity(id, *backend)));
    }
    for backend in installed.affinity.difference(&wanted) {
        writes.last.push(Op::Delete(RowKey::Affinity(id, *backend)));
        writes.rows_freed.affinity += 1;
    }
    let more = wanted.difference(&installed.affinity).count();
    installed.affinity = wanted;
    more
}
