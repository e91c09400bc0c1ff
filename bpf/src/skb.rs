//! A packet in the stack.
use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_csum_diff, bpf_csum_update, bpf_l3_csum_replace, bpf_l4_csum_replace,
        bpf_skb_adjust_room, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
};
use wire::{Bytes, Family};
use zerocopy::FromBytes;

use crate::{
    flow,
    maps::Maps,
    packet::{Packet, within},
    refuse,
};

/// Room for the longest headers that are worth parsing: IPv6 with extensions, or an ICMP error with its packet.
const LONGEST_HEADERS: u32 = 256;
/// `BPF_ADJ_ROOM_NET`: room behind the fixed header of layer 3.
const BEHIND_L3: u32 = 0;
/// `BPF_F_ADJ_ROOM_FIXED_GSO`: segments stay as long as they are.
const SAME_SEGMENTS: u64 = 1;

/// The kernel's packet.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

impl Skb {
    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (*self.0).mark }
    }

    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: see `len`.
        unsafe { (*self.0).mark = mark }
    }

    /// Brings the first `len` bytes, or all there are, into the linear part.
    #[inline(always)]
    pub fn pull(self, len: u32) -> bool {
        let len = if len < self.len() { len } else { self.len() };
        // SAFETY: a helper call on a valid context.
        unsafe { bpf_skb_pull_data(self.0, len) == 0 }
    }

    /// Updates the L4 checksum at `offset` for four bytes of the segment.
    #[inline(always)]
    pub fn replace_l4_word(self, offset: usize, from: u32, to: u32) -> bool {
        // SAFETY: a helper call on a valid context.
        unsafe {
            bpf_l4_csum_replace(self.0, offset as u32, u64::from(from), u64::from(to), 4) == 0
        }
    }
}

impl Packet for Skb {
    const IN_DRIVER: bool = false;
    const PASS: i32 = flow::PASS;
    const SHOT: i32 = flow::SHOT;

    #[inline(always)]
    fn len(self) -> u32 {
        // SAFETY: the context is valid while the program runs; so for the other fields.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn ethertype(self) -> u16 {
        // SAFETY: see `len`.
        u16::from_be(unsafe { (*self.0).protocol } as u16)
    }

    #[inline(always)]
    fn gso_size(self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (*self.0).gso_size }
    }

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn at(self, offset: usize, size: usize) -> Option<*mut u8> {
        // SAFETY: see `len`.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        within(data, end, offset, size)
    }

    #[inline(always)]
    fn linearise(self, headers: usize) -> bool {
        // SAFETY: see `len`.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let linear = end - data;
        if linear >= headers || linear as u32 >= self.len() {
            return true;
        }
        core::hint::cold_path();
        self.pull(LONGEST_HEADERS)
    }

    #[inline(always)]
    fn store<T: Copy>(self, offset: usize, value: &T, flags: u64) -> bool {
        let from = (&raw const *value).cast();
        let size = size_of::<T>() as u32;
        // SAFETY: `from` has `size` readable bytes.
        unsafe { bpf_skb_store_bytes(self.0, offset as u32, from, size, flags) == 0 }
    }

    #[inline(always)]
    fn note_change(self, from: u16, to: u16) {
        // SAFETY: a helper call on a valid context; without such a sum it fails, and there is nothing to do.
        unsafe { bpf_csum_update(self.0, u32::from(!from) + u32::from(to)) };
    }

    #[inline(always)]
    fn replace_l3_checksum(self, offset: usize, from: u32, to: u32) -> bool {
        // SAFETY: a helper call on a valid context.
        unsafe {
            bpf_l3_csum_replace(self.0, offset as u32, u64::from(from), u64::from(to), 4) == 0
        }
    }

    #[inline(always)]
    fn replace_l4_address<F: Family>(
        self,
        offset: usize,
        from: &F::Addr,
        to: &F::Addr,
        flags: u64,
    ) -> bool {
        let size = F::ADDR_LEN as u32;
        // SAFETY: both point to `size` readable bytes, a multiple of four.
        let diff = unsafe {
            bpf_csum_diff(
                (&raw const *from).cast_mut().cast(),
                size,
                (&raw const *to).cast_mut().cast(),
                size,
                0,
            )
        };
        // SAFETY: a helper call on a valid context.
        unsafe { bpf_l4_csum_replace(self.0, offset as u32, 0, diff as u64, flags) == 0 }
    }

    #[inline(always)]
    fn replace_l4_port(self, offset: usize, from: u16, to: u16, flags: u64) -> bool {
        // SAFETY: a helper call on a valid context.
        unsafe {
            bpf_l4_csum_replace(
                self.0,
                offset as u32,
                u64::from(from),
                u64::from(to),
                flags | 2,
            ) == 0
        }
    }

    /// There are zeros then.
    #[inline(always)]
    fn widen<F: Family>(self, size: usize) -> bool {
        // SAFETY: a helper call on a valid context.
        unsafe { bpf_skb_adjust_room(self.0, size as i32, BEHIND_L3, SAME_SEGMENTS) == 0 }
    }

    #[inline(always)]
    fn given_up<F: Maps>(self, reason: u8) -> i32 {
        if refuse::is_told(reason) {
            return i32::from(F::refuse(self));
        }
        Self::SHOT
    }

    #[inline(always)]
    fn handed_over<F: Maps>(self) -> i32 {
        i32::from(F::to_proxy(self))
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn get<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        let at = self.at(offset, size_of::<T>())?;
        // SAFETY: the bounds are checked; packet memory gives unaligned words.
        Some(unsafe { at.cast::<T>().read() })
    }
}
