//! What load balancers outside ask: whether this node has backends of a service, and whether services are served at all.
use super::{Checks, Services};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use runtime::{health::Component, stop::Stop};
use serde_json::json;
use std::{collections::BTreeMap, net::Ipv6Addr, time::Duration};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// Until a port that somebody else has is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Header that tells how many backends there are.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Serves a port for every service that asks for health checks, until `stop`.
pub async fn serve(services: Services, health: Component, stop: Stop) {
    let mut checks = services.checks();
    let mut servers = JoinSet::new();
    let mut open: BTreeMap<u16, AbortHandle> = BTreeMap::new();
    loop {
        let wanted = checks.borrow_and_update().clone();
        open.retain(|port, server| {
            let wanted = wanted.contains_key(port);
            if !wanted {
                server.abort();
            }
            wanted
        });
        let mut refused = Vec::new();
        for (port, check) in wanted.iter() {
            if open.contains_key(port) {
                continue;
            }
            match bind(*port).await {
                Ok(listener) => {
                    let server = answer_at(listener, *port, services.checks());
                    open.insert(*port, servers.spawn(server));
                }
                Err(error) => refused.push(format!("port {port} of {}: {error}", check.service)),
            }
        }
        // Those that were ended.
        while servers.try_join_next().is_some() {}
        if refused.is_empty() {
            health.ok(format!("{} ports for health checks", open.len()));
        } else {
            health.degraded(format!(
                "health checks cannot be answered: {}",
                refused.join("; ")
            ));
        }
        let again = async {
            tokio::select! {
                changed = checks.changed() => changed.is_ok(),
                () = tokio::time::sleep(AGAIN), if !refused.is_empty() => true,
            }
        };
        if stop.or(again).await != Some(true) {
            return;
        }
    }
}

/// Every address of the node, of both families where it has both.
async fn bind(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
    }
}

async fn answer_at(listener: TcpListener, port: u16, checks: watch::Receiver<Checks>) {
    let answer = move |State(checks): State<watch::Receiver<Checks>>| async move {
        check(&checks.borrow(), port)
    };
    let router = Router::new().fallback(answer).with_state(checks);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!(port, %error, "a server of health checks ended");
    }
}

fn check(checks: &Checks, port: u16) -> Response {
    let Some(check) = checks.get(&port) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let status = StatusCode::from_u16(check.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (WEIGHT, check.local.to_string()),
    ];
    (status, headers, check.body()).into_response()
}

/// Serves `GET /healthz` as kube-proxy does, until `stop`.
pub async fn serve_healthz(services: Services, listener: TcpListener, stop: Stop) {
    let answer = |State(services): State<Services>| async move {
        let core = services.core();
        let fresh = core.missing().is_none() && core.refusal().is_none();
        let now = Timestamp::now();
        let since = Timestamp::try_from(core.updated).unwrap_or(now);
        drop(core);
        let (status, updated) = match fresh {
            true => (StatusCode::OK, now),
            false => (StatusCode::SERVICE_UNAVAILABLE, since),
        };
        let body = json!({"lastUpdated": updated.to_string(), "currentTime": now.to_string()});
        (status, Json(body))
    };
    let router = Router::new()
        .route("/healthz", get(answer))
        .with_state(services);
    if let Err(error) = axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.stopped().await })
        .await
    {
        tracing::warn!(%error, "the health server of services ended");
    }
}
