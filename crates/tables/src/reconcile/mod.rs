//! The reconciler: makes something outside (a kernel map, routes, another process) equal to the rows of a table.
//!
//! [`Engine`] is a state machine without I/O and without a clock. [`Engine::poll`] takes a snapshot and the time and
//! returns operations to carry out, as many at once as the caller likes; [`Engine::complete`] takes each outcome back;
//! [`Engine::deadline`] says when to poll next if nothing changes before. Per row at most one operation is under way;
//! what fails is tried again with growing pauses; a row that changes meanwhile is tried at once.
//!
//! * **Incremental**: rows are taken up in revision order as they change.
//! * **Full compare**: after every refresh interval each realised row is updated again, behind all other work, so
//!   what something else has changed outside is put right.
//! * **Prune**: once all initialisers of the table are done, and periodically, the target is given all desired rows
//!   and removes what is none of them. It runs alone.
//!
//! [`Observer`] is the engine seen from other threads: status of each row, progress, counters, and waiting until a
//! revision is realised. [`Target`] and [`Engine::step`] are the small synchronous driver.
//!
//! Time is a [`Duration`] since any fixed moment; it must not go back.

mod engine;
mod ledger;
mod observer;
mod target;

use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::{Row, Snapshot, Table};

pub use engine::Engine;
pub use observer::{Counters, Observer, OpCounters, StatusRow};
pub use target::Target;

/// How an [`Engine`] paces its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The most operations under way at once, and the most a poll returns.
    pub batch: usize,
    /// Pause after a first failure; it doubles with every further one.
    pub retry_min: Duration,
    /// The longest pause after a failure.
    pub retry_max: Duration,
    /// Time from the end of a full compare to the next one; none if absent.
    pub refresh_interval: Option<Duration>,
    /// Time from one prune to the next; if absent, there is only the first one.
    pub prune_interval: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batch: 256,
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(30),
            refresh_interval: Some(Duration::from_secs(600)),
            prune_interval: Some(Duration::from_secs(1800)),
        }
    }
}

impl Config {
    /// The pause after this many failures in a row.
    fn backoff(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        self.retry_min
            .saturating_mul(1 << doublings)
            .min(self.retry_max)
    }
}

/// An operation to carry out and report to [`Engine::complete`].
#[derive(Debug)]
#[must_use = "an operation that is never completed blocks its row"]
pub struct Op<T: Row> {
    /// To be handed back with the outcome.
    pub ticket: Ticket,
    /// What to do.
    pub kind: OpKind<T>,
}

/// What to do. Everything must be idempotent: it may have been done before, by this process or an earlier one.
#[derive(Debug)]
pub enum OpKind<T: Row> {
    /// Make the outside have this row, whatever it had under the row's key.
    Update(Arc<T>),
    /// Make the outside have nothing under this row's key.
    Delete(Arc<T>),
    /// Remove whatever belongs to none of these rows.
    Prune(Desired<T>),
}

/// Names an operation under way. It cannot be copied: each is completed once.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// All rows that should exist, as of one snapshot.
#[derive(Debug)]
pub struct Desired<T: Row> {
    table: Table<T>,
    snapshot: Snapshot,
}

impl<T: Row> Desired<T> {
    /// The rows, by primary key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.table.iter(&self.snapshot)
    }

    /// The snapshot they are from.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

/// How far a row has been carried into the outside. Times are those given to the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Status {
    /// Changed, and not tried since.
    Pending {
        /// When the engine took the change up.
        #[serde(serialize_with = "seconds")]
        since: Duration,
    },
    /// Realised.
    Done {
        /// When it was realised first after its last change or failure.
        #[serde(serialize_with = "seconds")]
        since: Duration,
    },
    /// Tried without success.
    Error {
        /// What went wrong the last time.
        message: String,
        /// When it failed first.
        #[serde(serialize_with = "seconds")]
        since: Duration,
        /// How often it has failed in a row.
        attempts: u32,
        /// When it is tried again.
        #[serde(serialize_with = "seconds")]
        retry_at: Duration,
    },
}

/// Times in listings are plain numbers.
fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
