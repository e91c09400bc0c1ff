//! Properties of the packet logic: against another parser, against a plain model of connections, and against itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
extern crate hypha_wire as wire;

mod checksum;
mod conntrack;
mod corpus;
mod keys;
mod packets;
mod parser;
