//! Properties of the packet logic: against another parser, against a plain model of connections, and against itself.
extern crate hypha_wire as wire;

mod checksum;
mod conntrack;
mod keys;
mod packets;
mod parser;
