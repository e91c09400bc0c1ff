//! The lab's branch of the cgroup2 tree. Every process of a lab lives in it, so it is also the list of what to end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::spec::LabName;

/// Why the cgroup tree is not usable.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Nothing of type cgroup2 is mounted.
    #[error(
        "no cgroup2 file system is mounted: the lab needs one (mount -t cgroup2 none /sys/fs/cgroup/unified)"
    )]
    NotMounted,
    /// A file operation failed.
    #[error("cannot {action} cgroup {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which group.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Processes did not end.
    #[error("processes of cgroup {path} are still there after {limit:?}: {pids:?}")]
    Busy {
        /// The group.
        path: PathBuf,
        /// How long it was waited.
        limit: Duration,
        /// Who is left.
        pids: Vec<i32>,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io {
        action,
        path,
        source,
    }
}

/// A group of processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

/// Where cgroup2 is mounted, out of the text of /proc/mounts.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (dir, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(dir.replace("\\040", " ")))
    })
}

impl Cgroup {
    /// The branch of a lab; it need not exist.
    pub fn of_lab(name: &LabName) -> Result<Cgroup, CgroupError> {
        let mounts = fs::read_to_string("/proc/mounts")
            .map_err(io_error("find", Path::new("/proc/mounts")))?;
        let root = mount_point(&mounts).ok_or(CgroupError::NotMounted)?;
        Ok(Cgroup(root.join(format!("hypha-lab-{name}"))))
    }

    /// The group the caller is in.
    pub fn own() -> Result<Cgroup, CgroupError> {
        let read = |path: &str| fs::read_to_string(path).map_err(io_error("find", Path::new(path)));
        let root = mount_point(&read("/proc/mounts")?).ok_or(CgroupError::NotMounted)?;
        let groups = read("/proc/self/cgroup")?;
        let path = groups.lines().find_map(|l| l.strip_prefix("0::/"));
        Ok(Cgroup(root.join(path.unwrap_or_default())))
    }

    /// A group at a path, as seen by the caller.
    pub fn at(path: impl Into<PathBuf>) -> Cgroup {
        Cgroup(path.into())
    }

    /// A group below this one; it need not exist.
    pub fn child(&self, name: &str) -> Cgroup {
        Cgroup(self.0.join(name))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// It exists.
    pub fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Makes it and its parents.
    pub fn create(&self) -> Result<(), CgroupError> {
        fs::create_dir_all(&self.0).map_err(io_error("create", &self.0))
    }

    /// Moves a process into it; 0 is the caller.
    pub fn join(&self, pid: i32) -> Result<(), CgroupError> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).map_err(io_error("join", &self.0))
    }

    /// The processes in it and below.
    pub fn pids(&self) -> Vec<i32> {
        let mut all = Vec::new();
        collect_pids(&self.0, &mut all);
        all.sort_unstable();
        all
    }

    /// Ends every process in it and below at once.
    fn kill(&self) {
        if fs::write(self.0.join("cgroup.kill"), "1").is_err() {
            // Kernels before 5.14. Whoever is in this group was put there by the lab.
            for pid in self.pids() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Ends every process and removes the group with all below. Nothing to do when it is not there.
    pub fn destroy(&self, limit: Duration) -> Result<(), CgroupError> {
        let end = Instant::now() + limit;
        while self.exists() {
            self.kill();
            match remove_tree(&self.0) {
                Ok(()) => return Ok(()),
                Err(e) if Instant::now() >= end => {
                    let pids = self.pids();
                    if pids.is_empty() {
                        return Err(io_error("remove", &self.0)(e));
                    }
                    return Err(CgroupError::Busy {
                        path: self.0.clone(),
                        limit,
                        pids,
                    });
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        Ok(())
    }
}

fn subgroups(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
}

fn collect_pids(dir: &Path, all: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process that our pid namespace does not see; as a target of kill(2) it would be ourselves.
    all.extend(
        text.lines()
            .filter_map(|l| l.parse::<i32>().ok())
            .filter(|p| *p > 0),
    );
    for sub in subgroups(dir) {
        collect_pids(&sub, all);
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for sub in subgroups(dir) {
        remove_tree(&sub)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_of_hybrid_and_pure_layouts() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            mount_point(hybrid).unwrap(),
            Path::new("/sys/fs/cgroup/unified")
        );
        assert_eq!(
            mount_point("none /a\\040b cgroup2 rw 0 0").unwrap(),
            Path::new("/a b")
        );
        assert_eq!(mount_point("cgroup2 /x tmpfs rw 0 0"), None);
    }
}
