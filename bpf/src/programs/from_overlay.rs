//! What comes out of the tunnel: the sender's identity is the tunnel's key.
use abi::{Direction, DropReason, EndpointInfo, TracePoint, endpoint_flags, event_flags, identity};
use aya_ebpf::{
    bindings::bpf_tunnel_key,
    helpers::generated::{bpf_skb_change_type, bpf_skb_get_tunnel_key},
    macros::classifier,
    programs::TcContext,
};

use crate::{
    config,
    conntrack::identity_of,
    cross,
    direct::by_tunnel,
    flow::{Code, Drop, Flow, Hook, OK, Outcome, State, Unreadable, attempt, drop_because},
    maps::{self, Maps},
    skb::Skb,
    snat::may_be_masqueraded,
};

const HOOK: Hook = Hook {
    file: 5,
    direction: Direction::Ingress,
};
/// As in `forward`: the size that every kernel takes.
const TUNNEL_KEY_LEN: u32 = 28;
const TUNNEL_V6: u64 = 1;
const PACKET_HOST: u32 = 0;

/// Entry point.
#[classifier]
pub fn cil_from_overlay(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    cross::after(skb, by_family(skb))
}

by_family!(HOOK, Unreadable::Drop);

#[inline(always)]
fn run<F: Maps>(flow: &mut Flow<F>) -> Outcome {
    attempt!(sender::<F>(flow.packet, flow.state))?;
    flow.event_flags |= event_flags::TUNNEL;
    flow.received(TracePoint::FromOverlay);
    if by_tunnel() {
        attempt!(F::read_tunnel(flow.packet))?;
    }
    let to = maps::endpoint::<F>(flow.h.tuple.dst);
    let passed_on = by_tunnel() && flow.by != 0;
    if !config::services() || passed_on || to.is_some_and(|to| !is_host(to)) {
        let Some(to) = to else {
            return Err(drop_because!(NoLocalContainer));
        };
        return deliver(flow, to);
    }
    let is_router = flow.h.tuple.dst == F::router_addr();
    if is_router && may_be_masqueraded(&flow.h) && flow.unmasquerade()? {
        take(flow.packet)?;
        return flow.to_client();
    }
    let served = (to.is_some() || flow.is_served()) && flow.serve(false)?;
    match maps::endpoint::<F>(flow.h.tuple.dst) {
        Some(to) => deliver(flow, to),
        None if served => flow.to_backend(),
        None => Err(drop_because!(NoLocalContainer)),
    }
}

#[inline(always)]
fn is_host(to: &EndpointInfo) -> bool {
    to.flags & endpoint_flags::HOST != 0
}

#[inline(always)]
fn deliver<F: Maps>(flow: &mut Flow<F>, to: &EndpointInfo) -> Outcome {
    take(flow.packet)?;
    if is_host(to) {
        return to_host(flow, to);
    }
    to_pod(flow, to)
}

#[inline(always)]
fn to_pod<F: Maps>(flow: &mut Flow<F>, to: &EndpointInfo) -> Outcome {
    flow.endpoint = to.id;
    flow.dst_id = to.sec_id;
    flow.track(None, Some(to))?;
    flow.unserve()?;
    flow.to_endpoint(to, true)
}

#[inline(always)]
fn to_host<F: Maps>(flow: &mut Flow<F>, to: &EndpointInfo) -> Outcome {
    flow.dst_id = identity::HOST;
    flow.track(None, config::host_firewall().then_some(to))?;
    flow.to_host()
}

/// The inner Ethernet header names no device of ours, but the packet is for this host. Pods do not take others' either: newer
/// kernels forget in `bpf_redirect_peer` whose it was, Linux 5.10 and 6.1 do not.
#[inline(always)]
fn take(skb: Skb) -> Result<(), Drop> {
    // SAFETY: a helper call.
    if unsafe { bpf_skb_change_type(skb.0, PACKET_HOST) } != 0 {
        return Err(drop_because!(InvalidPacket));
    }
    Ok(())
}

/// The identity that the sending node put into the tunnel key; its own host is a remote node to us.
#[inline(never)]
fn sender<F: Maps>(skb: Skb, state: &mut State<F>) -> Code {
    // SAFETY: all zeros is a valid key.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    // SAFETY: `key` is longer than the length given. The flag only selects the form of the addresses, which are not used.
    let read = unsafe {
        bpf_skb_get_tunnel_key(skb.0, &mut key, TUNNEL_KEY_LEN, 0) == 0
            || bpf_skb_get_tunnel_key(skb.0, &mut key, TUNNEL_KEY_LEN, TUNNEL_V6) == 0
    };
    if !read {
        return DropReason::ErrorRetrievingTunnelKey as u8;
    }
    state.src_id = match key.tunnel_id {
        identity::UNKNOWN => return DropReason::InvalidIdentity as u8,
        identity::HOST => remote_node::<F>(state.h.tuple.src),
        // Who is outside the cluster may be in a range that a rule names: nodes number those as they like.
        identity::WORLD => identity_of::<F>(state.h.tuple.src),
        id => id,
    };
    OK
}

/// The identity of another node: nodes may have identities of their own, which the address cache knows.
#[inline(always)]
fn remote_node<F: Maps>(addr: F::Addr) -> u32 {
    match maps::ipcache::<F>(addr) {
        Some(entry) if identity::is_remote_node(entry.sec_id) => entry.sec_id,
        _ => identity::REMOTE_NODE,
    }
}
