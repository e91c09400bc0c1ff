use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, MutexGuard};

use crate::Revision;
use crate::db::{Db, Read, Root, Snapshot, Source};
use crate::state::{AnyState, TableState};
use crate::table::{Row, Table, TableId};

/// A change of any number of tables that happens at once, or not at all when dropped before [`commit`](Self::commit).
pub struct WriteTxn<'db> {
    db: &'db Db,
    base: Snapshot,
    revision: Revision,
    changed: BTreeMap<TableId, Box<dyn AnyState>>,
    /// Last, so that it is let go after everything else.
    _writer: MutexGuard<'db, ()>,
}

impl<'db> WriteTxn<'db> {
    pub(crate) fn new(db: &'db Db, writer: MutexGuard<'db, ()>) -> Self {
        let base = db.snapshot();
        Self {
            db,
            revision: base.revision(),
            base,
            changed: BTreeMap::new(),
            _writer: writer,
        }
    }

    /// Publishes the changes and returns the revision that has all of them (the present one if there were none).
    pub fn commit(self) -> Revision {
        let mut tables = self.base.root.tables.clone();
        let changed: Vec<TableId> = self.changed.keys().copied().collect();
        tables.extend(
            self.changed
                .into_iter()
                .map(|(id, state)| (id, Arc::from(state))),
        );
        self.db.commit(
            Root {
                revision: self.revision,
                tables,
            },
            &changed,
        );
        self.revision
    }

    /// The table's version of this transaction, and the revision counter to take the next revision from.
    pub(crate) fn state_mut<T: Row>(
        &mut self,
        table: &Table<T>,
    ) -> (&mut TableState<T>, &mut Revision) {
        let base = &self.base;
        let state = self.changed.entry(table.id()).or_insert_with(|| {
            base.state(table.id())
                .unwrap_or_else(|| table.foreign())
                .clone_box()
        });
        let state = (state.as_mut() as &mut dyn Any)
            .downcast_mut()
            .unwrap_or_else(|| table.foreign());
        (state, &mut self.revision)
    }

    /// Puts an earlier version of a table back.
    pub(crate) fn restore<T: Row>(&mut self, table: &Table<T>, state: TableState<T>) {
        self.changed.insert(table.id(), Box::new(state));
    }
}

impl Read for WriteTxn<'_> {
    fn revision(&self) -> Revision {
        self.revision
    }
}

impl Source for WriteTxn<'_> {
    fn state(&self, id: TableId) -> Option<&dyn AnyState> {
        self.changed
            .get(&id)
            .map(Box::as_ref)
            .or_else(|| self.base.state(id))
    }
}

impl fmt::Debug for WriteTxn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteTxn")
            .field("base", &self.base)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}
