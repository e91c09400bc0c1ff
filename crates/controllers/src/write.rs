//! What controllers want done: plain values, carried out by a driver.
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{Key, Kind, Object, kinds::Kept, meta};

/// What is to be done about a key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Writes in order. Neighbours of the same sort may be carried out together, creations in batches that double; after a
    /// failure only reports are still carried out.
    pub writes: Vec<Write>,
    /// When to look again though nothing changes.
    pub again: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    pub fn none() -> Self {
        Self::default()
    }

    /// One more write.
    pub fn push(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Look again after this time at the latest.
    pub fn wake(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |before| before.min(after)));
    }
}

impl From<Vec<Write>> for Plan {
    fn from(writes: Vec<Write>) -> Self {
        Self {
            writes,
            again: None,
        }
    }
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Make an object.
    Create {
        /// The object, with a name or a `generateName`.
        object: Object,
        /// Events about it.
        tell: Tell,
    },
    /// Change an object by a merge patch, which holds the version that it was planned for.
    Patch {
        /// Which object.
        at: Target,
        /// Whether its status is meant.
        status: bool,
        /// The patch.
        patch: Value,
        /// Events about it.
        tell: Tell,
    },
    /// Remove an object.
    Delete {
        /// Which object.
        at: Target,
        /// How long its processes may take to end; the object's own time if absent.
        grace: Option<u32>,
        /// Events about it.
        tell: Tell,
    },
    /// Give a pod to a node.
    Bind {
        /// Which pod.
        at: Target,
        /// The node.
        node: String,
        /// Events about it.
        tell: Tell,
    },
    /// An event by itself.
    Note(Note),
    /// Nothing but a look whether the object is still there.
    Look {
        /// Which object.
        at: Target,
    },
}

/// An object as it was when the write was planned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Its kind.
    pub kind: Kind,
    /// Where it is.
    pub key: Key,
    /// Which one it is, should another have taken its name.
    pub uid: String,
}

impl Target {
    /// The target that an object is.
    pub fn of<K: Kept>(object: &K) -> Self {
        let meta = object.metadata();
        Self {
            kind: K::STORED,
            key: Key::of(meta),
            uid: meta::uid(meta).to_owned(),
        }
    }
}

/// What to say once a write succeeded or failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tell {
    /// After success; `{}` in the message stands for the object's name.
    pub done: Option<Note>,
    /// After failure; `{}` in the message stands for the reason.
    pub failed: Option<Note>,
}

/// An event to be recorded. Equal ones are counted, not repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// What it is about.
    pub about: ObjectReference,
    /// Who says it, as `deployment-controller`.
    pub source: &'static str,
    /// Whether something is wrong.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

impl Note {
    /// That something happened.
    pub fn normal<K: Kept>(
        source: &'static str,
        about: &K,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            about: meta::reference(about),
            source,
            warning: false,
            reason,
            message: message.into(),
        }
    }

    /// That something is wrong.
    pub fn warning<K: Kept>(
        source: &'static str,
        about: &K,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            warning: true,
            ..Self::normal(source, about, reason, message)
        }
    }
}

impl Note {
    /// With `{}` in the message replaced.
    pub(crate) fn filled(&self, text: &str) -> Self {
        Self {
            message: self.message.replace("{}", text),
            ..self.clone()
        }
    }
}

impl Tell {
    /// Nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Something after success.
    pub fn done(note: Note) -> Self {
        Self {
            done: Some(note),
            failed: None,
        }
    }

    /// Something after failure, too.
    #[must_use]
    pub fn or(self, failed: Note) -> Self {
        Self {
            failed: Some(failed),
            ..self
        }
    }
}

impl Write {
    /// Makes an object.
    pub fn create(object: impl Into<Object>, tell: Tell) -> Self {
        Self::Create {
            object: object.into(),
            tell,
        }
    }

    /// Changes an object, unless it has changed since.
    pub fn patch<K: Kept>(object: &K, patch: Value, tell: Tell) -> Self {
        Self::Patch {
            at: Target::of(object),
            status: false,
            patch: guarded(object, patch),
            tell,
        }
    }

    /// Changes an object's status from `old` to `new`, unless the object has changed since.
    pub fn status<K: Kept, S: Serialize>(object: &K, old: Option<&S>, new: &S) -> Self {
        let patch = json!({"status": difference(&json!(old), &json!(new))});
        Self::Patch {
            at: Target::of(object),
            status: true,
            patch: guarded(object, patch),
            tell: Tell::nothing(),
        }
    }

    /// Removes an object.
    pub fn delete<K: Kept>(object: &K, tell: Tell) -> Self {
        Self::Delete {
            at: Target::of(object),
            grace: None,
            tell,
        }
    }

    /// Removes an object without waiting for anything.
    pub fn delete_now<K: Kept>(object: &K, tell: Tell) -> Self {
        Self::Delete {
            at: Target::of(object),
            grace: Some(0),
            tell,
        }
    }

    /// Whether it only tells how things are, so that it makes sense whatever else fails.
    pub fn is_report(&self) -> bool {
        matches!(self, Self::Patch { status: true, .. } | Self::Note(_))
    }

    /// What is said about its outcome.
    pub fn tell(&self) -> Option<&Tell> {
        match self {
            Self::Create { tell, .. }
            | Self::Patch { tell, .. }
            | Self::Delete { tell, .. }
            | Self::Bind { tell, .. } => Some(tell),
            Self::Note(_) | Self::Look { .. } => None,
        }
    }

    /// Whether both are of a sort that may be carried out together.
    pub(crate) fn goes_with(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::Create { .. }, Self::Create { .. }) | (Self::Delete { .. }, Self::Delete { .. })
        )
    }
}

/// A patch that the server refuses if the object is another one or has changed.
fn guarded<K: Kept>(object: &K, mut patch: Value) -> Value {
    let meta = object.metadata();
    if patch.get("metadata").is_none() {
        patch["metadata"] = json!({});
    }
    if let Some(uid) = &meta.uid {
        patch["metadata"]["uid"] = json!(uid);
    }
    if let Some(version) = &meta.resource_version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    patch
}

/// The merge patch that makes `new` of `old`.
pub(crate) fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return new.clone();
    };
    let mut patch = Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => drop(patch.insert(key.clone(), difference(before, value))),
            None => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

/// What a write that was carried out has shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The object as the server has it now.
    Put(Object),
    /// The object is gone.
    Gone(Target),
    /// The pod is bound.
    Bound(Key),
    /// Nothing that the world knows.
    Nothing,
}

/// Why a write failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status; 0 if there was no answer.
    pub code: u16,
    /// The server's reason in one word, as `AlreadyExists`.
    pub reason: String,
    /// What the server said.
    pub message: String,
}

impl Failure {
    /// How long to wait at least before trying again. A write without an answer may have been done: the watch has to tell
    /// before it is done once more.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_secs(u64::from(self.code == 0))
    }

    /// The object has changed meanwhile: the next plan knows better.
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason != "AlreadyExists"
    }

    /// There is no such object, or not any more.
    pub fn is_gone(&self) -> bool {
        self.code == 404
    }

    /// The namespace is being removed: nothing can be made in it.
    pub fn is_namespace_ending(&self) -> bool {
        self.code == 403 && self.message.contains("being terminated")
    }
}
