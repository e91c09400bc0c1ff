//! End-to-end tests: whole clusters, real binaries, real packets. See README.md.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod acceptance;
mod churn;
mod dns;
mod faults;
mod hubble;
mod hygiene;
mod input;
mod ipam;
mod layer7;
mod layer7_dns;
mod layer7_faults;
mod layer7_kafka;
mod layer7_load;
mod layer7_tls;
mod leaks;
mod matrix;
mod pods;
mod policy;
mod restarts;
mod services;
mod ui;
