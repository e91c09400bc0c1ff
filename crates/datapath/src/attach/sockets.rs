//! Attaching to the sockets of a control group: whatever a process in it or below opens.
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use abi::names;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use super::{Attached, Attacher, Owner};
use crate::{
    Datapath, Error, Result, object, pins,
    sys::{self, Kind},
};

/// A control group, opened.
struct Cgroup<'a> {
    path: &'a Path,
    dir: File,
    /// The number under which the kernel tells of it.
    id: u64,
}

impl<'a> Cgroup<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let failed = || Error::pin("open control group", path);
        let dir = File::open(path).map_err(failed())?;
        let kind = fstatfs(&dir).map_err(|e| failed()(e.into()))?;
        if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(Error::NotCgroup {
                path: path.to_path_buf(),
            });
        }
        let id = dir.metadata().map_err(failed())?.ino();
        Ok(Self { path, dir, id })
    }

    fn failed(
        &self,
        op: &'static str,
        program: &'static str,
    ) -> impl FnOnce(io::Error) -> Error + use<> {
        let device = self.path.display().to_string();
        move |source| Error::Attach {
            op,
            program,
            device,
            source,
        }
    }
}

impl Attacher {
    fn attach_socket(&self, cgroup: &Cgroup<'_>, name: &'static str) -> Result<Attached> {
        let program = self.current(name)?;
        let (Kind::Sock(at) | Kind::SockAddr(at)) = object::kind(name) else {
            return Err(Error::NoProgram { name });
        };
        let path = Owner::Sockets.links(&self.pins).join(name);
        let pinned = pins::open(&path)?;
        if let Some(link) = &pinned {
            let state = sys::link_info(link.as_fd()).map_err(Error::pin("look at", &path))?;
            if state.cgroup == cgroup.id && state.attach_type == Some(at) {
                if state.prog_id == program.id {
                    return Ok(Attached::Unchanged);
                }
                sys::link_update(link.as_fd(), program.fd.as_fd())
                    .map_err(cgroup.failed("replace", name))?;
                return Ok(Attached::Updated);
            }
        }
        let target = cgroup.dir.as_raw_fd().cast_unsigned();
        let link = sys::link_create(program.fd.as_fd(), target, at)
            .map_err(cgroup.failed("attach", name))?;
        pins::replace(link.as_fd(), &path)?;
        if let Some(former) = pinned {
            // Of another group, which the new link has nothing to do with. Refused when that is gone.
            let _ = sys::link_detach(former.as_fd());
        }
        Ok(Attached::New)
    }
}

impl Datapath {
    /// Attaches the programs that translate services to the sockets of a control group (cgroup v2) and of all below. What was attached to
    /// another group no longer is.
    ///
    /// # Errors
    /// When the group is not there or the kernel refuses.
    pub fn attach_sockets(&self, cgroup: &Path) -> Result<Attached> {
        let cgroup = Cgroup::open(cgroup)?;
        pins::make_dir(&Owner::Sockets.links(&self.attacher.pins))?;
        let mut done = Attached::Unchanged;
        // The ways back come first: where something fails in between, no process sees a backend for its frontend.
        for name in names::SOCK_PROGRAMS.into_iter().rev() {
            done = done.max(self.attacher.attach_socket(&cgroup, name)?);
        }
        Ok(done)
    }

    /// Detaches the programs from sockets; whether there were any. What sockets were connected to they stay connected to.
    ///
    /// # Errors
    /// When pins cannot be removed.
    pub fn detach_sockets(&self) -> Result<bool> {
        let attached = self
            .attachments()?
            .iter()
            .any(|attachment| attachment.owner == Owner::Sockets);
        self.attacher.detach(&Owner::Sockets)?;
        Ok(attached)
    }
}
