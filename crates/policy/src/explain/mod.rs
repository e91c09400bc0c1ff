//! Why traffic passes or not, and what a change of policy changes: in words for people.
mod pairs;
mod request;
mod why;

pub use pairs::{PairChange, Span, Turn, pair_change, pair_changes};
pub use request::{Answer, Request, ask};
pub use why::{Miss, Near, Side, Why, why};
