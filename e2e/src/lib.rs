//! What the end-to-end tests share: a lab with its namespaces at hand ([`cluster`]), traffic that counts every byte, packet and
//! connection ([`load`]), the CNI protocol spoken directly ([`plugin`]), network policy tried with packets ([`policy`]), services tried from
//! everywhere ([`services`]), and what the kernel holds of a node ([`kernel`]).
//!
//! It is a test's code: where something is missing it panics with one line that says what.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod kernel;
pub mod load;
pub mod plugin;
pub mod policy;
pub mod services;

use std::path::PathBuf;

/// A program of this build.
///
/// # Panics
/// If it is not built.
#[must_use]
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    testkit::built_program(name).unwrap_or_else(|| {
        panic!("{name} is not built: `cargo xtask build` and HYPHA_BIN_DIR=target/release, or `cargo build -p hypha-cli -p hypha-cni`")
    })
}
