//! Objects on disk: every change goes into a database, many changes in one write.
//!
//! Writers leave their changes in a queue and in a [`log`], and go on: what they wrote survives the process from then on. One
//! thread writes what has come together into the database, and syncs it: that is what survives the machine.

mod log;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::super::object::{Key, Object};
use log::{Batch, Log};

/// Objects by table, namespace and name, with zero bytes between.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Facts about the file.
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("hypha-apiserver");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
const THIS_FORMAT: u64 = 1;

/// What a start skips, so that no revision is given twice that a client has seen but the file has not.
const GAP: u64 = 1000;

/// How long changes are gathered for the database: a write costs about the same for one as for many, and one object is often
/// written several times in a row.
const GATHER: Duration = Duration::from_millis(50);

/// Why the objects cannot be read or kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the object store {path}: {why}")]
pub struct StoreError {
    path: String,
    why: String,
}

/// One change.
#[derive(Debug)]
pub struct Record {
    key: String,
    object: Option<Arc<Object>>,
}

impl Record {
    /// An object was written.
    pub fn put(table: &str, key: &Key, object: Arc<Object>) -> Self {
        Self {
            key: path(table, key),
            object: Some(object),
        }
    }

    /// An object is gone.
    pub fn remove(table: &str, key: &Key) -> Self {
        Self {
            key: path(table, key),
            object: None,
        }
    }
}

fn path(table: &str, key: &Key) -> String {
    format!("{table}\0{}\0{}", key.namespace, key.name)
}

struct Queue {
    records: Vec<Record>,
    revision: u64,
    closed: bool,
    log: Log,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Why it cannot go on.
    fault: OnceLock<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, why: &str) {
        tracing::error!(
            error = why,
            "objects cannot be written to disk; the server takes no more changes"
        );
        // The first reason stays.
        let _ = self.fault.set(why.to_owned());
    }
}

/// The file that objects are kept in. Dropping it writes what is left.
pub struct Journal {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a file held.
pub struct Restored {
    /// The revision to go on from.
    pub revision: u64,
    /// Every object with the table that it belongs to.
    pub objects: Vec<(String, Arc<Object>)>,
}

impl Journal {
    /// Opens or makes the file and reads what is in it.
    pub fn open(file: &Path) -> Result<(Self, Restored), StoreError> {
        let fail = |why: String| StoreError {
            path: file.display().to_string(),
            why,
        };
        let database = Database::create(file).map_err(|e| fail(explain(&e)))?;
        let mut restored = read(&database).map_err(&fail)?;
        let (mut log, batches) = Log::open(file).map_err(|e| fail(e.to_string()))?;
        if catch_up(&database, batches).map_err(|e| fail(e.to_string()))? {
            restored = read(&database).map_err(&fail)?;
        }
        let cleared = log.clear(0).and_then(|()| log.clear(1));
        cleared.map_err(|e| fail(e.to_string()))?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                records: Vec::new(),
                revision: restored.revision,
                closed: false,
                log,
            }),
            wake: Condvar::new(),
            fault: OnceLock::new(),
        });
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("objects".to_owned())
            .spawn(move || write_all(&database, &writer))
            .map_err(|e| fail(format!("cannot start its thread: {e}")))?;
        Ok((
            Self {
                shared,
                thread: Some(thread),
            },
            restored,
        ))
    }

    /// Adds changes that lead to a revision. They survive the process when this returns, unless there is a [`Self::fault`].
    pub fn add(&self, records: Vec<Record>, revision: u64) {
        let mut queue = self.shared.lock();
        if let Err(error) = queue.log.add(&records, revision) {
            self.shared.fail(&error.to_string());
        }
        let first = queue.records.is_empty();
        queue.records.extend(records);
        queue.revision = revision;
        drop(queue);
        if first {
            self.shared.wake.notify_one();
        }
    }

    /// Why changes are not kept any more.
    pub fn fault(&self) -> Option<&str> {
        self.shared.fault.get().map(String::as_str)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that writes objects has panicked");
        }
    }
}

fn explain(error: &DatabaseError) -> String {
    match error {
        DatabaseError::DatabaseAlreadyOpen => "another process has it open".to_owned(),
        DatabaseError::Storage(redb::StorageError::Corrupted(_)) => damaged(&error.to_string()),
        DatabaseError::Storage(redb::StorageError::Io(e))
            if e.kind() == std::io::ErrorKind::InvalidData =>
        {
            damaged(&error.to_string())
        }
        other => other.to_string(),
    }
}

fn damaged(why: &str) -> String {
    format!(
        "it is damaged or no object store at all ({why}); move it away to begin with an empty one"
    )
}

fn read(database: &Database) -> Result<Restored, String> {
    let reading = database.begin_read().map_err(|e| e.to_string())?;
    let facts = match reading.open_table(FACTS) {
        Ok(facts) => facts,
        Err(TableError::TableDoesNotExist(_)) => {
            let foreign = reading
                .list_tables()
                .map_err(|e| e.to_string())?
                .next()
                .is_some();
            drop(reading);
            if foreign {
                return Err(damaged("it belongs to another program"));
            }
            return begin(database).map_err(|e| e.to_string());
        }
        Err(error) => return Err(damaged(&error.to_string())),
    };
    let fact = |name: &str| {
        facts
            .get(name)
            .map(|f| f.map(|f| f.value()))
            .map_err(|e| damaged(&e.to_string()))
    };
    match fact(FORMAT)? {
        Some(THIS_FORMAT) => {}
        other => {
            return Err(format!(
                "its format is {other:?}; this program knows {THIS_FORMAT} alone"
            ));
        }
    }
    let revision = fact(REVISION)?.unwrap_or_default() + GAP;
    let table = reading
        .open_table(OBJECTS)
        .map_err(|e| damaged(&e.to_string()))?;
    let mut objects = Vec::new();
    for entry in table.iter().map_err(|e| damaged(&e.to_string()))? {
        let (key, text) = entry.map_err(|e| damaged(&e.to_string()))?;
        let table = key
            .value()
            .split('\0')
            .next()
            .unwrap_or_default()
            .to_owned();
        let value = serde_json::from_slice(text.value()).map_err(|e| damaged(&e.to_string()))?;
        objects.push((table, Object::shared(value)));
    }
    Ok(Restored { revision, objects })
}

fn begin(database: &Database) -> Result<Restored, redb::Error> {
    let revision = super::memory::first_revision();
    let writing = database.begin_write()?;
    {
        writing.open_table(OBJECTS)?;
        let mut facts = writing.open_table(FACTS)?;
        facts.insert(FORMAT, THIS_FORMAT)?;
        facts.insert(REVISION, revision)?;
    }
    writing.commit()?;
    Ok(Restored {
        revision,
        objects: Vec::new(),
    })
}

/// Brings the database up to what the log holds; whether it was behind.
fn catch_up(database: &Database, batches: Vec<Batch>) -> Result<bool, redb::Error> {
    let known = {
        let facts = database.begin_read()?.open_table(FACTS)?;
        facts.get(REVISION)?.map_or(0, |revision| revision.value())
    };
    let behind = batches.into_iter().filter(|batch| batch.revision > known);
    let (mut records, mut newest) = (Vec::new(), None);
    for batch in behind {
        newest = Some(batch.revision);
        records.extend(batch.records);
    }
    newest.map_or(Ok(false), |newest| {
        write(database, &records, newest).map(|()| true)
    })
}

/// The writing thread: ends when the journal is closed and everything is written.
fn write_all(database: &Database, shared: &Shared) {
    while let Some((records, revision, file)) = gather(shared) {
        if let Err(error) = write(database, &records, revision) {
            return shared.fail(&error.to_string());
        }
        if let Err(error) = shared.lock().log.clear(file) {
            // What the database has is not looked at again: it only takes room.
            tracing::warn!(%error, "the log of objects cannot be emptied");
        }
    }
}

/// What has come together, and the file of the log that holds it; none at the end.
fn gather(shared: &Shared) -> Option<(Vec<Record>, u64, usize)> {
    let mut queue = shared.lock();
    while queue.records.is_empty() && !queue.closed {
        let woken = shared.wake.wait(queue);
        queue = woken.unwrap_or_else(PoisonError::into_inner);
    }
    let more = shared
        .wake
        .wait_timeout_while(queue, GATHER, |queue| !queue.closed);
    let (mut queue, _) = more.unwrap_or_else(PoisonError::into_inner);
    let records = std::mem::take(&mut queue.records);
    (!records.is_empty()).then(|| (records, queue.revision, queue.log.turn()))
}

fn write(database: &Database, records: &[Record], revision: u64) -> Result<(), redb::Error> {
    // The last state of each object alone, in the order of the table.
    let last: BTreeMap<&str, &Option<Arc<Object>>> = records
        .iter()
        .map(|record| (record.key.as_str(), &record.object))
        .collect();
    let writing = database.begin_write()?;
    {
        let mut table = writing.open_table(OBJECTS)?;
        for (key, object) in last {
            match object {
                Some(object) => drop(table.insert(key, object.text())?),
                None => drop(table.remove(key)?),
            }
        }
        writing.open_table(FACTS)?.insert(REVISION, revision)?;
    }
    writing.commit()?;
    Ok(())
}
