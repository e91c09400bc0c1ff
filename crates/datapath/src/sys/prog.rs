//! Programs: what the kernel says of them, test runs, and tiny ones for probes.
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use zerocopy::FromZeros;

use super::{AttachType, Command, address, address_mut, attr, bpf, bpf_fd, info, name_text, raw};

/// `BPF_PROG_TYPE_SCHED_CLS`.
const CLASSIFIER: u32 = 3;
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

pub(crate) fn prog_info(prog: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut ids = [0u32; MAX_MAPS];
    let mut found = attr::ProgInfo::new_zeroed();
    found.nr_map_ids = MAX_MAPS as u32;
    found.map_ids = address_mut(&mut ids);
    info(prog, &mut found)?;
    if found.kind != CLASSIFIER {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a tc classifier program",
        ));
    }
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

/// Loads a classifier of a few instructions; for probes.
pub(crate) fn prog_load_classifier(insns: &[u64]) -> io::Result<OwnedFd> {
    let license = *b"GPL\0";
    let mut attr = attr::ProgLoad::new_zeroed();
    attr.prog_type = CLASSIFIER;
    attr.insn_cnt = insns.len() as u32;
    attr.insns = address(insns);
    attr.license = address(&license);
    bpf_fd(Command::ProgLoad, &mut attr)
}

/// Number of programs attached to a device by links of this kind; an error where the kernel has no such kind.
pub(crate) fn prog_query(ifindex: u32, attach_type: AttachType) -> io::Result<u32> {
    let mut attr = attr::ProgQuery::new_zeroed();
    attr.target_ifindex = ifindex;
    attr.attach_type = attach_type as u32;
    bpf(Command::ProgQuery, &mut attr)?;
    Ok(attr.prog_cnt)
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
