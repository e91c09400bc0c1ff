//! The monotonic clock.
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};

use crate::config;

/// Nanoseconds, where the kernel has a cheap clock as of its last tick: reading the exact one takes longer than finding a connection.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: helper calls. Kernels that lack the first never see it: its condition is a constant to the verifier.
    unsafe {
        if config::coarse_clock() {
            bpf_ktime_get_coarse_ns()
        } else {
            bpf_ktime_get_ns()
        }
    }
}

/// As [`now`], in seconds.
#[inline(always)]
pub fn seconds() -> u32 {
    (now() / 1_000_000_000) as u32
}

/// Nanoseconds, exact: for what is shown in order.
#[inline(always)]
pub fn exact() -> u64 {
    // SAFETY: a helper call.
    unsafe { bpf_ktime_get_ns() }
}
