//! A packet of the ring as its readers see it: a view for filters, and the message.
use super::{About, ICMP, ICMP6, SCTP, Seen, TCP, UDP, timestamp, uuid};
use crate::{
    summary::summary,
    view::{End, L4, View},
};
use abi::{DropReason, EventKind, TracePoint, event_flags, source_file};
use api::hubble::flow::{
    CiliumEventType, Endpoint, FileInfo, Flow, FlowType, Ip, NetworkInterface, Service,
};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, string},
};
use std::{borrow::Cow, net::IpAddr};

/// Number of to-endpoint in the messages; the kernel's is zero, which there means that nothing is known.
const TO_ENDPOINT: i32 = 101;

/// A packet together with who saw it: all that is known of the flow.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The packet.
    pub seen: &'a Seen,
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// Who saw it.
    pub about: &'a About,
}

impl Shown<'_> {
    /// The message.
    #[must_use]
    pub fn to_flow(&self) -> Flow {
        Flow {
            source: Some(self.seen.source.endpoint.clone()),
            destination: Some(self.seen.destination.endpoint.clone()),
            node_name: self.about.node_name.clone(),
            node_labels: self.about.node_labels.clone(),
            ..self.own()
        }
    }

    /// The message's bytes, at the end of `out`. What many flows have in common is not made anew for each.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Room grows as it is needed: there always is enough.
        let _ = self.own().encode(out);
        for (number, party) in [(8, &self.seen.source), (9, &self.seen.destination)] {
            let bytes = party.encoded();
            encode_key(number, WireType::LengthDelimited, out);
            encode_varint(bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
        string::encode(11, &self.about.node_name, out);
        string::encode_repeated(37, &self.about.node_labels, out);
    }

    /// What this flow alone has: all but the ends and the node.
    fn own(&self) -> Flow {
        let seen = self.seen;
        let event = &seen.event;
        let is_reply = seen.is_reply();
        let reason = seen.drop_reason();
        let (kind, sub_type) = seen.event_type();
        let is_trace = seen.is(EventKind::Trace);
        let text = |end| {
            seen.address(end)
                .map_or_else(String::new, |ip| ip.to_string())
        };
        let mut flow = Flow {
            time: Some(timestamp(self.time)),
            uuid: uuid(self.about.seed, seen.number),
            verdict: seen.verdict() as i32,
            drop_reason: reason.into(),
            drop_reason_desc: DropReason::from_u8(reason).map_or(0, |known| known as i32),
            ip: Some(Ip {
                source: text(End::Source),
                destination: text(End::Destination),
                ip_version: seen.ip_version() as i32,
                ..Ip::default()
            }),
            l4: seen.l4(),
            r#type: FlowType::L3L4 as i32,
            reply: is_reply == Some(true),
            event_type: Some(CiliumEventType {
                r#type: kind,
                sub_type,
            }),
            source_names: seen.source.names.to_vec(),
            destination_names: seen.destination.names.to_vec(),
            source_service: seen.service(End::Source).cloned(),
            destination_service: seen.service(End::Destination).cloned(),
            traffic_direction: seen.direction() as i32,
            is_reply,
            interface: seen.interface().map(|(index, name)| NetworkInterface {
                index,
                name: name.to_owned(),
            }),
            ..Flow::default()
        };
        if is_trace {
            flow.trace_observation_point = match event.subtype {
                0 => TO_ENDPOINT,
                point => i32::from(TracePoint::from_u8(point).map_or(0, |point| point as u8)),
            };
            flow.trace_reason = match event.ct_status {
                status @ 0..=4 => i32::from(status) + 1,
                _ => 0,
            };
        } else if let Some(call) = event.sock() {
            flow.r#type = FlowType::Sock as i32;
            flow.sock_xlate_point = call.point.into();
            flow.socket_cookie = call.cookie;
            flow.cgroup_id = call.cgroup;
        } else {
            seen.policies_into(&mut flow);
        }
        if seen.is(EventKind::PolicyVerdict) {
            flow.policy_match_type = event.matched.into();
        }
        if seen.is(EventKind::Drop) {
            flow.file = Some(FileInfo {
                name: source_file::name(event.file).to_owned(),
                line: event.line.into(),
            });
        }
        flow.summary = summary(&flow);
        flow
    }
}

impl View for Shown<'_> {
    fn uuid(&self) -> Cow<'_, str> {
        uuid(self.about.seed, self.seen.number).into()
    }

    fn verdict(&self) -> i32 {
        self.seen.verdict() as i32
    }

    fn drop_reason(&self) -> i32 {
        DropReason::from_u8(self.seen.drop_reason()).map_or(0, |known| known as i32)
    }

    fn ip(&self, end: End) -> Option<IpAddr> {
        self.seen.address(end)
    }

    fn ip_xlated(&self) -> Option<IpAddr> {
        None
    }

    fn ip_version(&self) -> i32 {
        self.seen.ip_version() as i32
    }

    fn endpoint(&self, end: End) -> Option<&Endpoint> {
        Some(&self.seen.party(end).endpoint)
    }

    fn service(&self, end: End) -> Option<&Service> {
        self.seen.service(end)
    }

    fn names(&self, end: End) -> &[String] {
        &self.seen.party(end).names
    }

    fn port(&self, end: End) -> Option<u16> {
        self.seen.port(end)
    }

    fn protocol(&self) -> Option<L4> {
        if self.seen.has(event_flags::NO_PORTS) {
            return None;
        }
        Some(match self.seen.event.proto {
            TCP => L4::Tcp,
            UDP => L4::Udp,
            SCTP => L4::Sctp,
            ICMP => L4::Icmp4,
            ICMP6 => L4::Icmp6,
            _ => return None,
        })
    }

    fn tcp_flags(&self) -> Option<u16> {
        let is_packet = !self.seen.is(EventKind::TraceSock);
        let has =
            self.seen.event.proto == TCP && is_packet && !self.seen.has(event_flags::NO_PORTS);
        has.then(|| self.seen.event.tcp_flags.into())
    }

    fn is_reply(&self) -> Option<bool> {
        self.seen.is_reply()
    }

    fn direction(&self) -> i32 {
        self.seen.direction() as i32
    }

    fn event_type(&self) -> (i32, i32) {
        self.seen.event_type()
    }

    fn policy_match(&self) -> u32 {
        let is_verdict = self.seen.is(EventKind::PolicyVerdict);
        if is_verdict {
            self.seen.event.matched.into()
        } else {
            0
        }
    }

    fn interface(&self) -> Option<(u32, &str)> {
        self.seen.interface()
    }

    fn node_name(&self) -> &str {
        &self.about.node_name
    }

    fn node_labels(&self) -> &[String] {
        &self.about.node_labels
    }

    fn trace_id(&self) -> &str {
        ""
    }

    fn l7(&self) -> Option<&api::hubble::flow::Layer7> {
        None
    }

    fn to_flow(&self) -> Cow<'_, Flow> {
        Cow::Owned(Shown::to_flow(self))
    }
}
