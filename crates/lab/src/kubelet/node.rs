//! What the kubelet knows of its node, and how it acts inside it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use crate::cgroup::Cgroup;
use crate::hosts::Host;
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

    /// Starts a process in the node's namespaces.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        self.run(|| {
            let _guard = self.runtime.enter();
            command.spawn()
        })?
    }

    /// The node's cgroup, as the root namespace sees it.
    pub fn cgroup(&self) -> &Cgroup {
        &self.host.cgroup
    }
}
