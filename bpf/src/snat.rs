//! Masquerading: pods leave the cluster under the node's address, and what returns finds its pod.
//!
//! A mapping is a pair of entries: the original tuple says what the source becomes, the returning tuple says what the destination
//! was. The node's own connections from ports of the range enter as mappings to themselves, so that no pod is given their port.
use abi::{DropReason, event_flags, snat_flags};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use wire::{
    Headers, Tuple,
    headers::{Icmp, SCTP, TCP, UDP, echo_request},
    snat::ATTEMPTS,
};

use crate::{
    clock, config,
    flow::{CROSS, Code, Drop, Flow, OK, State, attempt, drop_because},
    maps::Maps,
    packet::{L3, MANGLED_0, PSEUDO_HEADER, Packet, RECOMPUTE},
    skb::Skb,
};

pub const NOEXIST: u64 = 1;
const ANY: u64 = 0;

/// An address and port, in network order, that a packet gets instead of its own.
#[derive(Clone, Copy)]
pub struct Target<F: Maps> {
    pub addr: F::Addr,
    pub port: u16,
}

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

impl<F: Maps> Flow<F> {
    /// Gives a packet that leaves an address of the node as its source.
    #[inline(always)]
    pub fn masquerade(&mut self, addr: F::Addr) -> Result<(), Drop> {
        if self.h.icmp == Icmp::Error {
            return self.masquerade_error();
        }
        self.masquerade_own(addr)
    }

    /// A pod reports an error about a packet that had come back through a mapping.
    #[inline(always)]
    fn masquerade_error(&mut self) -> Result<(), Drop> {
        if F::read_inner(self.packet) != OK {
            return Err(drop_because!(InvalidPacket));
        }
        if !find::<F>(self.state, snat_flags::OUT) {
            return Err(drop_because!(NatNoMapping));
        }
        self.event_flags |= event_flags::SNAT;
        attempt!(F::rewrite_inner_destination(self.packet))?;
        attempt!(rewrite_source::<F, Skb>(self.packet, self.state))
    }

    /// Gives a packet that came to the node's address back to the pod behind it; false if none is.
    #[inline(always)]
    pub fn unmasquerade(&mut self) -> Result<bool, Drop> {
        let is_error = self.h.icmp == Icmp::Error;
        // Somebody on the way may report an error about a masqueraded packet.
        if is_error && F::read_inner(self.packet) != OK || !find::<F>(self.state, snat_flags::IN) {
            return Ok(false);
        }
        if config::crosses() && F::is_across(self.state.target.addr) {
            return Err(Drop {
                reason: CROSS,
                line: 0,
            });
        }
        if is_error {
            attempt!(F::rewrite_inner_source(self.packet))?;
        }
        attempt!(rewrite_destination::<F, Skb>(self.packet, self.state))?;
        self.event_flags |= event_flags::SNAT;
        Ok(true)
    }
}

impl<F: Maps, P: Packet> Flow<F, P> {
    /// As [`Flow::masquerade`], of a packet that is no error.
    #[inline(always)]
    pub fn masquerade_own(&mut self, addr: F::Addr) -> Result<(), Drop> {
        let is_later = self.h.fragment.is_later();
        let supported = match self.h.tuple.proto {
            TCP | UDP | SCTP => true,
            proto => proto == F::ICMP && (self.h.icmp_type == echo_request::<F>() || is_later),
        };
        if !supported {
            return Err(drop_because!(NatUnsupportedProtocol));
        }
        if !find::<F>(self.state, snat_flags::OUT) {
            if is_later {
                // The first fragment would have made it.
                return Err(drop_because!(NatNoMapping));
            }
            self.state.target.addr = addr;
            attempt!(self.packet.map_outgoing::<F>())?;
        } else if self.report {
            restore::<F>(self.state);
        }
        self.event_flags |= event_flags::SNAT;
        attempt!(rewrite_source::<F, P>(self.packet, self.state))
    }
}

/// A cheap look at whether a packet to an address of the node can be an answer to somebody else.
#[inline(always)]
pub fn may_be_masqueraded<F: Maps>(h: &Headers<F>) -> bool {
    match h.tuple.proto {
        TCP | UDP => config::snat_range().contains(u16::from_be(h.tuple.dport)),
        SCTP => true,
        proto => proto == F::ICMP && (h.icmp != Icmp::None || !h.fragment.is_whole()),
    }
}

/// Finds the mapping that the packet, or the packet inside an error, belongs to, and makes it the target.
#[inline(never)]
pub fn find<F: Maps>(state: &mut State<F>, direction: u8) -> bool {
    let tuple = if state.h.icmp == Icmp::Error {
        state.inner.tuple.reversed()
    } else {
        state.h.tuple
    };
    let key = F::snat_key(&tuple, direction);
    // SAFETY: an LRU entry may be reused while we read: the packet then goes to another flow's port, and is lost there.
    let Some(entry) = (unsafe { F::snat().get(&key) }) else {
        return false;
    };
    let (addr, port) = F::snat_target(entry);
    state.target = Target { addr, port };
    true
}

/// Puts back the way of return of the target's mapping, which may have been evicted from the map alone.
#[inline(never)]
pub fn restore<F: Maps>(state: &State<F>) {
    hold(state);
}

/// Makes a mapping for an outgoing packet, and makes it the target.
#[inline(always)]
pub fn map_outgoing<F: Maps, P: Packet>(_: P, state: &mut State<F>) -> Code {
    map_by::<F>(state, hold::<F>)
}

/// As [`map_outgoing`]; `hold` takes the target's port, if that is free.
#[inline(always)]
pub fn map_by<F: Maps>(state: &mut State<F>, hold: impl Fn(&State<F>) -> bool) -> Code {
    if !take_port::<F>(state, hold) {
        return DropReason::NatNoMapping as u8;
    }
    let entry = F::snat_entry(clock::now(), state.target.addr, state.target.port);
    match F::snat().insert(&F::snat_key(&state.h.tuple, snat_flags::OUT), &entry, ANY) {
        Ok(()) => OK,
        Err(_) => DropReason::NatNoMapping as u8,
    }
}

/// Targets a port whose way back is free: the packet's own if it is in the range, else a random one and its successors.
#[inline(always)]
fn take_port<F: Maps>(state: &mut State<F>, hold: impl Fn(&State<F>) -> bool) -> bool {
    let range = config::snat_range();
    let own = u16::from_be(state.h.tuple.sport);
    // The checksum of SCTP is one over all of its packet: its port stays.
    let is_fixed = state.h.tuple.proto == SCTP;
    let mut port = if is_fixed || range.contains(own) {
        own
    } else {
        range.pick(random())
    };
    for attempt in 0..ATTEMPTS {
        state.target.port = port.to_be();
        if hold(state) {
            return true;
        }
        if is_fixed {
            return false;
        }
        // After the first miss neighbours are likely taken as well: jump once, then walk.
        port = if attempt == 0 {
            range.pick(random())
        } else {
            range.after(port)
        };
    }
    false
}

/// Makes the way back from the target, if it is nobody's.
#[inline(always)]
pub fn hold<F: Maps>(state: &State<F>) -> bool {
    let way = F::snat().insert(&returning(state), &original(state), NOEXIST);
    way.is_ok()
}

/// Key of the packets that return to the target.
#[inline(always)]
fn returning<F: Maps>(state: &State<F>) -> F::SnatKey {
    let t = Tuple {
        src: state.target.addr,
        sport: state.target.port,
        ..state.h.tuple
    };
    F::snat_key(&t.reversed(), snat_flags::IN)
}

/// What packets that return become.
#[inline(always)]
fn original<F: Maps>(state: &State<F>) -> F::SnatEntry {
    F::snat_entry(clock::now(), state.h.tuple.src, state.h.tuple.sport)
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: a helper call.
    unsafe { bpf_get_prandom_u32() as u32 }
}

#[inline(never)]
pub fn rewrite_source<F: Maps, P: Packet>(packet: P, state: &State<F>) -> Code {
    rewrite(packet, &state.h, &state.target, End::Source)
}

/// Also in the state. Not left to the caller, who knows from before the call whether the packet is an error: the verifier of
/// Linux 5.10 forgets that it needs what a caller knows, follows one of the two cases only, and removes the other's code.
#[inline(never)]
pub fn rewrite_destination<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    let code = rewrite(packet, &state.h, &state.target, End::Destination);
    state.h.tuple.dst = state.target.addr;
    if state.h.icmp != Icmp::Error {
        state.h.tuple.dport = state.target.port;
    }
    code
}

#[inline(never)]
pub fn rewrite_inner_source<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    rewrite_inner(packet, state, End::Source)
}

#[inline(never)]
pub fn rewrite_inner_destination<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    rewrite_inner(packet, state, End::Destination)
}

/// Offset in the L4 header of an end's port, or of an echo's identifier.
#[inline(always)]
fn port_offset(proto: u8, end: End) -> usize {
    match (proto, end) {
        (TCP | UDP, End::Source) => 0,
        (TCP | UDP, End::Destination) => 2,
        _ => 4,
    }
}

/// The address and the port or identifier of one end.
#[inline(always)]
fn end_of<F: Maps>(t: &Tuple<F>, end: End) -> (F::Addr, u16) {
    if end == End::Source {
        (t.src, t.sport)
    } else {
        (t.dst, t.dport)
    }
}

/// Offset of the checksum in the L4 header, and the flags to update it with.
#[inline(always)]
pub fn checksum_of(proto: u8) -> (usize, u64) {
    match proto {
        TCP => (16, 0),
        UDP => (6, MANGLED_0),
        _ => (2, 0),
    }
}

/// True if the L4 checksum covers the addresses.
#[inline(always)]
fn covers_addresses<F: Maps>(proto: u8) -> bool {
    F::IS_V6 || proto != F::ICMP
}

/// Writes `to` over one end of the packet, and puts its checksums right. Errors keep their port: it is the inner packet's.
#[inline(always)]
fn rewrite<F: Maps, P: Packet>(packet: P, h: &Headers<F>, to: &Target<F>, end: End) -> Code {
    let (from, port) = end_of(&h.tuple, end);
    let proto = h.tuple.proto;
    if proto == SCTP {
        if port != to.port {
            return DropReason::NatUnsupportedProtocol as u8;
        }
    } else if !h.fragment.is_later() {
        let (offset, flags) = checksum_of(proto);
        let sum = h.l4() + offset;
        if covers_addresses::<F>(proto)
            && !packet.replace_l4_address::<F>(sum, &from, &to.addr, flags | PSEUDO_HEADER)
        {
            return DropReason::L4Checksum as u8;
        }
        if h.icmp != Icmp::Error && port != to.port {
            let at = h.l4() + port_offset(proto, end);
            if !packet.replace_l4_port(sum, port, to.port, flags) || !packet.store(at, &to.port, 0)
            {
                return DropReason::L4Checksum as u8;
            }
        }
    }
    let flags = if F::IS_V6 { RECOMPUTE } else { 0 };
    write_address::<F, P>(packet, L3, &from, &to.addr, end, flags)
}

/// Writes an address into the L3 header at `l3`.
#[inline(always)]
fn write_address<F: Maps, P: Packet>(
    packet: P,
    l3: usize,
    from: &F::Addr,
    to: &F::Addr,
    end: End,
    flags: u64,
) -> Code {
    if !F::IS_V6 && !packet.replace_l3_checksum(l3 + 10, F::first_word(*from), F::first_word(*to)) {
        return DropReason::L3Checksum as u8;
    }
    let at = if end == End::Source {
        F::SRC_OFFSET
    } else {
        F::SRC_OFFSET + F::ADDR_LEN
    };
    if packet.store(l3 + at, to, flags) {
        OK
    } else {
        DropReason::ErrorWritingToPacket as u8
    }
}

/// Writes the target over one end of the packet inside an ICMP error. In IPv4 the inner header's own checksum makes up for the
/// address, in IPv6 the error's checksum has to.
#[inline(always)]
fn rewrite_inner<F: Maps, P: Packet>(packet: P, state: &State<F>, end: End) -> Code {
    let (h, inner, to) = (&state.h, &state.inner, &state.target);
    let (from, port) = end_of(&inner.tuple, end);
    let sum = h.l4() + 2;
    if F::IS_V6 && !packet.replace_l4_address::<F>(sum, &from, &to.addr, 0) {
        return DropReason::L4Checksum as u8;
    }
    if !inner.fragment.is_later() && inner.tuple.proto != SCTP {
        let at = inner.l4() + port_offset(inner.tuple.proto, end);
        if !correct_inner(packet, sum, inner, to, end)
            || !packet.replace_l4_port(sum, port, to.port, 0)
            || !packet.store(at, &to.port, 0)
        {
            return DropReason::L4Checksum as u8;
        }
    }
    write_address::<F, P>(packet, h.l4() + 8, &from, &to.addr, end, 0)
}

/// Puts the L4 checksum of the packet inside an ICMP error right, if the error quotes as much of it; the checksum at `sum`
/// covers it.
#[inline(always)]
fn correct_inner<F: Maps, P: Packet>(
    packet: P,
    sum: usize,
    inner: &Headers<F>,
    to: &Target<F>,
    end: End,
) -> bool {
    let (from, port) = end_of(&inner.tuple, end);
    let proto = inner.tuple.proto;
    let (offset, flags) = checksum_of(proto);
    let at = inner.l4() + offset;
    let Some(before) = packet.get::<u16>(at) else {
        return true;
    };
    let corrected = (!covers_addresses::<F>(proto)
        || packet.replace_l4_address::<F>(at, &from, &to.addr, flags))
        && packet.replace_l4_port(at, port, to.port, flags);
    match packet.get::<u16>(at) {
        Some(after) if corrected => packet.replace_l4_port(sum, before, after, 0),
        _ => false,
    }
}
