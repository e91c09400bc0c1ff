//! The datapath on the running kernel: every test in a network namespace and with a bpffs of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

extern crate hypha_datapath as datapath;
extern crate policy as hypha_policy;

/// Random policies and questions, and what is known of a cluster: those that the tests of the resolution use.
#[allow(dead_code, reason = "the tests of the resolution use more of it")]
#[path = "../../../policy/tests/it/generate/mod.rs"]
mod generate;
#[allow(dead_code, reason = "the tests of the resolution use more of it")]
#[path = "../../../policy/tests/it/world.rs"]
mod world;

mod support;

mod attach;
mod devices;
mod events;
mod maps;
mod older;
mod open;
mod programs;
mod sock;
