//! What a node's device receives, before there is a packet of the stack: who asks a frontend goes on to the backend from here if that is
//! on another node, and who is answered from there gets the answer.
//!
//! The maps, and the functions that decide and translate, are those of the programs in the stack; all that is not such a packet, or cannot
//! leave from here, goes up to them as it came. That is found out before anything of the packet changes.
use abi::{
    Direction, EndpointInfo, TracePoint, endpoint_flags, event_flags, lb_flags, snat_flags,
    xdp_device,
};
use aya_ebpf::{helpers::generated::bpf_redirect, macros::xdp, programs::XdpContext};
use wire::{
    Bytes, checksum,
    direct::tells,
    headers::{TCP, UDP},
};

use crate::{
    calls::Shared,
    config, direct,
    flow::{Flow, Hook, OK, Outcome, Unreadable, attempt, drop_because},
    maps::{self, Maps},
    packet::{L3, Packet},
    routes::Route,
    service::has_frontends,
    snat::{find, may_be_masqueraded, rewrite_destination},
    translate::{CHOOSE, frontend_of},
    xdp::Xdp,
};

const HOOK: Hook = Hook {
    file: 9,
    direction: Direction::Ingress,
};
const PASS: i32 = Xdp::PASS;
/// `XDP_TX`: out by the device that it came by.
const BACK: i32 = 3;

/// Entry point.
#[xdp]
pub fn cil_xdp_entry(ctx: XdpContext) -> u32 {
    by_family(Xdp(ctx.ctx)) as u32
}

by_family!(Xdp, HOOK, Unreadable::Pass);

#[inline(always)]
fn run<F: Maps>(flow: &mut Flow<F, Xdp>) -> Outcome {
    if !is_plain(flow) {
        return Ok(PASS);
    }
    let dst = flow.h.tuple.dst;
    if dst == F::node_addr() {
        if may_be_masqueraded(&flow.h) && find::<F>(flow.state, snat_flags::IN) {
            return answer(flow);
        }
    } else if !has_frontends::<F>(dst) || maps::endpoint::<F>(dst).is_some_and(is_pod) {
        return Ok(PASS);
    }
    ask(flow)
}

/// A whole packet to this device, of a protocol whose ports can be changed, without options.
#[inline(always)]
fn is_plain<F: Maps>(flow: &Flow<F, Xdp>) -> bool {
    let t = &flow.h.tuple;
    let is_tunnel = t.proto == UDP && t.dport == config::tunnel_port().to_be();
    let is_to_many = flow.packet.get::<u8>(0).is_none_or(|first| first & 1 != 0);
    matches!(t.proto, TCP | UDP)
        && !is_tunnel
        && !is_to_many
        && flow.h.fragment.is_whole()
        && flow.h.l4() == L3 + F::HEADER_LEN
}

#[inline(always)]
fn is_pod(to: &EndpointInfo) -> bool {
    to.flags & endpoint_flags::HOST == 0
}

/// Whether the packet can be sent as it is: it is not too long for other nodes, has hops to go, and its checksum was finished. Devices
/// that are no hardware leave that to the receiver's stack, which would not know of it any more: what they sum up, then, is the pseudo header.
#[inline(always)]
fn is_complete<F: Maps>(flow: &Flow<F, Xdp>) -> bool {
    let (packet, t) = (flow.packet, &flow.h.tuple);
    // Offsets of the packet's length and of its hops, and what the length has beside the segment.
    let (len, ttl, header) = if F::IS_V6 { (4, 7, 0) } else { (2, 8, 20) };
    let in_l4 = if t.proto == TCP { 16 } else { 6 };
    let (Some(len), Some(ttl)) = (packet.get::<u16>(L3 + len), packet.get::<u8>(L3 + ttl)) else {
        return false;
    };
    let Some(found) = packet.get::<u16>(L3 + F::HEADER_LEN + in_l4) else {
        return false;
    };
    let len = u16::from_be(len).wrapping_sub(header).to_be();
    let pseudo = checksum::of_address::<F>(t.src)
        + checksum::of_address::<F>(t.dst)
        + u64::from(len)
        + u64::from(u16::from_ne_bytes([0, t.proto]));
    packet.len() - L3 as u32 <= config::mtu() && ttl > 1 && found != checksum::fold(pseudo)
}

/// A client asks a frontend.
#[inline(always)]
fn ask<F: Maps>(flow: &mut Flow<F, Xdp>) -> Outcome {
    if !is_complete(flow) || direct::by_tunnel() && is_answered_directly(flow) {
        return Ok(PASS);
    }
    (flow.direct, flow.crosses) = (false, false);
    let mut code = flow.packet.serve::<F>();
    if config::crosses() && flow.crosses {
        return Ok(PASS);
    }
    let is_new = code == CHOOSE;
    if is_new {
        code = flow.packet.choose::<F>();
    }
    if code != OK || flow.by == 0 {
        // For nobody, or nobody serves, or not this client: the stack's program says so.
        return Ok(PASS);
    }
    let is_here = maps::endpoint::<F>(flow.target.addr).is_some();
    let route = if is_here { None } else { way(flow) };
    let passed_on = flow.is_passed_on();
    let Some(route) = route else {
        if is_new && !passed_on {
            // Chosen is chosen: a second choice among all would give those that go up more than their share.
            flow.packet.settle::<F>();
        }
        return Ok(PASS);
    };
    if passed_on && (direct::by_tunnel() || flow.packet.fit::<F>() != OK || flow.oversize) {
        return Ok(PASS);
    }
    if is_new {
        flow.packet.settle::<F>();
    }
    attempt!(flow.packet.translate::<F>())?;
    if passed_on {
        if tells(&flow.h) {
            attempt!(flow.packet.label::<F>())?;
        }
    } else {
        flow.track_others()?;
        flow.masquerade_own(F::node_addr())?;
    }
    send(flow, route)
}

/// Whether the frontend's backends answer clients themselves. By a tunnel this is the stack's to do.
#[inline(always)]
fn is_answered_directly<F: Maps>(flow: &Flow<F, Xdp>) -> bool {
    frontend_of(flow.state).is_some_and(|found| found.service.flags & lb_flags::DSR != 0)
}

/// A backend answers an address of this node: the client behind it is the target.
#[inline(always)]
fn answer<F: Maps>(flow: &mut Flow<F, Xdp>) -> Outcome {
    let to = flow.target.addr;
    if config::crosses() && F::is_across(to) {
        return Ok(PASS);
    }
    if maps::endpoint::<F>(to).is_some() || !is_complete(flow) {
        return Ok(PASS);
    }
    let Some(route) = way(flow) else {
        return Ok(PASS);
    };
    attempt!(rewrite_destination::<F, Xdp>(flow.packet, flow.state))?;
    flow.event_flags |= event_flags::SNAT;
    flow.track_others()?;
    if flow.front == 0 {
        // Of no service: what was masqueraded is nobody's any more.
        return Err(drop_because!(NatNoMapping));
    }
    flow.unserve()?;
    send(flow, route)
}

/// The way to the target, if it is known to the last and needs no tunnel.
#[inline(always)]
fn way<F: Maps>(flow: &mut Flow<F, Xdp>) -> Option<&'static Route<F>> {
    let (dst, to) = (flow.h.tuple.dst, flow.target.addr);
    flow.h.tuple.dst = to;
    let mut route = flow.known_route();
    if route.is_none() {
        route = flow.ask_tunnel();
    }
    if route.is_none() {
        route = flow.ask_route();
    }
    flow.h.tuple.dst = dst;
    let route = route?;
    let leads = route.tunnel().is_none()
        && route.is_resolved()
        && maps::reaches(flow.packet.ifindex(), route.ifindex);
    leads.then_some(route)
}

#[inline(always)]
fn send<F: Maps>(flow: &mut Flow<F, Xdp>, route: &Route<F>) -> Outcome {
    flow.age()?;
    if !flow.packet.write_macs(route.dmac, route.smac) {
        return Err(drop_because!(ErrorWritingToPacket));
    }
    flow.forwarded(TracePoint::ToNetwork, Direction::Egress);
    let own = flow.packet.ifindex();
    if route.ifindex == own && maps::xdp_place(own) != Some(xdp_device::CABLE) {
        return Ok(BACK);
    }
    // SAFETY: a helper call.
    Ok(unsafe { bpf_redirect(route.ifindex, 0) } as i32)
}
