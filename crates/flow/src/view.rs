//! What filters and metrics ask of a flow, whether it is a message already or still an event of the ring.
use crate::summary::flag_bits;
use api::hubble::flow::{Endpoint, Flow, Layer7, Service, layer4::Protocol};
use std::{borrow::Cow, net::IpAddr};

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source = 0,
    /// Where it goes.
    Destination = 1,
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP.
    Icmp4,
    /// ICMPv6.
    Icmp6,
}

/// A flow, to be asked. Numbers of enums are those of the messages.
pub trait View {
    /// Its own number.
    fn uuid(&self) -> Cow<'_, str>;
    /// What became of it.
    fn verdict(&self) -> i32;
    /// Why it was dropped.
    fn drop_reason(&self) -> i32;
    /// Address of one end.
    fn ip(&self, end: End) -> Option<IpAddr>;
    /// Address that the source was masqueraded to.
    fn ip_xlated(&self) -> Option<IpAddr>;
    /// Family of the addresses.
    fn ip_version(&self) -> i32;
    /// Who is at one end.
    fn endpoint(&self, end: End) -> Option<&Endpoint>;
    /// The service whose frontend one end is.
    fn service(&self, end: End) -> Option<&Service>;
    /// DNS names of one end.
    fn names(&self, end: End) -> &[String];
    /// Port of one end.
    fn port(&self, end: End) -> Option<u16>;
    /// Transport protocol.
    fn protocol(&self) -> Option<L4>;
    /// TCP flags as in a header; none for other protocols.
    fn tcp_flags(&self) -> Option<u16>;
    /// Whether it answers.
    fn is_reply(&self) -> Option<bool>;
    /// Direction as the endpoint of the node sees it.
    fn direction(&self) -> i32;
    /// Kind of event and its point or reason.
    fn event_type(&self) -> (i32, i32);
    /// How a policy's row matched, for answers of policy.
    fn policy_match(&self) -> u32;
    /// Number and name of the device.
    fn interface(&self) -> Option<(u32, &str)>;
    /// Cluster and node that saw it.
    fn node_name(&self) -> &str;
    /// Labels of that node.
    fn node_labels(&self) -> &[String];
    /// The trace that it belongs to; empty without.
    fn trace_id(&self) -> &str;
    /// What a proxy saw.
    fn l7(&self) -> Option<&Layer7>;
    /// All of it.
    fn to_flow(&self) -> Cow<'_, Flow>;
}

fn protocol(flow: &Flow) -> Option<&Protocol> {
    flow.l4.as_ref()?.protocol.as_ref()
}

impl View for Flow {
    fn uuid(&self) -> Cow<'_, str> {
        self.uuid.as_str().into()
    }

    fn verdict(&self) -> i32 {
        self.verdict
    }

    fn drop_reason(&self) -> i32 {
        self.drop_reason_desc
    }

    fn ip(&self, end: End) -> Option<IpAddr> {
        let ip = self.ip.as_ref()?;
        match end {
            End::Source => ip.source.parse().ok(),
            End::Destination => ip.destination.parse().ok(),
        }
    }

    fn ip_xlated(&self) -> Option<IpAddr> {
        self.ip.as_ref()?.source_xlated.parse().ok()
    }

    fn ip_version(&self) -> i32 {
        self.ip.as_ref().map_or(0, |ip| ip.ip_version)
    }

    fn endpoint(&self, end: End) -> Option<&Endpoint> {
        match end {
            End::Source => self.source.as_ref(),
            End::Destination => self.destination.as_ref(),
        }
    }

    fn service(&self, end: End) -> Option<&Service> {
        match end {
            End::Source => self.source_service.as_ref(),
            End::Destination => self.destination_service.as_ref(),
        }
    }

    fn names(&self, end: End) -> &[String] {
        match end {
            End::Source => &self.source_names,
            End::Destination => &self.destination_names,
        }
    }

    fn port(&self, end: End) -> Option<u16> {
        let (source, destination) = match protocol(self)? {
            Protocol::Tcp(l4) => (l4.source_port, l4.destination_port),
            Protocol::Udp(l4) => (l4.source_port, l4.destination_port),
            Protocol::Sctp(l4) => (l4.source_port, l4.destination_port),
            Protocol::IcmPv4(_) | Protocol::IcmPv6(_) => return None,
        };
        let port = match end {
            End::Source => source,
            End::Destination => destination,
        };
        u16::try_from(port).ok()
    }

    fn protocol(&self) -> Option<L4> {
        Some(match protocol(self)? {
            Protocol::Tcp(_) => L4::Tcp,
            Protocol::Udp(_) => L4::Udp,
            Protocol::Sctp(_) => L4::Sctp,
            Protocol::IcmPv4(_) => L4::Icmp4,
            Protocol::IcmPv6(_) => L4::Icmp6,
        })
    }

    fn tcp_flags(&self) -> Option<u16> {
        match protocol(self)? {
            Protocol::Tcp(tcp) => Some(flag_bits(tcp.flags.as_ref())),
            _ => None,
        }
    }

    fn is_reply(&self) -> Option<bool> {
        self.is_reply
    }

    fn direction(&self) -> i32 {
        self.traffic_direction
    }

    fn event_type(&self) -> (i32, i32) {
        self.event_type
            .as_ref()
            .map_or((0, 0), |event| (event.r#type, event.sub_type))
    }

    fn policy_match(&self) -> u32 {
        self.policy_match_type
    }

    fn interface(&self) -> Option<(u32, &str)> {
        self.interface
            .as_ref()
            .map(|device| (device.index, device.name.as_str()))
    }

    fn node_name(&self) -> &str {
        &self.node_name
    }

    fn node_labels(&self) -> &[String] {
        &self.node_labels
    }

    fn trace_id(&self) -> &str {
        let parent = self
            .trace_context
            .as_ref()
            .and_then(|context| context.parent.as_ref());
        parent.map_or("", |parent| parent.trace_id.as_str())
    }

    fn l7(&self) -> Option<&Layer7> {
        self.l7.as_ref()
    }

    fn to_flow(&self) -> Cow<'_, Flow> {
        Cow::Borrowed(self)
    }
}
