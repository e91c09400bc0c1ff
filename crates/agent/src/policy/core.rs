//! The engine with all that it is fed from and writes to. Called from the policy task and, for new endpoints, from others,
//! under one lock; it waits for nothing but the kernel, and for the proxy where rules above the transport change.
use super::{
    inputs::{self, HOST_USE, Heard, Inputs, Name},
    layer7::Told,
    subjects::{CLOSED, Hold, Subjects, of_row},
    writer::{Behind, Kernel, Writer},
};
use crate::fqdn::Names;
use ipnet::IpNet;
use model::{FILES, Labels, POLICY, Tables, UsedPrefix};
use policy::{
    Settings, parse,
    resolve::{Change, Enforcement, Engine, Subject, localhost_row},
    rule::{NamedPorts, PolicyName},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tables::{Read, Snapshot};

/// How long a policy waits for the ranges that it names to have identities before what does not depend on them is enforced.
const RANGES: Duration = Duration::from_secs(2);
/// How often to look whether they have: at first, and once they are late.
const LOOK: Duration = Duration::from_millis(1);
const LOOK_LATE: Duration = Duration::from_millis(100);
/// Until rows that could not be written are tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long others are kept waiting for policy at most after the start.
pub const START: Duration = Duration::from_secs(3);

/// What is decided once.
#[derive(Clone, Debug)]
pub struct Options {
    /// For the engine.
    pub settings: Settings,
    /// For the parsers.
    pub parse: parse::Options,
    /// The host is a subject.
    pub host_firewall: bool,
    /// Endpoints whose rows do not fit are cut off.
    pub lockdown: bool,
    /// What is denied is forwarded.
    pub audit: bool,
    /// Somebody reads policy files: they are waited for.
    pub files: bool,
    /// Packets have such addresses: IPv4, IPv6.
    pub families: [bool; 2],
}

/// Whose address the kernel's address cache says is whose.
pub trait AddressCache: Send {
    /// The identity of a prefix that the cache has a row for.
    fn identity(&self, row: &model::Prefix) -> Option<u32>;
}

impl AddressCache for datapath::maps::Ipcache {
    fn identity(&self, row: &model::Prefix) -> Option<u32> {
        let found = self.lookup(&row.abi_key()).ok().flatten();
        found.map(|value| value.sec_id)
    }
}

/// A change that waits for identities of ranges.
#[derive(Debug)]
struct Staged {
    change: Change,
    /// Ranges that were not seen with an identity yet.
    open: Vec<IpNet>,
    /// The revision before it.
    after: u64,
    since: Instant,
    /// It has waited for long: what does not depend on open ranges is in force.
    late: bool,
}

/// What is to be done after a step.
#[derive(Debug, Default)]
pub struct Next {
    /// Endpoints whose records have other flags now.
    pub refresh: BTreeSet<u16>,
    /// When to take the next step even if nothing changes.
    pub again: Option<Duration>,
    /// Everything that the step saw is enforced.
    pub settled: bool,
    /// Policies that came, changed or went.
    pub revisions: u64,
}

/// What the core counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Policy objects taken, refused.
    pub objects: [u64; 2],
    /// (Subject, direction, remote) that were worked out.
    pub visited: u64,
    /// Steps that changed rows.
    pub steps: u64,
}

/// The engine and what is around it.
pub struct Core {
    pub engine: Engine,
    pub inputs: Inputs,
    pub subjects: Subjects,
    pub writer: Writer,
    /// What the proxy has to know.
    pub layer7: Told,
    /// Policies whose rules above the transport do not go together with others'.
    pub conflicts: BTreeMap<PolicyName, String>,
    /// What names mean; none where rules by name are refused.
    pub names: Option<Names>,
    pub options: Options,
    pub counts: Counts,
    /// Grows with every policy that comes, changes or goes.
    pub revision: u64,
    cache: Box<dyn AddressCache>,
    staged: BTreeMap<Name, Staged>,
    /// What each subject that is behind enforces.
    behind_at: BTreeMap<u32, u64>,
    /// For which subjects policy decides on what they receive, and on what they send, as endpoints were told.
    told: BTreeMap<u32, [bool; 2]>,
    /// All inputs were known once, and the kernel's rows follow the engine.
    complete: bool,
    /// The first step was taken: subjects from before a restart are known.
    heard_once: bool,
    missing: &'static str,
    started: Instant,
    /// The ranges in use have to be told.
    ranges_changed: bool,
    /// The names that rules speak of have to be told.
    names_changed: bool,
}

impl Core {
    /// A core that follows `tables`.
    #[must_use]
    pub fn new(
        tables: &Tables,
        kernel: Box<dyn Kernel>,
        cache: Box<dyn AddressCache>,
        options: Options,
        now: Instant,
    ) -> Self {
        if !options.files {
            let mut txn = tables.db.write();
            tables.policies.files.finish_initializer(&mut txn, FILES);
            txn.commit();
        }
        Self {
            engine: Engine::new(options.settings.clone()),
            inputs: Inputs::new(tables, options.parse, options.host_firewall),
            subjects: Subjects::default(),
            writer: Writer::new(kernel),
            layer7: Told::default(),
            conflicts: BTreeMap::new(),
            names: None,
            options,
            counts: Counts::default(),
            revision: 0,
            cache,
            staged: BTreeMap::new(),
            behind_at: BTreeMap::new(),
            told: BTreeMap::new(),
            complete: false,
            heard_once: false,
            missing: "",
            started: now,
            ranges_changed: true,
            names_changed: true,
        }
    }

    /// What of the inputs is not known yet; none once everything was.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        (!self.complete).then_some(self.missing)
    }

    /// Takes over what is new in `snapshot`.
    pub fn step(&mut self, tables: &Tables, snapshot: &Snapshot, now: Instant) -> Next {
        let heard = self.inputs.hear(tables, snapshot);
        let mut next = Next {
            revisions: heard.revisions,
            ..Next::default()
        };
        let changes = self.changes(heard, tables, snapshot, now);
        let is_news = !changes.is_empty() || !self.complete;
        self.apply(changes, true);
        self.tell_ranges(tables);
        let fresh_names = self.tell_names(tables, snapshot);
        if !self.complete && !fresh_names {
            self.try_complete(tables, snapshot, now);
        }
        if self.complete {
            self.writer.repair(&self.engine);
        }
        self.note_behind(&mut next);
        if self.complete && is_news {
            self.note_enforcing(&mut next);
        }
        let waits = [
            self.staged.values().any(|one| !one.late).then_some(LOOK),
            (!self.staged.is_empty()).then_some(LOOK_LATE),
            (!self.complete).then_some(LOOK * 10),
            self.subjects.has_doomed().then_some(LOOK),
            (!self.writer.behind().is_empty()).then_some(AGAIN),
        ];
        next.again = waits.into_iter().flatten().min();
        next.settled = self.complete || now.duration_since(self.started) >= START;
        next
    }

    /// What of all that was heard counts now.
    fn changes(
        &mut self,
        heard: Heard,
        tables: &Tables,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Vec<Change> {
        let before = self.revision;
        self.revision += heard.revisions;
        for (sum, count) in self.counts.objects.iter_mut().zip(heard.objects) {
            *sum += count;
        }
        let mut changes = heard.identities;
        if let Some(host) = heard.host {
            self.subjects.use_by(HOST_USE.0, HOST_USE.1);
            changes.push(Change::Subject(HOST_USE.1, host));
        }
        for (name, change) in heard.named {
            self.staged.remove(&name);
            match change {
                Some(change) => {
                    let new = self.engine.new_prefixes(&change);
                    if self.complete && !new.is_empty() {
                        self.ranges_changed = true;
                        let staged = Staged {
                            change,
                            open: new.into_iter().collect(),
                            after: before,
                            since: now,
                            late: false,
                        };
                        self.staged.insert(name, staged);
                    } else {
                        changes.push(change);
                    }
                }
                None => changes.push(gone(name)),
            }
        }
        changes.extend(self.ready(tables, snapshot, now));
        for (endpoint, subject) in heard.endpoints {
            match subject {
                Some(subject) => {
                    self.use_subject(endpoint, subject, tables, snapshot, &mut changes)
                }
                None => self.subjects.unuse(endpoint),
            }
        }
        self.heard_once = true;
        let latest = || tables.db.snapshot().revision();
        let unused = self.subjects.take_unused(snapshot.revision(), latest);
        changes.extend(unused.into_iter().map(Change::SubjectGone));
        changes
    }

    /// An endpoint has a subject. It has its rows already, but for those from before a restart.
    fn use_subject(
        &mut self,
        endpoint: u16,
        number: u32,
        tables: &Tables,
        snapshot: &Snapshot,
        changes: &mut Vec<Change>,
    ) {
        let known = self.subjects.has(number);
        if self.subjects.use_by(endpoint, number) {
            // Its connections were allowed under what it was before.
            self.writer.raise();
        }
        if !known
            && number != CLOSED
            && let Some(row) = tables.endpoints.get(snapshot, &endpoint)
        {
            let ports = super::subjects::named_ports(&row.ports);
            self.subjects.add(number, ports.clone());
            let labels = row.labels.clone();
            changes.push(Change::Subject(number, Subject { labels, ports }));
        }
    }

    /// What has waited for identities and has them. Of what has waited for long, that which lets nobody in by mistake.
    fn ready(&mut self, tables: &Tables, snapshot: &Snapshot, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, mut staged) in std::mem::take(&mut self.staged) {
            let late = now.duration_since(staged.since) >= RANGES;
            let is_open = |prefix: &IpNet| !self.is_cached(*prefix, late, tables, snapshot);
            // There may be thousands, and this is asked every millisecond: what was there once is looked at again at the end.
            while staged.open.last().is_some_and(|prefix| !is_open(prefix)) {
                staged.open.pop();
            }
            if staged.open.is_empty() {
                let all = self.engine.new_prefixes(&staged.change);
                staged.open = all.into_iter().filter(is_open).collect();
            }
            let Some(prefix) = staged.open.last() else {
                changes.push(staged.change);
                continue;
            };
            if late && !staged.late {
                tracing::warn!(policy = ?name, %prefix, "the range has no identity in the address cache yet; what leaves it out allows nothing until it has");
                if let Change::Policy(policy) = &staged.change {
                    let open: BTreeSet<IpNet> = staged.open.iter().copied().collect();
                    let policy = policy.without_exceptions(|net| open.contains(net));
                    changes.push(Change::Policy(policy));
                }
                staged.late = true;
            }
            self.staged.insert(name, staged);
        }
        changes
    }

    /// Ranges that are not in the address cache although policies have named them for long, and one that does.
    #[must_use]
    pub fn late(&self) -> Option<(&Name, IpNet)> {
        let mut late = self.staged.iter().filter(|(_, staged)| staged.late);
        late.find_map(|(name, staged)| Some((name, *staged.open.last()?)))
    }

    /// True if packets of the prefix have its identity, or none have such addresses. Who has waited for long takes another one for
    /// it: the address is a pod's, or a node's.
    fn is_cached(&self, prefix: IpNet, late: bool, tables: &Tables, snapshot: &Snapshot) -> bool {
        if !self.options.families[usize::from(prefix.addr().is_ipv6())] {
            return true;
        }
        let Some(row) = tables.prefixes.get(snapshot, &prefix) else {
            return false;
        };
        let own = tables.prefix_identities.get(snapshot, &prefix);
        let right = late || own.is_none_or(|own| own.identity == row.identity);
        right && self.engine.knows(row.identity) && self.cache.identity(row) == Some(row.identity)
    }

    /// Rules of new subjects (`wait` false) are not waited for: until the proxy has them, it lets nothing through.
    fn apply(&mut self, changes: Vec<Change>, wait: bool) {
        if changes.is_empty() {
            return;
        }
        let of_policy =
            |change: &Change| matches!(change, Change::Policy(_) | Change::PolicyGone(_));
        self.names_changed |= changes.iter().any(of_policy);
        let diff = self.engine.apply(changes);
        self.counts.visited += diff.cost.visited;
        if !diff.prefixes_added.is_empty() || !diff.prefixes_removed.is_empty() {
            self.ranges_changed = true;
        }
        if !diff.proxy_rules.is_empty() {
            self.layer7.change(&self.engine, &diff.proxy_rules);
            self.conflicts = self.engine.proxy_conflicts();
        }
        if self.complete {
            if wait && !diff.proxy_rules.is_empty() {
                self.layer7.announce();
            }
            self.counts.steps += u64::from(!diff.ops.is_empty());
            self.writer.write(&self.engine, &diff);
        }
    }

    /// Tells which ranges need identities.
    fn tell_ranges(&mut self, tables: &Tables) {
        if !std::mem::take(&mut self.ranges_changed) {
            return;
        }
        let mut wanted: BTreeMap<IpNet, BTreeSet<String>> = BTreeMap::new();
        let waiting = self.staged.values();
        let waiting = waiting.flat_map(|staged| self.engine.new_prefixes(&staged.change));
        for prefix in self.engine.prefixes().chain(waiting) {
            wanted.entry(prefix).or_default();
        }
        for group in self.engine.groups() {
            for cidr in &group.cidrs {
                if let Some(labels) = wanted.get_mut(cidr) {
                    let source = policy::labels::CIDR_GROUP;
                    labels.insert(format!(
                        "{source}:{}{}",
                        policy::labels::GROUP_NAME,
                        group.name
                    ));
                    let own = group.labels.iter();
                    labels.extend(own.map(|(key, value)| format!("{source}:{key}={value}")));
                }
            }
        }
        let rows = wanted.into_iter().map(|(prefix, labels)| UsedPrefix {
            prefix,
            labels: labels.into_iter().collect(),
        });
        let mut txn = tables.db.write();
        if let Err(error) = tables.used_prefixes.replace_all(&mut txn, rows) {
            tracing::error!(%error, "the ranges that policies name could not be told");
        }
        txn.commit();
    }

    /// Tells of which names rules speak, once all of them are known: an address has one number for all its names. Whether
    /// addresses have other labels by that.
    fn tell_names(&mut self, tables: &Tables, snapshot: &Snapshot) -> bool {
        let Some(names) = self.names.as_ref().filter(|_| self.names_changed) else {
            return false;
        };
        if !self.complete && inputs::missing(tables, snapshot).is_some() {
            return false;
        }
        self.names_changed = false;
        names.select(self.engine.names())
    }

    /// Once all inputs are known the kernel's rows become those of the engine.
    fn try_complete(&mut self, tables: &Tables, snapshot: &Snapshot, now: Instant) {
        if let Some(missing) = inputs::missing(tables, snapshot) {
            self.missing = missing;
            return;
        }
        let has_number = |prefix: &IpNet| {
            tables.prefix_identities.get(snapshot, prefix).is_some()
                || tables.prefixes.get(snapshot, prefix).is_some()
        };
        let late = now.duration_since(self.started) >= START;
        let named = tables.named_prefixes.iter(snapshot);
        let mut needed = self.engine.prefixes().chain(named.map(|row| row.prefix));
        if !late && !needed.all(|prefix| has_number(&prefix)) {
            self.missing = "identities of the ranges that policies name";
            return;
        }
        self.complete = true;
        if !self.layer7.is_empty() {
            self.layer7.announce();
        }
        self.writer.adopt(&self.engine);
        let mut txn = tables.db.write();
        tables.used_prefixes.finish_initializer(&mut txn, POLICY);
        txn.commit();
        let (rows, _) = self.writer.fill();
        tracing::info!(
            policies = self.engine.policies().count(),
            subjects = self.subjects.len(),
            rows,
            elapsed_ms = now.duration_since(self.started).as_millis() as u64,
            "policies are enforced"
        );
    }

    /// Notes since which revision subjects are behind, and whose flags that changes.
    fn note_behind(&mut self, next: &mut Next) {
        let behind = self.writer.behind();
        let new = behind
            .keys()
            .filter(|one| !self.behind_at.contains_key(one));
        let new: Vec<u32> = new.copied().collect();
        let over = self
            .behind_at
            .keys()
            .filter(|one| !behind.contains_key(one));
        let over: Vec<u32> = over.copied().collect();
        for subject in new.iter().chain(&over).filter(|_| self.options.lockdown) {
            next.refresh.extend(self.subjects.endpoints(*subject));
        }
        let after = self.revision.saturating_sub(next.revisions);
        self.behind_at
            .extend(new.into_iter().map(|subject| (subject, after)));
        self.behind_at.retain(|subject, _| !over.contains(subject));
    }

    /// Notes for whom policy has begun to decide, or ceased to: their endpoints say so.
    fn note_enforcing(&mut self, next: &mut Next) {
        let numbers = self.engine.subjects().map(|(number, _)| number);
        let now: BTreeMap<u32, [bool; 2]> = numbers
            .map(|number| (number, self.decides(number)))
            .collect();
        let other = |(number, now): &(&u32, &[bool; 2])| self.told.get(number) != Some(now);
        for (number, _) in now.iter().filter(other) {
            next.refresh.extend(self.subjects.endpoints(*number));
        }
        self.told = now;
    }

    fn decides(&self, subject: u32) -> [bool; 2] {
        let enforcement = self.engine.enforcement(subject);
        enforcement.map_or([false; 2], |both| both.map(|one| one != Enforcement::Off))
    }

    /// Whether policy decides on what a subject's endpoints receive, and on what they send.
    pub fn enforcing(&mut self, subject: u32) -> [bool; 2] {
        let now = self.decides(subject);
        self.told.insert(subject, now);
        now
    }

    /// A number with its rows in the kernel, for an endpoint with this identity; keeps it until the hold is dropped. Before
    /// the policies are known it has those from before the restart, else none: nothing passes but what the host sends.
    pub fn realise(
        &mut self,
        tables: &Tables,
        identity: u32,
        labels: &Labels,
        ports: NamedPorts,
        before: u32,
    ) -> (u32, Hold) {
        if !self.heard_once {
            self.know_restored(tables);
        }
        let Some(number) = self.subjects.number(identity, &ports, before) else {
            tracing::error!(
                identity,
                "pods of this identity name their ports in more than 256 ways; nothing passes for further ones"
            );
            return (CLOSED, self.subjects.holds.hold(CLOSED));
        };
        let hold = self.subjects.holds.hold(number);
        if !self.subjects.has(number) {
            self.subjects.add(number, ports.clone());
            let labels = labels.clone();
            self.apply(
                vec![Change::Subject(number, Subject { labels, ports })],
                false,
            );
            if !self.complete && self.options.settings.allow_localhost {
                self.writer.put_ahead(localhost_row(number));
            }
        }
        (number, hold)
    }

    /// Takes over the subjects of endpoints from before a restart, before anybody else gets their numbers.
    fn know_restored(&mut self, tables: &Tables) {
        let snapshot = tables.db.snapshot();
        let mut changes = Vec::new();
        for row in tables.endpoints.iter(&snapshot) {
            if let Some(subject) = of_row(row) {
                self.use_subject(row.id, subject, tables, &snapshot, &mut changes);
            }
        }
        self.apply(changes, false);
    }

    /// True if the subject's endpoints are to be cut off.
    #[must_use]
    pub fn is_locked(&self, subject: u32) -> bool {
        self.options.lockdown && self.writer.behind().contains_key(&subject)
    }

    /// True once all inputs were known.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The revision of which everything is enforced for a subject.
    #[must_use]
    pub fn realized(&self, subject: u32) -> u64 {
        let of_subject = self.behind_at.get(&subject).copied();
        let staged = self.staged.values().map(|staged| staged.after);
        let waiting = staged.chain((!self.complete).then_some(0));
        waiting.chain(of_subject).min().unwrap_or(self.revision)
    }

    /// The revision of which everything is enforced for everybody.
    #[must_use]
    pub fn realized_by_all(&self) -> u64 {
        let behind = self.writer.behind().keys();
        behind
            .map(|subject| self.realized(*subject))
            .chain([self.realized(0)])
            .min()
            .unwrap_or_default()
    }

    /// The endpoints whose rows are not those that their policies ask for, with the first reason.
    #[must_use]
    pub fn behind(&self) -> (BTreeSet<u16>, Option<Behind>) {
        let behind = self.writer.behind();
        let endpoints = behind
            .keys()
            .flat_map(|subject| self.subjects.endpoints(*subject));
        (endpoints.collect(), behind.values().next().cloned())
    }
}

fn gone(name: Name) -> Change {
    match name {
        Name::Policy(name) => Change::PolicyGone(name),
        Name::Group(name) => Change::GroupGone(name),
        Name::Service(namespace, name) => Change::ServiceGone(namespace, name),
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("revision", &self.revision)
            .field("complete", &self.complete)
            .field("writer", &self.writer)
            .finish_non_exhaustive()
    }
}
