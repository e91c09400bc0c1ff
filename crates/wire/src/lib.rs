//! Packets without a kernel: header parsing, checksums, conntrack transitions and masquerade ports.
//!
//! `no_std`, no memory of its own, no panics: the eBPF programs run this code on packets in the kernel, the tests run the
//! same code on byte slices. Everything is generic over [`Family`] and monomorphised.
#![cfg_attr(not(test), no_std)]

pub mod checksum;
pub mod conntrack;
pub mod direct;
mod family;
pub mod hash;
pub mod headers;
pub mod policy;
pub mod proxy;
pub mod snat;
mod tuple;

pub use family::{Family, V4, V6};
pub use headers::{Bytes, Fragment, Headers, Malformed, parse};
pub use tuple::Tuple;
