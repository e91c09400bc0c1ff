//! A small kubelet: for every pod of its node a sandbox made through CNI, volumes, and the containers' processes.
//!
//! [`worker`] lives a pod's life and [`runner`] a container's; both act through [`process`], [`sandbox`] and [`volumes`].
//! [`plan`], [`env`], [`images`], [`status`] and the decisions of [`probe`] and [`logs`] are pure. [`serve`] is the kubelet's
//! own API: exec, attach, port forwarding, logs.

pub mod cni;
pub mod env;
mod events;
mod handle;
pub mod images;
pub mod logs;
pub mod node;
mod objects;
pub mod plan;
pub mod probe;
mod prober;
mod process;
pub mod restart;
mod runner;
mod sandbox;
pub mod serve;
mod starter;
pub mod status;
pub mod volumes;
mod worker;
mod writer;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use tokio::sync::{Semaphore, watch};

pub use objects::Objects;
pub use plan::DEFAULT_PATH;

use crate::init::rootfs::Bind;
use cni::Cni;
use events::Recorder;
use handle::Pods;
use node::Node;
use starter::Starter;
use worker::{Seen, Worker};

/// What all workers of a node share.
pub(crate) struct Context {
    node: Arc<Node>,
    starter: Starter,
    cni: Cni,
    client: Client,
    events: Recorder,
    objects: Arc<Objects>,
    pods: Pods,
    cpus: usize,
    memory: u64,
    /// The lab's own tools, where the host lacks the real ones.
    tools: Vec<Bind>,
    /// This project's programs, under all their names.
    own: Vec<Bind>,
    /// The longest pause before a container starts again.
    longest_pause: Duration,
    /// Places for pods that start.
    starts: Arc<Semaphore>,
}

/// Names a program that stands for `hypha` in containers, for tests.
const HYPHA_ENV: &str = "HYPHA_LAB_AGENT";

/// This project's programs in containers of its image.
fn own_programs() -> anyhow::Result<Vec<Bind>> {
    const NAMES: [&str; 7] = [
        "hypha",
        "cilium",
        "cilium-dbg",
        "cilium-health",
        "cilium-operator",
        "cilium-operator-generic",
        "hubble",
    ];
    let hypha = match std::env::var_os(HYPHA_ENV) {
        Some(path) => path.into(),
        None => crate::init::hypha()?,
    };
    let plugin = crate::init::exe()?.with_file_name("hypha-cni");
    let bind = |from: &Path, name: &str| Bind {
        from: from.to_owned(),
        to: Path::new("/usr/local/bin").join(name),
        read_only: true,
        ..Bind::default()
    };
    let plugin = plugin.exists().then(|| bind(&plugin, "hypha-cni"));
    Ok(NAMES
        .iter()
        .map(|name| bind(&hypha, name))
        .chain(plugin)
        .collect())
}

/// Where a node keeps the lab's own tools.
const TOOLS: &str = "/run/kubelet/bin";

/// Where containers with these tools have this program.
const PROGRAM: &str = "/usr/local/lib/hypha/lab";

/// Writes the lab's own tools, as scripts that start this program, and says where they go in containers.
fn make_tools(node: &Node) -> anyhow::Result<Vec<Bind>> {
    let exe = crate::init::exe()?;
    let dir = node.path(TOOLS);
    std::fs::create_dir_all(&dir)?;
    // Wherever it stands, containers may have something else there.
    let mut made = vec![Bind {
        from: exe,
        to: PROGRAM.into(),
        read_only: true,
        ..Bind::default()
    }];
    for tool in crate::workload::tools::TOOLS {
        if runner::exists(tool) {
            continue;
        }
        let script = format!(
            "#!/bin/sh\nexec {PROGRAM} lab {} tool {tool} -- \"$@\"\n",
            crate::init::SUBCOMMAND
        );
        let file = dir.join(tool);
        std::fs::write(&file, script)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
        made.push(Bind {
            from: Path::new(TOOLS).join(tool),
            to: Path::new("/usr/local/bin").join(tool),
            read_only: true,
            ..Bind::default()
        });
    }
    Ok(made)
}

/// The kubelet of one node.
pub struct Kubelet {
    context: Arc<Context>,
    workers: BTreeMap<String, watch::Sender<Seen>>,
}

/// Processors and memory (bytes) of this machine: every node has all of it.
pub fn machine_size() -> (usize, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus, kib.unwrap_or(0) << 10)
}

/// How many pods of a node start at a time, when the machine has so many processors and nodes: in all somewhat more than
/// processors, as a start also waits for the kernel.
fn places(cpus: usize, nodes: usize) -> usize {
    (cpus * 2).div_ceil(nodes.max(1)).max(2)
}

impl Kubelet {
    /// A kubelet, one of `nodes` on this machine, that takes CNI plugins from these directories; `longest_pause` is the most it
    /// waits before a container starts again.
    pub fn new(
        node: Arc<Node>,
        nodes: usize,
        client: Client,
        cni_path: Vec<PathBuf>,
        objects: Arc<Objects>,
        longest_pause: Duration,
    ) -> anyhow::Result<Kubelet> {
        let (cpus, memory) = machine_size();
        let tools = make_tools(&node).unwrap_or_else(|e| {
            tracing::warn!(node = node.name, "pods have no tools of the lab: {e:#}");
            Vec::new()
        });
        let context = Context {
            tools,
            own: own_programs()?,
            longest_pause,
            starts: Arc::new(Semaphore::new(places(cpus, nodes))),
            starter: Starter::new(node.clone()),
            cni: Cni::new(node.clone(), cni_path),
            events: Recorder::new(client.clone(), node.name.clone()),
            node,
            client,
            objects,
            pods: Pods::default(),
            cpus,
            memory,
        };
        Ok(Kubelet {
            context: Arc::new(context),
            workers: BTreeMap::new(),
        })
    }

    /// Takes note of a pod of this node as the API shows it now; `gone` when it was removed there.
    pub fn observe(&mut self, pod: Arc<Pod>, gone: bool) {
        self.workers.retain(|_, worker| !worker.is_closed());
        let uid = pod.uid().unwrap_or_default();
        let seen = Seen { pod, gone };
        match self.workers.get(&uid) {
            Some(worker) => drop(worker.send(seen)),
            None if gone => {}
            None => {
                let (tell, hear) = watch::channel(seen);
                tokio::spawn(Worker::new(self.context.clone(), hear).run());
                self.workers.insert(uid, tell);
            }
        }
    }

    /// Serves the kubelet's API on its node, for the life of the lab, to those who have access.
    pub fn serve(&self, access: Arc<serve::access::Access>) -> anyhow::Result<()> {
        serve::start(self.context.clone(), access)
    }

    /// To ask whether the node's network takes pods.
    pub fn network(&self) -> Network {
        Network(self.context.clone())
    }
}

/// The network of a node, as CNI answers for it.
pub struct Network(Arc<Context>);

impl Network {
    /// Whether it takes pods.
    pub async fn check(&self) -> Result<(), cni::CniError> {
        self.0.cni.status().await
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nodes_share_the_machine() {
        let places = |cpus, nodes| super::places(cpus, nodes);
        assert_eq!([places(2, 1), places(2, 3), places(16, 3)], [4, 2, 11]);
        assert_eq!(
            [places(1, 1), places(1, 0)],
            [2, 2],
            "never one behind the other"
        );
    }
}
