//! Nodes: whether they are alive, what that means for their pods, and their ranges of addresses.
mod cidrs;
mod collect;
mod evict;
mod lifecycle;

pub use cidrs::Cidrs;
pub use collect::Collector;
pub use evict::Evictions;
pub use lifecycle::Lifecycle;

#[cfg(test)]
mod tests;
