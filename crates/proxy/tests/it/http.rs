//! HTTP/1: requests in a connection, one by one.
use crate::world::{PORT, Plain, World, echo, http_rules, raw_server, read_until, rule, soon};
use hypha_proxy::{
    config::{Direction, HeaderRule, HttpRule, Mismatch, Rules, Snapshot, Value},
    http::Limits,
    record::{Layer7, Record, Verdict},
};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn http(record: &Record) -> &hypha_proxy::record::Http {
    match &record.layer7 {
        Layer7::Http(http) => http,
        other => panic!("{other:?}"),
    }
}

const GET: &str = "GET /public HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn what_a_rule_allows_passes_and_the_rest_is_denied() {
    let mut world = World::new(echo().await, vec![rule("GET", "/public")]).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answer = world
        .raw(format!("GET /public HTTP/1.1\r\nHost: shop\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\nConnection: close\r\n\r\n").as_bytes())
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("GET /public HTTP/1.1\nhost: shop\n"),
        "{answer}"
    );
    let request = world.record().await;
    assert_eq!(
        (request.verdict, request.latency),
        (Verdict::Forwarded, None)
    );
    assert_eq!(request.rule.as_ref().unwrap().to_string(), "shop/web[0]");
    let seen = http(&request);
    assert_eq!(
        (seen.method.as_str(), seen.url.as_str()),
        ("GET", "http://shop/public")
    );
    assert_eq!(
        (seen.protocol.as_ref(), seen.trace.as_deref()),
        ("HTTP/1.1", Some(trace))
    );
    let reply = world.record().await;
    assert_eq!(
        (reply.verdict, http(&reply).code),
        (Verdict::Forwarded, 200)
    );
    assert!(reply.latency.is_some());

    for (method, path) in [
        ("PUT", "/public"),
        ("GET", "/public/x"),
        ("GET", "/public?x"),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
        );
        let answer = world.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nAccess denied\r\n"), "{answer}");
        let request = world.record().await;
        assert_eq!((request.verdict, &request.rule), (Verdict::Denied, &None));
        assert_eq!(http(&world.record().await).code, 403);
    }
    assert_eq!(
        world.origin.connections.load(Ordering::Relaxed),
        1,
        "what is denied reaches no server"
    );
}

#[tokio::test]
async fn both_ends_must_allow_what_is_asked_for() {
    const SERVER: u32 = 8;
    let header = HeaderRule {
        name: "x-from".into(),
        value: Some(Value("client".into())),
        mismatch: Mismatch::Replace,
    };
    let client = HttpRule {
        path: Some("/(both|client)".into()),
        headers: vec![header.clone()],
        ..HttpRule::default()
    };
    // The server's rules see the header that the client's have set.
    let server = HttpRule {
        path: Some("/(both|server)".into()),
        headers: vec![HeaderRule {
            mismatch: Mismatch::Reject,
            ..header
        }],
        ..HttpRule::default()
    };
    let mut snapshot = http_rules(1, vec![client]);
    let mut other = snapshot.endpoints[0].clone();
    other.id = SERVER;
    other.ports[0].direction = Direction::Ingress;
    other.ports[0].peers = Some(vec![0]);
    other.ports[0].rules = Rules::Http(vec![server]);
    snapshot.endpoints.push(other);
    let origin = Plain::guarded(echo().await, PORT, SERVER);
    let mut world = World::of(origin, &snapshot, Limits::default()).await;
    for (path, status, by) in [
        ("/both", 200, Direction::Ingress),
        ("/client", 403, Direction::Ingress),
        ("/server", 403, Direction::Egress),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let answer = world.raw(request.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {answer}"
        );
        assert_eq!(answer.contains("x-from: client"), status == 200, "{answer}");
        assert_eq!(world.record().await.direction, by, "{path}");
        assert_eq!(http(&world.record().await).code, status);
    }
}

#[tokio::test]
async fn each_request_of_a_connection_is_asked_about() {
    let world = World::new(echo().await, vec![rule("GET", "/[a-z]")]).await;
    // All at once; the answers come in order, and the connection goes on behind a denial.
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    let mut requests = String::new();
    for path in ["/a", "/1", "/b", "/2", "/c"] {
        requests += &format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    stream.write_all(requests.as_bytes()).await.unwrap();
    let answers = read_until(&mut stream, "GET /c ").await;
    let codes: Vec<&str> = answers
        .match_indices("HTTP/1.1 ")
        .filter_map(|(at, _)| answers.get(at + 9..at + 12))
        .filter(|c| c.parse::<u16>().is_ok())
        .collect();
    assert_eq!(codes, ["200", "403", "200", "403", "200"], "{answers}");
    // Rules that change hold for the next request of a connection that is open.
    world.change(&http_rules(2, vec![rule("GET", "/1")]));
    stream
        .write_all(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let answers = read_until(&mut stream, "GET /1 ").await;
    assert!(answers.contains("403 Forbidden"), "{answers}");
    assert_eq!(
        world.origin.connections.load(Ordering::Relaxed),
        1,
        "one connection of a client is one to the server"
    );
    // Another client has a connection of its own.
    world
        .raw(b"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(world.origin.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_denied_body_is_read_so_that_the_answer_is() {
    let world = World::new(echo().await, vec![rule("GET", "/")]).await;
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    let body = "x".repeat(200_000);
    let put = format!(
        "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(put.as_bytes()).await.unwrap();
    read_until(&mut stream, "Access denied\r\n").await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "GET / HTTP/1.1").await;
}

#[tokio::test]
async fn headers_that_differ() {
    let header = |name: &str, value: Option<&str>, mismatch| HeaderRule {
        name: name.into(),
        value: value.map(|value| Value(value.into())),
        mismatch,
    };
    let rules = vec![HttpRule {
        headers: vec![
            header("x-must", None, Mismatch::Reject),
            header("x-log", Some("1"), Mismatch::Log),
            header("x-add", Some("1"), Mismatch::Add),
            header("x-delete", Some("1"), Mismatch::Delete),
            header("x-replace", Some("1"), Mismatch::Replace),
            header("x-fine", Some("1"), Mismatch::Delete),
        ],
        ..HttpRule::default()
    }];
    let mut world = World::new(echo().await, rules).await;
    let others = "x-log: 2\r\nx-add: 2\r\nx-delete: 2\r\nx-replace: 2\r\nx-replace: 3\r\nx-fine: 1\r\nConnection: close\r\n\r\n";
    let answer = world
        .raw(format!("GET / HTTP/1.1\r\nHost: h\r\nX-Must: a\r\n{others}").as_bytes())
        .await;
    let mut seen: Vec<&str> = answer
        .lines()
        .filter(|line| line.starts_with("x-"))
        .collect();
    seen.sort_unstable();
    let expected = [
        "x-add: 1",
        "x-add: 2",
        "x-fine: 1",
        "x-log: 2",
        "x-must: a",
        "x-replace: 1",
    ];
    assert_eq!(seen, expected, "{answer}");
    let record = world.record().await;
    assert_eq!(
        http(&record).differing,
        ["x-log", "x-add", "x-delete", "x-replace"]
    );
    let answer = world
        .raw(format!("GET / HTTP/1.1\r\nHost: h\r\n{others}").as_bytes())
        .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    // A header that the connection takes away again is no header.
    let trick = "GET / HTTP/1.1\r\nHost: h\r\nX-Must: a\r\nConnection: close, x-must\r\n\r\n";
    assert!(
        world
            .raw(trick.as_bytes())
            .await
            .starts_with("HTTP/1.1 403")
    );
}

#[tokio::test]
async fn hosts_are_matched_as_they_go_on() {
    let rules = vec![HttpRule {
        host: Some("shop\\.org(:80)?".into()),
        ..HttpRule::default()
    }];
    let world = World::new(echo().await, rules).await;
    let status = async |request: &str| world.raw(request.as_bytes()).await[9..12].to_owned();
    assert_eq!(
        status("GET / HTTP/1.1\r\nHost: shop.org\r\nConnection: close\r\n\r\n").await,
        "200"
    );
    assert_eq!(
        status("GET / HTTP/1.1\r\nHost: shop.org.evil\r\nConnection: close\r\n\r\n").await,
        "403"
    );
    // The host of the target counts, whatever the header says, and is what the server gets.
    let two = "GET http://shop.org:80/x HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n";
    let answer = world.raw(two.as_bytes()).await;
    assert!(
        answer.contains("GET /x HTTP/1.1\nhost: shop.org:80\n"),
        "{answer}"
    );
    assert_eq!(
        status("GET http://evil/x HTTP/1.1\r\nHost: shop.org\r\nConnection: close\r\n\r\n").await,
        "403"
    );
    assert_eq!(
        status("GET http://u@shop.org/x HTTP/1.1\r\nHost: shop.org\r\nConnection: close\r\n\r\n")
            .await,
        "400"
    );
    assert_eq!(
        status("CONNECT shop.org:80 HTTP/1.1\r\nHost: shop.org:80\r\nConnection: close\r\n\r\n")
            .await,
        "405"
    );
}

#[tokio::test]
async fn servers_that_are_not_there_or_go_away() {
    let nobody = ([127, 0, 0, 1], 1).into();
    let mut world = World::new(nobody, vec![HttpRule::default()]).await;
    let answer = world.raw(GET.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable"),
        "{answer}"
    );
    assert_eq!(world.record().await.verdict, Verdict::Forwarded);
    let failed = world.record().await;
    assert_eq!((failed.verdict, http(&failed).code), (Verdict::Error, 503));

    let (address, listener) = raw_server().await;
    let world = World::new(address, vec![HttpRule::default()]).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        drop(stream);
        // One answer, then the end of the connection.
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        drop(stream);
    });
    assert!(world.raw(GET.as_bytes()).await.starts_with("HTTP/1.1 502"));
    // Where the server ends a connection that is kept, the client's ends, too, as it would without a proxy.
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "ok").await;
    assert_eq!(soon(stream.read(&mut [0; 16])).await.unwrap(), 0);
    soon(server).await.unwrap();
}

#[tokio::test]
async fn clients_that_take_too_long() {
    let limits = Limits {
        head: 1024,
        head_time: Duration::from_millis(300),
        idle: Duration::from_millis(700),
        body_idle: Duration::from_millis(400),
        ..Limits::default()
    };
    let world = World::with(echo().await, vec![HttpRule::default()], limits).await;
    // A head that never ends; one byte is enough to begin it.
    for begun in ["G", "GET / HTTP/1.1\r\nHost: h\r\n"] {
        let answer = world.raw(begun.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{begun:?}: {answer}");
    }
    let answer = world
        .raw(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
        .await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // Nothing at all, and nothing more.
    assert_eq!(world.raw(b"").await, "");
    assert!(
        world
            .raw(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let large = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
        "a".repeat(2000)
    );
    assert!(
        world
            .raw(large.as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a:\r\n".repeat(150));
    assert!(world.raw(many.as_bytes()).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_client_that_waits_for_its_answer_is_not_idle() {
    let (address, listener) = raw_server().await;
    let limits = Limits {
        idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let world = World::with(address, vec![HttpRule::default()], limits).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
        stream
    });
    let answer = world.raw(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(answer.ends_with("ok"), "{answer}");
    drop(server.await.unwrap());
}

#[tokio::test]
async fn draining_finishes_what_is_under_way() {
    let (address, listener) = raw_server().await;
    let world = World::new(address, vec![HttpRule::default()]).await;
    let proxy = world.proxy;
    let mut client = TcpStream::connect(proxy).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let (mut server, _) = soon(listener.accept()).await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    let drained = tokio::spawn(world.drainer.drain(Duration::from_secs(60)));
    soon(async {
        while TcpStream::connect(proxy).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!drained.is_finished());
    server
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    let answer = read_until(&mut client, "ok").await;
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
    assert!(soon(drained).await.unwrap(), "nobody had to be cut off");
}

#[tokio::test]
async fn old_clients() {
    let world = World::new(echo().await, vec![HttpRule::default()]).await;
    let answer = world.raw(b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 200 OK") || answer.starts_with("HTTP/1.1 200 OK"),
        "{answer}"
    );
    assert!(answer.contains("GET / HTTP/1.0"), "{answer}");
}

/// Limits under which rules are waited for, however slow the machine is.
fn patient() -> Limits {
    Limits {
        rules: Duration::from_secs(60),
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_request_that_comes_before_its_rules_waits_for_them() {
    let allowed = http_rules(2, vec![rule("GET", "/public")]);
    // Nothing is known; another endpoint is; another peer.
    let mut other = allowed.clone();
    other.endpoints[0].id += 1;
    let mut peer = allowed.clone();
    peer.endpoints[0].ports[0].peers = Some(vec![1]);
    for mut before in [Snapshot::default(), other, peer] {
        before.version = 1;
        let origin = Plain::new(echo().await, PORT);
        let world = World::of(origin, &before, patient()).await;
        let mut stream = TcpStream::connect(world.proxy).await.unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        let early = stream.read_u8();
        let early = tokio::time::timeout(Duration::from_millis(100), early).await;
        assert!(early.is_err(), "it is answered without rules: {early:?}");
        world.change(&allowed);
        let answer = read_until(&mut stream, "host: shop\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // What does not come is not waited for long, and what rules there are deny not at all.
    let world = World::of(
        Plain::new(echo().await, PORT),
        &Snapshot::default(),
        Limits::default(),
    )
    .await;
    assert!(world.raw(GET.as_bytes()).await.starts_with("HTTP/1.1 403"));
    let denied = http_rules(1, vec![rule("GET", "/other")]);
    let world = World::of(Plain::new(echo().await, PORT), &denied, patient()).await;
    let answer = tokio::time::timeout(Duration::from_secs(30), world.raw(GET.as_bytes())).await;
    assert!(answer.unwrap().starts_with("HTTP/1.1 403"));
}
