//! The object store with Kubernetes semantics: what the HTTP side offers, without HTTP.
//!
//! All calls are synchronous and short; [`Watch::next`] alone waits. Objects are shared (`Arc<Object>`) and never change
//! once stored: a write makes a new one at a new revision.

mod admit;
mod delete;
mod expire;
mod gc;
mod journal;
mod list;
mod memory;
pub(super) mod own;
mod watch;
mod write;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::{Value, json};

use super::error::{ApiError, Reason};
use super::kind::{Kind, Networks, Registry};
use super::object::{Key, Object, is_deleting};
use super::{crd, kinds};
use journal::Journal;
use memory::{Memory, Transaction, Unavailable};

pub use super::schema::UnknownFields;
pub use delete::{DeleteOptions, Deleted, Propagation};
pub use journal::StoreError;
pub use list::{List, ListOptions, RevisionMatch};
pub use watch::{EventType, Filter, Watch, WatchEvent};
pub use write::{Part, Warnings, WriteOptions};

/// Namespaces that are there from the start.
const INITIAL_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// How many changes of each kind a watcher may be behind before it has to list again.
pub const DEFAULT_HISTORY: usize = 8192;

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStart {
    /// Tell every object there is as added, then go on from there.
    Everything,
    /// Tell what changes from now on.
    Now,
    /// Tell what changed after this revision.
    After(u64),
}

/// What can be set.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// How many changes of each kind are remembered.
    pub history: usize,
    /// The file that keeps the objects; `None`: they end with the process.
    pub data: Option<PathBuf>,
    /// What services get their addresses and ports from, and where the server itself is.
    pub networks: Networks,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            history: DEFAULT_HISTORY,
            data: None,
            networks: Networks::default(),
        }
    }
}

/// All objects of all kinds.
pub struct Store {
    memory: Arc<Memory>,
    registry: RwLock<Arc<Registry>>,
    networks: Networks,
    swept: expire::Swept,
    /// The last change of definitions that the registry has seen.
    synced: AtomicU64,
    syncing: Mutex<()>,
}

impl Store {
    /// A store for the given kinds, in memory alone, that holds the initial namespaces and remembers `history` changes of each kind.
    pub fn new(registry: Registry, history: usize) -> Self {
        let options = StoreOptions {
            history,
            ..StoreOptions::default()
        };
        Self::over(Memory::new(history), registry, &options)
    }

    /// A store for the given kinds with what its file holds.
    pub fn open(registry: Registry, options: &StoreOptions) -> Result<Self, StoreError> {
        let memory = match &options.data {
            None => Memory::new(options.history),
            Some(file) => {
                let (journal, kept) = Journal::open(file)?;
                Memory::restored(options.history, journal, kept.revision, kept.objects)
            }
        };
        Ok(Self::over(memory, registry, options))
    }

    fn over(memory: Memory, registry: Registry, options: &StoreOptions) -> Self {
        let store = Self {
            memory: Arc::new(memory),
            registry: RwLock::new(Arc::new(registry)),
            networks: options.networks.clone(),
            swept: expire::Swept::default(),
            synced: AtomicU64::new(0),
            syncing: Mutex::new(()),
        };
        store.sync_definitions();
        store.make_initial();
        store.keep_own();
        store
    }

    /// Makes what has to be there and is not.
    fn make_initial(&self) {
        for (table, namespace, object) in initial_objects() {
            let Ok(kind) = self.kind(table) else {
                continue;
            };
            match self.create(&kind, namespace, object, &WriteOptions::default()) {
                Err(error) if error.reason() != Reason::AlreadyExists => {
                    tracing::error!(table, %error, "cannot create an initial object");
                }
                _ => {}
            }
        }
    }

    /// An error if what has been written so far is not kept, although it should be.
    pub fn kept(&self) -> Result<(), ApiError> {
        let fault = self.memory.journal().and_then(Journal::fault);
        fault.map_or(Ok(()), |why| {
            Err(ApiError::new(
                Reason::InternalError,
                format!("the change is not on disk: {why}"),
            ))
        })
    }

    /// Brings the registry in step with the definitions of custom kinds.
    fn sync_definitions(&self) {
        // One at a time, so that nobody overwrites what a later one has seen. The registry is not locked while the objects
        // are, which lock it themselves.
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let definitions = self.settled_definitions();
        let mut slot = self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut registry = Registry::clone(&slot);
        crd::sync(&mut registry, definitions.iter().map(|d| d.value()));
        *slot = Arc::new(registry);
    }

    /// All definitions, once each that waited for a name has it if nobody else has it any more.
    fn settled_definitions(&self) -> Vec<Arc<Object>> {
        let all = || self.memory.transact(|txn| txn.all(crd::TABLE));
        let mut definitions = all();
        let Ok(kind) = self.kind(crd::TABLE) else {
            return definitions;
        };
        while let Some(next) = definitions.iter().find(|definition| {
            crd::may_be_accepted(definition, definitions.iter().map(|d| d.value()))
        }) {
            // Its names are looked at whenever it is written.
            let look = |definition: &Value| {
                let mut definition = definition.clone();
                definition["status"]["acceptedNames"] = Value::Null;
                Ok(definition)
            };
            if let Err(error) = self.modify_unchecked(&kind, &Key::of(next), false, look) {
                tracing::debug!(%error, "a definition went while it was given its names");
                break;
            }
            definitions = all();
        }
        definitions
    }

    /// What a write may mean for the server itself: any can be the last thing that a definition waited for.
    fn after_write(&self) {
        let written = self.memory.last_change(crd::TABLE);
        if self.synced.fetch_max(written, Ordering::AcqRel) < written {
            self.sync_definitions();
        }
    }

    /// The kinds served now.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds or replaces a kind while running.
    pub fn register(&self, kind: Kind) -> Arc<Kind> {
        let mut slot = self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut registry = Registry::clone(&slot);
        let kind = registry.register(kind);
        *slot = Arc::new(registry);
        kind
    }

    /// The kind with a qualified plural name: `pods`, `leases.coordination.k8s.io`.
    pub fn kind(&self, qualified_plural: &str) -> Result<Arc<Kind>, ApiError> {
        self.registry().find(qualified_plural).ok_or_else(|| {
            ApiError::new(
                Reason::NotFound,
                format!("the server does not serve the resource \"{qualified_plural}\""),
            )
        })
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.memory.revision()
    }

    /// One object.
    pub fn get(&self, kind: &Kind, key: &Key) -> Result<Arc<Object>, ApiError> {
        let found = self.memory.get(&kind.qualified_plural(), key);
        found.ok_or_else(|| ApiError::not_found(kind, &key.name))
    }

    /// Watches the objects of a kind. The events that the start calls for come first.
    pub fn watch(
        &self,
        kind: &Arc<Kind>,
        filter: Filter,
        start: WatchStart,
    ) -> Result<(Vec<WatchEvent>, Watch), ApiError> {
        let watch = |filter, revision| {
            Watch::new(Arc::clone(&self.memory), Arc::clone(kind), filter, revision)
        };
        match start {
            WatchStart::Now => Ok((Vec::new(), watch(filter, self.revision()))),
            WatchStart::After(revision) => {
                let mut watch = watch(filter, revision);
                let first = watch.poll()?;
                Ok((first, watch))
            }
            WatchStart::Everything => {
                let (objects, revision) = self.matching(kind, &filter, None)?;
                let first = objects.into_iter().map(WatchEvent::added).collect();
                Ok((first, watch(filter, revision)))
            }
        }
    }

    /// Objects that a filter lets through, at a revision (`None`: now). Filtering happens outside the lock.
    fn matching(
        &self,
        kind: &Kind,
        filter: &Filter,
        at: Option<u64>,
    ) -> Result<(Vec<Arc<Object>>, u64), ApiError> {
        let snapshot =
            self.memory
                .snapshot(&kind.qualified_plural(), filter.namespace.as_deref(), at);
        let snapshot = snapshot.map_err(|e| match e {
            Unavailable::TooOld(oldest) => ApiError::expired(at.unwrap_or(0), oldest),
            Unavailable::Future(current) => ApiError::future_revision(at.unwrap_or(0), current),
        })?;
        let objects = snapshot
            .objects
            .into_iter()
            .filter(|o| filter.matches(kind, o))
            .collect();
        Ok((objects, snapshot.revision))
    }

    /// Names of the tables whose objects live in namespaces.
    fn namespaced_tables(&self) -> Vec<String> {
        let mut tables: Vec<String> = self
            .registry()
            .iter()
            .filter(|k| k.namespaced && k.stored && k.face.is_none())
            .map(|k| k.qualified_plural())
            .collect();
        tables.dedup();
        tables
    }
}

/// What is there from the start: table, namespace, object.
fn initial_objects() -> Vec<(&'static str, &'static str, serde_json::Value)> {
    let mut objects: Vec<_> = INITIAL_NAMESPACES
        .iter()
        .map(|name| ("namespaces", "", json!({ "metadata": { "name": name } })))
        .collect();
    for (name, value) in [
        ("system-cluster-critical", 2_000_000_000),
        ("system-node-critical", 2_000_001_000),
    ] {
        let class = json!({ "metadata": { "name": name }, "value": value });
        objects.push(("priorityclasses.scheduling.k8s.io", "", class));
    }
    let roles = kinds::initial_roles().into_iter();
    objects.extend(roles.map(|(table, object)| (table, "", object)));
    objects
}

/// Refuses new objects in a namespace that is not there or on its way out.
fn check_namespace(txn: &Transaction<'_>, kind: &Kind, key: &Key) -> Result<(), ApiError> {
    if !kind.namespaced {
        return Ok(());
    }
    let namespace = &key.namespace;
    let Some(found) = txn.get("namespaces", &Key::cluster(namespace)) else {
        return Err(ApiError::not_found(&kinds::namespace(), namespace));
    };
    if is_deleting(&found) {
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let cause = super::error::Cause {
            reason: "NamespaceTerminating",
            field: "metadata.namespace".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
        };
        return Err(ApiError::forbidden(kind, &key.name, &why).with_cause(cause));
    }
    Ok(())
}
