//! From what is known about nodes and pods to what the kernel should hold: routes, address cache rows, datapath config.
//!
//! Pure functions of plain values.
mod datapath;
mod mtu;
mod plan;
mod prefixes;
mod routes;

pub use datapath::{HostPair, datapath_config};
pub use mtu::{Mtus, mtus};
pub use plan::{Encapsulation, Events, Plan, Timeouts};
pub use prefixes::{
    NodesByAddress, PrefixPlan, endpoint_prefixes, node_prefixes, remote_prefixes, world_prefixes,
};
pub use routes::{RoutePlan, node_routes, own_routes};

/// Device that carries the router addresses.
pub const HOST_DEVICE: &str = "cilium_host";

/// Number in the `proto` field of every route the agent installs: by it the agent knows its own routes again.
pub const ROUTE_PROTOCOL: u8 = 76;

#[cfg(test)]
mod tests;
