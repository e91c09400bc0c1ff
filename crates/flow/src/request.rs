//! What a proxy saw of requests, as flows.
use crate::{
    directory::Directory,
    record::{About, L7_EVENT, timestamp, uuid},
    summary::summary,
};
use api::hubble::flow::{
    CiliumEventType, Flow, FlowType, Ip, IpVersion, L7FlowType, Layer4, Layer7, Tcp, TraceContext,
    TraceParent, TrafficDirection, Udp, Verdict, layer4::Protocol,
};
use std::net::SocketAddr;

/// A request or its answer.
#[derive(Clone, Debug)]
pub struct Request {
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// Who asked.
    pub client: SocketAddr,
    /// Who was asked.
    pub server: SocketAddr,
    /// Security identities of both.
    pub identities: [u32; 2],
    /// The endpoint of this node whose rules decided.
    pub endpoint: u16,
    /// Which end it is.
    pub direction: TrafficDirection,
    /// By UDP, else TCP.
    pub is_udp: bool,
    /// What was said.
    pub l7: Layer7,
    /// The trace that it belongs to.
    pub trace: Option<String>,
}

impl Request {
    /// The flow; `time` is when by the events' clock.
    pub(crate) fn into_flow(
        self,
        directory: &mut Directory,
        about: &About,
        number: u64,
        time: u64,
    ) -> Flow {
        let is_reply = self.l7.r#type() == L7FlowType::Response;
        let mut ends = [self.client, self.server]
            .into_iter()
            .zip(self.identities)
            .map(|(end, identity)| {
                let party = directory.party(end.ip(), identity, self.endpoint, time);
                (end, party, directory.service(end.ip(), end.port()))
            });
        let (Some(mut from), Some(mut to)) = (ends.next(), ends.next()) else {
            return Flow::default();
        };
        if is_reply {
            std::mem::swap(&mut from, &mut to);
        }
        let (source_port, destination_port) = (from.0.port().into(), to.0.port().into());
        let protocol = if self.is_udp {
            Protocol::Udp(Udp {
                source_port,
                destination_port,
            })
        } else {
            Protocol::Tcp(Tcp {
                source_port,
                destination_port,
                flags: None,
            })
        };
        let version = if from.0.is_ipv6() {
            IpVersion::IPv6
        } else {
            IpVersion::IPv4
        };
        let mut flow = Flow {
            time: Some(timestamp(self.time)),
            uuid: uuid(about.seed, number),
            verdict: self.verdict as i32,
            ip: Some(Ip {
                source: from.0.ip().to_string(),
                destination: to.0.ip().to_string(),
                ip_version: version as i32,
                ..Ip::default()
            }),
            l4: Some(Layer4 {
                protocol: Some(protocol),
            }),
            source: Some(from.1.endpoint.clone()),
            destination: Some(to.1.endpoint.clone()),
            r#type: FlowType::L7 as i32,
            node_name: about.node_name.clone(),
            node_labels: about.node_labels.clone(),
            l7: Some(self.l7),
            reply: is_reply,
            event_type: Some(CiliumEventType {
                r#type: L7_EVENT,
                sub_type: 0,
            }),
            source_names: from.1.names.to_vec(),
            destination_names: to.1.names.to_vec(),
            source_service: from.2.as_deref().cloned(),
            destination_service: to.2.as_deref().cloned(),
            traffic_direction: self.direction as i32,
            is_reply: Some(is_reply),
            trace_context: self.trace.map(|trace_id| TraceContext {
                parent: Some(TraceParent { trace_id }),
            }),
            ..Flow::default()
        };
        flow.summary = summary(&flow);
        flow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Observer, observer::Feeder, record::What};
    use api::hubble::flow::{Http, layer7::Record};

    fn http(kind: L7FlowType, verdict: Verdict) -> Request {
        Request {
            time: 7_000_000_000,
            verdict,
            client: "10.1.0.5:40112".parse().unwrap(),
            server: "10.1.0.9:80".parse().unwrap(),
            identities: [300, 400],
            endpoint: 9,
            direction: TrafficDirection::Ingress,
            is_udp: false,
            l7: Layer7 {
                r#type: kind as i32,
                latency_ns: 3_000_000,
                record: Some(Record::Http(Http {
                    code: 200,
                    method: "GET".into(),
                    url: "http://h/p".into(),
                    protocol: "HTTP/1.1".into(),
                    ..Http::default()
                })),
            },
            trace: Some("ab".into()),
        }
    }

    #[test]
    fn answers_go_the_other_way() {
        let observer = Observer::new(10, About::default());
        let mut feeder = Feeder::plain(&observer, model::Tables::new().unwrap());
        feeder.begin();
        feeder.request(http(L7FlowType::Request, Verdict::Dropped));
        feeder.request(http(L7FlowType::Response, Verdict::Forwarded));
        feeder.end();
        let flows: Vec<_> = observer
            .last(2)
            .into_iter()
            .map(|record| match record.what {
                What::Flow(flow) => flow,
                other => panic!("{other:?}"),
            })
            .collect();
        let ports = |flow: &Flow| match flow.l4.as_ref().unwrap().protocol.as_ref().unwrap() {
            Protocol::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (ports(&flows[0]), ports(&flows[1])),
            ((40112, 80), (80, 40112))
        );
        assert_eq!(flows[0].summary, "HTTP/1.1 GET http://h/p");
        assert_eq!(flows[1].summary, "HTTP/1.1 200 3ms (GET http://h/p)");
        assert_eq!(
            (flows[0].verdict(), flows[1].is_reply),
            (Verdict::Dropped, Some(true))
        );
        assert_eq!(flows[1].source.as_ref().unwrap().identity, 400);
        assert!(!flows[0].uuid.is_empty() && flows[0].uuid != flows[1].uuid);
    }
}
