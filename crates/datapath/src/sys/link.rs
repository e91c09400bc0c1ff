//! Links: the attachment of a program to a device or a control group.
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use zerocopy::FromZeros;

use super::{AttachType, Command, attr, bpf, bpf_fd, info, raw};

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) id: u32,
    pub(crate) prog_id: u32,
    /// Of a device's link; zero once the device is gone.
    pub(crate) ifindex: u32,
    /// Of a control group's link; zero once that is gone.
    pub(crate) cgroup: u64,
    /// `None`: not a link of a kind known here.
    pub(crate) attach_type: Option<AttachType>,
}

impl LinkState {
    /// What it was attached to is no more.
    pub(crate) fn is_gone(&self) -> bool {
        self.ifindex == 0 && self.cgroup == 0
    }
}

/// Attaches `prog` to a device (its ifindex) or a control group (its descriptor), behind what is attached there already. The
/// attachment lives as long as the descriptor or a pin.
pub(crate) fn link_create(
    prog: BorrowedFd<'_>,
    target: u32,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    create(prog, target, attach_type, 0)
}

/// Attaches `prog` to a device as the one program of its driver, or of where the stack begins. The attachment lives as long as there.
pub(crate) fn link_create_xdp(
    prog: BorrowedFd<'_>,
    ifindex: u32,
    in_driver: bool,
) -> io::Result<OwnedFd> {
    const SKB_MODE: u32 = 2;
    const DRIVER_MODE: u32 = 4;
    let mode = if in_driver { DRIVER_MODE } else { SKB_MODE };
    create(prog, ifindex, AttachType::Xdp, mode)
}

fn create(
    prog: BorrowedFd<'_>,
    target: u32,
    attach_type: AttachType,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = attr::LinkCreate {
        prog_fd: raw(prog),
        target,
        attach_type: attach_type as u32,
        flags,
        relative: 0,
        pad: 0,
        expected_revision: 0,
    };
    bpf_fd(Command::LinkCreate, &mut attr)
}

/// Puts `prog` in the place of the link's program, between two packets or calls.
pub(crate) fn link_update(link: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attr::LinkUpdate {
        link_fd: raw(link),
        new_prog_fd: raw(prog),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(Command::LinkUpdate, &mut attr).map(drop)
}

/// Detaches the link's program at once; the link stays until its last descriptor and pin are gone. Without this the program runs
/// on until the kernel gets round to the link, some milliseconds after that.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(
        Command::LinkDetach,
        &mut attr::LinkDetach { link_fd: raw(link) },
    )
    .map(drop)
}

pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkState> {
    const CGROUP: u32 = 3;
    const XDP: u32 = 6;
    const TCX: u32 = 11;
    const NETKIT: u32 = 13;
    let mut found = attr::LinkInfo::new_zeroed();
    info(link, &mut found)?;
    let [first, second, third, _] = found.what;
    let (ifindex, cgroup, attach_type) = match found.kind {
        TCX | NETKIT => (first, 0, AttachType::from_u32(second)),
        XDP => (first, 0, Some(AttachType::Xdp)),
        CGROUP => (
            0,
            u64::from(second) << 32 | u64::from(first),
            AttachType::from_u32(third),
        ),
        _ => (0, 0, None),
    };
    Ok(LinkState {
        id: found.id,
        prog_id: found.prog_id,
        ifindex,
        cgroup,
        attach_type,
    })
}
