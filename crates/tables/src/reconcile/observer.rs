//! The engine seen from other threads.

use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;

use super::Status;
use super::ledger::Ledger;
use crate::sync::lock;
use crate::watch::{Signal, Watch, block_on_timeout};
use crate::{Revision, Row, Table};

/// Numbers for metrics. All but the gauges only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Updates of single rows.
    pub update: OpCounters,
    /// Deletions of single rows.
    pub delete: OpCounters,
    /// Prunes.
    pub prune: OpCounters,
    /// Full compares finished.
    pub refreshes: u64,
    /// Gauge: rows the engine knows, including those being deleted.
    pub rows: usize,
    /// Gauge: rows not realised.
    pub pending: usize,
    /// Gauge: rows not realised whose last try failed.
    pub failing: usize,
}

/// Numbers about one kind of operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OpCounters {
    /// Operations that succeeded.
    pub succeeded: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Time from issue to outcome, all together.
    #[serde(serialize_with = "super::seconds")]
    pub time: Duration,
}

/// One row's line of a status listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatusRow {
    /// The row's primary key, as its `Debug` form.
    pub key: String,
    /// The revision that wrote or deleted the row: the one a table dump shows for it.
    pub revision: Revision,
    /// Whether the row is to be gone.
    pub deleted: bool,
    /// How far that has got.
    #[serde(flatten)]
    pub status: Status,
}

/// What engine and observers share.
pub(super) struct Board<T: Row> {
    pub state: Mutex<BoardState<T>>,
    /// Moves with everything that could end a wait.
    pub steps: Arc<Signal>,
}

pub(super) struct BoardState<T: Row> {
    pub ledger: Ledger<T>,
    pub counters: Counters,
    pub prune_error: Option<String>,
    /// Changes of the table up to here are in the ledger.
    pub absorbed: Revision,
}

impl<T: Row> Board<T> {
    pub fn new() -> Self {
        let (ledger, counters) = (Ledger::new(), Counters::default());
        let state = BoardState {
            ledger,
            counters,
            prune_error: None,
            absorbed: Revision::ZERO,
        };
        Self {
            state: Mutex::new(state),
            steps: Arc::default(),
        }
    }
}

impl<T: Row> BoardState<T> {
    fn progress(&self) -> Revision {
        let unrealized = self.ledger.lowest_pending().map(Revision::previous);
        unrealized.map_or(self.absorbed, |revision| revision.min(self.absorbed))
    }
}

/// A handle for looking at an [`Engine`](super::Engine) from anywhere.
pub struct Observer<T: Row> {
    pub(super) table: Table<T>,
    pub(super) board: Arc<Board<T>>,
}

impl<T: Row> Observer<T> {
    /// The table whose rows are reconciled.
    pub fn table(&self) -> &Table<T> {
        &self.table
    }

    /// The status of the row with this primary key. None if it was never there, is gone, or has just been inserted
    /// and the engine has not taken it up.
    pub fn status<Q: Ord + ?Sized>(&self, key: &Q) -> Option<Status>
    where
        T::Key: Borrow<Q>,
    {
        lock(&self.board.state)
            .ledger
            .entries()
            .get(key)
            .map(|entry| entry.status.clone())
    }

    /// The status of every row, by primary key.
    pub fn dump(&self) -> Vec<StatusRow> {
        let state = lock(&self.board.state);
        let rows = state.ledger.entries().iter().map(|(key, entry)| StatusRow {
            key: format!("{key:?}"),
            revision: entry.revision,
            deleted: entry.deleted,
            status: entry.status.clone(),
        });
        rows.collect()
    }

    /// Numbers for metrics.
    pub fn counters(&self) -> Counters {
        let state = lock(&self.board.state);
        Counters {
            rows: state.ledger.entries().len(),
            pending: state.ledger.pending(),
            failing: state.ledger.failing().len(),
            ..state.counters.clone()
        }
    }

    /// The first row whose last operation failed, with the message.
    pub fn first_error(&self) -> Option<(String, String)> {
        let state = lock(&self.board.state);
        let key = state.ledger.failing().first()?;
        match &state.ledger.entries().get(key)?.status {
            Status::Error { message, .. } => Some((format!("{key:?}"), message.clone())),
            Status::Pending { .. } | Status::Done { .. } => None,
        }
    }

    /// Why the last prune failed, if it did.
    pub fn prune_error(&self) -> Option<String> {
        lock(&self.board.state).prune_error.clone()
    }

    /// Everything in the table up to this revision has been realised.
    pub fn progress(&self) -> Revision {
        lock(&self.board.state).progress()
    }

    /// Whether every row of the table is realised as of `revision`, which must have been committed, or later.
    pub fn is_realized(&self, revision: Revision) -> bool {
        let state = lock(&self.board.state);
        self.has_absorbed(&state, revision)
            && state
                .ledger
                .lowest_pending()
                .is_none_or(|lowest| lowest > revision)
    }

    /// Whether this one row is realised (or gone, if deleted) as of `revision`, which must have been committed, or
    /// later.
    pub fn is_row_realized<Q: Ord + ?Sized>(&self, key: &Q, revision: Revision) -> bool
    where
        T::Key: Borrow<Q>,
    {
        let state = lock(&self.board.state);
        let done = |status: &Status| matches!(status, Status::Done { .. });
        let entry = state.ledger.entries().get(key);
        self.has_absorbed(&state, revision) && entry.is_none_or(|entry| done(&entry.status))
    }

    /// Passes a revision with everything that may have been realised.
    pub fn watch(&self) -> Watch {
        Watch::new(self.board.steps.clone())
    }

    /// Waits until every row of the table is realised as of `revision`. One row that keeps failing keeps this
    /// waiting; see [`row_realized`](Self::row_realized).
    pub fn realized(&self, revision: Revision) -> impl Future<Output = ()> + Send + use<T> {
        let this = self.clone();
        async move { this.until(|| this.is_realized(revision)).await }
    }

    /// Waits until this one row is realised (or gone, if deleted) as of `revision`.
    pub fn row_realized(
        &self,
        key: T::Key,
        revision: Revision,
    ) -> impl Future<Output = ()> + Send + use<T> {
        let this = self.clone();
        async move { this.until(|| this.is_row_realized(&key, revision)).await }
    }

    /// As [`realized`](Self::realized), blocking, at most for `timeout`; says whether it is.
    pub fn wait_realized(&self, revision: Revision, timeout: Duration) -> bool {
        block_on_timeout(self.realized(revision), timeout).is_some()
    }

    async fn until(&self, met: impl Fn() -> bool) {
        let watch = self.watch();
        loop {
            let seen = watch.revision();
            if met() {
                return;
            }
            watch.changed(seen).await;
        }
    }

    /// A commit that did not touch this table need not be seen by the engine to count as absorbed.
    fn has_absorbed(&self, state: &BoardState<T>, revision: Revision) -> bool {
        state.absorbed >= revision.min(self.table.shared().signal.revision())
    }
}

impl<T: Row> Clone for Observer<T> {
    fn clone(&self) -> Self {
        Self {
            table: self.table.clone(),
            board: self.board.clone(),
        }
    }
}

impl<T: Row> fmt::Debug for Observer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observer").field(&self.table).finish()
    }
}
