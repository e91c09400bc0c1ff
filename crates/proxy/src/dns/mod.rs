//! DNS: questions are held against the rules and passed on to the server that the client meant; what names an answer tells is known
//! to whoever enforces them before the client reads it.
//!
//! ```text
//! client ─ Question ─ rules ─ new port, new number ─ server ─ answered_by? ─ Learn (awaited, bounded) ─ client
//! ```
mod message;
mod places;
mod server;

pub use message::{Answered, Malformed, Question, renumber, text};

use crate::{
    accept,
    drain::Drain,
    origin::{Datagrams, Origin},
    policy::{PATIENCE, Policy},
    record::Recorder,
};
use futures::future::BoxFuture;
use places::Places;
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

/// Bounds of what clients may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Questions under way at once; what is beyond is refused.
    pub at_once: usize,
    /// Questions of one endpoint under way at once.
    pub at_once_each: usize,
    /// How long a server may take. Then there is no answer: clients ask again.
    pub server: Duration,
    /// How long an answer waits until its names are known.
    pub learn: Duration,
    /// How long a connection may be silent.
    pub idle: Duration,
    /// How long to wait for the rules that something was handed over for, where none are known yet.
    pub rules: Duration,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// How many answers may be wrong before a question is given up: somebody guesses.
    pub wrong: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            at_once: 4096,
            at_once_each: 1024,
            server: Duration::from_secs(10),
            learn: Duration::from_millis(100),
            idle: Duration::from_secs(30),
            rules: PATIENCE,
            connections: 4096,
            wrong: 16,
        }
    }
}

/// Addresses that an allowed answer gives a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// Who asked.
    pub endpoint: u32,
    /// The name that was asked for, as rules know it.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// How long they hold, seconds.
    pub ttl: u32,
}

/// Whoever has to know names before a client uses them.
pub trait Learn: Send + Sync + 'static {
    /// Ends when connections to the addresses would be let through.
    fn learned(&self, names: Learned) -> BoxFuture<'static, ()>;
}

/// Serves DNS.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    policy: watch::Receiver<Arc<Policy>>,
    origin: Arc<dyn Origin>,
    learn: Arc<dyn Learn>,
    recorder: Recorder,
    limits: Limits,
    drain: Drain,
    places: Places,
    connections: Arc<Semaphore>,
}

impl Engine {
    /// An engine that asks the newest policy for each question.
    #[must_use]
    pub fn new(
        policy: watch::Receiver<Arc<Policy>>,
        origin: Arc<dyn Origin>,
        learn: Arc<dyn Learn>,
        recorder: Recorder,
        limits: Limits,
        drain: Drain,
    ) -> Self {
        Self(Arc::new(Shared {
            policy,
            origin,
            learn,
            recorder,
            limits,
            drain,
            places: Places::new(limits.at_once, limits.at_once_each),
            connections: Arc::new(Semaphore::new(limits.connections)),
        }))
    }

    /// Answers datagrams until it is time to drain. Questions under way are answered still.
    pub async fn run_udp(&self, socket: Arc<dyn Datagrams>) {
        server::udp(self.0.clone(), socket).await;
    }

    /// Accepts connections until it is time to drain.
    pub async fn run_tcp(&self, listener: TcpListener) {
        accept::run(listener, &self.0.drain, &self.0.connections, |stream| {
            server::tcp(self.0.clone(), stream)
        })
        .await;
    }
}
