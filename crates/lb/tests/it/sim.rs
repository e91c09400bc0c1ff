//! A kernel of maps: takes writes one by one and looks after each whether packets would find their way.
use hypha_lb::Usage;
use hypha_lb::frontend::{Algorithm, BackendKey, FrontendKey, State, flags};
use hypha_lb::rows::{BackendId, FrontendId, Master, Op, Row, RowKey};
use ipnet::IpNet;
use model::Text;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub struct Sim {
    pub addresses: BTreeSet<IpAddr>,
    pub masters: BTreeMap<FrontendKey, Master>,
    pub slots: BTreeMap<(FrontendKey, u16), BackendId>,
    pub backends: BTreeMap<BackendId, (BackendKey, State)>,
    pub reverse: BTreeMap<(FrontendId, bool), (IpAddr, u16)>,
    pub affinity: BTreeSet<(FrontendId, BackendId)>,
    pub sources: BTreeMap<(FrontendId, IpNet), bool>,
    pub tables: BTreeMap<(FrontendId, bool), Arc<[BackendId]>>,
    pub skips: BTreeSet<(Text, FrontendKey)>,
}

/// What a frontend means, without the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    pub backends: BTreeSet<BackendKey>,
    pub state: State,
    pub flags: u16,
    pub affinity: u32,
    pub algorithm: Algorithm,
    pub sticky: BTreeSet<BackendKey>,
    pub sources: BTreeMap<IpNet, bool>,
    pub table: Option<Vec<BackendKey>>,
}

/// What the kernel means in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub frontends: BTreeMap<FrontendKey, Meaning>,
    pub backends: BTreeMap<BackendKey, State>,
    pub skips: BTreeSet<(Text, FrontendKey)>,
}

impl Sim {
    /// Makes the writes, looking at the state after each.
    pub fn run(&mut self, ops: &[Op]) {
        for op in ops {
            self.apply(op);
            if let Err(what) = self.check() {
                panic!("after {op:?}: {what}");
            }
        }
    }

    pub fn apply(&mut self, op: &Op) {
        match op.clone() {
            Op::Put(row) => self.put(row),
            Op::Delete(key) => assert!(self.delete(&key), "{key:?} was not there"),
        }
    }

    fn put(&mut self, row: Row) {
        match row {
            Row::Address(address) => {
                self.addresses.insert(address);
            }
            Row::Frontend(key, master) => {
                self.masters.insert(key, master);
            }
            Row::Slot(key, slot, backend) => {
                self.slots.insert((key, slot), backend);
            }
            Row::Backend(id, key, state) => {
                self.backends.insert(id, (key, state));
            }
            Row::Reverse(id, address, port) => {
                self.reverse
                    .insert((id, address.is_ipv6()), (address, port));
            }
            Row::Affinity(id, backend) => {
                self.affinity.insert((id, backend));
            }
            Row::Source(id, net, allow) => {
                self.sources.insert((id, net), allow);
            }
            Row::Maglev(id, ipv6, table) => {
                self.tables.insert((id, ipv6), table);
            }
            Row::Skip(pod, key) => {
                self.skips.insert((pod, key));
            }
        }
    }

    fn delete(&mut self, key: &RowKey) -> bool {
        match key {
            RowKey::Address(address) => self.addresses.remove(address),
            RowKey::Frontend(key) => self.masters.remove(key).is_some(),
            RowKey::Slot(key, slot) => self.slots.remove(&(*key, *slot)).is_some(),
            RowKey::Backend(id, _) => self.backends.remove(id).is_some(),
            RowKey::Reverse(id, ipv6) => self.reverse.remove(&(*id, *ipv6)).is_some(),
            RowKey::Affinity(id, backend) => self.affinity.remove(&(*id, *backend)),
            RowKey::Source(id, net) => self.sources.remove(&(*id, *net)).is_some(),
            RowKey::Maglev(id, ipv6) => self.tables.remove(&(*id, *ipv6)).is_some(),
            RowKey::Skip(pod, key) => self.skips.remove(&(pod.clone(), *key)),
        }
    }

    /// Every row of everything.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<_> = self.addresses.iter().copied().map(Row::Address).collect();
        rows.extend(
            self.masters
                .iter()
                .map(|(key, master)| Row::Frontend(*key, *master)),
        );
        rows.extend(
            self.slots
                .iter()
                .map(|((key, slot), id)| Row::Slot(*key, *slot, *id)),
        );
        rows.extend(
            self.backends
                .iter()
                .map(|(id, (key, state))| Row::Backend(*id, *key, *state)),
        );
        rows.extend(
            self.reverse
                .iter()
                .map(|((id, _), (ip, port))| Row::Reverse(*id, *ip, *port)),
        );
        rows.extend(
            self.affinity
                .iter()
                .map(|(id, backend)| Row::Affinity(*id, *backend)),
        );
        rows.extend(
            self.sources
                .iter()
                .map(|((id, net), allow)| Row::Source(*id, *net, *allow)),
        );
        rows.extend(
            self.tables
                .iter()
                .map(|((id, ipv6), table)| Row::Maglev(*id, *ipv6, table.clone())),
        );
        rows.extend(
            self.skips
                .iter()
                .map(|(pod, key)| Row::Skip(pod.clone(), *key)),
        );
        rows
    }

    /// How many rows there are of each sort.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            affinity: self.affinity.len(),
            ..Usage::default()
        };
        let family = |ip: &IpAddr| usize::from(ip.is_ipv6());
        for ip in self
            .addresses
            .iter()
            .chain(self.masters.keys().map(|key| &key.address))
            .chain(self.slots.keys().map(|(key, _)| &key.address))
        {
            usage.services[family(ip)] += 1;
        }
        for (key, _) in self.backends.values() {
            usage.backends[family(&key.address)] += 1;
        }
        for (_, net) in self.sources.keys() {
            usage.sources[family(&net.addr())] += 1;
        }
        for (_, ipv6) in self.tables.keys() {
            usage.tables[usize::from(*ipv6)] += 1;
        }
        usage
    }

    /// What must hold after every single write.
    pub fn check(&self) -> Result<(), String> {
        let has = |id: &BackendId, who: &str| match self.backends.contains_key(id) {
            true => Ok(()),
            false => Err(format!("{who} names backend {id}, which is missing")),
        };
        for ((key, slot), id) in &self.slots {
            has(id, &format!("slot {slot} of {key}"))?;
        }
        let mut ids = BTreeSet::new();
        for (key, master) in &self.masters {
            if master.id == 0 || !ids.insert(master.id) {
                return Err(format!("{key} has number {}, like another", master.id));
            }
            if !self.addresses.contains(&key.address) {
                return Err(format!("nobody looks for {key}: its address is missing"));
            }
            if let Some(slot) =
                (1..=master.count).find(|slot| !self.slots.contains_key(&(*key, *slot)))
            {
                return Err(format!("{key} counts slot {slot}, which is missing"));
            }
            let reverse = self.reverse.get(&(master.id, key.address.is_ipv6()));
            if reverse != Some(&(key.address, key.port)) {
                return Err(format!("answers of {key} would come from {reverse:?}"));
            }
            if master.algorithm == Algorithm::Maglev && master.count > 0 {
                let table = self
                    .tables
                    .get(&(master.id, key.address.is_ipv6()))
                    .ok_or(format!("{key} has no table"))?;
                table
                    .iter()
                    .try_for_each(|id| has(id, &format!("the table of {key}")))?;
            }
        }
        for (_, id) in &self.affinity {
            has(id, "affinity")?;
        }
        Ok(())
    }

    /// What it means; and that there is nothing that means nothing.
    pub fn whole(&self) -> Whole {
        let key_of = |id: &BackendId| self.backends[id].0;
        let frontend = |(key, master): (&FrontendKey, &Master)| {
            let slots = (1..=master.count).map(|slot| key_of(&self.slots[&(*key, slot)]));
            let sticky = self.affinity.iter().filter(|(id, _)| *id == master.id);
            let sources = self.sources.iter().filter(|((id, _), _)| *id == master.id);
            let meaning = Meaning {
                backends: slots.collect(),
                state: master.serving,
                flags: master.flags,
                affinity: master.affinity,
                algorithm: master.algorithm,
                sticky: sticky.map(|(_, backend)| key_of(backend)).collect(),
                sources: sources.map(|((_, net), allow)| (*net, *allow)).collect(),
                table: self
                    .tables
                    .get(&(master.id, key.address.is_ipv6()))
                    .map(|table| table.iter().map(key_of).collect()),
            };
            assert_eq!(
                meaning.backends.len(),
                usize::from(master.count),
                "{key}: a backend in two slots"
            );
            (*key, meaning)
        };
        let counted: usize = self
            .masters
            .values()
            .map(|master| usize::from(master.count))
            .sum();
        assert_eq!(counted, self.slots.len(), "slots that nobody counts");
        let ids: BTreeSet<FrontendId> = self.masters.values().map(|master| master.id).collect();
        assert_eq!(
            self.reverse
                .keys()
                .map(|(id, _)| *id)
                .collect::<BTreeSet<_>>(),
            ids
        );
        assert!(self.affinity.iter().all(|(id, _)| ids.contains(id)));
        assert!(self.sources.keys().all(|(id, _)| ids.contains(id)));
        assert!(self.tables.keys().all(|(id, _)| ids.contains(id)));
        assert!(
            self.addresses
                .iter()
                .all(|ip| self.masters.keys().any(|key| key.address == *ip))
        );
        Whole {
            frontends: self.masters.iter().map(frontend).collect(),
            backends: self.backends.values().copied().collect(),
            skips: self.skips.clone(),
        }
    }

    /// Whether a frontend lets a client in.
    pub fn admits(&self, key: &FrontendKey, client: IpAddr) -> bool {
        let master = &self.masters[key];
        if master.flags & flags::SOURCE_RANGES == 0 {
            return true;
        }
        let with = self
            .sources
            .iter()
            .filter(|((id, net), _)| *id == master.id && net.contains(&client));
        let longest = with.max_by_key(|((_, net), _)| net.prefix_len());
        longest.map_or(
            master.flags & flags::SOURCE_RANGES_DENY != 0,
            |(_, allow)| *allow,
        )
    }
}
