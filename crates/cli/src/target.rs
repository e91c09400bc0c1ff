//! Which agents a command talks to.
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use api::Client;
use clap::Args;
use lab::state::MachineState;

use crate::error::{Findings, Usage, one_line};
use crate::labs::{self, RunningLab};
use crate::output::{self, Format, OutputArgs};

/// Options that choose agents.
#[derive(Clone, Debug, Default, Args)]
pub struct TargetArgs {
    /// The lab; by default the only one that runs
    #[arg(long, value_name = "LAB", global = true)]
    pub name: Option<String>,
    /// The node; by default the first
    #[arg(long, value_name = "NODE", global = true, conflicts_with = "all_nodes")]
    pub node: Option<String>,
    /// Every node of the lab
    #[arg(long, global = true)]
    pub all_nodes: bool,
    /// The agent's unix socket, instead of a lab's node
    #[arg(short = 'H', long, value_name = "SOCKET", global = true, conflicts_with_all = ["name", "node", "all_nodes"])]
    pub host: Option<PathBuf>,
}

/// An agent that can be asked.
pub struct Agent {
    /// Its node's name, where it is known without asking.
    pub node: Option<String>,
    /// Process that holds the node's namespaces; none on a node itself.
    pub holder: Option<i32>,
    /// Its API.
    pub client: Client,
}

impl Agent {
    fn local(socket: PathBuf) -> Self {
        Self {
            node: None,
            holder: None,
            client: client(socket),
        }
    }

    /// The agent of a lab's node. The socket is reached through the root directory of the process that holds the node's namespaces.
    #[must_use]
    pub fn of_machine(machine: &MachineState) -> Self {
        let socket = format!("/proc/{}/root/run/cilium/cilium.sock", machine.holder.pid);
        Self {
            node: Some(machine.name.clone()),
            holder: Some(machine.holder.pid),
            client: client(socket.into()),
        }
    }
}

/// Whether this is a node: its own agent then comes before a lab that runs beside it.
#[must_use]
pub fn on_node() -> bool {
    Path::new(api::DEFAULT_SOCKET).exists()
}

fn client(socket: PathBuf) -> Client {
    Client::new(socket).timeout(Duration::from_secs(10))
}

impl TargetArgs {
    /// The agents that are meant, in the order of the nodes.
    ///
    /// # Errors
    /// [`Usage`] if there is no such lab or node.
    pub fn agents(&self) -> Result<Vec<Agent>> {
        if let Some(socket) = &self.host {
            return Ok(vec![Agent::local(plain_path(socket))]);
        }
        if !self.names_lab() && on_node() {
            return Ok(vec![Agent::local(PathBuf::from(api::DEFAULT_SOCKET))]);
        }
        let lab = labs::find(self.name.as_deref()).map_err(|error| self.no_lab(error))?;
        let machines = self.machines(&lab)?;
        Ok(machines
            .iter()
            .map(|machine| Agent::of_machine(machine))
            .collect())
    }

    fn names_lab(&self) -> bool {
        self.name.is_some() || self.node.is_some() || self.all_nodes
    }

    /// On a machine without a lab people may have meant a node's agent.
    fn no_lab(&self, error: anyhow::Error) -> anyhow::Error {
        if self.name.is_some() || labs::any() {
            return error;
        }
        anyhow!(
            "{error}; on a node: no agent listens at {}, -H names another socket",
            api::DEFAULT_SOCKET
        )
    }

    fn machines<'a>(&self, lab: &'a RunningLab) -> Result<Vec<&'a MachineState>> {
        let nodes = &lab.state.nodes;
        match &self.node {
            Some(wanted) => {
                let found = nodes.iter().find(|node| node.name == *wanted);
                let unknown = || {
                    Usage(format!(
                        "lab `{}` has no node `{wanted}`; accepted: {}",
                        lab.name,
                        lab.node_names().join(", ")
                    ))
                };
                Ok(vec![found.ok_or_else(unknown)?])
            }
            None if self.all_nodes => Ok(nodes.iter().collect()),
            None => Ok(nodes.iter().take(1).collect()),
        }
    }
}

/// A socket as `unix:///path`, which other tools want, or as a plain path.
fn plain_path(socket: &Path) -> PathBuf {
    match socket
        .to_str()
        .and_then(|text| text.strip_prefix("unix://"))
    {
        Some(path) => path.into(),
        None => socket.to_owned(),
    }
}

/// Asks every agent and prints what they say: one answer as it is, several under their nodes' names.
///
/// # Errors
/// What the only agent said; [`Findings`] if one of several could not be asked, after the others were printed.
pub fn show<T: serde::Serialize>(
    agents: &mut [Agent],
    output: &OutputArgs,
    ask: impl Fn(&mut Agent) -> Result<T>,
    table: impl Fn(&T) -> String,
) -> Result<()> {
    if let [agent] = agents {
        return output.print(&ask(agent)?, table);
    }
    let mut found = Vec::new();
    let mut failed = false;
    for agent in agents {
        let name = agent.node.clone().unwrap_or_default();
        match ask(agent) {
            Ok(answer) => found.push((name, answer)),
            Err(error) => {
                failed = true;
                eprintln!("Error: {name}: {}", one_line(&error));
            }
        }
    }
    print_all(output.format.as_ref(), &found, table)?;
    if failed { Err(Findings.into()) } else { Ok(()) }
}

fn print_all<T: serde::Serialize>(
    format: Option<&Format>,
    found: &[(String, T)],
    table: impl Fn(&T) -> String,
) -> Result<()> {
    if let Some(format) = format {
        let mut by_node = serde_json::Map::new();
        for (name, answer) in found {
            by_node.insert(
                name.clone(),
                serde_json::to_value(answer).context("cannot write as JSON")?,
            );
        }
        return output::write_out(&output::render(format, &by_node)?);
    }
    let blocks: Vec<String> = found
        .iter()
        .map(|(name, answer)| format!("=== {name}\n{}", table(answer)))
        .collect();
    output::write_out(&blocks.join("\n"))
}
