//! Ports that the node's processes cannot have: what comes for them goes to a service.
use abi::{endpoint_flags, lb_flags};
use aya_ebpf::{bindings::bpf_sock, helpers::generated::bpf_get_netns_cookie};
use wire::{V4, V6};
use zerocopy::transmute;

use super::{Errno, GO, field, is_host, is_itself, known, refuse};
use crate::{
    config, maps,
    service::{self, Place, Services},
};

/// Refuses a socket of the node that was bound to a port of a service at an address of the node.
#[inline(always)]
pub fn check<const IS_V6: bool>(sock: *mut bpf_sock) -> i32 {
    if !config::bind_protection() {
        return GO;
    }
    let Some(proto) = known(field!(sock, protocol)) else {
        return GO;
    };
    // SAFETY: a helper call.
    if !is_host(unsafe { bpf_get_netns_cookie(sock.cast()) }) {
        return GO;
    }
    let port = (field!(sock, src_port) as u16).to_be();
    let taken = if IS_V6 {
        let words = [
            field!(sock, src_ip6[0]),
            field!(sock, src_ip6[1]),
            field!(sock, src_ip6[2]),
            field!(sock, src_ip6[3]),
        ];
        let v4 = Place {
            addr: words[3],
            port,
        };
        if super::is_mapped(words) {
            is_taken::<V4>(v4, proto)
        } else {
            let v6 = Place {
                addr: transmute!(words),
                port,
            };
            // The unspecified address stands for both families.
            is_taken::<V6>(v6, proto) || words == [0; 4] && is_taken::<V4>(v4, proto)
        }
    } else {
        let addr = field!(sock, src_ip4);
        is_taken::<V4>(Place { addr, port }, proto)
    };
    if taken {
        refuse(Errno::AddressInUse)
    } else {
        GO
    }
}

/// True if a service is served here at a port of nodes, or at an address from outside.
#[inline(always)]
fn is_taken<F: Services>(at: Place<F>, proto: u8) -> bool {
    const SERVED: u16 = lb_flags::NODE_PORT | lb_flags::EXTERNAL_IP | lb_flags::LOAD_BALANCER;
    if let Some(found) = service::frontend(at, proto, true) {
        return found.service.flags & SERVED != 0;
    }
    let everywhere = Place {
        addr: F::zero(),
        port: at.port,
    };
    let Some(found) = service::frontend::<F>(everywhere, proto, true) else {
        return false;
    };
    let is_own = is_itself::<F>(at.addr)
        || maps::endpoint::<F>(at.addr).is_some_and(|ep| ep.flags & endpoint_flags::HOST != 0);
    is_own && found.service.flags & SERVED != 0
}
