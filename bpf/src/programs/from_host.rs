//! What the node's own processes send to pods: egress of `cilium_host`, to which the pods' networks are routed.
use abi::{Direction, TracePoint, endpoint_flags, identity, ipcache_flags, mark};
use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::{
    config,
    flow::{Flow, Hook, Outcome, PASS, Unreadable, drop_because},
    maps::{self, Maps},
    policy::End,
    skb::Skb,
};

const HOOK: Hook = Hook {
    file: 6,
    direction: Direction::Ingress,
};

/// Entry point.
#[classifier]
pub fn cil_from_host(ctx: TcContext) -> i32 {
    by_family(Skb(ctx.skb.skb))
}

by_family!(HOOK, Unreadable::Drop);

#[inline(always)]
fn run<F: Maps>(flow: &mut Flow<F>) -> Outcome {
    let dst = flow.h.tuple.dst;
    if F::is_multicast(dst) {
        // Neighbour discovery and the like, which no pod answers.
        return Ok(PASS);
    }
    let (src_id, from) = sender(flow);
    flow.src_id = src_id;
    flow.received(TracePoint::FromHost);
    if let Some(to) = maps::endpoint::<F>(dst) {
        if to.flags & endpoint_flags::HOST != 0 {
            return Ok(PASS);
        }
        flow.endpoint = to.id;
        flow.dst_id = to.sec_id;
        flow.track(from, Some(to))?;
        flow.unserve()?;
        return flow.to_endpoint_device(to);
    }
    match maps::ipcache::<F>(dst) {
        Some(remote) if config::is_tunnel() && remote.flags & ipcache_flags::TUNNEL != 0 => {
            flow.dst_id = remote.sec_id;
            flow.track(from, None)?;
            flow.unserve()?;
            flow.to_overlay(remote)
        }
        _ => Err(drop_because!(UnknownTarget)),
    }
}

/// The node itself, a pod by way of the stack, or somebody whose packet the stack forwards; and the end that policy is asked about.
#[inline(always)]
fn sender<F: Maps>(flow: &Flow<F>) -> (u32, End<'static>) {
    let src = flow.h.tuple.src;
    if let Some(id) = mark::identity(flow.packet.mark()) {
        return (id, None);
    }
    match maps::endpoint::<F>(src).filter(|ep| ep.flags & endpoint_flags::HOST != 0) {
        Some(host) => (identity::HOST, config::host_firewall().then_some(host)),
        None => (crate::conntrack::identity_of::<F>(src), None),
    }
}
