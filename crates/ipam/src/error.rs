//! Why an address was not given.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::Owner;

/// Every address of a pool is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no address left in {pool}: all {capacity} are allocated")]
pub struct Exhausted {
    /// The pool.
    pub pool: IpNet,
    /// How many addresses it has.
    pub capacity: u128,
}

/// An address, or a pair of them, was not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// Every address is taken.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// Somebody has it.
    #[error("{ip} is allocated to {by}")]
    Taken {
        /// The wanted address.
        ip: IpAddr,
        /// Who has it.
        by: Owner,
    },
    /// It is never given to anybody.
    #[error("{ip} is reserved ({why}) in {pool}")]
    Reserved {
        /// The wanted address.
        ip: IpAddr,
        /// Its pool.
        pool: IpNet,
        /// What it is kept for.
        why: String,
    },
    /// It is of another range.
    #[error("{ip} is not in {pool}")]
    NotInPool {
        /// The wanted address.
        ip: IpAddr,
        /// The pool that was asked.
        pool: IpNet,
    },
    /// The node has no range of this family (yet).
    #[error("this node has no {0} pod CIDR")]
    NoPool(&'static str),
}

/// An address was to be put to use by somebody who does not hold it (any more).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{ip} is not allocated to {who}{}", by.as_ref().map(|by| format!(" but to {by}")).unwrap_or_default())]
pub struct NotHeld {
    /// The address.
    pub ip: IpAddr,
    /// Who wanted to use it.
    pub who: String,
    /// Who holds it.
    pub by: Option<Owner>,
}
