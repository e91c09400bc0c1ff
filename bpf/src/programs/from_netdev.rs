//! What a node's device receives.
use abi::{Direction, TracePoint, endpoint_flags, identity};
use aya_ebpf::{macros::classifier, programs::TcContext};
use wire::headers::{Icmp, TCP, UDP};

use crate::{
    config,
    flow::{Flow, Hook, Outcome, PASS, Unreadable},
    maps::{self, Maps},
    policy::host_end,
    skb::Skb,
};

const HOOK: Hook = Hook {
    file: 3,
    direction: Direction::Ingress,
};

/// Entry point.
#[classifier]
pub fn cil_from_netdev(ctx: TcContext) -> i32 {
    by_family(Skb(ctx.skb.skb))
}

by_family!(HOOK, Unreadable::Pass);

#[inline(always)]
fn run<F: Maps>(flow: &mut Flow<F>) -> Outcome {
    let to_node = flow.h.tuple.dst == F::node_addr();
    if to_node && (!may_be_masqueraded(flow) || !flow.unmasquerade()?) {
        return to_host(flow);
    }
    let Some(to) = maps::endpoint::<F>(flow.h.tuple.dst) else {
        return Ok(PASS);
    };
    if to.flags & endpoint_flags::HOST != 0 {
        return to_host(flow);
    }
    flow.endpoint = to.id;
    flow.dst_id = to.sec_id;
    flow.received(TracePoint::FromNetwork);
    flow.track(None, Some(to))?;
    if config::takes_host_stack() {
        return Ok(PASS);
    }
    flow.to_endpoint(to, true)
}

/// The node itself: its policy is asked, but not about the tunnel, in which pods' packets come.
#[inline(always)]
fn to_host<F: Maps>(flow: &mut Flow<F>) -> Outcome {
    let t = &flow.h.tuple;
    let is_tunnel = t.proto == UDP && t.dport == config::tunnel_port().to_be() && t.dport != 0;
    let Some(host) = host_end::<F>(t.dst).filter(|_| !is_tunnel) else {
        return Ok(PASS);
    };
    flow.endpoint = host.id;
    flow.dst_id = identity::HOST;
    flow.track_host(None, Some(host))?;
    Ok(PASS)
}

/// A cheap look at whether a packet to the node can be an answer to a pod.
#[inline(always)]
fn may_be_masqueraded<F: Maps>(flow: &Flow<F>) -> bool {
    let h = &flow.h;
    match h.tuple.proto {
        TCP | UDP => config::snat_range().contains(u16::from_be(h.tuple.dport)),
        proto => proto == F::ICMP && (h.icmp != Icmp::None || !h.fragment.is_whole()),
    }
}
