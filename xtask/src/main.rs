//! Developer tasks of the Hypha workspace: `cargo xtask <task>`.

mod bpf;
mod ci;
mod conformance;
mod elf;
mod fuzz;
mod nextest;
mod paths;
mod proc;
mod release;
mod report;
mod setup;
mod tidy;
mod ui;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer tasks of the Hypha workspace")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need: packages, library sources, bpf-linker, cargo tools
    Setup(setup::Options),
    /// Build the eBPF object into target/bpf/hypha.bpf.o (skipped when nothing changed)
    BuildBpf(bpf::Options),
    /// Build target/release/hypha and target/release/hypha-cni, and set up what that needs
    Build(release::Options),
    /// Look at the sources only: format, clippy, tidy, dependencies
    Check,
    /// Everything that must hold before a change goes in
    Ci,
    /// Rules about the tree: sizes, layers, documents in step
    Tidy,
    /// Build the page of flows into ui/dist (needs Node)
    Ui,
    /// Load and attach the programs on one older kernel in a virtual machine
    VmQuick,
    /// Load, attach and run the connectivity matrix on every supported kernel (slow)
    TestKernels(vm::Options),
    /// Join the lab to a cluster of Kubernetes' own servers and test what runs in it (slow; builds them once)
    TestConformance(conformance::Options),
    /// Fuzz the targets of fuzz/ with libFuzzer, each for a while
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well; a failure that has already been told is no error.
fn run(task: Task) -> Result<bool> {
    match task {
        Task::Setup(options) => setup::run(&options),
        Task::BuildBpf(options) => bpf::build(&options),
        Task::Build(options) => release::build(&options),
        Task::Check => ci::check(),
        Task::Ci => return ci::ci(),
        Task::Tidy => tidy::run(),
        Task::Ui => ui::build(),
        Task::VmQuick => vm::quick().map(drop),
        Task::TestKernels(options) => vm::kernels(&options),
        Task::TestConformance(options) => conformance::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
    }?;
    Ok(true)
}
