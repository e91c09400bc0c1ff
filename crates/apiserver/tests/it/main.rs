//! Integration tests of the API server.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod api;
mod applied;
mod client;
mod corpus;
mod decoding;
mod definitions;
mod kept;
mod kinds;
mod kubectl;
mod load;
mod owners;
mod raw;
mod rights;
mod services;
mod signing;
mod watch;
