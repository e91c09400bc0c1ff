//! The proxy's door: what reaches its network namespace, where every address is local. A first segment and a datagram are given to the
//! listener of their kind; what has a socket finds it by itself.
use abi::{Direction, ProxyKind};
use aya_ebpf::{macros::classifier, programs::TcContext};
use wire::{
    conntrack::{ACK, SYN},
    headers::{TCP, UDP},
    proxy::session_key,
};

use crate::{
    config,
    flow::{Flow, Hook, Outcome, PASS, SHOT, TO_PROXY_FILE, Unreadable, attempt, drop_because},
    maps::Maps,
    proxy::{self, Leg},
    skb::Skb,
};

const HOOK: Hook = Hook {
    file: TO_PROXY_FILE,
    direction: Direction::Ingress,
};

/// Entry point.
#[classifier]
pub fn cil_to_proxy(ctx: TcContext) -> i32 {
    if !config::has_proxy() {
        return SHOT;
    }
    by_family(Skb(ctx.skb.skb))
}

by_family!(HOOK, Unreadable::Drop);

#[inline(always)]
fn run<F: Maps>(flow: &mut Flow<F>) -> Outcome {
    let (proto, tcp_flags) = (flow.h.tuple.proto, flow.h.tcp_flags);
    match proto {
        TCP if tcp_flags & (SYN | ACK) != SYN
            && (flow.h.fragment.is_later() || proxy::has_socket(flow.packet, flow.state)) =>
        {
            return Ok(PASS);
        }
        TCP | UDP => {}
        // An error finds the socket of what it is about.
        _ => return Ok(PASS),
    }
    // An answer to what the proxy sent, or to nobody any more: then the stack says so.
    if proxy::leg(flow.state) != Leg::Question {
        return Ok(PASS);
    }
    flow.state.session_key = session_key(&flow.h.tuple);
    let Some(session) = flow.known_session() else {
        return Err(drop_because!(SocketLookupFailed));
    };
    (flow.src_id, flow.dst_id) = (session.src_id, session.dst_id);
    if !flow.h.fragment.is_whole() {
        // The stack forgets the socket when it puts a datagram together.
        return Err(drop_because!(FragmentsUnsupported));
    }
    let Some(port) = ProxyKind::from_u8(session.kind).and_then(ProxyKind::port) else {
        return Err(drop_because!(ProxyUnsupportedProtocol));
    };
    attempt!(proxy::assign(flow.packet, flow.state, port))?;
    Ok(PASS)
}
