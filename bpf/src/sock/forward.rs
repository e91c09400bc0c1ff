//! From the frontend that a call names to a backend.
use abi::{SockPoint, endpoint_flags, identity, lb_flags};
use wire::Family;

use super::{Call, Errno, GO, Named, field, is_host, is_itself, refuse, report::report};
use crate::{
    config, maps,
    service::{self, Client, Frontend, Place, Services},
};

/// Writes a backend over the frontend that a call names; other addresses are left as they are. `connects`: the socket is connected, and not
/// a datagram sent.
#[inline(always)]
pub fn to_backend<N: Named>(call: Call, connects: bool) -> i32 {
    let Some(proto) = call.proto() else { return GO };
    let netns = call.netns();
    if config::translates_host_only() && !is_host(netns) {
        return GO;
    }
    let at = N::get(call);
    let Some(found) = find::<N::F>(at, proto, netns) else {
        return GO;
    };
    let flags = found.service.flags;
    let crosses = config::crosses() && flags & lb_flags::NAT46X64 != 0;
    if crosses && !(N::MAPS && connects && is_unbound(call)) {
        // Packets of pods are translated one by one; what the node itself sends meets no program that does it.
        return if is_host(netns) {
            refuse(Errno::HostUnreachable)
        } else {
            GO
        };
    }
    if flags & lb_flags::LOCAL_REDIRECT != 0 && N::F::is_skipped(netns, at, proto) {
        return GO;
    }
    let id = found.choose_by(&Client::Namespace(netns), number(call));
    let backend = if crosses {
        N::mapped_backend(id)
    } else {
        N::F::backend(id).map(|(at, _)| at)
    };
    let Some(backend) = backend else {
        report(call, SockPoint::PreForward, at);
        return refuse(Errno::HostUnreachable);
    };
    // A socket that sends often means the same: that is written, and told, once.
    let meaning = (at, found.service.id);
    let is_new = N::F::meant(call.cookie(), backend) != Some(meaning);
    if is_new || config::reports_all() {
        report(call, SockPoint::PreForward, at);
        report(call, SockPoint::PostForward, backend);
    }
    if is_new && !N::F::remember(call.cookie(), backend, at, found.service.id) {
        return refuse(Errno::NoMemory);
    }
    N::set(call, backend);
    GO
}

/// True if the socket may have an address of either family.
#[inline(always)]
fn is_unbound(call: Call) -> bool {
    let sock = field!(call.0, __bindgen_anon_1.sk);
    !sock.is_null()
        && field!(sock, src_ip6[0]) == 0
        && field!(sock, src_ip6[1]) == 0
        && field!(sock, src_ip6[2]) == 0
        && field!(sock, src_ip6[3]) == 0
}

/// The frontend that a socket of a namespace means by an address.
#[inline(always)]
fn find<F: Services>(at: Place<F>, proto: u8, netns: u64) -> Option<Frontend<F>> {
    if at.addr != F::zero()
        && let Some(found) = service::frontend(at, proto, true)
    {
        return Some(found);
    }
    let everywhere = Place {
        addr: F::zero(),
        port: at.port,
    };
    // Few ports have such a row: it is asked for before the address.
    let found = service::frontend::<F>(everywhere, proto, true)?;
    let on_all_nodes = found.service.flags & lb_flags::NODE_PORT != 0;
    let means_node = if is_itself::<F>(at.addr) {
        is_host(netns)
    } else {
        is_node::<F>(at.addr, on_all_nodes)
    };
    means_node.then_some(found)
}

/// True for an address of this node, or of any one of the cluster.
#[inline(always)]
fn is_node<F: Family>(addr: F::Addr, any: bool) -> bool {
    if maps::endpoint::<F>(addr).is_some_and(|ep| ep.flags & endpoint_flags::HOST != 0) {
        return true;
    }
    any && maps::ipcache::<F>(addr).is_some_and(|known| identity::is_remote_node(known.sec_id))
}

/// Which backend it is: datagrams of one socket go to one backend while there are as many.
#[inline(always)]
fn number(call: Call) -> u32 {
    if call.is_udp() {
        // Neighbouring numbers of sockets shall not mean neighbouring backends.
        (call.cookie().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    } else {
        service::random()
    }
}
