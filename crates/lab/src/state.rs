//! A lab's directory below /run: lock, state, logs, pod records. Other commands find a running lab through it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::proc::ProcId;
use crate::spec::{LabName, LabSpec};

/// Where the directories of all labs stand.
pub const BASE: &str = "/run/hypha-lab";

/// Where the objects of labs are kept, for labs that come back.
pub const DATA: &str = "/var/lib/hypha-lab";

/// Memory that every machine has as a file system, also where /run is on a disk.
const MEMORY: &str = "/dev/shm";

/// The namespace of agents and operator.
pub const COMPONENTS: &str = "kube-system";
/// The container of an agent.
pub const AGENT: &str = "cilium-agent";
/// The container of an operator.
pub const OPERATOR: &str = "cilium-operator";

/// How long a lock may be held by somebody who only looks.
const LOCK_LIMIT: Duration = Duration::from_secs(1);

/// A machine as other commands need it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineState {
    /// Host name.
    pub name: String,
    /// The process that holds its namespaces.
    pub holder: ProcId,
    /// Its cgroup in the root namespace.
    pub cgroup: PathBuf,
    /// Addresses with prefix lengths, of all links.
    pub addresses: Vec<String>,
    /// Pod CIDRs.
    pub pod_cidrs: Vec<String>,
    /// Inode of the network namespace, to find out whether it is really gone.
    pub net_inode: u64,
}

/// How far a lab is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Coming up.
    Starting,
    /// In service.
    Ready,
    /// Going down.
    Stopping,
}

/// What stands in `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabState {
    /// How it was asked for.
    pub spec: LabSpec,
    /// How far it is.
    pub phase: Phase,
    /// The process that runs it.
    pub supervisor: ProcId,
    /// The API server as this machine reaches it.
    pub api_url: String,
    /// The API server as nodes reach it.
    pub api_url_inside: String,
    /// The nodes, in order.
    pub nodes: Vec<MachineState>,
    /// The router.
    pub router: MachineState,
    /// The namespace with the bridges.
    pub fabric: MachineState,
}

impl LabState {
    /// A node, or the router.
    pub fn machine(&self, name: &str) -> Option<&MachineState> {
        self.nodes
            .iter()
            .chain([&self.router])
            .find(|m| m.name == name)
    }
}

/// A pod that runs, in `pods/<namespace>_<name>.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID of the API object.
    pub uid: String,
    /// The node it is on.
    pub node: String,
    /// Its containers.
    pub containers: Vec<ContainerRecord>,
}

/// A container that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    /// Name in the pod.
    pub name: String,
    /// Its first process.
    pub process: ProcId,
    /// Its cgroup in the root namespace.
    pub cgroup: PathBuf,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its working directory.
    pub dir: Option<PathBuf>,
}

/// The directories that a lab has in its own. Every pod that starts makes files in them.
pub(crate) const PARTS: [&str; 2] = ["logs", "pods"];

/// The directory of one lab.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

/// Says that this process runs the lab. Given up when dropped, also by a crash.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl StateDir {
    /// The directory of a lab; it need not exist.
    pub fn of(name: &LabName) -> StateDir {
        StateDir {
            root: Path::new(BASE).join(name.as_str()),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// It exists.
    pub fn exists(&self) -> bool {
        self.root.exists()
    }

    /// Where something in it stands.
    pub fn file(&self, rest: &str) -> PathBuf {
        self.root.join(rest)
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig")
    }

    /// The directory that outlives the lab: it has the API server's objects.
    pub fn data(&self) -> PathBuf {
        Path::new(DATA).join(self.root.file_name().unwrap_or_default())
    }

    /// The file with the API server's objects. Its directory is made.
    pub fn objects(&self) -> anyhow::Result<PathBuf> {
        self.data_file("objects.redb")
    }

    /// Something that outlives the lab. The directory of all such is made.
    pub fn data_file(&self, rest: &str) -> anyhow::Result<PathBuf> {
        let dir = self.data();
        fs::create_dir_all(&dir)
            .and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)))
            .with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir.join(rest))
    }

    /// Removes what outlives the lab, and the directory of all labs when it is empty then.
    pub fn remove_data(&self) -> anyhow::Result<()> {
        let dir = self.data();
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", dir.display()));
            }
            _ => {}
        }
        let _ = fs::remove_dir(DATA);
        Ok(())
    }

    /// The log of a container. The pod's UID keeps it apart from a pod of the same name that came before.
    pub fn container_log(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        self.file(&format!("logs/{namespace}_{pod}_{container}.log"))
    }

    fn pod_file(&self, namespace: &str, name: &str) -> PathBuf {
        self.file(&format!("pods/{namespace}_{name}.json"))
    }

    /// Makes the directory and takes the lock; an error when a lab of this name runs.
    pub fn acquire(&self) -> anyhow::Result<Lock> {
        fs::create_dir_all(&self.root)
            .with_context(|| format!("cannot make {}", self.root.display()))?;
        // Environments of containers stand in there.
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&self.root, private)
            .with_context(|| format!("cannot protect {}", self.root.display()))?;
        let end = Instant::now() + LOCK_LIMIT;
        loop {
            match self.try_lock()? {
                Some(lock) => {
                    self.make_parts()?;
                    let own = ProcId::of(std::process::id() as i32);
                    write_json(&self.file("supervisor.json"), &own)?;
                    return Ok(lock);
                }
                None if self.supervisor().is_none() && Instant::now() < end => {
                    // Somebody only looks whether the lab runs.
                    std::thread::sleep(Duration::from_millis(2));
                }
                None => bail!(
                    "a lab of this name runs already: `hypha lab down` ends it, --name starts one beside it"
                ),
            }
        }
    }

    /// Where [`PARTS`] stand when /run is on a disk: making a file takes that longer than all else that a kubelet does for a pod.
    pub(crate) fn memory(&self) -> PathBuf {
        let name = self.root.file_name().unwrap_or_default();
        Path::new(MEMORY).join(format!("hypha-lab-{}", name.display()))
    }

    fn make_parts(&self) -> anyhow::Result<()> {
        let memory = self.memory();
        let place = if !is_memory(&self.root) && make_private(&memory).is_ok() {
            &memory
        } else {
            &self.root
        };
        for part in PARTS {
            let (dir, link) = (place.join(part), self.root.join(part));
            let made = fs::create_dir_all(&dir).and_then(|()| match link.exists() {
                true => Ok(()),
                false => symlink(&dir, &link),
            });
            made.with_context(|| format!("cannot make {}", link.display()))?;
        }
        Ok(())
    }

    /// The process that runs the lab, from its first moment on.
    pub fn supervisor(&self) -> Option<ProcId> {
        read_json::<Option<ProcId>>(&self.file("supervisor.json"))
            .ok()??
            .filter(ProcId::alive)
    }

    /// The process of the API server, while there is one. Another one takes its place when it ends.
    pub fn api_server(&self) -> Option<ProcId> {
        read_json::<Option<ProcId>>(&self.file("api-server.json"))
            .ok()??
            .filter(ProcId::alive)
    }

    /// Writes which process the API server is.
    pub fn write_api_server(&self, process: Option<&ProcId>) -> anyhow::Result<()> {
        write_json(&self.file("api-server.json"), &process)
    }

    /// Writes what the API server is told; where that stands.
    pub fn write_api_server_options(&self, options: &impl Serialize) -> anyhow::Result<PathBuf> {
        let path = self.file("api-server-options.json");
        write_json(&path, options).map(|()| path)
    }

    /// The log of the API server.
    pub fn api_server_log(&self) -> PathBuf {
        self.file("api-server.log")
    }

    fn try_lock(&self) -> anyhow::Result<Option<Lock>> {
        let path = self.file("lock");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // The one who held it may have removed the directory just now.
            Ok(file) if !is_at(&file, &path) => bail!("{} is being removed", self.root.display()),
            Ok(file) => Ok(Some(Lock { _file: file })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// A supervisor runs this lab now.
    pub fn running(&self) -> bool {
        self.exists() && self.try_lock().is_ok_and(|lock| lock.is_none())
    }

    /// Reads the state; `None` when there is none.
    pub fn read(&self) -> anyhow::Result<Option<LabState>> {
        read_json(&self.file("state.json"))
    }

    /// Writes the state.
    pub fn write(&self, state: &LabState) -> anyhow::Result<()> {
        write_json(&self.file("state.json"), state)
    }

    /// Reads the record of a pod that runs.
    pub fn read_pod(&self, namespace: &str, name: &str) -> anyhow::Result<Option<PodRecord>> {
        read_json(&self.pod_file(namespace, name))
    }

    /// The records of all pods that run, by namespace and name.
    pub fn pods(&self) -> anyhow::Result<Vec<PodRecord>> {
        let dir = self.file("pods");
        let entries =
            fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
        let records = entries.flatten().map(|e| e.path());
        let records = records.filter(|p| p.extension().is_some_and(|e| e == "json"));
        let mut pods = Vec::new();
        for path in records {
            // A pod that ended in between has no record any more.
            pods.extend(read_json::<PodRecord>(&path)?);
        }
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(pods)
    }

    /// A container of agent or operator that runs, by its name ([`AGENT`], [`OPERATOR`]): on a node, or wherever it is. Its process
    /// is the agent or the operator itself. `None` while it is stopped or about to be started again.
    pub fn container(
        &self,
        name: &str,
        node: Option<&str>,
    ) -> anyhow::Result<Option<(PodRecord, ContainerRecord)>> {
        let pods = self.pods()?.into_iter();
        let mut pods =
            pods.filter(|p| p.namespace == COMPONENTS && node.is_none_or(|n| p.node == n));
        Ok(pods.find_map(|pod| {
            let wanted = |c: &&ContainerRecord| c.name == name && c.process.alive();
            let found = pod.containers.iter().find(wanted).cloned()?;
            Some((pod, found))
        }))
    }

    /// Writes the record of a pod.
    pub fn write_pod(&self, pod: &PodRecord) -> anyhow::Result<()> {
        write_json(&self.pod_file(&pod.namespace, &pod.name), pod)
    }

    /// Forgets a pod, unless another one has its name by now.
    pub fn remove_pod(&self, namespace: &str, name: &str, uid: &str) {
        if self
            .read_pod(namespace, name)
            .ok()
            .flatten()
            .is_some_and(|p| p.uid == uid)
        {
            let _ = fs::remove_file(self.pod_file(namespace, name));
        }
    }

    /// Removes the directory, and the one of all labs when it is empty then.
    pub fn remove(&self) -> anyhow::Result<()> {
        for dir in [&self.memory(), &self.root] {
            match fs::remove_dir_all(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {}", dir.display()));
                }
                _ => {}
            }
        }
        // Other labs may stand there.
        let _ = fs::remove_dir(BASE);
        Ok(())
    }
}

fn is_memory(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == TMPFS_MAGIC)
}

/// A directory in [`MEMORY`], where anybody may make some: one that is there has to be ours and closed to others.
fn make_private(dir: &Path) -> io::Result<()> {
    if !is_memory(Path::new(MEMORY)) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let there = fs::symlink_metadata(dir)?;
            let own = there.is_dir() && there.uid() == nix::unistd::geteuid().as_raw();
            match own && there.mode() & 0o077 == 0 {
                true => Ok(()),
                false => Err(e),
            }
        }
        made => made,
    }
}

/// The open file is the one at the path.
fn is_at(file: &File, path: &Path) -> bool {
    let at = fs::metadata(path).map(|m| m.ino()).ok();
    file.metadata().map(|m| m.ino()).ok() == at
}

/// The names of all labs that have a directory.
pub fn lab_names() -> Vec<LabName> {
    names_in(BASE)
}

/// The names of all labs that have objects.
pub fn kept_names() -> Vec<LabName> {
    names_in(DATA)
}

fn names_in(dir: &str) -> Vec<LabName> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<LabName> = entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    names.sort();
    names
}

fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("{} is malformed", path.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes beside and renames, so that a reader never sees half of it.
fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(&text)?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_takes_memory_that_is_its_own_alone() {
        let name: LabName = format!("memory-{}", std::process::id()).parse().unwrap();
        let dir = StateDir {
            root: std::env::temp_dir().join(name.as_str()),
        };
        let lock = dir.acquire().unwrap();
        fs::write(dir.container_log("n", "p", "c"), "said").unwrap();
        let there = fs::canonicalize(dir.file("logs")).unwrap();
        assert!(is_memory(&there) || !is_memory(Path::new(MEMORY)));
        drop(lock);
        dir.remove().unwrap();
        assert!(!there.exists() && !dir.memory().exists() && !dir.exists());
        // Somebody else's, or open to others: not taken.
        fs::create_dir(dir.memory()).unwrap();
        fs::set_permissions(dir.memory(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(make_private(&dir.memory()).is_err());
        let lock = dir.acquire().unwrap();
        assert_eq!(fs::read_dir(dir.memory()).unwrap().count(), 0);
        drop(lock);
        dir.remove().unwrap();
    }
}
