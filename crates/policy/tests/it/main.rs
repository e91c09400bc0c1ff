//! The resolution against the reference model, and against itself.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod corpus;
mod cost;
mod differential;
mod explain;
mod generate;
mod incremental;
mod kubernetes;
mod layer7;
mod requires;
mod scenarios;
mod world;
