//! What the proxy sends, in the names of others: answers to clients (leg 1) in those of servers, its own connections to servers (leg 2) in
//! those of clients.
use abi::{Direction, EndpointInfo, TracePoint, ct_flags, endpoint_flags};
use aya_ebpf::{macros::classifier, programs::TcContext};
use wire::headers::Icmp;

use crate::{
    config,
    flow::{FROM_PROXY_FILE, Flow, Hook, Outcome, SHOT, Unreadable, drop_because},
    maps::{self, Maps},
    neigh,
    policy::End,
    proxy::{self, Leg},
    skb::Skb,
};

const HOOK: Hook = Hook {
    file: FROM_PROXY_FILE,
    direction: Direction::Egress,
};

/// Entry point.
#[classifier]
pub fn cil_from_proxy(ctx: TcContext) -> i32 {
    if !config::has_proxy() {
        return SHOT;
    }
    by_family(Skb(ctx.skb.skb))
}

by_family!(HOOK, Unreadable::Drop);

#[inline(always)]
fn run<F: Maps>(flow: &mut Flow<F>) -> Outcome {
    if F::is_multicast(flow.h.tuple.dst) || neigh::is_discovery(&flow.h) {
        return neigh::absorb(flow);
    }
    flow.received(TracePoint::FromProxy);
    let from = maps::endpoint::<F>(flow.h.tuple.src);
    let to = maps::endpoint::<F>(flow.h.tuple.dst);
    flow.endpoint = from.filter(|ep| is_pod(ep)).or(to).map_or(0, |ep| ep.id);
    let mut known = None;
    if to.is_none() {
        known = flow.known_route().or_else(|| flow.ask_tunnel());
    }
    let mut ends: [End; 2] = [None, None];
    if flow.h.icmp != Icmp::Error {
        match proxy::leg(flow.state) {
            // The question is that of the client's connection.
            Leg::Answer => ends = [from.filter(|ep| is_asked(ep)), to.filter(|ep| is_asked(ep))],
            // All that is decided here was decided before the proxy had it.
            Leg::Upstream => {
                flow.opening = ct_flags::PROXY_REPLY;
                flow.src_id = from.map_or(0, |ep| ep.sec_id);
            }
            _ => return Err(drop_because!(CtUnknownState)),
        }
    }
    flow.track(ends[0], ends[1])?;
    if flow.h.icmp == Icmp::Error && !flow.is_related() {
        return Err(drop_because!(CtUnknownState));
    }
    flow.unserve()?;
    match to {
        Some(to) if is_pod(to) => flow.to_endpoint(to, true),
        Some(_) => flow.to_host(),
        None => flow.to_elsewhere(known),
    }
}

#[inline(always)]
fn is_pod(ep: &EndpointInfo) -> bool {
    ep.flags & endpoint_flags::HOST == 0
}

/// As the programs at both ends ask: the host's policy only where that is on.
#[inline(always)]
fn is_asked(ep: &EndpointInfo) -> bool {
    is_pod(ep) || config::host_firewall()
}
