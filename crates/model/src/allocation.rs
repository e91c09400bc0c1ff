//! Addresses given out on this node.
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// An address that is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// The address.
    pub address: IpAddr,
    /// Who has it: `namespace/name` of a pod, `router`.
    pub owner: String,
}
