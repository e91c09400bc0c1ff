//! What the host's stack routes to a pod: egress of the host side of its link. Attached only where pods have routes of their own.
use abi::{Direction, EndpointInfo, TracePoint, mark};
use aya_ebpf::{macros::classifier, programs::TcContext};
use wire::{Family, V4, V6};

use crate::{
    config,
    flow::{Flow, Hook, Outcome, PASS, Unreadable, tell},
    maps::{self, Maps},
    neigh,
    packet::Packet,
    policy::host_end,
    skb::Skb,
};

const HOOK: Hook = Hook {
    file: 2,
    direction: Direction::Ingress,
};

/// Entry point.
#[classifier]
pub fn cil_to_container(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let Some(ep) = maps::endpoint_of_device(skb.ifindex()) else {
        return PASS;
    };
    match skb.ethertype() {
        V4::ETHERTYPE if config::ipv4() => v4(skb, &ep.info),
        V6::ETHERTYPE if config::ipv6() => v6(skb, &ep.info),
        _ => PASS,
    }
}

#[inline(never)]
fn v4(skb: Skb, ep: &EndpointInfo) -> i32 {
    tell::<V4, Skb>(skb, HOOK, ep.id, Unreadable::Drop, |flow| run(flow, ep))
}

#[inline(never)]
fn v6(skb: Skb, ep: &EndpointInfo) -> i32 {
    tell::<V6, Skb>(skb, HOOK, ep.id, Unreadable::Drop, |flow| run(flow, ep))
}

#[inline(always)]
fn run<F: Maps>(flow: &mut Flow<F>, ep: &EndpointInfo) -> Outcome {
    flow.dst_id = ep.sec_id;
    let from = match mark::identity(flow.packet.mark()) {
        Some(id) => {
            flow.src_id = id;
            None
        }
        None => host_end::<F>(flow.h.tuple.src),
    };
    // The stack looks for its neighbour; nothing that was routed is such a message.
    if !neigh::is_discovery(&flow.h) {
        flow.track(from, Some(ep))?;
        flow.unserve()?;
    }
    flow.forwarded(TracePoint::ToEndpoint, Direction::Ingress);
    Ok(PASS)
}
