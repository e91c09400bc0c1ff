//! Network namespaces: open, make, remove, enter.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        stat::fstat,
        statfs::{FsType, fstatfs},
    },
};

use crate::{Error, Result};

const OWN: &str = "/proc/thread-self/ns/net";
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// An open network namespace. It lives as long as something refers to it, and this does.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Netns {
    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The kernel's number of the namespace; equal numbers are the same namespace.
    pub fn inode(&self) -> Result<u64> {
        Ok(fstat(&self.fd)
            .map_err(|e| failed("stat", &self.path)(e.into()))?
            .st_ino)
    }
    /// A second handle of the same namespace.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self
            .fd
            .try_clone()
            .map_err(failed("duplicate", &self.path))?;
        Ok(Self {
            fd,
            path: self.path.clone(),
        })
    }
    /// Brings the calling thread, and those that it starts, inside for good. To be done before any other thread runs.
    pub fn enter(&self) -> Result<()> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|e| failed("enter", &self.path)(e.into()))
    }
    /// Runs `work` inside, see [`run_in`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        run_in(self, work)
    }
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Netns { op, path, source }
}

/// The calling thread's namespace.
pub fn current() -> Result<Netns> {
    open(OWN)
}

/// Opens a namespace by path (`/run/netns/x`, `/proc/1/ns/net`); refuses files that are no namespace.
pub fn open(path: impl AsRef<Path>) -> Result<Netns> {
    let path = path.as_ref();
    let fd: OwnedFd = fs::File::open(path).map_err(failed("open", path))?.into();
    let kind = fstatfs(&fd)
        .map_err(|e| failed("stat", path)(e.into()))?
        .filesystem_type();
    if kind != NSFS_MAGIC {
        return Err(failed("open", path)(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a namespace file",
        )));
    }
    Ok(Netns {
        fd,
        path: path.to_owned(),
    })
}

/// Makes a namespace and keeps it alive at `path` (as `ip netns add` does). The directory must exist, the path must not.
pub fn create_at(path: impl AsRef<Path>) -> Result<Netns> {
    let path = path.as_ref();
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed("create", path))?;
    let made = on_thread(path, || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed("unshare", path)(e.into()))?;
        mount(
            Some(OWN),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|e| failed("mount", path)(e.into()))
    });
    match made.and_then(|r| r).and_then(|()| open(path)) {
        Ok(ns) => Ok(ns),
        Err(e) => {
            // Best effort: the caller gets the first error.
            let _ = delete_at(path);
            Err(e)
        }
    }
}

/// A new namespace without a name; it goes when the last handle and process do.
pub fn create_unnamed() -> Result<Netns> {
    let path = Path::new("(unnamed)");
    let ns = on_thread(path, || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed("unshare", path)(e.into()))?;
        open(OWN)
    })??;
    Ok(Netns {
        path: path.to_owned(),
        ..ns
    })
}

/// Takes a namespace's name away; content when there is none. It ends once nothing uses it any more.
pub fn delete_at(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: the file is there but nothing is mounted on it.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(e) => return Err(failed("unmount", path)(e.into())),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Runs `work` inside a namespace, on a short-lived thread, so that no other thread ever changes its namespace.
/// A panic of `work` goes on in the caller.
pub fn run_in<T: Send>(ns: impl AsFd, work: impl FnOnce() -> T + Send) -> Result<T> {
    let fd = ns.as_fd();
    let path = Path::new("(open file)");
    on_thread(path, move || {
        setns(fd, CloneFlags::CLONE_NEWNET).map_err(|e| failed("enter", path)(e.into()))?;
        Ok(work())
    })?
}

/// Runs `work` inside a namespace on the calling thread and returns to the one before. Cheaper than [`run_in`] by the cost
/// of a thread; only for single-threaded programs. When the way back fails the error is [`Error::Netns`] with the
/// operation `return`, and the thread must not be used any further.
pub fn visit<T>(ns: impl AsFd, work: impl FnOnce() -> T) -> Result<T> {
    let home = current()?;
    setns(ns.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|e| failed("enter", Path::new("(open file)"))(e.into()))?;
    let result = work();
    setns(&home, CloneFlags::CLONE_NEWNET).map_err(|e| failed("return", home.path())(e.into()))?;
    Ok(result)
}

/// Whether two files are the same namespace.
pub fn same(a: impl AsFd, b: impl AsFd) -> Result<bool> {
    let id = |fd: BorrowedFd<'_>| -> Result<(u64, u64)> {
        let file = fs::File::from(
            fd.try_clone_to_owned()
                .map_err(failed("duplicate", Path::new("(open file)")))?,
        );
        let meta = file
            .metadata()
            .map_err(failed("stat", Path::new("(open file)")))?;
        Ok((meta.dev(), meta.ino()))
    };
    Ok(id(a.as_fd())? == id(b.as_fd())?)
}

fn on_thread<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let handle = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(failed("start a thread", path))?;
        handle
            .join()
            .map_err(|panic| std::panic::resume_unwind(panic))
    })
}
