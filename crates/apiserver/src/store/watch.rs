//! Watching: a cursor over a table's changes, filtered the way the watcher asked.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::error::ApiError;
use super::super::kind::Kind;
use super::super::object::{Object, meta_str, set_revision};
use super::super::selector::{FieldSelector, LabelSelector};
use super::memory::{Change, Memory, Unavailable};

/// How long a watcher rests after it has looked, for each watcher of the table: a thousand changes a second wake two hundred
/// watchers fifty thousand times, not two hundred thousand. Few watchers do not rest at all.
const REST: Duration = Duration::from_micros(20);
const SHORTEST_REST: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_millis(10);

/// Which objects a list or a watch is about.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only objects with these labels.
    pub labels: LabelSelector,
    /// Only objects with these fields.
    pub fields: FieldSelector,
}

impl Filter {
    /// Whether an object is meant.
    pub fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|n| n == meta_str(object, "namespace"))
            && self.selects(kind, object)
    }

    /// The same for an object whose namespace is known to be meant.
    fn selects(&self, kind: &Kind, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(kind, object)
    }
}

/// What happened to an object, seen through a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// It came into view.
    Added,
    /// It changed.
    Modified,
    /// It went out of view.
    Deleted,
}

impl EventType {
    /// The protocol's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// An event of a watch.
#[derive(Debug, Clone)]
pub struct WatchEvent {
    /// What happened.
    pub event: EventType,
    /// The object: its new state, or for a deletion the last one, at the revision of the event.
    pub object: Arc<Object>,
}

impl WatchEvent {
    pub(super) fn added(object: Arc<Object>) -> Self {
        Self {
            event: EventType::Added,
            object,
        }
    }
}

/// A watch on the objects of one kind. Never loses an event: who falls too far behind gets an error and lists again.
pub struct Watch {
    memory: Arc<Memory>,
    kind: Arc<Kind>,
    table: String,
    filter: Filter,
    revision: u64,
    wake: watch::Receiver<u64>,
    /// Before when it does not look again: where many watch, each takes several changes at once.
    rest: Option<Instant>,
}

impl Watch {
    pub(super) fn new(memory: Arc<Memory>, kind: Arc<Kind>, filter: Filter, revision: u64) -> Self {
        let table = kind.qualified_plural();
        let wake = memory.subscribe(&table);
        Self {
            memory,
            kind,
            table,
            filter,
            revision,
            wake,
            rest: None,
        }
    }

    /// Everything up to this revision has been told.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The events that have come since the last call; none is fine.
    pub fn poll(&mut self) -> Result<Vec<WatchEvent>, ApiError> {
        let found = self
            .memory
            .changes_since(&self.table, self.revision)
            .map_err(|e| match e {
                Unavailable::TooOld(oldest) => ApiError::expired(self.revision, oldest),
                Unavailable::Future(current) => ApiError::expired(self.revision, current),
            })?;
        self.revision = found.revision;
        let pause = REST * u32::try_from(found.watchers).unwrap_or(u32::MAX);
        let pause = Some(pause.min(LONGEST_REST)).filter(|pause| *pause >= SHORTEST_REST);
        self.rest = pause.map(|pause| Instant::now() + pause);
        Ok(found
            .changes
            .iter()
            .filter_map(|change| view(&self.kind, &self.filter, change))
            .collect())
    }

    /// Waits until there is at least one event. Safe to drop half way: nothing is taken before it returns.
    pub async fn next(&mut self) -> Result<Vec<WatchEvent>, ApiError> {
        loop {
            if let Some(rest) = self.rest.filter(|rest| *rest > Instant::now()) {
                sleep_until(rest).await;
            }
            self.wake.borrow_and_update();
            let events = self.poll()?;
            if !events.is_empty() {
                return Ok(events);
            }
            // The sender lives as long as the memory that `self` holds, so an error cannot come.
            let _ = self.wake.changed().await;
        }
    }
}

/// What a change looks like through a filter: an object that stops matching is gone for this watcher.
fn view(kind: &Kind, filter: &Filter, change: &Arc<Change>) -> Option<WatchEvent> {
    let namespace = filter.namespace.as_deref();
    if namespace.is_some_and(|n| n != change.key.namespace) {
        return None;
    }
    let matching =
        |side: &Option<Arc<Object>>| side.as_ref().is_some_and(|o| filter.selects(kind, o));
    let event = match (matching(&change.old), matching(&change.new)) {
        (false, false) => return None,
        (false, true) => EventType::Added,
        (true, true) => EventType::Modified,
        (true, false) => EventType::Deleted,
    };
    match &change.old {
        // It still exists, but not for this watcher, which is shown the state that it knew.
        Some(old) if event == EventType::Deleted && change.new.is_some() => Some(WatchEvent {
            event,
            object: at_revision(old, change.revision),
        }),
        _ => Some(WatchEvent {
            event,
            object: Arc::clone(&change.shown),
        }),
    }
}

/// A copy of the object at another revision.
fn at_revision(object: &Object, revision: u64) -> Arc<Object> {
    let mut copy = object.whole();
    set_revision(&mut copy, revision);
    Object::shared(copy)
}
