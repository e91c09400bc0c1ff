//! `hypha agent`: the process that owns a node's datapath. Wiring only: what is decided is decided in the pure crates.
mod addresses;
mod agent;
mod boot;
mod caps;
mod check;
pub mod cli;
mod controllers;
mod endpoint;
mod follow;
mod fqdn;
mod kube;
mod l2;
mod layer7;
mod machine;
mod metrics;
mod monitor;
pub mod namespaces;
mod node;
mod observe;
mod plan;
mod planner;
mod policy;
mod remote;
mod rest;
mod serve;
mod services;
mod setup;
mod state;
mod status;
mod sweep;
mod targets;

/// What `make bench` measures at the size of a big cluster.
pub mod scale {
    pub use crate::{
        controllers::plan_loop,
        endpoint::{Enforcer, Grant},
        namespaces::Namespaces,
        plan::routing_plan,
        planner::{Planner, desired},
        policy::Policy,
        services::Services,
    };
}
