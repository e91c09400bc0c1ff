//! Machines that run: their holder processes and the links between them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};

use crate::build;
use crate::cgroup::Cgroup;
use crate::init::holder::{HolderSpec, READY};
use crate::init::{self, LAB_ENV};
use crate::ns::Namespaces;
use crate::proc::ProcId;
use crate::spec::LabSpec;
use crate::topology::{Machine, Topology, plan, sysctls};

/// One machine that runs. Ends when dropped.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The process that holds its namespaces.
    pub holder: ProcId,
    /// Its namespaces.
    pub ns: Namespaces,
    /// Its cgroup, as the root namespace sees it.
    pub cgroup: Cgroup,
    child: Child,
}

/// A holder on its way up.
struct Starting {
    name: String,
    cgroup: Cgroup,
    child: Child,
}

impl Starting {
    fn new(
        lab: &LabSpec,
        root: &Cgroup,
        name: &str,
        mounts: bool,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Starting> {
        let cgroup = root.child(name);
        let spec = HolderSpec {
            name: name.to_owned(),
            cgroup: cgroup.path().to_owned(),
            sysctls: settings
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            mounts,
        };
        let mut command = init::command("holder")?;
        command
            .env(LAB_ENV, lab.name.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start the holder of {name}"))?;
        if let Some(mut pipe) = child.stdin.take() {
            let _ = pipe.write_all(&serde_json::to_vec(&spec)?);
        }
        Ok(Starting {
            name: name.to_owned(),
            cgroup,
            child,
        })
    }

    fn finish(mut self) -> anyhow::Result<Host> {
        let mut line = String::new();
        if let Some(out) = self.child.stdout.take() {
            BufReader::new(out)
                .read_line(&mut line)
                .with_context(|| format!("cannot hear from {}", self.name))?;
        }
        if line.trim_end() != READY {
            let status = self.child.wait().context("cannot wait for a holder")?;
            bail!(
                "machine {} did not come up ({status}); its error stands in the supervisor's log",
                self.name
            );
        }
        let pid = self.child.id() as i32;
        let holder = ProcId::of(pid)
            .with_context(|| format!("the holder of {} ended at once", self.name))?;
        let ns = Namespaces::of_machine(pid)
            .with_context(|| format!("no namespaces of {}", self.name))?;
        Ok(Host {
            name: self.name,
            holder,
            ns,
            cgroup: self.cgroup,
            child: self.child,
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All machines of a lab.
#[derive(Debug)]
pub struct Network {
    /// The plan it follows.
    pub topology: Topology,
    /// The namespace with the bridges.
    pub fabric: Host,
    /// The nodes in order.
    pub nodes: Vec<Arc<Host>>,
    /// The router.
    pub router: Arc<Host>,
}

/// The fabric forwards frames and has no addresses.
const FABRIC_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

impl Network {
    /// Brings all machines up and joins them.
    pub fn create(spec: &LabSpec, root: &Cgroup) -> anyhow::Result<Network> {
        let topology = plan(spec);
        let settings = sysctls(spec);
        let fabric = Starting::new(spec, root, "fabric", false, FABRIC_SYSCTLS)?;
        let machines = topology
            .machines()
            .map(|m| Starting::new(spec, root, &m.name, true, &settings));
        // All start before the first is waited for; whoever came up when another failed ends by being dropped.
        let machines = machines.collect::<Vec<_>>();
        let fabric = fabric.finish();
        let mut hosts = machines
            .into_iter()
            .map(|m| m?.finish())
            .collect::<Vec<_>>();
        let router = Arc::new(hosts.pop().context("a lab has a router")??);
        let nodes = hosts
            .into_iter()
            .map(|h| h.map(Arc::new))
            .collect::<anyhow::Result<_>>()?;
        let network = Network {
            topology,
            fabric: fabric?,
            nodes,
            router,
        };
        network.join()?;
        Ok(network)
    }

    fn join(&self) -> anyhow::Result<()> {
        let handles: BTreeMap<&str, _> = self
            .hosts()
            .filter_map(|h| Some((h.name.as_str(), h.ns.net()?.as_fd())))
            .collect();
        let fabric = self
            .fabric
            .ns
            .net()
            .context("the fabric has no network namespace")?;
        build::connect(&self.topology, fabric.as_fd(), &handles)
            .context("cannot make the lab's links")?;
        for (machine, host) in self.topology.machines().zip(self.hosts()) {
            let net = host
                .ns
                .net()
                .context("a machine has no network namespace")?;
            build::configure(machine, net.as_fd())
                .with_context(|| format!("cannot configure {}", machine.name))?;
        }
        Ok(())
    }

    /// Nodes, then the router.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.nodes.iter().chain(std::iter::once(&self.router))
    }

    /// A machine of this name.
    pub fn host(&self, name: &str) -> Option<&Arc<Host>> {
        self.hosts().find(|h| h.name == name)
    }

    /// The plan of a node.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.topology.machines().find(|m| m.name == name)
    }
}
