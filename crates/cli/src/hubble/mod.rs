//! `hypha hubble`, also under the name `hubble`: flows, and those that observe them.
mod client;
mod config;
mod forward;
mod observe;
mod print;
mod settings;
mod status;
mod time;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};

use self::client::{Server, ServerFlags};
use self::config::ConfigCommand;
use self::observe::ObserveArgs;
use self::settings::Settings;
use self::status::{ListCommand, StatusArgs, WatchCommand};
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
        HubbleCommand::PortForward => block_on(forward::serve(&settings)),
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

/// Connects, and does something with the server.
fn on_server(settings: &Settings, work: impl AsyncFnOnce(Server) -> Result<()>) -> Result<()> {
    block_on(async { work(client::connect(settings).await?).await })
}
