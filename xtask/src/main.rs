//! Developer tasks of the Hypha workspace: `cargo xtask <task>`.

mod bpf;
mod paths;
mod proc;
mod report;
mod setup;

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
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Setup(options) => setup::run(&options),
        Task::BuildBpf(options) => bpf::build(&options),
    }
}
