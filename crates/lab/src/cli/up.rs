//! `hypha lab up` and `down`.

use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use nix::sys::signal::Signal;
use runtime::settings::{Keyed, OperatorSettings, Settings};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::outside::OutsideArgs;
use super::{Lab, Output, others, running};
use crate::init::LAB_ENV;
use crate::kubelet::restart::LONGEST_DELAY;
use crate::proc::ProcId;
use crate::spec::{Dns, Families, LabName, LabSpec, MAX_NODES, NodeName, READY_LIMIT, Routing};
use crate::state::{Phase, StateDir, kept_names, lab_names};
use crate::supervisor::progress::Progress;

/// How long a supervisor may take to clean up by itself.
const DOWN_LIMIT: Duration = Duration::from_secs(15);

/// How the lab shall look.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
    nodes: u8,
    /// The names of the nodes, as many as there shall be nodes (default: node1, node2 …).
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        conflicts_with = "nodes"
    )]
    node_names: Vec<NodeName>,
    /// How packets reach pods of other nodes.
    #[arg(long, value_enum, default_value_t)]
    routing: Routing,
    /// IPv4 alone.
    #[arg(long, group = "families")]
    ipv4: bool,
    /// IPv6 alone.
    #[arg(long, group = "families")]
    ipv6: bool,
    /// IPv4 and IPv6 (the default).
    #[arg(long, group = "families")]
    dual: bool,
    /// In native routing: the router does not know the pod CIDRs.
    #[arg(long)]
    no_router_routes: bool,
    /// Start two sample pods on every node.
    #[arg(long)]
    sample: bool,
    /// Print the connectivity matrix once the lab is up; exit status 1 if a cell fails. The lab goes on running; one of this
    /// name that runs already is tested as it is.
    #[arg(long, conflicts_with_all = ["output", "no_agents"])]
    test: bool,
    /// Seconds that the agents, and then the sample pods, may take to be ready.
    #[arg(long, value_name = "SECONDS", default_value_t = READY_LIMIT.as_secs(), value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Whether there is cluster DNS, and how pods reach it (default: pod).
    #[arg(long, value_enum, value_name = "WAY")]
    cluster_dns: Option<Dns>,
    /// The longest pause, in seconds, before a container that ended starts again; a kubelet's is five minutes.
    #[arg(long, value_name = "SECONDS", default_value_t = LONGEST_DELAY.as_secs())]
    max_restart_pause: u64,
    /// A setting for the agents, by the name of their flag. May be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    agent_config: Vec<(String, String)>,
    #[command(flatten)]
    outside: OutsideArgs,
    /// Only network, API server and kubelets; no agents.
    #[arg(long, hide = true, conflicts_with = "sample")]
    no_agents: bool,
    /// How to print the lab once it is up.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A setting of agents or operator, which read the same ConfigMap.
fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not of the form key=value"))?;
    let (key, place) = (key.trim_start_matches("--"), "settings");
    let set = if OperatorSettings::keys()
        .iter()
        .any(|known| known.name == key)
    {
        OperatorSettings::default().set(key, value, place)
    } else {
        Settings::default().set(key, value, place)
    };
    set.map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

impl UpArgs {
    fn count(&self) -> u8 {
        match self.node_names.len() {
            0 => self.nodes,
            named => u8::try_from(named).unwrap_or(u8::MAX),
        }
    }

    fn check_names(&self) -> anyhow::Result<()> {
        let names = &self.node_names;
        if names.len() > usize::from(MAX_NODES) {
            bail!(
                "--node-names: {} names, but a lab has at most {MAX_NODES} nodes",
                names.len()
            );
        }
        let twice = names
            .iter()
            .enumerate()
            .find(|(i, name)| names[..*i].contains(name));
        match twice {
            Some((_, name)) => bail!("--node-names: {:?} stands there twice", name.as_str()),
            None => Ok(()),
        }
    }

    fn spec(&self, name: LabName) -> anyhow::Result<LabSpec> {
        let families = match (self.ipv4, self.ipv6) {
            (true, _) => Families::Ipv4,
            (_, true) => Families::Ipv6,
            _ => Families::Dual,
        };
        Ok(LabSpec {
            name,
            nodes: self.count(),
            node_names: self.node_names.clone(),
            routing: self.routing,
            families,
            router_routes: !self.no_router_routes,
            agents: !self.no_agents,
            sample: self.sample,
            dns: self.cluster_dns.unwrap_or(match self.no_agents {
                true => Dns::None,
                false => Dns::default(),
            }),
            ready_limit: Duration::from_secs(self.timeout),
            max_restart_pause: Duration::from_secs(self.max_restart_pause),
            agent_config: self.agent_config.clone(),
            outside: self.outside.outside()?,
        })
    }
}

pub(super) fn up(name: LabName, args: UpArgs) -> anyhow::Result<i32> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab needs root: it makes network namespaces and loads eBPF programs");
    }
    args.check_names()?;
    let spec = args.spec(name)?;
    let dir = StateDir::of(&spec.name);
    let known = if args.test && dir.running() {
        dir.read()?.filter(|state| state.phase == Phase::Ready)
    } else {
        None
    };
    match known {
        Some(state) => say_running(&state.spec, &spec),
        None => {
            let ms = super::block_on(start(&spec, args.output))?;
            finished(&spec, ms, args.output)?;
        }
    }
    let code = if args.test { matrix(&spec.name)? } else { 0 };
    if args.output == Output::Text {
        hints(&spec);
    }
    Ok(code)
}

fn say_running(running: &LabSpec, asked: &LabSpec) {
    let shape =
        |spec: &LabSpec| format!("{} nodes, {}, {}", spec.nodes, spec.routing, spec.families);
    println!(
        "lab {:?} runs already: {}",
        running.name.as_str(),
        shape(running)
    );
    if shape(running) != shape(asked) {
        println!("  not: {}; `hypha lab down` first, for that", shape(asked));
    }
}

/// Runs `hypha connectivity test`; its exit code.
fn matrix(name: &LabName) -> anyhow::Result<i32> {
    let program = crate::init::hypha()?;
    let status = std::process::Command::new(&program)
        .args(["connectivity", "test", "--name", name.as_str()])
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(status.code().unwrap_or(1))
}

/// Starts it; how many milliseconds that took.
async fn start(spec: &LabSpec, output: Output) -> anyhow::Result<u64> {
    let (mut child, mut lines) = start_supervisor(spec).await?;
    let mut term = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot watch for Ctrl-C")?;
    let process = child.id().and_then(|pid| ProcId::of(pid as i32));
    loop {
        tokio::select! {
            line = lines.next_line() => match line.ok().flatten() {
                None => {
                    let status = child.wait().await.context("cannot wait for the supervisor")?;
                    bail!("the supervisor ended ({status}); see {}", StateDir::of(&spec.name).file("supervisor.log").display());
                }
                Some(line) => match serde_json::from_str(&line).with_context(|| format!("the supervisor said {line:?}"))? {
                    Progress::Step { text, ms } => say(output, &format!("  {ms:>5} ms  {text}")),
                    Progress::Failed { message } => {
                        let _ = child.wait().await;
                        bail!("lab {:?}: {message}", spec.name.as_str());
                    }
                    Progress::Ready { ms } => return Ok(ms),
                },
            },
            _ = int.recv() => interrupt(process.as_ref()),
            _ = term.recv() => interrupt(process.as_ref()),
        }
    }
}

fn interrupt(supervisor: Option<&ProcId>) {
    eprintln!("interrupted, cleaning up …");
    if let Some(supervisor) = supervisor {
        supervisor.signal(Signal::SIGTERM);
    }
}

/// Progress goes where it does not disturb what a program reads.
fn say(output: Output, text: &str) {
    match output {
        Output::Text => println!("{text}"),
        Output::Json => eprintln!("{text}"),
    }
}

async fn start_supervisor(
    spec: &LabSpec,
) -> anyhow::Result<(Child, Lines<BufReader<ChildStdout>>)> {
    say(
        Output::Json,
        &format!(
            "lab {:?}: {} nodes, {}, {}",
            spec.name.as_str(),
            spec.nodes,
            spec.routing,
            spec.families
        ),
    );
    let mut command = crate::init::command("supervise")?;
    // Its own process group: Ctrl-C is for this process, which tells the supervisor.
    command
        .process_group(0)
        .current_dir("/")
        .env(LAB_ENV, spec.name.as_str())
        .envs([crate::supervisor::server::MALLOC]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = Command::from(command)
        .spawn()
        .context("cannot start the supervisor")?;
    let mut line = serde_json::to_vec(spec)?;
    line.push(b'\n');
    let mut pipe = child.stdin.take().context("the supervisor has no input")?;
    pipe.write_all(&line)
        .await
        .context("the supervisor ended at once")?;
    // The open pipe says that somebody waits; it closes when this process ends, however that happens.
    child.stdin = Some(pipe);
    let out = child
        .stdout
        .take()
        .context("the supervisor has no output")?;
    Ok((child, BufReader::new(out).lines()))
}

fn finished(spec: &LabSpec, ms: u64, output: Output) -> anyhow::Result<()> {
    let name = spec.name.as_str();
    match output {
        Output::Json => {
            let state = StateDir::of(&spec.name)
                .read()?
                .context("the lab has no state")?;
            println!("{}", serde_json::to_string_pretty(&state)?);
        }
        Output::Text => println!(
            "lab {name:?} is up after {}.{:02} s",
            ms / 1000,
            ms % 1000 / 10
        ),
    }
    Ok(())
}

/// How to look at it and how to end it, by the name that this program was called by.
fn hints(spec: &LabSpec) {
    let name = &spec.name;
    let hypha = std::env::args().next().unwrap_or_else(|| "hypha".into());
    let flag = if *name == LabName::default() {
        String::new()
    } else {
        format!(" --name {name}")
    };
    let make = if std::env::var_os("MAKELEVEL").is_some() {
        "   (or: make lab-down)"
    } else {
        ""
    };
    println!("  look:    {hypha} lab status{flag}   {hypha} dbg status --all-nodes{flag}");
    println!("  watch:   {hypha} dbg monitor{flag}");
    println!(
        "  enter:   {hypha} lab exec{flag} {} -- ip addr",
        spec.node_name(1)
    );
    println!("  matrix:  {hypha} connectivity test{flag}");
    println!(
        "  kubectl: export KUBECONFIG={}",
        StateDir::of(name).kubeconfig().display()
    );
    println!("  end:     {hypha} lab down{flag}{make}");
}

/// Ends a lab, keeping its objects, and starts it as it was.
pub(super) fn restart(lab: &Lab, output: Output) -> anyhow::Result<()> {
    let spec = lab.state.spec.clone();
    down_one(&spec.name, true)?;
    let ms = super::block_on(start(&spec, output))?;
    finished(&spec, ms, output)
}

pub(super) fn down(name: Option<LabName>, all: bool, keep: bool) -> anyhow::Result<()> {
    let names = match name {
        Some(name) => vec![name],
        None if all => known_names(),
        None => match lab_names() {
            names if names.len() > 1 => vec![super::only_one(running())?],
            names if names.is_empty() => known_names(),
            names => names,
        },
    };
    if names.is_empty() {
        println!("no lab is running");
    }
    for name in names {
        down_one(&name, keep)?;
    }
    Ok(())
}

/// Labs that run, were left, or left objects.
fn known_names() -> Vec<LabName> {
    let mut names = lab_names();
    names.extend(kept_names());
    names.sort();
    names.dedup();
    names
}

fn down_one(name: &LabName, keep: bool) -> anyhow::Result<()> {
    let dir = StateDir::of(name);
    let objects = dir.data().exists() && !keep;
    let known = dir.exists() || crate::cgroup::Cgroup::of_lab(name)?.exists() || objects;
    if !known {
        println!("lab {:?} is not running{}", name.as_str(), others());
        return Ok(());
    }
    if let Some(supervisor) = dir.supervisor() {
        supervisor.signal(Signal::SIGTERM);
        if !supervisor.wait_gone(DOWN_LIMIT) {
            eprintln!("the supervisor does not end, killing it");
            supervisor.signal(Signal::SIGKILL);
            supervisor.wait_gone(DOWN_LIMIT);
        }
    }
    // What a supervisor that was killed, or one that is just coming up, leaves.
    crate::supervisor::clean(name, &dir)?;
    if keep {
        println!(
            "lab {:?} is down; its objects stay in {}",
            name.as_str(),
            dir.data().display()
        );
    } else {
        let left = crate::supervisor::leave(&dir)?;
        dir.remove_data()?;
        println!("lab {:?} is down", name.as_str());
        if let Some(text) = left {
            println!("{text}");
        }
    }
    Ok(())
}
