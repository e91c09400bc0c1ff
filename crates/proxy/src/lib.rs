//! The layer 7 proxy: connections that the datapath hands over are held against HTTP, Kafka, DNS and TLS rules, request by request.
//!
//! It is a process of its own. The agent tells it what to enforce ([`config`], [`control`]); it keeps that on disk ([`store`]) and
//! goes on with it while no agent is there. A new process takes its place without a gap ([`handover`]).
//!
//! ```text
//! agent ─ Snapshot ─→ control ─ policy::Policy (watch) ─→ http · dns · kafka · tls engines ←─ connections, by origin::Origin
//! agent ←─ records, names learned ─ control ←──────────────────┘
//! ```
mod accept;
pub mod config;
pub mod control;
pub mod dns;
pub mod drain;
pub mod engine;
mod folder;
pub mod handover;
pub mod http;
pub mod kafka;
pub mod keeper;
pub mod origin;
pub mod policy;
pub mod record;
pub mod server;
pub mod store;
pub mod tls;
pub mod transparent;
mod workers;
