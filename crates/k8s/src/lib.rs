//! The Kubernetes side: a client, our custom resources, watches that fill input tables, leader election.
//!
//! The API server may be away at any time: the watches try again with growing pauses, say so in the health, and the tables
//! keep what they last held.
mod client;
pub mod config;
pub mod crd;
pub mod error;
pub mod events;
pub mod identity;
pub mod lease;
mod lenient;
mod limit;
mod objects;
pub mod policy;
pub mod secret;
pub mod service;
mod watch;
pub mod write;

pub use client::{ApiServer, ClientError, client, from_config, from_kubeconfig, server_version};
pub use kube::Client;
pub use limit::{Rate, ahead};
pub use objects::{Namespace, Node, Pod};
pub use watch::{Connection, Interest, Presence, Watcher, watch_all, watch_all_for};
