//! `hypha operator`: the cluster-wide work, done by one process of several.
mod addresses;
mod boot;
mod certificates;
pub mod cli;
mod controller;
mod follow;
mod gc;
mod identities;
mod metrics;
mod nodes;
mod policies;
mod pools;
mod rounds;
mod secrets;
mod serve;
mod slices;
mod tables;
mod unmanaged;

pub use boot::{check as check_settings, run_until, tell_by};
pub use nodes::pool_errors;
pub use policies::usable as usable_secret;
