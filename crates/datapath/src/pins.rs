//! The bpffs: where maps, programs and links are pinned, and how a pin is replaced.
use std::{
    fs, io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::{Error, Result, sys};

/// Suffix of a pin that is about to take its place (the bpffs allows no dots).
const NEW: &str = "_new";

/// Directory of the maps.
pub(crate) const MAPS: &str = "tc/globals";

/// The directories of one node's datapath under one bpffs.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes the directories, readable by root alone.
    pub(crate) fn prepare(root: &Path) -> Result<Self> {
        let pins = Self {
            root: root.to_path_buf(),
        };
        let kind = statfs(root).map_err(|e| Error::pin("look at", root)(e.into()))?;
        if kind.filesystem_type() != BPF_FS_MAGIC {
            return Err(Error::NotBpffs {
                path: root.to_path_buf(),
            });
        }
        for dir in [
            pins.maps(),
            pins.programs(),
            pins.endpoints(),
            pins.devices(),
            pins.sockets(),
        ] {
            make_dir(&dir)?;
        }
        Ok(pins)
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join(MAPS)
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where maps stand while the object is loaded.
    pub(crate) fn staged_maps(&self) -> PathBuf {
        self.root.join("tc/globals_new")
    }

    pub(crate) fn programs(&self) -> PathBuf {
        self.root.join("cilium/programs")
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    pub(crate) fn endpoints(&self) -> PathBuf {
        self.root.join("cilium/endpoints")
    }

    pub(crate) fn devices(&self) -> PathBuf {
        self.root.join("cilium/devices")
    }

    pub(crate) fn sockets(&self) -> PathBuf {
        self.root.join("cilium/socketlb")
    }
}

/// Makes a directory and its parents with mode 0700.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Error::pin("make directory", dir))
}

/// Opens a pin; `None` when there is none.
pub(crate) fn open(path: &Path) -> Result<Option<OwnedFd>> {
    match sys::open_pin(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::pin("open", path)(e)),
    }
}

/// Pins `fd` at `path` in place of what may be pinned there, in one step.
pub(crate) fn replace(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(NEW);
    let new = path.with_file_name(name);
    remove(&new)?;
    sys::pin(fd, &new).map_err(Error::pin("pin", &new))?;
    rename(&new, path)
}

/// Moves a pin over another.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::pin("move pin", from))
}

/// Removes a pin; whether there was one.
pub(crate) fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::pin("unpin", path)(e)),
    }
}

/// Removes a directory of pins and everything in it; whether there was one.
pub(crate) fn remove_dir(path: &Path) -> Result<bool> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::pin("remove", path)(e)),
    }
}

/// Names of the entries of a directory, sorted; none when it does not exist.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::pin("list", dir)(e)),
    };
    let mut names = entries
        .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Error::pin("list", dir))?;
    names.sort();
    Ok(names)
}

/// Mounts a bpffs at `path` unless one is there; the directory is made when missing.
///
/// # Errors
/// When the directory cannot be made or the mount is refused.
pub fn ensure_bpffs(path: &Path) -> Result<()> {
    make_dir(path)?;
    let kind = statfs(path).map_err(|e| Error::pin("look at", path)(e.into()))?;
    if kind.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    nix::mount::mount(
        Some("bpf"),
        path,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(|e| Error::pin("mount a bpffs at", path)(e.into()))
}
