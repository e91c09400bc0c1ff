//! TLS: the server's name is read from the client's first message. If a rule allows it, all bytes go on untouched, or the rule has
//! certificates: then the connection is decrypted here, served as HTTP, and goes on encrypted anew.
//!
//! ```text
//! client ─ hello::Reader: the name ─ rules, record ─┬─ what came, and then every byte both ways ─ server
//!                                                   ├─ inspect: TLS ends ─ http: requests ─ TLS anew ─ server
//!                                                   └─ alert access_denied, end
//! ```
mod hello;
mod inspect;
mod relay;

pub use hello::{HELLO_MAX, Hello, NoHello, Reader};

use crate::{
    accept,
    drain::Drain,
    engine::{self, Bounds},
    http,
    origin::Origin,
    policy::{PATIENCE, Policy},
    record::Recorder,
};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};

/// Bounds of what one client may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long to wait for the rules that something was handed over for, where none are known yet.
    pub rules: Duration,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// How long the hello may take.
    pub hello: Duration,
    /// How long a connection to a server may take.
    pub connect: Duration,
    /// Bytes under way, each way.
    pub buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rules: PATIENCE,
            connections: 20_000,
            hello: Duration::from_secs(30),
            connect: Duration::from_secs(5),
            buffer: 16 << 10,
        }
    }
}

impl Bounds for Limits {
    fn connections(&self) -> usize {
        self.connections
    }
}

type Shared = engine::Shared<Limits>;

/// Serves TLS.
#[derive(Clone)]
pub struct Engine {
    own: Arc<Shared>,
    /// Serves what is decrypted.
    http: http::Engine,
}

impl Engine {
    /// An engine that asks the newest policy about each connection, and again when the policy changes; `http` serves those that are
    /// decrypted.
    #[must_use]
    pub fn new(
        policy: watch::Receiver<Arc<Policy>>,
        origin: Arc<dyn Origin>,
        recorder: Recorder,
        limits: Limits,
        drain: Drain,
        http: http::Engine,
    ) -> Self {
        Self {
            own: engine::Engine::new(policy, origin, recorder, limits, drain).0,
            http,
        }
    }

    /// Accepts connections until it is time to drain.
    pub async fn run(&self, listener: TcpListener) {
        accept::run(listener, &self.own.drain, &self.own.places, |stream| {
            relay::serve(self.own.clone(), self.http.clone(), stream)
        })
        .await;
    }
}
