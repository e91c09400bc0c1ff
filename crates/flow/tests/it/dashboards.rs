//! Every panel of the dashboards has something to show: a real Prometheus scrapes metrics of flows and is asked for each.
use hypha_flow::{
    metrics::{Item, Metrics},
    proto::{
        flow::{Flow, LostEvent},
        json::{self, Unknown},
    },
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the dashboards say that they need.
const ITEMS: [&str; 10] = [
    "flow",
    "drop",
    "policy",
    "tcp",
    "port-distribution",
    "flows-to-world",
    "icmp",
    "httpV2:exemplars=true",
    "dns",
    "kafka",
];

fn flow(mut own: Value) -> Flow {
    let all = json!({
        "verdict": "FORWARDED", "is_reply": false, "traffic_direction": "EGRESS", "event_type": {"type": 4, "sub_type": 11},
        "IP": {"source": "10.0.0.1", "destination": "192.0.2.1", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 40000, "destination_port": 443, "flags": {"SYN": true}}},
        "source": {"namespace": "shop", "pod_name": "cart-1"}, "destination": {"labels": ["reserved:world"]},
    });
    for (key, value) in all.as_object().unwrap() {
        own.as_object_mut()
            .unwrap()
            .entry(key)
            .or_insert(value.clone());
    }
    json::from_str(&own.to_string(), Unknown::Refuse).unwrap()
}

/// A flow of every kind that is counted.
fn flows() -> Vec<Flow> {
    let l7 = |kind: &str, record: Value| {
        let mut l7 = json!({"type": kind, "latency_ns": "3000000"});
        l7.as_object_mut()
            .unwrap()
            .extend(record.as_object().unwrap().clone());
        let trace = json!({"parent": {"trace_id": "0af7651916cd43dd8448eb211c80319c"}});
        flow(
            json!({"Type": "L7", "event_type": {"type": 129}, "is_reply": kind == "RESPONSE", "l7": l7, "trace_context": trace}),
        )
    };
    let http = |code: u32| json!({"http": {"code": code, "method": "GET", "url": "/", "protocol": "HTTP/1.1"}});
    let dns = json!({"dns": {"query": "a.example.", "qtypes": ["A"], "rcode": 0, "ips": ["192.0.2.1"], "rrtypes": ["A"]}});
    let kafka = json!({"kafka": {"topic": "t", "api_key": "produce"}});
    vec![
        flow(json!({})),
        flow(
            json!({"l4": {"TCP": {"source_port": 443, "destination_port": 40000, "flags": {"SYN": true, "ACK": true}}}}),
        ),
        flow(
            json!({"verdict": "DROPPED", "drop_reason_desc": "POLICY_DENIED", "event_type": {"type": 1, "sub_type": 133}}),
        ),
        flow(json!({"event_type": {"type": 5}, "policy_match_type": 2})),
        flow(json!({"l4": {"ICMPv4": {"type": 8}}})),
        l7("RESPONSE", http(200)),
        l7("RESPONSE", http(503)),
        l7("REQUEST", dns.clone()),
        l7("RESPONSE", dns),
        l7("REQUEST", kafka.clone()),
        l7("RESPONSE", kafka),
    ]
}

/// Ends with the test.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn every_panel_of_the_dashboards_has_something_to_show() {
    if Command::new("prometheus")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("skipped: this test needs prometheus");
        return;
    }
    let items: Vec<Item> = ITEMS.iter().map(|item| Item::parse(item)).collect();
    let metrics = Metrics::new(&items).unwrap();
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scraped = own.local_addr().unwrap();
    tokio::spawn(answer(own, metrics.clone()));
    let counted = metrics.clone();
    tokio::spawn(async move {
        loop {
            let mut tap = counted.tap();
            flows().iter().for_each(|flow| tap.whole(flow));
            tap.lost(&LostEvent {
                source: 1,
                num_events_lost: 1,
                cpu: None,
            });
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let directory = tempfile::tempdir().unwrap();
    // Whoever listens at a port of its own choice does not say which: one that was free a moment ago will do.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let _prometheus = start(directory.path(), scraped, at);
    for board in ["flows", "requests"] {
        let path = format!(
            "{}/../../deploy/grafana/{board}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let board: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(board["panels"].as_array().unwrap().len() >= 8);
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"]
                    .as_str()
                    .unwrap()
                    .replace("$__rate_interval", "30s");
                shown(at, panel["title"].as_str().unwrap(), &query).await;
            }
        }
    }
    // Traces stand beside the counts.
    let traces = ask(
        at,
        "/api/v1/query_exemplars?query=hubble_http_requests_total&start=0&end=9999999999",
    )
    .await;
    let traces = traces.unwrap_or_default();
    assert!(
        traces
            .to_string()
            .contains("0af7651916cd43dd8448eb211c80319c"),
        "{traces}"
    );
}

fn start(directory: &Path, scraped: SocketAddr, at: SocketAddr) -> Prometheus {
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: hubble\n  static_configs: [{{targets: ['{scraped}']}}]\n"
    );
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.join("data").display()
        ))
        .arg(format!("--web.listen-address={at}"))
        .arg("--enable-feature=exemplar-storage")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Prometheus(child)
}

/// Waits until a question has an answer with numbers.
async fn shown(at: SocketAddr, title: &str, query: &str) {
    let encoded: String = query
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    let path = format!("/api/v1/query?query={encoded}");
    let waited = async {
        loop {
            if let Some(answer) = ask(at, &path).await {
                assert_eq!(answer["status"], "success", "{title}: {query}: {answer}");
                let found = answer["data"]["result"].as_array().unwrap();
                let is_number =
                    |one: &Value| one["value"][1].as_str().is_some_and(|text| text != "NaN");
                if !found.is_empty() && found.iter().all(is_number) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waited).await;
    assert!(waited.is_ok(), "{title}: {query} has no answer");
}

/// The answer to a request; none while nobody answers.
async fn ask(at: SocketAddr, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(at).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
}

/// Serves the metrics as an agent does.
async fn answer(listener: TcpListener, metrics: Metrics) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let mut request = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut request).await {
                assert!(length > 0);
                let text = metrics.text().unwrap();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
                    text.len()
                );
                if stream
                    .write_all(format!("{head}{text}").as_bytes())
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }
}
