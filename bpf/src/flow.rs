//! One packet on its way through a program: what is known of it, and how its fate becomes verdict, event and count.
use core::ops::{Deref, DerefMut};

use abi::{
    CtStatus, Direction, DropReason, EventKind, FlowEvent, ProxySession, ProxySessionKey,
    TracePoint, event_flags,
};
use wire::{Headers, Malformed, headers::Icmp};

use crate::{
    clock, config,
    cross::CROSSING,
    fragments,
    maps::{self, Maps},
    packet::{L3, Packet},
    policy::Asked,
    skb::Skb,
    snat::Target,
};

/// Let the packet go on.
pub const PASS: i32 = 0;
/// Drop it.
pub const SHOT: i32 = 2;

/// Why and where a program's story ends before its time.
#[derive(Clone, Copy)]
pub struct Drop {
    /// A [`DropReason`], or [`TO_PROXY`] or [`CROSS`]: the packet is not given up, but handed over.
    pub reason: u8,
    pub line: u16,
}

/// What functions return that are calls of their own: zero, or a [`DropReason`]. A number fits a register.
pub type Code = u8;

/// All is well.
pub const OK: Code = 0;

/// The packet goes to the proxy, whatever the program would have done with it.
pub const TO_PROXY: Code = 2;

/// The packet goes on in the other family: see [`crate::cross`].
pub const CROSS: Code = 3;

/// The verdict of a packet that goes on, or why it does not.
pub type Outcome = Result<i32, Drop>;

/// Gives the packet up here for the named [`DropReason`].
macro_rules! drop_because {
    ($reason:ident) => {{
        // Keeps what packets rarely need out of the way of the others: programs are short of the CPU's instruction cache.
        core::hint::cold_path();
        $crate::flow::Drop {
            reason: abi::DropReason::$reason as u8,
            line: line!() as u16,
        }
    }};
}
pub(crate) use drop_because;

/// Calls a function that returns a [`Code`], and gives the packet up here if it says so.
macro_rules! attempt {
    ($call:expr) => {
        match $call {
            $crate::flow::OK => Ok(()),
            reason => {
                core::hint::cold_path();
                Err($crate::flow::Drop {
                    reason,
                    line: line!() as u16,
                })
            }
        }
    };
}
pub(crate) use attempt;

/// Which program looks at the packet.
#[derive(Clone, Copy)]
pub struct Hook {
    /// Index in [`abi::source_file`].
    pub file: u8,
    /// Direction that packets are counted under.
    pub direction: Direction,
}

impl Hook {
    /// True where packets come from their sender, whatever program sees them later.
    #[inline(always)]
    pub fn is_first(self) -> bool {
        self.file == FROM_CONTAINER
    }

    /// True where packets come from the proxy.
    #[inline(always)]
    pub fn is_of_proxy(self) -> bool {
        self.file == FROM_PROXY_FILE
    }

    /// True where another program of this node may have seen the packet.
    #[inline(always)]
    pub fn is_last(self) -> bool {
        self.file == TO_CONTAINER || self.file == TO_NETDEV
    }

    /// True where packets come in by a device.
    #[inline(always)]
    pub fn is_ingress(self) -> bool {
        !self.is_last() && self.file != FROM_HOST
    }
}

/// Index of the pods' program in [`abi::source_file`].
pub const FROM_CONTAINER: u8 = 1;
/// That of what the stack routes to pods.
pub const TO_CONTAINER: u8 = 2;
/// That of what leaves by a device.
pub const TO_NETDEV: u8 = 4;
/// That of what the node's processes send to pods.
pub const FROM_HOST: u8 = 6;
/// That of what the proxy sends.
pub const FROM_PROXY_FILE: u8 = 10;
/// That of the proxy's door.
pub const TO_PROXY_FILE: u8 = 11;

/// What was found out about a packet. It lies in per-CPU map memory and not on the stack, which is too small for two IPv6 headers; and
/// the verifier, which follows every value it can know, forgets what goes through a map: paths that differ only in what
/// they found in the headers become one again.
pub struct State<F: Maps> {
    pub h: Headers<F>,
    /// The packet inside an ICMP error.
    pub inner: Headers<F>,
    /// What is written over an end of the packet.
    pub target: Target<F>,
    /// Number of the frontend that the packet was sent to, for the entry of its connection; zero is none.
    pub by: u16,
    /// Number of the frontend as whose the packet, an answer, goes on; zero: as its sender's own.
    pub front: u16,
    /// Number of the backend that was chosen for a new connection.
    pub backend: u32,
    /// What the client calls the service that the packet is passed on for.
    pub frontend: Target<F>,
    /// The backend's node answers the client itself.
    pub direct: bool,
    /// The frontend's backends are of the other family, in whose state the target is then.
    pub crosses: bool,
    /// The packet is passed on, and is too long with its option.
    pub oversize: bool,
    /// Flags of [`abi::ct_flags`] for the entry of a new connection.
    pub opening: u16,
    /// Whoever sends the packet is in the cluster.
    pub inside: bool,
    /// There are frontends at the destination: the way there is not remembered.
    pub may_be_served: bool,
    pub hook: Hook,
    pub src_id: u32,
    pub dst_id: u32,
    pub status: CtStatus,
    pub report: bool,
    pub tcp_flags: u8,
    pub event_flags: u8,
    pub endpoint: u16,
    /// What policy wants to know of sender and receiver.
    pub ends: [Asked; 2],
    /// The packet comes from the side that opened its connection.
    pub from_opener: bool,
    /// The packet answers the question that policy is asked.
    pub reverse: bool,
    /// What comes of it is the connection's.
    pub holds: bool,
    /// It was asked: `code` is what came of it, under `epoch`.
    pub asked: bool,
    pub code: Code,
    pub epoch: u32,
    /// For the entry of a new connection.
    pub epochs: [u32; 2],
    /// [`TO_PROXY`] if the packet of a connection by way of the proxy goes there, else [`OK`].
    pub way: Code,
    /// By way of which proxy policy allows the packet: an [`abi::ProxyKind`]. Valid where it was asked.
    pub l7_kind: u8,
    /// Number of the endpoint whose egress rules the proxy is to ask; zero is none.
    pub l7_sender: u16,
    /// As `l7_sender`, of ingress.
    pub l7_receiver: u16,
    /// What the proxy is told of the connection: too long for the stack.
    pub session_key: ProxySessionKey,
    pub session: ProxySession,
    /// Of the policy row that decides.
    pub origin: u32,
    /// Direction of the policy that decides.
    pub direction: u8,
    /// How its row was found.
    pub matched: u8,
    /// Of the record to write.
    pub kind: u8,
    pub subtype: u8,
    pub line: u16,
}

/// A packet, and what was found out about it.
pub struct Flow<F: Maps, P: Packet = Skb> {
    pub packet: P,
    pub state: &'static mut State<F>,
}

impl<F: Maps, P: Packet> Deref for Flow<F, P> {
    type Target = State<F>;

    #[inline(always)]
    fn deref(&self) -> &State<F> {
        self.state
    }
}

impl<F: Maps, P: Packet> DerefMut for Flow<F, P> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut State<F> {
        self.state
    }
}

/// Runs a program's story `run` on a packet whose headers can be read; `unreadable` decides what becomes of others.
#[inline(always)]
pub fn tell<F: Maps, P: Packet>(
    packet: P,
    hook: Hook,
    endpoint: u16,
    unreadable: Unreadable,
    run: impl FnOnce(&mut Flow<F, P>) -> Outcome,
) -> i32 {
    let Some(state) = F::state() else {
        return P::SHOT;
    };
    state.begin(hook, endpoint);
    let read = read_headers::<F, P>(packet, state);
    let mut flow = Flow { packet, state };
    let outcome = match read {
        OK if stands_for_another(&flow) => Err(drop_because!(InvalidPacket)),
        OK => run(&mut flow),
        reason => {
            core::hint::cold_path();
            match unreadable {
                Unreadable::Pass
                    if P::IN_DRIVER || !config::host_firewall() || is_unknown_part(reason) =>
                {
                    Ok(P::PASS)
                }
                _ => Err(Drop {
                    reason,
                    line: line!() as u16,
                }),
            }
        }
    };
    flow.finish(outcome)
}

/// True if an end of the packet would be taken for one of the other family: connections across the families are known by such addresses
/// (see [`crate::cross`]), which no sender may have.
#[inline(always)]
fn stands_for_another<F: Maps, P: Packet>(flow: &Flow<F, P>) -> bool {
    let t = &flow.h.tuple;
    config::crosses() && F::IS_V6 && (F::is_across(t.src) || F::is_across(t.dst))
}

impl<F: Maps> State<F> {
    /// Nothing is known yet.
    #[inline(always)]
    pub fn begin(&mut self, hook: Hook, endpoint: u16) {
        (self.hook, self.endpoint) = (hook, endpoint);
        (self.src_id, self.dst_id) = (0, 0);
        (self.by, self.front, self.opening) = (0, 0, 0);
        (self.inside, self.may_be_served, self.crosses) = (false, false, false);
        (self.status, self.report) = (CtStatus::Unknown, false);
        (self.reverse, self.asked, self.code) = (false, false, OK);
        (self.origin, self.direction, self.matched) = (0, 0, 0);
        self.event_flags = if F::IS_V6 { event_flags::IPV6 } else { 0 };
    }
}

/// What becomes of packets that cannot be read.
pub enum Unreadable {
    /// They are dropped.
    Drop,
    /// They go on: until a packet is known to be a pod's it is the host's to judge. Unless policy is asked about what the host
    /// gets: it may understand what is not understood here.
    Pass,
}

/// True for a fragment of a datagram whose first was not seen: without that the host cannot put it together either.
#[inline(always)]
fn is_unknown_part(reason: Code) -> bool {
    reason == DropReason::FragmentNotFound as u8
}

/// Reads the headers into the state; fragments get their datagram's ports.
#[inline(never)]
fn read_headers<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    let parsed = if packet.linearise(L3 + F::HEADER_LEN + 20) {
        wire::parse::<F, P>(&packet, L3)
    } else {
        Err(Malformed::Invalid)
    };
    state.h = match parsed {
        Ok(h) => h,
        Err(e) => {
            core::hint::cold_path();
            // Not the last packet's, which its report would show.
            state.h = Headers::empty();
            return malformed(e) as u8;
        }
    };
    state.tcp_flags = if F::ICMP == state.h.tuple.proto {
        state.h.icmp_type
    } else {
        state.h.tcp_flags
    };
    if P::IN_DRIVER || state.h.fragment.is_whole() {
        return OK;
    }
    core::hint::cold_path();
    if fragments::resolve::<F>(&mut state.h) {
        OK
    } else {
        DropReason::FragmentNotFound as u8
    }
}

/// Reads the packet inside an ICMP error into the state; false if it cannot be read: it then is of no protocol.
#[inline(always)]
pub fn read_inner<F: Maps>(skb: Skb, state: &mut State<F>) -> Code {
    // The inner headers lie deeper than `linearise` looks.
    if !skb.pull(256) {
        state.inner = Headers::empty();
        return DropReason::InvalidPacket as u8;
    }
    match wire::headers::embedded::<F, Skb>(&skb, &state.h) {
        Ok(inner) => {
            state.inner = inner;
            OK
        }
        Err(e) => {
            state.inner = Headers::empty();
            malformed(e) as u8
        }
    }
}

#[inline(always)]
fn malformed(e: Malformed) -> DropReason {
    match e {
        Malformed::Truncated => DropReason::CtInvalidHeader,
        Malformed::Invalid => DropReason::InvalidPacket,
        Malformed::Extension => DropReason::InvalidExtensionHeader,
    }
}

impl<F: Maps, P: Packet> Flow<F, P> {
    /// True if the packet answers a connection that the other side opened.
    #[inline(always)]
    pub fn is_reply(&self) -> bool {
        self.status == CtStatus::Reply
    }

    /// True if the packet is an error about a connection that is known.
    #[inline(always)]
    pub fn is_related(&self) -> bool {
        self.status == CtStatus::Related
    }

    /// Ends the program: a pass is already counted, a drop is counted and reported here.
    #[inline(always)]
    pub fn finish(&mut self, outcome: Outcome) -> i32 {
        match outcome {
            Ok(verdict) => verdict,
            Err(drop) => {
                core::hint::cold_path();
                let packet = self.packet;
                if !P::IN_DRIVER && drop.reason == TO_PROXY {
                    return packet.handed_over::<F>();
                }
                if !P::IN_DRIVER && config::crosses() && drop.reason == CROSS {
                    return CROSSING;
                }
                maps::count(
                    drop.reason,
                    self.hook.direction,
                    packet.len(),
                    drop.line,
                    self.hook.file,
                );
                self.emit(EventKind::Drop, drop.reason, drop.line);
                packet.given_up::<F>(drop.reason)
            }
        }
    }

    /// Counts a forwarded packet and reports it if it is worth it.
    #[inline(always)]
    pub fn forwarded(&mut self, point: TracePoint, direction: Direction) {
        maps::count(
            0,
            direction,
            self.packet.len(),
            line!() as u16,
            self.hook.file,
        );
        if self.report || config::reports_all() {
            self.emit(EventKind::Trace, point as u8, 0);
        }
    }

    /// Reports that a packet came in, at the level that wants it.
    #[inline(always)]
    pub fn received(&mut self, point: TracePoint) {
        if config::reports_receive() {
            self.emit(EventKind::Trace, point as u8, 0);
        }
    }

    #[inline(always)]
    fn emit(&mut self, kind: EventKind, subtype: u8, line: u16) {
        (self.kind, self.subtype, self.line) = (kind as u8, subtype, line);
        self.packet.report::<F>();
    }
}

/// Writes a record into the ring.
#[inline(never)]
pub fn emit<F: Maps, P: Packet>(packet: P, state: &mut State<F>) -> Code {
    let Some(mut record) = maps::events().reserve::<FlowEvent>(0) else {
        maps::count(
            abi::LOST_EVENTS,
            Direction::Unknown,
            0,
            state.line,
            state.hook.file,
        );
        return OK;
    };
    let h = &state.h;
    let is_icmp = h.tuple.proto == F::ICMP;
    let dport = if is_icmp && h.icmp != Icmp::Echo {
        u16::from(h.icmp_code).to_be()
    } else {
        h.tuple.dport
    };
    record.write(FlowEvent {
        time: clock::exact(),
        kind: state.kind,
        subtype: state.subtype,
        ct_status: state.status as u8,
        flags: state.event_flags,
        endpoint: state.endpoint,
        proto: h.tuple.proto,
        tcp_flags: state.tcp_flags,
        len: packet.len(),
        ifindex: packet.ifindex(),
        src_id: state.src_id,
        dst_id: state.dst_id,
        src: F::widen(h.tuple.src),
        dst: F::widen(h.tuple.dst),
        sport: h.tuple.sport.to_ne_bytes(),
        dport: dport.to_ne_bytes(),
        line: state.line,
        file: state.hook.file,
        ext_error: 0,
        origin: state.origin,
        direction: state.direction,
        matched: state.matched,
        pad: 0,
    });
    record.submit(maps::NO_WAKEUP);
    OK
}
