//! Rows into the kernel's map, in the order that keeps every moment right, and what is done if they do not fit.
use abi::{PolicyKey, PolicyValue};
use policy::{
    kernel::{Key, Value},
    resolve::{Diff, Engine, Op, transition},
};
use std::collections::{BTreeMap, BTreeSet};

/// The kernel's side.
pub trait Kernel: Send {
    /// Writes rows in their order; how many, which is less than all if the map is full.
    ///
    /// # Errors
    /// The kernel refuses for another reason.
    fn put(&mut self, rows: &[(PolicyKey, PolicyValue)]) -> Result<usize, String>;
    /// Removes rows in their order.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete(&mut self, keys: &[PolicyKey]) -> Result<(), String>;
    /// Every row.
    ///
    /// # Errors
    /// The kernel refuses.
    fn dump(&mut self) -> Result<Vec<(PolicyKey, PolicyValue)>, String>;
    /// How many rows there is room for.
    fn capacity(&self) -> usize;
    /// Has every verdict asked for again.
    ///
    /// # Errors
    /// The kernel refuses.
    fn raise(&mut self) -> Result<(), String>;
}

/// Why the rows of a subject are not those that its policies ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// They do not fit.
    Full,
    /// The kernel refused.
    Failed(String),
}

/// Writes rows, and knows which subjects have theirs.
pub struct Writer {
    kernel: Box<dyn Kernel>,
    /// Rows in the kernel, by subject.
    counts: BTreeMap<u32, usize>,
    total: usize,
    behind: BTreeMap<u32, Behind>,
    /// Rows written and removed so far.
    pub written: u64,
    /// The epoch could not be raised: to be tried again.
    raise: bool,
}

impl Writer {
    /// A writer that knows nothing of what the kernel has.
    #[must_use]
    pub fn new(kernel: Box<dyn Kernel>) -> Self {
        Self {
            kernel,
            counts: BTreeMap::new(),
            total: 0,
            behind: BTreeMap::new(),
            written: 0,
            raise: false,
        }
    }

    /// Kernels before 6.13 overwrite no row of a full map.
    fn usable(&self) -> usize {
        self.kernel.capacity().saturating_sub(1)
    }

    /// Rows in the kernel, and rows that there is room for.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        (self.total, self.kernel.capacity())
    }

    /// The subjects whose rows are not those that their policies ask for.
    #[must_use]
    pub const fn behind(&self) -> &BTreeMap<u32, Behind> {
        &self.behind
    }

    /// Does what a change of the engine came to.
    pub fn write(&mut self, engine: &Engine, diff: &Diff) {
        if diff.ops.is_empty() {
            return;
        }
        let puts = diff.ops.iter().filter(|op| matches!(op, Op::Put(..)));
        let whole = diff
            .subjects
            .iter()
            .all(|subject| !self.behind.contains_key(subject));
        if !whole || self.total + puts.count() > self.usable() {
            return self.settle(engine, &diff.subjects);
        }
        match self.run(&diff.ops) {
            Ok(()) => {
                for subject in &diff.subjects {
                    self.count(*subject, engine.row_count(*subject));
                }
            }
            Err(why) => {
                tracing::error!(error = ?why, "policy rows could not be written");
                let all = diff.subjects.iter().map(|subject| (*subject, why.clone()));
                self.behind.extend(all);
            }
        }
        self.raise();
    }

    /// Tries again what could not be written, if there is a chance; whether anything was tried.
    pub fn repair(&mut self, engine: &Engine) -> bool {
        if self.raise {
            self.raise();
        }
        let may_fit = |(subject, why): (&u32, &Behind)| {
            let freed = self.counts.get(subject).copied().unwrap_or(0);
            let fits = self.total - freed.min(self.total) + engine.row_count(*subject);
            (*why != Behind::Full || fits <= self.usable()).then_some(*subject)
        };
        let again: BTreeSet<u32> = self.behind.iter().filter_map(may_fit).collect();
        if again.is_empty() {
            return false;
        }
        self.settle(engine, &again);
        true
    }

    /// Makes the kernel's rows of these subjects those of the engine, subject by subject, whatever is there now. Those that
    /// have no room keep what they have.
    pub fn settle(&mut self, engine: &Engine, subjects: &BTreeSet<u32>) {
        let mut rows = match self.read() {
            Ok(rows) => rows,
            Err(why) => {
                tracing::error!(error = why, "the policy map could not be read");
                let why = Behind::Failed(why);
                let all = subjects.iter().map(|subject| (*subject, why.clone()));
                return self.behind.extend(all);
            }
        };
        // What shrinks makes room for what grows.
        let mut order: Vec<(isize, u32)> = subjects
            .iter()
            .map(|subject| {
                let after = engine.row_count(*subject).cast_signed();
                let before = self.counts.get(subject).copied().unwrap_or(0).cast_signed();
                (after - before, *subject)
            })
            .collect();
        order.sort_unstable();
        for (_, subject) in order {
            let before = rows.remove(&subject).unwrap_or_default();
            let outcome = self.settle_one(engine, subject, &before);
            match outcome {
                Ok(()) => drop(self.behind.remove(&subject)),
                Err(why) => {
                    if self.behind.get(&subject) != Some(&why) {
                        tracing::error!(subject, ?why, "policy rows of a subject are not complete");
                    }
                    self.behind.insert(subject, why);
                }
            }
        }
        self.raise();
    }

    fn settle_one(
        &mut self,
        engine: &Engine,
        subject: u32,
        before: &[(Key, Value)],
    ) -> Result<(), Behind> {
        let ops = transition(before.iter().copied(), engine.rows_of(subject));
        let present: BTreeSet<Key> = before.iter().map(|(key, _)| *key).collect();
        let added = ops
            .iter()
            .filter(|op| matches!(op, Op::Put(key, _) if !present.contains(key)))
            .count();
        if self.total + added > self.usable() {
            return Err(Behind::Full);
        }
        self.run(&ops)?;
        self.count(subject, engine.row_count(subject));
        Ok(())
    }

    /// While policies are not known: writes a row that holds whatever they turn out to be, if the subject has none.
    pub fn put_ahead(&mut self, (key, value): (Key, Value)) {
        if self.counts.is_empty()
            && let Err(error) = self.read()
        {
            tracing::warn!(%error, "policy rows cannot be read");
        }
        if self.counts.contains_key(&key.subject) {
            return;
        }
        if let Err(why) = self.run(&[Op::Put(key, value)]) {
            tracing::warn!(subject = key.subject, error = ?why, "the host does not reach these pods until policies are known");
        }
    }

    /// Makes the kernel's rows those of the engine: whatever no subject asks for is removed.
    pub fn adopt(&mut self, engine: &Engine) {
        let mut subjects: BTreeSet<u32> = engine.subjects().map(|(number, _)| number).collect();
        if let Ok(rows) = self.read() {
            subjects.extend(rows.keys());
        }
        self.settle(engine, &subjects);
    }

    /// Compares the kernel's rows with the engine's, but for subjects that are behind: how many there are, and which are
    /// there without reason, missing, or other than they should be.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn compare(&mut self, engine: &Engine) -> Result<(usize, Vec<Key>), String> {
        let rows = self.read()?;
        let of = |subject: &u32| !self.behind.contains_key(subject);
        let before = rows.values().flatten().copied();
        let before = before.filter(|(key, _)| of(&key.subject));
        let after = engine.rows().filter(|(key, _)| of(&key.subject));
        let odd = transition(before, after)
            .into_iter()
            .map(|(Op::Put(key, _) | Op::Delete(key))| key);
        Ok((self.total, odd.collect()))
    }

    /// The kernel's rows by subject; counts them anew. Rows that mean nothing are removed.
    fn read(&mut self) -> Result<BTreeMap<u32, Vec<(Key, Value)>>, String> {
        let mut rows: BTreeMap<u32, Vec<(Key, Value)>> = BTreeMap::new();
        let mut odd = Vec::new();
        for (key, value) in self.kernel.dump()? {
            match Key::from_abi(&key) {
                Some(known) => rows
                    .entry(known.subject)
                    .or_default()
                    .push((known, Value::from_abi(&value))),
                None => odd.push(key),
            }
        }
        if !odd.is_empty() {
            self.kernel.delete(&odd)?;
        }
        self.counts = rows
            .iter()
            .map(|(subject, rows)| (*subject, rows.len()))
            .collect();
        self.total = self.counts.values().sum();
        Ok(rows)
    }

    /// Carries writes out, runs of the same sort together.
    fn run(&mut self, ops: &[Op]) -> Result<(), Behind> {
        let is_put = |op: &Op| matches!(op, Op::Put(..));
        for run in ops.chunk_by(|a, b| is_put(a) == is_put(b)) {
            let puts: Vec<(PolicyKey, PolicyValue)> = run
                .iter()
                .filter_map(|op| match op {
                    Op::Put(key, value) => Some((key.to_abi(), value.to_abi(key.l4))),
                    Op::Delete(_) => None,
                })
                .collect();
            if puts.is_empty() {
                let keys: Vec<PolicyKey> = run
                    .iter()
                    .map(|(Op::Put(key, _) | Op::Delete(key))| key.to_abi())
                    .collect();
                self.kernel.delete(&keys).map_err(Behind::Failed)?;
            } else if self.kernel.put(&puts).map_err(Behind::Failed)? < puts.len() {
                return Err(Behind::Full);
            }
            self.written += run.len() as u64;
        }
        Ok(())
    }

    fn count(&mut self, subject: u32, rows: usize) {
        let before = match rows {
            0 => self.counts.remove(&subject),
            rows => self.counts.insert(subject, rows),
        };
        self.total = self.total + rows - before.unwrap_or(0);
    }

    /// Has the verdicts of all connections asked for again.
    pub fn raise(&mut self) {
        self.raise = match self.kernel.raise() {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(
                    error,
                    "connections are not asked about again; it is tried again"
                );
                true
            }
        };
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("total", &self.total)
            .field("behind", &self.behind)
            .finish_non_exhaustive()
    }
}

/// The maps of the datapath.
#[derive(Debug)]
pub struct Maps {
    /// The rows.
    pub rows: datapath::maps::PolicyMap,
    /// How long verdicts hold.
    pub epoch: datapath::maps::PolicyEpoch,
}

impl Kernel for Maps {
    fn put(&mut self, rows: &[(PolicyKey, PolicyValue)]) -> Result<usize, String> {
        self.rows.put_all(rows).map_err(|error| error.to_string())
    }

    fn delete(&mut self, keys: &[PolicyKey]) -> Result<(), String> {
        let removed = self.rows.delete_all(keys).map(drop);
        removed.map_err(|error| error.to_string())
    }

    fn dump(&mut self) -> Result<Vec<(PolicyKey, PolicyValue)>, String> {
        self.rows.dump().map_err(|error| error.to_string())
    }

    fn capacity(&self) -> usize {
        self.rows.capacity() as usize
    }

    fn raise(&mut self) -> Result<(), String> {
        self.epoch
            .raise()
            .map(drop)
            .map_err(|error| error.to_string())
    }
}
