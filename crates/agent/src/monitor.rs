//! Live events: from the ring to whoever listens.
//!
//! One task reads the ring. It decodes only while somebody listens; else it empties the ring and counts, so that the
//! kernel's side never waits. A listener that is too slow loses events and is told how many.
use crate::{observe::Flows, policy::Policy, services::Services};
use abi::{
    CtStatus, DropReason, EventKind, FlowEvent, PolicyMatch, SockEvent, SockPoint, TracePoint,
    event_flags, source_file,
};
use api::{MonitorEvent, MonitorKind};
use datapath::events::EventReader;
use runtime::stop::Stop;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::broadcast;

/// Events that a listener may lag behind: a burst of some milliseconds.
const BACKLOG: usize = 8192;

/// The way to live events; cheap to clone.
#[derive(Clone, Debug)]
pub struct Monitor {
    sender: broadcast::Sender<Arc<MonitorEvent>>,
    counts: Arc<Counts>,
}

/// What became of the records of the ring.
#[derive(Debug, Default)]
pub struct Counts {
    /// Decoded and handed to listeners.
    pub delivered: AtomicU64,
    /// Dropped because nobody listened.
    pub unheard: AtomicU64,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(1),
            counts: Arc::default(),
        }
    }
}

impl Monitor {
    /// A monitor without a source yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sender: broadcast::Sender::new(BACKLOG),
            counts: Arc::default(),
        }
    }

    /// A new listener.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Arc<MonitorEvent>> {
        self.sender.subscribe()
    }

    /// What became of the records.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether somebody listens.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Tells listeners of an event that no program wrote.
    pub fn tell(&self, event: MonitorEvent) {
        // An error means that the last listener has just gone.
        let _ = self.sender.send(Arc::new(event));
    }

    /// Tells listeners what the agent did.
    pub fn agent_event(&self, text: String) {
        if self.sender.receiver_count() > 0 {
            let mut event = MonitorEvent::new(MonitorKind::Agent, now());
            event.reason = text;
            // An error means that the last listener has just gone.
            let _ = self.sender.send(Arc::new(event));
        }
    }

    /// Empties the ring again and again until `stop`; `flows` gets every event, too.
    pub async fn run(
        self,
        mut reader: EventReader,
        policy: Policy,
        services: Services,
        mut flows: Option<Flows>,
        stop: Stop,
    ) {
        let mut clock = ClockOffset::now();
        loop {
            if let Some(flows) = &mut flows {
                flows.begin();
            }
            let listened = self.sender.receiver_count() > 0;
            let counter = if listened {
                &self.counts.delivered
            } else {
                &self.counts.unheard
            };
            if listened {
                clock = ClockOffset::now();
            }
            let mut rules: BTreeMap<u32, Vec<String>> = BTreeMap::new();
            let count = reader.drain(|event| {
                if let Some(flows) = &mut flows {
                    flows.event(event);
                }
                if listened {
                    let mut shown = decode(event, clock);
                    if event.origin != 0 {
                        let names = rules
                            .entry(event.origin)
                            .or_insert_with(|| policy.rule_names(event.origin));
                        shown.rules = names.clone();
                    }
                    if let Some(sock) = event.sock() {
                        name_owner(&mut shown, sock, &services);
                    }
                    let _ = self.sender.send(Arc::new(shown));
                }
            });
            counter.fetch_add(count as u64, Ordering::Relaxed);
            // Where nobody listens nothing is lost by letting the ring fill: the programs then skip their records.
            let pause = match &mut flows {
                Some(flows) => {
                    flows.end();
                    reader.interval()
                }
                None => Duration::from_millis(100),
            };
            let pause = if listened {
                reader.interval().min(Duration::from_millis(10))
            } else {
                pause
            };
            if stop.or(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }
}

/// Difference between the wall clock and the monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct ClockOffset(u64);

impl ClockOffset {
    fn now() -> Self {
        Self(now().saturating_sub(monotonic()))
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of the clock that the programs use.
#[must_use]
pub fn monotonic() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |t| {
        (t.tv_sec() as u64)
            .saturating_mul(1_000_000_000)
            .saturating_add(t.tv_nsec() as u64)
    })
}

/// Whose socket it is.
fn name_owner(shown: &mut MonitorEvent, sock: &SockEvent, services: &Services) {
    let Some(owner) = services.socket_owner(sock.netns) else {
        return;
    };
    let is_v6 = shown.dst.is_some_and(|ip| ip.is_ipv6());
    shown.endpoint = owner.id;
    shown.src_identity = owner.identity;
    shown.src = owner.addresses().find(|ip| ip.is_ipv6() == is_v6);
}

fn decode_sock(event: &SockEvent, clock: ClockOffset) -> MonitorEvent {
    let time = event.time.saturating_add(clock.0);
    let point = SockPoint::from_u8(event.point).map(SockPoint::text);
    MonitorEvent {
        point: point.unwrap_or_default().to_owned(),
        dst: Some(address(event.flags, event.dst)),
        dst_port: u16::from_be_bytes(event.dport),
        protocol: event.proto,
        socket_cookie: event.cookie,
        cgroup_id: event.cgroup,
        ..MonitorEvent::new(MonitorKind::TraceSock, time)
    }
}

fn address(flags: u8, bytes: [u8; 16]) -> IpAddr {
    match (flags & event_flags::IPV6 != 0, bytes) {
        (true, bytes) => IpAddr::from(bytes),
        (false, [a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
    }
}

/// A record as the API shows it.
#[must_use]
pub fn decode(event: &FlowEvent, clock: ClockOffset) -> MonitorEvent {
    if let Some(sock) = event.sock() {
        return decode_sock(sock, clock);
    }
    let has = |flag: u8| event.flags & flag != 0;
    let kind = match event.kind {
        k if k == EventKind::Drop as u8 => MonitorKind::Drop,
        k if k == EventKind::Trace as u8 => MonitorKind::Trace,
        k if k == EventKind::PolicyVerdict as u8 => MonitorKind::PolicyVerdict,
        _ => MonitorKind::Unknown,
    };
    let mut out = MonitorEvent::new(kind, event.time.saturating_add(clock.0));
    match kind {
        MonitorKind::Drop => {
            let reason = DropReason::from_u8(event.subtype);
            out.reason = reason.map_or_else(
                || format!("reason {}", event.subtype),
                |r| r.text().to_owned(),
            );
            out.reason_code = event.subtype;
            out.source = format!("{}:{}", source_file::name(event.file), event.line);
        }
        MonitorKind::Trace => {
            out.point = TracePoint::from_u8(event.subtype)
                .map(|point| point.text().to_owned())
                .unwrap_or_default();
        }
        MonitorKind::PolicyVerdict => {
            let reason = DropReason::from_u8(event.subtype);
            out.verdict = match (reason, has(event_flags::AUDITED)) {
                (None, _) => "allow",
                (Some(_), true) => "audit",
                (Some(_), false) => "deny",
            }
            .to_owned();
            out.reason_code = event.subtype;
            let matched = PolicyMatch::from_u8(event.matched);
            out.match_type = matched.map_or("", PolicyMatch::text).to_owned();
        }
        _ => {}
    }
    out.direction = match event.direction {
        1 => "ingress",
        2 => "egress",
        _ => "",
    }
    .to_owned();
    out.endpoint = event.endpoint;
    out.src_identity = event.src_id;
    out.dst_identity = event.dst_id;
    out.ct_state = CtStatus::from_u8(event.ct_status).text().to_owned();
    out.src = Some(address(event.flags, event.src));
    out.dst = Some(address(event.flags, event.dst));
    out.protocol = event.proto;
    ports(event, &mut out);
    out.ifindex = event.ifindex;
    out.length = event.len;
    out
}

fn ports(event: &FlowEvent, out: &mut MonitorEvent) {
    /// IP protocol numbers whose "ports" are an identifier, type and code.
    const ICMP: [u8; 2] = [1, 58];
    const TCP: u8 = 6;
    if event.flags & event_flags::NO_PORTS != 0 {
        return;
    }
    if ICMP.contains(&event.proto) {
        out.icmp = Some((event.tcp_flags, event.dport[1]));
        return;
    }
    out.src_port = u16::from_be_bytes(event.sport);
    out.dst_port = u16::from_be_bytes(event.dport);
    if event.proto == TCP {
        out.tcp_flags = event.tcp_flags;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    fn event() -> FlowEvent {
        let mut src = [0; 16];
        src[..4].copy_from_slice(&[10, 244, 1, 7]);
        FlowEvent {
            time: 5,
            kind: EventKind::Drop as u8,
            subtype: DropReason::InvalidSourceIp as u8,
            ct_status: CtStatus::New as u8,
            flags: 0,
            endpoint: 9,
            proto: 6,
            tcp_flags: 2,
            len: 74,
            ifindex: 3,
            src_id: 4711,
            dst_id: 2,
            src,
            dst: [0; 16],
            sport: 4242u16.to_be_bytes(),
            dport: 80u16.to_be_bytes(),
            line: 12,
            file: 1,
            ext_error: 0,
            origin: 0,
            direction: 0,
            matched: 0,
            pad: 0,
        }
    }

    #[test]
    fn drops_say_why_where_and_who() {
        let got = decode(&event(), ClockOffset(10));
        assert_eq!((got.kind, got.timestamp_ns), (MonitorKind::Drop, 15));
        assert_eq!(
            (got.reason.as_str(), got.reason_code),
            ("Invalid source ip", 132)
        );
        assert_eq!(got.source, "from_container.rs:12");
        assert_eq!(
            (got.src, got.src_port, got.dst_port),
            (Some("10.244.1.7".parse().unwrap()), 4242, 80)
        );
    }

    #[test]
    fn translations_show_the_other_side_alone() {
        let mut dst = [0; 16];
        dst[..4].copy_from_slice(&[10, 96, 0, 10]);
        let sock = SockEvent {
            time: 5,
            kind: EventKind::TraceSock as u8,
            point: SockPoint::PreForward as u8,
            proto: 17,
            cookie: 4711,
            cgroup: 99,
            netns: 3,
            dst,
            dport: 53u16.to_be_bytes(),
            ..SockEvent::new_zeroed()
        };
        let record: FlowEvent = zerocopy::transmute!(sock);
        let got = decode(&record, ClockOffset(10));
        assert_eq!((got.kind, got.timestamp_ns), (MonitorKind::TraceSock, 15));
        assert_eq!(
            (got.point.as_str(), got.socket_cookie, got.cgroup_id),
            ("pre-xlate-fwd", 4711, 99)
        );
        assert_eq!((got.src, got.src_port), (None, 0));
        let dst: IpAddr = "10.96.0.10".parse().unwrap();
        assert_eq!((got.dst, got.dst_port), (Some(dst), 53));
    }

    #[test]
    fn icmp_has_type_and_code_and_unknown_ports_are_zero() {
        let got = decode(
            &FlowEvent {
                proto: 58,
                tcp_flags: 128,
                dport: [0, 3],
                flags: event_flags::IPV6,
                ..event()
            },
            ClockOffset(0),
        );
        assert_eq!((got.icmp, got.src_port), (Some((128, 3)), 0));
        assert!(got.src.is_some_and(|ip| ip.is_ipv6()));
        let got = decode(
            &FlowEvent {
                flags: event_flags::NO_PORTS,
                ..event()
            },
            ClockOffset(0),
        );
        assert_eq!((got.src_port, got.tcp_flags), (0, 0));
    }
}
