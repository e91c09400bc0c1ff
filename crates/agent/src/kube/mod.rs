//! The Kubernetes side: which nodes there are, what this node says of itself and of its endpoints.
pub mod cluster;
