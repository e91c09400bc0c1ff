//! Who has which address.
use super::pool::{Pool, address, number};
use super::share::obstacle;
use super::{Known, Request, Setup, Unsatisfied};
use crate::annotations::AddressNotes;
use model::Text;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Something that is different now.
#[derive(Clone, Debug)]
pub enum Change {
    /// A pool, or that it is gone.
    Pool(Text, Option<Pool>),
    /// A service, or that it is gone.
    Service(Text, Option<Request>),
}

/// What a pool's status should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// What it conflicts with; none: nothing.
    pub conflict: Option<String>,
    /// Addresses in all.
    pub total: u128,
    /// Addresses that services have.
    pub used: u128,
}

impl PoolStatus {
    /// Addresses that are left.
    #[must_use]
    pub const fn available(&self) -> u128 {
        self.total.saturating_sub(self.used)
    }

    /// The conditions: type, status, reason and message.
    #[must_use]
    pub fn conditions(&self) -> [(&'static str, &'static str, &'static str, String); 4] {
        let count = |kind, number: u128| (kind, "Unknown", "noreason", number.to_string());
        let conflict = match &self.conflict {
            Some(what) => (
                "cilium.io/PoolConflict",
                "True",
                "cidr_overlap",
                what.clone(),
            ),
            None => ("cilium.io/PoolConflict", "False", "resolved", String::new()),
        };
        [
            conflict,
            count("cilium.io/IPsTotal", self.total),
            count("cilium.io/IPsAvailable", self.available()),
            count("cilium.io/IPsUsed", self.used),
        ]
    }
}

/// Something to be written to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The status of a service: its addresses, and whether it has what it asks for. Without an outcome the condition goes.
    Service {
        /// `namespace/name`.
        key: Text,
        /// Its addresses.
        ingress: Vec<IpAddr>,
        /// Satisfied, or why not.
        outcome: Option<Result<(), Unsatisfied>>,
    },
    /// The status of a pool.
    Pool(Text, PoolStatus),
}

/// For metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pools that conflict.
    pub conflicting: usize,
    /// Services that pools give addresses to.
    pub matching: usize,
    /// Of them, those that have not what they ask for.
    pub unsatisfied: usize,
}

/// What was last written of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    ingress: Vec<IpAddr>,
    outcome: Option<Result<(), Unsatisfied>>,
}

/// Gives addresses of pools to services. Takes changes, gives writes. Asleep until there is a pool; the first flush must wait
/// until all services and pools are known, so that what services have already is not given to others.
#[derive(Debug)]
pub struct Manager {
    setup: Setup,
    awake: bool,
    pools: BTreeMap<Text, Pool>,
    conflicts: BTreeMap<Text, String>,
    services: BTreeMap<Text, Known>,
    /// Addresses by service.
    given: BTreeMap<Text, BTreeSet<IpAddr>>,
    /// Services by address.
    holders: BTreeMap<IpAddr, BTreeSet<Text>>,
    unsatisfied: BTreeMap<Text, Unsatisfied>,
    dirty: BTreeSet<Text>,
    pools_changed: bool,
    written: BTreeMap<Text, Written>,
    written_pools: BTreeMap<Text, PoolStatus>,
    /// Below these numbers nothing is free, by first number and family of a range.
    full_below: BTreeMap<(bool, u128), u128>,
}

impl Manager {
    /// A manager that knows nothing yet.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            awake: false,
            pools: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            services: BTreeMap::new(),
            given: BTreeMap::new(),
            holders: BTreeMap::new(),
            unsatisfied: BTreeMap::new(),
            dirty: BTreeSet::new(),
            pools_changed: false,
            written: BTreeMap::new(),
            written_pools: BTreeMap::new(),
            full_below: BTreeMap::new(),
        }
    }

    /// Takes a change. Nothing is given before [`Manager::flush`].
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Pool(name, pool) => {
                let same = self.pools.get(&name) == pool.as_ref();
                self.pools_changed |= !same;
                self.awake |= pool.is_some();
                match pool {
                    Some(pool) => self.pools.insert(name, pool),
                    None => self.pools.remove(&name),
                };
            }
            Change::Service(key, request) => {
                if self.services.get(&key).map(|known| &known.request) == request.as_ref() {
                    return;
                }
                match request {
                    Some(request) => {
                        let notes = AddressNotes::read(&request.annotations, &request.address);
                        self.services.insert(key.clone(), Known { request, notes });
                    }
                    None => {
                        self.services.remove(&key);
                    }
                }
                self.dirty.insert(key);
            }
        }
    }

    /// What should be written since the last flush.
    pub fn flush(&mut self) -> Vec<Write> {
        if !self.awake {
            return Vec::new();
        }
        if std::mem::take(&mut self.pools_changed) {
            self.settle_conflicts();
            self.full_below.clear();
            self.dirty.extend(self.services.keys().cloned());
        }
        let dirty = std::mem::take(&mut self.dirty);
        let ordered = self.by_age(dirty.iter());
        // First everybody keeps what it may, then those who lack something get it.
        for key in &dirty {
            if !self.services.contains_key(key) {
                self.forget(key);
            }
        }
        for key in &ordered {
            self.keep(key);
        }
        let mut lacking: BTreeSet<Text> = ordered.iter().cloned().collect();
        lacking.extend(self.unsatisfied.keys().cloned());
        let lacking = self.by_age(lacking.iter());
        for key in &lacking {
            self.complete(key);
        }
        let mut writes: Vec<_> = lacking.iter().filter_map(|key| self.write(key)).collect();
        self.write_pools(&mut writes);
        writes
    }

    /// Addresses of a service, in order.
    #[must_use]
    pub fn addresses(&self, key: &str) -> Vec<IpAddr> {
        self.given.get(key).into_iter().flatten().copied().collect()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let managed = self
            .services
            .values()
            .filter(|known| self.setup.manages(&known.request));
        Totals {
            conflicting: self.conflicts.len(),
            matching: managed.count(),
            unsatisfied: self.unsatisfied.len(),
        }
    }

    fn by_age<'a>(&self, keys: impl Iterator<Item = &'a Text>) -> Vec<Text> {
        let known = |key: &'a Text| Some((self.services.get(key)?.request.created, key));
        let mut keys: Vec<_> = keys.filter_map(known).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, key)| key.clone()).collect()
    }

    /// Pools, the oldest first.
    fn pools_by_age(&self) -> Vec<&Pool> {
        let mut pools: Vec<_> = self.pools.values().collect();
        pools.sort_by_key(|pool| (pool.created, &pool.name));
        pools
    }

    fn settle_conflicts(&mut self) {
        let mut conflicts = BTreeMap::new();
        let mut sound: Vec<&Pool> = Vec::new();
        for pool in self.pools_by_age() {
            match pool.conflict(sound.iter().copied()) {
                Some(what) => {
                    conflicts.insert(pool.name.clone(), what);
                }
                None => sound.push(pool),
            }
        }
        self.conflicts = conflicts;
    }

    fn forget(&mut self, key: &Text) {
        for ip in self.given.remove(key).unwrap_or_default() {
            self.free(key, ip);
        }
        self.unsatisfied.remove(key);
        self.written.remove(key);
    }

    fn free(&mut self, key: &Text, ip: IpAddr) {
        if let Some(holders) = self.holders.get_mut(&ip) {
            holders.remove(key);
            if holders.is_empty() {
                self.holders.remove(&ip);
                let n = number(ip);
                let below = self.full_below.iter_mut();
                for ((_, first), full) in below.filter(|((ipv6, _), _)| *ipv6 == ip.is_ipv6()) {
                    if *first <= n && n < *full {
                        *full = n;
                    }
                }
            }
        }
    }

    fn give(&mut self, key: &Text, ip: IpAddr) {
        self.given.entry(key.clone()).or_default().insert(ip);
        self.holders.entry(ip).or_default().insert(key.clone());
    }

    /// Lets a service keep what it has and may have; of a service that is new, what its status says.
    fn keep(&mut self, key: &Text) {
        let Some(known) = self.services.get(key).cloned() else {
            return;
        };
        let had = self.given.remove(key);
        let claimed: BTreeSet<IpAddr> = match &had {
            Some(had) => had.clone(),
            None => known.request.ingress.iter().copied().collect(),
        };
        for ip in had.into_iter().flatten() {
            self.free(key, ip);
        }
        let mut families = [0; 2];
        for ip in claimed {
            let count = &mut families[usize::from(ip.is_ipv6())];
            if self.may_keep(&known, ip, *count) {
                *count += 1;
                self.give(key, ip);
            }
        }
    }

    fn may_keep(&self, known: &Known, ip: IpAddr, same_family: usize) -> bool {
        let (Ok(notes), true) = (&known.notes, self.setup.manages(&known.request)) else {
            return false;
        };
        let wanted = if notes.ips.is_empty() {
            let families = self.setup.wanted(&known.request).unwrap_or_default();
            same_family == 0 && families.contains(&ip.is_ipv6())
        } else {
            notes.ips.contains(&ip)
        };
        let mut pools = self.pools.values();
        wanted
            && pools.any(|pool| pool.contains(ip) && pool.selects(&known.request))
            && self.obstacle(known, ip).is_none()
    }

    /// Who stands in the way of a service at an address, and why.
    fn obstacle(&self, known: &Known, ip: IpAddr) -> Option<(Text, String)> {
        let holders = self.holders.get(&ip)?;
        let others = holders
            .iter()
            .filter(|holder| **holder != known.request.key);
        others
            .filter_map(|holder| Some((holder, self.services.get(holder)?)))
            .find_map(|(holder, other)| Some((holder.clone(), obstacle(known, other)?)))
    }

    /// Gives a service what it lacks.
    fn complete(&mut self, key: &Text) {
        let Some(known) = self.services.get(key).cloned() else {
            return;
        };
        self.unsatisfied.remove(key);
        if !self.setup.manages(&known.request) {
            return;
        }
        let outcome = match &known.notes {
            Err(problem) => Err(Unsatisfied::new("invalid_request", problem.to_string())),
            Ok(notes) if notes.ips.is_empty() => self.complete_families(&known),
            Ok(notes) => self.complete_all_requested(&known, &notes.ips),
        };
        if let Err(why) = outcome {
            self.unsatisfied.insert(key.clone(), why);
        }
    }

    fn has(&self, key: &Text, wanted: impl Fn(&IpAddr) -> bool) -> bool {
        self.given
            .get(key)
            .is_some_and(|given| given.iter().any(wanted))
    }

    /// Gives all that can be given; of what cannot, says the first.
    fn complete_all_requested(&mut self, known: &Known, ips: &[IpAddr]) -> Result<(), Unsatisfied> {
        let mut outcome = Ok(());
        for ip in ips {
            let one = self.complete_requested(known, *ip);
            outcome = outcome.and(one);
        }
        outcome
    }

    fn complete_requested(&mut self, known: &Known, ip: IpAddr) -> Result<(), Unsatisfied> {
        let key = &known.request.key;
        if self.has(key, |has| *has == ip) {
            return Ok(());
        }
        let usable = |pool: &&Pool| !pool.disabled && !self.conflicts.contains_key(&pool.name);
        let mut with = self
            .pools
            .values()
            .filter(usable)
            .filter(|pool| pool.contains(ip))
            .peekable();
        if with.peek().is_none() {
            let message = format!("no enabled pool has the requested address {ip}");
            return Err(Unsatisfied::new("no_pool", message));
        }
        if !with.any(|pool| pool.selects(&known.request)) {
            let message =
                format!("the pool with the requested address {ip} does not select this service");
            return Err(Unsatisfied::new("pool_selector_mismatch", message));
        }
        if let Some((holder, why)) = self.obstacle(known, ip) {
            let shares = known
                .notes
                .as_ref()
                .is_ok_and(|notes| !notes.key.is_empty());
            let reason = if shares {
                "already_allocated_incompatible_service"
            } else {
                "already_allocated"
            };
            return Err(Unsatisfied::new(
                reason,
                format!("service {holder} has the requested address {ip}: {why}"),
            ));
        }
        self.give(key, ip);
        Ok(())
    }

    fn complete_families(&mut self, known: &Known) -> Result<(), Unsatisfied> {
        let families = self.setup.wanted(&known.request).map_err(|ipv6| {
            let message = format!("{} is not enabled in this cluster", name(ipv6));
            Unsatisfied::new("no_pool", message)
        })?;
        let mut outcome = Ok(());
        for ipv6 in families {
            if !self.has(&known.request.key, |ip| ip.is_ipv6() == ipv6) {
                outcome = outcome.and(self.complete_family(known, ipv6));
            }
        }
        outcome
    }

    fn complete_family(&mut self, known: &Known, ipv6: bool) -> Result<(), Unsatisfied> {
        let key = &known.request.key;
        if let Some(ip) = self.shared(known, ipv6) {
            self.give(key, ip);
            return Ok(());
        }
        let usable = |pool: &&Pool| {
            !pool.disabled
                && !self.conflicts.contains_key(&pool.name)
                && pool.ranges().any(|range| range.0 == ipv6)
                && pool.selects(&known.request)
        };
        let ranges: Vec<_> = self
            .pools_by_age()
            .into_iter()
            .filter(usable)
            .flat_map(|pool| {
                pool.ranges()
                    .filter(|range| range.0 == ipv6)
                    .collect::<Vec<_>>()
            })
            .collect();
        if ranges.is_empty() {
            let message = format!(
                "no enabled pool with {} addresses selects this service",
                name(ipv6)
            );
            return Err(Unsatisfied::new("no_pool", message));
        }
        match ranges.into_iter().find_map(|range| self.next_free(range)) {
            Some(ip) => {
                self.give(key, ip);
                Ok(())
            }
            None => {
                let message = format!(
                    "no {} address is left in the pools that select this service",
                    name(ipv6)
                );
                Err(Unsatisfied::new("out_of_ips", message))
            }
        }
    }

    /// An address that a service may share with those who have it.
    fn shared(&self, known: &Known, ipv6: bool) -> Option<IpAddr> {
        let key = &known
            .notes
            .as_ref()
            .ok()
            .filter(|notes| !notes.key.is_empty())?
            .key;
        let same = self
            .services
            .iter()
            .filter(|(_, other)| other.notes.as_ref().is_ok_and(|notes| notes.key == *key));
        let theirs = same
            .filter_map(|(other, _)| self.given.get(other))
            .flatten();
        let mut candidates: Vec<IpAddr> =
            theirs.copied().filter(|ip| ip.is_ipv6() == ipv6).collect();
        candidates.sort_unstable();
        candidates.into_iter().find(|ip| {
            let usable = |pool: &Pool| {
                !pool.disabled
                    && !self.conflicts.contains_key(&pool.name)
                    && pool.contains(*ip)
                    && pool.selects(&known.request)
            };
            self.pools.values().any(usable) && self.obstacle(known, *ip).is_none()
        })
    }

    fn next_free(&mut self, (ipv6, first, last): (bool, u128, u128)) -> Option<IpAddr> {
        let full = self.full_below.entry((ipv6, first)).or_insert(first);
        let mut free = *full;
        if free <= last {
            for (held, _) in self
                .holders
                .range(address(ipv6, free)..=address(ipv6, last))
            {
                if number(*held) != free {
                    break;
                }
                free = free.checked_add(1)?;
            }
        }
        *full = free;
        (free <= last).then(|| address(ipv6, free))
    }

    fn write(&mut self, key: &Text) -> Option<Write> {
        let request = &self.services.get(key)?.request;
        let mut shown = request.ingress.clone();
        shown.sort_unstable();
        let ingress = self.addresses(key);
        let outcome = self
            .setup
            .manages(request)
            .then(|| match self.unsatisfied.get(key) {
                Some(why) => Err(why.clone()),
                None => Ok(()),
            });
        let new = Written { ingress, outcome };
        let old = self.written.get(key);
        // Whom somebody else manages, and who never had anything of ours, is left alone.
        let right = new.outcome.is_none() || shown == new.ingress;
        if (old == Some(&new) && right) || (old.is_none() && new.outcome.is_none()) {
            return None;
        }
        self.written.insert(key.clone(), new.clone());
        Some(Write::Service {
            key: key.clone(),
            ingress: new.ingress,
            outcome: new.outcome,
        })
    }

    fn write_pools(&mut self, writes: &mut Vec<Write>) {
        self.written_pools
            .retain(|name, _| self.pools.contains_key(name));
        for (name, pool) in &self.pools {
            let used = pool.ranges().filter(|(_, first, last)| first <= last).map(
                |(ipv6, first, last)| {
                    self.holders
                        .range(address(ipv6, first)..=address(ipv6, last))
                        .count() as u128
                },
            );
            let status = PoolStatus {
                conflict: self.conflicts.get(name).cloned(),
                total: pool.total(),
                used: used.sum(),
            };
            if self.written_pools.get(name) != Some(&status) {
                self.written_pools.insert(name.clone(), status.clone());
                writes.push(Write::Pool(name.clone(), status));
            }
        }
    }
}

const fn name(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}
