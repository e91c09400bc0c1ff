//! `hypha lab agent`: stop, start and restart agents, to see what goes on without them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use nix::sys::signal::Signal;

use super::Lab;
use crate::proc::ProcId;

const LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);

/// What to do to which agent.
#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// What to do.
    #[arg(value_enum)]
    action: Action,
    /// The node.
    node: String,
    /// With SIGKILL instead of SIGTERM.
    #[arg(long)]
    kill: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// End it and keep it stopped.
    Stop,
    /// Let it run again.
    Start,
    /// End it; the lab starts it again.
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
    let hold = lab.dir.agent_hold(&args.node);
    let process = || {
        Ok::<_, anyhow::Error>(
            lab.dir
                .read_agent(&args.node)?
                .and_then(|a| a.process)
                .filter(ProcId::alive),
        )
    };
    let before = process()?;
    match args.action {
        Action::Stop => {
            fs::write(&hold, "").with_context(|| format!("cannot write {}", hold.display()))?
        }
        Action::Start | Action::Restart => drop(fs::remove_file(&hold)),
    }
    if let Some(before) = before.as_ref().filter(|_| args.action != Action::Start) {
        before.signal(if args.kill {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        });
        if !before.wait_gone(LIMIT) {
            bail!("the agent of {} does not end", args.node);
        }
    }
    let end = Instant::now() + LIMIT;
    while args.action != Action::Stop && process()?.is_none() {
        if Instant::now() > end {
            bail!(
                "the agent of {} does not start; see `hypha lab logs {}`",
                args.node,
                args.node
            );
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
