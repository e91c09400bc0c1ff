//! The object store with Kubernetes semantics: what the HTTP side offers, without HTTP.
//!
//! All calls are synchronous and short; [`Watch::next`] alone waits. Objects are shared (`Arc<Value>`) and never change
//! once stored: a write makes a new one at a new revision.

mod delete;
mod expire;
mod list;
mod memory;
mod watch;
mod write;

use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Value, json};

use super::error::{ApiError, Reason};
use super::kind::{Kind, Registry};
use super::object::{Key, is_deleting};
use memory::{Memory, Transaction, Unavailable};

pub use delete::{DeleteOptions, Deleted};
pub use list::{List, ListOptions, RevisionMatch};
pub use watch::{EventType, Filter, Watch, WatchEvent};
pub use write::{Part, UnknownFields, WriteOptions};

/// Namespaces that are there from the start.
const INITIAL_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// How many changes of each kind a watcher may be behind before it has to list again.
pub const DEFAULT_HISTORY: usize = 4096;

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

/// All objects of all kinds.
pub struct Store {
    memory: Arc<Memory>,
    registry: RwLock<Arc<Registry>>,
    swept: expire::Swept,
}

impl Store {
    /// A store for the given kinds that holds the initial namespaces and remembers `history` changes of each kind.
    pub fn new(registry: Registry, history: usize) -> Self {
        let store = Self {
            memory: Arc::new(Memory::new(history)),
            registry: RwLock::new(Arc::new(registry)),
            swept: expire::Swept::default(),
        };
        if let Ok(kind) = store.kind("namespaces") {
            for name in INITIAL_NAMESPACES {
                let object = json!({ "metadata": { "name": name } });
                if let Err(error) = store.create(&kind, "", object, &WriteOptions::default()) {
                    tracing::error!(namespace = name, %error, "cannot create an initial namespace");
                }
            }
        }
        store
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
    pub fn get(&self, kind: &Kind, key: &Key) -> Result<Arc<Value>, ApiError> {
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
    ) -> Result<(Vec<Arc<Value>>, u64), ApiError> {
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
            .filter(|k| k.namespaced)
            .map(|k| k.qualified_plural())
            .collect();
        tables.dedup();
        tables
    }
}

/// Refuses new objects in a namespace that is not there or on its way out.
fn check_namespace(txn: &Transaction<'_>, kind: &Kind, key: &Key) -> Result<(), ApiError> {
    if !kind.namespaced {
        return Ok(());
    }
    let namespace = &key.namespace;
    let Some(found) = txn.get("namespaces", &Key::cluster(namespace)) else {
        return Err(ApiError::not_found(&super::kinds::namespace(), namespace));
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
