//! Who has which number: labels of pods by the cluster's `CiliumIdentity` objects, ranges of addresses by this node.
//!
//! [`Keeper`] writes what is known into the tables; [`Allocating`] makes objects for labels that have none; [`Identities`] is how
//! the endpoint manager asks.
mod allocate;
mod file;
mod keeper;
mod labels;
mod ranges;

pub use allocate::Allocating;
pub use file::Numbers;
pub use keeper::{Keeper, KeeperOptions};
pub use labels::Labeller;

use abi::identity::INIT;
use model::{Labels, Pod, PodRef, Tables};
use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tables::Snapshot;
use tokio::sync::Notify;

/// Numbers of labels; cheap to clone.
#[derive(Clone, Debug)]
pub struct Identities(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tables: Tables,
    labeller: Labeller,
    /// How long a new number is new.
    grace: Duration,
    state: Mutex<State>,
    /// Numbers have come, or it has turned out that none come.
    told: Notify,
    /// Somebody needs a number.
    asked: Notify,
    /// A number was made.
    made: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Labels that need a number, and have none.
    wanted: BTreeMap<Labels, Want>,
    /// Numbers that this agent made and the watch has not shown yet.
    made: BTreeMap<u32, (Labels, Instant)>,
    /// Numbers that came up while this agent ran, and when.
    fresh: BTreeMap<u32, Instant>,
    /// The last try to make a number failed.
    failing: bool,
}

/// Who needs a number.
#[derive(Clone, Debug)]
struct Want {
    /// The number that the labels had.
    before: Option<u32>,
    /// The pods.
    pods: Vec<PodRef>,
    /// Since when.
    since: Instant,
    /// How many of them were told that there is none.
    told: usize,
}

impl Want {
    fn new() -> Self {
        Self {
            before: None,
            pods: Vec::new(),
            since: Instant::now(),
            told: 0,
        }
    }
}

impl Identities {
    /// Numbers as the tables have them.
    #[must_use]
    pub fn new(tables: &Tables, labeller: Labeller, grace: Duration) -> Self {
        Self(Arc::new(Inner {
            tables: tables.clone(),
            labeller,
            grace,
            state: Mutex::default(),
            told: Notify::new(),
            asked: Notify::new(),
            made: Notify::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which labels count.
    #[must_use]
    pub fn labeller(&self) -> &Labeller {
        &self.0.labeller
    }

    /// The labels behind a pod's identity.
    #[must_use]
    pub fn labels(&self, snapshot: &Snapshot, pod: &Pod) -> Labels {
        self.0.labeller.of_pod(&self.0.tables, snapshot, pod)
    }

    /// The number of these labels, if they have one: of several the least, of those first that the API server has.
    #[must_use]
    pub fn lookup(&self, snapshot: &Snapshot, labels: &Labels) -> Option<u32> {
        if labels.is_empty() {
            return Some(INIT);
        }
        let tables = &self.0.tables;
        let rows = || tables.identities_by_labels.get(snapshot, labels);
        let shared = |id: &u32| tables.cilium_identities.get(snapshot, id).is_some();
        let made = || {
            let state = self.state();
            let mut all = state.made.iter();
            all.find(|(_, (own, _))| own == labels).map(|(id, _)| *id)
        };
        let numbers = || rows().map(|row| row.id);
        numbers()
            .filter(shared)
            .min()
            .or_else(made)
            .or_else(|| numbers().min())
    }

    /// Whether labels that have this number may keep it. One that the API server does not have makes way for one that it has.
    #[must_use]
    pub fn may_keep(&self, snapshot: &Snapshot, labels: &Labels, id: u32) -> bool {
        if self.lookup(snapshot, labels) == Some(id) {
            return true;
        }
        let tables = &self.0.tables;
        let shared = tables.cilium_identities.get(snapshot, &id);
        shared.is_some_and(|row| row.labels == *labels)
    }

    /// Asks for a number for these labels, which a pod has; `before` is the number that they had.
    pub fn ask(&self, labels: &Labels, before: Option<u32>, pod: Option<&PodRef>) {
        let mut state = self.state();
        let want = state.wanted.entry(labels.clone()).or_insert_with(Want::new);
        want.before = want.before.or(before);
        if let Some(pod) = pod.filter(|pod| !want.pods.contains(pod)) {
            want.pods.push(pod.clone());
        }
        drop(state);
        self.0.asked.notify_one();
    }

    /// The number of these labels, asked for if they have none; waits for it no longer than `limit`, and not at all while none
    /// can be made.
    pub async fn wait(&self, labels: &Labels, pod: &PodRef, limit: Duration) -> Option<u32> {
        let find = || self.lookup(&self.0.tables.db.snapshot(), labels);
        if let Some(id) = find() {
            return Some(id);
        }
        self.ask(labels, None, Some(pod));
        let found = async {
            loop {
                let mut told = pin!(self.0.told.notified());
                // What is told from here on is heard.
                told.as_mut().enable();
                if let Some(id) = find() {
                    return Some(id);
                }
                if self.state().failing {
                    return None;
                }
                told.await;
            }
        };
        tokio::time::timeout(limit, found).await.ok().flatten()
    }

    /// How long a pod that had another identity before should wait until it takes this one.
    #[must_use]
    pub fn grace_left(&self, id: u32) -> Duration {
        let state = self.state();
        let since = state.fresh.get(&id).map(Instant::elapsed);
        since.map_or(Duration::ZERO, |since| self.0.grace.saturating_sub(since))
    }

    /// Says to whoever waits that there is something new.
    fn tell(&self) {
        self.0.told.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
