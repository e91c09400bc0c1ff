//! The API server's process. It is one of its own, as in other clusters: it may crash, or be killed, while kubelets, controllers
//! and agents go on. The supervisor holds its listeners, so that whoever connects meanwhile waits, and starts it again.

use std::fs::OpenOptions;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use apiserver::kind::Networks;
use apiserver::tls::TlsOptions;
use apiserver::{ApiServer, ServerOptions, StoreOptions};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::cgroup::Cgroup;
use crate::init::{self, LAB_ENV};
use crate::kubelet::node::KubeletWays;
use crate::proc::ProcId;
use crate::spec::LabName;
use crate::state::StateDir;

/// One that ran this long is started again at once.
const STABLE: Duration = Duration::from_secs(1);
/// Before one that ended early is started again.
const PAUSE: Duration = Duration::from_millis(200);

/// Memory that was freed is kept for what comes next: giving it back and taking it again is a good part of a request's time. So is
/// merging small pieces each time a larger one is asked for: threads keep many of them, and there are no bins of pieces that are
/// merged late. Not for what the process starts itself.
pub(crate) const MALLOC: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.arena_max=4:glibc.malloc.trim_threshold=268435456:glibc.malloc.mmap_threshold=33554432:\
     glibc.malloc.mxfast=0:glibc.malloc.tcache_count=2000",
);

/// What the process is told, in a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// Where objects are kept.
    pub(super) objects: PathBuf,
    /// Where keys and certificates are.
    pub(super) pki: PathBuf,
    /// Where nodes and pods reach it, once for each family of the lab.
    pub(super) addresses: Vec<SocketAddr>,
    /// The nodes: name, address of the kubelet, process that holds the namespaces.
    pub(super) kubelets: Vec<(String, IpAddr, ProcId)>,
}

impl Told {
    /// The authority that signs its certificate, and those of its clients. The certificate names where it is, and its service.
    pub(super) fn tls(&self) -> TlsOptions {
        let addresses = self.addresses.iter().map(SocketAddr::ip);
        let service = self.networks().own_addresses();
        TlsOptions {
            dir: Some(self.pki.clone()),
            names: addresses.chain(service).map(|ip| ip.to_string()).collect(),
        }
    }

    /// Services have addresses of the lab's families alone.
    fn networks(&self) -> Networks {
        let mut networks = Networks {
            server: self.addresses.clone(),
            ..Networks::default()
        };
        let has = |cidr: &IpNet| {
            let same = |at: &SocketAddr| at.is_ipv4() == cidr.addr().is_ipv4();
            self.addresses.iter().any(same)
        };
        networks.service_cidrs.retain(has);
        networks
    }
}

/// Starts the process and keeps it running; the two listeners are its standard input and output. The receiver hears how it
/// ended if it never came to serve.
pub(super) fn keep(
    name: &LabName,
    dir: &StateDir,
    told: &Told,
    listeners: [TcpListener; 2],
) -> anyhow::Result<oneshot::Receiver<String>> {
    let (tell, hear) = oneshot::channel();
    let keeper = Keeper {
        name: name.clone(),
        cgroup: Cgroup::of_lab(name)?.child("api-server"),
        dir: dir.clone(),
        told: dir.write_api_server_options(told)?,
        listeners: listeners.map(OwnedFd::from),
    };
    tokio::spawn(keeper.run(tell));
    Ok(hear)
}

struct Keeper {
    name: LabName,
    cgroup: Cgroup,
    dir: StateDir,
    told: PathBuf,
    listeners: [OwnedFd; 2],
}

impl Keeper {
    async fn run(self, failed: oneshot::Sender<String>) {
        let mut failed = Some(failed);
        loop {
            let began = Instant::now();
            let ended = match self.start() {
                Ok(mut child) => match child.wait().await {
                    Ok(status) => status.to_string(),
                    Err(e) => e.to_string(),
                },
                Err(e) => format!("{e:#}"),
            };
            tracing::warn!("the API server ended: {ended}");
            let early = began.elapsed() < STABLE;
            if let Some(failed) = failed.take().filter(|_| early) {
                let _ = failed.send(ended);
            }
            if early {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn start(&self) -> anyhow::Result<Child> {
        let path = self.dir.api_server_log();
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot open {}", path.display()))?;
        let [first, second] = &self.listeners;
        let copy = |listener: &OwnedFd| listener.try_clone().map(Stdio::from);
        let mut command = Command::from(init::command("api-server")?);
        command
            .arg(&self.told)
            .env(LAB_ENV, self.name.as_str())
            .envs([MALLOC])
            .stdin(copy(first)?)
            .stdout(copy(second)?)
            .stderr(log)
            .kill_on_drop(true);
        let child = command.spawn().context("cannot start the API server")?;
        self.cgroup.create()?;
        if let Some(pid) = child.id() {
            self.cgroup.join(pid as i32)?;
            self.dir.write_api_server(ProcId::of(pid as i32).as_ref())?;
        }
        Ok(child)
    }
}

/// Is the API server, as the file says. Ends when told to.
pub fn run(told: &Path) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "info".into()))
        .with_writer(io::stderr)
        .with_ansi(false)
        .try_init();
    let text = std::fs::read(told).with_context(|| format!("cannot read {}", told.display()))?;
    let told: Told = serde_json::from_slice(&text).context("malformed options")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(serve(told))
}

async fn serve(told: Told) -> anyhow::Result<()> {
    let tls = told.tls();
    let options = ServerOptions {
        store: StoreOptions {
            networks: told.networks(),
            data: Some(told.objects),
            ..StoreOptions::default()
        },
        tls,
        kubelets: Arc::new(KubeletWays::new(told.kubelets)?),
        ..ServerOptions::default()
    };
    let server = ApiServer::open(options).context("cannot start the API server")?;
    let mut serving = tokio::task::JoinSet::new();
    for listener in [taken(io::stdin())?, taken(io::stdout())?] {
        let server = server.clone();
        serving.spawn(async move { server.serve_tls(listener).await });
    }
    let mut term = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    tokio::select! {
        _ = term.recv() => {
            server.shutdown();
            Ok(())
        }
        ended = serving.join_next() => bail!("a listener ended: {ended:?}"),
    }
}

/// A listener that this process was started with in place of a stream.
fn taken(stream: impl AsFd) -> anyhow::Result<tokio::net::TcpListener> {
    let copied = stream.as_fd().try_clone_to_owned().map(TcpListener::from);
    let why = "this role is started by the supervisor, with its listeners";
    super::api::into_tokio(copied.context(why)?).context(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_the_families_of_the_lab() {
        let told = |addresses: &[&str]| Told {
            objects: PathBuf::new(),
            pki: PathBuf::new(),
            addresses: addresses.iter().map(|at| at.parse().unwrap()).collect(),
            kubelets: Vec::new(),
        };
        let (v4, v6) = ("192.168.10.100:6443", "[fd00:10::100]:6443");
        for (addresses, families, names) in [
            (
                &[v4, v6][..],
                &[true, false][..],
                &["192.168.10.100", "fd00:10::100", "10.96.0.1", "fd00:96::1"][..],
            ),
            (&[v4], &[true], &["192.168.10.100", "10.96.0.1"]),
            (&[v6], &[false], &["fd00:10::100", "fd00:96::1"]),
        ] {
            let told = told(addresses);
            let cidrs = told.networks().service_cidrs;
            let found: Vec<bool> = cidrs.iter().map(|c| c.addr().is_ipv4()).collect();
            assert_eq!(found, families);
            assert_eq!(told.tls().names, names);
        }
    }
}
