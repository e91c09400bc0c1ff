//! `hypha lab agent`: stop, start and restart agents, to see what goes on without them.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{Lab, block_on};
use crate::proc::ProcId;
use crate::state::{AGENT, COMPONENTS};
use crate::supervisor::components::STOPPED;

/// A kubelet may wait that long before it starts a container again that ended for the second time.
const LIMIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);

/// What to do to which agent.
#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// What to do.
    #[arg(value_enum)]
    action: Action,
    /// The node.
    node: String,
    /// Restart: by SIGKILL, after which the kubelet starts it again in the pod that it has.
    #[arg(long)]
    kill: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Keep it off the node, by a label of the node.
    Stop,
    /// Let it run again.
    Start,
    /// Delete its pod; another one takes its place.
    Restart,
}

pub(super) fn run(lab: &Lab, args: &AgentArgs) -> anyhow::Result<()> {
    if !lab.state.nodes.iter().any(|n| n.name == args.node) {
        bail!(
            "lab {:?} has no node {:?}",
            lab.state.spec.name.as_str(),
            args.node
        );
    }
    let running = || lab.dir.container(AGENT, Some(&args.node));
    let before = running()?;
    match (args.action, &before) {
        (Action::Stop, _) => label(lab, &args.node, Some(STOPPED.1))?,
        (Action::Start, _) | (Action::Restart, None) => label(lab, &args.node, None)?,
        (Action::Restart, Some((_, container))) if args.kill => {
            container.process.signal(Signal::SIGKILL);
        }
        (Action::Restart, Some((pod, _))) => block_on(async {
            let pods: Api<Pod> = Api::namespaced(lab.client()?, COMPONENTS);
            let deleted = pods.delete(&pod.name, &Default::default()).await;
            deleted.map(drop).context("cannot delete the agent's pod")
        })?,
    }
    let before: Option<ProcId> = before.map(|(_, container)| container.process);
    let end = Instant::now() + LIMIT;
    loop {
        let now = running()?.map(|(_, container)| container.process);
        let done = match args.action {
            Action::Stop => now.is_none(),
            Action::Start => now.is_some(),
            Action::Restart => now.is_some() && now != before,
        };
        if done {
            return Ok(());
        }
        if Instant::now() > end {
            let what = if args.action == Action::Stop {
                "end"
            } else {
                "start"
            };
            bail!(
                "the agent of {} does not {what}; see `kubectl -n {COMPONENTS} describe pods -l k8s-app=cilium`",
                args.node
            );
        }
        std::thread::sleep(LOOK);
    }
}

fn label(lab: &Lab, node: &str, value: Option<&str>) -> anyhow::Result<()> {
    block_on(async {
        let nodes: Api<Node> = Api::all(lab.client()?);
        let patch = Patch::Merge(json!({"metadata": {"labels": {STOPPED.0: value}}}));
        let patched = nodes.patch(node, &PatchParams::default(), &patch).await;
        patched.map(drop).context("cannot label the node")
    })
}
