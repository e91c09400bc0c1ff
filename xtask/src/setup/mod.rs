//! `cargo xtask setup`: everything that building, testing and measuring need, installed once.

mod apt;
mod linker;
mod packages;
mod rust_src;
mod toolchain;
mod tools;

pub use linker::bpf_linker;
pub use toolchain::Toolchain;

use std::fs::{self, File};

use anyhow::{Context, Result};
use clap::Args;

use crate::paths;
use crate::report::Steps;

/// What to set up.
#[derive(Args)]
pub struct Options {
    /// Only what `make build` needs: the eBPF toolchain; no packages, no test tools
    #[arg(long)]
    build_only: bool,
}

/// Runs the steps; each finds out by itself that there is nothing to do.
pub fn run(options: &Options) -> Result<()> {
    let _lock = lock()?;
    let mut steps = Steps::new("setup", if options.build_only { 3 } else { 6 });
    let mut toolchain = None;
    steps.step("Rust toolchain", || toolchain::find(&mut toolchain))?;
    let toolchain = toolchain.context("no Rust toolchain was found")?;
    steps.step("library sources", || rust_src::install(&toolchain))?;
    steps.step("bpf-linker", || linker::install(&toolchain))?;
    if !options.build_only {
        steps.step("system packages", packages::install)?;
        steps.step("cargo-nextest", || tools::install(&tools::NEXTEST))?;
        steps.step("cargo-deny", || tools::install(&tools::DENY))?;
    }
    Ok(())
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
