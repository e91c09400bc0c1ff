//! Entering the namespaces of a machine or a pod.
//!
//! Namespaces belong to threads: work inside a machine runs on a thread of its own that ends afterwards, and what
//! that thread starts inherits them. So no `fork` and no code between fork and exec is needed.

use std::fs::File;
use std::io;

use nix::sched::{CloneFlags, setns, unshare};

/// Open handles to the namespaces of a process. They stay valid, and alive, when the process ends.
#[derive(Debug)]
pub struct Namespaces {
    /// In the order in which they must be entered: the mount namespace last, because it decides what /proc is.
    handles: Vec<(CloneFlags, File)>,
}

/// Namespaces of a machine: everything but processes and System V IPC.
const MACHINE: &[(&str, CloneFlags)] = &[
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Namespaces of a container.
const CONTAINER: &[(&str, CloneFlags)] = &[
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

impl Namespaces {
    /// Those of a machine's holder process.
    pub fn of_machine(pid: i32) -> io::Result<Namespaces> {
        Self::open(pid, MACHINE)
    }

    /// Those of a container's first process. Processes started after [`Self::enter`] are in its pid namespace, the
    /// caller itself is not.
    pub fn of_container(pid: i32) -> io::Result<Namespaces> {
        Self::open(pid, CONTAINER)
    }

    fn open(pid: i32, kinds: &[(&str, CloneFlags)]) -> io::Result<Namespaces> {
        let open = |(name, flag): &(&str, CloneFlags)| {
            Ok((*flag, File::open(format!("/proc/{pid}/ns/{name}"))?))
        };
        Ok(Namespaces {
            handles: kinds.iter().map(open).collect::<io::Result<_>>()?,
        })
    }

    /// The handle of the network namespace.
    pub fn net(&self) -> Option<&File> {
        self.handles
            .iter()
            .find(|(f, _)| *f == CloneFlags::CLONE_NEWNET)
            .map(|(_, file)| file)
    }

    /// Moves the calling thread into them, for good.
    pub fn enter(&self) -> io::Result<()> {
        // A thread that shares its root and working directory with others may not change the mount namespace.
        unshare(CloneFlags::CLONE_FS)?;
        for (flag, handle) in &self.handles {
            setns(handle, *flag)?;
        }
        Ok(())
    }

    /// Runs `work` inside and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let task = scope.spawn(|| self.enter().map(|()| work()));
            task.join().unwrap_or_else(|_| {
                Err(io::Error::other(
                    "the thread inside the namespaces panicked",
                ))
            })
        })
    }
}
