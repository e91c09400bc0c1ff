//! Kafka: requests are held against the rules, and what no rule allows gets the protocol's own error in its turn.
//!
//! ```text
//! client ─ frame ─ Request (head and topics, not copied) ─ rules ─┬─ server ─┬─ client, in the order of the requests
//!                                                                 └─ denied ─┘
//! ```
mod answer;
mod relay;
mod request;
mod versions;
mod wire;

pub use answer::{CLUSTER_DENIED, GROUP_DENIED, TOPIC_DENIED, denied};
pub use request::{About, Request, Topic};
pub use wire::Malformed;

use crate::{
    accept,
    engine::{self, Bounds},
    policy::PATIENCE,
};
use std::time::Duration;
use tokio::net::TcpListener;

/// Bounds of what one client may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long to wait for the rules that something was handed over for, where none are known yet.
    pub rules: Duration,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Longest request, bytes: it is held as a whole.
    pub request: usize,
    /// How long a request may take from its first byte on, or an answer's parts to be taken.
    pub step: Duration,
    /// How long a connection to a server may take.
    pub connect: Duration,
    /// Requests of a connection without an answer yet.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rules: PATIENCE,
            connections: 4096,
            request: 16 << 20,
            step: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            in_flight: 256,
        }
    }
}

impl Bounds for Limits {
    fn connections(&self) -> usize {
        self.connections
    }
}

/// Serves Kafka.
pub type Engine = engine::Engine<Limits>;

type Shared = engine::Shared<Limits>;

impl Engine {
    /// Accepts connections until it is time to drain.
    pub async fn run(&self, listener: TcpListener) {
        accept::run(listener, &self.0.drain, &self.0.places, |stream| {
            relay::serve(self.0.clone(), stream)
        })
        .await;
    }
}
