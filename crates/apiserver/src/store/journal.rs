//! Objects on disk: every change goes into a file, many changes in one write.
//!
//! Writers leave their changes in a queue and go on; one thread writes what has come together and tells up to which revision
//! everything is safe. Whoever answers a client waits for that ([`Journal::written`]).

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use tokio::sync::watch;

use super::super::object::{Key, Object};

/// Objects by table, namespace and name, with zero bytes between.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Facts about the file.
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("hypha-apiserver");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
const THIS_FORMAT: u64 = 1;

/// What a start skips, so that no revision is given twice that a client has seen but the file has not.
const GAP: u64 = 1000;

/// How long changes are gathered while several come at a time.
const GATHER: Duration = Duration::from_millis(2);

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

#[derive(Default)]
struct Queue {
    records: Vec<Record>,
    revision: u64,
    closed: bool,
}

/// Up to where everything is on disk, and why it cannot go on.
#[derive(Debug, Clone, Default)]
struct Progress {
    revision: u64,
    fault: Option<String>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    progress: watch::Sender<Progress>,
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
        let restored = read(&database).map_err(&fail)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            progress: watch::Sender::new(Progress {
                revision: restored.revision,
                fault: None,
            }),
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

    /// Adds changes that lead to a revision.
    pub fn add(&self, records: Vec<Record>, revision: u64) {
        let mut queue = self
            .shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        queue.records.extend(records);
        queue.revision = revision;
        self.shared.wake.notify_one();
    }

    /// Waits until everything up to a revision is on disk.
    pub async fn written(&self, revision: u64) -> Result<(), String> {
        let mut progress = self.shared.progress.subscribe();
        // The sender lives as long as `self`.
        match progress
            .wait_for(|p| p.revision >= revision || p.fault.is_some())
            .await
        {
            Ok(progress) => progress.fault.clone().map_or(Ok(()), Err),
            Err(_) => Err("the object store is closed".to_owned()),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
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

/// The writing thread: ends when the journal is closed and everything is written.
fn write_all(database: &Database, shared: &Shared) {
    let mut several = false;
    loop {
        let (records, revision) = {
            let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            while queue.records.is_empty() && !queue.closed {
                queue = shared
                    .wake
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if queue.records.is_empty() {
                return;
            }
            if several {
                // Many write: more is about to come, and a write costs the same for one as for all.
                drop(queue);
                std::thread::sleep(GATHER);
                queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            }
            several = queue.records.len() > 1;
            (std::mem::take(&mut queue.records), queue.revision)
        };
        match write(database, &records, revision) {
            Ok(()) => shared.progress.send_modify(|p| p.revision = revision),
            Err(error) => {
                tracing::error!(%error, "objects cannot be written to disk; the server takes no more changes");
                shared
                    .progress
                    .send_modify(|p| p.fault = Some(error.to_string()));
                return;
            }
        }
    }
}

fn write(database: &Database, records: &[Record], revision: u64) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    {
        let mut table = writing.open_table(OBJECTS)?;
        for record in records {
            match &record.object {
                Some(object) => drop(table.insert(record.key.as_str(), object.text())?),
                None => drop(table.remove(record.key.as_str())?),
            }
        }
        writing.open_table(FACTS)?.insert(REVISION, revision)?;
    }
    writing.commit()?;
    Ok(())
}
