//! What the ring holds: an event as the kernel wrote it, with what the tables said of it then. It becomes a message only when
//! somebody reads it.
mod shown;

pub use shown::Shown;

use crate::{directory::Party, summary::flags_of, view::End};
use abi::{CtStatus, EventKind, FlowEvent, SockPoint, TracePoint, event_flags};
use api::hubble::flow::{
    AgentEvent, Flow, IcmPv4, IcmPv6, IpVersion, Layer4, LostEvent, Policy, Sctp, Service, Tcp,
    TrafficDirection, Udp, Verdict, layer4::Protocol,
};
use prost_types::Timestamp;
use std::{net::IpAddr, sync::Arc};

/// IP protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

/// Kind of event in the messages for what the agent does.
pub const AGENT_EVENT: i32 = 130;
/// Kind of event in the messages for records of a proxy.
pub const L7_EVENT: i32 = 129;

/// Who sees all this.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Cluster and node, as `default/w1`.
    pub node_name: String,
    /// The node's labels, as `key=value`.
    pub node_labels: Vec<String>,
    /// From which flows get their numbers.
    pub seed: u64,
}

/// One place of the ring.
#[derive(Clone, Debug)]
pub struct Record {
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// What.
    pub what: What,
}

/// What a record tells of.
#[derive(Clone, Debug)]
pub enum What {
    /// A packet, or a call at a socket.
    Packet(Seen),
    /// A flow that came as a whole: a request.
    Flow(Arc<Flow>),
    /// Events that are missing.
    Lost(LostEvent),
    /// Something that the agent did.
    Agent(Arc<AgentEvent>),
}

/// A packet, or a call at a socket, with what the tables said of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As the kernel wrote it.
    pub event: FlowEvent,
    /// Its place among all that was ever seen.
    pub number: u64,
    /// Who sent it.
    pub source: Arc<Party>,
    /// Whom it is for.
    pub destination: Arc<Party>,
    /// The services whose frontends its source and destination are.
    pub services: [Option<Arc<Service>>; 2],
    /// The policies that decided.
    pub policies: Option<Arc<[Policy]>>,
    /// Name of the device.
    pub device: Option<Arc<str>>,
    /// Address of whoever called, for calls at sockets, whose events have no source.
    pub caller: Option<IpAddr>,
}

/// A time in nanoseconds since 1970 as messages have it.
#[must_use]
pub fn timestamp(nanos: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos % 1_000_000_000).unwrap_or_default(),
    }
}

/// Nanoseconds since 1970 of a time in a message; what lies before is zero.
#[must_use]
pub fn nanos(time: &Timestamp) -> u64 {
    u64::try_from(time.seconds)
        .unwrap_or_default()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.nanos).unwrap_or_default())
}

/// An address in an event with these flags.
#[must_use]
pub fn address(flags: u8, bytes: &[u8; 16]) -> IpAddr {
    match bytes {
        bytes if flags & event_flags::IPV6 != 0 => IpAddr::from(*bytes),
        [a, b, c, d, ..] => IpAddr::from([*a, *b, *c, *d]),
    }
}

impl Seen {
    fn has(&self, flag: u8) -> bool {
        self.event.flags & flag != 0
    }

    fn is(&self, kind: EventKind) -> bool {
        self.event.kind == kind as u8
    }

    /// Address of one end; none for a caller of whom none is known.
    #[must_use]
    pub fn address(&self, end: End) -> Option<IpAddr> {
        Some(match end {
            End::Source if self.is(EventKind::TraceSock) => return self.caller,
            End::Source => address(self.event.flags, &self.event.src),
            End::Destination => address(self.event.flags, &self.event.dst),
        })
    }

    /// Whoever is at one end.
    #[must_use]
    pub fn party(&self, end: End) -> &Party {
        match end {
            End::Source => &self.source,
            End::Destination => &self.destination,
        }
    }

    /// What became of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.is(EventKind::Trace) {
            Verdict::Forwarded
        } else if self.is(EventKind::Drop) {
            Verdict::Dropped
        } else if self.is(EventKind::PolicyVerdict) {
            match self.event.subtype {
                0 => Verdict::Forwarded,
                _ if self.has(event_flags::AUDITED) => Verdict::Audit,
                _ => Verdict::Dropped,
            }
        } else if let Some(call) = self.event.sock() {
            match SockPoint::from_u8(call.point) {
                Some(SockPoint::PreForward | SockPoint::PreReverse) => Verdict::Traced,
                Some(SockPoint::PostForward | SockPoint::PostReverse) => Verdict::Translated,
                None => Verdict::Unknown,
            }
        } else {
            Verdict::Unknown
        }
    }

    /// Number of the reason for which it was dropped; zero for what was not.
    #[must_use]
    pub fn drop_reason(&self) -> u8 {
        if self.verdict() == Verdict::Dropped {
            self.event.subtype
        } else {
            0
        }
    }

    /// Whether it answers; none where nobody knows.
    #[must_use]
    pub fn is_reply(&self) -> Option<bool> {
        if self.is(EventKind::Trace) {
            return match CtStatus::from_u8(self.event.ct_status) {
                CtStatus::Reply => Some(true),
                CtStatus::Unknown => None,
                _ => Some(false),
            };
        }
        // Policy is asked about what begins something; answers pass with it.
        self.is(EventKind::PolicyVerdict).then_some(false)
    }

    /// Direction as the endpoint of this node sees the connection.
    #[must_use]
    pub fn direction(&self) -> TrafficDirection {
        let event = &self.event;
        match event.direction {
            1 => return TrafficDirection::Ingress,
            2 => return TrafficDirection::Egress,
            _ => {}
        }
        let delivered = self.is(EventKind::Trace) && event.subtype == TracePoint::ToEndpoint as u8;
        if event.endpoint == 0 && !delivered {
            return TrafficDirection::Unknown;
        }
        // A program that hands a packet from pod to pod reports as the sender's.
        let from_endpoint = !delivered && u32::from(event.endpoint) == self.source.endpoint.id;
        if from_endpoint != (self.is_reply() == Some(true)) {
            TrafficDirection::Egress
        } else {
            TrafficDirection::Ingress
        }
    }

    /// Port of one end; none for protocols without, and where it was not read.
    #[must_use]
    pub fn port(&self, end: End) -> Option<u16> {
        if !matches!(self.event.proto, TCP | UDP | SCTP) || self.has(event_flags::NO_PORTS) {
            return None;
        }
        Some(u16::from_be_bytes(match end {
            End::Source if self.is(EventKind::TraceSock) => return None,
            End::Source => self.event.sport,
            End::Destination => self.event.dport,
        }))
    }

    /// ICMP type and code.
    fn icmp(&self) -> (u32, u32) {
        let kind = self.event.tcp_flags;
        // An echo's identifier stands where the code of others does; its own code is always zero.
        let is_echo = match self.event.proto {
            ICMP => matches!(kind, 0 | 8),
            _ => matches!(kind, 128 | 129),
        };
        let code = if is_echo { 0 } else { self.event.dport[1] };
        (kind.into(), code.into())
    }

    fn l4(&self) -> Option<Layer4> {
        if self.has(event_flags::NO_PORTS) {
            return None;
        }
        let source_port = u16::from_be_bytes(self.event.sport).into();
        let destination_port = u16::from_be_bytes(self.event.dport).into();
        let (r#type, code) = self.icmp();
        let protocol = match self.event.proto {
            TCP => Protocol::Tcp(Tcp {
                source_port,
                destination_port,
                flags: (!self.is(EventKind::TraceSock))
                    .then(|| flags_of(self.event.tcp_flags.into())),
            }),
            UDP => Protocol::Udp(Udp {
                source_port,
                destination_port,
            }),
            SCTP => Protocol::Sctp(Sctp {
                source_port,
                destination_port,
            }),
            ICMP => Protocol::IcmPv4(IcmPv4 { r#type, code }),
            ICMP6 => Protocol::IcmPv6(IcmPv6 { r#type, code }),
            _ => return None,
        };
        Some(Layer4 {
            protocol: Some(protocol),
        })
    }

    /// Kind of event, and its point or reason.
    const fn ip_version(&self) -> IpVersion {
        if self.event.flags & event_flags::IPV6 != 0 {
            IpVersion::IPv6
        } else {
            IpVersion::IPv4
        }
    }

    fn event_type(&self) -> (i32, i32) {
        let subtype = match self.event.kind {
            kind if kind == EventKind::PolicyVerdict as u8 => 0,
            _ => self.event.subtype.into(),
        };
        (self.event.kind.into(), subtype)
    }

    fn service(&self, end: End) -> Option<&Service> {
        self.services[end as usize].as_deref()
    }

    fn interface(&self) -> Option<(u32, &str)> {
        let index = self.event.ifindex;
        let is_known = index != 0 && !self.is(EventKind::TraceSock);
        is_known.then(|| (index, self.device.as_deref().unwrap_or_default()))
    }

    fn policies_into(&self, flow: &mut Flow) {
        let Some(policies) = &self.policies else {
            return;
        };
        let list = match (self.event.direction, self.event.subtype) {
            (1, 0) => &mut flow.ingress_allowed_by,
            (1, _) => &mut flow.ingress_denied_by,
            (2, 0) => &mut flow.egress_allowed_by,
            (2, _) => &mut flow.egress_denied_by,
            _ => return,
        };
        *list = policies.to_vec();
    }
}

/// A number for the flow, of the form of random ones: the same whenever it is read, another for every flow.
pub(crate) fn uuid(seed: u64, number: u64) -> String {
    /// Spreads a number over all bits.
    const fn mix(mut x: u64) -> u64 {
        x ^= x >> 30;
        x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 27;
        x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    let high = mix(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let low = mix(seed
        .wrapping_add(number)
        .wrapping_add(0x9e37_79b9_7f4a_7c15));
    let (high, low) = (high & !0xf000 | 0x4000, low & !(0b11 << 62) | 0b10 << 62);
    let mut text = String::with_capacity(36);
    for (place, byte) in high
        .to_be_bytes()
        .into_iter()
        .chain(low.to_be_bytes())
        .enumerate()
    {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_stays_small_since_the_ring_holds_65535() {
        assert!(size_of::<Record>() <= 192, "{}", size_of::<Record>());
    }

    #[test]
    fn numbers_of_flows_are_as_random_ones_and_differ() {
        let ids: std::collections::BTreeSet<String> = (0..1000).map(|n| uuid(7, n)).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            let parts: Vec<&str> = id.split('-').collect();
            let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
            assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']));
        }
    }

    #[test]
    fn times_before_1970_are_zero() {
        let before = Timestamp {
            seconds: -5,
            nanos: 7,
        };
        assert_eq!(nanos(&before), 7);
        assert_eq!(
            nanos(&timestamp(1_741_079_521_402_000_000)),
            1_741_079_521_402_000_000
        );
    }
}
