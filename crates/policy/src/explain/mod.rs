//! Why traffic passes or not, and what a change of policy changes: in words for people.
mod pairs;
mod why;

pub use pairs::{PairChange, Span, pair_change, pair_changes};
pub use why::{Miss, Near, Side, Why, why};
