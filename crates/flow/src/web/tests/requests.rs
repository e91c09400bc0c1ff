//! What is answered to whom.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tokio::task::spawn_blocking;
use tonic::Code;

use super::world::World;
use super::{Limits, Manner, Recorded};

/// An answer as it came.
struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self.body.lines().filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Asks, and reads until the other side closes.
fn ask(at: SocketAddr, method: &str, target: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: page\r\nConnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    read(stream)
}

fn read(stream: TcpStream) -> Answer {
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut bytes = Vec::new();
    BufReader::new(stream).read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let (first, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let chunked = headers
        .to_lowercase()
        .contains("transfer-encoding: chunked");
    Answer {
        status: first.split(' ').nth(1).unwrap().parse().unwrap(),
        headers: headers.to_owned(),
        body: if chunked {
            whole(body)
        } else {
            body.to_owned()
        },
    }
}

/// The text that came in chunks.
fn whole(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text += &rest[..size];
        body = rest[size..].trim_start_matches("\r\n");
    }
    text
}

fn shop() -> Recorded {
    Recorded::new(World::shop(), Manner::Lively { recorded: 200 })
}

async fn get(at: SocketAddr, target: &str) -> Answer {
    let target = target.to_owned();
    spawn_blocking(move || ask(at, "GET", &target, ""))
        .await
        .unwrap()
}

#[tokio::test]
async fn files_are_served_once() {
    let (at, _stop) = shop().serve(Limits::default()).await;
    let page = get(at, "/").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<div id=\"app\">"), "{}", page.body);
    assert_eq!(page.body, get(at, "/index.html").await.body);
    for (path, kind) in [
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/app.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let file = get(at, path).await;
        assert_eq!(
            (file.status, file.header("content-type")),
            (200, Some(kind))
        );
        // Everything that the page loads is its own.
        assert!(!file.body.contains("https://"), "{path}");
        assert_eq!(file.header("cache-control"), Some("no-cache"));
        let policy = file.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        let tag = file.header("etag").unwrap().to_owned();
        let had = format!("If-None-Match: \"other\", W/{tag}\r\n");
        let again = spawn_blocking(move || ask(at, "GET", path, &had));
        let again = again.await.unwrap();
        assert_eq!((again.status, again.body.as_str()), (304, ""));
        assert_eq!(again.header("etag"), Some(tag.as_str()));
    }
    let head = spawn_blocking(move || ask(at, "HEAD", "/app.js", ""));
    let head = head.await.unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn there_is_nothing_else() {
    let (at, _stop) = shop().serve(Limits::default()).await;
    for path in [
        "/../Cargo.toml",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/dist/app.js",
        "/api",
        "/api/flows/",
        "/app.js/",
    ] {
        let answer = get(at, path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.body.lines().count(), 1, "{}", answer.body);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "MAKE"] {
        let answer = spawn_blocking(move || ask(at, method, "/api/flows", ""));
        let answer = answer.await.unwrap();
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET, HEAD"))
        );
    }
    // What is no HTTP at all ends the connection, and nobody else's.
    let noise = spawn_blocking(move || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream
            .write_all(b"\x16\x03\x01\x02\x00garbage\r\n\r\n")
            .unwrap();
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
    });
    noise.await.unwrap();
    let long = format!("/{}", "x".repeat(100_000));
    let answer = get(at, &long).await;
    assert!(
        (400..500).contains(&answer.status),
        "a long address: {}",
        answer.status
    );
    assert_eq!(get(at, "/").await.status, 200);
}

#[tokio::test]
async fn flows_are_lines_of_json() {
    let relay = shop();
    let (at, _stop) = relay.serve(Limits::default()).await;
    let answer = get(at, "/api/flows").await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let lines = answer.lines();
    assert_eq!(lines.len(), 201);
    assert_eq!(lines[0]["node_status"]["state_change"], "NODE_CONNECTED");
    let flow = &lines[1]["flow"];
    assert_eq!(flow["destination"]["namespace"], "shop");
    assert_eq!(flow["ingress_allowed_by"][0]["name"], "world-to-storefront");
    assert_eq!(flow["l4"]["TCP"]["destination_port"], 443);
    // One of several filters suffices, fields of one must all match.
    let query = "whitelist=%7B%22verdict%22:%5B%22DROPPED%22%5D,%22destination_port%22:%5B%226379%22%5D%7D&whitelist=%7B%22source_pod%22%3A%5B%22payments/%22%5D%7D&number=50&blacklist=%7B%22protocol%22:%5B%22udp%22%5D%7D";
    let lines = get(at, &format!("/api/flows?{query}")).await.lines();
    let flows: Vec<&Value> = lines.iter().filter_map(|line| line.get("flow")).collect();
    assert!(flows.len() > 10);
    for flow in flows {
        let wanted = flow["source"]["namespace"] == "payments" || flow["verdict"] == "DROPPED";
        assert!(wanted && flow["l4"]["UDP"].is_null(), "{flow}");
    }
    let asked = relay.asked.lock().unwrap().clone();
    assert_eq!((asked[1].number, asked[1].whitelist.len()), (50, 2));
    let query = "follow=false&first=true&since=2025-03-04T09:12:01.402Z&until=2030-01-01T00:00:00Z&field_mask=time,source.pod_name";
    assert_eq!(get(at, &format!("/api/flows?{query}")).await.status, 200);
    let asked = relay.asked.lock().unwrap()[2].clone();
    assert!(asked.first && !asked.follow);
    assert_eq!(asked.since.unwrap().nanos, 402_000_000);
    assert_eq!(asked.field_mask.unwrap().paths, ["time", "source.pod_name"]);
}

#[tokio::test]
async fn mistakes_are_told_in_one_line() {
    let (at, _stop) = shop().serve(Limits::default()).await;
    for (query, text) in [
        (
            "last=20",
            "last=20: there is no such parameter; accepted: number,",
        ),
        ("number=-1", "number=-1: accepted: a whole number"),
        ("follow=yes", "follow=yes: accepted: true, false"),
        ("since=yesterday", "accepted: a time as 2025"),
        ("whitelist=%7B", "whitelist={: not a flow.FlowFilter"),
        ("whitelist=%5B%5D", "not a flow.FlowFilter"),
        ("whitelist=%7B%22pod%22:1%7D", "not a flow.FlowFilter: "),
        (
            "blacklist=%7B%22source_ip%22:%5B%22x%22%5D%7D",
            "a filter is not understood: source_ip",
        ),
        ("field_mask=x", "field_mask: a flow has no field \"x\""),
        (
            "first=true&follow=true",
            "first and follow exclude each other",
        ),
        ("%FF=1", "there is no such parameter"),
    ] {
        let answer = get(at, &format!("/api/flows?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.body);
        assert!(answer.body.contains(text), "{query}: {}", answer.body);
        assert_eq!(answer.body.lines().count(), 1, "{query}: {}", answer.body);
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("text/plain")
        );
    }
    for (code, status) in [
        (Code::InvalidArgument, 400),
        (Code::Unavailable, 503),
        (Code::Unimplemented, 501),
        (Code::Internal, 502),
    ] {
        let relay = Recorded::new(World::shop(), Manner::Refuses(code, "not so"));
        let (at, _stop) = relay.serve(Limits::default()).await;
        let answer = get(at, "/api/flows").await;
        assert_eq!((answer.status, answer.body.as_str()), (status, "not so\n"));
    }
}

#[tokio::test]
async fn the_state_has_every_node() {
    let (at, _stop) = shop().serve(Limits::default()).await;
    let answer = get(at, "/api/status?x=1").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let state: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(state["status"]["num_connected_nodes"], 3);
    assert_eq!(state["status"]["max_flows"], "12285");
    assert_eq!(state["nodes"][2]["name"], "default/worker-3");
    assert_eq!(state["nodes"][2]["state"], "NODE_CONNECTED");
}

/// A reader of flows that has read the first line.
fn follower(at: SocketAddr) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(
        stream,
        "GET /api/flows?follow=true HTTP/1.1\r\nHost: page\r\n\r\n"
    )
    .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.contains("node_status") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0);
    }
    reader
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_bounded() {
    let limits = Limits {
        readers: 2,
        connections: 8,
        ..Limits::default()
    };
    let (at, _stop) = shop().serve(limits).await;
    let first = spawn_blocking(move || follower(at)).await.unwrap();
    let second = spawn_blocking(move || follower(at)).await.unwrap();
    let third = get(at, "/api/flows?follow=true").await;
    assert_eq!(third.status, 503);
    assert!(
        third.body.starts_with("2 readers follow flows already"),
        "{}",
        third.body
    );
    assert_eq!(get(at, "/").await.status, 200);
    drop(first);
    // Its place is free once the server has noticed.
    while get(at, "/api/flows").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_nothing_is_let_go() {
    let relay = Recorded::new(World::shop(), Manner::Endless);
    let limits = Limits {
        patience: Duration::from_millis(500),
        readers: 1,
        ..Limits::default()
    };
    let (at, _stop) = relay.serve(limits).await;
    let mut silent = spawn_blocking(move || follower(at)).await.unwrap();
    let start = std::time::Instant::now();
    while get(at, "/api/flows?number=1").await.status != 200 {
        assert!(start.elapsed().as_secs() < 60, "its place is kept");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What it reads now ends, and not as if that were all.
    let rest = spawn_blocking(move || {
        let mut bytes = Vec::new();
        let _ = silent.read_to_end(&mut bytes);
        bytes
    });
    assert!(!rest.await.unwrap().ends_with(b"\r\n0\r\n\r\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_told_of_the_end() {
    let (at, stop) = shop().serve(Limits::default()).await;
    let mut reader = spawn_blocking(move || follower(at)).await.unwrap();
    stop.stop();
    let text = spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    let text = text.await.unwrap();
    assert!(text.contains("{\"error\":\"the relay ends\"}"), "{text}");
    assert!(TcpStream::connect(at).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_told_one_by_one() {
    let relay = Recorded::new(World::shop(), Manner::Endless);
    let (at, _stop) = relay.serve(Limits::default()).await;
    let ask = async |query: &str| {
        let target = format!("/api/policy?{query}");
        spawn_blocking(move || ask(at, "GET", &target, ""))
            .await
            .unwrap()
    };
    let kind = "kind=CiliumNetworkPolicy";
    let one = ask(&format!(
        "{kind}&namespace=payments&name=only-checkout-pays"
    ))
    .await;
    assert_eq!(
        (one.status, one.header("content-type")),
        (200, Some("application/yaml; charset=utf-8"))
    );
    assert!(
        one.body
            .starts_with("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"),
        "{}",
        one.body
    );
    for (query, status, says) in [
        ("", 400, "kind=: accepted: CiliumNetworkPolicy, "),
        ("kind=Secret&namespace=a&name=b", 400, "kind=Secret: "),
        ("kind=NetworkPolicy&name=b", 400, "has a namespace"),
        (
            "kind=AdminNetworkPolicy&namespace=a&name=b",
            400,
            "has no namespace",
        ),
        (
            &format!("{kind}&namespace=..&name=b"),
            400,
            "namespace=..: ",
        ),
        (
            &format!("{kind}&namespace=a&name=..%2F..%2Fsecrets%2Fx"),
            400,
            "name=../../secrets/x: ",
        ),
        (&format!("{kind}&namespace=a"), 400, "name=: "),
        (
            &format!("{kind}&namespace=a&name={}", "a".repeat(254)),
            400,
            "is no name",
        ),
        ("uid=7", 400, "uid=7: there is no such parameter"),
        (
            &format!("{kind}&namespace=a&name=b"),
            404,
            "there is no such policy",
        ),
        (
            &format!("{kind}&namespace=a&name=secret"),
            502,
            "API server: it is forbidden",
        ),
    ] {
        let answer = ask(query).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.body);
        assert!(
            answer.body.contains(says) && answer.body.lines().count() == 1,
            "{query}: {}",
            answer.body
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_may_read_no_policies() {
    let (_stopper, stop) = runtime::stop::channel();
    let relay = Recorded::new(World::shop(), Manner::Endless);
    let any = "127.0.0.1:0".parse().unwrap();
    let at = super::serve(relay, None, any, Limits::default(), &stop)
        .await
        .unwrap();
    let answer = spawn_blocking(move || ask(at, "GET", "/api/policy?kind=x", ""))
        .await
        .unwrap();
    assert_eq!(answer.status, 501);
    assert!(
        answer.body.contains("hubble.ui.policies.enabled=true"),
        "{}",
        answer.body
    );
}
