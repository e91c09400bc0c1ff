//! Programs: what the kernel says of them, test runs, and tiny ones for probes.
use std::{
    ffi::CStr,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use aya_obj::generated::bpf_insn;
use zerocopy::FromZeros;

use super::{AttachType, Command, address, address_mut, attr, bpf, bpf_fd, info, name_text, raw};

/// Kinds of program, and where a program of a control group may be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// tc classifier.
    Classifier,
    /// Of a device's driver.
    Xdp,
    /// Of a control group, about a socket.
    Sock(AttachType),
    /// Of a control group, about a socket and an address.
    SockAddr(AttachType),
}

impl Kind {
    /// `enum bpf_prog_type`.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Classifier => 3,
            Self::Xdp => 6,
            Self::Sock(_) => 9,
            Self::SockAddr(_) => 18,
        }
    }

    fn attach_type(self) -> u32 {
        match self {
            Self::Classifier | Self::Xdp => 0,
            Self::Sock(at) | Self::SockAddr(at) => at as u32,
        }
    }
}

/// More maps than any program of ours uses.
const MAX_MAPS: usize = 64;

/// What the kernel says of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Number, unique since boot.
    pub id: u32,
    /// Name, cut to 15 bytes.
    pub name: String,
    /// Numbers of the maps it uses.
    pub map_ids: Vec<u32>,
    /// Instructions that the verifier walked; zero where the kernel does not tell (before 5.16).
    pub verified_insns: u32,
    /// Bytes after translation by the verifier.
    pub xlated_len: u32,
    /// Times it ran, if `kernel.bpf_stats_enabled` is on.
    pub run_count: u64,
    /// Nanoseconds it ran, if `kernel.bpf_stats_enabled` is on.
    pub run_time_ns: u64,
}

/// `enum bpf_prog_type` of a program.
pub(crate) fn prog_kind(prog: BorrowedFd<'_>) -> io::Result<u32> {
    let mut found = attr::ProgInfo::new_zeroed();
    info(prog, &mut found)?;
    Ok(found.kind)
}

pub(crate) fn prog_info(prog: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut ids = [0u32; MAX_MAPS];
    let mut found = attr::ProgInfo::new_zeroed();
    found.nr_map_ids = MAX_MAPS as u32;
    found.map_ids = address_mut(&mut ids);
    info(prog, &mut found)?;
    Ok(ProgramInfo {
        id: found.id,
        name: name_text(&found.name),
        map_ids: ids
            .iter()
            .copied()
            .take(found.nr_map_ids as usize)
            .collect(),
        verified_insns: found.verified_insns,
        xlated_len: found.xlated_len,
        run_count: found.run_cnt,
        run_time_ns: found.run_time_ns,
    })
}

/// Records of the type information that belong to a program: bytes, their number and the size of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) count: usize,
    pub(crate) size: usize,
}

/// A program to load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewProgram<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: Kind,
    /// Eight bytes each.
    pub(crate) instructions: &'a [bpf_insn],
    pub(crate) license: &'a CStr,
    /// The object's type information, and what of it describes functions and lines.
    pub(crate) btf: Option<(BorrowedFd<'a>, Records<'a>, Records<'a>)>,
}

impl NewProgram<'_> {
    fn attr(&self) -> attr::ProgLoad {
        let mut attr = attr::ProgLoad::new_zeroed();
        attr.prog_type = self.kind.number();
        attr.expected_attach_type = self.kind.attach_type();
        attr.insn_cnt = self.instructions.len() as u32;
        attr.insns = address(self.instructions);
        attr.license = address(self.license.to_bytes_with_nul());
        let len = self.name.len().min(attr.prog_name.len() - 1);
        attr.prog_name[..len].copy_from_slice(&self.name.as_bytes()[..len]);
        if let Some((btf, functions, lines)) = &self.btf {
            attr.prog_btf_fd = raw(*btf);
            attr.func_info = address(functions.bytes);
            attr.func_info_cnt = functions.count as u32;
            attr.func_info_rec_size = functions.size as u32;
            attr.line_info = address(lines.bytes);
            attr.line_info_cnt = lines.count as u32;
            attr.line_info_rec_size = lines.size as u32;
        }
        attr
    }
}

/// Loads a program. When the verifier refuses it, it is asked again for its words.
pub(crate) fn prog_load(program: &NewProgram<'_>) -> Result<OwnedFd, (io::Error, String)> {
    const LOG: usize = 16 << 20;
    let mut attr = program.attr();
    let first = match bpf_fd(Command::ProgLoad, &mut attr) {
        Ok(fd) => return Ok(fd),
        Err(e) => e,
    };
    let mut log = vec![0u8; LOG];
    attr = program.attr();
    attr.log_level = 1;
    attr.log_size = log.len() as u32;
    attr.log_buf = address_mut(log.as_mut_slice());
    match bpf_fd(Command::ProgLoad, &mut attr) {
        Ok(fd) => Ok(fd),
        Err(_) => Err((first, name_text(&log))),
    }
}

/// Loads type information.
pub(crate) fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = attr::BtfLoad::new_zeroed();
    attr.btf = address(btf);
    attr.btf_size = btf.len() as u32;
    bpf_fd(Command::BtfLoad, &mut attr)
}

/// Numbers of the links of this kind on a device, up to as many as a device can have; an error where the kernel has no such kind.
pub(crate) fn attached_links(ifindex: u32, attach_type: AttachType) -> io::Result<Vec<u32>> {
    const MAX_PROGRAMS: usize = 64;
    let mut programs = [0u32; MAX_PROGRAMS];
    let mut links = [0u32; MAX_PROGRAMS];
    let mut attr = attr::ProgQuery::new_zeroed();
    attr.target_ifindex = ifindex;
    attr.attach_type = attach_type as u32;
    attr.prog_ids = address_mut(&mut programs);
    attr.prog_cnt = MAX_PROGRAMS as u32;
    attr.link_ids = address_mut(&mut links);
    bpf(Command::ProgQuery, &mut attr)?;
    Ok(links.into_iter().take(attr.prog_cnt as usize).collect())
}

/// Runs `prog` once on `packet` and `context`, which are overwritten; returns its verdict and the packet's new length.
/// `packet` must be long enough for what the program may add, its first `len` bytes are the packet.
pub(crate) fn test_run(
    prog: BorrowedFd<'_>,
    packet: &mut [u8],
    len: usize,
    context: &mut [u8],
    repeat: u32,
) -> io::Result<(u32, usize, u32)> {
    let input = packet[..len].to_vec();
    let context_in = context.to_vec();
    let mut attr = attr::TestRun {
        prog_fd: raw(prog),
        retval: 0,
        data_size_in: len as u32,
        data_size_out: packet.len() as u32,
        data_in: address(input.as_slice()),
        data_out: address_mut(packet),
        repeat,
        duration: 0,
        ctx_size_in: context.len() as u32,
        ctx_size_out: context.len() as u32,
        ctx_in: address(context_in.as_slice()),
        ctx_out: address_mut(context),
    };
    if context.is_empty() {
        (attr.ctx_in, attr.ctx_out) = (0, 0);
    }
    bpf(Command::TestRun, &mut attr)?;
    Ok((attr.retval, attr.data_size_out as usize, attr.duration))
}
