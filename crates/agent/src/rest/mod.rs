//! The API server: paths to answers. What an answer says is made elsewhere.
mod capture;
mod endpoints;
mod fqdn;
mod maps;
mod monitor;
mod options;
mod policy;
mod pools;
mod services;
mod tables;

use crate::{agent::Agent, check, serve::healthy, status};
use anyhow::Result;
use api::{ApiError, MAX_BODY, Validate};
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{MatchedPath, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use runtime::stop::Stop;
use std::{sync::Arc, time::Instant};
use tokio::net::{TcpListener, UnixListener};

pub(crate) use endpoints::device_mode;

/// The agent as handlers get it.
type Shared = State<Arc<Agent>>;

/// An [`ApiError`] as an HTTP answer.
#[derive(Debug)]
struct Refusal(ApiError);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

type Answer<T> = Result<T, Refusal>;

/// Serves the API until `stop`.
///
/// # Errors
/// The listener fails.
pub async fn serve(agent: Arc<Agent>, listener: UnixListener, stop: Stop) -> Result<()> {
    let router = router(agent);
    let stopped = async move { stop.stopped().await };
    Ok(axum::serve(listener, router)
        .with_graceful_shutdown(stopped)
        .await?)
}

/// Serves `GET /healthz` for liveness probes until `stop`.
pub async fn serve_health(agent: Arc<Agent>, listener: TcpListener, stop: Stop) {
    let answer = |State(agent): Shared| async move {
        if healthy(&agent) {
            (StatusCode::OK, "ok\n")
        } else {
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "failed; see the agent's status\n",
            )
        }
    };
    let router = Router::new()
        .route("/healthz", get(answer))
        .with_state(agent);
    if let Err(error) = axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.stopped().await })
        .await
    {
        tracing::warn!(%error, "the health server ended");
    }
}

fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route(
            "/v1/healthz",
            get(|State(agent): Shared| async move { Json(status::status(&agent)) }),
        )
        .route(
            "/v1/config",
            get(|State(agent): Shared| async move { Json(status::config(&agent.loaded)) }),
        )
        .route("/v1/ipam", post(endpoints::allocate))
        .route("/v1/ipam/{ip}", delete(endpoints::release))
        .route(
            "/v1/endpoint",
            get(endpoints::list).delete(endpoints::remove_container),
        )
        .route(
            "/v1/endpoint/{id}",
            get(endpoints::one)
                .put(endpoints::create)
                .delete(endpoints::remove),
        )
        .route(
            "/v1/endpoint/{id}/config",
            get(options::list).patch(options::change),
        )
        .route("/v1/map", get(maps::list))
        .route("/v1/map/{name}", get(maps::one))
        .route("/v1/policy", get(policy::list))
        .route("/v1/policy/selectors", get(policy::selectors))
        .route("/v1/policy/revision", get(policy::revision))
        .route("/v1/policy/why", get(policy::why))
        .route("/v1/policy/check", post(policy::check))
        .route("/v1/policy/diff", post(policy::diff))
        .route("/v1/fqdn/cache", get(fqdn::list).delete(fqdn::clean))
        .route("/v1/fqdn/names", get(fqdn::selectors))
        .route("/v1/service", get(services::list))
        .route("/v1/service/why", get(services::why))
        .route("/v1/service/{id}", get(services::one))
        .route("/v1/identity", get(policy::identities))
        .route("/v1/identity/{id}", get(policy::identity))
        .route("/v1/ip", get(tables::ips))
        .route("/v1/cluster/nodes", get(tables::nodes))
        .route("/v1/statedb", get(tables::list))
        .route("/v1/statedb/{table}", get(tables::one))
        .route("/v1/monitor", get(monitor::stream))
        .route("/v1/capture", post(capture::stream))
        .route("/v1/check", get(checked))
        .fallback(|| async { Refusal(ApiError::not_found("this path")) })
        .layer(from_fn_with_state(agent.clone(), measure))
        .with_state(agent)
}

/// Measures requests by path pattern, method and status.
async fn measure(
    State(agent): Shared,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().as_str().to_owned();
    let path = path.map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    agent
        .requests
        .observe(path, method, response.status().as_u16(), started.elapsed());
    response
}

async fn checked(State(agent): Shared) -> Answer<Json<api::CheckReport>> {
    blocking(move || check::check(&agent)).await.map(Json)
}

/// Runs `work`, which may wait for locks or the kernel, off the async workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Refusal(ApiError::new(
            api::ErrorCode::Internal,
            "the request's task ended early; see the agent's log",
        ))),
    }
}

/// Reads and checks a request's body.
async fn body<T: serde::de::DeserializeOwned + Validate>(body: Body) -> Answer<T> {
    body_up_to(MAX_BODY, body).await
}

/// As [`body`], of a body that may have this many bytes.
async fn body_up_to<T: serde::de::DeserializeOwned + Validate>(
    most: usize,
    body: Body,
) -> Answer<T> {
    let bytes = to_bytes(body, most + 1).await;
    let bytes = bytes.map_err(|error| {
        ApiError::new(
            api::ErrorCode::TooLarge,
            format!("the body cannot be read ({error}); at most {most} bytes are taken"),
        )
    })?;
    Ok(api::parse_up_to(most, &bytes)?)
}

/// A failed read of the kernel's state.
fn kernel(error: &datapath::Error) -> ApiError {
    ApiError::new(api::ErrorCode::Internal, error.to_string())
}
