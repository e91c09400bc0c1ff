//! `cargo xtask setup`: everything that building, testing and measuring need, installed once.

mod apt;
mod kubernetes;
mod linker;
pub mod packages;
mod python;
mod room;
mod rust_src;
pub mod servers;
mod toolchain;
pub mod tools;

pub use linker::bpf_linker;
pub use toolchain::Toolchain;

use std::fs::{self, File};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::paths;
use crate::report::{Outcome, Steps};

/// What to set up.
#[derive(Args)]
pub struct Options {
    /// What is going to be done with it
    #[arg(long, value_enum, default_value = "test")]
    purpose: Purpose,
}

/// Each needs what those before it need, and more; but programs that are only measured against are for measuring alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Purpose {
    /// Build: the eBPF toolchain, and the C libraries to link to
    Build,
    /// Run a lab: and the programs of the system that it starts
    Lab,
    /// Measure: and the proxies that ours is measured against
    Bench,
    /// Run the checks: and cargo's test and dependency tools, and clients of Kubernetes
    Test,
    /// Test on other kernels: and QEMU
    Kernels,
    /// Test against Kubernetes' own servers: and those, which takes long the first time
    Conformance,
}

impl Options {
    /// What a person would ask for with `--purpose`.
    pub fn new(purpose: Purpose) -> Self {
        Self { purpose }
    }
}

/// Runs the steps; each finds out by itself that there is nothing to do.
pub fn run(options: &Options) -> Result<()> {
    let purpose = options.purpose;
    room::check(purpose)?;
    let _lock = lock()?;
    let mut steps = Steps::new(
        "setup",
        match purpose {
            Purpose::Build => 4,
            Purpose::Lab => 5,
            Purpose::Bench => 6,
            Purpose::Test => 10,
            Purpose::Kernels => 11,
            Purpose::Conformance => 12,
        },
    );
    let mut toolchain = None;
    steps.step("Rust toolchain", || toolchain::find(&mut toolchain))?;
    let toolchain = toolchain.context("no Rust toolchain was found")?;
    steps.step("library sources", || rust_src::install(&toolchain))?;
    steps.step("bpf-linker", || linker::install(&toolchain))?;
    steps.step("C compilers", || packages::install(&packages::BUILD))?;
    if purpose >= Purpose::Lab {
        steps.step("system packages", || packages::install(&packages::LAB))?;
    }
    if purpose == Purpose::Bench {
        let rivals = || packages::install(&packages::BENCH);
        steps.step("proxies to measure against", rivals)?;
    }
    if purpose >= Purpose::Test {
        steps.step("cargo-nextest", || tools::install(&tools::NEXTEST))?;
        steps.step("cargo-deny", || tools::install(&tools::DENY))?;
        steps.step("kubectl", kubernetes::kubectls)?;
        steps.step("Python packages", python::packages)?;
        steps.step("browser", browser)?;
    }
    if purpose >= Purpose::Kernels {
        steps.step("virtual machines", || packages::install(&packages::KERNELS))?;
    }
    if purpose >= Purpose::Conformance {
        steps.step("Kubernetes' servers", servers::install)?;
    }
    Ok(())
}

/// Tests of the page skip themselves where there is none.
fn browser() -> Result<Outcome> {
    let installed = packages::install(&packages::BROWSER);
    Ok(installed.unwrap_or_else(|error| {
        let error = error.to_string();
        let why = error.lines().next().unwrap_or_default();
        Outcome::Missing(format!("chromium: {why}; tests of the page are skipped"))
    }))
}

/// Two set-ups at once would write the same files: the second waits. Released when dropped.
fn lock() -> Result<File> {
    let cache = paths::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let path = cache.join("setup.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
