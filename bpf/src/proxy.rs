//! Layer 7: connections that go by way of the node's proxy, which has a network namespace of its own.
//!
//! Where a policy row that allows names a proxy, the entry of the connection says so ([`ct_flags::PROXY_FORWARD`], leg 1), and whoever sees
//! a packet of the client hands it over instead of delivering it. What the proxy opens to the server has an entry of its own
//! ([`ct_flags::PROXY_REPLY`], leg 2), whose answers are handed over likewise. The other direction of either entry comes from the proxy alone:
//! the same from anybody else is dropped, so that nobody can speak in the proxy's name.
//!
//! Not handled, and dropped with a reason: rules of the host's own policy, kinds that do not know the packet's protocol, and two ends that
//! name two kinds ([`DropReason::ProxyUnsupportedProtocol`]); parts of datagrams to the proxy ([`DropReason::FragmentsUnsupported`]); a proxy
//! that is not there ([`DropReason::SocketLookupFailed`]); a connection that was open when a rule began or ceased to send it to the
//! proxy ([`DropReason::PolicyDenied`]: it is cut, and its client connects anew).
use abi::{
    CtEntry, Direction, DropReason, ProxyKind, ProxySession, TracePoint, ct_flags, endpoint_flags,
    proxy::UPSTREAM_PORTS,
};
use aya_ebpf::{
    bindings::bpf_sock_tuple,
    helpers::generated::{
        bpf_redirect, bpf_redirect_peer, bpf_sk_assign, bpf_sk_lookup_udp, bpf_sk_release,
        bpf_skc_lookup_tcp,
    },
};
use wire::{
    conntrack::{ACK, SYN, Segment, is_over},
    headers::{TCP, UDP},
    proxy::{goes_to_proxy, session_key},
};

use crate::{
    clock, config,
    flow::{Code, Flow, OK, SHOT, State, TO_PROXY},
    maps::{self, Maps},
    packet::Packet,
    policy::Asked,
    skb::Skb,
};

/// A network namespace's own number for "the packet's".
const ITS_NETNS: u64 = u64::MAX;

/// What a packet is to its connection by way of the proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Leg {
    /// None is known.
    Unknown = 0,
    /// Leg 1, to the proxy.
    Question = 1,
    /// Leg 1, from the proxy.
    Answer = 2,
    /// Leg 2, from the proxy.
    Upstream = 3,
    /// Leg 2, to the proxy; or the entry is of no such connection.
    Other = 4,
}

/// Finds out which leg the packet is of. One that the map has forgotten is known by its session, or by the port that the proxy takes.
#[inline(never)]
pub fn leg<F: Maps>(state: &mut State<F>) -> Leg {
    let t = &state.h.tuple;
    let (key, from_b) = F::ct_key(t);
    let segment = Segment {
        proto: t.proto,
        tcp_flags: state.h.tcp_flags,
        from_b,
        len: 0,
        now: clock::seconds(),
    };
    // SAFETY: as in `conntrack::track`.
    if let Some(entry) = F::ct().get_ptr_mut(&key).map(|entry| unsafe { &*entry })
        && !is_over(entry, &segment)
    {
        let from_opener = (entry.flags & ct_flags::FROM_B != 0) == from_b;
        return match (entry.flags & ct_flags::PROXIED, from_opener) {
            (ct_flags::PROXY_FORWARD, true) => Leg::Question,
            (ct_flags::PROXY_FORWARD, false) => Leg::Answer,
            (ct_flags::PROXY_REPLY, true) => Leg::Upstream,
            _ => Leg::Other,
        };
    }
    let opens =
        (t.proto == TCP || t.proto == UDP) && UPSTREAM_PORTS.contains(&u16::from_be(t.sport));
    state.session_key = session_key(&t.reversed());
    if opens && state.known_session().is_none() {
        Leg::Upstream
    } else {
        Leg::Unknown
    }
}

impl<F: Maps> State<F> {
    /// Whether somebody who sends packets to this program may send this one of a connection by way of the proxy, and whether that is where it
    /// goes ([`State::way`]).
    #[inline(always)]
    pub fn admit(&mut self, flags: u16, from_opener: bool) -> Code {
        let to_proxy = goes_to_proxy(flags, from_opener);
        self.way = if to_proxy { TO_PROXY } else { OK };
        if to_proxy == self.hook.is_of_proxy() && !self.hook.is_last() {
            return DropReason::PolicyDenied as u8;
        }
        OK
    }

    /// Takes from the row that allows the packet at an end by way of which proxy it does.
    #[inline(never)]
    pub fn want_proxy(&mut self, end: Asked, kind: u8) {
        core::hint::cold_path();
        let takes = ProxyKind::from_u8(kind).is_some_and(|kind| kind.takes(self.h.tuple.proto));
        let is_host = end.flags & endpoint_flags::HOST != 0;
        if !takes || is_host || self.l7_kind != 0 && self.l7_kind != kind {
            self.code = DropReason::ProxyUnsupportedProtocol as u8;
        } else if !config::has_proxy() {
            self.code = DropReason::SocketLookupFailed as u8;
        } else {
            self.l7_kind = kind;
            if self.direction == Direction::Egress as u8 {
                self.l7_sender = end.id;
            } else {
                self.l7_receiver = end.id;
            }
        }
    }

    /// What is known of the connection that the state has the key of.
    #[inline(always)]
    pub fn known_session(&self) -> Option<&'static ProxySession> {
        maps::session(&self.session_key)
    }

    /// Makes the key of the session whose client the packet is from, or for.
    #[inline(always)]
    fn key_session(&mut self) {
        self.session_key = if self.reverse {
            session_key(&self.h.tuple.reversed())
        } else {
            session_key(&self.h.tuple)
        };
    }

    /// Writes down whose connection goes to the proxy.
    #[inline(never)]
    pub fn note_session(&mut self) -> Code {
        self.key_session();
        self.put_session()
    }

    /// As [`State::note_session`], with the key in the state already.
    #[inline(always)]
    fn put_session(&mut self) -> Code {
        let (src_id, dst_id) = if self.reverse {
            (self.dst_id, self.src_id)
        } else {
            (self.src_id, self.dst_id)
        };
        self.session = ProxySession {
            src_id,
            dst_id,
            egress_endpoint: self.l7_sender,
            ingress_endpoint: self.l7_receiver,
            kind: self.l7_kind,
            pad: [0; 3],
        };
        if maps::put_session(&self.session_key, &self.session) {
            OK
        } else {
            DropReason::CtInsertFailed as u8
        }
    }

    /// A live connection was asked about anew: whether it goes on as what policy wants now. Datagrams and what begins anew change their way;
    /// a stream in its midst cannot, and is cut. No call of its own: Linux 5.10 allows few of them, one in another.
    #[inline(always)]
    pub fn follow(&mut self, entry: &mut CtEntry) -> Code {
        core::hint::cold_path();
        self.key_session();
        let is_there = entry.flags & ct_flags::PROXY_FORWARD != 0;
        let same = if self.l7_kind == 0 {
            !is_there
        } else {
            is_there
                && self
                    .known_session()
                    .is_none_or(|known| known.kind == self.l7_kind)
        };
        let begins =
            self.h.tuple.proto != TCP || !self.reverse && self.h.tcp_flags & (SYN | ACK) == SYN;
        if !same && !begins {
            return DropReason::PolicyDenied as u8;
        }
        if self.l7_kind == 0 {
            entry.flags &= !ct_flags::PROXY_FORWARD;
            self.way = OK;
            return OK;
        }
        entry.flags |= ct_flags::PROXY_FORWARD;
        let code = self.put_session();
        if code != OK {
            return code;
        }
        self.admit(entry.flags, !self.reverse)
    }
}

/// Hands the packet over to the proxy; the verdict.
#[inline(always)]
pub fn redirect<F: Maps>(skb: Skb, state: &'static mut State<F>) -> Code {
    if !skb.write_macs(config::proxy_mac(), config::proxy_node_mac()) {
        return SHOT as Code;
    }
    let direct = state.hook.is_ingress() && !config::takes_host_stack() && !is_netkit(skb);
    let direction = state.hook.direction;
    Flow { packet: skb, state }.forwarded(TracePoint::ToProxy, direction);
    // SAFETY: helper calls.
    unsafe {
        if direct {
            bpf_redirect_peer(config::proxy_ifindex(), 0) as Code
        } else {
            bpf_redirect(config::proxy_ifindex(), 0) as Code
        }
    }
}

/// True if the program runs as a pod sends: packets cannot be handed to a peer from there.
#[inline(always)]
fn is_netkit(skb: Skb) -> bool {
    maps::endpoint_of_device(skb.ifindex())
        .is_some_and(|ep| ep.info.flags & endpoint_flags::NETKIT != 0)
}

/// Whether a segment of TCP has a socket already.
#[inline(never)]
pub fn has_socket<F: Maps>(skb: Skb, state: &State<F>) -> bool {
    let t = &state.h.tuple;
    let (mut tuple, size) = socket::<F>(t.src, t.dst, t.sport, t.dport);
    // SAFETY: the tuple is initialised and as long as said; what is found is given back.
    unsafe {
        let found = bpf_skc_lookup_tcp(skb.0.cast(), &mut tuple, size, ITS_NETNS, 0);
        if found.is_null() {
            return false;
        }
        bpf_sk_release(found.cast());
    }
    true
}

/// Gives the packet to the proxy's listener for connections of its kind.
#[inline(never)]
pub fn assign<F: Maps>(skb: Skb, state: &State<F>, port: u16) -> Code {
    let loopback = F::local_host();
    let (mut tuple, size) = socket::<F>(F::zero(), loopback, 0, port.to_be());
    let context = skb.0.cast();
    // SAFETY: as above.
    unsafe {
        let found = if state.h.tuple.proto == TCP {
            bpf_skc_lookup_tcp(context, &mut tuple, size, ITS_NETNS, 0).cast()
        } else {
            bpf_sk_lookup_udp(context, &mut tuple, size, ITS_NETNS, 0)
        };
        if found.is_null() {
            return DropReason::SocketLookupFailed as u8;
        }
        let assigned = bpf_sk_assign(context, found.cast(), 0);
        bpf_sk_release(found.cast());
        if assigned == 0 {
            OK
        } else {
            DropReason::SocketAssignFailed as u8
        }
    }
}

/// The ends of a socket as helpers take them, and their length.
#[inline(always)]
fn socket<F: Maps>(src: F::Addr, dst: F::Addr, sport: u16, dport: u16) -> (bpf_sock_tuple, u32) {
    // SAFETY: all zeros is a valid tuple.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    if F::IS_V6 {
        tuple.__bindgen_anon_1.ipv6.saddr = zerocopy::transmute!(F::widen(src));
        tuple.__bindgen_anon_1.ipv6.daddr = zerocopy::transmute!(F::widen(dst));
        tuple.__bindgen_anon_1.ipv6.sport = sport;
        tuple.__bindgen_anon_1.ipv6.dport = dport;
        (tuple, 36)
    } else {
        tuple.__bindgen_anon_1.ipv4.saddr = F::first_word(src);
        tuple.__bindgen_anon_1.ipv4.daddr = F::first_word(dst);
        tuple.__bindgen_anon_1.ipv4.sport = sport;
        tuple.__bindgen_anon_1.ipv4.dport = dport;
        (tuple, 12)
    }
}
