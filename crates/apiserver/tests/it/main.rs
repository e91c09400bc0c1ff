//! Integration tests of the API server.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod client;
mod kinds;
mod kubectl;
mod raw;
mod watch;
