//! What the kernel holds, and how it gets from there to what it should hold, one write after the other.
//!
//! The order of writes: backends, what belongs to a frontend's number, its slots, the frontend's row, and only then what is
//! no longer needed. So a frontend's row never counts a slot that is missing, and no slot names a backend that is missing.
mod restore;

use crate::frontend::{Algorithm, Backend, BackendKey, Frontend, FrontendKey, State, flags};
use crate::ids::IdPool;
use crate::maglev::Shape;
use crate::rows::{BackendId, FrontendId, Master, Op, Row, RowKey};
use crate::settings::{Limits, Settings};
use ipnet::IpNet;
use model::Text;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A frontend as the kernel has it.
#[derive(Debug, Default)]
struct Installed {
    master: Option<Master>,
    /// What each slot names; zero where that is not known.
    slots: Vec<BackendId>,
    /// Whom it holds besides: they keep their connections.
    kept: Vec<(BackendId, State)>,
    ranges: BTreeMap<IpNet, bool>,
    /// There is a table; of which backends, as far as known.
    maglev: Option<Option<Arc<Contents>>>,
    affinity: BTreeSet<BackendId>,
    reverse: bool,
}

/// What a Maglev table is made of.
type Contents = Vec<(BackendId, u16)>;

/// A backend as the kernel has it.
#[derive(Debug)]
struct Held {
    id: BackendId,
    /// How many frontends have it in each state.
    users: [u32; 4],
    written: Option<State>,
}

/// How much of a frontend there was room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// All of it.
    All,
    /// This many of its backends.
    Some(usize),
    /// None.
    None,
}

/// The writes of a flush, by the order they must be in.
#[derive(Default)]
struct Writes {
    /// Rows that nothing refers to yet.
    first: Vec<Op>,
    tables: Vec<Op>,
    slots: Vec<Op>,
    masters: Vec<Op>,
    /// Rows of frontends that go, before what they refer to.
    unmaster: Vec<Op>,
    last: Vec<Op>,
    /// Numbers that become free once all is written.
    freed: Vec<FrontendId>,
    /// Backends whose users have changed.
    backends: BTreeSet<BackendKey>,
    /// Rows of the service map that go, by family: there is room only once they have gone.
    rows_freed: [usize; 2],
    /// Tables worked out in this flush: frontends of a service share them.
    made: BTreeMap<Contents, Arc<[BackendId]>>,
}

/// The kernel's rows, and the numbers in them.
#[derive(Debug)]
pub(crate) struct Kernel {
    frontends: BTreeMap<FrontendKey, Installed>,
    backends: BTreeMap<BackendKey, Held>,
    names: BTreeMap<BackendId, BackendKey>,
    skips: BTreeSet<(Text, FrontendKey)>,
    ids: IdPool,
    backend_ids: IdPool,
    /// Rows in the service map and in the backend map, by family.
    rows: [(usize, usize); 2],
    limits: Limits,
    shape: Shape,
    /// Rows from before that nothing refers to.
    orphans: Vec<RowKey>,
}

impl Kernel {
    /// An empty kernel.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            frontends: BTreeMap::new(),
            backends: BTreeMap::new(),
            names: BTreeMap::new(),
            skips: BTreeSet::new(),
            ids: IdPool::new(u32::from(FrontendId::MAX), settings.rest),
            backend_ids: IdPool::new(u32::MAX, settings.rest),
            rows: [(0, 0); 2],
            limits: settings.limits,
            shape: settings.maglev,
            orphans: Vec::new(),
        }
    }

    /// Frontends that the kernel has.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.frontends.keys()
    }

    /// A frontend's row.
    pub(crate) fn master(&self, key: &FrontendKey) -> Option<Master> {
        self.frontends.get(key)?.master
    }

    /// A backend's number.
    pub(crate) fn backend_id(&self, key: &BackendKey) -> Option<BackendId> {
        self.backends.get(key).map(|held| held.id)
    }

    /// The next generation of numbers.
    pub(crate) fn tick(&mut self) {
        self.ids.tick();
        self.backend_ids.tick();
    }

    /// Makes frontends so, or away. Gives the writes in their order, and of whom there was no room for all.
    pub(crate) fn settle(
        &mut self,
        wanted: &[(FrontendKey, Option<&Frontend>)],
        skips: Option<BTreeSet<(Text, FrontendKey)>>,
        last: bool,
        ops: &mut Vec<Op>,
    ) -> Vec<(FrontendKey, Room)> {
        let mut writes = Writes::default();
        let (backends, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.orphans)
            .into_iter()
            .partition(|key| matches!(key, RowKey::Backend(..)));
        ops.extend(others.into_iter().map(Op::Delete));
        // A slot may still name one of these until it is written anew.
        writes.last.extend(backends.into_iter().map(Op::Delete));
        let mut rooms = Vec::with_capacity(wanted.len());
        for (key, frontend) in wanted {
            let room = match frontend {
                Some(frontend) => self.install(frontend, &mut writes),
                None => {
                    self.remove(key, &mut writes);
                    Room::All
                }
            };
            rooms.push((*key, room));
        }
        if let Some(skips) = skips {
            self.settle_skips(skips, last, &mut writes);
        }
        self.finish(writes, ops);
        rooms
    }

    /// Rows of pods that are not redirected. Those that go, go with the last part: after the frontends that they are for.
    fn settle_skips(
        &mut self,
        skips: BTreeSet<(Text, FrontendKey)>,
        last: bool,
        writes: &mut Writes,
    ) {
        for (pod, key) in skips.difference(&self.skips) {
            writes.first.push(Op::Put(Row::Skip(pod.clone(), *key)));
        }
        if !last {
            return self.skips.extend(skips);
        }
        for (pod, key) in self.skips.difference(&skips) {
            writes
                .last
                .push(Op::Delete(RowKey::Skip(pod.clone(), *key)));
        }
        self.skips = skips;
    }

    /// Backends that nobody uses any more, and the order of it all.
    fn finish(&mut self, mut writes: Writes, ops: &mut Vec<Op>) {
        let mut gone = Vec::new();
        let mut freed = Vec::new();
        for key in std::mem::take(&mut writes.backends) {
            let Some(held) = self.backends.get_mut(&key) else {
                continue;
            };
            let state = State::ALL
                .into_iter()
                .find(|state| held.users[*state as usize] > 0);
            match state {
                None => {
                    gone.push(Op::Delete(RowKey::Backend(held.id, key.address.is_ipv6())));
                    freed.push(held.id);
                    self.names.remove(&held.id);
                    self.backends.remove(&key);
                    self.rows[family(key.address)].1 -= 1;
                }
                Some(state) if held.written != Some(state) => {
                    held.written = Some(state);
                    ops.push(Op::Put(Row::Backend(held.id, key, state)));
                }
                Some(_) => {}
            }
        }
        for part in [
            writes.first,
            writes.tables,
            writes.slots,
            writes.masters,
            writes.unmaster,
            writes.last,
            gone,
        ] {
            ops.extend(part);
        }
        for (rows, freed) in self.rows.iter_mut().zip(writes.rows_freed) {
            rows.0 -= freed;
        }
        freed.into_iter().for_each(|id| self.backend_ids.give(id));
        for id in writes.freed {
            self.ids.give(u32::from(id));
        }
    }

    /// Backends that have been restored and that no frontend has asked for.
    pub(crate) fn forget_unused(&mut self, ops: &mut Vec<Op>) {
        let unused = self
            .backends
            .iter()
            .filter(|(_, held)| held.users == [0; 4]);
        let backends = unused.map(|(key, _)| *key).collect();
        let writes = Writes {
            backends,
            ..Writes::default()
        };
        self.finish(writes, ops);
    }

    /// The backends there is room for. Those that serve come before those that only keep connections.
    fn fit<'a>(&self, frontend: &'a Frontend) -> Option<(&'a [Backend], &'a [Backend])> {
        let (services, _) = self.rows[family(frontend.key.address)];
        let own = self
            .frontends
            .get(&frontend.key)
            .map_or(0, |installed| installed.slots.len() + 1);
        let slots = (self.limits.services + own)
            .checked_sub(services + 1)?
            .min(usize::from(u16::MAX));
        let mut room =
            [0, 1].map(|family| self.limits.backends.saturating_sub(self.rows[family].1));
        let mut places = |backends: &[Backend], most: usize| {
            let fits = |backend: &&Backend| {
                let room = &mut room[family(backend.key.address)];
                if self.backends.contains_key(&backend.key) {
                    return true;
                }
                let fits = *room > 0;
                *room -= usize::from(fits);
                fits
            };
            backends.iter().take(most).take_while(fits).count()
        };
        let selection = &frontend.selection;
        let used = places(&selection.used, slots);
        let kept = places(&selection.kept, usize::MAX);
        Some((&selection.used[..used], &selection.kept[..kept]))
    }

    fn install(&mut self, frontend: &Frontend, writes: &mut Writes) -> Room {
        let key = frontend.key;
        let Some((used, kept)) = self.fit(frontend) else {
            self.remove(&key, writes);
            return Room::None;
        };
        let mut installed = self.frontends.remove(&key).unwrap_or_default();
        let id = match installed.master {
            Some(master) => master.id,
            None => match self.ids.take().and_then(|id| FrontendId::try_from(id).ok()) {
                Some(id) => id,
                None => return Room::None,
            },
        };
        let serving = frontend.selection.state();
        let ids: Vec<BackendId> = used
            .iter()
            .map(|backend| self.acquire(backend, serving, writes))
            .collect();
        let new_kept = kept
            .iter()
            .map(|backend| (self.acquire(backend, backend.state, writes), backend.state))
            .collect();
        self.release(&installed, writes);
        installed.kept = new_kept;

        if !installed.reverse {
            installed.reverse = true;
            writes
                .first
                .push(Op::Put(Row::Reverse(id, key.address, key.port)));
        }
        settle_ranges(&mut installed, id, frontend, writes);
        settle_affinity(
            &mut installed,
            id,
            frontend.affinity.is_some(),
            &ids,
            writes,
        );
        self.settle_table(&mut installed, id, frontend, used, &ids, writes);
        let before = installed.slots.len();
        settle_slots(&mut installed, key, &ids, writes);
        self.rows[family(key.address)].0 += ids.len().saturating_sub(before);
        let master = Master {
            id,
            count: ids.len() as u16,
            serving,
            flags: frontend.flags,
            affinity: frontend.affinity.unwrap_or_default(),
            algorithm: frontend.algorithm,
        };
        if installed.master != Some(master) {
            if installed.master.is_none() {
                self.rows[family(key.address)].0 += 1;
            }
            installed.master = Some(master);
            writes.masters.push(Op::Put(Row::Frontend(key, master)));
        }
        self.frontends.insert(key, installed);
        if ids.len() == frontend.selection.used.len() {
            Room::All
        } else {
            Room::Some(ids.len())
        }
    }

    fn settle_table(
        &mut self,
        installed: &mut Installed,
        id: FrontendId,
        frontend: &Frontend,
        used: &[Backend],
        ids: &[BackendId],
        writes: &mut Writes,
    ) {
        if frontend.algorithm != Algorithm::Maglev || used.is_empty() {
            if installed.maglev.take().is_some() {
                let key = RowKey::Maglev(id, frontend.key.address.is_ipv6());
                writes.last.push(Op::Delete(key));
            }
            return;
        }
        let mut contents: Contents = ids
            .iter()
            .copied()
            .zip(used.iter().map(|backend| backend.weight))
            .collect();
        contents.sort_unstable();
        if let Some(Some(known)) = &installed.maglev
            && **known == contents
        {
            return;
        }
        if let Some(table) = writes.made.get(&contents) {
            writes.tables.push(Op::Put(Row::Maglev(id, table.clone())));
            installed.maglev = Some(Some(Arc::new(contents)));
            return;
        }
        let names: Vec<String> = used.iter().map(|backend| backend.key.to_string()).collect();
        let shares = names
            .iter()
            .zip(used)
            .map(|(name, backend)| (name.as_bytes(), backend.weight));
        let places = self.shape.table(&shares.collect::<Vec<_>>());
        let table: Arc<[BackendId]> = places
            .into_iter()
            .map(|place| ids[place as usize])
            .collect();
        writes.tables.push(Op::Put(Row::Maglev(id, table.clone())));
        writes.made.insert(contents.clone(), table);
        installed.maglev = Some(Some(Arc::new(contents)));
    }

    fn remove(&mut self, key: &FrontendKey, writes: &mut Writes) {
        let Some(installed) = self.frontends.remove(key) else {
            return;
        };
        self.release(&installed, writes);
        let Some(master) = installed.master else {
            return;
        };
        let (id, ipv6) = (master.id, key.address.is_ipv6());
        writes.unmaster.push(Op::Delete(RowKey::Frontend(*key)));
        let mut delete = |key| writes.last.push(Op::Delete(key));
        for index in 0..installed.slots.len() {
            delete(RowKey::Slot(*key, index as u16 + 1));
        }
        if installed.maglev.is_some() {
            delete(RowKey::Maglev(id, ipv6));
        }
        installed
            .affinity
            .iter()
            .for_each(|backend| delete(RowKey::Affinity(id, *backend)));
        installed
            .ranges
            .keys()
            .for_each(|net| delete(RowKey::Source(id, *net)));
        if installed.reverse {
            delete(RowKey::Reverse(id, ipv6));
        }
        writes.rows_freed[family(key.address)] += installed.slots.len() + 1;
        writes.freed.push(id);
    }

    fn acquire(&mut self, backend: &Backend, state: State, writes: &mut Writes) -> BackendId {
        writes.backends.insert(backend.key);
        let (ids, rows, names) = (&mut self.backend_ids, &mut self.rows, &mut self.names);
        let held = self.backends.entry(backend.key).or_insert_with(|| {
            rows[family(backend.key.address)].1 += 1;
            // There are more numbers than any map has rows.
            let id = ids.take().unwrap_or_default();
            names.insert(id, backend.key);
            Held {
                id,
                users: [0; 4],
                written: None,
            }
        });
        held.users[state as usize] += 1;
        held.id
    }

    /// Gives up what a frontend holds of backends.
    fn release(&mut self, installed: &Installed, writes: &mut Writes) {
        let Some(master) = installed.master else {
            return;
        };
        let slots = installed.slots.iter().map(|id| (*id, master.serving));
        let held: BTreeMap<(BackendId, State), u32> = slots
            .chain(installed.kept.iter().copied())
            .fold(BTreeMap::new(), |mut all, one| {
                *all.entry(one).or_default() += 1;
                all
            });
        for ((id, state), times) in held {
            if let Some(key) = self.names.get(&id).copied() {
                writes.backends.insert(key);
                if let Some(held) = self.backends.get_mut(&key) {
                    held.users[state as usize] -= times;
                }
            }
        }
    }
}

/// Puts backends into slots so that as few as possible change.
fn settle_slots(
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
    writes.rows_freed[family(key.address)] += old.len().saturating_sub(slots.len());
    installed.slots = slots;
}

fn settle_ranges(
    installed: &mut Installed,
    id: FrontendId,
    frontend: &Frontend,
    writes: &mut Writes,
) {
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
    }
    installed.ranges = wanted;
}

fn settle_affinity(
    installed: &mut Installed,
    id: FrontendId,
    on: bool,
    ids: &[BackendId],
    writes: &mut Writes,
) {
    let wanted: BTreeSet<BackendId> = ids.iter().copied().filter(|_| on).collect();
    for backend in wanted.difference(&installed.affinity) {
        writes.first.push(Op::Put(Row::Affinity(id, *backend)));
    }
    for backend in installed.affinity.difference(&wanted) {
        writes.last.push(Op::Delete(RowKey::Affinity(id, *backend)));
    }
    installed.affinity = wanted;
}

const fn family(address: std::net::IpAddr) -> usize {
    match address {
        std::net::IpAddr::V4(_) => 0,
        std::net::IpAddr::V6(_) => 1,
    }
}
