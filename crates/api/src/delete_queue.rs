//! Deletions that the CNI plugin could not hand to the agent.
//!
//! The plugin, when the agent cannot be reached or is not ready: lock the queue, **try the agent once more**, and only then
//! push. The agent, when it starts: listen and be ready to delete first, then lock and drain. In whichever order the two meet,
//! either the second try succeeds or the entry is there when the agent drains; none is lost. Draining now and then later
//! catches what came while the agent hung.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};

use crate::path::EndpointId;

/// Name of the directory below the agent's state directory.
pub const DIRECTORY: &str = "deleteQueue";
/// More entries than this are refused: something else is wrong then.
pub const MAX_ENTRIES: usize = 1024;
const MAX_ENTRY: u64 = 4096;
const LOCK: &str = "lockfile";
const ENDING: &str = "delete";
const POLL: Duration = Duration::from_millis(5);

/// One deletion to be done later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// Container (sandbox) id.
    pub container_id: String,
    /// Interface inside the container.
    pub interface: String,
}

impl Deletion {
    /// The endpoint to delete.
    pub fn endpoint(&self) -> EndpointId {
        EndpointId::attachment(&self.container_id, &self.interface)
    }

    /// One name per attachment, so that a repeated deletion is one entry.
    fn file_name(&self) -> Option<String> {
        let plain = |text: &str, max: usize| {
            let first = text.bytes().next().is_some_and(|b| b != b'.');
            first && text.len() <= max && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        };
        let sound = plain(&self.container_id, 128) && plain(&self.interface, 15);
        sound.then(|| format!("{}:{}.{ENDING}", self.container_id, self.interface))
    }
}

/// A failed operation on the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A file operation failed.
    #[error("deletion queue: {op} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Somebody else holds the lock for too long.
    #[error("deletion queue {}: another process has held the lock for {seconds} s", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// Too many entries wait.
    #[error("deletion queue {}: {MAX_ENTRIES} deletions wait for the agent already", path.display())]
    Full {
        /// The directory.
        path: PathBuf,
    },
    /// The attachment cannot be a file name.
    #[error(
        "deletion queue: container id or interface name has characters or a length that no runtime uses"
    )]
    Name,
}

/// The queue, locked: nobody else reads or writes it until this is dropped.
#[derive(Debug)]
pub struct DeleteQueue {
    dir: PathBuf,
    _lock: Flock<fs::File>,
}

/// What [`DeleteQueue::drain`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Entries done and removed.
    pub done: usize,
    /// Entries that failed and stay.
    pub kept: usize,
    /// Files that were no entry; removed.
    pub unreadable: usize,
}

impl DeleteQueue {
    /// Locks the queue in `dir` (made if need be), waiting at most this long.
    pub fn lock(dir: &Path, wait: Duration) -> Result<Self, QueueError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed("create", dir))?;
        let path = dir.join(LOCK);
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        let end = Instant::now() + wait;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => {
                    return Ok(Self {
                        dir: dir.to_owned(),
                        _lock: lock,
                    });
                }
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
                Err((_, e)) => return Err(failed("lock", &path)(e.into())),
            }
            if Instant::now() >= end {
                return Err(QueueError::Locked {
                    path: dir.to_owned(),
                    seconds: wait.as_secs(),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Adds a deletion; the same one twice is one entry.
    pub fn push(&self, deletion: &Deletion) -> Result<(), QueueError> {
        let name = deletion.file_name().ok_or(QueueError::Name)?;
        let path = self.dir.join(&name);
        if !path.exists() && self.files()?.len() >= MAX_ENTRIES {
            return Err(QueueError::Full {
                path: self.dir.clone(),
            });
        }
        let temporary = self.dir.join(format!("{name}.tmp"));
        let text = serde_json::to_vec(deletion).map_err(|e| failed("encode", &path)(e.into()))?;
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            io::Write::write_all(&mut file, &text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(failed("write", &path))
    }

    /// Waiting deletions, in order of their names.
    pub fn entries(&self) -> Result<Vec<Deletion>, QueueError> {
        Ok(self.files()?.iter().filter_map(|path| read(path)).collect())
    }

    /// Does every waiting deletion and removes those for which `work` says that they are done.
    pub fn drain(&self, mut work: impl FnMut(&Deletion) -> bool) -> Result<Drained, QueueError> {
        let mut drained = Drained::default();
        for path in self.files()? {
            let remove = match read(&path) {
                Some(deletion) if work(&deletion) => {
                    drained.done += 1;
                    true
                }
                Some(_) => {
                    drained.kept += 1;
                    false
                }
                None => {
                    drained.unreadable += 1;
                    true
                }
            };
            if remove {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(drained)
    }

    fn files(&self) -> Result<Vec<PathBuf>, QueueError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let path = entry.map_err(failed("list", &self.dir))?.path();
            if path.extension().is_some_and(|e| e == ENDING) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

fn read(path: &Path) -> Option<Deletion> {
    if fs::symlink_metadata(path).ok()?.len() > MAX_ENTRY {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> QueueError + use<> {
    let path = path.to_owned();
    move |source| QueueError::Io { op, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletion(container: &str) -> Deletion {
        Deletion {
            container_id: container.into(),
            interface: "eth0".into(),
        }
    }

    fn lock(dir: &Path) -> DeleteQueue {
        DeleteQueue::lock(dir, Duration::from_secs(5)).unwrap()
    }

    #[test]
    fn pushed_once_drained_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("q");
        for id in ["b", "a", "b"] {
            lock(&at).push(&deletion(id)).unwrap();
        }
        fs::write(at.join("junk.delete"), "{").unwrap();
        let queue = lock(&at);
        assert_eq!(queue.entries().unwrap(), [deletion("a"), deletion("b")]);
        assert_eq!(
            queue.drain(|d| d.container_id == "a").unwrap(),
            Drained {
                done: 1,
                kept: 1,
                unreadable: 1
            }
        );
        assert_eq!(
            queue.drain(|_| true).unwrap(),
            Drained {
                done: 1,
                kept: 0,
                unreadable: 0
            }
        );
        assert_eq!(queue.entries().unwrap(), []);
    }

    #[test]
    fn the_lock_is_exclusive_and_the_wait_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path());
        let error = DeleteQueue::lock(dir.path(), Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, QueueError::Locked { .. }), "{error}");
        drop(held);
        lock(dir.path());
    }

    #[test]
    fn the_queue_is_bounded_but_repeats_still_fit() {
        let dir = tempfile::tempdir().unwrap();
        let queue = lock(dir.path());
        for i in 0..MAX_ENTRIES {
            fs::write(
                dir.path().join(format!("c{i}:eth0.delete")),
                serde_json::to_vec(&deletion(&format!("c{i}"))).unwrap(),
            )
            .unwrap();
        }
        assert!(matches!(
            queue.push(&deletion("new")),
            Err(QueueError::Full { .. })
        ));
        queue.push(&deletion("c5")).unwrap();
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let queue = lock(dir.path());
        for bad in ["", "../x", ".hidden", "a/b", "a b", &"x".repeat(129)] {
            assert!(
                matches!(queue.push(&deletion(bad)), Err(QueueError::Name)),
                "{bad}"
            );
        }
    }
}
