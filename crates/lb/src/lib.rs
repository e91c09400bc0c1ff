//! Service load balancing, pure: no I/O, no clock, no randomness.
//!
//! ```text
//! Service · slices · pods · node ─Planner::apply→ claims of owners ─Planner::flush→ rows for the kernel, in a safe order
//!                                                   └ why(frontend): who is behind it, who is not, and for which reason
//! pools · services ─lbipam::Manager→ addresses and conditions        policies · services ─l2→ leases, who answers for what
//! ```
//!
//! [`input`] says what is known, [`frontend`] what follows from it for this node, [`rows`] what the kernel holds of that.
pub mod annotations;
mod claims;
pub mod explain;
pub mod frontend;
pub mod health;
mod ids;
pub mod input;
mod kernel;
pub mod l2;
pub mod lbipam;
pub mod maglev;
pub mod node_addresses;
pub mod node_ipam;
pub mod parse;
mod planner;
mod problem;
pub mod redirect;
pub mod rows;
pub mod select;
pub mod selector;
mod settings;
mod world;

pub use ids::IdPool;
pub use planner::{Change, Diff, Left, Planner, Usage};
pub use problem::Problem;
pub use settings::{Forwarding, Limits, Settings};
