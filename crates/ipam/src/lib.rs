//! Address allocation, pure: no I/O, no clock, no randomness.
//!
//! [`Pool`] hands out addresses of one CIDR; [`NodeIpam`] joins a node's two families, keeps addresses that nobody has put to
//! use from staying taken for ever, and remembers addresses of an older CIDR until their pods go.
#![forbid(unsafe_code)]

mod error;
mod free;
mod node;
mod pool;

pub use error::{AllocateError, Exhausted, NotHeld};
pub use node::{Addresses, Families, NodeIpam};
pub use pool::{Owner, Pool, Release};
