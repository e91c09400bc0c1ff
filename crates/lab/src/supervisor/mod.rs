//! The process that runs one lab: network, API server, kubelets, scheduler and agents, from `up` to `down`.

mod addons;
mod api;
pub(crate) mod components;
mod nodes;
mod outside;
mod owned;
mod pods;
pub mod progress;
pub mod sample;
pub mod server;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, Read};
use std::os::linux::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use kube::Client;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cgroup::Cgroup;
use crate::hosts::{Host, Network};
use crate::kubelet::node::Node;
use crate::kubelet::serve::access::Access;
use crate::kubelet::{self, Kubelet, Objects};
use crate::proc::ProcId;
use crate::spec::{Dns, LabName, LabSpec};
use crate::state::{LabState, MachineState, PARTS, Phase, StateDir};
use crate::topology::Machine;

pub use owned::leave;

use progress::Reporter;

/// The file, in the lab's directory, with images that a person added.
pub const IMAGES: &str = "images.json";
/// How long the end of all processes may take.
const CLEAN_LIMIT: Duration = Duration::from_secs(10);

/// Runs a lab until it is told to stop. The description comes as the first line of standard input; as long as the lab is not
/// in service, the end of standard input means that nobody wants it any more.
pub fn run() -> anyhow::Result<()> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read the lab's description")?;
    let spec: LabSpec =
        serde_json::from_str(&line).context("the lab's description is malformed")?;
    let _ = nix::unistd::setsid();
    let reporter = Reporter::new();
    let dir = StateDir::of(&spec.name);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")?;
    // Before anything is made: a signal that comes earlier finds nothing to clean.
    let stop = runtime.block_on(async { stop_signal() })?;
    let home = Cgroup::own()?;
    let outcome = dir.acquire().and_then(|lock| {
        let kept = dir.data().exists();
        let result = serve(&spec, &dir, &reporter, runtime, stop);
        if result.is_err() && !kept {
            owned::leave(&dir)?;
            // It did not come up: nothing of it stays. Objects of an earlier life do.
            dir.remove_data()?;
        }
        let cleaned = clean_as_owner(&spec.name, &dir, &home);
        drop(lock);
        result.and(cleaned)
    });
    if let Err(e) = &outcome {
        reporter.failed(&format!("{e:#}"));
    }
    outcome
}

/// Ends all processes of a lab and removes its directory. For labs whose supervisor is gone, or by the supervisor itself.
pub fn clean(name: &LabName, dir: &StateDir) -> anyhow::Result<()> {
    let destroyed = Cgroup::of_lab(name).and_then(|c| c.destroy(CLEAN_LIMIT));
    // The directory goes last: as long as it is there, somebody knows that there is something to clean.
    destroyed.context("the lab's processes did not all end")?;
    dir.remove()
}

fn clean_as_owner(name: &LabName, dir: &StateDir, home: &Cgroup) -> anyhow::Result<()> {
    // Who empties a group may not stand in it.
    home.join(0)?;
    clean(name, dir)
}

fn serve(
    spec: &LabSpec,
    dir: &StateDir,
    reporter: &Reporter,
    runtime: Runtime,
    stop: Stop,
) -> anyhow::Result<()> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.file("supervisor.log"))
        .context("cannot open the log")?;
    nix::unistd::dup2_stderr(&log).context("cannot write to the log")?;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "info,kube=warn".into());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .try_init();
    remove_remains(spec, dir, reporter)?;
    let cgroup = Cgroup::of_lab(&spec.name)?;
    let own = cgroup.child("supervisor");
    own.create()?;
    own.join(0)?;
    let result = runtime.block_on(lab(spec, dir, &cgroup, reporter, stop));
    // Whatever still runs ends here: nothing may start a process while the lab's cgroup is being emptied.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Cleans up after a supervisor that crashed.
fn remove_remains(spec: &LabSpec, dir: &StateDir, reporter: &Reporter) -> anyhow::Result<()> {
    let cgroup = Cgroup::of_lab(&spec.name)?;
    if !cgroup.exists() && !dir.file("state.json").exists() {
        return Ok(());
    }
    cgroup
        .destroy(CLEAN_LIMIT)
        .context("what is left of an earlier lab of this name does not end")?;
    for sub in PARTS {
        let path = dir.file(sub);
        // The directory itself, where it is a link into memory.
        fs::canonicalize(&path)
            .and_then(|real| fs::remove_dir_all(&real).and_then(|()| fs::create_dir(&real)))
            .with_context(|| format!("cannot empty {}", path.display()))?;
    }
    reporter.step("cleaned what an earlier lab of this name left");
    Ok(())
}

/// Becomes true when the lab shall end.
type Stop = (watch::Sender<bool>, watch::Receiver<bool>);

fn stop_signal() -> anyhow::Result<Stop> {
    let (tell, hear) = watch::channel(false);
    let mut term = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let told = tell.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        let _ = told.send(true);
    });
    Ok((tell, hear))
}

/// Tells when whoever asked for the lab goes away before it is in service.
fn watch_parent(stop: watch::Sender<bool>, ready: watch::Receiver<bool>) {
    std::thread::spawn(move || {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        if !*ready.borrow() {
            let _ = stop.send(true);
        }
    });
}

async fn lab(
    spec: &LabSpec,
    dir: &StateDir,
    cgroup: &Cgroup,
    reporter: &Reporter,
    stop: Stop,
) -> anyhow::Result<()> {
    let (tell_stop, mut stop) = stop;
    let (tell_ready, ready) = watch::channel(false);
    watch_parent(tell_stop, ready);
    // Not interrupted half-way: what is made is then known.
    let network = {
        let (spec, cgroup) = (spec.clone(), cgroup.clone());
        tokio::task::spawn_blocking(move || Network::create(&spec, &cgroup))
            .await
            .context("the network's maker panicked")??
    };
    reporter.step(&format!(
        "{}, a router and the networks between them",
        count(network.nodes.len(), "node")
    ));
    let mut stop_while = stop.clone();
    let up = tokio::select! {
        up = bring_up(spec, dir, &network, reporter) => up.map(Some),
        () = async { drop(stop_while.wait_for(|s| *s).await) } => Ok(None),
    };
    match up {
        Ok(Some(mut state)) => {
            state.phase = Phase::Ready;
            dir.write(&state)?;
            let _ = tell_ready.send(true);
            reporter.ready();
            let _ = stop.wait_for(|s| *s).await;
            state.phase = Phase::Stopping;
            dir.write(&state)
        }
        Ok(None) => Err(anyhow::anyhow!("interrupted; everything is cleaned up")),
        Err(e) => Err(e),
    }
}

async fn bring_up(
    spec: &LabSpec,
    dir: &StateDir,
    network: &Network,
    reporter: &Reporter,
) -> anyhow::Result<LabState> {
    let nodes = kubelet_nodes(spec, dir, network);
    let api = match &spec.outside {
        Some(outside) => outside::join(spec, outside, dir, network, &nodes).await?,
        None => {
            owned::check_none(dir, spec)?;
            api::start(&spec.name, dir, network, &nodes).await?
        }
    };
    let state = describe(spec, network, &api)?;
    let (client, joined) = (&api.client, api.joined.as_ref());
    dir.write(&state)?;
    start_outside(dir, spec, &network.router)?;
    nodes::create(client, network, joined)
        .await
        .context("cannot create the cluster's first objects")?;
    reporter.step(&format!(
        "API server on {} and {}",
        state.api_url, state.api_url_inside
    ));
    let networks = start_workloads(spec, dir, &nodes, &api)?;
    let health = networks
        .into_iter()
        .map(|(name, net)| nodes::keep_condition(client.clone(), name, net))
        .collect();
    // Its pods wait for the first node.
    let dns = spec.dns != Dns::None && addons::install_dns(client, &state, joined).await?;
    if !spec.agents {
        return Ok(state);
    }
    components::install(client, &state, joined)
        .await
        .context("cannot install agents and operator")?;
    components::wait(client, spec, dir, health).await?;
    reporter.step(&format!(
        "{} and operator, all nodes ready",
        count(nodes.len(), "agent")
    ));
    if dns {
        addons::wait_dns(client, spec.ready_limit).await?;
        reporter.step("cluster DNS ready");
    }
    if spec.sample {
        let names = sample::create(client, &state)
            .await
            .context("cannot create the sample pods")?;
        sample::wait_ready(client, &names, spec.ready_limit).await?;
        reporter.step(&format!("{} sample pods ready", names.len()));
    }
    Ok(state)
}

/// Starts what makes pods run: kubelets and controllers. The nodes' networks, to be asked whether they are ready.
fn start_workloads(
    spec: &LabSpec,
    dir: &StateDir,
    nodes: &[Arc<Node>],
    api: &api::Api,
) -> anyhow::Result<Vec<(String, kubelet::Network)>> {
    let client = &api.client;
    let objects = Arc::new(Objects::start(client.clone(), dir.file(IMAGES)));
    let kubelets = kubelets(nodes, client, &objects, spec.max_restart_pause)?;
    let access = Arc::new(Access::new(client.clone(), api.kubelet_clients.as_deref())?);
    let mut networks = Vec::new();
    for (name, kubelet) in &kubelets {
        kubelet.serve(access.clone())?;
        tokio::spawn(nodes::heartbeat(client.clone(), name.clone()));
        networks.push((name.clone(), kubelet.network()));
    }
    if spec.outside.as_ref().is_none_or(|o| o.controllers) {
        let settings = controllers::Settings {
            root_ca: nodes::root_ca(&dir.kubeconfig()),
            ..controllers::Settings::default()
        };
        let forever = std::future::pending();
        tokio::spawn(controllers::run(client.clone(), settings, forever));
    }
    if spec.dns == Dns::Service {
        objects.set_dns(addons::cluster_ips(spec, api.joined.as_ref()));
    }
    let ask_pods = (spec.dns == Dns::Pod).then_some(objects);
    tokio::spawn(pods::run(client.clone(), kubelets, ask_pods));
    Ok(networks)
}

fn kubelet_nodes(spec: &LabSpec, dir: &StateDir, network: &Network) -> Vec<Arc<Node>> {
    let pairs = network.nodes.iter().zip(&network.topology.nodes);
    let node = |(host, plan): (&Arc<Host>, &Machine)| {
        let addresses = plan.addresses().collect();
        Arc::new(Node::new(
            spec.name.clone(),
            dir.clone(),
            host.clone(),
            addresses,
        ))
    };
    pairs.map(node).collect()
}

fn kubelets(
    nodes: &[Arc<Node>],
    client: &Client,
    objects: &Arc<Objects>,
    pause: Duration,
) -> anyhow::Result<BTreeMap<String, Kubelet>> {
    let path = cni_path();
    let kubelet = |n: &Arc<Node>| {
        let made = Kubelet::new(
            n.clone(),
            nodes.len(),
            client.clone(),
            path.clone(),
            objects.clone(),
            pause,
        );
        made.map(|kubelet| (n.name.clone(), kubelet))
    };
    nodes.iter().map(kubelet).collect()
}

fn count(n: usize, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

/// Adds directories with CNI plugins, before the others.
const CNI_PATH_ENV: &str = "HYPHA_LAB_CNI_PATH";

/// Directories of nodes with CNI plugins: those of tests, then the usual place, where agents bring theirs.
fn cni_path() -> Vec<PathBuf> {
    let given = std::env::var_os(CNI_PATH_ENV).unwrap_or_default();
    let given = std::env::split_paths(&given).filter(|p| p.is_absolute());
    given.chain([PathBuf::from("/opt/cni/bin")]).collect()
}

fn describe(spec: &LabSpec, network: &Network, api: &api::Api) -> anyhow::Result<LabState> {
    let machine = |host: &Host| -> anyhow::Result<MachineState> {
        let plan = network.machine(&host.name);
        let nets = plan
            .iter()
            .flat_map(|m| m.links.iter().flat_map(|l| &l.addresses))
            .map(ToString::to_string);
        let cidrs = plan
            .iter()
            .flat_map(|m| &m.pod_cidrs)
            .map(ToString::to_string);
        let net = fs::metadata(host.holder.proc_path("ns/net"))
            .with_context(|| format!("{} has ended", host.name))?;
        Ok(MachineState {
            name: host.name.clone(),
            holder: host.holder.clone(),
            cgroup: host.cgroup.path().to_owned(),
            addresses: nets.collect(),
            pod_cidrs: cidrs.collect(),
            net_inode: net.st_ino(),
        })
    };
    let own = std::process::id() as i32;
    Ok(LabState {
        spec: spec.clone(),
        phase: Phase::Starting,
        supervisor: ProcId::of(own).context("cannot find this process in /proc")?,
        api_url: api.url.clone(),
        api_url_inside: api.url_inside.clone(),
        nodes: network
            .nodes
            .iter()
            .map(|h| machine(h))
            .collect::<anyhow::Result<_>>()?,
        router: machine(&network.router)?,
        fabric: machine(&network.fabric)?,
    })
}

/// The outside host's server, in the router.
fn start_outside(dir: &StateDir, spec: &LabSpec, router: &Host) -> anyhow::Result<()> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.file("router.log"))
        .context("cannot open the log")?;
    let mut command = crate::init::command("serve")?;
    command.env(crate::init::LAB_ENV, spec.name.as_str());
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(log);
    let child = router
        .ns
        .run(|| command.spawn())
        .context("cannot enter the router")?;
    let mut child = child.context("cannot start the outside host's server")?;
    router.cgroup.join(child.id() as i32)?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        io::BufReader::new(out)
            .read_line(&mut line)
            .context("cannot hear from the outside host's server")?;
    }
    if line.trim_end() != crate::init::holder::READY {
        bail!(
            "the outside host's server did not start; see {}",
            dir.file("router.log").display()
        );
    }
    // Collected when it ends, so that it does not stay as a zombie.
    std::thread::spawn(move || child.wait());
    Ok(())
}
