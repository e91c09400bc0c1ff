//! What a pod sends: ingress of the host side of its veth pair, or the way out of the pod by netkit.
use abi::{
    Direction, DropReason, EndpointInfo, LocalEndpoint, TracePoint, endpoint_flags, identity,
};
use aya_ebpf::{macros::classifier, programs::TcContext};
use wire::{Family, V4, V6};

use crate::{
    config, cross,
    flow::{Drop, FROM_CONTAINER, Flow, Hook, Outcome, SHOT, Unreadable, drop_because, tell},
    maps::{self, Maps},
    neigh,
    packet::Packet,
    routes::Route,
    skb::Skb,
};

const HOOK: Hook = Hook {
    file: FROM_CONTAINER,
    direction: Direction::Egress,
};
const ARP: u16 = 0x0806;

/// Entry point.
#[classifier]
pub fn cil_from_container(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let Some(ep) = maps::endpoint_of_device(skb.ifindex()) else {
        return refuse(skb, DropReason::EndpointNotReady, line!());
    };
    match skb.ethertype() {
        V4::ETHERTYPE if config::ipv4() => cross::after(skb, v4(skb, ep)),
        V6::ETHERTYPE if config::ipv6() => cross::after(skb, v6(skb, ep)),
        ARP => neigh::arp(skb, ep),
        _ => refuse(skb, DropReason::UnsupportedL3, line!()),
    }
}

#[inline(always)]
fn refuse(skb: Skb, reason: DropReason, line: u32) -> i32 {
    maps::count(
        reason as u8,
        HOOK.direction,
        skb.len(),
        line as u16,
        HOOK.file,
    );
    SHOT
}

#[inline(never)]
fn v4(skb: Skb, ep: &LocalEndpoint) -> i32 {
    tell::<V4, Skb>(skb, HOOK, ep.info.id, Unreadable::Drop, |flow| {
        run(flow, ep)
    })
}

#[inline(never)]
fn v6(skb: Skb, ep: &LocalEndpoint) -> i32 {
    tell::<V6, Skb>(skb, HOOK, ep.info.id, Unreadable::Drop, |flow| {
        if neigh::is_between_neighbours(&flow.h) {
            neigh::nd(flow, ep)
        } else {
            run(flow, ep)
        }
    })
}

#[inline(always)]
fn run<F: Maps>(flow: &mut Flow<F>, ep: &LocalEndpoint) -> Outcome {
    let (src, dst) = (flow.h.tuple.src, flow.h.tuple.dst);
    flow.src_id = ep.info.sec_id;
    if src != F::addr_of(ep) {
        return Err(drop_because!(InvalidSourceIp));
    }
    flow.received(TracePoint::FromEndpoint);
    let mut route = flow.known_route();
    let mut to = None;
    if route.is_none() {
        to = maps::endpoint::<F>(dst);
        let is_pod = to.is_some_and(|to| to.flags & endpoint_flags::HOST == 0);
        if config::services() && !is_pod {
            if dst == F::loopback() {
                return meet(flow, ep);
            }
            flow.comes_back_across()?;
            if asks_service(flow, to.is_some())? {
                if flow.is_to_itself() {
                    return meet(flow, ep);
                }
                to = maps::endpoint::<F>(flow.h.tuple.dst);
                if to.is_none() {
                    route = flow.known_route();
                }
            }
        }
    }
    match to {
        Some(to) => stay(flow, ep, to),
        None => leave(flow, ep, route),
    }
}

/// True if the packet was for a frontend: the destination is a backend now. Addresses of the node may have frontends at any time.
#[inline(always)]
fn asks_service<F: Maps>(flow: &mut Flow<F>, is_node: bool) -> Result<bool, Drop> {
    if is_node || flow.is_served() {
        flow.serve(true)
    } else {
        Ok(false)
    }
}

/// A service led the pod to itself; both directions come by here. Nobody is asked whether it may talk to itself.
#[inline(always)]
fn meet<F: Maps>(flow: &mut Flow<F>, ep: &LocalEndpoint) -> Outcome {
    core::hint::cold_path();
    flow.dst_id = ep.info.sec_id;
    flow.track(None, None)?;
    if !flow.is_to_itself() && flow.front == 0 {
        return Err(drop_because!(UnknownTarget));
    }
    flow.unserve()?;
    flow.to_endpoint(&ep.info, ep.info.flags & endpoint_flags::NETKIT == 0)
}

/// The destination is a pod of this node, or the node itself.
#[inline(always)]
fn stay<F: Maps>(flow: &mut Flow<F>, ep: &LocalEndpoint, to: &EndpointInfo) -> Outcome {
    if to.flags & endpoint_flags::HOST != 0 {
        flow.dst_id = identity::HOST;
        flow.track(Some(&ep.info), config::host_firewall().then_some(to))?;
        return flow.to_host();
    }
    flow.dst_id = to.sec_id;
    flow.track(Some(&ep.info), Some(to))?;
    flow.unserve()?;
    flow.to_endpoint(to, ep.info.flags & endpoint_flags::NETKIT == 0)
}

/// The destination is not on this node. What the routing table cannot decide goes up the stack as it came: the pod hears from
/// there why it goes no further.
#[inline(always)]
fn leave<F: Maps>(flow: &mut Flow<F>, ep: &LocalEndpoint, known: Option<&Route<F>>) -> Outcome {
    let dst = flow.h.tuple.dst;
    if F::is_multicast(dst) {
        return Err(drop_because!(UnknownTarget));
    }
    let known = known.or_else(|| flow.ask_tunnel());
    // A known connection knows the other side's identity: only a new one looks it up.
    flow.track(Some(&ep.info), None)?;
    flow.unserve()?;
    flow.to_elsewhere(known)
}
