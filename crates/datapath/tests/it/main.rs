//! The datapath on the running kernel: every test in a network namespace and with a bpffs of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

extern crate hypha_datapath as datapath;

mod support;

mod attach;
mod devices;
mod events;
mod maps;
mod open;
mod programs;
