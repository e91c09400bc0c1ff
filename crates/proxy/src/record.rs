//! What was asked and answered, for whoever shows it: a bounded queue that never holds up traffic. What does not fit is counted.
use crate::{
    config::{Direction, Transport},
    origin::Session,
    policy::{Outcome, RuleName},
};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::sync::mpsc;

/// Longest text of a record, bytes; what is longer is cut.
pub const TEXT_MAX: usize = 2048;
/// Most headers of a record.
pub const HEADERS_MAX: usize = 64;

/// One request or answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// When it was seen.
    pub time: SystemTime,
    /// Both ends.
    pub session: Session,
    /// Which end's rules decided.
    pub direction: Direction,
    /// By which transport.
    pub transport: Transport,
    /// What became of it.
    pub verdict: Verdict,
    /// The rule that allowed it.
    pub rule: Option<RuleName>,
    /// Of an answer: time since the request.
    pub latency: Option<Duration>,
    /// What was said.
    pub layer7: Layer7,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It went on.
    Forwarded,
    /// No rule allowed it.
    Denied,
    /// It went on although no rule allowed it.
    Audited,
    /// It was malformed, or could not be passed on.
    Error,
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allowed => Self::Forwarded,
            Outcome::Denied => Self::Denied,
            Outcome::Audited => Self::Audited,
        }
    }
}

/// What was said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Layer7 {
    /// HTTP.
    Http(Http),
    /// DNS.
    Dns(Dns),
    /// Kafka.
    Kafka(Kafka),
    /// TLS.
    Tls(Tls),
}

/// An HTTP request or answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// Status of the answer; zero in a request.
    pub code: u16,
    /// Method.
    pub method: String,
    /// `http://host/path?query`.
    pub url: String,
    /// `HTTP/1.1`.
    pub protocol: Cow<'static, str>,
    /// Headers of the request.
    pub headers: Vec<(String, String)>,
    /// Headers that were not as the rule has them.
    pub differing: Vec<String>,
    /// Trace from the header `traceparent`, 32 digits.
    pub trace: Option<String>,
}

/// A DNS question or answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// The name, with the dot at its end.
    pub query: String,
    /// Type of the question.
    pub qtype: String,
    /// Types of the records of the answer.
    pub rrtypes: Vec<String>,
    /// Addresses of the answer.
    pub ips: Vec<IpAddr>,
    /// Aliases of the answer.
    pub cnames: Vec<String>,
    /// Smallest time to live of the answer; the largest number where there are no records.
    pub ttl: u32,
    /// Code of the answer; none in a question.
    pub rcode: Option<u16>,
}

/// A Kafka request or answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kafka {
    /// Name of the request, or its number.
    pub api_key: String,
    /// Its version.
    pub api_version: i16,
    /// Its number on the connection.
    pub correlation_id: i32,
    /// Its topics.
    pub topics: Vec<String>,
    /// Error that the proxy answered with; zero: none.
    pub error_code: i16,
}

/// The beginning of a connection of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The server that the client wants, if it says so.
    pub server_name: Option<String>,
}

/// Where records go in; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
    lost: Arc<AtomicU64>,
}

/// Where records come out.
#[derive(Debug)]
pub struct Records {
    queue: mpsc::Receiver<Record>,
    lost: Arc<AtomicU64>,
}

/// A queue of so many records.
#[must_use]
pub fn channel(capacity: usize) -> (Recorder, Records) {
    let (sender, receiver) = mpsc::channel(capacity);
    let lost = Arc::new(AtomicU64::new(0));
    let recorder = Recorder {
        queue: sender,
        lost: lost.clone(),
    };
    let records = Records {
        queue: receiver,
        lost,
    };
    (recorder, records)
}

impl Recorder {
    /// Puts a record in; where there is no room it is counted as lost, and not even made.
    pub fn record(&self, make: impl FnOnce() -> Record) {
        match self.queue.try_reserve() {
            Ok(place) => place.send(make()),
            Err(_) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Records {
    /// The next record; `None` once nobody can put one in.
    pub async fn next(&mut self) -> Option<Record> {
        self.queue.recv().await
    }

    /// The next record if there is one already.
    pub fn ready(&mut self) -> Option<Record> {
        self.queue.try_recv().ok()
    }

    /// How many were lost since this was asked last.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// A text that is short enough for a record.
pub(crate) fn cut(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(TEXT_MAX)]).into_owned()
}
