//! Network policy: whether the ends of a connection that are on this node let it be.
//!
//! There is one question for a connection, that of its first packet: may the side that opened it send this, may the other receive
//! it? The answer is remembered in the connection's entry under the policy epoch. A packet of either direction that finds another
//! epoch there asks the question again, so that a connection that is allowed no longer ends with its next packet, whoever sends it.
//!
//! What is known of a question lies in the packet's state: the verifier would follow every combination of it through registers.
use abi::{
    CtEntry, CtStatus, Direction, DropReason, EndpointInfo, EventKind, PolicyKey, PolicyMatch,
    PolicyValue, endpoint_flags, event_flags, identity, policy_origin,
};
use wire::policy;

use crate::{
    config,
    conntrack::{identity_of, is_tracked},
    flow::{Code, Drop, Flow, OK, State, attempt, emit},
    maps::{self, Maps},
    neigh,
    packet::Packet,
    skb::Skb,
};

/// An end of a packet that is on this node, or nothing.
pub type End<'a> = Option<&'a EndpointInfo>;

/// What policy wants to know of an end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Asked {
    /// Whose rows; zero: nobody's.
    subject: u32,
    pub flags: u16,
    pub id: u16,
}

impl Asked {
    #[inline(always)]
    fn of(end: End) -> Self {
        match end {
            Some(ep) => Self {
                subject: ep.subject,
                flags: ep.flags,
                id: ep.id,
            },
            None => Self {
                subject: 0,
                flags: 0,
                id: 0,
            },
        }
    }

    #[inline(always)]
    const fn is_locked(self) -> bool {
        self.flags & endpoint_flags::POLICY_LOCKDOWN != 0
    }

    /// True if what was allowed under `then` is allowed now.
    #[inline(always)]
    const fn holds(self, then: u32, epoch: u32) -> bool {
        self.subject == 0 || then == epoch && !self.is_locked()
    }
}

/// The end of a packet that is the node itself, if its policy is asked.
#[inline(always)]
pub fn host_end<F: Maps>(addr: F::Addr) -> End<'static> {
    if !config::host_firewall() {
        return None;
    }
    maps::endpoint::<F>(addr).filter(|ep| ep.flags & endpoint_flags::HOST != 0)
}

impl<F: Maps, P: Packet> Flow<F, P> {
    /// Says which ends of the packet are here.
    #[inline(always)]
    pub fn between(&mut self, from: End, to: End) {
        self.state.ends = [Asked::of(from), Asked::of(to)];
    }
}

impl<F: Maps> Flow<F> {
    /// Asks about a packet from or to the node itself, on a device. Neighbours must find each other; and the node may speak
    /// protocols without connections, of which each packet is asked about.
    #[inline(always)]
    pub fn track_host(&mut self, from: End, to: End) -> Result<(), Drop> {
        let is_asked = |end: End| end.is_some_and(|ep| ep.subject != 0);
        if neigh::is_discovery(&self.h) || !is_asked(from) && !is_asked(to) {
            return Ok(());
        }
        if is_tracked::<F>(self.h.tuple.proto) {
            return self.track(from, to);
        }
        self.between(from, to);
        self.state.identify();
        attempt!(F::ask(self.packet))
    }
}

impl<F: Maps> State<F> {
    /// True if policy has a say.
    #[inline(always)]
    pub fn is_asked(&self) -> bool {
        self.ends[0].subject | self.ends[1].subject != 0
    }

    /// What the entry of a connection remembers holds for this packet. If not, the question is in the state.
    #[inline(always)]
    pub fn is_remembered(&mut self, entry: &CtEntry, epoch: u32) -> bool {
        let question = policy::question(&self.h, self.from_opener);
        let [from, to] = self.ends;
        let [opener, other] = if question.reverse {
            [to, from]
        } else {
            [from, to]
        };
        // Answers come from whom the question was about; what they come as does not matter.
        let same = |now: u32, then: u32| question.reverse || now == 0 || now == then;
        let remembered = question.recall
            && opener.holds(entry.epochs[0], epoch)
            && other.holds(entry.epochs[1], epoch)
            && same(self.src_id, entry.src_id)
            && same(self.dst_id, entry.dst_id);
        if !remembered {
            core::hint::cold_path();
            (self.reverse, self.holds) = (question.reverse, question.holds);
        }
        remembered
    }

    /// Writes down what came of the question, and of whom it was asked: that of an answer to it must be the same.
    #[inline(always)]
    pub fn remember(&self, entry: &mut CtEntry, epoch: u32) {
        if !self.holds {
            return;
        }
        let [from, to] = self.ends;
        let [opener, other] = if self.reverse {
            (entry.src_id, entry.dst_id) = (self.dst_id, self.src_id);
            [to, from]
        } else {
            (entry.src_id, entry.dst_id) = (self.src_id, self.dst_id);
            [from, to]
        };
        if opener.subject != 0 {
            entry.epochs[0] = epoch;
        }
        if other.subject != 0 {
            entry.epochs[1] = epoch;
        }
    }

    /// Looks up the identities of the ends that nobody told. The sender of an answer is whom the address cache names, as he was when
    /// the question was asked, whatever identity the tunnel gives him.
    #[inline(always)]
    pub fn identify(&mut self) {
        if self.src_id == 0 || self.reverse && self.event_flags & event_flags::TUNNEL != 0 {
            self.src_id = identity_of::<F>(self.h.tuple.src);
        }
        if self.dst_id == 0 {
            self.dst_id = identity_of::<F>(self.h.tuple.dst);
        }
    }
}

/// Asks the policy of both ends the question that the packet raises, or that it answers. What comes of it is in the state, too.
#[inline(always)]
pub fn ask<F: Maps>(skb: Skb, state: &mut State<F>) -> Code {
    (state.asked, state.code) = (true, OK);
    (state.l7_kind, state.l7_sender, state.l7_receiver) = (0, 0, 0);
    state.direction = Direction::Egress as u8;
    ask_end::<F>(skb, state);
    if state.code == OK {
        state.direction = Direction::Ingress as u8;
        ask_end::<F>(skb, state);
    }
    let under = |end: Asked| {
        if state.holds && end.subject != 0 {
            state.epoch
        } else {
            0
        }
    };
    state.epochs = [under(state.ends[0]), under(state.ends[1])];
    state.code
}

/// Asks the end that the direction in the state is of.
#[inline(never)]
fn ask_end<F: Maps>(skb: Skb, state: &mut State<F>) {
    let is_sender = (state.direction == Direction::Egress as u8) != state.reverse;
    let end = if is_sender {
        state.ends[0]
    } else {
        state.ends[1]
    };
    if end.subject == 0 {
        return;
    }
    let proxy = look_up::<F>(state, end.subject);
    if proxy != 0 {
        state.want_proxy(end, proxy);
    }
    if end.is_locked() {
        core::hint::cold_path();
        state.code = DropReason::NoPolicyConfig as u8;
    }
    let reporter = state.endpoint;
    state.endpoint = end.id;
    let audits = end.flags & (endpoint_flags::POLICY_AUDIT | endpoint_flags::POLICY_LOCKDOWN)
        == endpoint_flags::POLICY_AUDIT;
    let is_news =
        state.code != OK || is_first(state) && state.origin != policy_origin::DEFAULT_ALLOW;
    if is_news && !state.reverse {
        state.event_flags |= event_flags::FORWARD;
        if state.code != OK && audits {
            state.event_flags |= event_flags::AUDITED;
        }
        (state.kind, state.subtype, state.line) = (EventKind::PolicyVerdict as u8, state.code, 0);
        emit::<F, Skb>(skb, state);
        state.event_flags &= !event_flags::AUDITED;
    }
    if audits {
        state.code = OK;
    }
    if state.code == OK {
        state.endpoint = reporter;
        (state.origin, state.direction, state.matched) = (0, 0, 0);
    } else {
        core::hint::cold_path();
        // The drop is this end's.
        state.hook.direction = Direction::from_index(u32::from(state.direction));
    }
}

/// True if the packet begins something.
#[inline(always)]
fn is_first<F: Maps>(state: &State<F>) -> bool {
    state.status as u8 == CtStatus::New as u8 || state.status as u8 == CtStatus::Reopened as u8
}

/// Counts a decision of the row. Packets of connections that live ask no row, so this costs them nothing.
#[inline(always)]
fn count(row: Option<&PolicyValue>) {
    if let Some(row) = row {
        let counter = (&raw const row.decided).cast_mut();
        // SAFETY: aligned, and of a value in the map, which outlives the program. Two processors at the same time may count once:
        // the target has no smaller atomic operation than that of eight bytes, and a row is small.
        unsafe { counter.write_volatile(counter.read_volatile().wrapping_add(1)) };
    }
}

/// The row that counts, and the reason to drop the packet if there is one. Returns by way of which proxy the row allows it.
#[inline(never)]
fn look_up<F: Maps>(state: &mut State<F>, subject: u32) -> u8 {
    let port = policy::port(&state.h, state.reverse);
    let l4_bits = match port {
        Some(_) => PolicyKey::L4_BITS,
        None => PolicyKey::PROTO_BITS,
    };
    let is_sender = (state.direction == Direction::Egress as u8) != state.reverse;
    let mut key = PolicyKey {
        prefix_len: PolicyKey::FIXED_BITS + l4_bits,
        subject,
        remote: if is_sender {
            state.dst_id
        } else {
            state.src_id
        },
        direction: state.direction,
        proto: state.h.tuple.proto,
        port: port.unwrap_or(0).to_ne_bytes(),
    };
    let exact = maps::policy_row(&key);
    key.remote = identity::UNKNOWN;
    let anybody = maps::policy_row(&key);
    let counts = policy::decide(exact, anybody);
    if is_first(state) {
        count(match counts.matched {
            PolicyMatch::L3Only | PolicyMatch::L3L4 | PolicyMatch::L3Proto => exact,
            PolicyMatch::L4Only | PolicyMatch::All | PolicyMatch::ProtoOnly => anybody,
            PolicyMatch::None => None,
        });
    }
    (state.origin, state.matched) = (counts.origin, counts.matched as u8);
    state.code = policy::drop_reason(counts.verdict).map_or(OK, |reason| reason as u8);
    counts.proxy
}
