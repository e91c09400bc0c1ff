//! The one conntrack lookup of a packet.
use abi::{CtEntry, CtStatus, DropReason, event_flags};
use wire::{
    conntrack::{Segment, account, advance, is_over, open},
    headers::{Icmp, SCTP, TCP, UDP},
};

use crate::{
    clock, config,
    flow::{Code, Drop, Flow, OK, State, attempt, read_inner},
    maps::{self, Maps},
};

impl<F: Maps> Flow<F> {
    /// Finds or makes the packet's connection; identities that the program does not know yet come from it.
    #[inline(always)]
    pub fn track(&mut self) -> Result<(), Drop> {
        if self.h.icmp == Icmp::Error {
            core::hint::cold_path();
            let readable = read_inner::<F>(self.skb.0, self.state);
            track_error::<F>(self.state, readable);
            return Ok(());
        }
        let len = self.skb.len();
        attempt!(track::<F>(self.state, len))
    }

    /// The status of the packet's connection, which is left as it is.
    #[inline(always)]
    pub fn peek(&mut self) {
        let (key, from_b) = F::ct_key(&self.h.tuple);
        if let Some(entry) = F::ct().get_ptr_mut(&key) {
            // SAFETY: as in `track`.
            let entry = unsafe { &*entry };
            let orig = (entry.flags & abi::ct_flags::FROM_B != 0) == from_b;
            self.status = if orig {
                CtStatus::Established
            } else {
                CtStatus::Reply
            };
        }
    }
}

#[inline(never)]
fn track<F: Maps>(state: &mut State<F>, len: u32) -> Code {
    let (key, from_b) = F::ct_key(&state.h.tuple);
    let proto = state.h.tuple.proto;
    if proto != TCP && proto != UDP && proto != SCTP && proto != F::ICMP {
        return DropReason::CtUnknownL4Protocol as u8;
    }
    let segment = Segment {
        proto,
        tcp_flags: state.h.tcp_flags,
        from_b,
        len,
        now: clock::seconds(),
    };
    let Some(entry) = F::ct().get_ptr_mut(&key) else {
        state.opened(CtStatus::New);
        let mut entry = open(&segment, &config::timeouts(), state.src_id, state.dst_id);
        if config::accounting() {
            account(&mut entry, &segment);
        }
        return match F::ct().insert(&key, &entry, 0) {
            Ok(()) => OK,
            Err(_) => DropReason::CtInsertFailed as u8,
        };
    };
    // SAFETY: see `CtEntry` on concurrent writers; the entry outlives this program.
    let entry = unsafe { &mut *entry };
    if is_over(entry, &segment) {
        core::hint::cold_path();
        state.opened(CtStatus::Reopened);
        *entry = open(&segment, &config::timeouts(), state.src_id, state.dst_id);
    } else {
        let seen = advance(entry, &segment, &config::timeouts());
        state.status = seen.status;
        state.report = seen.report;
        state.known_by(entry);
    }
    if config::accounting() {
        account(entry, &segment);
    }
    OK
}

/// An ICMP error belongs to the connection of the packet inside it, and changes nothing there.
#[inline(never)]
fn track_error<F: Maps>(state: &mut State<F>, readable: bool) {
    let (key, _) = F::ct_key(&state.inner.tuple);
    let known = readable && F::ct().get_ptr_mut(&key).is_some();
    state.opened(if known {
        CtStatus::Related
    } else {
        CtStatus::New
    });
}

impl<F: Maps> State<F> {
    /// The packet begins something: it is reported, with identities that nobody told yet looked up.
    #[inline(always)]
    fn opened(&mut self, status: CtStatus) {
        self.status = status;
        self.report = true;
        self.event_flags |= event_flags::FORWARD;
        if self.src_id == 0 {
            self.src_id = identity_of::<F>(self.h.tuple.src);
        }
        if self.dst_id == 0 {
            self.dst_id = identity_of::<F>(self.h.tuple.dst);
        }
    }

    /// Takes from the connection what nobody told yet.
    #[inline(always)]
    fn known_by(&mut self, entry: &CtEntry) {
        let forward = self.status == CtStatus::Established;
        if forward {
            self.event_flags |= event_flags::FORWARD;
        }
        let (src, dst) = if forward {
            (entry.src_id, entry.dst_id)
        } else {
            (entry.dst_id, entry.src_id)
        };
        if self.src_id == 0 {
            self.src_id = src;
        }
        if self.dst_id == 0 {
            self.dst_id = dst;
        }
    }
}

/// Identity of an address by the address cache; world if it is not there.
#[inline(never)]
pub fn identity_of<F: Maps>(addr: F::Addr) -> u32 {
    match maps::ipcache::<F>(addr) {
        Some(entry) if entry.sec_id != 0 => entry.sec_id,
        _ => config::world::<F>(),
    }
}
