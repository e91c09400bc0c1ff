//! Flows from hand-made events and tables, and what clients of the server get.
#![allow(clippy::unwrap_used, reason = "tests")]

mod capture;
mod corpus;
mod dashboards;
mod decode;
mod export;
mod otlp;
mod reuse;
mod server;
mod soak;
mod tls;
mod world;
mod written;
