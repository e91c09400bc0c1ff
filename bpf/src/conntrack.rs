//! The one conntrack lookup of a packet.
use abi::{CtEntry, CtStatus, DropReason, ct_flags, event_flags};
use wire::{
    conntrack::{Segment, account, advance, is_over, open},
    headers::{Icmp, SCTP, TCP, UDP},
    policy::{is_too_big, question},
    proxy::goes_to_proxy,
};

use crate::{
    clock, config,
    flow::{Code, Drop, Flow, OK, State, TO_PROXY, attempt},
    maps::{self, Maps},
    packet::Packet,
    policy::End,
    skb::Skb,
};

impl<F: Maps> Flow<F> {
    /// Finds or makes the packet's connection, if the policy of those of its ends lets it be that are here; identities that
    /// the program does not know yet come from it.
    #[inline(always)]
    pub fn track(&mut self, from: End, to: End) -> Result<(), Drop> {
        self.between(from, to);
        if self.h.icmp == Icmp::Error {
            core::hint::cold_path();
            F::read_inner(self.packet);
            let mut code = F::track_error(self.packet);
            if code == ASK {
                code = F::ask(self.packet);
            }
            return attempt!(code);
        }
        let mut code = F::track(self.packet);
        if code == ASK {
            core::hint::cold_path();
            F::ask(self.packet);
            code = F::track(self.packet);
        }
        attempt!(code)
    }

    /// The status of the packet's connection, which is left as it is.
    #[inline(always)]
    pub fn peek(&mut self) {
        if self.h.icmp == Icmp::Error {
            core::hint::cold_path();
            if F::read_inner(self.packet) == OK {
                is_known_error::<F>(self.state);
            }
        } else {
            peek::<F>(self.state);
        }
    }
}

impl<F: Maps, P: Packet> Flow<F, P> {
    /// As [`Flow::track`], of a packet that is no error and between others than this node and its pods.
    #[inline(always)]
    pub fn track_others(&mut self) -> Result<(), Drop> {
        self.between(None, None);
        attempt!(track_apart::<F, P>(self.packet, self.state))
    }
}

#[inline(never)]
fn peek<F: Maps>(state: &mut State<F>) {
    let (key, from_b) = F::ct_key(&state.h.tuple);
    if let Some(entry) = F::ct().get_ptr_mut(&key) {
        // SAFETY: as in `track`.
        let entry = unsafe { &*entry };
        let orig = (entry.flags & ct_flags::FROM_B != 0) == from_b;
        state.status = if orig {
            CtStatus::Established
        } else {
            state.front = entry.rev_nat;
            CtStatus::Reply
        };
    }
}

/// What [`track`] returns where policy must be asked first: between two looks at the connection, and not in the midst of one. The epoch
/// of the answer is then in the state: it was read before the rows are, so that an answer may be older than its epoch, but never
/// younger.
const ASK: Code = 1;

#[inline(always)]
pub fn track<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    let (key, from_b) = F::ct_key(&state.h.tuple);
    if !is_tracked::<F>(state.h.tuple.proto) {
        return DropReason::CtUnknownL4Protocol as u8;
    }
    let segment = segment(packet, state, from_b);
    // SAFETY: see `CtEntry` on concurrent writers; the entry outlives this program.
    let found = F::ct()
        .get_ptr_mut(&key)
        .map(|entry| unsafe { &mut *entry });
    let live = match found {
        Some(entry) if !is_over(entry, &segment) && !is_left_over::<P>(entry) => entry,
        ended => return begin::<F, P>(state, &key, &segment, ended),
    };
    let mut is_asked = !P::IN_DRIVER && state.is_asked();
    if is_proxied::<P>(live) {
        core::hint::cold_path();
        let from_opener = (live.flags & ct_flags::FROM_B != 0) == from_b;
        let code = state.admit(live.flags, from_opener);
        if code != OK {
            return code;
        }
        // All that is decided here was decided on the way to the proxy.
        is_asked &= live.flags & ct_flags::PROXY_REPLY == 0;
    }
    if is_asked {
        state.from_opener = (live.flags & ct_flags::FROM_B != 0) == from_b;
        let epoch = maps::policy_epoch();
        if state.asked || !state.is_remembered(live, epoch) {
            judge::<F>(state, live);
            if state.code != OK {
                return state.code;
            }
        }
    }
    let seen = advance(live, &segment, &config::timeouts());
    state.status = seen.status;
    state.report = seen.report;
    state.known_by(live);
    if config::services() && live.rev_nat | state.by != 0 {
        note_frontend::<F>(state, live);
    }
    if config::accounting() {
        account(live, &segment);
    }
    if is_proxied::<P>(live) {
        return state.way;
    }
    OK
}

#[inline(never)]
fn track_apart<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    track(packet, state)
}

/// The connection goes by way of the proxy.
#[inline(always)]
fn is_proxied<P: Packet>(entry: &CtEntry) -> bool {
    !P::IN_DRIVER && config::has_proxy() && entry.flags & ct_flags::PROXIED != 0
}

/// The connection went by way of a proxy that is no more.
#[inline(always)]
fn is_left_over<P: Packet>(entry: &CtEntry) -> bool {
    !P::IN_DRIVER && !config::has_proxy() && entry.flags & ct_flags::PROXIED != 0
}

/// What of the packet matters to an entry of it.
#[inline(always)]
pub fn segment<F: Maps, P: Packet>(packet: P, state: &State<F>, from_b: bool) -> Segment {
    Segment {
        proto: state.h.tuple.proto,
        tcp_flags: state.h.tcp_flags,
        from_b,
        len: packet.len(),
        now: clock::seconds(),
    }
}

/// The connection came by a frontend, or the packet does. What a pod sends to a backend itself is no service's any more.
#[inline(never)]
fn note_frontend<F: Maps>(state: &mut State<F>, entry: &mut CtEntry) {
    core::hint::cold_path();
    if state.status as u8 == CtStatus::Reply as u8 {
        state.front = entry.rev_nat;
    } else if entry.rev_nat != state.by && (state.by != 0 || state.hook.is_first()) {
        entry.rev_nat = state.by;
    }
}

/// Makes the entry of a connection in place of none, or of one that has ended.
#[inline(always)]
fn begin<F: Maps, P: Packet>(
    state: &mut State<F>,
    key: &F::CtKey,
    segment: &Segment,
    ended: Option<&mut CtEntry>,
) -> Code {
    if !state.asked {
        state.opened(match ended {
            Some(_) => CtStatus::Reopened,
            None => CtStatus::New,
        });
        if !P::IN_DRIVER && state.is_asked() {
            state.holds = question(&state.h, true).holds;
            state.epoch = maps::policy_epoch();
            return ASK;
        }
        state.epochs = [0; 2];
    } else if state.code != OK {
        return state.code;
    }
    let mut entry = open(segment, &config::timeouts(), state.src_id, state.dst_id);
    entry.epochs = state.epochs;
    entry.rev_nat = state.by;
    entry.flags |= state.opening;
    if config::accounting() {
        account(&mut entry, segment);
    }
    let mut done = OK;
    if !P::IN_DRIVER && config::has_proxy() && state.asked && state.l7_kind != 0 {
        core::hint::cold_path();
        let code = state.note_session();
        if code != OK {
            return code;
        }
        entry.flags |= ct_flags::PROXY_FORWARD;
        done = TO_PROXY;
    }
    if let Some(ended) = ended {
        *ended = entry;
        return done;
    }
    match F::ct().insert(key, &entry, 0) {
        Ok(()) => done,
        Err(_) => DropReason::CtInsertFailed as u8,
    }
}

/// Whether policy lets a connection go on of which its entry remembers nothing that holds: what was said just now, or that it must be
/// asked. The answer is in the state: a call of its own without a result leaves the verifier with one way on.
#[inline(never)]
fn judge<F: Maps>(state: &mut State<F>, entry: &mut CtEntry) {
    core::hint::cold_path();
    if !state.asked {
        state.epoch = maps::policy_epoch();
        state.status = if state.from_opener {
            CtStatus::Established
        } else {
            CtStatus::Reply
        };
        state.identify();
        state.code = ASK;
        return;
    }
    if state.code == OK && (state.l7_kind != 0 || entry.flags & ct_flags::PROXY_FORWARD != 0) {
        state.code = state.follow(entry);
    }
    if state.code == OK {
        state.remember(entry, state.epoch);
    } else if state.holds {
        state.remember(entry, 0);
        // Not forgotten as long as somebody goes on: else the other side could open the connection anew.
        let until = clock::seconds().saturating_add(config::timeouts().any);
        entry.expires = entry.expires.max(until);
    }
}

/// True for protocols whose connections are known.
#[inline(always)]
pub fn is_tracked<F: Maps>(proto: u8) -> bool {
    proto == TCP || proto == UDP || proto == SCTP || proto == F::ICMP
}

/// An ICMP error belongs to the connection of the packet inside it, and changes nothing there. It passes if that is known, as do
/// those that a sender must hear of; others are asked about.
#[inline(always)]
pub fn track_error<F: Maps>(_: Skb, state: &mut State<F>) -> Code {
    state.way = OK;
    let known = is_known_error::<F>(state);
    if known && state.way == TO_PROXY {
        state.status = CtStatus::Related;
        return if state.hook.is_of_proxy() {
            DropReason::CtUnknownState as u8
        } else {
            TO_PROXY
        };
    }
    state.opened(if known {
        CtStatus::Related
    } else {
        CtStatus::New
    });
    if !known && state.is_asked() && !is_too_big(&state.h) {
        return ASK;
    }
    OK
}

/// Whether the connection of the packet inside an error is known. If that packet is a client's, the error goes on under the name of
/// the frontend that it was sent to.
#[inline(never)]
fn is_known_error<F: Maps>(state: &mut State<F>) -> bool {
    let (key, from_b) = F::ct_key(&state.inner.tuple);
    let Some(entry) = F::ct().get_ptr_mut(&key) else {
        return false;
    };
    // SAFETY: as in `track`.
    let entry = unsafe { &*entry };
    let from_opener = (entry.flags & ct_flags::FROM_B != 0) == from_b;
    if from_opener {
        state.front = entry.rev_nat;
    }
    // The proxy sent it: the other direction goes there.
    let is_the_proxys = config::has_proxy() && goes_to_proxy(entry.flags, !from_opener);
    state.way = if is_the_proxys { TO_PROXY } else { OK };
    true
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
