//! The operator against the embedded API server, in one process.
#![allow(clippy::unwrap_used, reason = "tests")]

extern crate k8s as hypha_k8s;
extern crate lb as hypha_lb;

mod addresses;
mod certificates;
mod cluster;
mod corpus;
mod follow;
mod garbage;
mod identities;
mod kinds;
mod pools;
mod ranges;
mod slices;
