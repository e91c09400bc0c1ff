//! A packet in a device's driver: it lies in one piece, and nobody keeps checksums right but the program.
use core::ffi::c_void;

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_head};
use wire::{Bytes, Family, checksum};
use zerocopy::FromBytes;

use crate::{
    maps::Maps,
    packet::{L3, MANGLED_0, Packet, within},
};

/// The driver's packet.
#[derive(Clone, Copy)]
pub struct Xdp(pub *mut xdp_md);

impl Xdp {
    /// Where the packet begins and ends. In the context these look like numbers of 32 bits, of which the kernel makes pointers: the compiler
    /// must neither hand them on nor put them aside as what they look like.
    #[inline(always)]
    fn ends(self) -> (usize, usize) {
        let (data, end): (usize, usize);
        // SAFETY: the context is valid while the program runs, and begins with these two fields.
        unsafe {
            core::arch::asm!(
                "{0} = *(u32 *)({2} + 0)",
                "{1} = *(u32 *)({2} + 4)",
                out(reg) data,
                lateout(reg) end,
                in(reg) self.0,
                options(readonly, nostack, preserves_flags)
            );
        }
        (data, end)
    }

    /// Puts a checksum right whose words changed by so much in all.
    #[inline(always)]
    fn correct(self, offset: usize, difference: u64, flags: u64) -> bool {
        let Some(sum) = self.get::<u16>(offset) else {
            return false;
        };
        let may_be_none = flags & MANGLED_0 != 0;
        if may_be_none && sum == 0 {
            return true;
        }
        let corrected = !checksum::fold(u64::from(!sum) + difference);
        let none = may_be_none && corrected == 0;
        self.write(offset, if none { 0xFFFF } else { corrected })
    }

    /// Moves the headers `T` from `by` bytes behind the front to the front.
    #[inline(always)]
    fn move_front<T: FromBytes + Copy>(self, by: usize) -> bool {
        match self.get::<T>(by) {
            Some(front) => self.write(0, front),
            None => false,
        }
    }
}

impl Packet for Xdp {
    const IN_DRIVER: bool = true;
    /// `XDP_PASS`: up the stack.
    const PASS: i32 = 2;
    /// `XDP_DROP`.
    const SHOT: i32 = 1;

    #[inline(always)]
    fn len(self) -> u32 {
        let (data, end) = self.ends();
        (end - data) as u32
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: see `ends`.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn ethertype(self) -> u16 {
        u16::from_be(self.get(L3 - 2).unwrap_or(0))
    }

    #[inline(always)]
    fn gso_size(self) -> u32 {
        0
    }

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn at(self, offset: usize, size: usize) -> Option<*mut u8> {
        let (data, end) = self.ends();
        within(data, end, offset, size)
    }

    #[inline(always)]
    fn linearise(self, _: usize) -> bool {
        true
    }

    #[inline(always)]
    fn store<T: Copy>(self, offset: usize, value: &T, _: u64) -> bool {
        self.write(offset, *value)
    }

    #[inline(always)]
    fn note_change(self, _: u16, _: u16) {}

    #[inline(always)]
    fn replace_l3_checksum(self, offset: usize, from: u32, to: u32) -> bool {
        self.correct(offset, u64::from(!from) + u64::from(to), 0)
    }

    #[inline(always)]
    fn replace_l4_address<F: Family>(
        self,
        offset: usize,
        from: &F::Addr,
        to: &F::Addr,
        flags: u64,
    ) -> bool {
        let difference = checksum::of_complement::<F>(*from) + checksum::of_address::<F>(*to);
        self.correct(offset, difference, flags)
    }

    #[inline(always)]
    fn replace_l4_port(self, offset: usize, from: u16, to: u16, flags: u64) -> bool {
        self.correct(offset, u64::from(!from) + u64::from(to), flags)
    }

    /// What is there then is what was there.
    #[inline(always)]
    fn widen<F: Family>(self, size: usize) -> bool {
        // SAFETY: a helper call on a valid context.
        if unsafe { bpf_xdp_adjust_head(self.0, -(size as i32)) } != 0 {
            return false;
        }
        if F::IS_V6 {
            self.move_front::<[u16; (L3 + 40) / 2]>(size)
        } else {
            self.move_front::<[u16; (L3 + 20) / 2]>(size)
        }
    }

    /// Whoever is to hear of it is told by the stack's program.
    #[inline(always)]
    fn given_up<F: Maps>(self, _: u8) -> i32 {
        Self::SHOT
    }

    /// No packet of a driver's program is the proxy's.
    #[inline(always)]
    fn handed_over<F: Maps>(self) -> i32 {
        Self::SHOT
    }
}

impl Bytes for Xdp {
    #[inline(always)]
    fn get<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        let at = self.at(offset, size_of::<T>())?;
        // SAFETY: the bounds are checked; packet memory gives unaligned words.
        Some(unsafe { at.cast::<T>().read() })
    }
}
