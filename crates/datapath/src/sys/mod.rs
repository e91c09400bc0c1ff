//! The bpf(2) calls that aya does not make, and the heap. The only module with `unsafe`.
#![allow(
    unsafe_code,
    reason = "bpf(2) takes addresses; every block says why they are valid"
)]

mod attr;
mod heap;
mod link;
mod map;
mod packet;
mod prog;

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

pub use heap::{share_heap, trim_heap, unload_code};
pub(crate) use link::{LinkState, link_create, link_detach, link_info, link_update};
pub(crate) use map::{
    Batch, MapShape, delete, delete_batch, lookup, lookup_batch, map_create, map_freeze, map_info,
    next_key, update, update_batch,
};
pub use packet::FrameSender;
pub use prog::ProgramInfo;
pub(crate) use prog::{
    Classifier, Records, attached_links, btf_load, prog_info, prog_load, test_run,
};

/// `enum bpf_cmd`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    TestRun = 10,
    Info = 15,
    ProgQuery = 16,
    BtfLoad = 18,
    MapFreeze = 22,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// Where a program can be attached to a device by a link (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachType {
    TcxIngress = 46,
    TcxEgress = 47,
    NetkitPrimary = 54,
    NetkitPeer = 55,
}

impl AttachType {
    pub(crate) const ALL: [Self; 4] = [
        Self::TcxIngress,
        Self::TcxEgress,
        Self::NetkitPrimary,
        Self::NetkitPeer,
    ];

    pub(crate) fn from_u32(n: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u32 == n)
    }
}

/// bpf(2). `A` must be a layout of [`attr`] whose addresses are those of live buffers of the sizes given beside them;
/// the callers in this module build it so from slices that they hold borrowed during the call.
fn bpf<A: IntoBytes + Immutable>(command: Command, attr: &mut A) -> io::Result<i32> {
    // SAFETY: `attr` is a live, initialised struct without padding, and its size is the one passed. The kernel reads and
    // writes at most that many bytes of it, and what its address fields point to is kept alive by the caller (see above).
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

/// As [`bpf`], for commands that return a file descriptor.
fn bpf_fd<A: IntoBytes + Immutable>(command: Command, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it. The kernel sets close-on-exec itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<u8>() as u64
}

fn address_mut<T: ?Sized>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).cast::<u8>() as u64
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Pins `fd` at `path`.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = attr::Obj {
        pathname: address(path.as_bytes_with_nul()),
        bpf_fd: raw(fd),
        file_flags: 0,
    };
    bpf(Command::ObjPin, &mut attr).map(drop)
}

/// Opens what is pinned at `path`.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = attr::Obj {
        pathname: address(path.as_bytes_with_nul()),
        bpf_fd: 0,
        file_flags: 0,
    };
    bpf_fd(Command::ObjGet, &mut attr)
}

/// Fills `info` with what the kernel says of the object behind `fd`.
fn info<I: FromZeros + IntoBytes + Immutable>(fd: BorrowedFd<'_>, info: &mut I) -> io::Result<()> {
    let mut attr = attr::Info {
        bpf_fd: raw(fd),
        info_len: size_of::<I>() as u32,
        info: address_mut(info),
    };
    bpf(Command::Info, &mut attr).map(drop)
}

fn name_text(name: &[u8]) -> String {
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// A record that can be taken from and given to the kernel as bytes.
pub trait Record: FromBytes + IntoBytes + Immutable + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + Copy> Record for T {}

/// The clock of the programs' times.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live struct of the layout the call fills.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
