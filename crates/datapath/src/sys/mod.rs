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
pub(crate) use link::{
    LinkState, link_create, link_create_xdp, link_detach, link_info, link_update,
};
pub(crate) use map::{
    Batch, MapShape, delete, delete_batch, lookup, lookup_batch, map_create, map_freeze, map_info,
    next_key, update, update_batch,
};
pub use packet::FrameSender;
pub use prog::ProgramInfo;
pub(crate) use prog::{
    Kind, NewProgram, Records, attached_links, btf_load, prog_info, prog_kind, prog_load, test_run,
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

/// Where a program can be attached by a link, to a device or a control group (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachType {
    Connect4 = 10,
    Connect6 = 11,
    PostBind4 = 12,
    PostBind6 = 13,
    SendMsg4 = 14,
    SendMsg6 = 15,
    RecvMsg4 = 19,
    RecvMsg6 = 20,
    GetPeerName4 = 29,
    GetPeerName6 = 30,
    Xdp = 37,
    TcxIngress = 46,
    TcxEgress = 47,
    NetkitPrimary = 54,
    NetkitPeer = 55,
}

impl AttachType {
    pub(crate) const ALL: [Self; 15] = [
        Self::Connect4,
        Self::Connect6,
        Self::PostBind4,
        Self::PostBind6,
        Self::SendMsg4,
        Self::SendMsg6,
        Self::RecvMsg4,
        Self::RecvMsg6,
        Self::GetPeerName4,
        Self::GetPeerName6,
        Self::Xdp,
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

/// Number of the calling thread's network namespace, as the programs know it; `None` where the kernel does not tell (before 5.14).
///
/// # Errors
/// When there is no socket to ask by.
pub fn netns_cookie() -> io::Result<Option<u64>> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)))?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `len` are live, and `len` is the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        return Ok(Some(cookie));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
        Ok(None)
    } else {
        Err(error)
    }
}

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
