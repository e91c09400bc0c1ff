//! What the kubelet knows of its node, and how it acts inside it.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use crate::cgroup::Cgroup;
use crate::hosts::Host;
use crate::ns::Namespaces;
use crate::proc::ProcId;
use crate::spec::LabName;
use crate::state::StateDir;

/// A node as its kubelet sees it.
#[derive(Debug)]
pub struct Node {
    /// The lab.
    pub lab: LabName,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The lab's directory.
    pub state: StateDir,
    host: Arc<Host>,
    runtime: Handle,
}

impl Node {
    /// To be called inside the runtime that shall watch over child processes.
    pub fn new(lab: LabName, state: StateDir, host: Arc<Host>, addresses: Vec<IpAddr>) -> Node {
        Node {
            lab,
            name: host.name.clone(),
            addresses,
            state,
            host,
            runtime: Handle::current(),
        }
    }

    /// Runs something short in the node's namespaces.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.host.ns.run(work)
    }

    /// As [`Self::run`], without keeping a thread of the runtime waiting.
    pub async fn run_async<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let host = self.host.clone();
        aside(move || host.ns.enter().map(|()| work())).await?
    }

    /// Starts a process in the node's namespaces.
    pub async fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let runtime = self.runtime.clone();
        let work = move || {
            let _guard = runtime.enter();
            command.spawn()
        };
        self.run_async(work).await?
    }

    /// A TCP connection out of the node's network namespace.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.connect_in(None, to).await
    }

    /// A TCP connection out of a network namespace of the node, by its path there; `None` is the node's own.
    pub async fn connect_in(&self, net: Option<PathBuf>, to: SocketAddr) -> io::Result<TcpStream> {
        let make = move || {
            if let Some(net) = net {
                setns(File::open(net)?, CloneFlags::CLONE_NEWNET)?;
            }
            socket_for(to)
        };
        connected(self.run_async(make).await??, to).await
    }

    /// The process that holds its namespaces.
    pub fn holder(&self) -> &ProcId {
        &self.host.holder
    }

    /// The node's cgroup, as the root namespace sees it.
    pub fn cgroup(&self) -> &Cgroup {
        &self.host.cgroup
    }

    /// A path of the node as this process reaches it.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let root = self.host.holder.proc_path("root");
        root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Runs something on a thread of its own, which ends afterwards: for what changes its thread for good.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tell, hear) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("inside".into())
        .stack_size(512 << 10)
        .spawn(move || drop(tell.send(work())))?;
    hear.await
        .map_err(|_| io::Error::other("the thread inside the namespaces panicked"))
}

/// The ways from the API server to kubelets: out of the nodes themselves.
pub struct KubeletWays(Vec<Way>);

struct Way {
    node: String,
    address: IpAddr,
    inside: Arc<Namespaces>,
}

impl KubeletWays {
    /// To these nodes: name, address, process that holds the namespaces.
    pub fn new(nodes: Vec<(String, IpAddr, ProcId)>) -> io::Result<KubeletWays> {
        let way = |(node, address, holder): (String, IpAddr, ProcId)| {
            let inside = Arc::new(Namespaces::of_machine(holder.pid)?);
            Ok(Way {
                node,
                address,
                inside,
            })
        };
        nodes
            .into_iter()
            .map(way)
            .collect::<io::Result<_>>()
            .map(KubeletWays)
    }
}

impl apiserver::Kubelets for KubeletWays {
    fn connect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, io::Result<TcpStream>> {
        let found = self.0.iter().find(|way| way.node == node);
        Box::pin(async move {
            let way = found.ok_or_else(|| {
                let what = format!("the lab has no node {node:?}");
                io::Error::new(io::ErrorKind::NotFound, what)
            })?;
            let to = SocketAddr::new(way.address, super::serve::PORT);
            let inside = way.inside.clone();
            let socket = aside(move || inside.enter().and_then(|()| socket_for(to))).await??;
            connected(socket, to).await
        })
    }
}

fn socket_for(to: SocketAddr) -> io::Result<TcpSocket> {
    if to.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
}

async fn connected(socket: TcpSocket, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
