//! The HTTP side of the built-in server.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

/// The most that `/bytes/N` gives and `/echo` takes.
const MAX_BODY: usize = 64 << 20;

pub(super) async fn serve(listener: TcpListener) {
    let app = Router::new()
        .route("/json", get(json))
        .route("/bytes/{count}", get(bytes))
        .route("/echo", post(echo))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(text)
        .layer(DefaultBodyLimit::max(MAX_BODY));
    if let Err(e) = axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .await
    {
        eprintln!("the HTTP server stopped: {e}");
    }
}

pub(super) fn hostname() -> String {
    nix::unistd::gethostname()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// All addresses of this network namespace.
pub(super) fn addresses() -> Vec<IpAddr> {
    let all = nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|i| i.address);
    let ip = |a: nix::sys::socket::SockaddrStorage| {
        let v4 = a.as_sockaddr_in().map(|s| IpAddr::V4(s.ip()));
        v4.or_else(|| a.as_sockaddr_in6().map(|s| IpAddr::V6(s.ip())))
    };
    all.filter_map(ip).collect()
}

/// The addresses of this network namespace, without loopback and link-local ones.
fn own_addresses() -> Vec<IpAddr> {
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    addresses()
        .into_iter()
        .filter(|ip| !ip.is_loopback() && !link_local(ip))
        .collect()
}

/// Lines as users of `whoami` images know them.
async fn text(ConnectInfo(from): ConnectInfo<SocketAddr>, request: Request) -> String {
    let mut out = format!("Hostname: {}\n", hostname());
    for ip in own_addresses() {
        let _ = writeln!(out, "IP: {ip}");
    }
    let _ = writeln!(out, "RemoteAddr: {}", super::plain(from));
    let _ = writeln!(
        out,
        "{} {} {:?}",
        request.method(),
        request.uri(),
        request.version()
    );
    for (name, value) in request.headers() {
        let _ = writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    out
}

async fn json(ConnectInfo(from): ConnectInfo<SocketAddr>) -> Json<serde_json::Value> {
    let from = super::plain(from);
    Json(serde_json::json!({
        "hostname": hostname(),
        "addresses": own_addresses(),
        "client": from.ip(),
        "clientPort": from.port(),
    }))
}

async fn bytes(Path(count): Path<usize>) -> Response {
    if count > MAX_BODY {
        let text = format!("at most {MAX_BODY} bytes\n");
        return (axum::http::StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
    }
    Body::from(vec![b'x'; count]).into_response()
}

async fn echo(body: Bytes) -> Bytes {
    body
}
