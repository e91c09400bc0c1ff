//! Integration tests of the lab.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod agents;
mod apiserver;
mod apiserver_kinds;
mod apiserver_kubectl;
mod apiserver_raw;
mod apiserver_watch;
mod network;
mod pods;
