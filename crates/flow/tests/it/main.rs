//! Flows from hand-made events and tables, and what clients of the server get.
#![allow(clippy::unwrap_used, reason = "tests")]

mod corpus;
mod decode;
mod export;
mod reuse;
mod server;
mod tls;
mod world;
