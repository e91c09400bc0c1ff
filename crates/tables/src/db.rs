//! The database: the published version of all tables, and the way to the next one.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::Revision;
use crate::changes::ChangeTracker;
use crate::dump::{DumpRow, TableInfo};
use crate::error::{DumpError, DuplicateTable};
use crate::state::AnyState;
use crate::sync::lock;
use crate::table::{Row, Table, TableDef, TableId};
use crate::txn::WriteTxn;
use crate::watch::{Signal, Watch};

/// A set of tables. Cheap to clone: all clones are the same database.
#[derive(Clone, Default)]
pub struct Db {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Held by the one writer.
    writer: Mutex<()>,
    /// Held from the moment a commit decides which deletions nobody needs until it is published, and while a tracker
    /// registers: a tracker is either asked, or starts after the commit.
    trackers: Mutex<()>,
    /// The published version; locked only to copy or replace the pointer.
    root: RwLock<Arc<Root>>,
    /// Moves with every commit, whatever its tables.
    signal: Arc<Signal>,
}

/// One version of all tables.
#[derive(Clone, Default)]
pub(crate) struct Root {
    pub revision: Revision,
    pub tables: BTreeMap<TableId, Arc<dyn AnyState>>,
}

impl Db {
    /// A database without tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a table.
    ///
    /// # Errors
    /// When there is a table of that name.
    pub fn register<T: Row>(&self, def: TableDef<T>) -> Result<Table<T>, DuplicateTable> {
        let _writer = lock(&self.inner.writer);
        let mut root = Root::clone(&self.snapshot().root);
        let name = def.table.name();
        if root
            .tables
            .values()
            .any(|table| table.shared().name == name)
        {
            return Err(DuplicateTable { name });
        }
        root.tables.insert(def.table.id(), Arc::new(def.state));
        self.publish(Arc::new(root));
        Ok(def.table)
    }

    /// The present version of all tables.
    pub fn snapshot(&self) -> Snapshot {
        let root = self
            .inner
            .root
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Snapshot { root: root.clone() }
    }

    /// Starts a write transaction, once the one before has ended. Dropping it undoes it.
    ///
    /// Keep it short and without I/O: it cannot be held across an `await`, and a second one on the same thread would
    /// wait for itself.
    pub fn write(&self) -> WriteTxn<'_> {
        let guard = lock(&self.inner.writer);
        WriteTxn::new(self, guard)
    }

    /// A tracker of a table's changes that begins with every row present.
    pub fn track<T: Row>(&self, table: &Table<T>) -> ChangeTracker<T> {
        let _registration = lock(&self.inner.trackers);
        let snapshot = self.snapshot();
        table.state(&snapshot);
        ChangeTracker::new(table.clone(), snapshot.revision())
    }

    /// A watch on all tables together.
    pub fn watch(&self) -> Watch {
        Watch::new(self.inner.signal.clone())
    }

    /// Makes `root`, with the deletions every tracker has passed left out, the present version; wakes the waiting.
    pub(crate) fn commit(&self, mut root: Root, changed: &[TableId]) {
        let root = {
            let _decision = lock(&self.inner.trackers);
            for state in root.tables.values_mut() {
                let Some(oldest) = state.oldest_grave() else {
                    continue;
                };
                let passed = state.shared().marks.lowest().unwrap_or(root.revision);
                if oldest <= passed {
                    let mut collected = state.clone_box();
                    collected.collect(passed);
                    *state = Arc::from(collected);
                }
            }
            let root = Arc::new(root);
            self.publish(root.clone());
            root
        };
        for state in changed.iter().filter_map(|id| root.tables.get(id)) {
            state.shared().signal.advance(state.revision());
        }
        self.inner.signal.advance(root.revision);
    }

    fn publish(&self, root: Arc<Root>) {
        let mut published = self
            .inner
            .root
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let previous = mem::replace(&mut *published, root);
        drop(published);
        // May free a lot of rows; no reader waits for that.
        drop(previous);
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Db").field(&self.snapshot()).finish()
    }
}

/// An immutable view of all tables at one revision. Cheap to clone, and keeps alive only what has changed since.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) root: Arc<Root>,
}

impl Snapshot {
    /// What there is to know about each table, by name.
    pub fn tables(&self) -> Vec<TableInfo> {
        let mut tables: Vec<TableInfo> = self
            .root
            .tables
            .values()
            .map(|table| table.info())
            .collect();
        tables.sort_by_key(|table| table.name);
        tables
    }

    /// All rows of the table called `name` as JSON, by primary key.
    ///
    /// # Errors
    /// When there is no such table, or a row cannot be serialised.
    pub fn dump(&self, name: &str) -> Result<Vec<DumpRow>, DumpError> {
        match self
            .root
            .tables
            .values()
            .find(|table| table.shared().name == name)
        {
            Some(table) => table.dump(),
            None => Err(DumpError::UnknownTable {
                name: name.to_owned(),
                known: self.tables().into_iter().map(|table| table.name).collect(),
            }),
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("revision", &self.revision())
            .field("tables", &self.root.tables.len())
            .finish()
    }
}

/// Something rows can be read from: a [`Snapshot`], or a [`WriteTxn`], which sees its own writes.
#[expect(
    private_bounds,
    reason = "sealed: how table versions are held is nobody else's business"
)]
pub trait Read: Source {
    /// The revision of the latest change that can be seen.
    fn revision(&self) -> Revision;
}

pub(crate) trait Source {
    fn state(&self, id: TableId) -> Option<&dyn AnyState>;
}

impl Read for Snapshot {
    fn revision(&self) -> Revision {
        self.root.revision
    }
}

impl Source for Snapshot {
    fn state(&self, id: TableId) -> Option<&dyn AnyState> {
        self.root.tables.get(&id).map(Arc::as_ref)
    }
}
