//! HTTP: requests of connections that were handed over are held against the rules one by one, and passed on if one allows them.
//!
//! ```text
//! client ─ HTTP/1: relay of our own ─ Connection: rules, record ─ relay ─ server
//!        └ HTTP/2: hyper ────────────┘                        └─ hyper ─┘
//! ```
//!
//! Each connection of a client has a connection of its own to the server, made when the first request is allowed and speaking the
//! same version: what two clients say never meets in one. When one side ends, so does the other. Bodies are streamed.
mod asked;
mod connection;
mod head;
mod link;
mod one;
mod two;

pub(crate) use link::{PROTOCOLS, Stream, Way, secure, tcp};

pub use one::{
    AnswerHead, Body, Chunked, Left, Refused, RequestHead, head_end, read_answer, read_request,
};

use crate::{
    accept,
    engine::{self, Bounds},
    origin::Session,
    policy::PATIENCE,
};
use std::time::Duration;
use tokio::net::TcpListener;

/// Body of the answer to what no rule allows.
pub const ACCESS_DENIED: &str = "Access denied\r\n";

/// Bounds of what one client may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long to wait for the rules that something was handed over for, where none are known yet.
    pub rules: Duration,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Longest head, and longest trailers, bytes.
    pub head: usize,
    /// How long a head may take from its first byte on.
    pub head_time: Duration,
    /// How long a connection may be silent between requests.
    pub idle: Duration,
    /// How long a body may be silent.
    pub body_idle: Duration,
    /// How long a connection to a server may take.
    pub connect: Duration,
    /// How long a server may take to begin its answer.
    pub answer: Duration,
    /// Requests at once in a connection of HTTP/2.
    pub streams: u32,
    /// Bytes of one stream of HTTP/2 that may be on their way.
    pub window: u32,
    /// How much of a denied request's body is read, so that the answer is, too.
    pub denied_body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rules: PATIENCE,
            connections: 20_000,
            head: 64 << 10,
            head_time: Duration::from_secs(30),
            idle: Duration::from_secs(3600),
            body_idle: Duration::from_secs(300),
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(3600),
            streams: 128,
            window: 256 << 10,
            denied_body: 1 << 20,
        }
    }
}

impl Bounds for Limits {
    fn connections(&self) -> usize {
        self.connections
    }
}

/// Serves HTTP of any version.
pub type Engine = engine::Engine<Limits>;

pub(crate) type Shared = engine::Shared<Limits>;

impl Engine {
    /// Serves a connection whose beginning somebody else has read.
    pub(crate) async fn serve(&self, session: Session, stream: impl Stream + 'static, way: Way) {
        connection::serve(self.0.clone(), session, stream, way).await;
    }

    /// Accepts connections until it is time to drain.
    pub async fn run(&self, listener: TcpListener) {
        accept::run(listener, &self.0.drain, &self.0.places, |stream| {
            connection::accepted(self.0.clone(), stream)
        })
        .await;
    }
}
