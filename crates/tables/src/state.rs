//! One version of one table: persistent maps, cloned in constant time when a transaction first touches the table.

use std::any::Any;
use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::Revision;
use crate::changes::Marks;
use crate::dump::{DumpRow, TableInfo};
use crate::error::{DumpError, UniqueViolation};
use crate::index::{Map, Secondary};
use crate::table::Row;
use crate::watch::Signal;

/// What all versions of a table have in common.
pub(crate) struct Shared {
    pub name: &'static str,
    /// Wakes those who wait for a change.
    pub signal: Arc<Signal>,
    /// How far each change tracker has come.
    pub marks: Marks,
}

impl Shared {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            signal: Arc::default(),
            marks: Marks::default(),
        }
    }
}

pub(crate) struct Stored<T> {
    pub row: Arc<T>,
    pub revision: Revision,
}

impl<T> Clone for Stored<T> {
    fn clone(&self) -> Self {
        Self {
            row: self.row.clone(),
            revision: self.revision,
        }
    }
}

pub(crate) struct TableState<T: Row> {
    pub shared: Arc<Shared>,
    pub revision: Revision,
    pub rows: Map<T::Key, Stored<T>>,
    /// The present rows by the revision that wrote them.
    pub log: Map<Revision, Arc<T>>,
    /// Deleted rows by the revision that deleted them, while a tracker may still have to see them.
    pub graves: Map<Revision, Arc<T>>,
    /// The revision of each key's grave; a key has at most one, and none while it has a row.
    grave_of: Map<T::Key, Revision>,
    pub indexes: Vec<Box<dyn Secondary<T>>>,
    pub initializers: BTreeSet<String>,
}

impl<T: Row> TableState<T> {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            revision: Revision::ZERO,
            rows: Map::new(),
            log: Map::new(),
            graves: Map::new(),
            grave_of: Map::new(),
            indexes: Vec::new(),
            initializers: BTreeSet::new(),
        }
    }

    /// Inserts or replaces a row at the revision after `counter`, which moves there unless the row is refused.
    pub fn insert(
        &mut self,
        row: Arc<T>,
        counter: &mut Revision,
    ) -> Result<Option<Arc<T>>, UniqueViolation> {
        let key = row.key();
        self.check_unique(&row, &key)?;
        let revision = self.touch(counter);
        let stored = Stored {
            row: row.clone(),
            revision,
        };
        let previous = self.rows.insert(key.clone(), stored);
        if let Some(previous) = &previous {
            self.unlink(&previous.row, &key, previous.revision);
        } else if let Some(grave) = self.grave_of.remove(&key) {
            self.graves.remove(&grave);
        }
        for index in &mut self.indexes {
            index.insert(&row, &key);
        }
        self.log.insert(revision, row);
        Ok(previous.map(|stored| stored.row))
    }

    pub fn delete<Q: Ord + ?Sized>(&mut self, key: &Q, counter: &mut Revision) -> Option<Arc<T>>
    where
        T::Key: Borrow<Q>,
    {
        let (key, stored) = self.rows.remove_with_key(key)?;
        self.unlink(&stored.row, &key, stored.revision);
        let revision = self.touch(counter);
        self.graves.insert(revision, stored.row.clone());
        self.grave_of.insert(key, revision);
        Some(stored.row)
    }

    /// Counts a change of the table.
    pub fn touch(&mut self, counter: &mut Revision) -> Revision {
        *counter = counter.next();
        self.revision = *counter;
        *counter
    }

    fn unlink(&mut self, row: &T, key: &T::Key, revision: Revision) {
        self.log.remove(&revision);
        for index in &mut self.indexes {
            index.remove(row, key);
        }
    }

    fn check_unique(&self, row: &T, key: &T::Key) -> Result<(), UniqueViolation> {
        let Some(conflict) = self
            .indexes
            .iter()
            .find_map(|index| index.conflict(row, key))
        else {
            return Ok(());
        };
        Err(UniqueViolation {
            table: self.shared.name,
            index: conflict.index,
            value: conflict.value,
            key: format!("{key:?}"),
            owner: conflict.owner,
        })
    }
}

impl<T: Row> Clone for TableState<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            revision: self.revision,
            rows: self.rows.clone(),
            log: self.log.clone(),
            graves: self.graves.clone(),
            grave_of: self.grave_of.clone(),
            indexes: self.indexes.iter().map(|index| index.clone_box()).collect(),
            initializers: self.initializers.clone(),
        }
    }
}

/// A table version with its row type erased.
pub(crate) trait AnyState: Any + Send + Sync {
    fn clone_box(&self) -> Box<dyn AnyState>;
    fn shared(&self) -> &Shared;
    fn revision(&self) -> Revision;
    fn info(&self) -> TableInfo;
    fn dump(&self) -> Result<Vec<DumpRow>, DumpError>;
    /// The revision of the oldest deletion still kept.
    fn oldest_grave(&self) -> Option<Revision>;
    /// Forgets the deletions up to `passed`.
    fn collect(&mut self, passed: Revision);
}

impl<T: Row> AnyState for TableState<T> {
    fn clone_box(&self) -> Box<dyn AnyState> {
        Box::new(self.clone())
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn info(&self) -> TableInfo {
        debug_assert_eq!(self.graves.len(), self.grave_of.len());
        debug_assert_eq!(self.rows.len(), self.log.len());
        TableInfo {
            name: self.shared.name,
            rows: self.rows.len(),
            revision: self.revision,
            graveyard: self.graves.len(),
            trackers: self.shared.marks.len(),
            pending_initializers: self.initializers.iter().cloned().collect(),
        }
    }

    fn dump(&self) -> Result<Vec<DumpRow>, DumpError> {
        let dump_row = |stored: &Stored<T>| {
            let revision = stored.revision;
            serde_json::to_value(&*stored.row)
                .map(|row| DumpRow { revision, row })
                .map_err(|source| DumpError::Row {
                    table: self.shared.name,
                    revision,
                    source,
                })
        };
        self.rows.values().map(dump_row).collect()
    }

    fn oldest_grave(&self) -> Option<Revision> {
        self.graves.get_min().map(|(revision, _)| *revision)
    }

    fn collect(&mut self, passed: Revision) {
        while let Some((revision, row)) = self
            .graves
            .get_min()
            .filter(|(revision, _)| *revision <= passed)
        {
            let (revision, key) = (*revision, row.key());
            self.graves.remove(&revision);
            self.grave_of.remove(&key);
        }
    }
}
