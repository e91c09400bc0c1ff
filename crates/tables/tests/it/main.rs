//! Behaviour of the tables and the reconciler, seen from outside.

mod model;
mod reconcile;
mod reconcile_faults;
mod rows;
mod table;
mod watch;
