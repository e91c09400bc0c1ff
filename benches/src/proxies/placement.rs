//! Which processors threads run on. Left alone, a client meets its proxy on one processor in one second and on two in the next, and
//! waking up another processor takes several times what any proxy does.
use std::{fs, path::Path};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::forwarder::Forwarder;

/// Where clients and servers run, and where proxies.
pub struct Placement {
    pub name: &'static str,
    ends: usize,
    between: usize,
}

/// Threads of this process that are held in their place until the value ends.
pub struct Held(CpuSet);

impl Placement {
    /// Together on one processor, and on two if there are two.
    ///
    /// # Errors
    /// The processors of this process are not known.
    pub fn all() -> Result<Vec<Self>> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let is_allowed = |at: &usize| allowed.is_set(*at).unwrap_or_default();
        let mut processors = (0..CpuSet::count()).filter(is_allowed);
        let one = processors.next().context("there is no processor")?;
        let together = Self {
            name: "one-core",
            ends: one,
            between: one,
        };
        let apart = processors.next().map(|other| Self {
            name: "two-cores",
            ends: one,
            between: other,
        });
        Ok([together].into_iter().chain(apart).collect())
    }

    /// Holds this process, and with it what it starts from then on, and these proxies in their places.
    ///
    /// # Errors
    /// The system does not let it.
    pub fn hold<'a>(&self, proxies: impl Iterator<Item = &'a Forwarder>) -> Result<Held> {
        let held = Held(sched_getaffinity(Pid::from_raw(0))?);
        let only = |processor| {
            let mut set = CpuSet::new();
            set.set(processor).map(|()| set)
        };
        place(Path::new("/proc/self"), &only(self.ends)?)?;
        for proxy in proxies {
            for process in proxy.processes()? {
                place(&process, &only(self.between)?)?;
            }
        }
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What could be done a moment ago can be undone.
        let _ = place(Path::new("/proc/self"), &self.0);
    }
}

/// Puts all threads of a process there.
fn place(process: &Path, processors: &CpuSet) -> Result<()> {
    for thread in fs::read_dir(process.join("task"))?.flatten() {
        let number = thread.file_name().to_string_lossy().parse()?;
        match sched_setaffinity(Pid::from_raw(number), processors) {
            // It has ended meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).context("placing a thread on a processor"),
        }
    }
    Ok(())
}
