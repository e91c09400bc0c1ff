//! A packet in the kernel.
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_csum_diff, bpf_csum_update, bpf_l3_csum_replace, bpf_l4_csum_replace,
        bpf_skb_pull_data, bpf_skb_store_bytes,
    },
};
use wire::{Bytes, Family};
use zerocopy::FromBytes;

/// Length of the Ethernet header; L3 begins here.
pub const L3: usize = 14;

/// Room for the longest headers that are worth parsing: IPv6 with extensions, or an ICMP error with its packet.
const LONGEST_HEADERS: u32 = 256;

/// The checksum covers the pseudo header: tells the helper to keep a partial checksum right.
pub const PSEUDO_HEADER: u64 = 0x10;
/// UDP: a zero checksum means none.
pub const MANGLED_0: u64 = 0x20;
/// What is written is not made up for by a checksum in the packet: a device's sum over all of it has to follow. For addresses
/// of IPv6, whose header has no checksum; the helper that updates a pseudo header's checksum assumes that it has one.
pub const RECOMPUTE: u64 = 1;

/// A packet: direct reads and small writes, bounds checked against the linear part.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

impl Skb {
    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: the context is valid while the program runs; so for the other fields.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (*self.0).ifindex }
    }

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

    /// Length of the segments that the packet will be cut into; zero: it is one.
    #[inline(always)]
    pub fn gso_size(self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (*self.0).gso_size }
    }

    /// `EtherType`, host order.
    #[inline(always)]
    pub fn ethertype(self) -> u16 {
        // SAFETY: see `len`.
        u16::from_be(unsafe { (*self.0).protocol } as u16)
    }

    /// Brings the headers into the linear part if not even the first `headers` bytes are there: nearly always they are.
    #[inline(always)]
    pub fn linearise(self, headers: usize) -> bool {
        // SAFETY: see `len`.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let linear = end - data;
        if linear >= headers || linear as u32 >= self.len() {
            return true;
        }
        core::hint::cold_path();
        self.pull(LONGEST_HEADERS)
    }

    /// Brings the first `len` bytes, or all there are, into the linear part.
    #[inline(always)]
    pub fn pull(self, len: u32) -> bool {
        let len = if len < self.len() { len } else { self.len() };
        // SAFETY: a helper call on a valid context.
        unsafe { bpf_skb_pull_data(self.0, len) == 0 }
    }

    /// Address of `size` bytes at `offset`, if they are in the linear part.
    #[inline(always)]
    fn at(self, offset: usize, size: usize) -> Option<*mut u8> {
        // SAFETY: see `len`.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let at = opaque(data + (offset & MAX_OFFSET));
        if opaque(at + size) > end {
            core::hint::cold_path();
            None
        } else {
            Some(at as *mut u8)
        }
    }

    /// Writes a value in place; false if it does not fit.
    #[inline(always)]
    pub fn write<T: Copy>(self, offset: usize, value: T) -> bool {
        let Some(at) = self.at(offset, size_of::<T>()) else {
            return false;
        };
        // SAFETY: the bounds are checked; packet memory takes unaligned words.
        unsafe { at.cast::<T>().write(value) };
        true
    }

    /// Destination and source MAC address.
    #[inline(always)]
    pub fn write_macs(self, dst: [u8; 6], src: [u8; 6]) -> bool {
        let Some(at) = self.at(0, L3) else {
            return false;
        };
        let words: [u16; 6] = [
            u16::from_ne_bytes([dst[0], dst[1]]),
            u16::from_ne_bytes([dst[2], dst[3]]),
            u16::from_ne_bytes([dst[4], dst[5]]),
            u16::from_ne_bytes([src[0], src[1]]),
            u16::from_ne_bytes([src[2], src[3]]),
            u16::from_ne_bytes([src[4], src[5]]),
        ];
        // SAFETY: twelve bytes within the checked fourteen.
        unsafe { at.cast::<[u16; 6]>().write(words) };
        true
    }

    /// Writes through the kernel, wherever the bytes lie; `flags` of [`RECOMPUTE`].
    #[inline(always)]
    pub fn store<T: Copy>(self, offset: usize, value: &T, flags: u64) -> bool {
        let from = (&raw const *value).cast();
        let size = size_of::<T>() as u32;
        // SAFETY: `from` has `size` readable bytes.
        unsafe { bpf_skb_store_bytes(self.0, offset as u32, from, size, flags) == 0 }
    }

    /// Tells the kernel of a 16-bit word that is written directly, where a device had summed up the whole packet.
    #[inline(always)]
    pub fn note_change(self, from: u16, to: u16) {
        // SAFETY: a helper call on a valid context; without such a sum it fails, and there is nothing to do.
        unsafe { bpf_csum_update(self.0, u32::from(!from) + u32::from(to)) };
    }

    /// Updates the IPv4 header checksum at `offset`.
    #[inline(always)]
    pub fn replace_l3_checksum(self, offset: usize, from: u32, to: u32) -> bool {
        // SAFETY: a helper call on a valid context.
        unsafe {
            bpf_l3_csum_replace(self.0, offset as u32, u64::from(from), u64::from(to), 4) == 0
        }
    }

    /// Updates the L4 checksum at `offset` for an address; `flags` of [`PSEUDO_HEADER`] and [`MANGLED_0`].
    #[inline(always)]
    pub fn replace_l4_address<F: Family>(
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

    /// Updates the L4 checksum at `offset` for four bytes of the segment.
    #[inline(always)]
    pub fn replace_l4_word(self, offset: usize, from: u32, to: u32) -> bool {
        // SAFETY: a helper call on a valid context.
        unsafe {
            bpf_l4_csum_replace(self.0, offset as u32, u64::from(from), u64::from(to), 4) == 0
        }
    }

    /// Updates the L4 checksum at `offset` for a port or identifier.
    #[inline(always)]
    pub fn replace_l4_port(self, offset: usize, from: u16, to: u16, flags: u64) -> bool {
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
}

impl Bytes for Skb {
    #[inline(always)]
    fn get<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        let at = self.at(offset, size_of::<T>())?;
        // SAFETY: the bounds are checked; packet memory gives unaligned words.
        Some(unsafe { at.cast::<T>().read() })
    }
}

/// Offsets are cut to this, so that the verifier has a bound for those that come out of packets.
const MAX_OFFSET: usize = 0xFFF;

/// Hides where a pointer came from: the verifier proves a range for exactly the register that was compared, and the compiler
/// would compute another one from the same parts.
#[inline(always)]
fn opaque(mut pointer: usize) -> usize {
    // SAFETY: moves a register onto itself (an empty template would leave two source lines at one instruction, which the kernel refuses).
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags))
    };
    pointer
}
