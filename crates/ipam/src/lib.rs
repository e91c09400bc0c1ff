//! Address allocation, pure: no I/O, no clock, no randomness.
//!
//! [`Pool`] hands out addresses of one CIDR; [`NodeIpam`] joins a node's two families, keeps addresses that nobody has put to
//! use from staying taken for ever, and remembers addresses of an older CIDR until their pods go. [`Planner`] decides for the
//! whole cluster which node gets which ranges.
#![forbid(unsafe_code)]

mod blocks;
mod demand;
mod error;
mod free;
mod node;
mod planner;
mod pool;

pub use blocks::{Held, Space, overlap};
pub use demand::{needed, surplus};
pub use error::{AllocateError, BlockError, Exhausted, NotHeld};
pub use node::{Addresses, DEFAULT_POOL, Families, NodeIpam};
pub use planner::{NodeClaim, NodePlan, Planner, Want, Written, addresses};
pub use pool::{Owner, Pool, Release};
