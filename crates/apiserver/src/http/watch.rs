//! A watch as a response body: one JSON event per line until the time is over.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, interval_at, sleep_until};

use super::super::error::ApiError;
use super::super::kind::Kind;
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

struct Running {
    body: WatchBody,
    ready: BytesMut,
    told_columns: bool,
    tick: Interval,
    deadline: Instant,
    ended: bool,
}

impl WatchBody {
    /// The response body; `first` are the events that the start called for.
    pub fn stream(self, first: &[WatchEvent]) -> Body {
        let now = Instant::now();
        let period = self.bookmark_interval.max(Duration::from_millis(1));
        let mut running = Running {
            tick: interval_at(now + period, period),
            deadline: now
                + self
                    .timeout
                    .unwrap_or(DEFAULT_TIMEOUT)
                    .min(Duration::from_secs(86_400)),
            body: self,
            ready: BytesMut::new(),
            told_columns: false,
            ended: false,
        };
        running.write_events(first);
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
    let mut out = BytesMut::new();
    write_line(&mut out, "ERROR", error.to_status().to_string().as_bytes());
    Body::from(out.freeze())
}

fn write_line(out: &mut BytesMut, event: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(event.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

/// Waits for the server's end; a sender that is gone means the same.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

impl Running {
    /// The next piece of the body, as soon as there is one; `None` at the end.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        while self.ready.is_empty() {
            if self.ended {
                return None;
            }
            self.wait().await;
        }
        Some(self.ready.split().freeze())
    }

    async fn wait(&mut self) {
        let body = &mut self.body;
        tokio::select! {
            events = body.watch.next() => self.write_result(events),
            _ = self.tick.tick(), if body.bookmarks => self.catch_up_and_bookmark(),
            () = sleep_until(self.deadline) => {
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
            Ok(events) => self.write_events(&events),
            Err(error) => {
                write_line(
                    &mut self.ready,
                    "ERROR",
                    error.to_status().to_string().as_bytes(),
                );
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

    fn write_events(&mut self, events: &[WatchEvent]) {
        for event in events {
            let object = self
                .body
                .view
                .event(&self.body.kind, event, !self.told_columns);
            self.told_columns = true;
            write_line(&mut self.ready, event.event.as_str(), &object);
        }
    }

    fn write_bookmark(&mut self, annotations: Value) {
        let mut metadata = json!({ "resourceVersion": self.body.watch.revision().to_string() });
        if !annotations.is_null() {
            metadata["annotations"] = annotations;
        }
        let object = self.body.view.bookmark(&self.body.kind, metadata);
        write_line(&mut self.ready, "BOOKMARK", object.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_events() {
        let mut out = BytesMut::new();
        write_line(&mut out, "ADDED", b"{}");
        assert_eq!(&out[..], b"{\"type\":\"ADDED\",\"object\":{}}\n");
    }
}
