//! The operator against the embedded API server, in one process.
#![allow(clippy::unwrap_used, reason = "tests")]

mod addresses;
mod cluster;
mod follow;
mod garbage;
mod identities;
mod kinds;
mod pools;
mod ranges;
mod slices;
