//! The command tree.
use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use ::flow::relay::cli::RelayArgs;
use ::operator::cli::OperatorArgs;
use agent::cli::AgentFlags;
use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use lab::cli::LabArgs;

use crate::config::ConfigArgs;
use crate::connectivity::command::ConnectivityCommand;
use crate::dbg::DbgArgs;
use crate::hubble::{FlowsArgs, HubbleArgs, ObserveAlone};
use crate::install::node::{self, NodeArgs};
use crate::install::{InstallArgs, UninstallArgs, UpgradeArgs};
use crate::policy::PolicyArgs;
use crate::proxy::ProxyArgs;
use crate::relay::Policies;
use crate::service::ServiceArgs;
use crate::status::StatusArgs;
use crate::version::VersionArgs;
use crate::{
    config, connectivity, dbg, error, hubble, install, output, policy, service, status, version,
};

/// Networking, security and observability for Kubernetes
#[derive(Debug, Parser)]
#[command(name = "hypha", version = version::NUMBER, propagate_version = false, disable_help_subcommand = false)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What `hypha` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The agent of one node: its datapath, its addresses, its API
    Agent(AgentFlags),
    /// Clusters on this machine: nodes as network namespaces, with an embedded API server
    Lab(LabArgs),
    /// The cluster-wide work: ranges of nodes, custom resources, garbage collection
    Operator(OperatorArgs),
    /// Install agents and operator in a cluster
    Install(InstallArgs),
    /// Change what is installed: other values, another version
    Upgrade(UpgradeArgs),
    /// Take away what was installed
    Uninstall(UninstallArgs),
    /// The settings that agents and operator share
    Config(ConfigArgs),
    /// State of the cluster
    Status(StatusArgs),
    /// Who may talk to whom, by which rule, and what a policy would change
    Policy(PolicyArgs),
    /// Which backends a service has, and why
    Service(ServiceArgs),
    /// Flows: what passes, from and to whom, and what became of it
    Hubble(Box<HubbleArgs>),
    /// As `hubble observe`
    Observe(Box<ObserveAlone>),
    /// What flows add up to
    Flows(Box<FlowsArgs>),
    /// Enforce what policies say of requests: the proxy of one node
    Proxy(Box<ProxyArgs>),
    /// All nodes' flows from one place
    Relay(Box<RelayArgs>),
    /// Look into one node: its agent's state, the kernel's maps, live events
    Dbg(DbgArgs),
    /// What enters pods' network namespaces for an agent
    #[command(hide = true, name = agent::namespaces::COMMAND)]
    AgentNamespaces,
    /// What an agent's pod does to its node before the agent starts
    #[command(hide = true)]
    NodeSetup(NodeArgs),
    /// Test the network of a lab
    #[command(subcommand)]
    Connectivity(ConnectivityCommand),
    /// Print the completion script of a shell
    Completion {
        /// bash, zsh or fish
        shell: Shell,
    },
    /// Print versions
    Version(VersionArgs),
}

/// Shells with completion.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    /// Bourne again shell.
    Bash,
    /// Z shell.
    Zsh,
    /// Friendly interactive shell.
    Fish,
}

impl Command {
    /// Runs the command; its exit status.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match self {
            Self::Agent(flags) => return agent::cli::run(&flags),
            Self::Operator(args) => return args.run(),
            // It starts what enters namespaces, so no thread may run yet.
            Self::Lab(args) => return lab(args),
            Self::Install(args) => install::install(&args),
            Self::Upgrade(args) => install::upgrade(&args),
            Self::Uninstall(args) => install::uninstall(&args),
            Self::Config(args) => config::run(&args),
            Self::Status(args) => status::run(&args),
            Self::Policy(args) => policy::run(&args),
            Self::Service(args) => service::run(&args),
            Self::Hubble(args) => hubble::run(&args),
            Self::Observe(args) => hubble::observe(&args),
            Self::Flows(args) => hubble::flows(&args),
            Self::Relay(args) => return args.run(Arc::new(Policies::default())),
            // It enters a network namespace, so no thread may run yet.
            Self::Proxy(args) => return args.run(),
            Self::Dbg(args) => dbg::run(&args),
            Self::AgentNamespaces => agent::namespaces::help(),
            Self::NodeSetup(args) => node::run(&args),
            Self::Connectivity(ConnectivityCommand::Test(args)) => {
                connectivity::command::run(&args)
            }
            Self::Completion { shell } => completion(shell, &mut Cli::command(), "hypha"),
            Self::Version(args) => version::run(&args),
        };
        error::exit(result)
    }
}

fn lab(args: LabArgs) -> ExitCode {
    // The helpers that hold a lab up must not end because of a reader.
    if !std::env::args_os().any(|word| word == "internal") {
        output::end_quietly_when_closed();
    }
    exit(args.run())
}

/// The exit of one of the lab's commands.
pub fn exit(outcome: Result<i32>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => error::exit(Err(error)),
    }
}

/// Prints the completion script of a command.
///
/// # Errors
/// Standard output cannot be written.
pub fn completion(shell: Shell, command: &mut clap::Command, name: &str) -> Result<()> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, command, name, &mut script);
    output::check(io::Write::write_all(&mut io::stdout().lock(), &script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }
}
