//! Table definitions and the typed handles through which rows are read and written.

use std::any::Any;
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::Revision;
use crate::db::Read;
use crate::error::UniqueViolation;
use crate::index::SecondaryIndex;
use crate::state::{Shared, TableState};
use crate::txn::WriteTxn;
use crate::watch::Watch;

/// What a primary or secondary key must be able to do. Implemented by every type that can.
pub trait Key: Ord + Clone + Debug + Send + Sync + 'static {}

impl<K: Ord + Clone + Debug + Send + Sync + 'static> Key for K {}

/// A row of a table: immutable once inserted, told apart by its primary key.
pub trait Row: Serialize + Send + Sync + 'static {
    /// The primary key's type.
    type Key: Key;

    /// The row's primary key. Must depend on nothing but the row.
    fn key(&self) -> Self::Key;
}

/// Identifies a table within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(u64);

impl TableId {
    fn unused() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A table being declared: its name, indexes and initialisers. Give it to [`Db::register`](crate::Db::register).
pub struct TableDef<T: Row> {
    pub(crate) table: Table<T>,
    pub(crate) state: TableState<T>,
}

impl<T: Row> TableDef<T> {
    /// A table called `name`, with no secondary index.
    pub fn new(name: &'static str) -> Self {
        let shared = Arc::new(Shared::new(name));
        let table = Table {
            id: TableId::unused(),
            shared: shared.clone(),
            row: PhantomData,
        };
        Self {
            table,
            state: TableState::new(shared),
        }
    }

    /// Adds an index under which a row is found by each of the keys that `keys` returns for it (none, one or many).
    pub fn index<K: Key, I: IntoIterator<Item = K>>(
        &mut self,
        name: &'static str,
        keys: impl Fn(&T) -> I + Send + Sync + 'static,
    ) -> Index<T, K> {
        self.add_index(SecondaryIndex::new(name, false, keys))
    }

    /// Adds an index in which no two rows may share a key; an insert that would is refused.
    pub fn unique_index<K: Key, I: IntoIterator<Item = K>>(
        &mut self,
        name: &'static str,
        keys: impl Fn(&T) -> I + Send + Sync + 'static,
    ) -> Index<T, K> {
        self.add_index(SecondaryIndex::new(name, true, keys))
    }

    /// Names a source that must have delivered its first full set of rows before the table counts as initialised.
    pub fn initializer(&mut self, name: &str) -> &mut Self {
        self.state.initializers.insert(name.to_owned());
        self
    }

    fn add_index<K: Key>(&mut self, index: SecondaryIndex<T, K>) -> Index<T, K> {
        self.state.indexes.push(Box::new(index));
        Index {
            table: self.table.clone(),
            position: self.state.indexes.len() - 1,
            key: PhantomData,
        }
    }
}

/// A typed handle to one table. Cheap to clone; holds no rows.
///
/// Reads take a [`Snapshot`](crate::Snapshot) or a [`WriteTxn`] (which sees its own writes), writes a `WriteTxn`.
/// All panic when that belongs to a database the table is not registered in, or is older than the registration.
pub struct Table<T: Row> {
    id: TableId,
    shared: Arc<Shared>,
    row: PhantomData<fn() -> T>,
}

impl<T: Row> Table<T> {
    /// The table's name.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// The table's identity.
    pub fn id(&self) -> TableId {
        self.id
    }

    /// A watch on this table alone; see [`Watch::and`] for several.
    pub fn watch(&self) -> Watch {
        Watch::new(self.shared.signal.clone())
    }

    /// The row with this primary key.
    pub fn get<'r, Q: Ord + ?Sized>(&self, from: &'r impl Read, key: &Q) -> Option<&'r Arc<T>>
    where
        T::Key: Borrow<Q>,
    {
        self.state(from).rows.get(key).map(|stored| &stored.row)
    }

    /// The revision at which the row with this primary key was last written.
    pub fn revision_of<Q: Ord + ?Sized>(&self, from: &impl Read, key: &Q) -> Option<Revision>
    where
        T::Key: Borrow<Q>,
    {
        self.state(from).rows.get(key).map(|stored| stored.revision)
    }

    /// All rows, by primary key.
    pub fn iter<'r, R: Read>(
        &self,
        from: &'r R,
    ) -> impl DoubleEndedIterator<Item = &'r Arc<T>> + use<'r, T, R> {
        self.state(from).rows.values().map(|stored| &stored.row)
    }

    /// The rows whose primary key lies in `range`, by primary key.
    pub fn range<'r, R: Read, B: RangeBounds<Q>, Q: Ord + ?Sized>(
        &self,
        from: &'r R,
        range: B,
    ) -> impl DoubleEndedIterator<Item = &'r Arc<T>> + use<'r, T, R, B, Q>
    where
        T::Key: Borrow<Q>,
    {
        self.state(from)
            .rows
            .range(range)
            .map(|(_, stored)| &stored.row)
    }

    /// How many rows there are.
    pub fn len(&self, from: &impl Read) -> usize {
        self.state(from).rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self, from: &impl Read) -> bool {
        self.state(from).rows.is_empty()
    }

    /// The revision of the table's latest change.
    pub fn revision(&self, from: &impl Read) -> Revision {
        self.state(from).revision
    }

    /// Whether every named initialiser has finished (true for a table that never had one).
    pub fn initialized(&self, from: &impl Read) -> bool {
        self.state(from).initializers.is_empty()
    }

    /// The initialisers that have not finished, by name.
    pub fn pending_initializers<'r, R: Read>(
        &self,
        from: &'r R,
    ) -> impl Iterator<Item = &'r str> + use<'r, T, R> {
        self.state(from).initializers.iter().map(String::as_str)
    }

    /// Inserts a row, replacing the one with the same primary key, which is returned.
    ///
    /// # Errors
    /// When another row holds the same key in a unique index. The transaction is then as it was before the call.
    pub fn insert(
        &self,
        txn: &mut WriteTxn<'_>,
        row: impl Into<Arc<T>>,
    ) -> Result<Option<Arc<T>>, UniqueViolation> {
        let (state, revision) = txn.state_mut(self);
        state.insert(row.into(), revision)
    }

    /// Inserts a row unless an equal one is there already; says whether anything changed.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn insert_if_changed(
        &self,
        txn: &mut WriteTxn<'_>,
        row: impl Into<Arc<T>>,
    ) -> Result<bool, UniqueViolation>
    where
        T: PartialEq,
    {
        let row = row.into();
        if self
            .get(txn, &row.key())
            .is_some_and(|present| **present == *row)
        {
            return Ok(false);
        }
        self.insert(txn, row).map(|_| true)
    }

    /// Deletes the row with this primary key and returns it.
    pub fn delete<Q: Ord + ?Sized>(&self, txn: &mut WriteTxn<'_>, key: &Q) -> Option<Arc<T>>
    where
        T::Key: Borrow<Q>,
    {
        self.get(txn, key)?;
        let (state, revision) = txn.state_mut(self);
        state.delete(key, revision)
    }

    /// Makes `rows` the table's whole content, touching only the rows that differ. Of several rows with one primary
    /// key the last counts. Unique keys may move freely between rows.
    ///
    /// # Errors
    /// When two of `rows` share a key of a unique index. The table is then as it was before the call.
    pub fn replace_all(
        &self,
        txn: &mut WriteTxn<'_>,
        rows: impl IntoIterator<Item = impl Into<Arc<T>>>,
    ) -> Result<Replaced, UniqueViolation>
    where
        T: PartialEq,
    {
        let mut wanted: BTreeMap<T::Key, Arc<T>> = rows
            .into_iter()
            .map(Into::into)
            .map(|row| (row.key(), row))
            .collect();
        let mut stale = Vec::new();
        for present in self.iter(txn) {
            let key = present.key();
            match wanted.get(&key) {
                Some(row) if **row == **present => drop(wanted.remove(&key)),
                _ => stale.push(key),
            }
        }
        let before = (!stale.is_empty() || !wanted.is_empty()).then(|| self.state(txn).clone());
        let deleted = stale.iter().filter(|key| !wanted.contains_key(key)).count();
        let replaced = Replaced {
            written: wanted.len(),
            deleted,
        };
        for key in &stale {
            self.delete(txn, key);
        }
        let outcome = wanted
            .into_values()
            .try_for_each(|row| self.insert(txn, row).map(drop));
        if let (Err(violation), Some(before)) = (outcome, before) {
            txn.restore(self, before);
            return Err(violation);
        }
        Ok(replaced)
    }

    /// Deletes every row.
    pub fn clear(&self, txn: &mut WriteTxn<'_>) {
        let keys: Vec<T::Key> = self.state(txn).rows.keys().cloned().collect();
        for key in &keys {
            self.delete(txn, key);
        }
    }

    /// Adds a source that the table now waits for; see [`TableDef::initializer`].
    pub fn add_initializer(&self, txn: &mut WriteTxn<'_>, name: &str) {
        let (state, revision) = txn.state_mut(self);
        state.initializers.insert(name.to_owned());
        state.touch(revision);
    }

    /// Marks a source as done with its first full set of rows. Commit it together with, or after, those rows.
    pub fn finish_initializer(&self, txn: &mut WriteTxn<'_>, name: &str) {
        if self.state(txn).initializers.contains(name) {
            let (state, revision) = txn.state_mut(self);
            state.initializers.remove(name);
            state.touch(revision);
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn state<'r>(&self, from: &'r impl Read) -> &'r TableState<T> {
        let state = from.state(self.id).map(|state| state as &dyn Any);
        state
            .and_then(<dyn Any>::downcast_ref)
            .unwrap_or_else(|| self.foreign())
    }

    pub(crate) fn foreign(&self) -> ! {
        panic!(
            "table {} used with a database, or a snapshot of one, that it is not registered in",
            self.name()
        )
    }
}

impl<T: Row> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            shared: self.shared.clone(),
            row: PhantomData,
        }
    }
}

impl<T: Row> Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.name()).finish()
    }
}

/// What [`Table::replace_all`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Rows inserted or changed.
    pub written: usize,
    /// Rows deleted.
    pub deleted: usize,
}

/// A typed handle to one secondary index of a table. Reads as [`Table`] does.
pub struct Index<T: Row, K> {
    table: Table<T>,
    position: usize,
    key: PhantomData<fn() -> K>,
}

impl<T: Row, K: Key> Index<T, K> {
    /// The rows with this index key, by primary key.
    pub fn get<'r, R: Read, Q: Ord + ?Sized>(
        &self,
        from: &'r R,
        key: &Q,
    ) -> impl DoubleEndedIterator<Item = &'r Arc<T>> + use<'r, T, K, R, Q>
    where
        K: Borrow<Q>,
    {
        self.index(from)
            .range((Bound::Included(key), Bound::Included(key)))
            .map(|(_, row)| row)
    }

    /// The first row with this index key: the only one where the index is unique.
    pub fn first<'r, Q: Ord + ?Sized>(&self, from: &'r impl Read, key: &Q) -> Option<&'r Arc<T>>
    where
        K: Borrow<Q>,
    {
        self.get(from, key).next()
    }

    /// Index keys within `range` with their rows, by index key and then primary key.
    pub fn range<'r, R: Read, B: RangeBounds<Q>, Q: Ord + ?Sized>(
        &self,
        from: &'r R,
        range: B,
    ) -> impl DoubleEndedIterator<Item = (&'r K, &'r Arc<T>)> + use<'r, T, K, R, B, Q>
    where
        K: Borrow<Q>,
    {
        self.index(from).range(range)
    }

    fn index<'r>(&self, from: &'r impl Read) -> &'r SecondaryIndex<T, K> {
        let index = self.table.state(from).indexes[self.position].as_ref() as &dyn Any;
        index.downcast_ref().unwrap_or_else(|| self.table.foreign())
    }
}

impl<T: Row, K> Clone for Index<T, K> {
    fn clone(&self) -> Self {
        Self {
            table: self.table.clone(),
            position: self.position,
            key: PhantomData,
        }
    }
}

impl<T: Row, K> Debug for Index<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index({}, {})", self.table.name(), self.position)
    }
}
