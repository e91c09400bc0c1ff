//! `hypha lab …`.

mod agent;
mod apply;
mod exec;
mod image;
mod logs;
mod outside;
mod status;
mod table;
mod up;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::init::InitCommand;
use crate::spec::LabName;
use crate::state::{LabState, StateDir, lab_names};

pub use up::UpArgs;

/// Clusters on this machine: nodes as network namespaces, with an embedded API server.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Which lab (default: the only one running; `up`: "hypha").
    #[arg(long, global = true, value_name = "NAME")]
    name: Option<LabName>,
    #[command(subcommand)]
    command: LabCommand,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
struct OutputArg {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What to do with labs.
#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Start a lab.
    Up(UpArgs),
    /// End a lab and remove all it made.
    Down {
        /// End every lab.
        #[arg(long)]
        all: bool,
        /// Keep the objects: the next `up` of this name finds them.
        #[arg(long)]
        keep: bool,
    },
    /// End a lab and start it again with the objects it had.
    Restart(OutputArg),
    /// Show a lab: nodes, agents, pods.
    Status(OutputArg),
    /// List the labs of this machine.
    List(OutputArg),
    /// Create or change objects from YAML or JSON files.
    Apply(apply::ApplyArgs),
    /// Delete objects, from files or one pod by name.
    Delete(apply::DeleteArgs),
    /// Run a command on a node, on the router, or in a pod.
    Exec(exec::ExecArgs),
    /// Open a shell on a node, on the router, or in a pod.
    Shell(exec::ShellArgs),
    /// Print the output of a pod, of a node's agent, of the router or of the supervisor.
    Logs(logs::LogsArgs),
    /// Stop, start or restart the agent of a node.
    Agent(agent::AgentArgs),
    /// Show or change what stands for which image.
    Image(image::ImageArgs),
    /// Print the path of the kubeconfig.
    Kubeconfig,
    /// Helper processes.
    #[command(subcommand, hide = true)]
    Internal(InitCommand),
}

impl LabArgs {
    /// Does it; the result is the exit code.
    pub fn run(self) -> anyhow::Result<i32> {
        let name = self.name;
        match self.command {
            LabCommand::Internal(role) => return role.run(),
            LabCommand::Up(args) => return up::up(name.unwrap_or_default(), args),
            LabCommand::Down { all, keep } => up::down(name, all, keep)?,
            LabCommand::Restart(args) => up::restart(&Lab::find(name)?, args.output)?,
            LabCommand::Status(args) => status::status(&Lab::find(name)?, args.output)?,
            LabCommand::List(args) => status::list(args.output)?,
            LabCommand::Apply(args) => apply::apply(&Lab::find(name)?, &args)?,
            LabCommand::Delete(args) => apply::delete(&Lab::find(name)?, &args)?,
            LabCommand::Exec(args) => return exec::exec(&Lab::find(name)?, &args),
            LabCommand::Shell(args) => return exec::shell(&Lab::find(name)?, &args),
            LabCommand::Logs(args) => logs::logs(&Lab::find(name)?, &args)?,
            LabCommand::Agent(args) => agent::run(&Lab::find(name)?, &args)?,
            LabCommand::Image(args) => image::run(&Lab::find(name)?, args)?,
            LabCommand::Kubeconfig => println!("{}", Lab::find(name)?.dir.kubeconfig().display()),
        }
        Ok(0)
    }
}

/// A lab that runs.
pub struct Lab {
    /// Its directory.
    pub dir: StateDir,
    /// Its state.
    pub state: LabState,
}

impl Lab {
    /// The lab of this name, or the only one.
    pub fn find(name: Option<LabName>) -> anyhow::Result<Lab> {
        let name = match name {
            Some(name) => name,
            None => only_one(running())?,
        };
        let dir = StateDir::of(&name);
        if !dir.running() {
            bail!(
                "lab {name:?} is not running{}",
                others(),
                name = name.as_str()
            );
        }
        let state = dir
            .read()?
            .with_context(|| format!("lab {:?} is still coming up", name.as_str()))?;
        Ok(Lab { dir, state })
    }

    /// A client of its API server.
    pub fn client(&self) -> anyhow::Result<kube::Client> {
        crate::client::connect(&self.dir.kubeconfig())
    }

    /// Where its kubeconfig is.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.kubeconfig()
    }
}

fn running() -> Vec<LabName> {
    lab_names()
        .into_iter()
        .filter(|n| StateDir::of(n).running())
        .collect()
}

fn join(names: &[LabName]) -> String {
    names
        .iter()
        .map(LabName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

fn others() -> String {
    match running() {
        none if none.is_empty() => "; `hypha lab up` starts one".into(),
        some => format!("; running: {}", join(&some)),
    }
}

fn only_one(mut names: Vec<LabName>) -> anyhow::Result<LabName> {
    match names.len() {
        0 => bail!("no lab is running: `hypha lab up` starts one"),
        1 => Ok(names.remove(0)),
        _ => bail!(
            "several labs are running ({}): say which with --name",
            join(&names)
        ),
    }
}

/// Runs a future to its end on this thread.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(work)
}

/// A pod as a person names it: `name` or `namespace/name`.
fn pod_name(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("default", text))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Test {
        #[command(flatten)]
        lab: LabArgs,
    }

    fn error(args: &[&str]) -> String {
        let all = std::iter::once("lab").chain(args.iter().copied());
        Test::try_parse_from(all)
            .unwrap_err()
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    #[test]
    fn bad_flags_are_one_clear_line() {
        assert!(error(&["up", "--nodes", "0"]).contains("0 is not in 1..=20"));
        assert!(error(&["up", "--nodes", "21"]).contains("--nodes"));
        assert!(error(&["up", "--routing", "ipsec"]).contains("'ipsec'"));
        assert!(error(&["up", "--name", "A"]).contains("lab name \"A\""));
        assert!(error(&["up", "--ipv4", "--ipv6"]).contains("cannot be used with"));
        let setting = |text: &str| error(&["up", "--agent-config", text]);
        assert!(setting("debug").contains("key=value"));
        let unknown = setting("enable-nat46x64=true");
        assert!(
            unknown.contains("unknown setting \"enable-nat46x64\""),
            "{unknown}"
        );
        assert!(setting("mtu=x").contains("mtu=\"x\" is not accepted; expected "));
    }

    #[test]
    fn choosing_a_lab() {
        let names = |list: &[&str]| {
            list.iter()
                .map(|n| n.parse().unwrap())
                .collect::<Vec<LabName>>()
        };
        assert_eq!(only_one(names(&["a"])).unwrap().as_str(), "a");
        assert!(
            only_one(names(&[]))
                .unwrap_err()
                .to_string()
                .contains("lab up")
        );
        assert!(
            only_one(names(&["a", "b"]))
                .unwrap_err()
                .to_string()
                .contains("(a, b)")
        );
        assert_eq!(pod_name("x"), ("default", "x"));
        assert_eq!(pod_name("n/x"), ("n", "x"));
    }
}
