//! Counts of flows for Prometheus, at a port of their own.
use crate::agent::Agent;
use axum::{
    Router, extract::State, http::StatusCode, http::header, response::IntoResponse,
    response::Response, routing::get,
};
use flow::metrics::{Item, ItemError, Metrics};
use runtime::{health::Component, metrics::CONTENT_TYPE, stop::Stop};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tables::ChangeKind;
use tokio::net::TcpListener;

/// How long series that name a pod outlive it.
const KEPT: Duration = Duration::from_secs(60);
/// How often to look for such series, and to try again to listen.
const LOOK: Duration = Duration::from_secs(5);

/// The metrics that a setting asks for, or a file may; none if neither is there.
pub(super) fn wanted(
    setting: &str,
    exemplars: bool,
    file: &str,
) -> Result<Option<Metrics>, ItemError> {
    if !file.is_empty() {
        return Metrics::new(&[]).map(Some);
    }
    let mut items: Vec<Item> = setting.split_whitespace().map(Item::parse).collect();
    if items.is_empty() {
        return Ok(None);
    }
    if !exemplars {
        for item in &mut items {
            item.options.remove("exemplars");
        }
    }
    Metrics::new(&items).map(Some)
}

/// Serves `metrics` at `address`, and forgets what is gone, until `stop`.
pub(super) async fn run(
    agent: Arc<Agent>,
    metrics: Metrics,
    address: String,
    health: Component,
    stop: Stop,
) {
    tokio::spawn(forget(agent, metrics.clone(), stop.clone()));
    if address.is_empty() {
        health.ok("counted, but served nowhere (hubble-metrics-server)");
        return;
    }
    let address = runtime::listen_address(&address);
    let listener = loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(error) => health.degraded(format!(
                "listening at {address} (hubble-metrics-server): {error}"
            )),
        }
        if stop.or(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    };
    health.ok("metrics of flows are served");
    let router = Router::new()
        .route("/metrics", get(answer))
        .with_state(metrics);
    if let Err(error) = axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.stopped().await })
        .await
    {
        tracing::warn!(%error, "the server of flow metrics ended");
    }
}

async fn answer(State(metrics): State<Metrics>) -> Response {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics could not be written\n",
        )
            .into_response(),
    }
}

/// Takes series away that name pods of this node, a minute after these are gone.
async fn forget(agent: Arc<Agent>, metrics: Metrics, stop: Stop) {
    let tables = &agent.tables;
    let mut tracker = tables.db.track(&tables.cilium_endpoints);
    let mut local = tables.db.track(&tables.endpoints);
    let mut gone: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let snapshot = tables.db.snapshot();
        let mut note = |pod: String, kind: ChangeKind| match kind {
            ChangeKind::Upsert => drop(gone.remove(&pod)),
            ChangeKind::Delete => {
                gone.entry(pod).or_insert_with(Instant::now);
            }
        };
        for change in tracker.changes(&snapshot) {
            note(change.row.key.to_string(), change.kind);
        }
        for change in local.changes(&snapshot) {
            note(change.row.pod.to_string(), change.kind);
        }
        drop(snapshot);
        gone.retain(|pod, since| {
            let over = since.elapsed() >= KEPT;
            if over {
                metrics.forget(pod);
            }
            !over
        });
        if stop.or(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}
