//! The `hypha` command: the agent, the lab, and what a person asks them.
//!
//! Nothing here starts a thread or an async runtime before the chosen command runs: some commands enter namespaces first.
mod args;
mod config;
mod connectivity;
mod dbg;
mod error;
mod hubble;
mod install;
mod jsonpath;
mod kube;
mod labs;
mod names;
mod operator;
mod output;
mod policy;
mod proxy;
mod relay;
mod service;
mod settings;
mod status;
mod table;
mod target;
mod usage;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(role) = lab::init::role(&arguments) {
        return args::exit(role.run());
    }
    let arguments = names::canonical(arguments, target::on_node);
    match args::Cli::try_parse_from(&arguments) {
        Ok(cli) => cli.command.run(),
        // Help and the version come this way, too.
        Err(message) => usage::report(&message, &args::Cli::command(), &arguments),
    }
}
