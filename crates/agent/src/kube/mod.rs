//! The Kubernetes side: which nodes there are, what this node says of itself and of its endpoints, which ranges it has.
pub mod cluster;
pub mod endpoints;
pub mod own;
pub mod ranges;

#[cfg(test)]
mod tests;
