//! Events: equal ones are one object with a count. Recording never holds anybody up: what does not fit is left out.
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::core::ApiResource;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{meta, object::Server, write::Note};

/// What may wait to be written.
const BACKLOG: usize = 4096;
/// Events give way to what they tell of: they are written when no other came for this long, or one has waited for that long. Pods
/// that are scheduled together are up by then, where the first events would still have taken processor time from their starts.
const QUIET: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(3);
/// How many different events are remembered to be counted.
const REMEMBERED: usize = 4096;
/// Events without a namespace of their own are here.
const ELSEWHERE: &str = "default";

/// Takes notes; cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder(mpsc::Sender<Note>);

impl Recorder {
    pub(crate) fn start(server: Server, tasks: &mut JoinSet<()>) -> Self {
        let (sender, mut receiver) = mpsc::channel(BACKLOG);
        tasks.spawn(async move {
            let (mut book, mut notes) = (Book::default(), Vec::new());
            while gather(&mut receiver, &mut notes).await > 0 {
                for entry in book.take(notes.drain(..), Timestamp::now()) {
                    write(&server, &mut book, entry).await;
                }
            }
        });
        Self(sender)
    }

    pub(crate) fn record(&self, note: Note) {
        if self.0.try_send(note).is_err() {
            tracing::debug!("an event is left out: too many wait");
        }
    }
}

/// Takes notes, once none came for a moment; how many, none at the end.
async fn gather(receiver: &mut mpsc::Receiver<Note>, notes: &mut Vec<Note>) -> usize {
    let mut all = receiver.recv_many(notes, BACKLOG).await;
    let late = Instant::now() + PATIENCE;
    while all > 0 && all < BACKLOG {
        let next = late.min(Instant::now() + QUIET);
        match timeout_at(next, receiver.recv_many(notes, BACKLOG)).await {
            Ok(more @ 1..) => all += more,
            Ok(0) | Err(_) => break,
        }
    }
    all
}

/// What makes two notes the same event.
type Same = (String, String, &'static str, String);

fn same(note: &Note) -> Same {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (
        text(&note.about.uid) + &text(&note.about.name),
        text(&note.about.namespace),
        note.reason,
        note.message.clone(),
    )
}

/// The events written so far, to be counted.
#[derive(Default)]
struct Book {
    known: BTreeMap<Same, Entry>,
    by_age: VecDeque<Same>,
    number: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
    note: Note,
    written: bool,
}

impl Book {
    /// Counts the notes; gives the events to be written, each once.
    fn take(&mut self, notes: impl Iterator<Item = Note>, now: Timestamp) -> Vec<Entry> {
        let mut changed = BTreeSet::new();
        for note in notes {
            let key = same(&note);
            changed.insert(key.clone());
            if let Some(entry) = self.known.get_mut(&key) {
                entry.count = entry.count.saturating_add(1);
                entry.last = now;
            } else {
                let entry = self.first(note, now);
                self.by_age.push_back(key.clone());
                self.known.insert(key, entry);
            }
        }
        let entries = changed.iter().filter_map(|key| self.known.get(key));
        let entries = entries.cloned().collect();
        while self.known.len() > REMEMBERED
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.known.remove(&oldest);
        }
        entries
    }

    fn first(&mut self, note: Note, now: Timestamp) -> Entry {
        self.number += 1;
        let about = note.about.name.as_deref().unwrap_or_default();
        let moment = now.as_nanosecond().wrapping_add(i128::from(self.number));
        Entry {
            name: format!("{about}.{:016x}", moment as u64),
            count: 1,
            first: now,
            last: now,
            note,
            written: false,
        }
    }
}

impl Entry {
    fn namespace(&self) -> &str {
        let own = self.note.about.namespace.as_deref().unwrap_or_default();
        if own.is_empty() { ELSEWHERE } else { own }
    }

    fn json(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": self.name, "namespace": self.namespace()},
            "involvedObject": self.note.about,
            "type": if self.note.warning { "Warning" } else { "Normal" },
            "reason": self.note.reason,
            "message": self.note.message,
            "source": {"component": self.note.source},
            "reportingComponent": self.note.source,
            "reportingInstance": "",
            "firstTimestamp": meta::time(self.first),
            "lastTimestamp": meta::time(self.last),
            "count": self.count,
        })
    }
}

fn resource() -> ApiResource {
    ApiResource::erase::<Event>(&())
}

async fn write(server: &Server, book: &mut Book, entry: Entry) {
    let resource = resource();
    if entry.written {
        let patch = json!({"count": entry.count, "lastTimestamp": meta::time(entry.last)});
        let namespace = entry.namespace().to_owned();
        match server
            .patch_json(&resource, &namespace, &entry.name, false, &patch)
            .await
        {
            // The server has forgotten it: it is made again.
            Err(failure) if failure.is_gone() => {}
            Err(failure) => return tracing::debug!("an event is not counted: {}", failure.message),
            Ok(_) => return,
        }
    }
    match server
        .create_json(&resource, entry.namespace(), entry.json())
        .await
    {
        Ok(_) => {
            if let Some(known) = book.known.get_mut(&same(&entry.note)) {
                known.written = true;
            }
        }
        Err(failure) => tracing::debug!("an event is left out: {}", failure.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;

    fn note(message: &str) -> Note {
        Note {
            about: ObjectReference {
                name: Some("a".into()),
                uid: Some("u".into()),
                ..ObjectReference::default()
            },
            source: "test",
            warning: true,
            reason: "Because",
            message: message.into(),
        }
    }

    #[test]
    fn equal_notes_are_one_event_with_a_count() {
        let (mut book, now) = (Book::default(), Timestamp::UNIX_EPOCH);
        let first = book.take([note("x"), note("y"), note("x")].into_iter(), now);
        assert_eq!(first.iter().map(|e| e.count).collect::<Vec<_>>(), [2, 1]);
        let again = book.take([note("x")].into_iter(), now);
        assert_eq!((again.len(), again[0].count), (1, 3));
        assert_eq!(again[0].name, first[0].name);
        assert_ne!(first[0].name, first[1].name);
        assert_eq!(first[0].json()["metadata"]["namespace"], "default");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut book = Book::default();
        let notes = (0..REMEMBERED + 10).map(|i| note(&i.to_string()));
        book.take(notes, Timestamp::UNIX_EPOCH);
        assert_eq!(book.known.len(), REMEMBERED);
    }
}
