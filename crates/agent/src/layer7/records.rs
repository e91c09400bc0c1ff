//! What the proxy saw, for flows and for whoever listens.
use crate::monitor::Monitor;
use api::{MonitorEvent, MonitorKind, MonitorRequest};
use flow::{
    proto::flow::{
        Dns, Http, HttpHeader, Kafka, L7FlowType, Layer7, TrafficDirection, Verdict, layer7,
    },
    request::Request,
};
use model::Tables;
use proxy::{
    config::Direction,
    record::{self, Record},
};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};
use tables::Snapshot;
use tokio::sync::mpsc;

/// Batches that wait to become flows.
const WAITING: usize = 64;

/// Records in their order, and how many were lost before them.
pub type Batch = (Vec<Record>, u64);

/// Where records become flows.
pub struct Requests(mpsc::Receiver<Batch>);

impl Requests {
    /// A queue.
    pub fn channel() -> (mpsc::Sender<Batch>, Self) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (sender, Self(receiver))
    }

    /// What came since the last look.
    pub fn ready(&mut self) -> Option<(Vec<Request>, u64)> {
        let (records, lost) = self.0.try_recv().ok()?;
        Some((records.iter().map(request).collect(), lost))
    }
}

/// Brings records to whoever wants them. Nobody holds up the line.
pub(super) struct Reports {
    tables: Tables,
    monitor: Monitor,
    flows: Option<mpsc::Sender<Batch>>,
    lost: AtomicU64,
}

impl Reports {
    pub(super) fn new(
        tables: Tables,
        monitor: Monitor,
        flows: Option<mpsc::Sender<Batch>>,
    ) -> Self {
        Self {
            tables,
            monitor,
            flows,
            lost: AtomicU64::new(0),
        }
    }

    pub(super) fn tell(&self, records: Vec<Record>, lost: u64) {
        if self.monitor.is_heard() {
            let snapshot = self.tables.db.snapshot();
            for record in &records {
                self.monitor.tell(event(&self.tables, &snapshot, record));
            }
        }
        let Some(flows) = &self.flows else { return };
        let count = records.len() as u64;
        let lost = self.lost.swap(0, Ordering::Relaxed) + lost;
        if flows.try_send((records, lost)).is_err() {
            self.lost.fetch_add(lost + count, Ordering::Relaxed);
        }
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn is_answer(record: &Record) -> bool {
    record.latency.is_some()
}

/// An answer says no more than that there was one: what became of the request stands with that.
fn verdict(record: &Record) -> Verdict {
    match record.verdict {
        record::Verdict::Error => Verdict::Error,
        _ if is_answer(record) => Verdict::Forwarded,
        record::Verdict::Forwarded => Verdict::Forwarded,
        record::Verdict::Denied => Verdict::Dropped,
        record::Verdict::Audited => Verdict::Audit,
    }
}

fn reporter(record: &Record) -> u32 {
    match record.direction {
        Direction::Ingress => record.session.ingress,
        Direction::Egress => record.session.egress,
    }
    .unwrap_or(0)
}

fn request(record: &Record) -> Request {
    let session = &record.session;
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    Request {
        time: nanos(record.time),
        verdict: verdict(record),
        client: canonical(session.source),
        server: canonical(session.destination),
        identities: [session.client, session.server],
        endpoint: u16::try_from(reporter(record)).unwrap_or(0),
        direction: match record.direction {
            Direction::Ingress => TrafficDirection::Ingress,
            Direction::Egress => TrafficDirection::Egress,
        },
        is_udp: record.transport == proxy::config::Transport::Udp,
        l7: Layer7 {
            r#type: match is_answer(record) {
                true => L7FlowType::Response,
                false => L7FlowType::Request,
            } as i32,
            latency_ns: record.latency.map_or(0, |latency| {
                u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)
            }),
            record: layer7(record),
        },
        trace: match &record.layer7 {
            record::Layer7::Http(http) => http.trace.clone(),
            _ => None,
        },
    }
}

/// None of TLS: flows have no field for it.
fn layer7(record: &Record) -> Option<layer7::Record> {
    Some(match &record.layer7 {
        record::Layer7::Tls(_) => return None,
        record::Layer7::Http(http) => layer7::Record::Http(Http {
            code: code(record, http),
            method: http.method.clone(),
            url: http.url.clone(),
            protocol: http.protocol.to_string(),
            headers: http
                .headers
                .iter()
                .map(|(key, value)| HttpHeader {
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect(),
        }),
        record::Layer7::Dns(dns) => layer7::Record::Dns(Dns {
            query: dns.query.clone(),
            ips: dns.ips.iter().map(ToString::to_string).collect(),
            ttl: dns.ttl,
            cnames: dns.cnames.clone(),
            observation_source: "proxy".to_owned(),
            rcode: dns.rcode.unwrap_or(0).into(),
            qtypes: vec![dns.qtype.clone()],
            rrtypes: dns.rrtypes.clone(),
        }),
        record::Layer7::Kafka(kafka) => layer7::Record::Kafka(Kafka {
            error_code: kafka.error_code.into(),
            api_version: kafka.api_version.into(),
            api_key: kafka.api_key.clone(),
            correlation_id: kafka.correlation_id,
            topic: kafka.topics.join(","),
        }),
    })
}

/// A request that is denied has its answer's code already.
fn code(record: &Record, http: &record::Http) -> u32 {
    match record.verdict {
        record::Verdict::Denied if http.code == 0 => 403,
        _ => http.code.into(),
    }
}

/// The record as listeners get it.
fn event(tables: &Tables, snapshot: &Snapshot, record: &Record) -> MonitorEvent {
    let session = &record.session;
    let labels = |identity: u32| -> Vec<String> {
        let row = tables.identities.get(snapshot, &identity);
        match (row, abi::identity::reserved_name(identity)) {
            (Some(row), _) => row.labels.to_strings(),
            (None, Some(name)) => vec![format!("reserved:{name}")],
            (None, None) => Vec::new(),
        }
    };
    let verdict = match record.verdict {
        _ if is_answer(record) && record.verdict != record::Verdict::Error => "Forwarded",
        record::Verdict::Forwarded => "Forwarded",
        record::Verdict::Denied => "Denied",
        record::Verdict::Audited => "Audited",
        record::Verdict::Error => "Error",
    };
    let (protocol, said) = said(record);
    MonitorEvent {
        verdict: verdict.to_owned(),
        direction: match record.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
        .to_owned(),
        endpoint: u16::try_from(reporter(record)).unwrap_or(0),
        src_identity: session.client,
        dst_identity: session.server,
        src: Some(session.source.ip().to_canonical()),
        dst: Some(session.destination.ip().to_canonical()),
        src_port: session.source.port(),
        dst_port: session.destination.port(),
        rules: record.rule.iter().map(ToString::to_string).collect(),
        request: Some(Box::new(MonitorRequest {
            kind: if is_answer(record) {
                "Response"
            } else {
                "Request"
            }
            .to_owned(),
            protocol: protocol.to_owned(),
            said,
            src_endpoint: local(tables, snapshot, session.source),
            dst_endpoint: local(tables, snapshot, session.destination),
            src_labels: labels(session.client),
            dst_labels: labels(session.server),
        })),
        ..MonitorEvent::new(MonitorKind::L7, nanos(record.time))
    }
}

/// Number of the endpoint of this node that has the address; zero: none has.
fn local(tables: &Tables, snapshot: &Snapshot, end: SocketAddr) -> u16 {
    let address = end.ip().to_canonical();
    let owner = tables.endpoints_by_address.first(snapshot, &address);
    owner.map_or(0, |endpoint| endpoint.id)
}

/// The protocol, and what was said by it.
fn said(record: &Record) -> (&'static str, String) {
    match &record.layer7 {
        record::Layer7::Http(http) => {
            let code = code(record, http);
            ("http", format!("{} {} => {code}", http.method, http.url))
        }
        record::Layer7::Dns(dns) => {
            let question = format!("{} {}", dns.query, dns.qtype);
            let answer = match dns.rcode {
                None => String::new(),
                Some(0) => {
                    let ips: Vec<_> = dns.ips.iter().map(ToString::to_string).collect();
                    format!(" => {}", ips.join(","))
                }
                Some(code) => format!(" => {}", flow::summary::rcode(code.into())),
            };
            ("dns", question + &answer)
        }
        record::Layer7::Kafka(kafka) => (
            "kafka",
            format!(
                "{} topic {} => {}",
                kafka.api_key,
                kafka.topics.join(","),
                kafka.error_code
            ),
        ),
        record::Layer7::Tls(tls) => {
            let name = tls.server_name.as_deref();
            ("tls", format!("server name {}", name.unwrap_or("(none)")))
        }
    }
}
