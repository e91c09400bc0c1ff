//! `cargo xtask test-conformance`: the lab's nodes in a cluster of Kubernetes' own servers.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::setup::{self, servers, tools};
use crate::{bpf, paths, proc, release};

/// Names the folder with the servers, here and for the tests.
const SERVERS_ENV: &str = "HYPHA_KUBERNETES";

/// Which servers.
#[derive(Args)]
pub struct Options {
    /// A folder with etcd, kube-apiserver, kube-controller-manager and kube-scheduler (default: those that set-up builds)
    #[arg(long, value_name = "DIR", env = SERVERS_ENV)]
    servers: Option<PathBuf>,
}

/// Sets up, builds, and runs the tests that need them; says in one line where there are no servers.
pub fn run(options: &Options) -> Result<()> {
    let purpose = match options.servers {
        Some(_) => setup::Purpose::Test,
        None => setup::Purpose::Conformance,
    };
    setup::run(&setup::Options::new(purpose))?;
    let servers = match &options.servers {
        Some(dir) => std::path::absolute(dir).context("--servers is no path")?,
        None => servers::dir()?,
    };
    if !servers.join("kube-apiserver").is_file() {
        println!(
            "conformance: skipped, {} has no kube-apiserver",
            servers.display()
        );
        return Ok(());
    }
    bpf::build(&bpf::Options::default())?;
    release::binaries()?;
    let program = tools::program(&tools::NEXTEST).context("cargo-nextest is not installed")?;
    let mut command = Command::new(program);
    command
        .current_dir(paths::workspace())
        .args([
            "nextest",
            "run",
            "--profile",
            "ci",
            "--package",
            "hypha-e2e",
        ])
        .args(["--test", "conformant", "--run-ignored", "only"])
        .env("HYPHA_BIN_DIR", paths::release(""))
        .env(SERVERS_ENV, servers);
    proc::run(&mut command)
}
