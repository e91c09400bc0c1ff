//! What a node's device receives.
use abi::{Direction, EndpointInfo, TracePoint, endpoint_flags, identity};
use aya_ebpf::{macros::classifier, programs::TcContext};
use wire::headers::UDP;

use crate::{
    config, cross,
    flow::{Drop, Flow, Hook, Outcome, PASS, Unreadable},
    maps::{self, Maps},
    neigh,
    packet::Packet,
    policy::host_end,
    skb::Skb,
    snat::may_be_masqueraded,
};

const HOOK: Hook = Hook {
    file: 3,
    direction: Direction::Ingress,
};
const ARP: u16 = 0x0806;

/// Entry point.
#[classifier]
pub fn cil_from_netdev(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    if config::services() && skb.ethertype() == ARP {
        return neigh::announced_arp(skb);
    }
    cross::after(skb, by_family(skb))
}

by_family!(HOOK, Unreadable::Pass);

#[inline(always)]
fn run<F: Maps>(flow: &mut Flow<F>) -> Outcome {
    let to_node = flow.h.tuple.dst == F::node_addr();
    let returns = to_node && may_be_masqueraded(&flow.h) && flow.unmasquerade()?;
    // Most of what is for the node needs no look at its endpoint.
    let mut to = if to_node && !returns {
        None
    } else {
        maps::endpoint::<F>(flow.h.tuple.dst)
    };
    let passed_on = (to.is_some() || to_node) && !returns && flow.was_passed_on()?;
    let mut served = passed_on;
    if config::services() && !passed_on && !returns && to.is_none_or(is_host) {
        if let Some(answer) = neigh::announced_nd(flow) {
            return answer;
        }
        served = asks_service(flow, to_node)?;
        if served {
            to = maps::endpoint::<F>(flow.h.tuple.dst);
        }
    }
    match to {
        Some(to) if is_host(to) => to_host(flow, served),
        Some(to) => to_pod(flow, to),
        None if passed_on => to_host(flow, true),
        None if served => flow.to_backend(),
        None if returns && config::services() => flow.to_client(),
        None if to_node && !returns => to_host(flow, false),
        None => Ok(PASS),
    }
}

#[inline(always)]
fn is_host(to: &EndpointInfo) -> bool {
    to.flags & endpoint_flags::HOST != 0
}

/// True if the packet was for a frontend: the destination is a backend now.
#[inline(always)]
fn asks_service<F: Maps>(flow: &mut Flow<F>, to_node: bool) -> Result<bool, Drop> {
    if is_tunnel(flow) || !to_node && !flow.is_served() {
        return Ok(false);
    }
    flow.serve(false)
}

#[inline(always)]
fn to_pod<F: Maps>(flow: &mut Flow<F>, to: &EndpointInfo) -> Outcome {
    flow.endpoint = to.id;
    flow.dst_id = to.sec_id;
    flow.received(TracePoint::FromNetwork);
    flow.track(None, Some(to))?;
    // Who was translated here goes on from here: the stack may take a frontend's address for its own.
    if config::takes_host_stack() && flow.by == 0 && flow.front == 0 {
        return Ok(PASS);
    }
    flow.unserve()?;
    flow.to_endpoint(to, true)
}

/// The node itself: its policy is asked, but not about the tunnel, in which pods' packets come.
#[inline(always)]
fn to_host<F: Maps>(flow: &mut Flow<F>, served: bool) -> Outcome {
    let host = host_end::<F>(flow.h.tuple.dst).filter(|_| !is_tunnel(flow));
    if served {
        flow.dst_id = identity::HOST;
        flow.track(None, host)?;
        return Ok(PASS);
    }
    let Some(host) = host else {
        return Ok(PASS);
    };
    flow.endpoint = host.id;
    flow.dst_id = identity::HOST;
    flow.track_host(None, Some(host))?;
    Ok(PASS)
}

#[inline(always)]
fn is_tunnel<F: Maps>(flow: &Flow<F>) -> bool {
    let t = &flow.h.tuple;
    t.proto == UDP && t.dport == config::tunnel_port().to_be() && t.dport != 0
}
