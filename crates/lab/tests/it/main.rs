//! Integration tests of the lab.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod agents;
mod network;
mod pods;
mod workloads;
