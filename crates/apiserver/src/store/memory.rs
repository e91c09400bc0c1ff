//! Where objects are: tables of revisioned objects in memory, with the recent changes of each table.
//!
//! Ordered keys, one global revision, and transactions that read and write several tables at once. It knows nothing of
//! Kubernetes but where revision, identifier and owners stand in an object. What is written goes into the journal, if there is one,
//! in the same order.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::Value;
use tokio::sync::watch;

use super::super::object::{Key, Object, meta_str, owners, set_revision};
use super::journal::{Journal, Record};

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    /// Revision of the change.
    pub revision: u64,
    /// Whose change it is.
    pub key: Key,
    /// The object after the change; `None` when it was removed.
    pub new: Option<Arc<Object>>,
    /// The object before the change; `None` when it was made.
    pub old: Option<Arc<Object>>,
    /// The object as the change shows it: its new state, or for a removal its last one, at the revision of the change.
    pub shown: Arc<Object>,
}

struct Table {
    objects: BTreeMap<Key, Arc<Object>>,
    changes: VecDeque<Arc<Change>>,
    /// Revision of the newest change that is no longer in `changes`: what lies at or before it cannot be told any more.
    floor: u64,
    wake: watch::Sender<u64>,
}

/// Table and key of an object.
pub type Place = (String, Key);

struct Inner {
    revision: u64,
    /// Changes up to this revision are not known: those before the last start.
    floor: u64,
    tables: BTreeMap<String, Table>,
    /// Where the object with an identifier is.
    places: HashMap<String, Place>,
    /// The objects that name an identifier as their owner.
    dependents: HashMap<String, BTreeSet<Place>>,
    /// What the running transaction has written, for the journal.
    records: Vec<Record>,
}

/// All tables, behind one lock that is held for map operations only.
pub struct Memory {
    inner: Mutex<Inner>,
    history: usize,
    journal: Option<Journal>,
}

/// Objects of a table at one revision.
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    /// The objects in key order.
    pub objects: Vec<Arc<Object>>,
}

/// Changes of a table.
pub struct Changes {
    /// In the order of their revisions.
    pub changes: Vec<Arc<Change>>,
    /// The revision up to which they are complete.
    pub revision: u64,
    /// How many wait for the changes of this table.
    pub watchers: usize,
}

/// Why a table cannot be read at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The changes since then are no longer all known; the oldest revision that can be resumed is given.
    TooOld(u64),
    /// The revision has not come yet; the current one is given.
    Future(u64),
}

/// The revision of a store that begins empty: microseconds since 1970.
///
/// A client may hold a revision of a server that was here before. Were both counted from 1, the new server would soon
/// pass that number, and would tell the client of later changes as if it knew the earlier ones. No server writes a
/// million times a second, so what another one gave out is always before this and is answered with 410.
pub fn first_revision() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(1)
}

impl Memory {
    /// Empty tables that remember `history` changes each and begin at [`first_revision`].
    pub fn new(history: usize) -> Self {
        Self {
            inner: Mutex::new(Inner::at(first_revision())),
            history: history.max(1),
            journal: None,
        }
    }

    /// Tables that hold what a journal has kept, and go on at `revision`.
    pub fn restored(
        history: usize,
        journal: Journal,
        revision: u64,
        objects: Vec<(String, Arc<Object>)>,
    ) -> Self {
        let mut inner = Inner::at(revision);
        for (table, object) in objects {
            let key = Key::of(&object);
            inner.index(&table, &key, None, Some(&object));
            inner.table_mut(&table).objects.insert(key, object);
        }
        Self {
            inner: Mutex::new(inner),
            history: history.max(1),
            journal: Some(journal),
        }
    }

    /// The journal, if objects are kept.
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
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
    pub fn get(&self, table: &str, key: &Key) -> Option<Arc<Object>> {
        self.lock().tables.get(table)?.objects.get(key).cloned()
    }

    /// Runs `work` with exclusive access. What it wrote stays, also when it returns an error: check before writing.
    pub fn transact<T>(&self, work: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        let mut inner = self.lock();
        let outcome = work(&mut Transaction {
            inner: &mut inner,
            history: self.history,
            keeps: self.journal.is_some(),
        });
        let records = std::mem::take(&mut inner.records);
        if let Some(journal) = self.journal.as_ref().filter(|_| !records.is_empty()) {
            // Still under the lock: the journal has the order of the revisions.
            journal.add(records, inner.revision);
        }
        outcome
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
        let now: Vec<(&Key, &Arc<Object>)> = table.range(namespace).collect();
        if undo.is_empty() {
            return Ok(Snapshot {
                revision,
                objects: now.into_iter().map(|(_, o)| Arc::clone(o)).collect(),
            });
        }
        let mut then: BTreeMap<Key, Arc<Object>> = now
            .into_iter()
            .map(|(k, o)| (k.clone(), Arc::clone(o)))
            .collect();
        for change in undo.iter().rev() {
            if namespace.is_some_and(|n| n != change.key.namespace) {
                continue;
            }
            match &change.old {
                Some(old) => then.insert(change.key.clone(), Arc::clone(old)),
                None => then.remove(&change.key),
            };
        }
        Ok(Snapshot {
            revision,
            objects: then.into_values().collect(),
        })
    }

    /// The changes of a table after `revision`.
    pub fn changes_since(&self, table: &str, revision: u64) -> Result<Changes, Unavailable> {
        let inner = self.lock();
        if revision > inner.revision {
            return Err(Unavailable::Future(inner.revision));
        }
        let (changes, watchers) = match inner.tables.get(table) {
            Some(table) => (table.since(revision)?, table.wake.receiver_count()),
            None if revision < inner.floor => return Err(Unavailable::TooOld(inner.floor)),
            None => (Vec::new(), 0),
        };
        Ok(Changes {
            changes,
            revision: inner.revision,
            watchers,
        })
    }

    /// Revision of the last change of a table since the start.
    pub fn last_change(&self, table: &str) -> u64 {
        self.lock()
            .tables
            .get(table)
            .map_or(0, |table| *table.wake.borrow())
    }

    /// A receiver that is woken at every change of the table.
    pub fn subscribe(&self, table: &str) -> watch::Receiver<u64> {
        self.lock().table_mut(table).wake.subscribe()
    }
}

impl Inner {
    /// No object, and no change before `revision` that could be told.
    fn at(revision: u64) -> Self {
        Self {
            revision,
            floor: revision,
            tables: BTreeMap::new(),
            places: HashMap::new(),
            dependents: HashMap::new(),
            records: Vec::new(),
        }
    }

    fn table_mut(&mut self, name: &str) -> &mut Table {
        let floor = self.floor;
        self.tables.entry(name.to_owned()).or_insert_with(|| Table {
            objects: BTreeMap::new(),
            changes: VecDeque::new(),
            floor,
            wake: watch::Sender::new(0),
        })
    }

    /// Keeps identifiers and owners in step with a change of an object.
    fn index(&mut self, table: &str, key: &Key, old: Option<&Object>, new: Option<&Object>) {
        let uid = |object: Option<&Object>| {
            object
                .map(|o| meta_str(o, "uid").to_owned())
                .filter(|uid| !uid.is_empty())
        };
        let (before, after) = (uid(old), uid(new));
        if before != after {
            if let Some(uid) = before {
                self.places.remove(&uid);
            }
            if let Some(uid) = after {
                self.places.insert(uid, (table.to_owned(), key.clone()));
            }
        }
        let named = |object: Option<&Object>| {
            object
                .map(|o| owners(o).map(str::to_owned).collect())
                .unwrap_or_default()
        };
        let (before, after): (BTreeSet<String>, BTreeSet<String>) = (named(old), named(new));
        for owner in before.difference(&after) {
            if let Some(places) = self.dependents.get_mut(owner) {
                places.remove(&(table.to_owned(), key.clone()));
                if places.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        for owner in after.difference(&before) {
            let places = self.dependents.entry(owner.clone()).or_default();
            places.insert((table.to_owned(), key.clone()));
        }
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
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> {
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
    keeps: bool,
}

impl Transaction<'_> {
    /// One object.
    pub fn get(&self, table: &str, key: &Key) -> Option<Arc<Object>> {
        self.inner.tables.get(table)?.objects.get(key).cloned()
    }

    /// Objects of a table in one namespace.
    pub fn in_namespace(&self, table: &str, namespace: &str) -> Vec<Arc<Object>> {
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

    /// All objects of a table.
    pub fn all(&self, table: &str) -> Vec<Arc<Object>> {
        let table = self.inner.tables.get(table);
        table
            .into_iter()
            .flat_map(|t| t.objects.values())
            .map(Arc::clone)
            .collect()
    }

    /// Calls `visit` with every object of a table.
    pub fn each(&self, table: &str, visit: &mut dyn FnMut(&Value)) {
        let table = self.inner.tables.get(table);
        table
            .into_iter()
            .flat_map(|t| t.objects.values())
            .for_each(|object| visit(object));
    }

    /// Whether a table has nothing in it.
    pub fn is_empty(&self, table: &str) -> bool {
        self.inner
            .tables
            .get(table)
            .is_none_or(|t| t.objects.is_empty())
    }

    /// Where the object with an identifier is.
    pub fn place(&self, uid: &str) -> Option<&Place> {
        self.inner.places.get(uid)
    }

    /// The objects that name an identifier as their owner.
    pub fn dependents(&self, uid: &str) -> Vec<Place> {
        let places = self.inner.dependents.get(uid);
        places.into_iter().flatten().cloned().collect()
    }

    /// Writes an object at a new revision and returns it as stored.
    pub fn put(&mut self, table: &str, mut object: Value) -> Arc<Object> {
        let revision = self.next_revision();
        set_revision(&mut object, revision);
        let key = Key::of(&object);
        let object = Object::shared(object);
        let old = self
            .inner
            .table_mut(table)
            .objects
            .insert(key.clone(), Arc::clone(&object));
        self.inner.index(table, &key, old.as_deref(), Some(&object));
        if self.keeps {
            self.inner
                .records
                .push(Record::put(table, &key, Arc::clone(&object)));
        }
        let change = Change {
            revision,
            key,
            new: Some(Arc::clone(&object)),
            old,
            shown: Arc::clone(&object),
        };
        self.inner.table_mut(table).record(change, self.history);
        object
    }

    /// Removes an object; `last` is its final state, which the change shows. Returns it as shown.
    pub fn remove(&mut self, table: &str, key: &Key, mut last: Value) -> Arc<Object> {
        let revision = self.next_revision();
        set_revision(&mut last, revision);
        let last = Object::shared(last);
        let old = self.inner.table_mut(table).objects.remove(key);
        if old.is_some() {
            self.inner.index(table, key, old.as_deref(), None);
            if self.keeps {
                self.inner.records.push(Record::remove(table, key));
            }
            let change = Change {
                revision,
                key: key.clone(),
                new: None,
                old,
                shown: Arc::clone(&last),
            };
            self.inner.table_mut(table).record(change, self.history);
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

    fn names_and_values(objects: &[Arc<Object>]) -> Vec<String> {
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
        let now = memory.snapshot("t", None, None).unwrap().revision;
        let later = memory.snapshot("t", None, Some(now + 1));
        assert_eq!(later.err(), Some(Unavailable::Future(now)));
    }

    #[test]
    fn revisions_of_a_store_before_are_too_old() {
        let before = Memory::new(8);
        before.transact(|t| (0..6).for_each(|n| drop(t.put("t", object(n, 0)))));
        let seen = before.snapshot("t", None, None).unwrap().revision;
        std::thread::sleep(std::time::Duration::from_millis(1));
        let after = Memory::new(8);
        after.transact(|t| (0..60).for_each(|n| drop(t.put("t", object(n, 0)))));
        for table in ["t", "none"] {
            let told = after.changes_since(table, seen).err();
            assert!(matches!(told, Some(Unavailable::TooOld(_))), "{told:?}");
        }
    }
}
