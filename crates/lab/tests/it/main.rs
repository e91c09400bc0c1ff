//! Integration tests of the lab.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod access;
mod agents;
mod corpus;
mod kubectl;
mod network;
mod node_pods;
mod pods;
mod streams;
mod workloads;
