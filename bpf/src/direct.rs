//! Direct answers: a client's packet goes on to the backend's node under the client's own address, and that node answers the client in the
//! frontend's name.
//!
//! The other node is told the frontend by the packet that opens the connection, or by each datagram: in an IP option, or in an option of the
//! tunnel that it goes by. It remembers that in the masquerade map under the tuple of the answers, and the connection's entry has
//! [`DIRECT_FRONTEND`] in place of a frontend's number: so answers take the way that a service's take anyway.
use abi::{
    CtStatus, DIRECT_FRONTEND, DropReason, DsrDispatch, event_flags, identity, ipcache_flags,
    snat_flags,
};
use aya_ebpf::helpers::generated::{bpf_skb_get_tunnel_opt, bpf_skb_set_tunnel_opt};
use wire::{
    Bytes, checksum,
    direct::{LABELLED6, tells},
};

use crate::{
    calls::Shared,
    clock, config,
    conntrack::identity_of,
    cross,
    flow::{Code, Drop, Flow, OK, Outcome, State, attempt, drop_because},
    forward::set_tunnel_key,
    maps::{self, Maps},
    packet::{L3, Packet, RECOMPUTE},
    routes::Route,
    skb::Skb,
    snat::Target,
};

const DONT_FRAGMENT: u16 = 0x4000;
/// Longest IPv4 header, in words.
const LONGEST: u8 = 15;
const HOP_BY_HOP: u8 = 0;

/// True if packets carry the frontend in an option of their own.
#[inline(always)]
pub fn by_option() -> bool {
    config::services() && config::dsr_dispatch() == DsrDispatch::Option as u8
}

/// True if a tunnel carries the frontend.
#[inline(always)]
pub fn by_tunnel() -> bool {
    config::services() && config::dsr_dispatch() == DsrDispatch::Geneve as u8
}

/// True if a packet was dropped because its option, or the header of the other family, makes it too long.
#[inline(always)]
pub fn is_too_long(reason: u8) -> bool {
    (by_option() || config::crosses()) && reason == DropReason::FragmentationNeeded as u8
}

/// How long a packet may be at most, as senders are told whose packet was too long.
#[inline(always)]
pub fn told_longest<F: Maps>() -> u32 {
    if config::crosses() && !F::IS_V6 {
        cross::longest()
    } else {
        longest::<F>()
    }
}

/// Longest packet that has room for the option.
#[inline(always)]
pub fn longest<F: Maps>() -> u32 {
    config::mtu().saturating_sub(size_of::<F::Label>() as u32)
}

impl<F: Maps> Flow<F> {
    /// To a backend whose node answers the client itself; `known` as in [`Flow::to_backend`].
    #[inline(always)]
    pub fn pass_on(&mut self, known: Option<&'static Route<F>>) -> Outcome {
        if by_tunnel() {
            self.age()?;
            attempt!(F::encapsulate(self.packet))?;
            return self.into_tunnel();
        }
        if tells(&self.h) {
            attempt!(self.packet.label::<F>())?;
            if self.oversize {
                // The stack cuts it, and knows the way.
                return self.to_stack();
            }
        }
        match known.or_else(|| self.ask_route()) {
            Some(route) => self.to_network(route, false),
            None => Err(drop_because!(FibLookupFailed)),
        }
    }

    /// Takes the frontend out of a packet's option. True if another node passed the packet on.
    #[inline(always)]
    pub fn was_passed_on(&mut self) -> Result<bool, Drop> {
        if !by_option() || self.h.l4() == L3 + F::HEADER_LEN {
            return Ok(false);
        }
        core::hint::cold_path();
        attempt!(F::read_label(self.packet))?;
        Ok(self.state.by != 0)
    }
}

impl<F: Maps> State<F> {
    /// Whether the backend's node is to answer the client itself.
    #[inline(always)]
    pub fn is_passed_on(&self) -> bool {
        (by_option() || by_tunnel()) && self.direct
    }

    /// A packet that is passed on is of no other connection here than that of client and frontend: what there is to tell of it.
    #[inline(always)]
    pub fn is_seen(&mut self, status: CtStatus, report: bool) {
        (self.status, self.report) = (status, report);
        self.event_flags |= event_flags::FORWARD;
        if report || config::reports_all() {
            self.src_id = identity_of::<F>(self.h.tuple.src);
            self.dst_id = identity_of::<F>(self.target.addr);
        }
    }
}

/// Looks at a packet that is to be passed on before anything of it changes: whether there is room for the option.
#[inline(always)]
pub fn fit<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    let t = &state.h.tuple;
    state.frontend = Target {
        addr: t.dst,
        port: t.dport,
    };
    state.oversize = false;
    if !by_option() || !tells(&state.h) {
        return OK;
    }
    let Some(words) = packet.get::<[u16; 4]>(L3) else {
        return DropReason::InvalidPacket as u8;
    };
    let label = size_of::<F::Label>();
    let len = if F::IS_V6 {
        // That header must be the first.
        if words[3].to_ne_bytes()[0] == HOP_BY_HOP {
            return DropReason::InvalidExtensionHeader as u8;
        }
        F::HEADER_LEN + usize::from(u16::from_be(words[2]))
    } else {
        if words[0].to_ne_bytes()[0] & 0xF > LONGEST - (label / 4) as u8 {
            return DropReason::InvalidPacket as u8;
        }
        usize::from(u16::from_be(words[1]))
    };
    let segment = packet.gso_size() as usize;
    let len = if segment == 0 {
        len
    } else {
        state.h.l4() - L3 + 8 + segment
    };
    if len as u32 <= longest::<F>() {
        return OK;
    }
    if F::IS_V6 || u16::from_be(words[3]) & DONT_FRAGMENT != 0 {
        return DropReason::FragmentationNeeded as u8;
    }
    state.oversize = true;
    OK
}

/// Puts the option with the frontend into the packet.
#[inline(always)]
pub fn label<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    let label = size_of::<F::Label>();
    if !packet.widen::<F>(label) {
        return DropReason::ErrorWritingToPacket as u8;
    }
    state.h.l4 += label as u16;
    let written = if F::IS_V6 {
        label6::<F, P>(packet, state)
    } else {
        label4::<F, P>(packet, state)
    };
    match written {
        Some(true) => OK,
        _ => DropReason::ErrorWritingToPacket as u8,
    }
}

/// The header's checksum makes up for what is written.
#[inline(always)]
fn label4<F: Maps, P: Packet>(packet: P, state: &State<F>) -> Option<bool> {
    let label = F::option(state.frontend.addr, state.frontend.port, 0);
    let [first, total] = packet.get::<[u16; 2]>(L3)?;
    let sum = packet.get::<u16>(L3 + 10)?;
    let len = size_of::<F::Label>() as u16;
    let [version, tos] = first.to_ne_bytes();
    let longer = u16::from_ne_bytes([version + (len / 4) as u8, tos]);
    let all = (u16::from_be(total) + len).to_be();
    let written = packet.write(L3, [longer, all]) && packet.write(L3 + F::HEADER_LEN, label);
    let words = packet.get::<[u16; 4]>(L3 + F::HEADER_LEN)?;
    let mut more = words.iter().map(|word| u64::from(*word)).sum::<u64>();
    more += u64::from(longer) + u64::from(!first) + u64::from(all) + u64::from(!total);
    let sum = !checksum::fold(u64::from(!sum) + more);
    Some(written && packet.write(L3 + 10, sum))
}

#[inline(always)]
fn label6<F: Maps, P: Packet>(packet: P, state: &State<F>) -> Option<bool> {
    let [len, next_and_hops] = packet.get::<[u16; 2]>(L3 + 4)?;
    let [next, hops] = next_and_hops.to_ne_bytes();
    let label = F::option(state.frontend.addr, state.frontend.port, next);
    let len = u16::from_be(len) + size_of::<F::Label>() as u16;
    let words = [len.to_be(), u16::from_ne_bytes([LABELLED6, hops])];
    Some(
        packet.store(L3 + 4, &words, RECOMPUTE)
            && packet.store(L3 + F::HEADER_LEN, &label, RECOMPUTE),
    )
}

/// See [`Flow::was_passed_on`].
#[inline(always)]
pub fn read_label<F: Maps>(skb: Skb, state: &mut State<F>) -> Code {
    let may = tells(&state.h)
        && skb
            .get::<u16>(L3 + F::WORD)
            .is_some_and(|word| F::may_have_label(word));
    if !may {
        return OK;
    }
    let label = skb.get::<F::Label>(L3 + F::HEADER_LEN);
    match label.and_then(|label| F::read_option(&label)) {
        Some((addr, port)) => remember(state, addr, port),
        None => OK,
    }
}

/// Takes the frontend out of the option of the tunnel that a packet came by.
#[inline(always)]
pub fn read_tunnel<F: Maps>(skb: Skb, state: &mut State<F>) -> Code {
    if !tells(&state.h) {
        return OK;
    }
    let mut option = F::geneve(F::zero(), 0);
    let size = size_of::<F::Geneve>() as u32;
    // SAFETY: `option` has `size` bytes.
    let len = unsafe { bpf_skb_get_tunnel_opt(skb.0, (&raw mut option).cast(), size) };
    if len != size as i64 {
        return OK;
    }
    match F::read_geneve(&option) {
        Some((addr, port)) => remember(state, addr, port),
        None => OK,
    }
}

/// Remembers the frontend that the packet's connection came by, unless that is known.
#[inline(never)]
fn remember<F: Maps>(state: &mut State<F>, addr: F::Addr, port: u16) -> Code {
    let key = F::snat_key(&state.h.tuple.reversed(), snat_flags::DIRECT);
    state.by = DIRECT_FRONTEND;
    // SAFETY: read at once; an LRU entry that is reused meanwhile is another one, and this one is made again.
    if let Some(entry) = unsafe { F::snat().get(&key) }
        && F::snat_target(entry) == (addr, port)
    {
        return OK;
    }
    let entry = F::snat_entry(clock::now(), addr, port);
    match F::snat().insert(&key, &entry, 0) {
        Ok(()) => OK,
        Err(_) => DropReason::NatNoMapping as u8,
    }
}

/// Gives the packet the tunnel's key to the backend's node, with the frontend where that has to be told.
#[inline(always)]
pub fn encapsulate<F: Maps>(skb: Skb, state: &mut State<F>) -> Code {
    let backend = state.h.tuple.dst;
    let Some(row) = maps::ipcache::<F>(backend) else {
        return DropReason::NoTunnelEndpoint as u8;
    };
    let is_set = if row.flags & ipcache_flags::TUNNEL != 0 {
        let is_v6 = row.flags & ipcache_flags::TUNNEL_V6 != 0;
        set_tunnel_key(skb, state.src_id, &row.tunnel, is_v6)
    } else if identity::is_remote_node(row.sec_id) {
        // A process of the node is the backend.
        let node = F::widen(backend);
        set_tunnel_key(skb, state.src_id, &node, F::IS_V6)
    } else {
        false
    };
    if !is_set {
        return DropReason::NoTunnelEndpoint as u8;
    }
    if !tells(&state.h) {
        return OK;
    }
    let mut option = F::geneve(state.frontend.addr, state.frontend.port);
    let size = size_of::<F::Geneve>() as u32;
    // SAFETY: `option` has `size` bytes.
    match unsafe { bpf_skb_set_tunnel_opt(skb.0, (&raw mut option).cast(), size) } {
        0 => OK,
        _ => DropReason::ErrorWritingToPacket as u8,
    }
}
