//! `hypha connectivity test`: every path between pods, hosts and the outside, in a lab's own pods.
pub mod command;
pub mod icmp;
pub mod plan;
pub mod probe;
pub mod report;
pub mod run;
pub mod samples;
pub mod scene;
pub mod server;
pub mod socket;
#[cfg(test)]
mod tests;
