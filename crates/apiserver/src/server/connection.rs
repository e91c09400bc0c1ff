//! Connections: accepted, secured, served, and ended with the server.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::super::auth::{Peer, User};
use super::super::http;
use super::Shared;

/// How many connections one listener has at a time; more wait.
const MAX_CONNECTIONS: usize = 4096;
/// How long the agreement on TLS may take, and the head of a request.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// How often a silent HTTP/2 client is asked whether it is there, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(20);
/// How many requests one HTTP/2 connection may have under way.
const MAX_STREAMS: u32 = 1000;
/// How long running requests have when the server ends.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a failed accept: the process is out of files, for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a listener until the server ends. Clients without a certificate are `peer`.
pub(super) async fn serve(
    server: Arc<Shared>,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    peer: Peer,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut stopping = server.stopping.subscribe();
    let mut stopped = pin!(async move {
        // An error means that the last handle is gone, which ends the server too.
        let _ = stopping.wait_for(|stop| *stop).await;
    });
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let permit = Arc::clone(&free).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = &mut stopped => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%address, %error, "cannot accept an API connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = connection(Arc::clone(&server), stream, tls.clone(), peer.clone());
        connections.spawn(async move {
            let served = connection.await;
            drop(permit);
            if let Err(error) = served {
                tracing::debug!(%address, %error, "an API connection ended");
            }
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Whoever does not finish in time is cut off when the set is dropped.
    let _ = timeout(END_LIMIT, all).await;
    Ok(())
}

async fn connection(
    server: Arc<Shared>,
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    peer: Peer,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let Some(config) = tls else {
        return requests(server, stream, peer).await;
    };
    let stream = timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream)).await??;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let known = certificates.first().and_then(User::of_certificate);
    let peer = known.map_or(peer, |user| Peer::Known(Arc::new(user)));
    requests(server, stream, peer).await
}

async fn requests(
    server: Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut stopping = server.stopping.subscribe();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (server, peer) = (Arc::clone(&server), peer.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            Ok::<_, Infallible>(http::handle(State(server), request).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT)
        .max_concurrent_streams(MAX_STREAMS);
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    tokio::select! {
        served = &mut connection => return served,
        _ = stopping.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
