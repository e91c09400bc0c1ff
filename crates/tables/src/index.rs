//! The persistent ordered map under everything, and secondary indexes built on it.
//!
//! `imbl`'s B+tree was measured against `rpds`' red-black tree with 100,000 string keys: bulk insert and lookup take
//! two thirds of the time, iteration a ninth, and 32 entries share one allocation; a transaction and snapshot for every
//! single insert take 2.4 times as long (3 µs against 1.3 µs). Reads and bulk matter more here. Nothing outside this
//! module knows.

use std::any::Any;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::iter;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};

use crate::table::{Key, Row};

/// A persistent ordered map: cloning is one reference count, a change copies the path to it only where shared.
pub(crate) type Map<K, V> = imbl::OrdMap<K, V>;

/// Iterator over a part of a [`Map`].
pub(crate) type Range<'m, K, V> =
    imbl::ordmap::RangedIter<'m, K, V, imbl::shared_ptr::DefaultSharedPtr>;

/// The index key two rows of a unique index would share, and the row that has it already.
pub(crate) struct Conflict {
    pub index: &'static str,
    pub value: String,
    pub owner: String,
}

/// A secondary index with its key type erased.
pub(crate) trait Secondary<T: Row>: Any + Send + Sync {
    fn conflict(&self, row: &T, key: &T::Key) -> Option<Conflict>;
    fn insert(&mut self, row: &Arc<T>, key: &T::Key);
    fn remove(&mut self, row: &T, key: &T::Key);
    fn clone_box(&self) -> Box<dyn Secondary<T>>;
}

/// Hands every index key of a row to the second argument.
type Extract<T, K> = Arc<dyn Fn(&T, &mut dyn FnMut(K)) + Send + Sync>;

/// Index keys with their rows.
type Entries<'i, T, K> = iter::Map<
    Range<'i, (K, <T as Row>::Key), Arc<T>>,
    fn((&'i (K, <T as Row>::Key), &'i Arc<T>)) -> (&'i K, &'i Arc<T>),
>;

/// Rows by (index key, primary key).
pub(crate) struct SecondaryIndex<T: Row, K> {
    name: &'static str,
    unique: bool,
    extract: Extract<T, K>,
    rows: Map<(K, T::Key), Arc<T>>,
}

impl<T: Row, K: Key> SecondaryIndex<T, K> {
    pub fn new<I: IntoIterator<Item = K>>(
        name: &'static str,
        unique: bool,
        keys: impl Fn(&T) -> I + Send + Sync + 'static,
    ) -> Self {
        let extract: Extract<T, K> =
            Arc::new(move |row, emit| keys(row).into_iter().for_each(emit));
        Self {
            name,
            unique,
            extract,
            rows: Map::new(),
        }
    }

    /// The rows whose index key lies in `range`, by index key and then primary key.
    pub fn range<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> Entries<'_, T, K>
    where
        K: Borrow<Q>,
    {
        let start = match range.start_bound() {
            Bound::Included(key) => Bound::Included(Probe {
                key,
                edge: Edge::Before,
            }),
            Bound::Excluded(key) => Bound::Included(Probe {
                key,
                edge: Edge::After,
            }),
            Bound::Unbounded => Bound::Unbounded,
        };
        let end = match range.end_bound() {
            Bound::Included(key) => Bound::Included(Probe {
                key,
                edge: Edge::After,
            }),
            Bound::Excluded(key) => Bound::Included(Probe {
                key,
                edge: Edge::Before,
            }),
            Bound::Unbounded => Bound::Unbounded,
        };
        self.rows
            .range::<_, Probe<'_, Q>>((start, end))
            .map(|((key, _), row)| (key, row))
    }
}

impl<T: Row, K: Key> Secondary<T> for SecondaryIndex<T, K> {
    fn conflict(&self, row: &T, key: &T::Key) -> Option<Conflict> {
        if !self.unique {
            return None;
        }
        let mut conflict = None;
        (self.extract)(row, &mut |value| {
            let probe = Probe {
                key: &value,
                edge: Edge::Before,
            };
            let holder = self
                .rows
                .get_next(&probe)
                .filter(|((held, _), _)| *held == value);
            if let Some(((_, owner), _)) = holder.filter(|((_, owner), _)| owner != key) {
                let (value, owner) = (format!("{value:?}"), format!("{owner:?}"));
                conflict.get_or_insert(Conflict {
                    index: self.name,
                    value,
                    owner,
                });
            }
        });
        conflict
    }

    fn insert(&mut self, row: &Arc<T>, key: &T::Key) {
        let rows = &mut self.rows;
        (self.extract)(row, &mut |value| {
            rows.insert((value, key.clone()), row.clone());
        });
    }

    fn remove(&mut self, row: &T, key: &T::Key) {
        let rows = &mut self.rows;
        (self.extract)(row, &mut |value| {
            rows.remove(&(value, key.clone()));
        });
    }

    fn clone_box(&self) -> Box<dyn Secondary<T>> {
        let (extract, rows) = (self.extract.clone(), self.rows.clone());
        Box::new(Self {
            name: self.name,
            unique: self.unique,
            extract,
            rows,
        })
    }
}

/// A place right before or right after all entries of one index key, whatever their primary keys.
struct Probe<'a, Q: ?Sized> {
    key: &'a Q,
    edge: Edge,
}

enum Edge {
    Before,
    After,
}

impl<Q: Ord + ?Sized, K: Borrow<Q>, P> Equivalent<(K, P)> for Probe<'_, Q> {
    fn equivalent(&self, _: &(K, P)) -> bool {
        false
    }
}

impl<Q: Ord + ?Sized, K: Borrow<Q>, P> Comparable<(K, P)> for Probe<'_, Q> {
    fn compare(&self, (key, _): &(K, P)) -> Ordering {
        self.key.cmp(key.borrow()).then(match self.edge {
            Edge::Before => Ordering::Less,
            Edge::After => Ordering::Greater,
        })
    }
}
