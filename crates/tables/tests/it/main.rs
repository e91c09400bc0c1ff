//! Behaviour of the tables and the reconciler, seen from outside.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod model;
mod reconcile;
mod reconcile_faults;
mod rows;
mod table;
mod watch;
