//! The lab: a cluster on one machine.
//!
//! Nodes are network namespaces joined by bridges and a router ([`topology`] plans, [`build`] and [`hosts`] carry out). One
//! supervisor process per lab ([`supervisor`]) holds an embedded API server (crate `apiserver`) and a small kubelet per node
//! ([`kubelet`]); agents are processes inside the nodes. [`cli`] is `hypha lab …`.
#![forbid(unsafe_code)]

pub mod build;
pub mod cgroup;
pub mod cli;
pub mod client;
pub mod hosts;
pub mod init;
pub mod kubelet;
pub mod leftovers;
pub mod manifest;
pub mod ns;
pub mod proc;
pub mod spec;
pub mod state;
pub mod supervisor;
pub mod topology;
pub mod workload;
