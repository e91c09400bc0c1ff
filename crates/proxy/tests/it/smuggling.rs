//! Requests that two readers could read differently: none of them reaches a server.
use crate::world::{World, raw_server, soon};
use hypha_proxy::{config::HttpRule, http::Limits};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a server would take for a request of its own.
const SECOND: &str = "GET /secret HTTP/1.1\r\nHost: h\r\n\r\n";

/// Requests, and what the server may see of them: nothing, or the start of a body that breaks off.
const CASES: [(&str, bool); 34] = [
    (
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        false,
    ),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        false,
    ),
    ("Content-Length: 0\r\nContent-Length: 34\r\n\r\n", false),
    ("Content-Length: 34\r\nContent-Length: 34\r\n\r\n", false),
    ("Content-Length: 0, 34\r\n\r\n", false),
    ("Content-Length: +0\r\n\r\n", false),
    ("Content-Length: -1\r\n\r\n", false),
    ("Content-Length: 0x0\r\n\r\n", false),
    ("Content-Length: 1 0\r\n\r\n", false),
    ("Content-Length:\r\n\r\n", false),
    ("Content-Length : 0\r\n\r\n", false),
    ("Content-Length\t: 0\r\n\r\n", false),
    ("Content-Length: 99999999999999999999\r\n\r\n", false),
    ("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", false),
    (
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        false,
    ),
    (
        "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        false,
    ),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        false,
    ),
    ("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", false),
    ("Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", false),
    ("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", false),
    (
        "X: a\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        false,
    ),
    ("X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
    ("X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
    ("X: a\0b\r\n\r\n", false),
    ("Host: other\r\n\r\n", false),
    ("X\r\n\r\n", false),
    (
        "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        true,
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
        true,
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        true,
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        true,
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nhello\r\n0\r\n\r\n",
        true,
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
        true,
    ),
    (
        "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 34\r\n\r\n",
        true,
    ),
    ("Transfer-Encoding: chunked\r\n\r\n0\n\n", true),
];

#[tokio::test]
async fn what_leaves_room_for_doubt_reaches_no_server() {
    for (rest, begins) in CASES {
        let (address, listener) = raw_server().await;
        let world = World::new(address, vec![HttpRule::default()]).await;
        let server = tokio::spawn(async move {
            let mut seen = Vec::new();
            if let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read_to_end(&mut seen).await;
            }
            String::from_utf8_lossy(&seen).into_owned()
        });
        let answer = world
            .raw(format!("POST / HTTP/1.1\r\nHost: h\r\n{rest}{SECOND}").as_bytes())
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{rest:?}: {answer:?}");
        assert_eq!(
            answer.matches("HTTP/1.1").count(),
            1,
            "{rest:?}: {answer:?}"
        );
        if begins {
            // The server sees a body that never comes to its end.
            if let Ok(seen) = tokio::time::timeout(Duration::from_millis(200), server).await {
                let seen = seen.unwrap();
                assert!(
                    !seen.contains("/secret") && !seen.contains("\r\n0\r\n"),
                    "{rest:?}: {seen:?}"
                );
            }
        } else {
            assert!(!server.is_finished(), "{rest:?}: {:?}", server.await);
            assert_eq!(
                world
                    .origin
                    .connections
                    .load(std::sync::atomic::Ordering::Relaxed),
                0
            );
            server.abort();
        }
    }
}

#[tokio::test]
async fn first_lines_that_are_none() {
    let (address, _listener) = raw_server().await;
    let world = World::new(address, vec![HttpRule::default()]).await;
    for line in [
        "GET / HTTP/1.1 x",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/0.9",
        "GET /",
        "GET",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / http/1.1",
        "G\"T / HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET / HTTP/1.1\0",
        "PRI * HTTP/2.0",
    ] {
        let answer = world
            .raw(format!("{line}\r\nHost: h\r\n\r\n").as_bytes())
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{line:?}: {answer:?}");
    }
    let no_host = world.raw(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(no_host.starts_with("HTTP/1.1 400 "), "{no_host}");
}

#[tokio::test]
async fn a_wish_to_speak_http2_opens_no_tunnel() {
    let (address, listener) = raw_server().await;
    let limits = Limits {
        idle: Duration::from_secs(1),
        ..Limits::default()
    };
    let world = World::with(address, vec![crate::world::rule("GET", "/")], limits).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = crate::world::read_until(&mut stream, "\r\n\r\n").await;
        // A server that would do it all the same.
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n";
        stream.write_all(switch.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        (head, rest)
    });
    let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let answer = world
        .raw(format!("{request}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").as_bytes())
        .await;
    assert!(!answer.contains("101 Switching"), "{answer}");
    let (head, rest) = soon(server).await.unwrap();
    assert!(!head.to_lowercase().contains("upgrade"), "{head}");
    assert!(rest.is_empty(), "{rest:?}");
}
