//! Following a table change by change, in revision order, without a queue.

use std::iter::Peekable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::Revision;
use crate::db::{Read, Snapshot};
use crate::index::Range;
use crate::sync::lock;
use crate::table::{Row, Table};

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was inserted or replaced.
    Upsert,
    /// It was deleted.
    Delete,
}

/// One change of a table.
#[derive(Debug)]
pub struct Change<'s, T> {
    /// What happened.
    pub kind: ChangeKind,
    /// The row as it is now, or as it was last.
    pub row: &'s Arc<T>,
    /// When it happened.
    pub revision: Revision,
}

impl<T> Clone for Change<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Change<'_, T> {}

/// A consumer's place in the history of a table. While it lives, no deletion after its place is forgotten.
///
/// It first yields every row present, then what has changed since. Changes of one key are merged: only the latest is
/// seen, so a deletion may concern a row whose insertion was never seen.
pub struct ChangeTracker<T: Row> {
    table: Table<T>,
    /// Deletions up to here concern rows that were never yielded.
    start: Revision,
    position: Revision,
    mark: Arc<AtomicU64>,
}

impl<T: Row> ChangeTracker<T> {
    /// To be called with registration locked, so that no commit decides meanwhile which deletions are needed.
    pub(crate) fn new(table: Table<T>, start: Revision) -> Self {
        let mark = table.shared().marks.add(start);
        Self {
            table,
            start,
            position: Revision::ZERO,
            mark,
        }
    }

    /// The table it follows.
    pub fn table(&self) -> &Table<T> {
        &self.table
    }

    /// Everything up to this revision has been yielded.
    pub fn position(&self) -> Revision {
        self.position
    }

    /// The database's revision when the tracker was made.
    pub(crate) fn start(&self) -> Revision {
        self.start
    }

    /// The changes in `snapshot` that have not been yielded, oldest first. Each counts as seen once yielded: stop
    /// early, and the next call goes on from there. Nothing comes of a snapshot older than the tracker or its place.
    pub fn changes<'s>(&mut self, snapshot: &'s Snapshot) -> ChangeIter<'_, 's, T> {
        let state = self.table.state(snapshot);
        let usable = snapshot.revision() >= self.start;
        let from = if usable {
            self.position.next()
        } else {
            Revision::new(u64::MAX)
        };
        let upserts = state.log.range(from..).peekable();
        let deletes = state.graves.range(from.max(self.start.next())..).peekable();
        let end = if usable {
            snapshot.revision()
        } else {
            self.position
        };
        ChangeIter {
            upserts,
            deletes,
            end,
            tracker: self,
        }
    }

    fn advance(&mut self, revision: Revision) {
        self.position = self.position.max(revision);
        self.mark
            .store(self.position.max(self.start).get(), Ordering::Release);
    }
}

/// Iterator over the changes a tracker has not seen; see [`ChangeTracker::changes`].
pub struct ChangeIter<'t, 's, T: Row> {
    tracker: &'t mut ChangeTracker<T>,
    upserts: Peekable<Range<'s, Revision, Arc<T>>>,
    deletes: Peekable<Range<'s, Revision, Arc<T>>>,
    end: Revision,
}

impl<'s, T: Row> Iterator for ChangeIter<'_, 's, T> {
    type Item = Change<'s, T>;

    fn next(&mut self) -> Option<Change<'s, T>> {
        let upsert = self.upserts.peek().map(|(revision, _)| **revision);
        let delete = self.deletes.peek().map(|(revision, _)| **revision);
        let deleted = delete.is_some_and(|delete| upsert.is_none_or(|upsert| delete < upsert));
        let (kind, entries) = match deleted {
            true => (ChangeKind::Delete, &mut self.deletes),
            false => (ChangeKind::Upsert, &mut self.upserts),
        };
        let Some((&revision, row)) = entries.next() else {
            self.tracker.advance(self.end);
            return None;
        };
        self.tracker.advance(revision);
        Some(Change {
            kind,
            row,
            revision,
        })
    }
}

/// The places of a table's trackers: deletions that all of them have passed need not be kept.
#[derive(Default)]
pub(crate) struct Marks(Mutex<Vec<Weak<AtomicU64>>>);

impl Marks {
    fn add(&self, revision: Revision) -> Arc<AtomicU64> {
        let mark = Arc::new(AtomicU64::new(revision.get()));
        lock(&self.0).push(Arc::downgrade(&mark));
        mark
    }

    /// The place of the slowest tracker, if there is any tracker.
    pub fn lowest(&self) -> Option<Revision> {
        let mut marks = lock(&self.0);
        marks.retain(|mark| mark.strong_count() > 0);
        let places = marks
            .iter()
            .filter_map(Weak::upgrade)
            .map(|mark| Revision::new(mark.load(Ordering::Acquire)));
        places.min()
    }

    pub fn len(&self) -> usize {
        lock(&self.0)
            .iter()
            .filter(|mark| mark.strong_count() > 0)
            .count()
    }
}
