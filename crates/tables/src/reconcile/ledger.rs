//! What is known about each row: which revision of it is wanted, and how far that has got.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::{Config, Status};
use crate::{Change, ChangeKind, Revision, Row};

pub(super) struct Entry<T> {
    pub row: Arc<T>,
    pub revision: Revision,
    /// The row is to be gone; the entry ends when it is.
    pub deleted: bool,
    pub status: Status,
    in_flight: bool,
}

/// An operation on one row that is to be issued now.
pub(super) struct Task<T: Row> {
    pub key: T::Key,
    pub revision: Revision,
    pub row: Arc<T>,
    pub deleted: bool,
}

/// Every set below names rows by the revision wanted of them, which no two rows share.
pub(super) struct Ledger<T: Row> {
    entries: BTreeMap<T::Key, Entry<T>>,
    /// Not realised.
    pending: BTreeMap<Revision, T::Key>,
    /// Not realised, not under way and due.
    ready: BTreeSet<Revision>,
    /// Not realised, not under way and due later.
    retries: BTreeSet<(Duration, Revision)>,
    /// Rows whose last operation failed.
    failing: BTreeSet<T::Key>,
}

impl<T: Row> Ledger<T> {
    pub fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            pending: BTreeMap::new(),
            ready: BTreeSet::new(),
            retries: BTreeSet::new(),
            failing: BTreeSet::new(),
        }
    }

    pub fn entries(&self) -> &BTreeMap<T::Key, Entry<T>> {
        &self.entries
    }

    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    pub fn failing(&self) -> &BTreeSet<T::Key> {
        &self.failing
    }

    pub fn lowest_pending(&self) -> Option<Revision> {
        self.pending
            .first_key_value()
            .map(|(revision, _)| *revision)
    }

    pub fn next_retry(&self) -> Option<Duration> {
        self.retries.first().map(|(due, _)| *due)
    }

    /// Takes a change of the table up; what was known of an earlier version of the row no longer counts.
    pub fn absorb(&mut self, change: &Change<'_, T>, now: Duration) {
        let key = change.row.key();
        let in_flight = self.entries.get(&key).is_some_and(|entry| entry.in_flight);
        if let Some(entry) = self.entries.get(&key) {
            self.pending.remove(&entry.revision);
            self.ready.remove(&entry.revision);
            if let Status::Error { retry_at, .. } = entry.status {
                self.retries.remove(&(retry_at, entry.revision));
                self.failing.remove(&key);
            }
        }
        self.pending.insert(change.revision, key.clone());
        if !in_flight {
            self.ready.insert(change.revision);
        }
        let (row, deleted) = (change.row.clone(), change.kind == ChangeKind::Delete);
        let status = Status::Pending { since: now };
        self.entries.insert(
            key,
            Entry {
                row,
                revision: change.revision,
                deleted,
                status,
                in_flight,
            },
        );
    }

    /// Makes the failed rows whose pause is over ready.
    pub fn wake_retries(&mut self, now: Duration) {
        while let Some((_, revision)) = self.retries.first().copied().filter(|(due, _)| *due <= now)
        {
            self.retries.pop_first();
            self.ready.insert(revision);
        }
    }

    /// The oldest ready row; it is under way from now on.
    pub fn start_ready(&mut self) -> Option<Task<T>> {
        let revision = self.ready.pop_first()?;
        let key = self.pending.get(&revision)?.clone();
        self.start(key)
    }

    /// The first realised row after `after`; it is under way from now on.
    pub fn start_refresh(&mut self, after: Option<&T::Key>) -> Option<Task<T>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut later = self.entries.range((start, Bound::Unbounded));
        let done =
            |entry: &Entry<T>| matches!(entry.status, Status::Done { .. }) && !entry.in_flight;
        let key = later.find(|(_, entry)| done(entry))?.0.clone();
        self.start(key)
    }

    fn start(&mut self, key: T::Key) -> Option<Task<T>> {
        let entry = self.entries.get_mut(&key)?;
        entry.in_flight = true;
        Some(Task {
            key,
            revision: entry.revision,
            row: entry.row.clone(),
            deleted: entry.deleted,
        })
    }

    /// Takes the outcome of an operation on the row's version `revision`.
    pub fn settle(
        &mut self,
        key: &T::Key,
        revision: Revision,
        outcome: Result<(), String>,
        now: Duration,
        config: &Config,
    ) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.in_flight = false;
        if entry.revision != revision {
            self.ready.insert(entry.revision);
            return;
        }
        if outcome.is_ok() {
            self.failing.remove(key);
        } else {
            self.failing.insert(key.clone());
        }
        match outcome {
            Ok(()) if entry.deleted => {
                self.pending.remove(&revision);
                self.entries.remove(key);
            }
            Ok(()) => {
                self.pending.remove(&revision);
                if !matches!(entry.status, Status::Done { .. }) {
                    entry.status = Status::Done { since: now };
                }
            }
            Err(message) => {
                entry.status = entry.status.failed(message, now, config);
                if let Status::Error { retry_at, .. } = entry.status {
                    self.retries.insert((retry_at, revision));
                }
                self.pending.insert(revision, key.clone());
            }
        }
    }
}

impl Status {
    /// The status after one more failure.
    fn failed(&self, message: String, now: Duration, config: &Config) -> Self {
        let (since, attempts) = match self {
            Self::Error {
                since, attempts, ..
            } => (*since, attempts.saturating_add(1)),
            Self::Pending { .. } | Self::Done { .. } => (now, 1),
        };
        Self::Error {
            message,
            since,
            attempts,
            retry_at: now + config.backoff(attempts),
        }
    }
}
