//! The planner with all that it is fed from and writes to. It waits for nothing but the kernel.
use super::{
    inputs::{self, Events, Inputs},
    kernel::{Kernel, Refusal, Skip},
    left::Gone,
};
use crate::namespaces::Namespaces;
use lb::{
    Left, Planner,
    frontend::{FrontendKey, Owner, Scope},
    health::HealthCheck,
    rows::{Op, Row, RowKey},
};
use model::{Tables, Text};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};
use tables::Snapshot;

/// Frontends that are written in one go: others may ask in between.
const PART: usize = 500;
/// Until a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a generation of numbers is.
const GENERATION: Duration = Duration::from_secs(60);

/// What is to be done after a step.
#[derive(Debug, Default)]
pub struct Next {
    /// Frontends and backends that have lost each other, as the kernel has it by now.
    pub gone: Gone,
    /// When to take the next step even if nothing changes.
    pub again: Option<Duration>,
    /// Rows were written, or removed.
    pub wrote: bool,
    /// How services came and went.
    pub events: Events,
}

/// What the core counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// How services came and went since the start.
    pub events: Events,
    /// Rows written and removed since the start.
    pub rows: u64,
}

/// Writes that wait, and what they are for.
#[derive(Debug, Default)]
struct Queue {
    ops: Vec<Op>,
    left: Vec<Left>,
    /// There is more to plan.
    again: bool,
    refusal: Option<Refusal>,
}

/// The planner and what is around it.
pub struct Core {
    pub planner: Planner,
    pub inputs: Inputs,
    pub counts: Counts,
    /// Problems that were told in the log.
    pub told: BTreeSet<(Owner, String)>,
    /// Since when the kernel has what it should, or until when it had.
    pub updated: SystemTime,
    kernel: Box<dyn Kernel>,
    namespaces: Namespaces,
    /// What the kernel calls the namespaces of pods, by their paths.
    cookies: BTreeMap<String, u64>,
    queue: Queue,
    /// What is not translated, as pods say it; and as the kernel has it.
    skips: BTreeSet<(Text, FrontendKey)>,
    skipped: BTreeSet<Skip>,
    enabled: bool,
    /// All inputs were known once, and the kernel's rows follow the planner.
    complete: bool,
    missing: &'static str,
    /// Clients of what went while no agent ran have been told.
    swept: bool,
    generation: Instant,
}

impl Core {
    /// A core that goes on with what the kernel holds. One that is not enabled removes all of it.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn new(
        mut kernel: Box<dyn Kernel>,
        settings: lb::Settings,
        inputs: Inputs,
        namespaces: Namespaces,
        enabled: bool,
        now: Instant,
    ) -> Result<Self, Refusal> {
        let rows = kernel.rows()?;
        let skipped = kernel.skips()?.into_iter().collect();
        Ok(Self {
            planner: Planner::new(settings, rows),
            inputs,
            counts: Counts::default(),
            told: BTreeSet::new(),
            updated: SystemTime::now(),
            kernel,
            namespaces,
            cookies: BTreeMap::new(),
            queue: Queue::default(),
            skips: BTreeSet::new(),
            skipped,
            enabled,
            complete: false,
            missing: "",
            swept: false,
            generation: now,
        })
    }

    /// What of the inputs is not known yet; none once everything was.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        (!self.complete).then_some(self.missing)
    }

    /// Why the kernel is behind; none while it is not.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        self.queue.refusal.as_ref()
    }

    /// Takes over what is new in `snapshot`.
    pub fn step(&mut self, tables: &Tables, snapshot: &Snapshot, now: Instant) -> Next {
        let mut next = Next::default();
        if now.duration_since(self.generation) >= GENERATION {
            self.generation = now;
            self.planner.tick();
        }
        if self.enabled {
            let heard = self.inputs.hear(snapshot);
            next.events = heard.events;
            self.count(heard.events);
            for change in heard.changes {
                self.planner.apply(change);
            }
            if heard.endpoints
                && self.complete
                && let Err(why) = self.settle_skips()
            {
                self.queue.refusal = Some(why);
            }
        }
        if !self.complete {
            if let Some(missing) = inputs::missing(tables, snapshot).filter(|_| self.enabled) {
                self.missing = missing;
                return next;
            }
            self.complete = true;
        }
        self.flush(&mut next);
        next
    }

    fn count(&mut self, events: Events) {
        let all = &mut self.counts.events;
        all.added += events.added;
        all.updated += events.updated;
        all.deleted += events.deleted;
    }

    /// Writes what waits, and if that is done, what has been planned since.
    fn flush(&mut self, next: &mut Next) {
        if self.queue.ops.is_empty() && self.queue.refusal.is_none() {
            let diff = self.planner.flush_part(PART);
            self.queue = Queue {
                ops: diff.ops,
                left: diff.left,
                again: diff.again,
                refusal: None,
            };
        }
        let ops = std::mem::take(&mut self.queue.ops);
        next.wrote = !ops.is_empty();
        let outcome = self.write(&ops);
        let (done, refusal) = match outcome {
            Ok(()) => (ops.len(), None),
            Err((done, refusal)) => (done, Some(refusal)),
        };
        self.counts.rows += done as u64;
        if let Some(refusal) = refusal {
            if self.queue.refusal.as_ref() != Some(&refusal) {
                tracing::error!(
                    error = refusal.0,
                    "rows of services cannot be written; the kernel goes on with what it has"
                );
            }
            self.queue.ops = ops[done..].to_vec();
            self.queue.refusal = Some(refusal);
            next.again = Some(AGAIN);
            return;
        }
        if self.queue.refusal.take().is_some() {
            tracing::info!("rows of services are written again");
            // What was planned meanwhile.
            self.queue.again = true;
        }
        self.updated = SystemTime::now();
        next.gone = Gone::lost(&std::mem::take(&mut self.queue.left));
        next.again = self.queue.again.then_some(Duration::ZERO);
        if next.again.is_none() && !std::mem::replace(&mut self.swept, true) {
            next.gone = Gone::all_but(&self.planner);
        }
    }

    /// Makes writes. Pods are known by name until here, and to the kernel by their namespace.
    fn write(&mut self, ops: &[Op]) -> Result<(), (usize, Refusal)> {
        let mut gone = false;
        for op in ops {
            match op {
                Op::Put(Row::Skip(pod, key)) => {
                    self.skips.insert((pod.clone(), *key));
                }
                Op::Delete(RowKey::Skip(pod, key)) => {
                    gone |= self.skips.remove(&(pod.clone(), *key));
                }
                _ => {}
            }
        }
        // What is new is there before the frontend that it is about, what goes, goes after it.
        let put = self.wanted_skips();
        let new: Vec<Skip> = put.difference(&self.skipped).copied().collect();
        if !new.is_empty() {
            self.kernel.set_skips(&new, &[]).map_err(|why| (0, why))?;
            self.skipped.extend(new);
        }
        self.kernel.write(ops)?;
        if gone || put != self.skipped {
            self.settle_skips().map_err(|why| (ops.len(), why))?;
        }
        Ok(())
    }

    fn wanted_skips(&mut self) -> BTreeSet<Skip> {
        let mut wanted = BTreeSet::new();
        let mut cookies = BTreeMap::new();
        for (pod, frontend) in &self.skips {
            let Some((_, path)) = self.inputs.namespaces.get(pod) else {
                continue;
            };
            let known = self.cookies.get(path).copied();
            let Some(netns) = known.or_else(|| self.namespaces.cookie(path)) else {
                continue;
            };
            cookies.insert(path.clone(), netns);
            wanted.insert(Skip {
                netns,
                frontend: FrontendKey {
                    scope: Scope::External,
                    ..*frontend
                },
            });
        }
        self.cookies = cookies;
        wanted
    }

    /// Makes the kernel's skips those of the pods that there are.
    fn settle_skips(&mut self) -> Result<(), Refusal> {
        let wanted = self.wanted_skips();
        let put: Vec<Skip> = wanted.difference(&self.skipped).copied().collect();
        let delete: Vec<Skip> = self.skipped.difference(&wanted).copied().collect();
        if !put.is_empty() || !delete.is_empty() {
            self.kernel.set_skips(&put, &delete)?;
            self.skipped = wanted;
        }
        Ok(())
    }

    /// What is wrong now, and with whom.
    #[must_use]
    pub fn problems(&self) -> Vec<(Owner, String)> {
        let planned = self.planner.problems().into_iter();
        let planned = planned.map(|(owner, problem)| (owner, problem.to_string()));
        let mut all: Vec<_> = planned.chain(self.inputs.refused.all()).collect();
        all.sort();
        all
    }

    /// What the health-check node ports answer, by port.
    #[must_use]
    pub fn health_checks(&self) -> BTreeMap<u16, HealthCheck> {
        let keys = self.inputs.checked.iter();
        let checks = keys.filter_map(|key| self.planner.health_check(key));
        checks.map(|check| (check.port, check)).collect()
    }

    /// Compares the kernel's rows with the plan: how many there should be, and which are there without reason, missing, or other than they should be.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn compare(&mut self) -> Result<(usize, Vec<String>), Refusal> {
        let found = by_key(self.kernel.rows()?);
        if !self.complete {
            return Ok((found.len(), Vec::new()));
        }
        let mut wanted = by_key(self.planner.rows());
        wanted.retain(|key, _| !matches!(key, RowKey::Skip(..)));
        // What waits to be written is no news.
        for op in &self.queue.ops {
            match op {
                Op::Put(row) => drop(wanted.remove(&key_of(row))),
                Op::Delete(_) => {}
            }
        }
        let waiting: BTreeSet<RowKey> = self.queue.ops.iter().map(op_key).collect();
        let mut odd = Vec::new();
        for (key, row) in &wanted {
            match found.get(key) {
                Some(other) if other == row => {}
                Some(other) => odd.push(format!("{other:?} should be {row:?}")),
                None => odd.push(format!("{row:?} is missing")),
            }
        }
        let extra = found.iter().filter(|(key, _)| !wanted.contains_key(*key));
        let extra = extra.filter(|(key, _)| !waiting.contains(*key));
        odd.extend(extra.map(|(_, row)| format!("{row:?} is there without reason")));
        let skips: BTreeSet<Skip> = self.kernel.skips()?.into_iter().collect();
        for skip in skips.symmetric_difference(&self.wanted_skips()) {
            odd.push(format!("{skip:?} is there without reason, or missing"));
        }
        Ok((wanted.len(), odd))
    }
}

fn by_key(rows: Vec<Row>) -> BTreeMap<RowKey, Row> {
    rows.into_iter().map(|row| (key_of(&row), row)).collect()
}

fn op_key(op: &Op) -> RowKey {
    match op {
        Op::Put(row) => key_of(row),
        Op::Delete(key) => key.clone(),
    }
}

fn key_of(row: &Row) -> RowKey {
    match row {
        Row::Address(ip) => RowKey::Address(*ip),
        Row::Frontend(key, _) => RowKey::Frontend(*key),
        Row::Slot(key, slot, _) => RowKey::Slot(*key, *slot),
        Row::Backend(id, key, _) => RowKey::Backend(*id, key.address.is_ipv6()),
        Row::Reverse(id, ip, _) => RowKey::Reverse(*id, ip.is_ipv6()),
        Row::Affinity(id, backend) => RowKey::Affinity(*id, *backend),
        Row::Source(id, net, _) => RowKey::Source(*id, *net),
        Row::Maglev(id, ipv6, _) => RowKey::Maglev(*id, *ipv6),
        Row::Skip(pod, key) => RowKey::Skip(pod.clone(), *key),
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("complete", &self.complete)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}
