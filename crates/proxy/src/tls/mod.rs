//! TLS as it is: the server's name is read from the client's first message, and if a rule allows it, all bytes go on untouched.
//!
//! ```text
//! client ─ hello::Reader: the name ─ rules, record ─┬─ what came, and then every byte both ways ─ server
//!                                                   └─ alert access_denied, end
//! ```
mod hello;
mod relay;

pub use hello::{HELLO_MAX, Hello, NoHello, Reader};

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

/// Serves TLS.
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
