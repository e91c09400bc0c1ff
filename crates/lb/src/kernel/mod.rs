//! What the kernel holds, and how it gets from there to what it should hold, one write after the other.
//!
//! The order of writes: backends, addresses and what belongs to a frontend's number, its slots, the frontend's row, and only then what is
//! no longer needed. So a frontend's row never counts a slot that is missing, and no slot names a backend that is missing.
mod parts;
mod restore;

use parts::{settle_affinity, settle_ranges, settle_slots};

use crate::frontend::{Algorithm, Backend, BackendKey, Frontend, FrontendKey, State};
use crate::ids::IdPool;
use crate::maglev::Shape;
use crate::planner::Usage;
use crate::rows::{BackendId, FrontendId, Master, Op, Row, RowKey};
use crate::settings::{Limits, Settings};
use ipnet::IpNet;
use model::Text;
use std::collections::{BTreeMap, BTreeSet};
use std::{net::IpAddr, sync::Arc};

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

/// An address with frontends as the kernel has it.
#[derive(Debug, Default)]
struct Address {
    /// How many frontends it has.
    users: u32,
    written: bool,
}

impl Usage {
    fn release(&mut self, freed: &Self) {
        for family in [0, 1] {
            self.services[family] -= freed.services[family];
            self.backends[family] -= freed.backends[family];
            self.sources[family] -= freed.sources[family];
            self.tables[family] -= freed.tables[family];
        }
        self.affinity -= freed.affinity;
    }
}

/// How much of a frontend there was room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// All of it.
    All,
    /// All but its Maglev table.
    NoTable,
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
    /// Addresses whose frontends have changed.
    addresses: BTreeSet<IpAddr>,
    /// Rows that go: there is room only once they have gone.
    rows_freed: Usage,
    /// Tables worked out in this flush: frontends of a service share them.
    made: BTreeMap<Contents, Arc<[BackendId]>>,
}

/// The kernel's rows, and the numbers in them.
#[derive(Debug)]
pub(crate) struct Kernel {
    frontends: BTreeMap<FrontendKey, Installed>,
    backends: BTreeMap<BackendKey, Held>,
    names: BTreeMap<BackendId, BackendKey>,
    addresses: BTreeMap<IpAddr, Address>,
    skips: BTreeSet<(Text, FrontendKey)>,
    ids: IdPool,
    backend_ids: IdPool,
    rows: Usage,
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
            addresses: BTreeMap::new(),
            skips: BTreeSet::new(),
            // The last number stands for the frontends of other nodes.
            ids: IdPool::new(u32::from(FrontendId::MAX) - 1, settings.rest),
            backend_ids: IdPool::new(u32::MAX, settings.rest),
            rows: Usage::default(),
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

    /// How much of each map is used.
    pub(crate) const fn usage(&self) -> Usage {
        self.rows
    }

    /// Every row, in no order; tables are empty.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let addresses = self.addresses.keys().copied().map(Row::Address);
        let backends = self.backends.iter().filter_map(|(key, held)| {
            let state = held.written?;
            Some(Row::Backend(held.id, *key, state))
        });
        let skips = self.skips.iter().cloned();
        let skips = skips.map(|(pod, key)| Row::Skip(pod, key));
        let mut rows: Vec<Row> = addresses.chain(backends).chain(skips).collect();
        for (key, installed) in &self.frontends {
            let Some(master) = installed.master else {
                continue;
            };
            let id = master.id;
            rows.push(Row::Frontend(*key, master));
            rows.push(Row::Reverse(id, key.address, key.port));
            let slots = (1..).zip(&installed.slots);
            rows.extend(slots.map(|(slot, backend)| Row::Slot(*key, slot, *backend)));
            let affinity = installed.affinity.iter();
            rows.extend(affinity.map(|backend| Row::Affinity(id, *backend)));
            let ranges = installed.ranges.iter();
            rows.extend(ranges.map(|(net, allow)| Row::Source(id, *net, *allow)));
            if installed.maglev.is_some() {
                rows.push(Row::Maglev(id, key.address.is_ipv6(), Arc::default()));
            }
        }
        rows
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
                    writes.rows_freed.backends[family(key.address)] += 1;
                }
                Some(state) if held.written != Some(state) => {
                    held.written = Some(state);
                    ops.push(Op::Put(Row::Backend(held.id, key, state)));
                }
                Some(_) => {}
            }
        }
        self.settle_addresses(&mut writes);
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
        self.rows.release(&writes.rows_freed);
        freed.into_iter().for_each(|id| self.backend_ids.give(id));
        for id in writes.freed {
            self.ids.give(u32::from(id));
        }
    }

    /// The rows that say which addresses have frontends: there before the first, gone after the last.
    fn settle_addresses(&mut self, writes: &mut Writes) {
        for address in std::mem::take(&mut writes.addresses) {
            let Some(held) = self.addresses.get_mut(&address) else {
                continue;
            };
            if held.users == 0 {
                if held.written {
                    writes.last.push(Op::Delete(RowKey::Address(address)));
                }
                self.addresses.remove(&address);
                writes.rows_freed.services[family(address)] += 1;
            } else if !held.written {
                held.written = true;
                writes.first.push(Op::Put(Row::Address(address)));
            }
        }
    }

    /// Backends and addresses that have been restored and that no frontend has asked for.
    pub(crate) fn forget_unused(&mut self, ops: &mut Vec<Op>) {
        let unused = self
            .backends
            .iter()
            .filter(|(_, held)| held.users == [0; 4]);
        let backends = unused.map(|(key, _)| *key).collect();
        let unused = self.addresses.iter().filter(|(_, held)| held.users == 0);
        let addresses = unused.map(|(address, _)| *address).collect();
        let writes = Writes {
            backends,
            addresses,
            ..Writes::default()
        };
        self.finish(writes, ops);
    }

    /// The backends there is room for. Those that serve come before those that only keep connections.
    fn fit<'a>(&self, frontend: &'a Frontend) -> Option<(&'a [Backend], &'a [Backend])> {
        let key = &frontend.key;
        let installed = self.frontends.get(key);
        let own = installed.map_or(0, |installed| installed.slots.len() + 1);
        let address = usize::from(!self.addresses.contains_key(&key.address));
        let slots = (self.limits.services + own)
            .checked_sub(self.rows.services[family(key.address)] + 1 + address)?
            .min(usize::from(u16::MAX));
        let nets = frontend.ranges.iter().flat_map(|ranges| &ranges.nets);
        let new = |net: &&IpNet| installed.is_none_or(|own| !own.ranges.contains_key(net));
        let sources = self.rows.sources[family(key.address)] + nets.filter(new).count();
        if sources > self.limits.sources && frontend.ranges.is_some() {
            return None;
        }
        let mut room = [0, 1].map(|family| {
            self.limits
                .backends
                .saturating_sub(self.rows.backends[family])
        });
        let mut sticky = self.limits.affinity.saturating_sub(self.rows.affinity);
        let kept_by = |id: BackendId| installed.is_some_and(|own| own.affinity.contains(&id));
        let mut places = |backends: &[Backend], most: usize, affinity: bool| {
            let fits = |backend: &&Backend| {
                let room = &mut room[family(backend.key.address)];
                let held = self.backends.get(&backend.key);
                let row = usize::from(held.is_none());
                let stick = usize::from(affinity && !held.is_some_and(|held| kept_by(held.id)));
                if *room < row || sticky < stick {
                    return false;
                }
                *room -= row;
                sticky -= stick;
                true
            };
            backends.iter().take(most).take_while(fits).count()
        };
        let selection = &frontend.selection;
        let used = places(&selection.used, slots, frontend.affinity.is_some());
        let kept = places(&selection.kept, usize::MAX, false);
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
        let own = family(key.address);
        self.rows.sources[own] += settle_ranges(&mut installed, id, frontend, writes);
        let sticky = frontend.affinity.is_some();
        self.rows.affinity += settle_affinity(&mut installed, id, sticky, &ids, writes);
        let algorithm = self.settle_table(&mut installed, id, frontend, used, &ids, writes);
        let before = installed.slots.len();
        settle_slots(&mut installed, key, &ids, writes);
        self.rows.services[own] += ids.len().saturating_sub(before);
        let master = Master {
            id,
            count: ids.len() as u16,
            serving,
            flags: frontend.flags,
            affinity: frontend.affinity.unwrap_or_default(),
            algorithm,
        };
        if installed.master.is_none() {
            self.rows.services[own] += 1;
            self.use_address(key.address).users += 1;
        }
        writes.addresses.insert(key.address);
        if installed.master != Some(master) {
            installed.master = Some(master);
            writes.masters.push(Op::Put(Row::Frontend(key, master)));
        }
        self.frontends.insert(key, installed);
        if ids.len() < frontend.selection.used.len() {
            Room::Some(ids.len())
        } else if algorithm == frontend.algorithm {
            Room::All
        } else {
            Room::NoTable
        }
    }

    /// The address's entry, whose row counts from now on.
    fn use_address(&mut self, address: IpAddr) -> &mut Address {
        let rows = &mut self.rows.services[family(address)];
        self.addresses.entry(address).or_insert_with(|| {
            *rows += 1;
            Address::default()
        })
    }

    /// Makes the table, or removes it; the algorithm that works with what there is.
    fn settle_table(
        &mut self,
        installed: &mut Installed,
        id: FrontendId,
        frontend: &Frontend,
        used: &[Backend],
        ids: &[BackendId],
        writes: &mut Writes,
    ) -> Algorithm {
        let (ipv6, own) = (frontend.key.address.is_ipv6(), family(frontend.key.address));
        if frontend.algorithm != Algorithm::Maglev || used.is_empty() {
            if installed.maglev.take().is_some() {
                writes.last.push(Op::Delete(RowKey::Maglev(id, ipv6)));
                writes.rows_freed.tables[own] += 1;
            }
            return frontend.algorithm;
        }
        if installed.maglev.is_none() {
            if self.rows.tables[own] >= self.limits.tables {
                return Algorithm::Random;
            }
            self.rows.tables[own] += 1;
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
            return Algorithm::Maglev;
        }
        if let Some(table) = writes.made.get(&contents) {
            let row = Row::Maglev(id, ipv6, table.clone());
            writes.tables.push(Op::Put(row));
            installed.maglev = Some(Some(Arc::new(contents)));
            return Algorithm::Maglev;
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
        let row = Row::Maglev(id, ipv6, table.clone());
        writes.tables.push(Op::Put(row));
        writes.made.insert(contents.clone(), table);
        installed.maglev = Some(Some(Arc::new(contents)));
        Algorithm::Maglev
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
        if let Some(held) = self.addresses.get_mut(&key.address) {
            held.users -= 1;
            writes.addresses.insert(key.address);
        }
        let own = family(key.address);
        let freed = &mut writes.rows_freed;
        freed.services[own] += installed.slots.len() + 1;
        freed.sources[own] += installed.ranges.len();
        freed.tables[own] += usize::from(installed.maglev.is_some());
        freed.affinity += installed.affinity.len();
        writes.freed.push(id);
    }

    fn acquire(&mut self, backend: &Backend, state: State, writes: &mut Writes) -> BackendId {
        writes.backends.insert(backend.key);
        let (ids, rows, names) = (&mut self.backend_ids, &mut self.rows, &mut self.names);
        let held = self.backends.entry(backend.key).or_insert_with(|| {
            rows.backends[family(backend.key.address)] += 1;
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

const fn family(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}
