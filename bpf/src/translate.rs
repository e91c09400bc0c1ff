//! Services packet by packet, where no socket has translated: from outside, SCTP, pods whose sockets are left alone.
//!
//! A packet to a frontend gets a backend's address and port as its destination, and goes on as any packet to that backend. Two
//! entries remember it: that of client and frontend which backend it is, that of client and backend which frontend answers go back under.
//! Whoever tracks an answer finds the latter, and gives the packet the frontend's address before it is delivered.
use abi::{
    CtEntry, CtStatus, DIRECT_FRONTEND, DropReason, ct_flags, ct_scope, lb_flags, snat_flags,
};
use wire::{
    conntrack::{FIN, RST, advance, is_over, open},
    hash,
    headers::{Icmp, SCTP, TCP, UDP},
};

use crate::{
    calls::Shared,
    config,
    conntrack::segment,
    flow::{CROSS, Code, Drop, Flow, OK, State, attempt},
    maps::{self, Maps},
    packet::Packet,
    service::{Client, Frontend, Place, frontend, has_frontends},
    skb::Skb,
    snat::{
        Target, find, rewrite_destination, rewrite_inner_destination, rewrite_inner_source,
        rewrite_source,
    },
};

impl<F: Maps> Flow<F> {
    /// Whether packets to the destination must be shown to [`Flow::serve`]. If the answer is yes and this one is not for a frontend,
    /// others may be: the way there is not remembered.
    #[inline(always)]
    pub fn is_served(&mut self) -> bool {
        if !has_frontends::<F>(self.h.tuple.dst) {
            return false;
        }
        core::hint::cold_path();
        self.state.may_be_served = true;
        true
    }

    /// Sends a packet that is for a frontend to one of its backends. True if it was for one: its destination is another one then.
    #[inline(always)]
    pub fn serve(&mut self, inside: bool) -> Result<bool, Drop> {
        core::hint::cold_path();
        (self.state.inside, self.state.direct) = (inside, false);
        self.state.crosses = false;
        // Each step is a call of its own, of this function: the stack has no room for one within another.
        let mut code = if self.h.icmp == Icmp::Error {
            F::read_inner(self.packet);
            F::serve_error(self.packet)
        } else {
            self.packet.serve::<F>()
        };
        if code == CHOOSE {
            code = self.packet.choose::<F>();
            if code == OK {
                self.packet.settle::<F>();
            }
        }
        attempt!(code)?;
        if self.state.by == 0 {
            return Ok(false);
        }
        if config::crosses() && self.state.crosses {
            return Err(Drop {
                reason: CROSS,
                line: 0,
            });
        }
        if !inside && self.is_passed_on() {
            attempt!(self.packet.fit::<F>())?;
        }
        attempt!(self.packet.translate::<F>())?;
        Ok(true)
    }

    /// True if the pod that the packet comes from was chosen as its own backend.
    #[inline(always)]
    pub fn is_to_itself(&self) -> bool {
        self.state.opening & ct_flags::LOOPBACK != 0
    }
}

impl<F: Maps, P: Packet> Flow<F, P> {
    /// Gives what answers a frontend's client the frontend's address.
    #[inline(always)]
    pub fn unserve(&mut self) -> Result<(), Drop> {
        if !config::services() || self.state.front == 0 {
            return Ok(());
        }
        core::hint::cold_path();
        attempt!(self.packet.unserve::<F>())
    }
}

/// What [`serve`] returns where a backend is to be chosen.
pub const CHOOSE: Code = 1;

/// Finds the frontend that the packet is for, if it is for one, and targets the connection's backend if it has one that is still there.
#[inline(always)]
pub fn serve<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    let t = &state.h.tuple;
    if !matches!(t.proto, TCP | UDP | SCTP) {
        return OK;
    }
    let Some(frontend) = frontend_of(state) else {
        return OK;
    };
    if !state.inside {
        if frontend.service.flags & lb_flags::ROUTABLE == 0 {
            return DropReason::IsClusterIp as u8;
        }
        if !frontend.admits(t.src) {
            return DropReason::LbSourceRange as u8;
        }
    }
    state.by = frontend.service.id;
    state.crosses = config::crosses() && frontend.service.flags & lb_flags::NAT46X64 != 0;
    if is_known::<F, P>(packet, state) {
        OK
    } else {
        CHOOSE
    }
}

#[inline(always)]
pub fn frontend_of<F: Maps>(state: &State<F>) -> Option<Frontend<F>> {
    let t = &state.h.tuple;
    let at = Place {
        addr: t.dst,
        port: t.dport,
    };
    frontend::<F>(at, t.proto, state.inside)
}

/// Targets the backend that the connection has, if it is still there.
#[inline(never)]
fn is_known<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> bool {
    let t = &state.h.tuple;
    let (key, from_b) = F::ct_key_of(t, ct_scope::SERVICE);
    let segment = segment(packet, state, from_b);
    // SAFETY: as in `track`.
    if let Some(entry) = F::ct()
        .get_ptr_mut(&key)
        .map(|entry| unsafe { &mut *entry })
        && !is_over(entry, &segment)
        && entry.rev_nat == state.by
        && aim(state, entry.dst_id)
    {
        let seen = advance(entry, &segment, &config::timeouts());
        state.direct = entry.flags & ct_flags::DSR != 0;
        if state.is_passed_on() {
            state.src_id = entry.src_id;
            state.is_seen(seen.status, seen.report);
        }
        return true;
    }
    false
}

/// Targets the backend of this number, if there is one.
#[inline(always)]
fn aim<F: Maps>(state: &mut State<F>, id: u32) -> bool {
    if config::crosses() && state.crosses {
        core::hint::cold_path();
        return F::aim_across(id);
    }
    let Some((at, _)) = F::backend(id) else {
        return false;
    };
    state.target = Target::from(at);
    true
}

/// Targets a backend for a new connection, and for one whose backend is gone.
#[inline(always)]
pub fn choose<F: Maps, P: Packet>(_: P, state: &mut State<F>) -> Code {
    let Some(frontend) = frontend_of(state) else {
        return DropReason::NoServiceBackend as u8;
    };
    let t = &state.h.tuple;
    let id = frontend.choose(&Client::Address(t.src), hash::tuple(t));
    let (proto, port) = (t.proto, t.dport);
    if !aim(state, id) {
        return DropReason::NoServiceBackend as u8;
    }
    state.backend = id;
    if config::crosses() && state.crosses {
        return OK;
    }
    if proto == SCTP && state.target.port != port {
        // Its checksum covers the port, and all of the packet.
        return DropReason::NatUnsupportedProtocol as u8;
    }
    // What is here is answered from here.
    state.direct = !state.inside
        && frontend.service.flags & lb_flags::DSR != 0
        && maps::endpoint::<F>(state.target.addr).is_none();
    OK
}

/// Makes the connection's entry. Where the map takes none, the next packet is chosen a backend for again.
#[inline(always)]
pub fn settle<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    let (key, from_b) = F::ct_key_of(&state.h.tuple, ct_scope::SERVICE);
    let segment = segment(packet, state, from_b);
    let passed_on = state.is_passed_on();
    if passed_on {
        state.is_seen(CtStatus::New, true);
    }
    let mut entry = CtEntry {
        rev_nat: state.by,
        ..open(&segment, &config::timeouts(), state.src_id, state.backend)
    };
    if passed_on {
        entry.flags |= ct_flags::DSR;
    }
    let _ = F::ct().insert(&key, &entry, 0);
    OK
}

/// Writes the target over the destination; of an error over the source of the packet inside it, too, which came from there.
#[inline(always)]
pub fn translate<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    let is_error = !P::IN_DRIVER && state.h.icmp == Icmp::Error;
    let is_itself =
        !P::IN_DRIVER && !is_error && state.inside && state.target.addr == state.h.tuple.src;
    let mut code = OK;
    if is_error {
        code = rewrite_inner_source::<F, P>(packet, state);
    }
    if code == OK {
        code = rewrite_destination::<F, P>(packet, state);
    }
    if code != OK || !is_itself {
        return code;
    }
    // The pod would drop a packet from its own address, or answer it without us.
    state.opening |= ct_flags::LOOPBACK;
    state.target = Target {
        addr: F::loopback(),
        port: state.h.tuple.sport,
    };
    let code = rewrite_source::<F, P>(packet, state);
    state.h.tuple.src = F::loopback();
    code
}

/// A client, or somebody on the way to it, reports an error about what came from the frontend: it is for the backend that sent it.
#[inline(always)]
pub fn serve_error<F: Maps>(_: Skb, state: &mut State<F>) -> Code {
    // One that cannot be read is of no protocol, and from nowhere.
    if state.inner.tuple.src != state.h.tuple.dst {
        return OK;
    }
    let (key, from_b) = F::ct_key_of(&state.inner.tuple, ct_scope::SERVICE);
    let Some(entry) = F::ct().get_ptr_mut(&key) else {
        return OK;
    };
    // SAFETY: as in `track`.
    let entry = unsafe { &*entry };
    let is_answer = (entry.flags & ct_flags::FROM_B != 0) != from_b;
    let (id, backend) = (entry.rev_nat, F::backend(entry.dst_id));
    let Some((at, _)) = backend.filter(|_| is_answer) else {
        return OK;
    };
    state.target = Target::from(at);
    state.by = id;
    state.direct = entry.flags & ct_flags::DSR != 0;
    if state.is_passed_on() {
        state.is_seen(CtStatus::Related, true);
    }
    OK
}

/// See [`Flow::unserve`].
#[inline(always)]
pub fn unserve<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    // A frontend that is gone: the client gets what it cannot place, and says so.
    let Some(at) = frontend_of_answer(state) else {
        return OK;
    };
    if !P::IN_DRIVER && state.h.icmp == Icmp::Error {
        return unserve_error::<F, P>(packet, state, at);
    }
    let backend = state.h.tuple.src;
    state.target = Target::from(at);
    let mut code = rewrite_source::<F, P>(packet, state);
    (state.h.tuple.src, state.h.tuple.sport) = (at.addr, at.port);
    if !P::IN_DRIVER && code == OK && state.h.tuple.dst == F::loopback() {
        state.target = Target {
            addr: backend,
            port: state.h.tuple.dport,
        };
        code = rewrite_destination::<F, P>(packet, state);
    }
    if state.h.tcp_flags & (FIN | RST) != 0 {
        note_end::<F, P>(packet, state);
    }
    code
}

#[inline(always)]
fn frontend_of_answer<F: Maps>(state: &mut State<F>) -> Option<Place<F>> {
    if state.front != DIRECT_FRONTEND {
        return F::reverse(state.front);
    }
    find::<F>(state, snat_flags::DIRECT).then_some(Place {
        addr: state.target.addr,
        port: state.target.port,
    })
}

/// An error about a packet from the client, which knows the frontend alone.
#[inline(never)]
fn unserve_error<F: Maps, P: Packet>(packet: P, state: &mut State<F>, at: Place<F>) -> Code {
    let backend = state.inner.tuple.dst;
    state.target = Target::from(at);
    let mut code = rewrite_inner_destination::<F, P>(packet, state);
    // Somebody on the way has an address of its own.
    if code == OK && state.h.tuple.src == backend {
        code = rewrite_source::<F, P>(packet, state);
        state.h.tuple.src = at.addr;
    }
    if code == OK && state.h.tuple.dst == F::loopback() {
        state.target = Target {
            addr: backend,
            port: state.inner.tuple.sport,
        };
        code = rewrite_inner_source::<F, P>(packet, state);
        if code == OK {
            code = rewrite_destination::<F, P>(packet, state);
        }
    }
    code
}

/// The backend ends the connection: what remembers its backend ends with it.
#[inline(never)]
pub fn note_end<F: Maps, P: Packet>(packet: P, state: &State<F>) {
    let (key, from_b) = F::ct_key_of(&state.h.tuple, ct_scope::SERVICE);
    let segment = segment(packet, state, from_b);
    if let Some(entry) = F::ct().get_ptr_mut(&key) {
        // SAFETY: as in `track`.
        advance(unsafe { &mut *entry }, &segment, &config::timeouts());
    }
}

impl<F: Maps> From<Place<F>> for Target<F> {
    #[inline(always)]
    fn from(at: Place<F>) -> Self {
        Self {
            addr: at.addr,
            port: at.port,
        }
    }
}
