//! Where objects are: tables of revisioned objects in memory, with the recent changes of each table.
//!
//! This is the part that an embedded database can replace: ordered keys, one global revision, and transactions that
//! read and write several tables at once. It knows nothing of Kubernetes but where the revision stands in an object.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use super::super::object::{Key, set_revision};

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    /// Revision of the change.
    pub revision: u64,
    /// The object after the change; `None` when it was removed.
    pub new: Option<Arc<Value>>,
    /// The object before the change; `None` when it was made.
    pub old: Option<Arc<Value>>,
    /// The object as the change shows it: its new state, or for a removal its last one, at the revision of the change.
    pub shown: Arc<Value>,
    /// The same as text, written once for all watchers.
    json: OnceLock<Bytes>,
}

impl Change {
    /// What the change shows as JSON text.
    pub fn json(&self) -> Bytes {
        self.json
            .get_or_init(|| Bytes::from(self.shown.to_string()))
            .clone()
    }
}

struct Table {
    objects: BTreeMap<Key, Arc<Value>>,
    changes: VecDeque<Arc<Change>>,
    /// Revision of the newest change that is no longer in `changes`: what lies at or before it cannot be told any more.
    floor: u64,
    wake: watch::Sender<u64>,
}

struct Inner {
    revision: u64,
    tables: BTreeMap<String, Table>,
}

/// All tables, behind one lock that is held for map operations only.
pub struct Memory {
    inner: Mutex<Inner>,
    history: usize,
}

/// Objects of a table at one revision.
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    /// The objects in key order.
    pub objects: Vec<Arc<Value>>,
}

/// Why a table cannot be read at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The changes since then are no longer all known; the oldest revision that can be resumed is given.
    TooOld(u64),
    /// The revision has not come yet; the current one is given.
    Future(u64),
}

impl Memory {
    /// Empty tables that remember `history` changes each.
    pub fn new(history: usize) -> Self {
        let inner = Inner {
            revision: 1,
            tables: BTreeMap::new(),
        };
        Self {
            inner: Mutex::new(inner),
            history: history.max(1),
        }
    }

    // A panic while the lock is held leaves complete tables behind (each write is one insert), so poisoning is ignored.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// One object.
    pub fn get(&self, table: &str, key: &Key) -> Option<Arc<Value>> {
        self.lock().tables.get(table)?.objects.get(key).cloned()
    }

    /// Runs `work` with exclusive access. What it wrote stays, also when it returns an error: check before writing.
    pub fn transact<T>(&self, work: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        let mut inner = self.lock();
        work(&mut Transaction {
            inner: &mut inner,
            history: self.history,
        })
    }

    /// Objects of a table, optionally of one namespace, as they were at a revision (`None`: now).
    pub fn snapshot(
        &self,
        table: &str,
        namespace: Option<&str>,
        at: Option<u64>,
    ) -> Result<Snapshot, Unavailable> {
        let inner = self.lock();
        let revision = at.unwrap_or(inner.revision);
        if revision > inner.revision {
            return Err(Unavailable::Future(inner.revision));
        }
        let Some(table) = inner.tables.get(table) else {
            return Ok(Snapshot {
                revision,
                objects: Vec::new(),
            });
        };
        let undo = table.since(revision)?;
        let now: Vec<(&Key, &Arc<Value>)> = table.range(namespace).collect();
        if undo.is_empty() {
            return Ok(Snapshot {
                revision,
                objects: now.into_iter().map(|(_, o)| Arc::clone(o)).collect(),
            });
        }
        let mut then: BTreeMap<Key, Arc<Value>> = now
            .into_iter()
            .map(|(k, o)| (k.clone(), Arc::clone(o)))
            .collect();
        for change in undo.iter().rev() {
            let key = Key::of(&change.shown);
            if namespace.is_some_and(|n| n != key.namespace) {
                continue;
            }
            match &change.old {
                Some(old) => then.insert(key, Arc::clone(old)),
                None => then.remove(&key),
            };
        }
        Ok(Snapshot {
            revision,
            objects: then.into_values().collect(),
        })
    }

    /// The changes of a table after `revision`, and the revision up to which they are complete.
    pub fn changes_since(
        &self,
        table: &str,
        revision: u64,
    ) -> Result<(Vec<Arc<Change>>, u64), Unavailable> {
        let inner = self.lock();
        if revision > inner.revision {
            return Err(Unavailable::Future(inner.revision));
        }
        let changes = match inner.tables.get(table) {
            Some(table) => table.since(revision)?,
            None => Vec::new(),
        };
        Ok((changes, inner.revision))
    }

    /// A receiver that is woken at every change of the table.
    pub fn subscribe(&self, table: &str) -> watch::Receiver<u64> {
        self.lock().table_mut(table).wake.subscribe()
    }
}

impl Inner {
    fn table_mut(&mut self, name: &str) -> &mut Table {
        self.tables.entry(name.to_owned()).or_insert_with(|| Table {
            objects: BTreeMap::new(),
            changes: VecDeque::new(),
            floor: 0,
            wake: watch::Sender::new(0),
        })
    }
}

impl Table {
    fn since(&self, revision: u64) -> Result<Vec<Arc<Change>>, Unavailable> {
        if revision < self.floor {
            return Err(Unavailable::TooOld(self.floor));
        }
        let first = self.changes.partition_point(|c| c.revision <= revision);
        Ok(self.changes.range(first..).cloned().collect())
    }

    fn range<'a>(
        &'a self,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let from = namespace.map_or(Bound::Unbounded, |n| {
            Bound::Included(Key::namespaced(n, ""))
        });
        self.objects
            .range((from, Bound::Unbounded))
            .take_while(move |(key, _)| namespace.is_none_or(|n| n == key.namespace))
    }

    fn record(&mut self, change: Change, history: usize) {
        let revision = change.revision;
        self.changes.push_back(Arc::new(change));
        while self.changes.len() > history {
            if let Some(forgotten) = self.changes.pop_front() {
                self.floor = forgotten.revision;
            }
        }
        self.wake.send_replace(revision);
    }
}

/// Exclusive access to all tables.
pub struct Transaction<'a> {
    inner: &'a mut Inner,
    history: usize,
}

impl Transaction<'_> {
    /// One object.
    pub fn get(&self, table: &str, key: &Key) -> Option<Arc<Value>> {
        self.inner.tables.get(table)?.objects.get(key).cloned()
    }

    /// Objects of a table in one namespace.
    pub fn in_namespace(&self, table: &str, namespace: &str) -> Vec<Arc<Value>> {
        let table = self.inner.tables.get(table);
        table
            .into_iter()
            .flat_map(|t| t.range(Some(namespace)))
            .map(|(_, o)| Arc::clone(o))
            .collect()
    }

    /// Whether a table has anything in one namespace.
    pub fn any_in_namespace(&self, table: &str, namespace: &str) -> bool {
        self.inner
            .tables
            .get(table)
            .is_some_and(|t| t.range(Some(namespace)).next().is_some())
    }

    /// Writes an object at a new revision and returns it as stored.
    pub fn put(&mut self, table: &str, mut object: Value) -> Arc<Value> {
        let revision = self.next_revision();
        set_revision(&mut object, revision);
        let key = Key::of(&object);
        let object = Arc::new(object);
        let history = self.history;
        let table = self.inner.table_mut(table);
        let old = table.objects.insert(key, Arc::clone(&object));
        let new = Some(Arc::clone(&object));
        table.record(
            Change {
                revision,
                new,
                old,
                shown: Arc::clone(&object),
                json: OnceLock::new(),
            },
            history,
        );
        object
    }

    /// Removes an object; `last` is its final state, which the change shows. Returns it as shown.
    pub fn remove(&mut self, table: &str, key: &Key, mut last: Value) -> Arc<Value> {
        let revision = self.next_revision();
        set_revision(&mut last, revision);
        let last = Arc::new(last);
        let history = self.history;
        let table = self.inner.table_mut(table);
        let old = table.objects.remove(key);
        if old.is_some() {
            let shown = Arc::clone(&last);
            table.record(
                Change {
                    revision,
                    new: None,
                    old,
                    shown,
                    json: OnceLock::new(),
                },
                history,
            );
        }
        last
    }

    fn next_revision(&mut self) -> u64 {
        self.inner.revision += 1;
        self.inner.revision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(name: u8, value: u32) -> Value {
        json!({"metadata": {"name": format!("o{name}"), "namespace": format!("n{}", name % 2)}, "v": value})
    }

    fn names_and_values(objects: &[Arc<Value>]) -> Vec<String> {
        objects
            .iter()
            .map(|o| format!("{}={}", o["metadata"]["name"], o["v"]))
            .collect()
    }

    proptest! {
        /// Any past revision inside the history reads as it was; older ones are refused.
        #[test]
        fn past_revisions_read_as_they_were(steps in prop::collection::vec((0u8..6, any::<bool>()), 1..60)) {
            let memory = Memory::new(16);
            let mut seen = Vec::new();
            for (i, (name, remove)) in steps.into_iter().enumerate() {
                let object = object(name, u32::try_from(i).unwrap());
                let key = Key::of(&object);
                memory.transact(|t| {
                    match (remove, t.get("t", &key)) {
                        (true, Some(last)) => drop(t.remove("t", &key, Value::clone(&last))),
                        _ => drop(t.put("t", object)),
                    }
                });
                let now = memory.snapshot("t", None, None).unwrap();
                seen.push((now.revision, names_and_values(&now.objects)));
            }
            let oldest = seen.len().saturating_sub(16);
            for (i, (revision, expected)) in seen.iter().enumerate() {
                match memory.snapshot("t", None, Some(*revision)) {
                    Ok(then) => prop_assert_eq!(&names_and_values(&then.objects), expected),
                    Err(e) => prop_assert!(i < oldest, "{:?} at step {}", e, i),
                }
            }
        }
    }

    #[test]
    fn a_namespace_is_a_range() {
        let memory = Memory::new(8);
        memory.transact(|t| (0..6).for_each(|n| drop(t.put("t", object(n, 0)))));
        assert_eq!(
            memory
                .snapshot("t", Some("n1"), None)
                .unwrap()
                .objects
                .len(),
            3
        );
        assert_eq!(
            memory.snapshot("t", Some("n"), None).unwrap().objects.len(),
            0
        );
        assert!(matches!(
            memory.snapshot("t", None, Some(99)),
            Err(Unavailable::Future(7))
        ));
    }
}
