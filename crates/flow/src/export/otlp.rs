//! Flows as log records of OpenTelemetry: OTLP over HTTP, in Protocol Buffers. The collector's word counts: what it cannot take now is sent
//! again, what it refuses is counted. While it is away the ring goes on; what it pushes out is told as lost, never kept without bound.
use super::{Export, ExportError, Written, event};
use crate::{
    observer::Observer,
    record::nanos,
    relay::connect::{Address, Tls, innermost, open},
    serve::follow,
};
use api::hubble::{
    flow::{Flow, LostEvent, Verdict},
    json,
    observer::{ExportEvent, GetFlowsResponse, export_event::ResponseTypes},
};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use runtime::stop::Stop;
use serde_json::Value;
use std::{
    fmt,
    str::FromStr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// Records of one request.
const AT_ONCE: usize = 512;
/// How long a record may wait for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Pauses after a failure: twice as long each time.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);
/// How often trouble is told.
const COMPLAIN: Duration = Duration::from_secs(60);
/// The longest answer that is read.
const ANSWER: usize = 64 << 10;

/// Where a collector takes log records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    address: Address,
    tls: bool,
    host: String,
    path: String,
}

impl FromStr for Collector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no collector; accepted: http://HOST:4318/v1/logs, https://HOST:4318/v1/logs"
            )
        };
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(wrong()),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, "v1/logs"));
        Ok(Self {
            address: host.parse().map_err(|_| wrong())?,
            tls,
            host: host.to_owned(),
            path: format!("/{path}"),
        })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.host, self.path)
    }
}

/// What became of a request.
#[derive(Debug)]
enum Sent {
    /// It was taken; so many records were refused, with the reason.
    Taken(u64, String),
    /// It may be taken later: why not now, and when at the earliest.
    Later(String, Option<Duration>),
    /// It will never be taken.
    Refused(String),
}

impl Export {
    /// Sends what comes from now on to a collector until `stop`; `written` says how it goes.
    ///
    /// # Errors
    /// Filters or fields are not understood.
    pub async fn send(
        self,
        to: Collector,
        observer: Observer,
        written: Arc<Written>,
        stop: Stop,
    ) -> Result<(), ExportError> {
        self.check()?;
        let Ok(stream) = follow(observer, &self.request(), stop.clone()) else {
            return Ok(());
        };
        let mut batches = std::pin::pin!(stream.ready_chunks(AT_ONCE));
        let mut sender = Sender {
            to,
            written,
            complained: None,
        };
        while let Some(mut batch) = batches.next().await {
            gather(&mut batch, &mut batches).await;
            if stop.or(sender.deliver(batch)).await.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// Adds to a batch what comes within a moment.
async fn gather<S>(batch: &mut Vec<Response>, batches: &mut S)
where
    S: futures::Stream<Item = Vec<Response>> + Unpin,
{
    let end = tokio::time::Instant::now() + GATHER;
    while batch.len() < AT_ONCE {
        match tokio::time::timeout_at(end, batches.next()).await {
            Ok(Some(more)) => batch.extend(more),
            Ok(None) | Err(_) => return,
        }
    }
}

type Response = Result<GetFlowsResponse, tonic::Status>;

struct Sender {
    to: Collector,
    written: Arc<Written>,
    complained: Option<Instant>,
}

impl Sender {
    /// Sends a batch until it is taken or refused.
    async fn deliver(&mut self, batch: Vec<Response>) {
        let events: Vec<ExportEvent> = batch.into_iter().flatten().filter_map(event).collect();
        let count = events.len() as u64;
        if count == 0 {
            return;
        }
        let body = Bytes::from(message(&events).encode_to_vec());
        let mut pause = FIRST;
        loop {
            let sent = tokio::time::timeout(LIMIT, post(&self.to, body.clone())).await;
            let late = || Sent::Later(format!("no answer in {} s", LIMIT.as_secs()), None);
            let (lost, why) = match sent.unwrap_or_else(|_| late()) {
                Sent::Later(why, when) => {
                    self.complain(&why);
                    tokio::time::sleep(when.unwrap_or(pause).min(LONGEST)).await;
                    pause = (pause * 2).min(LONGEST);
                    continue;
                }
                Sent::Taken(refused, why) => (refused.min(count), why),
                Sent::Refused(why) => (count, why),
            };
            self.written
                .lines
                .fetch_add(count - lost, Ordering::Relaxed);
            self.written.lost.fetch_add(lost, Ordering::Relaxed);
            if lost > 0 {
                self.complain(&why);
            }
            return;
        }
    }

    fn complain(&mut self, why: &str) {
        if self
            .complained
            .is_some_and(|when| when.elapsed() < COMPLAIN)
        {
            return;
        }
        self.complained = Some(Instant::now());
        let lost = self.written.lost.load(Ordering::Relaxed);
        tracing::warn!(collector = %self.to, lost, "flows are not taken by their collector: {why}");
    }
}

/// Sends one request, over a connection of its own.
async fn post(to: &Collector, body: Bytes) -> Sent {
    match try_post(to, body).await {
        Ok(sent) => sent,
        Err(why) => Sent::Later(why, None),
    }
}

async fn try_post(to: &Collector, body: Bytes) -> Result<Sent, String> {
    let tls = to.tls.then(Tls::default);
    let stream = open(&to.address, tls.as_ref(), LIMIT).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let said = |error: &dyn std::error::Error| innermost(error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| said(&error))?;
    let request = Request::post(to.path.as_str())
        .header(HOST, to.host.as_str())
        .header(CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(body))
        .map_err(|error| said(&error))?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| said(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let after = head.headers.get(RETRY_AFTER);
        let after = after.and_then(|text| text.to_str().ok()?.parse().ok());
        Ok(outcome(head.status, after.map(Duration::from_secs), &body))
    };
    // The connection moves as long as the answer is waited for.
    tokio::select! {
        sent = exchange => sent,
        ended = connection => Err(ended.err().map_or_else(
            || "the connection has ended".to_owned(),
            |error| said(&error),
        )),
    }
}

/// What an answer means.
fn outcome(status: StatusCode, after: Option<Duration>, body: &[u8]) -> Sent {
    match status {
        status if status.is_success() => {
            let answer = messages::Answer::decode(body).unwrap_or_default();
            let partly = answer.partly.unwrap_or_default();
            Sent::Taken(u64::try_from(partly.refused).unwrap_or(0), partly.why)
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Sent::Later(status.to_string(), after),
        status => Sent::Refused(status.to_string()),
    }
}

/// Events as one request: those of a node are those of one resource.
fn message(events: &[ExportEvent]) -> messages::Logs {
    let node = events.first().map_or("", |event| event.node_name.as_str());
    let (cluster, name) = node.split_once('/').unwrap_or(("", node));
    let attributes = [
        ("service.name", "hypha"),
        ("k8s.cluster.name", cluster),
        ("k8s.node.name", name),
    ];
    let attributes = attributes.iter().filter(|(_, value)| !value.is_empty());
    let attributes = attributes.map(|(key, value)| pair(key, Value::from(*value)));
    messages::Logs {
        resources: vec![messages::ResourceLogs {
            resource: Some(messages::Resource {
                attributes: attributes.collect(),
            }),
            scopes: vec![messages::ScopeLogs {
                scope: Some(messages::Scope {
                    name: "hypha.flow".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                records: events.iter().filter_map(record).collect(),
            }],
        }],
    }
}

fn record(event: &ExportEvent) -> Option<messages::Record> {
    /// As the specification has them: information, warning.
    const LEVELS: [(i32, &str); 2] = [(9, "INFO"), (13, "WARN")];
    let (name, attention, value) = match event.response_types.as_ref()? {
        ResponseTypes::Flow(flow) => ("hubble.flow", is_trouble(flow), shown(flow)?),
        ResponseTypes::LostEvents(lost) => ("hubble.lost", true, lost_events(lost)?),
        _ => return None,
    };
    let (level, text) = LEVELS[usize::from(attention)];
    Some(messages::Record {
        time: event.time.as_ref().map_or(0, nanos),
        observed: crate::observer::wall_clock(),
        level,
        level_text: text.to_owned(),
        body: Some(any(value)),
        name: name.to_owned(),
    })
}

fn is_trouble(flow: &Flow) -> bool {
    matches!(flow.verdict(), Verdict::Dropped | Verdict::Error)
}

fn shown(flow: &Flow) -> Option<Value> {
    serde_json::from_str(&json::to_string(flow).ok()?).ok()
}

fn lost_events(lost: &LostEvent) -> Option<Value> {
    serde_json::from_str(&json::to_string(lost).ok()?).ok()
}

fn pair(key: &str, value: Value) -> messages::Pair {
    messages::Pair {
        key: key.to_owned(),
        value: Some(any(value)),
    }
}

/// A value of JSON as one of OpenTelemetry.
fn any(value: Value) -> messages::Any {
    use messages::any::Kind;
    let kind = match value {
        Value::Null => None,
        Value::Bool(value) => Some(Kind::Bool(value)),
        Value::String(value) => Some(Kind::Text(value)),
        Value::Number(value) => match value.as_i64() {
            Some(value) => Some(Kind::Int(value)),
            None => value.as_f64().map(Kind::Double),
        },
        Value::Array(values) => Some(Kind::List(messages::List {
            values: values.into_iter().map(any).collect(),
        })),
        Value::Object(map) => Some(Kind::Map(messages::Map {
            pairs: map
                .into_iter()
                .map(|(key, value)| pair(&key, value))
                .collect(),
        })),
    };
    messages::Any { kind }
}

/// The messages of OTLP that are used, by their numbers.
mod messages {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub struct Logs {
        #[prost(message, repeated, tag = "1")]
        pub resources: Vec<ResourceLogs>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct ResourceLogs {
        #[prost(message, optional, tag = "1")]
        pub resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub scopes: Vec<ScopeLogs>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub attributes: Vec<Pair>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct ScopeLogs {
        #[prost(message, optional, tag = "1")]
        pub scope: Option<Scope>,
        #[prost(message, repeated, tag = "2")]
        pub records: Vec<Record>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Scope {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub version: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Record {
        #[prost(fixed64, tag = "1")]
        pub time: u64,
        #[prost(int32, tag = "2")]
        pub level: i32,
        #[prost(string, tag = "3")]
        pub level_text: String,
        #[prost(message, optional, tag = "5")]
        pub body: Option<Any>,
        #[prost(fixed64, tag = "11")]
        pub observed: u64,
        #[prost(string, tag = "12")]
        pub name: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Pair {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(message, optional, tag = "2")]
        pub value: Option<Any>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Any {
        #[prost(oneof = "any::Kind", tags = "1, 2, 3, 4, 5, 6")]
        pub kind: Option<any::Kind>,
    }

    pub mod any {
        #[derive(Clone, PartialEq, prost::Oneof)]
        pub enum Kind {
            #[prost(string, tag = "1")]
            Text(String),
            #[prost(bool, tag = "2")]
            Bool(bool),
            #[prost(int64, tag = "3")]
            Int(i64),
            #[prost(double, tag = "4")]
            Double(f64),
            #[prost(message, tag = "5")]
            List(super::List),
            #[prost(message, tag = "6")]
            Map(super::Map),
        }
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct List {
        #[prost(message, repeated, tag = "1")]
        pub values: Vec<Any>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Map {
        #[prost(message, repeated, tag = "1")]
        pub pairs: Vec<Pair>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Answer {
        #[prost(message, optional, tag = "1")]
        pub partly: Option<Partly>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Partly {
        #[prost(int64, tag = "1")]
        pub refused: i64,
        #[prost(string, tag = "2")]
        pub why: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_said_by_urls() {
        let shown = |text: &str| text.parse::<Collector>().map(|one| one.to_string());
        assert_eq!(
            shown("http://otel:4318").as_deref(),
            Ok("http://otel:4318/v1/logs")
        );
        assert_eq!(
            shown("https://[fd00::1]:4318/x/y").as_deref(),
            Ok("https://[fd00::1]:4318/x/y")
        );
        for text in [
            "otel:4318",
            "grpc://otel:4317",
            "http://",
            "http://otel/v1/logs",
            "",
        ] {
            assert!(
                shown(text).unwrap_err().contains("accepted: http://"),
                "{text}"
            );
        }
    }
}
