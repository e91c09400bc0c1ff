//! `hypha lab exec` and `shell`: enter a machine or a container with this very process.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

use super::{Lab, pod_name};
use crate::cgroup::Cgroup;
use crate::init::LAB_ENV;
use crate::init::container::exit_code;
use crate::ns::Namespaces;
use crate::state::{ContainerRecord, MachineState};

/// Where to run what.
#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// A node, `router`, or a pod: NAME or NAMESPACE/NAME.
    target: String,
    /// Which container of the pod (default: its first).
    #[arg(short, long)]
    container: Option<String>,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Where to open a shell.
#[derive(Debug, Args)]
pub(super) struct ShellArgs {
    /// A node, `router`, or a pod: NAME or NAMESPACE/NAME.
    target: String,
    /// Which container of the pod (default: its first).
    #[arg(short, long)]
    container: Option<String>,
}

pub(super) fn exec(lab: &Lab, args: &ExecArgs) -> anyhow::Result<i32> {
    let (program, rest) = args
        .command
        .split_first()
        .context("there is no command to run")?;
    let mut command = Command::new(program);
    command.args(rest);
    run_in(lab, &args.target, args.container.as_deref(), command)
}

pub(super) fn shell(lab: &Lab, args: &ShellArgs) -> anyhow::Result<i32> {
    let mut command = Command::new(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    command.env("HYPHA_TARGET", &args.target);
    run_in(lab, &args.target, args.container.as_deref(), command)
}

fn run_in(
    lab: &Lab,
    target: &str,
    container: Option<&str>,
    command: Command,
) -> anyhow::Result<i32> {
    match lab.state.machine(target) {
        Some(machine) => in_machine(lab, machine, command),
        None => in_container(lab, &find_container(lab, target, container)?, command),
    }
}

fn find_container(
    lab: &Lab,
    target: &str,
    container: Option<&str>,
) -> anyhow::Result<ContainerRecord> {
    let (namespace, name) = pod_name(target);
    let machines: Vec<&str> = lab
        .state
        .nodes
        .iter()
        .map(|n| n.name.as_str())
        .chain(["router"])
        .collect();
    let record = lab.dir.read_pod(namespace, name)?;
    let record = record.with_context(|| {
        format!(
            "{target:?} is neither a machine ({}) nor a pod that runs (namespace {namespace:?})",
            machines.join(", ")
        )
    })?;
    let wanted = |c: &ContainerRecord| container.is_none_or(|n| c.name == n);
    let found = record
        .containers
        .into_iter()
        .filter(|c| c.process.alive())
        .find(wanted);
    found.with_context(|| {
        format!(
            "no {} of pod {target:?} runs",
            container.map_or("container".into(), |c| format!("container {c:?}"))
        )
    })
}

/// Says why a command did not start; the exit code is the one of shells.
fn failed(command: &Command, error: &io::Error) -> i32 {
    eprintln!("error: cannot run {:?}: {error}", command.get_program());
    if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    }
}

fn in_machine(lab: &Lab, machine: &MachineState, mut command: Command) -> anyhow::Result<i32> {
    if !machine.holder.alive() {
        bail!("machine {} does not run any more", machine.name);
    }
    let namespaces = Namespaces::of_machine(machine.holder.pid)
        .with_context(|| format!("cannot enter {}", machine.name))?;
    let directory = std::env::current_dir();
    join(&machine.cgroup)?;
    namespaces
        .enter()
        .with_context(|| format!("cannot enter {}", machine.name))?;
    // Entering a mount namespace leads to its root; go back to where the person is, if that exists there.
    if let Ok(directory) = directory {
        let _ = std::env::set_current_dir(directory);
    }
    command.env(LAB_ENV, lab.state.spec.name.as_str());
    let error = command.exec();
    Ok(failed(&command, &error))
}

fn in_container(
    lab: &Lab,
    container: &ContainerRecord,
    mut command: Command,
) -> anyhow::Result<i32> {
    let namespaces =
        Namespaces::of_container(container.process.pid).context("cannot enter the container")?;
    Cgroup::at(&container.cgroup).join(0)?;
    namespaces.enter().context("cannot enter the container")?;
    let own: Vec<_> = command
        .get_envs()
        .map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned)))
        .collect();
    command
        .env_clear()
        .envs(container.env.iter().map(|(k, v)| (k, v)));
    command.envs(own.into_iter().filter_map(|(k, v)| Some((k, v?))));
    command
        .envs(std::env::var_os("TERM").map(|t| ("TERM", t)))
        .env(LAB_ENV, lab.state.spec.name.as_str());
    command.current_dir(container.dir.as_deref().unwrap_or("/".as_ref()));
    // Only children are in the container's pid namespace.
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return Ok(failed(&command, &e)),
    };
    // Ctrl-C is for the command; this process stays to report how it ended.
    let keys: SigSet = [Signal::SIGINT, Signal::SIGQUIT].into_iter().collect();
    keys.thread_block().context("cannot block signals")?;
    Ok(exit_code(
        child.wait().context("cannot wait for the command")?,
    ))
}

fn join(cgroup: &std::path::Path) -> anyhow::Result<()> {
    let group = Cgroup::at(cgroup).child("exec");
    group.create()?;
    group.join(0)?;
    Ok(())
}
