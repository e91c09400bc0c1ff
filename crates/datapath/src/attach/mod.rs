//! Attaching programs to devices: by links (tcx, netkit) where the kernel has them, else by clsact filters. To sockets and drivers: by links.
mod drivers;
mod filters;
mod owner;
mod replace;
mod sockets;
pub(crate) mod tc;

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use abi::names;

pub use drivers::Acceleration;
pub use owner::Owner;
pub use replace::Replaced;

use crate::{
    Datapath, Error, Result, driver,
    object::Program,
    pins::{self, Pins},
    probes,
    sys::{self, AttachType, LinkState},
};

/// How programs are to be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// By tcx links where the kernel has them, else by clsact filters.
    #[default]
    Auto,
    /// By tcx links (Linux 6.6).
    Tcx,
    /// By clsact filters.
    Clsact,
}

impl AttachMode {
    pub(crate) fn resolve(self) -> Result<Mechanism> {
        match self {
            Self::Clsact => Ok(Mechanism::Clsact),
            _ if probes::has_tcx() => Ok(Mechanism::Tcx),
            Self::Auto => Ok(Mechanism::Clsact),
            Self::Tcx => Err(Error::Invalid(
                "tcx links were asked for, but this kernel has none (Linux 6.6)".to_owned(),
            )),
        }
    }
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// By a tcx link.
    Tcx,
    /// By a clsact filter.
    Clsact,
    /// By a netkit link.
    Netkit,
    /// By a link of a control group.
    Cgroup,
    /// By a link in the device's driver.
    Xdp,
    /// By a link where the stack begins: the driver has no place for it.
    XdpGeneric,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Netkit => "netkit",
            Self::Cgroup => "cgroup",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp (generic)",
        })
    }
}

/// What an attach call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attached {
    /// Everything was in place.
    Unchanged,
    /// A program was replaced by the current one.
    Updated,
    /// A program was attached that was not.
    New,
}

/// One attached program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What it belongs to.
    pub owner: Owner,
    /// The program.
    pub program: &'static str,
    /// The device, zero once it is gone, and for sockets; for [`names::FROM_CONTAINER`] on netkit the pod's end, as numbered in its
    /// namespace.
    pub ifindex: u32,
    /// The device or the control group is gone.
    pub gone: bool,
    /// How it is attached.
    pub mechanism: Mechanism,
    /// Number of the program that runs.
    pub program_id: u32,
    /// Number of the link.
    pub link_id: Option<u32>,
    /// Whether the program is the current one.
    pub current: bool,
}

/// Where on a device a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    Ingress,
    Egress,
    /// Sent by the pod (netkit).
    FromPod,
    /// Sent to the pod (netkit).
    ToPod,
}

impl Point {
    fn attach_type(self) -> AttachType {
        match self {
            Self::Ingress => AttachType::TcxIngress,
            Self::Egress => AttachType::TcxEgress,
            Self::FromPod => AttachType::NetkitPeer,
            Self::ToPod => AttachType::NetkitPrimary,
        }
    }

    fn mechanism(self, default: Mechanism) -> Mechanism {
        if matches!(self, Self::FromPod | Self::ToPod) {
            Mechanism::Netkit
        } else {
            default
        }
    }
}

/// A program at a point of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hook<'a> {
    pub(crate) program: &'static str,
    pub(crate) point: Point,
    pub(crate) ifindex: u32,
    pub(crate) ifname: &'a str,
}

impl Hook<'_> {
    fn failed(&self, op: &'static str) -> impl FnOnce(io::Error) -> Error {
        let (program, device) = (self.program, format!("{} (#{})", self.ifname, self.ifindex));
        move |source| Error::Attach {
            op,
            program,
            device,
            source,
        }
    }
}

/// Attaches the current programs.
#[derive(Debug)]
pub(crate) struct Attacher {
    pins: Pins,
    mechanism: Mechanism,
    programs: Vec<Program>,
}

impl Attacher {
    pub(crate) fn new(pins: Pins, mechanism: Mechanism, programs: Vec<Program>) -> Result<Self> {
        Ok(Self {
            pins,
            mechanism,
            programs,
        })
    }

    pub(crate) fn programs(&self) -> &[Program] {
        &self.programs
    }

    pub(crate) fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    pub(crate) fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|p| p.name == name)
    }

    fn current(&self, name: &'static str) -> Result<&Program> {
        self.program(name).ok_or(Error::NoProgram { name })
    }

    /// Attaches every hook; what the owner has attached otherwise by another mechanism is removed afterwards.
    pub(crate) fn attach(&self, owner: &Owner, hooks: &[Hook<'_>]) -> Result<Attached> {
        let dir = owner.dir(&self.pins);
        let mut done = Attached::Unchanged;
        for hook in hooks {
            let one = match hook.point.mechanism(self.mechanism) {
                Mechanism::Clsact => self.attach_filter(&dir, hook)?,
                _ => self.attach_link(&dir, hook)?,
            };
            done = done.max(one);
        }
        Ok(done)
    }

    fn attach_link(&self, dir: &Path, hook: &Hook<'_>) -> Result<Attached> {
        let links = dir.join(owner::LINKS);
        let path = links.join(hook.program);
        let program = self.current(hook.program)?;
        let done = match find_link(&path, hook)? {
            Some((_, state)) if state.prog_id == program.id => Attached::Unchanged,
            Some((link, _)) => {
                sys::link_update(link.as_fd(), program.fd.as_fd())
                    .map_err(hook.failed("replace"))?;
                Attached::Updated
            }
            None => {
                pins::make_dir(&links)?;
                self.make_link(&path, hook, program)?;
                Attached::New
            }
        };
        self.drop_filters(dir, Some(hook))?;
        Ok(done)
    }

    fn make_link(&self, path: &Path, hook: &Hook<'_>, program: &Program) -> Result<()> {
        match sys::link_create(program.fd.as_fd(), hook.ifindex, hook.point.attach_type()) {
            Ok(link) => pins::replace(link.as_fd(), path),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                let pinned = self
                    .foreign_pin(hook)?
                    .ok_or_else(|| hook.failed("attach")(e))?;
                pins::rename(&pinned, path)
            }
            Err(e) => Err(hook.failed("attach")(e)),
        }
    }

    /// The pin of another owner whose link holds the hook: an endpoint that came back under another number.
    fn foreign_pin(&self, hook: &Hook<'_>) -> Result<Option<PathBuf>> {
        for owner in owner::all(&self.pins)? {
            let path = owner.links(&self.pins).join(hook.program);
            if find_link(&path, hook)?.is_some() {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Detaches all that belongs to `owner`; whether there was anything.
    pub(crate) fn detach(&self, owner: &Owner) -> Result<bool> {
        let dir = owner.dir(&self.pins);
        self.drop_filters(&dir, None)?;
        let links = owner.links(&self.pins);
        for name in pins::names(&links)? {
            drop_link(&links.join(name))?;
        }
        pins::remove_dir(&dir)
    }

    pub(crate) fn attachments(&self) -> Result<Vec<Attachment>> {
        let mut found = Vec::new();
        for owner in owner::all(&self.pins)? {
            let dir = owner.dir(&self.pins);
            for name in names::PROGRAMS {
                found.extend(self.link_attachment(&owner, name)?);
            }
            for ifindex in owner::filter_devices(&dir)? {
                found.extend(self.filter_attachments(&owner, ifindex)?);
            }
        }
        Ok(found)
    }

    fn is_current(&self, name: &str, id: u32) -> bool {
        self.program(name).is_some_and(|p| p.id == id)
    }

    fn link_attachment(&self, owner: &Owner, program: &'static str) -> Result<Option<Attachment>> {
        let path = owner.links(&self.pins).join(program);
        let Some(link) = pins::open(&path)? else {
            return Ok(None);
        };
        let state = sys::link_info(link.as_fd()).map_err(Error::pin("look at", &path))?;
        let mechanism = match state.attach_type {
            Some(AttachType::NetkitPeer | AttachType::NetkitPrimary) => Mechanism::Netkit,
            Some(AttachType::Xdp) if driver::is_in_driver(state.ifindex) => Mechanism::Xdp,
            Some(AttachType::Xdp) => Mechanism::XdpGeneric,
            _ if *owner == Owner::Sockets => Mechanism::Cgroup,
            _ => Mechanism::Tcx,
        };
        Ok(Some(Attachment {
            owner: owner.named(state.ifindex),
            program,
            ifindex: state.ifindex,
            gone: state.is_gone(),
            mechanism,
            program_id: state.prog_id,
            link_id: Some(state.id),
            current: self.is_current(program, state.prog_id),
        }))
    }
}

/// The link pinned at `path`, if it holds `hook` on its device.
fn find_link(path: &Path, hook: &Hook<'_>) -> Result<Option<(OwnedFd, LinkState)>> {
    let Some(link) = pins::open(path)? else {
        return Ok(None);
    };
    let state = sys::link_info(link.as_fd()).map_err(Error::pin("look at", path))?;
    let fits = state.attach_type == Some(hook.point.attach_type()) && is_on(&state, hook)?;
    Ok(fits.then_some((link, state)))
}

/// Whether a link is on the hook's device. A link on the pod's end of a netkit pair names that end, by its ifindex in the pod's
/// namespace: the kernel is asked for the device's links instead.
fn is_on(link: &LinkState, hook: &Hook<'_>) -> Result<bool> {
    if hook.point != Point::FromPod || link.ifindex == 0 {
        return Ok(link.ifindex == hook.ifindex);
    }
    let links = sys::attached_links(hook.ifindex, hook.point.attach_type());
    Ok(links.map_err(hook.failed("look at"))?.contains(&link.id))
}

/// Detaches and unpins a link, if there is one.
fn drop_link(path: &Path) -> Result<()> {
    if let Some(link) = pins::open(path)? {
        // Refused when the device is gone, and then not needed.
        let _ = sys::link_detach(link.as_fd());
    }
    pins::remove(path).map(drop)
}

impl Datapath {
    /// How programs are attached to devices other than netkit ones.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.attacher.mechanism()
    }

    /// Attaches the programs of an endpoint to the host side of its veth pair; `to_container` also on the way to the pod.
    ///
    /// # Errors
    /// When the device is gone or the kernel refuses.
    pub fn attach_endpoint(
        &self,
        id: u16,
        ifindex: u32,
        ifname: &str,
        to_container: bool,
    ) -> Result<Attached> {
        self.attach_pod(
            id,
            ifindex,
            ifname,
            to_container,
            [Point::Ingress, Point::Egress],
        )
    }

    /// As [`Datapath::attach_endpoint`], but where nothing is attached yet always by a filter. A new tcx link costs one of the kernel's
    /// grace periods, 10 ms and more, with the lock of all network configuration held; a filter costs none. Calling
    /// [`Datapath::attach_endpoint`] later puts the link in the filter's place between two packets. Whether that is still to be done.
    ///
    /// # Errors
    /// As there.
    pub fn attach_endpoint_at_once(&self, id: u16, ifindex: u32, ifname: &str) -> Result<bool> {
        let owner = Owner::Endpoint(id);
        let dir = owner.dir(&self.attacher.pins);
        let hook = Hook {
            program: names::FROM_CONTAINER,
            point: Point::Ingress,
            ifindex,
            ifname,
        };
        if find_link(&dir.join(owner::LINKS).join(hook.program), &hook)?.is_some() {
            self.attacher.attach(&owner, &[hook])?;
            return Ok(false);
        }
        self.attacher.attach_filter(&dir, &hook)?;
        Ok(self.attacher.mechanism != Mechanism::Clsact)
    }

    /// As [`Datapath::attach_endpoint`], for the host side of a netkit pair (Linux 6.8).
    ///
    /// # Errors
    /// As there.
    pub fn attach_endpoint_netkit(
        &self,
        id: u16,
        ifindex: u32,
        ifname: &str,
        to_container: bool,
    ) -> Result<Attached> {
        self.attach_pod(
            id,
            ifindex,
            ifname,
            to_container,
            [Point::FromPod, Point::ToPod],
        )
    }

    fn attach_pod(
        &self,
        id: u16,
        ifindex: u32,
        ifname: &str,
        to_container: bool,
        points: [Point; 2],
    ) -> Result<Attached> {
        let [from, to] = points;
        let hooks = [
            Hook {
                program: names::FROM_CONTAINER,
                point: from,
                ifindex,
                ifname,
            },
            Hook {
                program: names::TO_CONTAINER,
                point: to,
                ifindex,
                ifname,
            },
        ];
        let wanted = if to_container { 2 } else { 1 };
        let done = self
            .attacher
            .attach(&Owner::Endpoint(id), &hooks[..wanted])?;
        if !to_container {
            self.attacher.detach_hook(&Owner::Endpoint(id), &hooks[1])?;
        }
        Ok(done)
    }

    /// Detaches an endpoint's programs and removes its pins; whether there were any.
    ///
    /// # Errors
    /// When pins cannot be removed.
    pub fn detach_endpoint(&self, id: u16) -> Result<bool> {
        self.attacher.detach(&Owner::Endpoint(id))
    }

    /// Attaches the programs of a node device.
    ///
    /// # Errors
    /// When the device is gone or the kernel refuses.
    pub fn attach_device(&self, name: &str, ifindex: u32) -> Result<Attached> {
        let hook = |program, point| Hook {
            program,
            point,
            ifindex,
            ifname: name,
        };
        let hooks = [
            hook(names::FROM_NETDEV, Point::Ingress),
            hook(names::TO_NETDEV, Point::Egress),
        ];
        self.attacher
            .attach(&Owner::Device(name.to_owned()), &hooks)
    }

    /// Attaches the program of the tunnel device.
    ///
    /// # Errors
    /// When the device is gone or the kernel refuses.
    pub fn attach_overlay(&self, name: &str, ifindex: u32) -> Result<Attached> {
        let hook = Hook {
            program: names::FROM_OVERLAY,
            point: Point::Ingress,
            ifindex,
            ifname: name,
        };
        self.attacher
            .attach(&Owner::Device(name.to_owned()), &[hook])
    }

    /// Attaches the program of the host device.
    ///
    /// # Errors
    /// When the device is gone or the kernel refuses.
    pub fn attach_host(&self, name: &str, ifindex: u32) -> Result<Attached> {
        let hook = Hook {
            program: names::FROM_HOST,
            point: Point::Egress,
            ifindex,
            ifname: name,
        };
        self.attacher
            .attach(&Owner::Device(name.to_owned()), &[hook])
    }

    /// Detaches all programs of a device; whether there were any.
    ///
    /// # Errors
    /// When pins cannot be removed.
    pub fn detach_device(&self, name: &str) -> Result<bool> {
        self.attacher.detach(&Owner::Device(name.to_owned()))
    }

    /// Everything that is attached, by owner and program.
    ///
    /// # Errors
    /// When the bpffs or the filters cannot be read.
    pub fn attachments(&self) -> Result<Vec<Attachment>> {
        self.attacher.attachments()
    }

    /// What the kernel says of every program that is loaded, in the order of [`names::PROGRAMS`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn programs(&self) -> Result<Vec<crate::ProgramInfo>> {
        let info = |p: &Program| {
            sys::prog_info(p.fd.as_fd()).map_err(Error::bpf("look at program", p.name))
        };
        self.attacher.programs().iter().map(info).collect()
    }
}
