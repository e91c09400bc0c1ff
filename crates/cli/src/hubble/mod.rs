//! `hypha hubble`, also under the name `hubble`: flows, and those that observe them.
mod capture;
mod client;
mod config;
mod forward;
mod observe;
mod print;
mod settings;
mod status;
mod time;
mod top;
mod ui;

use std::path::Path;

use anyhow::Result;
use api::hubble::flow::Flow;
use clap::{Args, CommandFactory, Parser, Subcommand};

use self::capture::CaptureArgs;
use self::client::Server;
pub use self::client::ServerFlags;
use self::config::ConfigCommand;
use self::observe::ObserveArgs;
use self::settings::Settings;
use self::status::{ListCommand, StatusArgs, WatchCommand};
use self::top::TopArgs;
use self::ui::UiArgs;
use crate::args::{Shell, completion};
use crate::kube::block_on;
use crate::{output, version};

/// Flows of the cluster
#[derive(Debug, Parser)]
#[command(name = "hubble", version = version::NUMBER, propagate_version = false)]
pub struct HubbleArgs {
    #[command(flatten)]
    server: ServerFlags,
    #[command(subcommand)]
    command: HubbleCommand,
}

/// What `hubble` can do.
#[derive(Debug, Subcommand)]
enum HubbleCommand {
    /// Flows, and what agents did
    Observe(Box<ObserveArgs>),
    /// State of the observer that is asked
    Status(StatusArgs),
    /// Nodes and namespaces
    #[command(subcommand)]
    List(ListCommand),
    /// Changes as they come
    #[command(subcommand, hide = true)]
    Watch(WatchCommand),
    /// Bring the cluster's relay to a port of this machine
    PortForward,
    /// Bring the cluster's page of flows to a port of this machine, and open it
    Ui(UiArgs),
    /// What need not be said every time
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completion script of a shell
    Completion {
        /// bash, zsh or fish
        shell: Shell,
    },
    /// Print the version
    Version,
}

/// `hypha observe`, which is `hypha hubble observe`.
#[derive(Debug, Args)]
pub struct ObserveAlone {
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    observe: ObserveArgs,
}

/// `hypha flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    #[command(flatten)]
    server: ServerFlags,
    #[command(subcommand)]
    command: FlowsCommand,
}

#[derive(Debug, Subcommand)]
enum FlowsCommand {
    /// Who talks most to whom, as it happens
    Top(Box<TopArgs>),
    /// Packets of a node as a pcapng file, with who sent each to whom and what became of it
    Capture(Box<CaptureArgs>),
}

/// As [`run`], for `hypha flows`.
///
/// # Errors
/// As [`run`].
pub fn flows(args: &FlowsArgs) -> Result<()> {
    match &args.command {
        FlowsCommand::Top(top) => top::run(top, &args.server.settings()?),
        FlowsCommand::Capture(args) => capture::run(args),
    }
}

/// Carries a command out.
///
/// # Errors
/// Flags do not go together, nobody answers, or the server refuses.
pub fn run(args: &HubbleArgs) -> Result<()> {
    let settings = args.server.settings()?;
    match &args.command {
        HubbleCommand::Observe(args) => observe::run(args, &settings),
        HubbleCommand::Status(args) => status::run(args, &settings),
        HubbleCommand::List(command) => status::list(command, &settings),
        HubbleCommand::Watch(command) => status::watch(command, &settings),
        HubbleCommand::PortForward => block_on(forward::flows(&settings)),
        HubbleCommand::Ui(args) => block_on(ui::run(args, &settings)),
        HubbleCommand::Config(command) => config::run(command, &settings),
        HubbleCommand::Completion { shell } => {
            completion(*shell, &mut HubbleArgs::command(), "hubble")
        }
        HubbleCommand::Version => output::write_out(&format!("hubble v{}\n", version::NUMBER)),
    }
}

/// As [`run`], for `hypha observe`.
///
/// # Errors
/// As [`run`].
pub fn observe(args: &ObserveAlone) -> Result<()> {
    observe::run(&args.observe, &args.server.settings()?)
}

/// Flows of a file, or all that the server of `flags` keeps; since then, if something is said.
///
/// # Errors
/// The file has something else, a time is none, or nobody answers.
pub fn recorded(
    file: Option<&Path>,
    since: Option<&str>,
    flags: &ServerFlags,
) -> Result<Vec<Flow>> {
    observe::recorded(file, since, &flags.settings()?)
}

/// Connects, and does something with the server.
fn on_server(settings: &Settings, work: impl AsyncFnOnce(Server) -> Result<()>) -> Result<()> {
    block_on(async { work(client::connect(settings).await?).await })
}
