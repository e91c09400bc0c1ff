//! Identity and network policy, pure: no I/O, no clock, no randomness.
//!
//! ```text
//! object ─parse→ Policy ─resolve::Engine→ Diff of map rows          (incremental, what the kernel asks)
//!                   └──── reference::Model → verdict of one packet   (slow, obviously right, what tests and people ask)
//! ```
//!
//! [`labels`] and [`identity`] say who somebody is, [`rule`] what a policy says, [`selector`] whom it means. Rows are
//! decided upon by [`wire::policy::decide`], which the programs run.
pub mod explain;
pub mod fqdn;
pub mod identity;
pub mod kernel;
pub mod labels;
pub mod parse;
pub mod reference;
pub mod resolve;
pub mod rule;
pub mod secrets;
pub mod selector;
mod settings;

pub use settings::{Mode, Settings};
