//! `GET /healthz`, and `GET /metrics`.
use crate::metrics::Metrics;
use anyhow::{Context, Result};
use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use runtime::{
    health::{Health, Level},
    listen_address,
    metrics::{CONTENT_TYPE, text},
    settings::OperatorSettings,
    stop::Stop,
};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Starts the servers that the settings ask for.
///
/// # Errors
/// An address is in use, or none.
pub(crate) async fn start(
    settings: &OperatorSettings,
    health: &Health,
    metrics: &Metrics,
    stop: &Stop,
) -> Result<()> {
    let (api, prometheus) = (
        &settings.operator_api_serve_addr,
        &settings.operator_prometheus_serve_addr,
    );
    if !api.is_empty() {
        spawn(api, "operator-api-serve-addr", health_routes(health), stop).await?;
    }
    if !prometheus.is_empty() {
        let routes = metrics_routes(metrics);
        spawn(prometheus, "operator-prometheus-serve-addr", routes, stop).await?;
    }
    Ok(())
}

async fn spawn(given: &str, key: &str, routes: Router, stop: &Stop) -> Result<()> {
    let address = listen_address(given);
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("listening at {address} ({key})"))?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let stopped = async move { stop.stopped().await };
        if let Err(error) = axum::serve(listener, routes)
            .with_graceful_shutdown(stopped)
            .await
        {
            tracing::warn!(%error, "a server ended");
        }
    });
    Ok(())
}

fn health_routes(health: &Health) -> Router {
    let (brief, all) = (health.clone(), health.clone());
    let answer = move || {
        let worst = brief.worst();
        async move {
            match worst {
                Level::Failed => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "failed; see /v1/status\n",
                ),
                _ => (StatusCode::OK, "ok\n"),
            }
        }
    };
    Router::new()
        .route("/healthz", get(answer.clone()))
        .route("/v1/healthz", get(answer))
        .route(
            "/v1/status",
            get(move || {
                let reports = all.reports();
                async move { Json(reports) }
            }),
        )
}

fn metrics_routes(metrics: &Metrics) -> Router {
    let registry = Arc::new(metrics.registry());
    let answer = move || {
        let written = text(&registry);
        async move {
            match written {
                Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
                Err(error) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
                }
            }
        }
    };
    Router::new().route("/metrics", get(answer))
}
