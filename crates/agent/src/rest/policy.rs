//! Policies, selectors, identities, and questions about verdicts.
use super::{Answer, Refusal, Shared, blocking, body_up_to};
use api::{
    ApiError, IdentityInfo, MAX_PROPOSAL, PolicyCheck, PolicyDiff, PolicyList, PolicyProposal,
    PolicyRevision, SelectorInfo, Why, WhyQuery,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use std::time::Duration;

/// The longest wait for a revision.
const LONGEST_WAIT: u64 = 300;

/// `GET /v1/policy`.
pub(super) async fn list(State(agent): Shared) -> Answer<Json<PolicyList>> {
    blocking(move || Ok(Json(agent.policy.list()))).await
}

/// `GET /v1/policy/selectors`.
pub(super) async fn selectors(State(agent): Shared) -> Answer<Json<Vec<SelectorInfo>>> {
    blocking(move || Ok(Json(agent.policy.selectors()))).await
}

#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    #[serde(default)]
    wait: u64,
    #[serde(default)]
    timeout: u64,
}

/// `GET /v1/policy/revision[?wait=REV&timeout=SECONDS]`.
pub(super) async fn revision(
    State(agent): Shared,
    query: Result<Query<Wait>, QueryRejection>,
) -> Answer<Json<PolicyRevision>> {
    let Query(query) = query.map_err(|error| not_understood(&error))?;
    let mut realized = agent.policy.realized();
    let reached = realized.wait_for(|realized| *realized >= query.wait);
    let limit = Duration::from_secs(query.timeout.min(LONGEST_WAIT));
    // Whether it was reached stands in the answer.
    let _ = tokio::time::timeout(limit, reached).await;
    blocking(move || Ok(Json(agent.policy.revisions()))).await
}

/// `GET /v1/policy/why?…`.
pub(super) async fn why(
    State(agent): Shared,
    query: Result<Query<WhyQuery>, QueryRejection>,
) -> Answer<Json<Why>> {
    let Query(query) = query.map_err(|error| not_understood(&error))?;
    blocking(move || agent.policy.why(&query)).await.map(Json)
}

/// `POST /v1/policy/check`.
pub(super) async fn check(State(agent): Shared, raw: Body) -> Answer<Json<PolicyCheck>> {
    let proposal: PolicyProposal = body_up_to(MAX_PROPOSAL, raw).await?;
    blocking(move || agent.policy.check(&proposal))
        .await
        .map(Json)
}

/// `POST /v1/policy/diff`.
pub(super) async fn diff(State(agent): Shared, raw: Body) -> Answer<Json<PolicyDiff>> {
    let proposal: PolicyProposal = body_up_to(MAX_PROPOSAL, raw).await?;
    blocking(move || agent.policy.diff(&proposal))
        .await
        .map(Json)
}

/// `GET /v1/identity`.
pub(super) async fn identities(State(agent): Shared) -> Json<Vec<IdentityInfo>> {
    Json(agent.policy.identities(None))
}

/// `GET /v1/identity/{id}`.
pub(super) async fn identity(
    State(agent): Shared,
    Path(id): Path<String>,
) -> Answer<Json<IdentityInfo>> {
    let number: u32 = id.parse().map_err(|_| {
        ApiError::bad_request(format!("`{}` is no identity", id.escape_default()))
            .detail("a number, as 4711")
    })?;
    let found = agent.policy.identities(Some(number)).pop();
    found
        .map(Json)
        .ok_or_else(|| Refusal(ApiError::not_found(format!("identity {number}"))))
}

pub(super) fn not_understood(error: &QueryRejection) -> ApiError {
    ApiError::bad_request(format!(
        "the query is not understood: {}",
        error.body_text()
    ))
}
