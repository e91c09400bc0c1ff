//! What leaves by a node's device.
use abi::{Direction, endpoint_flags, identity, mark};
use aya_ebpf::{macros::classifier, programs::TcContext};
use wire::{
    V4, V6,
    headers::{Icmp, TCP, UDP},
};

use crate::{
    config::{self, Settings},
    conntrack::identity_of,
    flow::{Flow, Hook, Outcome, PASS, Unreadable},
    forward::leaves_cluster,
    maps::{self, Maps},
    policy::host_end,
    skb::Skb,
};

const HOOK: Hook = Hook {
    file: 4,
    direction: Direction::Egress,
};

/// Entry point.
#[classifier]
pub fn cil_to_netdev(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    // Pods' packets were dealt with when they left the pod, and the tunnel's are our own.
    match skb.mark() & mark::MASK {
        mark::SNAT_DONE | mark::OVERLAY => PASS,
        _ if config::services()
            || V4::masquerade()
            || V6::masquerade()
            || config::host_firewall() =>
        {
            by_family(skb)
        }
        _ => PASS,
    }
}

by_family!(HOOK, Unreadable::Pass);

#[inline(always)]
fn run<F: Maps>(flow: &mut Flow<F>) -> Outcome {
    if let Some(host) = host_end::<F>(flow.h.tuple.src) {
        flow.endpoint = host.id;
        flow.src_id = identity::HOST;
        flow.track_host(Some(host), None)?;
    }
    let is_node = flow.h.tuple.src == F::node_addr();
    if config::services() && is_node {
        // Processes of the node may be backends.
        if flow.front == 0 {
            flow.peek();
        }
        if flow.front != 0 {
            flow.unserve()?;
            return Ok(PASS);
        }
    }
    let wanted = if is_node {
        (F::masquerade() || config::services()) && is_host_in_range(flow)
    } else {
        F::masquerade() && is_pod_leaving(flow)
    };
    if wanted {
        flow.masquerade(F::node_addr())?;
    }
    Ok(PASS)
}

/// A connection of the node itself from a port that pods could be given: it takes the port, or gets another if a pod has it.
#[inline(always)]
fn is_host_in_range<F: Maps>(flow: &Flow<F>) -> bool {
    let h = &flow.h;
    let may_be = match h.tuple.proto {
        TCP | UDP => true,
        proto => proto == F::ICMP && h.icmp == Icmp::Echo && h.fragment.is_whole(),
    };
    may_be && config::snat_range().contains(u16::from_be(h.tuple.sport))
}

/// A pod's packet that came by the host's stack.
#[inline(always)]
fn is_pod_leaving<F: Maps>(flow: &mut Flow<F>) -> bool {
    let (src, dst) = (flow.h.tuple.src, flow.h.tuple.dst);
    let is_pod = maps::endpoint::<F>(src).is_some_and(|ep| ep.flags & endpoint_flags::HOST == 0);
    if !is_pod || F::is_native(dst) || !leaves_cluster(identity_of::<F>(dst)) {
        return false;
    }
    flow.peek();
    !flow.is_reply()
}
