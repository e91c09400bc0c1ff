//! The lab's commands alone: `hypha-lab lab up`, the same as `hypha lab up`.

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "hypha-lab", about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Clusters on this machine.
    Lab(hypha_lab::cli::LabArgs),
}

fn main() {
    let Command::Lab(args) = Cli::parse().command;
    match args.run() {
        Ok(code) => std::process::exit(code),
        Err(e) => {
            eprintln!("error: {e:#}");
            std::process::exit(1);
        }
    }
}
