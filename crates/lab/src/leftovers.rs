//! What a lab could leave behind, looked for. After `down` the list is empty.

use std::fmt;
use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::PathBuf;

use crate::cgroup::Cgroup;
use crate::init::LAB_ENV;
use crate::spec::LabName;
use crate::state::{LabState, StateDir};

/// One thing that is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// A process of the lab.
    Process {
        /// Its id.
        pid: i32,
        /// What it is.
        command: String,
    },
    /// A network namespace that a process holds.
    Namespace {
        /// Its inode.
        inode: u64,
        /// Who holds it.
        pid: i32,
    },
    /// The lab's cgroup.
    Cgroup(PathBuf),
    /// A mount in the root mount namespace.
    Mount(String),
    /// A directory of the lab.
    StateDir(PathBuf),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leftover::Process { pid, command } => write!(f, "process {pid} ({command})"),
            Leftover::Namespace { inode, pid } => {
                write!(f, "network namespace {inode}, held by process {pid}")
            }
            Leftover::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Leftover::Mount(line) => write!(f, "mount {line}"),
            Leftover::StateDir(path) => write!(f, "directory {}", path.display()),
        }
    }
}

/// The network namespaces of a lab that runs, to give to [`leftovers`] after its end.
pub fn namespaces_of(state: &LabState) -> Vec<u64> {
    state
        .nodes
        .iter()
        .chain([&state.router, &state.fabric])
        .map(|m| m.net_inode)
        .collect()
}

/// Everything of this lab that is still on the machine. `namespaces` are inodes of network namespaces it had.
/// Links live in namespaces of the lab, and pins in mount namespaces of the lab: they are gone when those are.
pub fn leftovers(name: &LabName, namespaces: &[u64]) -> Vec<Leftover> {
    let mut found = processes(name, namespaces);
    found.extend(
        Cgroup::of_lab(name)
            .ok()
            .filter(Cgroup::exists)
            .map(|c| Leftover::Cgroup(c.path().to_owned())),
    );
    let dir = StateDir::of(name);
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = dir.path().to_string_lossy().into_owned();
    found.extend(
        text.lines()
            .filter(|l| l.contains(&path))
            .map(|l| Leftover::Mount(l.to_owned())),
    );
    let dirs = [dir.path().to_owned(), dir.memory(), dir.data()];
    let there = dirs.into_iter().filter(|d| d.exists());
    found.extend(there.map(Leftover::StateDir));
    found
}

fn processes(name: &LabName, namespaces: &[u64]) -> Vec<Leftover> {
    let wanted = format!("{LAB_ENV}={name}");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.flat_map(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let ours = environ.split(|b| *b == 0).any(|v| v == wanted.as_bytes());
        let process = ours.then(|| Leftover::Process {
            pid,
            command: command_line(pid),
        });
        let inode = fs::metadata(format!("/proc/{pid}/ns/net"))
            .map(|m| m.st_ino())
            .unwrap_or(0);
        let namespace = namespaces
            .contains(&inode)
            .then_some(Leftover::Namespace { inode, pid });
        [process, namespace].into_iter().flatten()
    })
    .collect()
}

fn command_line(pid: i32) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}
