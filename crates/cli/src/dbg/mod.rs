//! `hypha dbg`: what one node's agent and kernel maps hold.
mod bpf;
mod check;
mod conntrack;
mod endpoint;
mod event;
mod fields;
mod fqdn;
mod identity;
mod lb;
mod maps;
mod metrics;
mod monitor;
mod places;
mod policy;
mod replacement;
mod report;
mod service;
mod state;
mod status;

pub use report::duration;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::target::TargetArgs;

/// `hypha dbg`.
#[derive(Debug, Args)]
pub struct DbgArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(subcommand)]
    command: DbgCommand,
}

#[derive(Debug, Subcommand)]
enum DbgCommand {
    /// State of the agent and its parts
    Status(status::StatusArgs),
    /// The endpoints of the node
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Identities: numbers of sets of labels
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Rules that are enforced, their selectors, their revision
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Names that pods were told of, for rules by name
    #[command(subcommand)]
    Fqdn(fqdn::FqdnCommand),
    /// What is served, and by whom
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// What is in the kernel's maps, in each map's own layout
    #[command(subcommand)]
    Bpf(bpf::BpfCommand),
    /// The kernel's maps
    #[command(subcommand)]
    Map(bpf::MapCommand),
    /// Known addresses
    #[command(subcommand)]
    Ip(state::IpCommand),
    /// Nodes of the cluster
    #[command(subcommand)]
    Node(state::NodeCommand),
    /// The agent's tables, or the rows of one
    Statedb(state::StatedbArgs),
    /// Compare devices, maps, allocations and objects; exit status 1 if something does not fit
    Check(check::CheckArgs),
    /// Settings in force
    Config(state::ConfigArgs),
    /// The agent's metrics
    #[command(subcommand)]
    Metrics(metrics::MetricsCommand),
    /// Live events of the datapath
    Monitor(monitor::MonitorArgs),
    /// Versions of this binary and of the agent
    Version,
}

/// Runs the command.
///
/// # Errors
/// Whatever the command could not do.
pub fn run(args: &DbgArgs) -> Result<()> {
    let mut agents = args.target.agents()?;
    let agents = agents.as_mut_slice();
    match &args.command {
        DbgCommand::Status(args) => status::run(agents, args),
        DbgCommand::Endpoint(command) => endpoint::run(agents, command),
        DbgCommand::Identity(command) => identity::run(agents, command),
        DbgCommand::Policy(command) => policy::run(agents, command),
        DbgCommand::Fqdn(command) => fqdn::run(agents, command),
        DbgCommand::Service(command) => service::run(agents, command),
        DbgCommand::Bpf(command) => bpf::run(agents, command),
        DbgCommand::Map(command) => bpf::run_map(agents, command),
        DbgCommand::Ip(command) => state::run_ip(agents, command),
        DbgCommand::Node(command) => state::run_node(agents, command),
        DbgCommand::Statedb(args) => state::run_statedb(agents, args),
        DbgCommand::Check(args) => check::run(agents, args),
        DbgCommand::Config(args) => state::run_config(agents, args),
        DbgCommand::Metrics(command) => metrics::run(agents, command),
        DbgCommand::Monitor(args) => monitor::run(agents, args),
        DbgCommand::Version => state::run_version(agents),
    }
}

/// True if all of `wanted` are among `labels`; `app=cart` is any source's.
fn has_labels(labels: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|wanted| {
        labels.iter().any(|label| {
            label == wanted
                || label
                    .split_once(':')
                    .is_some_and(|(_, rest)| rest == wanted)
        })
    })
}
