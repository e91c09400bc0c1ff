//! A packet, wherever a program meets it: in the stack ([`Skb`](crate::skb::Skb)) or in a device's driver ([`Xdp`](crate::xdp::Xdp)).
use core::ffi::c_void;

use wire::{Bytes, Family};

use crate::{calls::Shared, maps::Maps};

/// Length of the Ethernet header; L3 begins here.
pub const L3: usize = 14;

/// The checksum covers the pseudo header: tells the kernel to keep a partial checksum right.
pub const PSEUDO_HEADER: u64 = 0x10;
/// UDP: a zero checksum means none.
pub const MANGLED_0: u64 = 0x20;
/// What is written is not made up for by a checksum in the packet: a device's sum over all of it has to follow. For addresses
/// of IPv6, whose header has no checksum; the helper that updates a pseudo header's checksum assumes that it has one.
pub const RECOMPUTE: u64 = 1;

/// A packet: direct reads and small writes, bounds checked against the linear part.
pub trait Packet: Bytes + Shared + Copy {
    /// The program runs before the stack does. It deals with plain packets alone, that go on to somebody else: not with errors and parts of
    /// datagrams, and nobody's policy is asked. The verifier then never sees the code for those.
    const IN_DRIVER: bool;
    /// Verdict: the packet goes on.
    const PASS: i32;
    /// Verdict: it is dropped.
    const SHOT: i32;

    /// Length, link-layer header included.
    fn len(self) -> u32;
    /// Device that the program runs on.
    fn ifindex(self) -> u32;
    /// `EtherType`, host order.
    fn ethertype(self) -> u16;
    /// Length of the segments that the packet will be cut into; zero: it is one.
    fn gso_size(self) -> u32;
    /// What helpers take that are for every kind of program.
    fn context(self) -> *mut c_void;
    /// Address of `size` bytes at `offset`, if they are in the linear part.
    fn at(self, offset: usize, size: usize) -> Option<*mut u8>;
    /// Brings the headers into the linear part if not even the first `headers` bytes are there: nearly always they are.
    fn linearise(self, headers: usize) -> bool;

    /// Writes wherever the bytes lie; `flags` of [`RECOMPUTE`].
    fn store<T: Copy>(self, offset: usize, value: &T, flags: u64) -> bool;
    /// Tells of a 16-bit word that is written directly, where a device had summed up the whole packet.
    fn note_change(self, from: u16, to: u16);
    /// Updates the IPv4 header checksum at `offset`.
    fn replace_l3_checksum(self, offset: usize, from: u32, to: u32) -> bool;
    /// Updates the L4 checksum at `offset` for an address; `flags` of [`PSEUDO_HEADER`] and [`MANGLED_0`].
    fn replace_l4_address<F: Family>(
        self,
        offset: usize,
        from: &F::Addr,
        to: &F::Addr,
        flags: u64,
    ) -> bool;
    /// Updates the L4 checksum at `offset` for a port or identifier.
    fn replace_l4_port(self, offset: usize, from: u16, to: u16, flags: u64) -> bool;
    /// Makes room for so many bytes behind the fixed header of layer 3.
    fn widen<F: Family>(self, size: usize) -> bool;
    /// The verdict of a packet that is dropped for this reason: its sender may hear of it.
    fn given_up<F: Maps>(self, reason: u8) -> i32;
    /// Hands the packet over to the proxy; the verdict.
    fn handed_over<F: Maps>(self) -> i32;

    /// Writes a value in place; false if it does not fit.
    #[inline(always)]
    fn write<T: Copy>(self, offset: usize, value: T) -> bool {
        let Some(at) = self.at(offset, size_of::<T>()) else {
            return false;
        };
        // SAFETY: the bounds are checked; packet memory takes unaligned words.
        unsafe { at.cast::<T>().write(value) };
        true
    }

    /// Destination and source MAC address.
    #[inline(always)]
    fn write_macs(self, dst: [u8; 6], src: [u8; 6]) -> bool {
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
}

/// Address of `size` bytes at `offset` of what begins at `data`, if they are before `end`.
#[inline(always)]
pub fn within(data: usize, end: usize, offset: usize, size: usize) -> Option<*mut u8> {
    let at = opaque(data + (offset & MAX_OFFSET));
    if opaque(at + size) > end {
        core::hint::cold_path();
        None
    } else {
        Some(at as *mut u8)
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
