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
    /// Every address of all ranges of a pool is taken.
    #[error("no {family} address left in pool {pool}: all {capacity} are allocated")]
    PoolExhausted {
        /// The pool.
        pool: String,
        /// The family.
        family: &'static str,
        /// How many addresses it has on this node.
        capacity: u128,
    },
    /// The pool has no range of this family on this node (yet).
    #[error("pool {pool} has no {family} range on this node yet")]
    NoRange {
        /// The pool.
        pool: String,
        /// The family.
        family: &'static str,
    },
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

/// A range was not given, or a space makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// A space without ranges.
    #[error("the pool has no range")]
    NoRange,
    /// Ranges of both families in one space.
    #[error("{a} and {b} are of different families")]
    Families {
        /// One range.
        a: IpNet,
        /// One of the other family.
        b: IpNet,
    },
    /// Two ranges of a space share addresses.
    #[error("{a} and {b} overlap")]
    Overlap {
        /// One range.
        a: IpNet,
        /// The other one.
        b: IpNet,
    },
    /// A part does not fit into a range.
    #[error("mask size {mask} does not fit {range}; accepted: {} to {longest}", range.prefix_len())]
    Mask {
        /// Wanted prefix length of parts.
        mask: u8,
        /// The range.
        range: IpNet,
        /// The longest prefix of the family.
        longest: u8,
    },
    /// All parts are held.
    #[error("no /{mask} is left in {}", ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Exhausted {
        /// The ranges.
        ranges: Vec<IpNet>,
        /// Prefix length of parts.
        mask: u8,
    },
    /// Somebody has it, or a part of it.
    #[error("{net} overlaps {other} of {by}")]
    Held {
        /// The wanted range.
        net: IpNet,
        /// What is held.
        other: IpNet,
        /// By whom.
        by: String,
    },
}
