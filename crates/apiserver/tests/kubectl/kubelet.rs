//! A stand-in for kubelets: says what it was asked, in every way that a kubelet may be asked.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use futures::stream;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hypha_apiserver::Kubelets;
use hypha_apiserver::tls::{Authority, TlsOptions};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What WebSocket servers add to a client's key.
const SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// One kubelet for the node `node-1`; all other nodes are out of reach.
pub struct Kubelet {
    address: SocketAddr,
}

impl Kubelet {
    pub async fn start() -> Self {
        let authority = Authority::open(&TlsOptions::default()).unwrap();
        let identity = authority
            .server("kubelet", vec!["node-1".to_owned()])
            .unwrap();
        let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config))));
        Self { address }
    }
}

impl Kubelets for Kubelet {
    fn connect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(async move {
            match node {
                "node-1" => TcpStream::connect(self.address).await,
                _ => Err(io::Error::new(
                    io::ErrorKind::HostUnreachable,
                    "no route to host",
                )),
            }
        })
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let tls = tls.clone();
        tokio::spawn(async move {
            let stream = tls.accept(stream).await.unwrap();
            let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let _ = connection.await;
        });
    }
}

fn answer(mut request: Request<Incoming>) -> Response<Body> {
    let uri = request.uri().clone();
    let upgrade = request
        .headers()
        .get("upgrade")
        .and_then(|v| v.to_str().ok())
        .map(str::to_lowercase);
    match upgrade.as_deref() {
        Some("websocket") => {
            let key = request.headers()["sec-websocket-key"].to_str().unwrap();
            let accept = STANDARD.encode(digest(
                &SHA1_FOR_LEGACY_USE_ONLY,
                format!("{key}{SALT}").as_bytes(),
            ));
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move { speak(upgraded.await.unwrap(), &format!("{uri}\n")).await });
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("upgrade", "websocket")
                .header("connection", "Upgrade")
                .header("sec-websocket-accept", accept)
                .header("sec-websocket-protocol", "v5.channel.k8s.io");
            response.body(Body::empty()).unwrap()
        }
        Some(protocol) => {
            let protocol = protocol.to_owned();
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move { echo(upgraded.await.unwrap()).await });
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("upgrade", protocol)
                .header("connection", "Upgrade");
            response.body(Body::empty()).unwrap()
        }
        None if uri.path().ends_with("/quiet") => {
            let why = "previous terminated container \"quiet\" in pod \"web\" not found\n";
            Response::builder()
                .status(400)
                .body(Body::from(why))
                .unwrap()
        }
        None => {
            let lines = stream::unfold(0, move |n| {
                let line = format!("{n} {uri}\n");
                async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    (n < 3).then(|| (Ok::<_, io::Error>(line), n + 1))
                }
            });
            Response::new(Body::from_stream(lines))
        }
    }
}

/// Sends a frame of a channel; short ones alone.
async fn frame(io: &mut TokioIo<Upgraded>, channel: u8, data: &[u8]) {
    let length = u8::try_from(data.len() + 1).unwrap();
    assert!(length < 126);
    let frame = [&[0x82, length, channel], data].concat();
    io.write_all(&frame).await.unwrap();
}

/// Says something on standard output and standard error, and that all went well.
async fn speak(upgraded: Upgraded, text: &str) {
    let mut io = TokioIo::new(upgraded);
    for part in text.as_bytes().chunks(100) {
        frame(&mut io, 1, part).await;
    }
    frame(&mut io, 2, b"and an error\n").await;
    frame(&mut io, 3, br#"{"metadata":{},"status":"Success"}"#).await;
    io.write_all(&[0x88, 2, 3, 0xe8]).await.unwrap();
    io.flush().await.unwrap();
    let _ = io.read(&mut [0; 64]).await;
}

async fn echo(upgraded: Upgraded) {
    let mut io = TokioIo::new(upgraded);
    let mut buffer = [0; 4096];
    loop {
        match io.read(&mut buffer).await {
            Ok(n) if n > 0 => io.write_all(&buffer[..n]).await.unwrap(),
            _ => return,
        }
    }
}
