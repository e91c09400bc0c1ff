//! Ways out of the node: what the address cache or the routing table says of a destination, remembered for a moment.
//!
//! Asking takes as long as everything else that a pod's program does. An answer is believed for a few ticks of the clock, on the
//! CPU that asked: a busy destination is asked for once in hundreds of packets, and a route, neighbour or node that changes is
//! followed before anybody could notice. There is nothing to invalidate, also while no agent runs. Identities are not remembered:
//! a connection's stand in its entry, a new one's are looked up.
use abi::{IpcacheValue, ipcache_flags};
use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_redir_neigh},
    helpers::generated::bpf_fib_lookup as fib_lookup,
};
use wire::Family;

use crate::{
    clock, config,
    flow::{Flow, State},
    maps::{self, Maps},
    packet::Packet,
};

/// Answers that one CPU remembers; a power of two. A destination has one place, which the latest takes.
pub const SLOTS: u32 = 256;
/// Nanoseconds that an answer is believed.
const BELIEVED: u64 = 20_000_000;

/// `BPF_FIB_LKUP_RET_SUCCESS`: device and both MAC addresses are known.
const SUCCESS: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: the device is known, its neighbour is not.
const NO_NEIGHBOUR: i64 = 7;

/// A way out, and for whom it was asked.
#[repr(C)]
pub struct Route<F: Family> {
    until: u64,
    dst: F::Addr,
    /// The device that the packets come from, and their protocol: rules may look at either.
    from: u32,
    proto: u32,
    pub ifindex: u32,
    pub dmac: [u8; 6],
    pub smac: [u8; 6],
    /// What to resolve if the neighbour is not known.
    pub next_hop: bpf_redir_neigh,
    /// Where the tunnel leads, if it is the way.
    remote: IpcacheValue,
}

impl<F: Family> Route<F> {
    /// The node behind which the destination is, if the tunnel is the way to it.
    #[inline(always)]
    pub fn tunnel(&self) -> Option<&IpcacheValue> {
        (config::is_tunnel() && is_behind_tunnel(&self.remote)).then_some(&self.remote)
    }

    /// True if the MAC addresses are known.
    #[inline(always)]
    pub fn is_resolved(&self) -> bool {
        self.until != 0
    }
}

impl<F: Maps, P: Packet> Flow<F, P> {
    /// The way to the packet's destination, if it was asked for a moment ago: it then was not on this node.
    #[inline(always)]
    pub fn known_route(&self) -> Option<&'static Route<F>> {
        let t = &self.state.h.tuple;
        let route = F::route(place::<F>(t.dst))?;
        let known = route.until > clock::now()
            && route.dst == t.dst
            && route.from == self.packet.ifindex()
            && route.proto == u32::from(t.proto);
        known.then_some(route)
    }

    /// The way through the tunnel, if it is the way to the packet's destination. Tells the receiver's identity, too.
    #[inline(always)]
    pub fn ask_tunnel(&mut self) -> Option<&'static Route<F>> {
        if !config::is_tunnel() {
            return None;
        }
        let t = &self.state.h.tuple;
        let remote = maps::ipcache::<F>(t.dst).filter(|remote| is_behind_tunnel(remote))?;
        let route = F::route(place::<F>(t.dst))?;
        (route.dst, route.from, route.proto) = (t.dst, self.packet.ifindex(), u32::from(t.proto));
        route.remote = *remote;
        route.until = self.state.believed();
        self.dst_id = remote.sec_id;
        Some(route)
    }

    /// Notes that the stack knows the way: there is no frontend at the destination, nor is it here.
    #[inline(always)]
    pub fn note_stack(&self) {
        let t = &self.state.h.tuple;
        if let Some(route) = F::route(place::<F>(t.dst)) {
            (route.dst, route.from, route.proto) =
                (t.dst, self.packet.ifindex(), u32::from(t.proto));
            route.remote.flags = 0;
            route.until = self.state.believed();
        }
    }

    /// The way that the routing table has to the packet's destination; none if the kernel's stack has to decide.
    #[inline(always)]
    pub fn ask_route(&self) -> Option<&'static Route<F>> {
        let route = F::route(place::<F>(self.state.h.tuple.dst))?;
        ask::<F, P>(self.packet, self.state, route).then_some(route)
    }
}

impl<F: Maps> State<F> {
    /// Until when an answer is believed. Not beyond this packet where others to the same destination are for a service.
    #[inline(always)]
    fn believed(&self) -> u64 {
        if self.may_be_served {
            1
        } else {
            clock::now() + BELIEVED
        }
    }
}

#[inline(always)]
fn is_behind_tunnel(remote: &IpcacheValue) -> bool {
    remote.flags & (ipcache_flags::TUNNEL | ipcache_flags::SKIP_TUNNEL) == ipcache_flags::TUNNEL
}

/// Where the answer for a destination stands: hosts of one network get different places.
#[inline(always)]
fn place<F: Family>(dst: F::Addr) -> u32 {
    let [a, b, c, d]: [u32; 4] = zerocopy::transmute!(F::widen(dst));
    ((a ^ b ^ c ^ d).wrapping_mul(0x9E37_79B1) >> 24) & (SLOTS - 1)
}

/// Asks the routing table and notes the answer; false if the packet is not to be forwarded on its word.
#[inline(never)]
fn ask<F: Maps, P: Packet>(packet: P, state: &State<F>, route: &mut Route<F>) -> bool {
    let t = &state.h.tuple;
    // SAFETY: all zeros is a valid request.
    let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    fib.family = if F::IS_V6 { 10 } else { 2 };
    fib.l4_protocol = t.proto;
    fib.ifindex = packet.ifindex();
    if F::IS_V6 {
        fib.__bindgen_anon_3.ipv6_src = zerocopy::transmute!(F::widen(t.src));
        fib.__bindgen_anon_4.ipv6_dst = zerocopy::transmute!(F::widen(t.dst));
    } else {
        fib.__bindgen_anon_3.ipv4_src = F::first_word(t.src);
        fib.__bindgen_anon_4.ipv4_dst = F::first_word(t.dst);
    }
    (route.dst, route.from, route.proto) = (t.dst, fib.ifindex, u32::from(t.proto));
    route.remote.flags = 0;
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: `fib` is initialised and of the length given.
    let found = unsafe { fib_lookup(packet.context(), &mut fib, size, 0) };
    route.until = if found == SUCCESS {
        state.believed()
    } else {
        0
    };
    (route.ifindex, route.dmac, route.smac) = (fib.ifindex, fib.dmac, fib.smac);
    route.next_hop.nh_family = u32::from(fib.family);
    // The kernel wrote the next hop over the destination. SAFETY: the union's members are plain words.
    route.next_hop.__bindgen_anon_1.ipv6_nh = unsafe { fib.__bindgen_anon_4.ipv6_dst };
    found == SUCCESS || found == NO_NEIGHBOUR
}
