//! Flows as log records, for a collector that knows them by the definitions of others.
use super::world::{World, event};
use abi::{EventKind, FlowEvent};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use hypha_flow::export::{Export, Written, filters};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
    },
    common::v1::{AnyValue, any_value::Value},
    logs::v1::LogRecord,
};
use prost::Message as _;
use runtime::stop;
use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// A collector that answers the first requests as it is told, and all others well.
async fn collector(
    listener: TcpListener,
    mut answers: Vec<Response<Full<Bytes>>>,
    taken: UnboundedSender<(StatusCode, ExportLogsServiceRequest)>,
) {
    answers.reverse();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = answers.pop().unwrap_or_default();
        let (taken, answer) = (taken.clone(), Mutex::new(Some(answer)));
        let serve = service_fn(move |request: Request<Incoming>| {
            let (taken, answer) = (taken.clone(), answer.lock().unwrap().take());
            let answer = answer.unwrap_or_default();
            async move {
                assert_eq!(request.uri().path(), "/v1/logs");
                assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                let body = request.into_body().collect().await?.to_bytes();
                let logs = ExportLogsServiceRequest::decode(body).unwrap();
                let _ = taken.send((answer.status(), logs));
                Ok::<_, hyper::Error>(answer)
            }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), serve);
        let _ = connection.await;
    }
}

fn answer(status: u16) -> Response<Full<Bytes>> {
    let answer = Response::builder()
        .status(status)
        .header("retry-after", "0");
    answer.body(Full::default()).unwrap()
}

/// Taken, but for one record.
fn partly() -> Response<Full<Bytes>> {
    let partial_success = Some(ExportLogsPartialSuccess {
        rejected_log_records: 1,
        error_message: "too old".to_owned(),
    });
    let body = ExportLogsServiceResponse { partial_success }.encode_to_vec();
    Response::new(Full::new(body.into()))
}

fn records(logs: &ExportLogsServiceRequest) -> Vec<LogRecord> {
    let scopes = logs.resource_logs.iter().flat_map(|one| &one.scope_logs);
    scopes.flat_map(|scope| scope.log_records.clone()).collect()
}

/// A value somewhere in a record.
fn at(record: &LogRecord, path: &[&str]) -> Option<Value> {
    let mut value: AnyValue = record.body.clone()?;
    for key in path {
        let Some(Value::KvlistValue(list)) = value.value else {
            return None;
        };
        value = list
            .values
            .into_iter()
            .find(|pair| pair.key == *key)?
            .value?;
    }
    value.value
}

fn text(record: &LogRecord, path: &[&str]) -> String {
    match at(record, path) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{path:?}: {other:?}"),
    }
}

type Taken = UnboundedReceiver<(StatusCode, ExportLogsServiceRequest)>;

async fn next(taken: &mut Taken) -> (StatusCode, Vec<LogRecord>) {
    let next = tokio::time::timeout(Duration::from_secs(60), taken.recv()).await;
    let (status, logs) = next.unwrap().unwrap();
    (status, records(&logs))
}

#[tokio::test]
async fn a_collector_gets_every_flow_once_it_takes_them() {
    let mut world = World::new(31);
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let to = format!("http://{}/v1/logs", listener.local_addr().unwrap());
    let (sender, mut taken) = unbounded_channel();
    let answers = vec![answer(503), answer(429), partly(), answer(400)];
    let (stopper, stop) = stop::channel();
    let written = Arc::new(Written::default());
    let export = Export {
        wanted: filters(r#"{"verdict":["DROPPED","FORWARDED"]}"#).unwrap(),
        ..Export::default()
    };
    let to = to.parse().unwrap();
    let running = tokio::spawn(export.send(to, world.observer.clone(), written.clone(), stop));
    let dropped = FlowEvent {
        kind: EventKind::Drop as u8,
        subtype: 133,
        ..event()
    };
    // Nobody takes them yet; the exporter begins with what comes once it runs.
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.feed(&[event(), dropped]);
    let collecting = tokio::spawn(collector(listener, answers, sender));
    let (status, first) = next(&mut taken).await;
    assert_eq!((status.as_u16(), first.len()), (503, 2));
    assert_eq!(
        next(&mut taken).await,
        (StatusCode::TOO_MANY_REQUESTS, first.clone())
    );
    assert_eq!(next(&mut taken).await, (StatusCode::OK, first.clone()));
    let [passed, refused] = first.as_slice() else {
        panic!("{first:?}");
    };
    assert_eq!(
        (passed.severity_number, passed.severity_text.as_str()),
        (9, "INFO")
    );
    assert_eq!(
        (refused.severity_number, refused.severity_text.as_str()),
        (13, "WARN")
    );
    assert_eq!(text(refused, &["verdict"]), "DROPPED");
    assert_eq!(text(refused, &["source", "pod_name"]), "cart-1");
    assert_eq!(
        at(passed, &["l4", "TCP", "destination_port"]),
        Some(Value::IntValue(80))
    );
    assert!(passed.time_unix_nano > 0 && passed.observed_time_unix_nano >= passed.time_unix_nano);
    // What the collector does not want at all is not sent again.
    world.feed(&[event()]);
    assert_eq!(next(&mut taken).await.0, StatusCode::BAD_REQUEST);
    // More than the ring holds, while nobody takes any: what is missing is told.
    collecting.abort();
    let _ = collecting.await;
    let counts = || {
        (
            written.lines.load(Ordering::Relaxed),
            written.lost.load(Ordering::Relaxed),
        )
    };
    assert_eq!(counts(), (1, 2));
    stopper.stop();
    running.await.unwrap().unwrap();
}

/// While a collector is away the ring holds what it can, and the collector is told of the rest.
#[tokio::test]
async fn what_a_collector_missed_is_told() {
    let mut world = World::new(7);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = format!("http://{}", listener.local_addr().unwrap());
    let (_stopper, stop) = stop::channel();
    let running = Export::default().send(
        to.parse().unwrap(),
        world.observer.clone(),
        Arc::default(),
        stop,
    );
    let running = tokio::spawn(running);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (mut all, mut fed) = (Vec::new(), 0);
    for _ in 0..200 {
        world.feed(&[event(), event(), event(), event(), event()]);
        fed += 5;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (sender, mut taken) = unbounded_channel();
    let collecting = tokio::spawn(collector(listener, Vec::new(), sender));
    let lost = |all: &[LogRecord]| -> i64 {
        let lost = all.iter().filter(|one| one.event_name == "hubble.lost");
        lost.map(|one| match at(one, &["num_events_lost"]) {
            Some(Value::StringValue(text)) => text.parse().unwrap(),
            Some(Value::IntValue(count)) => count,
            other => panic!("{other:?}"),
        })
        .sum()
    };
    let flows = |all: &[LogRecord]| -> i64 {
        let flows = all.iter().filter(|one| one.event_name == "hubble.flow");
        i64::try_from(flows.count()).unwrap()
    };
    while flows(&all) + lost(&all) < fed {
        all.extend(next(&mut taken).await.1);
    }
    assert_eq!(flows(&all) + lost(&all), fed);
    assert!(lost(&all) > 300, "{}", lost(&all));
    collecting.abort();
    running.abort();
}
