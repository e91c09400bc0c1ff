//! Services whose backends are of the other family: packets change theirs on the way.
//!
//! Such a connection is known in IPv6, where addresses of IPv4 stand as `::ffff:a.b.c.d`: one entry of client and backend, that names the
//! frontend, and one mapping, since the client has no address that the backend could answer: it is always masqueraded. Where the
//! backend is of IPv4, an entry without an address in that family's masquerade map keeps the port from others, and says where to look.
//!
//! What finds out that a packet crosses ([`Flow::serve`], [`Flow::unmasquerade`], [`Flow::comes_back_across`]) is of the one family and ends
//! there ([`CROSS`]); the steps begin anew from the program's entry: the stack has no room for both.
use abi::{DropReason, EndpointInfo, endpoint_flags, event_flags, snat_flags};
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_change_proto, bpf_skb_change_type,
};
use wire::{
    Bytes, Family, Fragment, Headers, Tuple, V4, V6, checksum,
    conntrack::{FIN, RST},
    headers::{Icmp, TCP, UDP},
};
use zerocopy::transmute;

use crate::{
    calls::Calls,
    clock, config,
    conntrack::identity_of,
    flow::{CROSS, Code, Drop, Flow, OK, Outcome, SHOT, State, TO_PROXY, drop_because},
    maps::{self, Maps},
    packet::{L3, PSEUDO_HEADER, Packet, RECOMPUTE},
    routes::Route,
    skb::Skb,
    snat::{
        NOEXIST, Target, checksum_of, find, hold, map_by, map_outgoing, may_be_masqueraded, restore,
    },
    translate::note_end,
};

/// What a family's part of a program ends with if the packet is to cross.
pub const CROSSING: i32 = 0x100;

const DONT_FRAGMENT: u16 = 0x4000;
const PACKET_HOST: u32 = 0;

/// What differs by the family that a packet comes in.
pub trait Cross: Family {
    /// Targets a backend of the other family, if there is one of this number.
    fn aim_across(id: u32) -> bool;
    /// True if a returning packet that would get this address is for somebody of the other family.
    fn is_across(addr: Self::Addr) -> bool;
    /// Writes into IPv6's state who talks to whom: the client and the backend.
    fn enter(state: &'static mut State<Self>) -> Code
    where
        Self: Maps;
    /// Writes into the other family's state what the packet becomes.
    fn leave(skb: Skb, state: &'static mut State<Self>) -> Code
    where
        Self: Maps;
    /// Makes the packet what is in the other family's state.
    fn turn(skb: Skb) -> Option<()>;
}

/// The verdict of a program, one family's part of which ended with `verdict`.
#[inline(always)]
pub fn after(skb: Skb, verdict: i32) -> i32 {
    if config::crosses() && verdict == CROSSING {
        core::hint::cold_path();
        return across(skb);
    }
    verdict
}

#[inline(never)]
fn across(skb: Skb) -> i32 {
    if skb.ethertype() == V4::ETHERTYPE {
        through::<V4, V6>(skb)
    } else {
        through::<V6, V4>(skb)
    }
}

#[inline(always)]
fn through<F: Maps, G: Maps>(skb: Skb) -> i32 {
    let mut code = F::cross_enter(skb);
    if code != OK {
        return give_up::<F>(skb, code, line!());
    }
    code = V6::cross_track(skb);
    if code == OK {
        code = F::cross_leave(skb);
    }
    if code == OK {
        code = F::cross_turn(skb);
    }
    if code != OK {
        return give_up::<V6>(skb, code, line!());
    }
    i32::from(G::cross_send(skb))
}

#[inline(always)]
fn give_up<F: Maps>(skb: Skb, reason: Code, line: u32) -> i32 {
    let Some(state) = F::state() else {
        return SHOT;
    };
    let line = line as u16;
    Flow { packet: skb, state }.finish(Err(Drop { reason, line }))
}

impl<F: Maps> Flow<F> {
    /// Ends this family's part if a pod of this node answers somebody of the other one: such have the router's address.
    #[inline(always)]
    pub fn comes_back_across(&mut self) -> Result<(), Drop> {
        if config::crosses()
            && self.h.tuple.dst == F::router_addr()
            && self.h.icmp != Icmp::Error
            && may_be_masqueraded(&self.h)
            && find::<F>(self.state, snat_flags::IN)
            && F::is_across(self.state.target.addr)
        {
            core::hint::cold_path();
            return Err(Drop {
                reason: CROSS,
                line: 0,
            });
        }
        Ok(())
    }
}

impl<F: Maps> State<F> {
    /// Begins with what is known of the packet in the other family.
    #[inline(always)]
    fn take_over<G: Maps>(&mut self, other: &State<G>, src: F::Addr, dst: F::Addr) {
        self.begin(other.hook, other.endpoint);
        (self.by, self.crosses, self.inside) = (other.by, other.crosses, other.inside);
        (self.src_id, self.dst_id) = (other.src_id, other.dst_id);
        (self.status, self.report) = (other.status, other.report);
        self.event_flags |= other.event_flags & (event_flags::FORWARD | event_flags::SNAT);
        self.may_be_served = true;
        let t = &other.h.tuple;
        self.h = Headers {
            tuple: Tuple {
                src,
                dst,
                sport: t.sport,
                dport: t.dport,
                proto: t.proto,
            },
            l4: (L3 + F::HEADER_LEN) as u16,
            fragment: Fragment::WHOLE,
            tcp_flags: other.h.tcp_flags,
            icmp: Icmp::None,
            icmp_type: 0,
            icmp_code: 0,
        };
        self.tcp_flags = other.h.tcp_flags;
    }

    /// Makes the target the destination.
    #[inline(always)]
    fn to_target(&mut self) {
        (self.h.tuple.dst, self.h.tuple.dport) = (self.target.addr, self.target.port);
    }
}

/// Why a packet is given up that came in this family.
#[inline(always)]
fn failed<F: Family>() -> Code {
    if F::IS_V6 {
        DropReason::Nat64 as Code
    } else {
        DropReason::Nat46 as Code
    }
}

/// Who talks to whom. Errors, parts of datagrams and headers with options do not cross.
#[inline(always)]
pub fn enter<F: Maps>(skb: Skb, state: &'static mut State<F>) -> Code {
    let h = &state.h;
    let is_plain = h.fragment.is_whole() && h.l4() == L3 + F::HEADER_LEN;
    if !is_plain || !matches!(h.tuple.proto, TCP | UDP) {
        return failed::<F>();
    }
    let is_long = skb.gso_size() == 0 && skb.len() > L3 as u32 + longest();
    if !F::IS_V6 && is_long {
        return DropReason::FragmentationNeeded as Code;
    }
    F::enter(state)
}

/// Longest packet of IPv4 that there is room for as one of IPv6.
#[inline(always)]
pub fn longest() -> u32 {
    config::mtu().saturating_sub((V6::HEADER_LEN - V4::HEADER_LEN) as u32)
}

/// Asks policy about client and backend, and finds or makes their connection.
#[inline(always)]
pub fn track<F: Maps>(skb: Skb, state: &'static mut State<F>) -> Code {
    let from = if state.hook.is_first() {
        maps::endpoint_of_device(skb.ifindex()).map(|ep| &ep.info)
    } else {
        None
    };
    let to = end_at::<F>(state.h.tuple.dst);
    if let Some(to) = to {
        if to.flags & endpoint_flags::HOST != 0 {
            // The node would answer itself.
            return DropReason::LocalHostUnreachable as Code;
        }
        state.dst_id = to.sec_id;
        if !state.hook.is_first() {
            state.endpoint = to.id;
        }
    }
    match (Flow { packet: skb, state }).track(from, to) {
        Ok(()) => OK,
        Err(drop) if drop.reason == TO_PROXY => DropReason::ProxyUnsupportedProtocol as Code,
        Err(drop) => drop.reason,
    }
}

#[inline(always)]
fn end_at<F: Maps>(addr: F::Addr) -> Option<&'static EndpointInfo> {
    if F::IS_V6
        && let Some(addr) = V6::unmapped(transmute!(F::widen(addr)))
    {
        return maps::endpoint::<V4>(addr);
    }
    maps::endpoint::<F>(addr)
}

#[inline(always)]
pub fn leave<F: Maps>(skb: Skb, state: &'static mut State<F>) -> Code {
    F::leave(skb, state)
}

#[inline(always)]
pub fn turn<F: Maps>(skb: Skb, _: &'static mut State<F>) -> Code {
    match F::turn(skb) {
        Some(()) => OK,
        None => failed::<F>(),
    }
}

/// The address of this node that a backend sees: the router's where packets reach it by the tunnel, or do not leave.
#[inline(always)]
fn own_address<F: Maps>(flow: &mut Flow<F>) -> F::Addr {
    let is_here = maps::endpoint::<F>(flow.h.tuple.dst).is_some();
    if is_here || flow.ask_tunnel().is_some() {
        F::router_addr()
    } else {
        F::node_addr()
    }
}

/// The packet is now of this family, and goes on as any other.
#[inline(always)]
pub fn send<F: Maps>(skb: Skb, state: &'static mut State<F>) -> Code {
    let mut flow = Flow { packet: skb, state };
    let outcome = go_on(&mut flow);
    flow.finish(outcome) as Code
}

#[inline(always)]
fn go_on<F: Maps>(flow: &mut Flow<F>) -> Outcome {
    // By the tunnel: the inner Ethernet header names no device of ours. SAFETY: a helper call.
    if unsafe { bpf_skb_change_type(flow.packet.0, PACKET_HOST) } != 0 {
        return Err(drop_because!(InvalidPacket));
    }
    if let Some(to) = maps::endpoint::<F>(flow.h.tuple.dst) {
        let by_netkit = flow.hook.is_first()
            && maps::endpoint_of_device(flow.packet.ifindex())
                .is_some_and(|ep| ep.info.flags & endpoint_flags::NETKIT != 0);
        return flow.to_endpoint(to, !by_netkit);
    }
    let known = flow.ask_tunnel();
    if let Some(remote) = known.and_then(Route::tunnel) {
        flow.age()?;
        return flow.to_overlay(remote);
    }
    match flow.ask_route() {
        Some(route) => flow.to_network(route, false),
        None => Err(drop_because!(FibLookupFailed)),
    }
}

impl Cross for V4 {
    #[inline(always)]
    fn aim_across(id: u32) -> bool {
        aim_in::<V6>(id)
    }

    #[inline(always)]
    fn is_across(addr: u32) -> bool {
        addr == 0
    }

    #[inline(always)]
    fn enter(from: &'static mut State<V4>) -> Code {
        let Some(state) = V6::state() else {
            return DropReason::Nat46 as Code;
        };
        let (src, dst) = (from.h.tuple.src, from.h.tuple.dst);
        state.take_over(from, V6::mapped(src), V6::mapped(dst));
        if state.src_id == 0 {
            state.src_id = identity_of::<V4>(src);
        }
        if !state.crosses && !find::<V6>(state, snat_flags::IN) {
            return DropReason::NatNoMapping as Code;
        }
        state.to_target();
        OK
    }

    #[inline(always)]
    fn leave(skb: Skb, from: &'static mut State<V4>) -> Code {
        let Some(state) = V6::state() else {
            return DropReason::Nat46 as Code;
        };
        if from.crosses {
            return masquerade6(skb, state);
        }
        let front = state.front;
        as_frontend(skb, state, front)
    }

    #[inline(always)]
    fn turn(skb: Skb) -> Option<()> {
        to_v6(skb, &V6::state()?.h.tuple)
    }
}

impl Cross for V6 {
    #[inline(always)]
    fn aim_across(id: u32) -> bool {
        aim_in::<V4>(id)
    }

    #[inline(always)]
    fn is_across(addr: [u64; 2]) -> bool {
        V6::unmapped(addr).is_some()
    }

    #[inline(always)]
    fn enter(state: &'static mut State<V6>) -> Code {
        if state.crosses {
            let Some(other) = V4::state() else {
                return DropReason::Nat64 as Code;
            };
            state.target = Target {
                addr: V6::mapped(other.target.addr),
                port: other.target.port,
            };
        }
        state.to_target();
        if let Some(addr) = V6::unmapped(state.target.addr) {
            state.dst_id = identity_of::<V4>(addr);
        }
        OK
    }

    #[inline(always)]
    fn leave(skb: Skb, from: &'static mut State<V6>) -> Code {
        let (Some(state), Some(dst)) = (V4::state(), V6::unmapped(from.h.tuple.dst)) else {
            return DropReason::Nat64 as Code;
        };
        state.take_over(from, 0, dst);
        if from.crosses {
            return masquerade4(skb, state, from);
        }
        as_frontend(skb, state, from.front)
    }

    #[inline(always)]
    fn turn(skb: Skb) -> Option<()> {
        to_v4(skb, &V4::state()?.h.tuple)
    }
}

/// Targets the backend of this number in that family's state.
#[inline(always)]
fn aim_in<F: Maps>(id: u32) -> bool {
    match (F::state(), F::backend(id)) {
        (Some(state), Some((at, _))) => {
            state.target = Target::from(at);
            true
        }
        _ => false,
    }
}

/// Has the answer come from the frontend of this number.
#[inline(always)]
fn as_frontend<F: Maps>(skb: Skb, state: &mut State<F>, front: u16) -> Code {
    let Some(at) = F::reverse(front) else {
        return DropReason::NatNoMapping as Code;
    };
    (state.h.tuple.src, state.h.tuple.sport) = (at.addr, at.port);
    if state.h.tcp_flags & (FIN | RST) != 0 {
        note_end::<F, Skb>(skb, state);
    }
    OK
}

/// Gives an IPv4 client an address of this node in IPv6.
#[inline(always)]
fn masquerade6(skb: Skb, state: &'static mut State<V6>) -> Code {
    let mut flow = Flow { packet: skb, state };
    let addr = own_address(&mut flow);
    let state = flow.state;
    if !find::<V6>(state, snat_flags::OUT) {
        state.target.addr = addr;
        let code = map_outgoing(skb, state);
        if code != OK {
            return code;
        }
    } else if state.report {
        restore::<V6>(state);
    }
    (state.h.tuple.src, state.h.tuple.sport) = (state.target.addr, state.target.port);
    state.event_flags |= event_flags::SNAT;
    OK
}

/// Gives an IPv6 client, of whom `known` tells, an address of this node in IPv4.
#[inline(always)]
fn masquerade4(skb: Skb, state: &'static mut State<V4>, known: &'static mut State<V6>) -> Code {
    let mut flow = Flow { packet: skb, state };
    let addr = own_address(&mut flow);
    if !find::<V6>(known, snat_flags::OUT) {
        known.target.addr = V6::mapped(addr);
        let code = map_by::<V6>(known, |known| keep_port(known) && hold::<V6>(known));
        if code != OK {
            return code;
        }
    } else if known.report {
        keep_port(known);
        restore::<V6>(known);
    }
    let Some(src) = V6::unmapped(known.target.addr) else {
        return DropReason::NatNoMapping as Code;
    };
    (flow.h.tuple.src, flow.h.tuple.sport) = (src, known.target.port);
    flow.event_flags |= event_flags::SNAT;
    OK
}

/// Keeps the target's port from clients of IPv4 for an IPv6 one; false if somebody has it.
#[inline(always)]
fn keep_port(known: &State<V6>) -> bool {
    let (to, t) = (&known.target, &known.h.tuple);
    let (Some(src), Some(dst)) = (V6::unmapped(t.dst), V6::unmapped(to.addr)) else {
        return false;
    };
    let returning = Tuple {
        src,
        dst,
        sport: t.dport,
        dport: to.port,
        proto: t.proto,
    };
    let key = V4::snat_key(&returning, snat_flags::IN);
    let look_there = V4::snat_entry(clock::now(), 0, 0);
    V4::snat().insert(&key, &look_there, NOEXIST).is_ok()
}

/// The fixed header of IPv6.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header6 {
    class: u32,
    len_next_hops: u32,
    addrs: [[u64; 2]; 2],
}

/// Makes the packet one of IPv6.
#[inline(always)]
fn to_v6(skb: Skb, to: &Tuple<V6>) -> Option<()> {
    let [first, _, third, src, dst] = skb.get::<[u32; 5]>(L3)?;
    let [_, tos, high, low] = first.to_ne_bytes();
    let [ttl, proto, ..] = third.to_ne_bytes();
    let len = u16::from_be_bytes([high, low]).checked_sub(V4::HEADER_LEN as u16)?;
    let l4 = L3 + V4::HEADER_LEN;
    // IPv6 knows no datagrams without a checksum.
    if proto == UDP && skb.get::<u16>(l4 + 6)? == 0 {
        return None;
    }
    let addrs = [to.src, to.dst];
    correct(skb, l4, proto, &[src, dst], &addrs, [to.sport, to.dport])?;
    change::<V6>(skb)?;
    let [high, low] = len.to_be_bytes();
    let header = Header6 {
        class: u32::from_ne_bytes([0x60 | tos >> 4, tos << 4, 0, 0]),
        len_next_hops: u32::from_ne_bytes([high, low, proto, ttl]),
        addrs,
    };
    skb.store(L3, &header, RECOMPUTE).then_some(())
}

/// Makes the packet one of IPv4.
#[inline(always)]
fn to_v4(skb: Skb, to: &Tuple<V4>) -> Option<()> {
    let [class, second] = skb.get::<[u32; 2]>(L3)?;
    let from = skb.get::<[u64; 4]>(L3 + V6::SRC_OFFSET)?;
    let [a, b, ..] = class.to_ne_bytes();
    let [high, low, proto, ttl] = second.to_ne_bytes();
    let len = u16::from_be_bytes([high, low]);
    let total = len
        .checked_add(V4::HEADER_LEN as u16)
        .filter(|_| len != 0)?;
    let (l4, addrs) = (L3 + V6::HEADER_LEN, [to.src, to.dst]);
    correct(skb, l4, proto, &from, &addrs, [to.sport, to.dport])?;
    change::<V4>(skb)?;
    let [high, low] = total.to_be_bytes();
    let [flags, _] = DONT_FRAGMENT.to_be_bytes();
    let first = u32::from_ne_bytes([0x45, a << 4 | b >> 4, high, low]);
    let second = u32::from_ne_bytes([0, 0, flags, 0]);
    let third = [ttl, proto, 0, 0];
    let words = [first, second, u32::from_ne_bytes(third), to.src, to.dst];
    let sum = !checksum::fold(words.iter().map(|word| u64::from(*word)).sum());
    let [c, d] = sum.to_ne_bytes();
    let third = u32::from_ne_bytes([ttl, proto, c, d]);
    let header = [first, second, third, to.src, to.dst];
    skb.store(L3, &header, RECOMPUTE).then_some(())
}

/// Writes other ports, and puts the checksum right for them and for other addresses.
#[inline(always)]
fn correct<A, B>(
    skb: Skb,
    l4: usize,
    proto: u8,
    from: &A,
    to: &B,
    [sport, dport]: [u16; 2],
) -> Option<()> {
    let (offset, flags) = checksum_of(proto);
    let sum = l4 + offset;
    // SAFETY: both point to as many readable bytes, multiples of four.
    let diff = unsafe {
        bpf_csum_diff(
            (&raw const *from).cast_mut().cast(),
            size_of::<A>() as u32,
            (&raw const *to).cast_mut().cast(),
            size_of::<B>() as u32,
            0,
        )
    };
    let [old_sport, old_dport] = skb.get::<[u16; 2]>(l4)?;
    // SAFETY: a helper call on a valid context.
    let corrected = unsafe {
        bpf_l4_csum_replace(skb.0, sum as u32, 0, diff as u64, flags | PSEUDO_HEADER) == 0
    };
    let written = corrected
        && skb.replace_l4_port(sum, old_sport, sport, flags)
        && skb.replace_l4_port(sum, old_dport, dport, flags)
        && skb.store(l4, &[sport, dport], 0);
    written.then_some(())
}

/// Makes room for a header of this family in place of the other one's.
#[inline(always)]
fn change<F: Family>(skb: Skb) -> Option<()> {
    let ethertype = F::ETHERTYPE.to_be();
    // SAFETY: a helper call on a valid context.
    let changed = unsafe { bpf_skb_change_proto(skb.0, ethertype, 0) == 0 };
    (changed && skb.store(L3 - 2, &ethertype, 0)).then_some(())
}
