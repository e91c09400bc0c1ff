//! Bodies that flow both ways, HTTP/2, calls of gRPC, and connections that become something else.
use crate::world::{World, echo, raw_server, read_until, rule, soon};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Request, Response, StatusCode, Version,
    body::{Frame, Incoming},
    client::conn::http2,
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hypha_proxy::{
    config::HttpRule,
    http::Limits,
    record::{Layer7, Verdict},
};
use std::{convert::Infallible, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

type Frames = StreamBody<tokio_stream::wrappers::ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

fn frames() -> (mpsc::Sender<Result<Frame<Bytes>, Infallible>>, Frames) {
    let (sender, receiver) = mpsc::channel(1);
    (
        sender,
        StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)),
    )
}

async fn client(proxy: SocketAddr) -> http2::SendRequest<Frames> {
    let stream = TcpStream::connect(proxy).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn call(path: &str, body: Frames) -> Request<Frames> {
    Request::post(format!("http://shop{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

/// A server of one call that sends back what it gets as it gets it, with the status in trailers.
async fn grpc() -> SocketAddr {
    async fn answer(request: Request<Incoming>) -> Result<Response<Frames>, Infallible> {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        let (sender, body) = frames();
        let mut incoming = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.frame().await {
                if let Ok(data) = frame.into_data()
                    && sender.send(Ok(Frame::data(data))).await.is_err()
                {
                    return;
                }
            }
            let mut trailers = hyper::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let _ = sender.send(Ok(Frame::trailers(trailers))).await;
        });
        Ok(Response::new(body))
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    address
}

#[tokio::test]
async fn a_call_streams_both_ways_and_ends_with_trailers() {
    let mut world = World::new(grpc().await, vec![rule("POST", "/shop.Cart/Add")]).await;
    let mut sender = client(world.proxy).await;
    let (messages, body) = frames();
    let answer = soon(sender.send_request(call("/shop.Cart/Add", body)));
    let mut answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    // Each message comes back before the next one is sent.
    for text in ["one", "two", "three"] {
        messages
            .send(Ok(Frame::data(Bytes::from(text))))
            .await
            .unwrap();
        let frame = soon(answer.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    drop(messages);
    let trailers = soon(answer.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(trailers.into_trailers().unwrap()["grpc-status"], "0");
    assert_eq!(world.record().await.verdict, Verdict::Forwarded);
    world.record().await;

    let (_messages, body) = frames();
    let denied = soon(sender.send_request(call("/shop.Cart/Drop", body)))
        .await
        .unwrap();
    assert_eq!(denied.headers()["grpc-status"], "7");
    let record = world.record().await;
    let Layer7::Http(http) = &record.layer7 else {
        panic!("{record:?}")
    };
    assert_eq!(
        (record.verdict, http.protocol.as_ref(), http.url.as_str()),
        (Verdict::Denied, "HTTP/2", "http://shop/shop.Cart/Drop")
    );
}

#[tokio::test]
async fn many_streams_of_one_connection() {
    let world = World::new(echo().await, vec![rule("POST", "/ok/.*")]).await;
    let sender = client(world.proxy).await;
    let all = (0..200).map(|n| {
        let mut sender = sender.clone();
        async move {
            let allowed = n % 3 != 0;
            let path = if allowed {
                format!("/ok/{n}")
            } else {
                format!("/no/{n}")
            };
            let (_, body) = frames();
            let request = Request::post(format!("http://shop{path}"))
                .body(body)
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let status = answer.status();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body);
            assert_eq!(status.as_u16(), if allowed { 200 } else { 403 }, "{text}");
            assert!(
                if allowed {
                    text.contains(&path)
                } else {
                    text == "Access denied\r\n"
                },
                "{text}"
            );
        }
    });
    soon(futures::future::join_all(all)).await;
    assert_eq!(
        world
            .origin
            .connections
            .load(std::sync::atomic::Ordering::Relaxed),
        1
    );
}

#[tokio::test]
async fn two_hosts_in_one_request_are_refused() {
    let world = World::new(echo().await, vec![HttpRule::default()]).await;
    let mut sender = client(world.proxy).await;
    let (_, body) = frames();
    let request = Request::get("http://shop/")
        .header("host", "other")
        .body(body)
        .unwrap();
    let answer = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_server_that_does_not_read_holds_up_the_client() {
    let (address, listener) = raw_server().await;
    let world = World::new(address, vec![HttpRule::default()]).await;
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
        .await
        .unwrap();
    let (mut server, _) = soon(listener.accept()).await.unwrap();
    let block = vec![b'x'; 1 << 16];
    let mut sent = 0;
    // Until nothing moves for a while: what is under way is what sockets hold, not what the client could send.
    while let Ok(wrote) =
        tokio::time::timeout(Duration::from_millis(500), stream.write(&block)).await
    {
        sent += wrote.unwrap();
        assert!(sent < 64 << 20, "{sent} bytes are under way");
    }
    // All of it is there once the server reads.
    let head = read_until(&mut server, "\r\n\r\n").await;
    let mut got = head.len() - head.find("\r\n\r\n").unwrap() - 4;
    let mut space = vec![0; 1 << 16];
    soon(async {
        while got < sent {
            got += server.read(&mut space).await.unwrap();
        }
    })
    .await;
    assert_eq!(got, sent);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request() {
    let (address, listener) = raw_server().await;
    let world = World::new(address, vec![HttpRule::default()]).await;
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    stream
        .write_all(b"GET /watch HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let (mut server, _) = soon(listener.accept()).await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    server
        .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "first").await;
    drop(stream);
    assert_eq!(soon(server.read(&mut [0; 16])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_websocket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let mut world = World::new(address, vec![rule("GET", "/chat")]).await;
    let open = async |path: &str| {
        let stream = TcpStream::connect(world.proxy).await.unwrap();
        soon(tokio_tungstenite::client_async(
            format!("ws://shop{path}"),
            stream,
        ))
        .await
    };
    let (mut socket, _) = open("/chat").await.unwrap();
    for n in 0..100 {
        let text = format!("message {n} {}", "x".repeat(n * 100));
        socket.send(text.clone().into()).await.unwrap();
        assert_eq!(
            soon(socket.next())
                .await
                .unwrap()
                .unwrap()
                .into_text()
                .unwrap()
                .as_str(),
            text
        );
    }
    assert!(open("/admin").await.is_err());
    assert_eq!(world.record().await.verdict, Verdict::Forwarded);
    let switched = world.record().await;
    let Layer7::Http(http) = &switched.layer7 else {
        panic!("{switched:?}")
    };
    assert_eq!(http.code, 101);
    assert_eq!(world.record().await.verdict, Verdict::Denied);
}

#[tokio::test]
async fn an_upgrade_that_the_server_declines_goes_on_as_http() {
    let world = World::new(echo().await, vec![HttpRule::default()]).await;
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let answers = read_until(&mut stream, "GET /b ").await;
    assert!(
        answers.contains("GET /a ") && answers.contains("upgrade: websocket"),
        "{answers}"
    );
}

#[tokio::test]
async fn bodies_of_unknown_length_keep_their_bytes() {
    let limits = Limits::default();
    let world = World::with(echo().await, vec![HttpRule::default()], limits).await;
    let body: String = (0..50_000)
        .map(|n| char::from(b'a' + (n % 26) as u8))
        .collect();
    let mut request = String::from(
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    for (n, part) in body.as_bytes().chunks(777).enumerate() {
        request += &format!(
            "{:x};n={n}\r\n{}\r\n",
            part.len(),
            std::str::from_utf8(part).unwrap()
        );
    }
    request += "0\r\n\r\n";
    let answer = world.raw(request.as_bytes()).await;
    assert!(answer.ends_with(&body), "{}", answer.len());
}
