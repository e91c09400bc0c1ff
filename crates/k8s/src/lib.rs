//! The Kubernetes side: a client, and watches that fill the input tables.
//!
//! The API server may be away at any time: the watches try again with growing pauses, say so in the health, and the tables
//! keep what they last held.
mod client;
mod objects;
mod watch;

pub use client::{ApiServer, ClientError, client, server_version};
pub use kube::Client;
pub use watch::{Connection, watch_all};
