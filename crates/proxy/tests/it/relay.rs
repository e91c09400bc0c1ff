//! HTTP/1 as it comes from servers, and requests and answers that are under way at once.
use crate::world::{World, raw_server, read_until, soon};
use hypha_proxy::{
    config::HttpRule,
    http::Limits,
    record::{Layer7, Verdict},
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn open() -> (World, TcpStream, TcpListener) {
    let (address, listener) = raw_server().await;
    let world = World::new(address, vec![HttpRule::default()]).await;
    let client = TcpStream::connect(world.proxy).await.unwrap();
    (world, client, listener)
}

/// A client's bytes, and what the server has of them up to `until`.
async fn ask(
    client: &mut TcpStream,
    listener: &TcpListener,
    bytes: &str,
    until: &str,
) -> (TcpStream, String) {
    client.write_all(bytes.as_bytes()).await.unwrap();
    let (mut server, _) = soon(listener.accept()).await.unwrap();
    let heard = read_until(&mut server, until).await;
    (server, heard)
}

/// All that comes until the end.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset after what was said is as good as an end.
    let _ = soon(stream.read_to_end(&mut all)).await;
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn answers_on_their_way_are_passed_on() {
    let (mut world, mut client, listener) = open().await;
    let put = "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let (mut server, heard) = ask(&mut client, &listener, put, "\r\n\r\n").await;
    assert!(heard.contains("expect: 100-continue"), "{heard}");
    server
        .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write_all(b"hello").await.unwrap();
    read_until(&mut server, "hello").await;
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    server
        .write_all(format!("{hint}{OK}").as_bytes())
        .await
        .unwrap();
    let heard = read_until(&mut client, "ok").await;
    assert!(heard.starts_with(hint) && heard.ends_with(OK), "{heard}");
    // They are no answers: there is one.
    assert_eq!(world.record().await.verdict, Verdict::Forwarded);
    let Layer7::Http(http) = world.record().await.layer7 else {
        panic!("no record of HTTP")
    };
    assert_eq!(http.code, 200);
}

#[tokio::test]
async fn answers_without_a_body_and_answers_without_an_end() {
    let (_world, mut client, listener) = open().await;
    let head = "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n";
    let (mut server, _) = ask(&mut client, &listener, head, "\r\n\r\n").await;
    let large = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    server.write_all(large.as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut client, "\r\n\r\n").await, large);
    for code in ["204 No Content", "304 Not Modified"] {
        client.write_all(GET.as_bytes()).await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        let answer = format!("HTTP/1.1 {code}\r\nETag: \"1\"\r\n\r\n");
        server.write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut client, "\r\n\r\n").await, answer);
    }
    client.write_all(GET.as_bytes()).await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    server
        .write_all(b"HTTP/1.0 200 OK\nX:1\n\nall of ")
        .await
        .unwrap();
    read_until(&mut client, "all of ").await;
    server.write_all(b"it").await.unwrap();
    drop(server);
    assert_eq!(rest(&mut client).await, "it");
}

#[tokio::test]
async fn old_clients_may_keep_their_connection() {
    let (_world, mut client, listener) = open().await;
    let old = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let (mut server, heard) = ask(&mut client, &listener, old, "\r\n\r\n").await;
    assert!(heard.contains("connection: keep-alive"), "{heard}");
    for _ in 0..2 {
        let answer = "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok";
        server.write_all(answer.as_bytes()).await.unwrap();
        let heard = read_until(&mut client, "ok").await;
        assert!(heard.contains("connection: keep-alive"), "{heard}");
        client.write_all(old.as_bytes()).await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
    }
}

#[tokio::test]
async fn answers_that_leave_room_for_doubt_go_to_nobody() {
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n X: 1\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\n\r\n",
        "220 mail.example ESMTP\r\n\r\n",
    ] {
        let (mut world, mut client, listener) = open().await;
        let (mut server, _) = ask(&mut client, &listener, GET, "\r\n\r\n").await;
        server.write_all(bad.as_bytes()).await.unwrap();
        let heard = rest(&mut client).await;
        assert!(heard.starts_with("HTTP/1.1 502 "), "{bad:?}: {heard}");
        world.record().await;
        assert_eq!(world.record().await.verdict, Verdict::Error, "{bad:?}");
    }
}

#[tokio::test]
async fn what_a_server_says_unasked_answers_nothing() {
    let (_world, mut client, listener) = open().await;
    let both = format!("{GET}{GET}");
    let (mut server, _) = ask(&mut client, &listener, &both, "\r\n\r\n").await;
    let unasked = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";
    server
        .write_all(format!("{OK}{unasked}").as_bytes())
        .await
        .unwrap();
    // The second request goes by a connection of its own.
    let (mut server, _) = soon(listener.accept()).await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    server.write_all(OK.as_bytes()).await.unwrap();
    let heard = read_until(&mut client, &format!("{OK}{OK}")).await;
    assert!(!heard.contains("stolen"), "{heard}");
}

#[tokio::test]
async fn a_server_may_answer_before_it_has_read_all() {
    let (_world, mut client, listener) = open().await;
    let put = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\nbegin";
    let (mut server, _) = ask(&mut client, &listener, put, "begin").await;
    let no = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    server.write_all(no.as_bytes()).await.unwrap();
    drop(server);
    let heard = rest(&mut client).await;
    assert!(
        heard.starts_with("HTTP/1.1 413 ") && heard.ends_with("no"),
        "{heard}"
    );

    // Both at once, and then the next request.
    let (_world, mut client, listener) = open().await;
    let post = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    let (mut server, _) = ask(&mut client, &listener, post, "one\r\n").await;
    let begin = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nuno\r\n";
    server.write_all(begin.as_bytes()).await.unwrap();
    read_until(&mut client, "uno\r\n").await;
    client.write_all(b"3\r\ntwo\r\n").await.unwrap();
    read_until(&mut server, "two\r\n").await;
    server.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut client, "0\r\n\r\n").await;
    let next = format!("0\r\nX-Sum: 1\r\n\r\n{GET}");
    client.write_all(next.as_bytes()).await.unwrap();
    let heard = read_until(&mut server, "GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(heard.starts_with("0\r\nX-Sum: 1\r\n\r\n"), "{heard}");
    server.write_all(OK.as_bytes()).await.unwrap();
    read_until(&mut client, OK).await;
}

#[tokio::test]
async fn what_is_denied_before_its_body_comes() {
    let (address, _listener) = raw_server().await;
    let world = World::new(address, vec![crate::world::rule("GET", "/")]).await;
    // Whether the body comes is the client's choice: nothing behind it could be told from it.
    let waits = "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 30\r\n\r\n";
    let heard = world.raw(format!("{waits}{GET}").as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 403 "), "{heard}");
    assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
    assert!(heard.contains("connection: close"), "{heard}");
    // An answer to HEAD has no body, whoever gives it.
    let head = "HEAD /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let heard = world.raw(head.as_bytes()).await;
    assert!(
        heard.ends_with("\r\n\r\n") && heard.contains("content-length: 15"),
        "{heard}"
    );
}

#[tokio::test]
async fn bytes_that_come_before_the_switch_are_not_lost() {
    let (_world, mut client, listener) = open().await;
    let wish = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nearly";
    let (mut server, heard) = ask(&mut client, &listener, wish, "\r\n\r\n").await;
    assert!(heard.ends_with("\r\n\r\n"), "not yet: {heard}");
    let switch = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello";
    server.write_all(switch.as_bytes()).await.unwrap();
    let heard = read_until(&mut client, "hello").await;
    assert!(heard.contains("upgrade: chat\r\n"), "{heard}");
    read_until(&mut server, "early").await;
    client.write_all(b"GET /not-http").await.unwrap();
    read_until(&mut server, "GET /not-http").await;
    // Sides end one by one.
    client.shutdown().await.unwrap();
    assert_eq!(soon(server.read(&mut [0; 1])).await.unwrap(), 0);
    server.write_all(b"bye").await.unwrap();
    drop(server);
    assert_eq!(rest(&mut client).await, "bye");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_the_server() {
    let (_world, mut client, listener) = open().await;
    let (mut server, _) = ask(&mut client, &listener, GET, "\r\n\r\n").await;
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    server.write_all(head.as_bytes()).await.unwrap();
    let block = vec![b'x'; 1 << 16];
    let mut sent = 0;
    while let Ok(wrote) =
        tokio::time::timeout(Duration::from_millis(500), server.write(&block)).await
    {
        sent += wrote.unwrap();
        assert!(sent < 64 << 20, "{sent} bytes are under way");
    }
    let begun = read_until(&mut client, "\r\n\r\n").await;
    let mut got = begun.len() - begun.find("\r\n\r\n").unwrap() - 4;
    let mut space = vec![0; 1 << 16];
    soon(async {
        while got < sent {
            got += client.read(&mut space).await.unwrap();
        }
    })
    .await;
    assert_eq!(got, sent);
}

#[tokio::test]
async fn an_answer_that_stops_ends_the_connection() {
    let (address, listener) = raw_server().await;
    let limits = Limits {
        body_idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let world = World::with(address, vec![HttpRule::default()], limits).await;
    let mut client = TcpStream::connect(world.proxy).await.unwrap();
    let (mut server, _) = ask(&mut client, &listener, GET, "\r\n\r\n").await;
    let begin = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    server.write_all(begin.as_bytes()).await.unwrap();
    assert_eq!(rest(&mut client).await, begin);
    assert_eq!(soon(server.read(&mut [0; 1])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn pieces_make_no_difference() {
    let requests = "\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\
        POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n\
        GET /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let passed = "GET /a HTTP/1.1\r\nhost: h\r\n\r\nPOST /b HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello\
        POST /c HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n\
        GET /d HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let answers = [
        OK,
        "HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 204 None\r\n\r\n",
        OK,
    ];
    for step in [1, 2, 3, 7, 31, 1000] {
        let (_world, mut client, listener) = open().await;
        let server = tokio::spawn(async move {
            let (mut server, _) = listener.accept().await.unwrap();
            let mut heard = String::new();
            let ends = ["\r\n\r\n", "hello", "X-Sum: 1\r\n\r\n", "\r\n\r\n"];
            for (answer, end) in answers.iter().zip(ends) {
                heard += &read_until(&mut server, end).await;
                for piece in answer.as_bytes().chunks(step) {
                    server.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
            heard
        });
        for piece in requests.as_bytes().chunks(step) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let heard = rest(&mut client).await;
        assert_eq!(soon(server).await.unwrap(), passed, "by {step}");
        let mut expected = answers.concat();
        expected.insert_str(expected.len() - 4, "connection: close\r\n");
        assert_eq!(heard, expected, "by {step}");
    }
}
