//! The client against a listener that answers with prepared bytes, however it likes to cut them.
#![allow(clippy::unwrap_used, reason = "tests")]

mod corpus;
mod hubble;

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hypha_api::{Client, ClientError, ErrorCode, IpamRequest, MonitorKind, MonitorQuery};

/// What the listener does with one request.
enum Step {
    /// Answer with these pieces, a moment apart.
    Answer(Vec<Vec<u8>>),
    /// Answer, then close the stream.
    AnswerAndClose(Vec<u8>),
    /// Say nothing.
    Silence,
}

struct Listener {
    socket: PathBuf,
    _dir: tempfile::TempDir,
    thread: JoinHandle<Vec<String>>,
}

/// Serves the steps one after another; returns the request lines seen.
fn listen(steps: Vec<Step>) -> Listener {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = thread::spawn(move || serve(&listener, steps));
    Listener {
        socket,
        _dir: dir,
        thread,
    }
}

fn serve(listener: &UnixListener, steps: Vec<Step>) -> Vec<String> {
    let mut seen = Vec::new();
    let mut stream = None;
    for step in steps {
        let mut s = stream
            .take()
            .unwrap_or_else(|| listener.accept().unwrap().0);
        let mut request = Vec::new();
        let mut buf = [0; 4096];
        while !complete(&request) {
            let n = s.read(&mut buf).unwrap();
            if n == 0 {
                s = listener.accept().unwrap().0;
            }
            request.extend_from_slice(&buf[..n]);
        }
        seen.push(
            String::from_utf8_lossy(&request)
                .lines()
                .next()
                .unwrap()
                .to_owned(),
        );
        match step {
            Step::Answer(pieces) => {
                for piece in pieces {
                    s.write_all(&piece).unwrap();
                    thread::sleep(Duration::from_millis(2));
                }
                stream = Some(s);
            }
            Step::AnswerAndClose(bytes) => s.write_all(&bytes).unwrap(),
            Step::Silence => thread::sleep(Duration::from_millis(300)),
        }
    }
    seen
}

fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .map_or(0, |l| l.parse().unwrap());
    body.len() >= length
}

fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn whole(body: &str) -> Step {
    Step::Answer(vec![ok(body)])
}

#[test]
fn one_stream_serves_several_requests() {
    let listener = listen(vec![
        whole("[]"),
        whole("[]"),
        whole("{\"checked\":{},\"findings\":[],\"new\":1}"),
    ]);
    let mut client = Client::new(&listener.socket);
    assert!(client.endpoints().unwrap().is_empty());
    assert!(client.maps().unwrap().is_empty());
    assert!(client.check().unwrap().is_clean());
    drop(client);
    assert_eq!(
        listener.thread.join().unwrap(),
        [
            "GET /v1/endpoint HTTP/1.1",
            "GET /v1/map HTTP/1.1",
            "GET /v1/check HTTP/1.1"
        ]
    );
}

#[test]
fn a_stream_closed_between_requests_is_opened_again_except_for_post() {
    let listener = listen(vec![
        Step::AnswerAndClose(ok("[]")),
        Step::AnswerAndClose(ok("[]")),
    ]);
    let mut client = Client::new(&listener.socket).timeout(Duration::from_secs(5));
    client.nodes().unwrap();
    client.nodes().unwrap();
    let request = IpamRequest {
        owner: "a/b".into(),
        families: vec![],
        expire_seconds: None,
        attachment: None,
    };
    let error = client.allocate(&request).unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    listener.thread.join().unwrap();
}

#[test]
fn every_split_of_a_chunked_answer_reads_the_same() {
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n[\"a\r\n4\r\nbc\"]\r\n0\r\nt: 1\r\n\r\n";
    for cut in [1, 7, 24, 30, 60, 75, 80, 85, 90, 95, bytes.len() - 2] {
        let (a, b) = bytes.split_at(cut);
        let listener = listen(vec![
            Step::Answer(vec![a.to_vec(), b.to_vec()]),
            whole("[]"),
        ]);
        let mut client = Client::new(&listener.socket);
        assert_eq!(
            client.get::<Vec<String>>("/v1/x").unwrap(),
            ["abc"],
            "cut at {cut}"
        );
        assert!(
            client.ips().unwrap().is_empty(),
            "and the stream is in step"
        );
        listener.thread.join().unwrap();
    }
}

#[test]
fn refusals_keep_their_code() {
    let ours =
        r#"{"code":"pool-exhausted","message":"no address left in 10.244.1.0/24","retry":false}"#;
    let answer = |status: &str, body: &str| {
        Step::Answer(vec![
            format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        ])
    };
    let listener = listen(vec![
        answer("507 x", ours),
        answer("503 x", "starting"),
        answer("418 x", "{\"code\":\"new\",\"message\":\"m\"}"),
    ]);
    let mut client = Client::new(&listener.socket);
    let mut fail = || client.tables().unwrap_err();
    let error = fail();
    assert_eq!(
        (error.code(), error.retry()),
        (Some(ErrorCode::PoolExhausted), false)
    );
    assert_eq!(error.to_string(), "no address left in 10.244.1.0/24");
    let error = fail();
    assert_eq!(
        (error.code(), error.retry(), error.to_string()),
        (Some(ErrorCode::NotReady), true, "starting".to_owned())
    );
    assert_eq!(fail().code(), Some(ErrorCode::Unknown));
    listener.thread.join().unwrap();
}

#[test]
fn time_and_size_are_bounded() {
    let big = "x".repeat(5000);
    let length = Step::AnswerAndClose(ok(&big));
    let chunked = Step::AnswerAndClose(
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1388\r\n{big}\r\n0\r\n\r\n")
            .into_bytes(),
    );
    let head =
        Step::AnswerAndClose(format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(40_000)).into_bytes());
    let listener = listen(vec![length, chunked, head, Step::Silence]);
    let mut client = Client::new(&listener.socket)
        .limit(4096)
        .timeout(Duration::from_millis(100));
    for what in ["longer than 4096", "longer than 4096", "too long"] {
        let error = client.get_raw("/v1/map").unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let start = Instant::now();
    let error = client.get_raw("/v1/map").unwrap_err();
    assert!(
        error.is_unreachable() && start.elapsed() < Duration::from_millis(250),
        "{error}"
    );
    listener.thread.join().unwrap();
}

#[test]
fn nobody_listens() {
    let error = Client::new("/nonexistent/cilium.sock")
        .healthz()
        .unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert!(
        error.to_string().contains("/nonexistent/cilium.sock")
            && error.to_string().contains("is it running"),
        "{error}"
    );
}

#[test]
fn malformed_answers_are_errors() {
    let answers = [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ];
    let steps = answers
        .iter()
        .map(|a| Step::AnswerAndClose(a.as_bytes().to_vec()))
        .chain([whole("{")])
        .collect();
    let listener = listen(steps);
    let mut client = Client::new(&listener.socket).timeout(Duration::from_secs(5));
    for _ in 0..4 {
        assert!(matches!(
            client.endpoints().unwrap_err(),
            ClientError::Answer { .. }
        ));
    }
    listener.thread.join().unwrap();
}

#[test]
fn events_come_line_by_line() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let lines =
        "{\"kind\":\"drop\",\"timestampNs\":1,\"reason\":\"Policy denied\"}\n\n{\"kind\":\"tra";
    let more = "ce\",\"timestampNs\":2,\"src\":\"10.0.0.1\"}\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len()).into_bytes();
    let listener = listen(vec![Step::Answer(vec![
        head,
        chunk(lines),
        chunk(more),
        b"0\r\n\r\n".to_vec(),
    ])]);
    let client = Client::new(&listener.socket);
    let query = MonitorQuery {
        related_to: Some(7),
        ..MonitorQuery::default()
    }
    .kinds(&[MonitorKind::Drop, MonitorKind::Trace]);
    let events: Vec<_> = client
        .monitor(&query)
        .unwrap()
        .map(|e| e.unwrap())
        .collect();
    assert_eq!(
        events.iter().map(|e| e.kind).collect::<Vec<_>>(),
        [MonitorKind::Drop, MonitorKind::Trace]
    );
    assert_eq!(events[1].src, Some("10.0.0.1".parse().unwrap()));
    assert_eq!(
        listener.thread.join().unwrap(),
        ["GET /v1/monitor?type=drop,trace&related-to=7 HTTP/1.1"]
    );
}
