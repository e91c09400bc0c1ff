//! A watch as a response body: one JSON event per line until the time is over.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, Sleep, interval_at, sleep};

use super::super::error::ApiError;
use super::super::kind::Kind;
use super::super::object::write_json;
use super::super::store::{Watch, WatchEvent};
use super::render::View;

/// How long a watch lasts that does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// Marks the bookmark after the initial objects.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// A running watch and how its events are written.
pub struct WatchBody {
    /// The cursor.
    pub watch: Watch,
    /// What is watched.
    pub kind: Arc<Kind>,
    /// How objects are shown.
    pub view: View,
    /// Whether to tell the revision now and then.
    pub bookmarks: bool,
    /// Whether to tell where the initial objects end.
    pub mark_initial: bool,
    /// How often bookmarks come.
    pub bookmark_interval: Duration,
    /// How long at most.
    pub timeout: Option<Duration>,
    /// Becomes true when the server ends.
    pub stopping: watch::Receiver<bool>,
}

/// How much is written at once: what waits is kept as events, whose text all watchers share.
const CHUNK: usize = 64 << 10;

/// Something to be told.
enum Line {
    Event(WatchEvent),
    /// What is not about one object, as it is written.
    Other(&'static str, Bytes),
}

struct Running {
    body: WatchBody,
    queue: VecDeque<Line>,
    ready: Vec<u8>,
    told_columns: bool,
    tick: Interval,
    deadline: Pin<Box<Sleep>>,
    ended: bool,
}

impl WatchBody {
    /// The response body; `first` are the events that the start called for.
    pub fn stream(self, first: Vec<WatchEvent>) -> Body {
        let now = Instant::now();
        let period = self.bookmark_interval.max(Duration::from_millis(1));
        let limit = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let limit = limit.min(Duration::from_secs(86_400));
        let mut running = Running {
            tick: interval_at(now + period, period),
            deadline: Box::pin(sleep(limit)),
            body: self,
            queue: first.into_iter().map(Line::Event).collect(),
            ready: Vec::new(),
            told_columns: false,
            ended: false,
        };
        if running.body.mark_initial {
            running.write_bookmark(json!({ INITIAL_END: "true" }));
        }
        Body::from_stream(stream::unfold(running, |mut running| async move {
            let chunk = running.next_chunk().await?;
            Some((Ok::<Bytes, Infallible>(chunk), running))
        }))
    }
}

/// A body that tells one error and ends.
pub fn error_body(error: &ApiError) -> Body {
    let mut out = Vec::new();
    write_line(&mut out, "ERROR", |out| write_json(out, &error.to_status()));
    Body::from(out)
}

fn write_line(out: &mut Vec<u8>, event: &str, write_object: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    write_object(out);
    out.extend_from_slice(b"}\n");
}

/// Waits for the server's end; a sender that is gone means the same.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

impl Running {
    /// The next piece of the body, as soon as there is one; `None` at the end.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        while self.queue.is_empty() {
            if self.ended {
                return None;
            }
            self.wait().await;
        }
        while self.ready.len() < CHUNK
            && let Some(line) = self.queue.pop_front()
        {
            self.write(&line);
        }
        Some(Bytes::from(std::mem::take(&mut self.ready)))
    }

    async fn wait(&mut self) {
        let body = &mut self.body;
        tokio::select! {
            events = body.watch.next() => self.write_result(events),
            _ = self.tick.tick(), if body.bookmarks => self.catch_up_and_bookmark(),
            () = &mut self.deadline => {
                self.ended = true;
                if self.body.bookmarks {
                    self.catch_up_and_bookmark();
                }
            }
            () = stopped(&mut body.stopping) => self.ended = true,
        }
    }

    fn write_result(&mut self, events: Result<Vec<WatchEvent>, ApiError>) {
        match events {
            Ok(events) => self.queue.extend(events.into_iter().map(Line::Event)),
            Err(error) => {
                let text = Bytes::from(error.to_status().to_string());
                self.queue.push_back(Line::Other("ERROR", text));
                self.ended = true;
            }
        }
    }

    /// A bookmark may only name a revision up to which everything has been told.
    fn catch_up_and_bookmark(&mut self) {
        let events = self.body.watch.poll();
        let told = events.is_ok();
        self.write_result(events);
        if told {
            self.write_bookmark(Value::Null);
        }
    }

    fn write(&mut self, line: &Line) {
        let out = &mut self.ready;
        match line {
            Line::Event(event) => {
                let (view, kind) = (self.body.view, &self.body.kind);
                let first = !std::mem::replace(&mut self.told_columns, true);
                write_line(out, event.event.as_str(), |out| {
                    view.write(out, kind, &event.object, first);
                });
            }
            Line::Other(what, text) => write_line(out, what, |out| out.extend_from_slice(text)),
        }
    }

    fn write_bookmark(&mut self, annotations: Value) {
        let mut metadata = json!({ "resourceVersion": self.body.watch.revision().to_string() });
        if !annotations.is_null() {
            metadata["annotations"] = annotations;
        }
        let text = self.body.view.bookmark(&self.body.kind, &metadata);
        self.queue.push_back(Line::Other("BOOKMARK", text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_events() {
        let mut out = Vec::new();
        write_line(&mut out, "ADDED", |out| out.extend_from_slice(b"{}"));
        assert_eq!(&out[..], b"{\"type\":\"ADDED\",\"object\":{}}\n");
    }
}
