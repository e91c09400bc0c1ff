//! Names that pods were told of, and what rules by name (`toFQDNs`) mean by them.
//!
//! ```text
//! proxy ─ names, addresses ─→ Names (cache, file) ─ labels `fqdn:…` ─→ table named-prefixes ─→ identities → rows → address cache
//! policy ─ names that rules speak of ─→ Names ─→ proxy: answers about them wait until all this is done
//! ```
mod journal;
mod report;

use crate::policy::AddressCache;
use datapath::maps::Conntrack;
use ipnet::IpNet;
use journal::{Journal, Line};
use model::{Labels, Tables, UsedPrefix};
use policy::{
    fqdn::{Cache, Limits},
    identity::Scope,
    rule::DnsRule,
};
use proxy::dns::Learned;
use runtime::{health::Component, settings::Settings, stop::Stop};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tables::{Read as _, Watch};
use tokio::sync::watch;

/// How often names are looked through for those whose time is over.
const COLLECT: Duration = Duration::from_secs(60);
/// How long the proxy is kept waiting at most; it waits as long as it wants to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether the kernel has what it needs, where nobody says that it has more than before.
const LOOK: Duration = Duration::from_millis(20);

/// Names and patterns that rules allow connections to.
pub type Rules = Arc<BTreeSet<DnsRule>>;

/// Names on this node; cheap to clone.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    tables: Tables,
    kernel: Box<dyn AddressCache + Sync>,
    /// Passes a revision when the kernel has got more.
    written: OnceLock<Watch>,
    families: [bool; 2],
    /// How long an answer may wait.
    delay: Duration,
    state: Mutex<State>,
    rules: watch::Sender<Rules>,
}

struct State {
    cache: Cache,
    journal: Journal,
    /// Policy has said which names its rules speak of.
    told: bool,
    /// Labels of the addresses that rules speak of.
    rows: BTreeMap<IpAddr, Labels>,
    stats: Stats,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Addresses of names whose time is over.
    pub collected: u64,
    /// Answers that went out before connections to their addresses were let through.
    pub late: u64,
    /// Answers that were not learned, since their endpoint knows too many names.
    pub refused: u64,
}

impl Names {
    /// What the file says, where there is one; rules are not known yet.
    pub fn open(
        tables: &Tables,
        kernel: Box<dyn AddressCache + Sync>,
        settings: &Settings,
    ) -> Self {
        let many = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let limits = Limits {
            min_ttl: settings.tofqdns_min_ttl,
            addresses: many(settings.tofqdns_endpoint_max_ip_per_hostname),
            zombies: many(settings.tofqdns_max_deferred_connection_deletes),
            grace: settings.tofqdns_idle_connection_grace_period.as_secs(),
        };
        let directory = PathBuf::from(&settings.state_dir).join(crate::boot::STATE);
        let path = settings.restore.then(|| directory.join("names.json"));
        let mut cache = Cache::new(limits);
        let journal = Journal::open(path, &mut cache);
        let state = State {
            cache,
            journal,
            told: false,
            rows: BTreeMap::new(),
            stats: Stats::default(),
        };
        Self(Arc::new(Shared {
            tables: tables.clone(),
            kernel,
            written: OnceLock::new(),
            families: [settings.enable_ipv4, settings.enable_ipv6],
            delay: settings.tofqdns_proxy_response_max_delay,
            state: Mutex::new(state),
            rules: watch::Sender::new(Rules::default()),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names that rules speak of, as they change.
    pub fn rules(&self) -> watch::Receiver<Rules> {
        self.0.rules.subscribe()
    }

    /// Rules speak of these names from now on; whether they spoke of others before.
    pub fn select(&self, rules: BTreeSet<DnsRule>) -> bool {
        let mut state = self.state();
        let first = !std::mem::replace(&mut state.told, true);
        if **self.0.rules.borrow() == rules && !first {
            return false;
        }
        self.0.rules.send_replace(Arc::new(rules));
        let all: BTreeSet<IpAddr> = state.cache.addresses().collect();
        state.cache.take_touched();
        self.label(&mut state, all)
    }

    /// An endpoint was told a name's addresses so many seconds ago.
    pub fn learn(&self, learned: &Learned, age: u64) {
        let at = now().saturating_sub(age);
        let (name, ips) = (&learned.name, &learned.ips);
        let mut state = self.state();
        let State {
            cache,
            journal,
            stats,
            ..
        } = &mut *state;
        if !cache.learn(learned.endpoint, name, ips, learned.ttl, at) {
            stats.refused += 1;
            if stats.refused.is_power_of_two() {
                let (endpoint, refused) = (learned.endpoint, stats.refused);
                tracing::warn!(
                    endpoint,
                    name,
                    refused,
                    "the endpoint knows too many names; this one is not learned"
                );
            }
            return;
        }
        let line = Line::Learned {
            endpoint: learned.endpoint,
            name: name.clone(),
            ips: ips.clone(),
            ttl: learned.ttl,
            at,
        };
        journal.add(&line, cache);
        let touched = cache.take_touched();
        self.label(&mut state, touched);
    }

    /// Gives addresses the labels of the rules that speak of their names; whether that changed any.
    fn label(&self, state: &mut State, addresses: BTreeSet<IpAddr>) -> bool {
        let rules = self.0.rules.borrow().clone();
        let tables = &self.0.tables;
        let mut txn = None;
        for ip in addresses {
            let names = || state.cache.names_of(ip);
            let met = rules
                .iter()
                .filter(|rule| names().any(|name| rule.is_met_by(name)));
            let labels: Labels = met.map(DnsRule::label).collect();
            if state.rows.get(&ip).cloned().unwrap_or_default() == labels {
                continue;
            }
            let prefix = IpNet::from(ip);
            let txn = txn.get_or_insert_with(|| tables.db.write());
            if labels.is_empty() {
                state.rows.remove(&ip);
                tables.named_prefixes.delete(txn, &prefix);
            } else {
                state.rows.insert(ip, labels.clone());
                // The table has no unique index that could refuse.
                let _ = tables
                    .named_prefixes
                    .insert(txn, UsedPrefix { prefix, labels });
            }
        }
        let changed = txn.is_some();
        if let Some(txn) = txn {
            txn.commit();
        }
        changed
    }

    /// Says by what to see that the kernel has got more.
    pub fn written_by(&self, watch: Watch) {
        // Set once, at the start.
        let _ = self.0.written.set(watch);
    }

    /// Ends when connections to these addresses are let through, where rules by name let them; not later than anybody waits for.
    pub async fn realised(&self, ips: &[IpAddr]) {
        let began = Instant::now();
        let written = self.0.written.get();
        loop {
            let seen = written.map(Watch::revision);
            if self.is_realised(ips) || began.elapsed() >= PATIENCE {
                break;
            }
            let more = async {
                match written.zip(seen) {
                    Some((watch, seen)) => watch.changed(seen).await,
                    None => std::future::pending().await,
                }
            };
            // What does not come by way of the kernel is not told of.
            let _ = tokio::time::timeout(LOOK, more).await;
        }
        if began.elapsed() >= self.0.delay {
            self.state().stats.late += 1;
        }
    }

    /// Whether connections to these addresses are let through, where rules by name let them.
    pub fn is_realised(&self, ips: &[IpAddr]) -> bool {
        let wanted: Vec<(IpAddr, Labels)> = {
            let state = self.state();
            if !state.told {
                return false;
            }
            let row = |ip: &IpAddr| Some((*ip, state.rows.get(ip)?.clone()));
            ips.iter().filter_map(row).collect()
        };
        let snapshot = self.0.tables.db.snapshot();
        wanted.iter().all(|(ip, labels)| {
            let off = !self.0.families[usize::from(ip.is_ipv6())];
            off || self.is_in_kernel(&snapshot, *ip, labels)
        })
    }

    fn is_in_kernel(&self, snapshot: &tables::Snapshot, ip: IpAddr, labels: &Labels) -> bool {
        let tables = &self.0.tables;
        let Some(row) = tables.prefixes.get(snapshot, &IpNet::from(ip)) else {
            return false;
        };
        // Pods and nodes are who they are, whatever their names.
        let is_own = Scope::of(row.identity) != Some(Scope::Local);
        let identity = tables.identities.get(snapshot, &row.identity);
        let has = identity.is_some_and(|known| {
            let mut wanted = labels.iter();
            wanted.all(|(key, _)| known.labels.get(key).is_some())
        });
        (is_own || has) && self.0.kernel.identity(row) == Some(row.identity)
    }

    /// Looks through the names again and again until `stop`.
    pub async fn run(self, conntrack: Conntrack, health: Component, stop: Stop) {
        health.ok("names are learned as pods ask for them");
        let watch = self.0.tables.endpoints.watch();
        let mut due = tokio::time::Instant::now() + COLLECT;
        loop {
            let snapshot = self.0.tables.db.snapshot();
            let seen = snapshot.revision();
            if self.0.tables.endpoints.initialized(&snapshot) {
                self.forget_gone(&snapshot);
            }
            drop(snapshot);
            let next = async {
                tokio::select! {
                    () = watch.changed(seen) => false,
                    () = tokio::time::sleep_until(due) => true,
                }
            };
            match stop.or(next).await {
                None => return,
                Some(false) => {}
                Some(true) => {
                    due += COLLECT;
                    let (names, conntrack) = (self.clone(), conntrack.clone());
                    let work = move || names.collect(&conntrack);
                    match tokio::task::spawn_blocking(work).await {
                        Ok(Err(error)) => {
                            health.degraded(format!("names are kept beyond their time: {error}"))
                        }
                        _ => health.ok("names are learned as pods ask for them"),
                    }
                }
            }
        }
    }

    /// Forgets what endpoints were told that are gone.
    fn forget_gone(&self, snapshot: &tables::Snapshot) {
        let tables = &self.0.tables;
        let is_there = |id: u32| {
            let id = u16::try_from(id).ok();
            id.is_some_and(|id| tables.endpoints.get(snapshot, &id).is_some())
        };
        let mut state = self.state();
        if state.cache.keep(is_there) {
            self.settle(&mut state);
        }
    }

    /// Ends what has had its time and no connections.
    fn collect(&self, conntrack: &Conntrack) -> datapath::Result<()> {
        let alive = self.connections(conntrack)?;
        let mut state = self.state();
        let count = state
            .cache
            .collect(now(), |endpoint, ip| alive.contains(&(endpoint, ip)));
        state.stats.collected += count;
        self.settle(&mut state);
        Ok(())
    }

    /// The endpoints with connections to addresses beyond their time.
    fn connections(&self, conntrack: &Conntrack) -> datapath::Result<BTreeSet<(u32, IpAddr)>> {
        let mut alive = BTreeSet::new();
        let beyond: BTreeSet<(u32, IpAddr)> = {
            let state = self.state();
            let zombies = state.cache.zombies();
            zombies.map(|(endpoint, ip, _)| (endpoint, ip)).collect()
        };
        if beyond.is_empty() {
            return Ok(alive);
        }
        let snapshot = self.0.tables.db.snapshot();
        let endpoints = self.0.tables.endpoints.iter(&snapshot);
        let of_address: BTreeMap<IpAddr, u32> = endpoints
            .flat_map(|row| row.addresses().map(|ip| (ip, row.id.into())))
            .collect();
        let clock = Conntrack::now();
        conntrack.for_each(|one| {
            if let Some(endpoint) = of_address.get(&one.source).filter(|_| !one.is_over(clock)) {
                let key = (*endpoint, one.destination);
                if beyond.contains(&key) {
                    alive.insert(key);
                }
            }
        })?;
        Ok(alive)
    }

    /// Has tables and file say what the cache does after something has ended.
    fn settle(&self, state: &mut State) {
        let touched = state.cache.take_touched();
        self.label(state, touched);
        let State { cache, journal, .. } = state;
        journal.rewrite(cache);
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
