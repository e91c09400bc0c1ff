//! Where packets go: into a pod, into the tunnel, out of a device, up the stack.
use abi::{
    Direction, EndpointInfo, IpcacheValue, TracePoint, endpoint_flags, event_flags, identity,
    ipcache_flags, mark,
};
use aya_ebpf::{
    bindings::{bpf_redir_neigh, bpf_tunnel_key},
    helpers::generated::{
        bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_set_tunnel_key,
    },
};
use wire::checksum;

use crate::{
    config,
    flow::{Drop, Flow, Outcome, PASS, drop_because},
    maps::Maps,
    packet::{L3, Packet},
    routes::Route,
    skb::Skb,
};

const ZERO_CHECKSUM: u64 = 2;
const TUNNEL_V6: u64 = 1;
/// The tunnel key as kernels before 5.18 know it; later ones still take this size.
const TUNNEL_KEY_LEN: u32 = 28;
const TUNNEL_TTL: u8 = 64;

impl<F: Maps> Flow<F> {
    /// Into a pod of this node, past the host's stack: directly if the program runs on the `ingress` of a device.
    #[inline(always)]
    pub fn to_endpoint(&mut self, to: &EndpointInfo, ingress: bool) -> Outcome {
        self.age()?;
        self.into_pod(to)?;
        let direct = ingress
            && !config::takes_host_stack()
            && to.flags & endpoint_flags::NO_PEER_REDIRECT == 0;
        // SAFETY: helper calls.
        Ok(unsafe {
            if direct {
                bpf_redirect_peer(to.ifindex, 0)
            } else {
                bpf_redirect(to.ifindex, 0)
            }
        } as i32)
    }

    /// Into a pod of this node from the egress of a device, where the pod's own end cannot be reached directly.
    #[inline(always)]
    pub fn to_endpoint_device(&mut self, to: &EndpointInfo) -> Outcome {
        self.into_pod(to)?;
        // SAFETY: a helper call.
        Ok(unsafe { bpf_redirect(to.ifindex, 0) } as i32)
    }

    #[inline(always)]
    fn into_pod(&mut self, to: &EndpointInfo) -> Result<(), Drop> {
        if !self.packet.write_macs(to.mac, to.node_mac) {
            return Err(drop_because!(ErrorWritingToPacket));
        }
        self.forwarded(TracePoint::ToEndpoint, Direction::Ingress);
        Ok(())
    }

    /// To a process of this node.
    #[inline(always)]
    pub fn to_host(&mut self) -> Outcome {
        self.forwarded(TracePoint::ToHost, Direction::Egress);
        Ok(PASS)
    }

    /// Up the node's stack, which routes it; the mark tells later programs who sent it.
    #[inline(always)]
    pub fn to_stack(&mut self) -> Outcome {
        self.packet.set_mark(mark::with_identity(self.src_id));
        self.forwarded(TracePoint::ToStack, Direction::Egress);
        Ok(PASS)
    }

    /// Into the tunnel to the node behind which `remote` is.
    #[inline(always)]
    pub fn to_overlay(&mut self, remote: &IpcacheValue) -> Outcome {
        let is_v6 = remote.flags & ipcache_flags::TUNNEL_V6 != 0;
        if !set_tunnel_key(self.packet, self.src_id, &remote.tunnel, is_v6) {
            return Err(drop_because!(NoTunnelEndpoint));
        }
        self.into_tunnel()
    }

    /// As [`Flow::to_overlay`], with the tunnel's key in the packet already.
    #[inline(always)]
    pub fn into_tunnel(&mut self) -> Outcome {
        self.packet.set_mark(mark::OVERLAY);
        self.event_flags |= event_flags::TUNNEL;
        self.forwarded(TracePoint::ToOverlay, Direction::Egress);
        // SAFETY: a helper call.
        Ok(unsafe { bpf_redirect(config::tunnel_ifindex(), 0) } as i32)
    }

    /// Out of the device that the route names, under the node's address if `masquerade` says so.
    #[inline(always)]
    pub fn to_network(&mut self, route: &Route<F>, masquerade: bool) -> Outcome {
        self.age()?;
        if masquerade {
            self.masquerade(F::node_addr())?;
        }
        self.packet.set_mark(mark::SNAT_DONE);
        if route.is_resolved() {
            if !self.packet.write_macs(route.dmac, route.smac) {
                return Err(drop_because!(ErrorWritingToPacket));
            }
            self.forwarded(TracePoint::ToNetwork, Direction::Egress);
            // SAFETY: a helper call.
            return Ok(unsafe { bpf_redirect(route.ifindex, 0) } as i32);
        }
        self.forwarded(TracePoint::ToNetwork, Direction::Egress);
        let mut next_hop = route.next_hop;
        let size = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: `next_hop` is initialised and of the length given.
        Ok(unsafe { bpf_redirect_neigh(route.ifindex, &mut next_hop, size, 0) } as i32)
    }
}

impl<F: Maps, P: Packet> Flow<F, P> {
    /// One hop less to live.
    #[inline(always)]
    pub fn age(&self) -> Result<(), Drop> {
        let at = if F::IS_V6 { L3 + 7 } else { L3 + 8 };
        let Some(ttl) = self.packet.get::<u8>(at) else {
            return Err(drop_because!(InvalidPacket));
        };
        if ttl <= 1 {
            return Err(drop_because!(TtlExceeded));
        }
        let written = if F::IS_V6 {
            // No checksum of the packet's own makes up for it.
            self.packet.note_change(
                u16::from_be_bytes([ttl, 0]),
                u16::from_be_bytes([ttl - 1, 0]),
            );
            self.packet.write(at, ttl - 1)
        } else {
            // TTL and protocol are one word of the header, its checksum is the next.
            let Some([word, sum]) = self.packet.get::<[u16; 2]>(at) else {
                return Err(drop_because!(InvalidPacket));
            };
            let aged = word.wrapping_sub(u16::from_ne_bytes([1, 0]));
            self.packet
                .write(at, [aged, checksum::replace16(sum, word, aged)])
        };
        if written {
            Ok(())
        } else {
            Err(drop_because!(ErrorWritingToPacket))
        }
    }
}

impl<F: Maps> Flow<F> {
    /// What a pod sends, or the proxy in its name, to a destination that is not on this node: by the way that is known, or that the routing
    /// table says. What that cannot decide goes up the stack as it came.
    #[inline(always)]
    pub fn to_elsewhere(&mut self, known: Option<&Route<F>>) -> Outcome {
        if let Some(remote) = known.and_then(Route::tunnel) {
            self.age()?;
            return self.to_overlay(remote);
        }
        // An answer under a frontend's address: the stack would not route what may be an address of its own.
        let is_unserved = config::services() && self.front != 0;
        if config::takes_host_stack() && !is_unserved {
            if known.is_none() {
                self.note_stack();
            }
            return self.to_stack();
        }
        // What answers the outside is translated where it came in; only what the pod opened needs a mapping.
        let masquerade = F::masquerade()
            && leaves_cluster(self.dst_id)
            && !F::is_native(self.h.tuple.dst)
            && !self.is_reply()
            && !is_unserved;
        match known.or_else(|| self.ask_route()) {
            Some(route) => self.to_network(route, masquerade),
            None => self.to_stack(),
        }
    }

    /// A client's packet to a backend that is elsewhere: under an address of this node, so that the answer comes back here. Through the
    /// tunnel that is the router's, which the other node reaches by the tunnel.
    #[inline(always)]
    pub fn to_backend(&mut self) -> Outcome {
        let known = self.known_route().or_else(|| self.ask_tunnel());
        if self.is_passed_on() {
            core::hint::cold_path();
            return self.pass_on(known);
        }
        self.track(None, None)?;
        if let Some(remote) = known.and_then(Route::tunnel) {
            self.age()?;
            self.masquerade(F::router_addr())?;
            return self.to_overlay(remote);
        }
        match known.or_else(|| self.ask_route()) {
            Some(route) => self.to_network(route, true),
            None => Err(drop_because!(FibLookupFailed)),
        }
    }

    /// The answer of a backend that is elsewhere, which has its client as the destination again.
    #[inline(always)]
    pub fn to_client(&mut self) -> Outcome {
        let known = self.known_route();
        self.track(None, None)?;
        if self.front == 0 {
            // Of no service: what was masqueraded is nobody's any more.
            return Err(drop_because!(NatNoMapping));
        }
        self.unserve()?;
        match known.or_else(|| self.ask_route()) {
            Some(route) => self.to_network(route, false),
            None => self.to_stack(),
        }
    }
}

/// Gives the packet the tunnel's key: to the node at `to`, from a sender of this identity.
#[inline(always)]
pub fn set_tunnel_key(skb: Skb, src_id: u32, to: &[u8; 16], is_v6: bool) -> bool {
    // SAFETY: all zeros is a valid key.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = carried(src_id);
    key.tunnel_ttl = TUNNEL_TTL;
    let flags = if is_v6 {
        key.__bindgen_anon_1.remote_ipv6 = zerocopy::transmute!(*to);
        TUNNEL_V6
    } else {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes([to[0], to[1], to[2], to[3]]);
        ZERO_CHECKSUM
    };
    // SAFETY: `key` is initialised and longer than the length given.
    unsafe { bpf_skb_set_tunnel_key(skb.0, &mut key, TUNNEL_KEY_LEN, flags) == 0 }
}

/// The identity as it goes with a packet through the tunnel: what is outside the cluster has one there.
#[inline(always)]
fn carried(id: u32) -> u32 {
    match id {
        identity::WORLD_IPV4 | identity::WORLD_IPV6 => identity::WORLD,
        id if identity::is_range(id) => identity::WORLD,
        id => id,
    }
}

/// True if what `src` sends to `remote` leaves under the node's address: to the world always, to other nodes
/// where their answers to a pod's own address would not find back (tunnel routing).
#[inline(always)]
pub fn leaves_cluster(dst_id: u32) -> bool {
    match dst_id {
        identity::WORLD | identity::WORLD_IPV4 | identity::WORLD_IPV6 => true,
        // A range that a rule names is as far outside as what no rule names.
        id if identity::is_range(id) => true,
        id => identity::is_remote_node(id) && config::is_tunnel(),
    }
}
