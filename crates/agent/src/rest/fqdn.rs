//! Names that pods were told of.
use super::{Answer, Refusal, Shared, blocking, policy::not_understood};
use crate::fqdn::Names;
use api::{ApiError, FqdnCleaned, FqdnLookup, FqdnNames, FqdnQuery};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use policy::rule::DnsRule;

/// The pattern of a query; empty for every name.
fn pattern(query: Result<Query<FqdnQuery>, QueryRejection>) -> Answer<String> {
    let Query(query) = query.map_err(|error| not_understood(&error))?;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
    let pattern = query.matchpattern;
    if !pattern.bytes().all(known) {
        let text = format!("`{}` is no pattern of names", pattern.escape_default());
        let error = ApiError::bad_request(text).detail("letters, digits, -, _, . and *");
        return Err(Refusal(error));
    }
    Ok(pattern)
}

fn names(agent: &crate::agent::Agent) -> Option<Names> {
    agent.names.clone()
}

/// `GET /v1/fqdn/cache[?matchpattern=…]`.
pub(super) async fn list(
    State(agent): Shared,
    query: Result<Query<FqdnQuery>, QueryRejection>,
) -> Answer<Json<Vec<FqdnLookup>>> {
    let pattern = pattern(query)?;
    blocking(move || {
        let mut all = names(&agent)
            .map(|names| names.lookups())
            .unwrap_or_default();
        let rule = DnsRule::MatchPattern(pattern.clone());
        let name = |one: &FqdnLookup| policy::rule::canonical(&one.fqdn);
        all.retain(|one| pattern.is_empty() || rule.is_met_by(&name(one)));
        Ok(Json(all))
    })
    .await
}

/// `DELETE /v1/fqdn/cache[?matchpattern=…]`.
pub(super) async fn clean(
    State(agent): Shared,
    query: Result<Query<FqdnQuery>, QueryRejection>,
) -> Answer<Json<FqdnCleaned>> {
    let pattern = pattern(query)?;
    blocking(move || {
        let cleaned = names(&agent).map_or(0, |names| names.clear(&pattern));
        Ok(Json(FqdnCleaned { cleaned }))
    })
    .await
}

/// `GET /v1/fqdn/names`.
pub(super) async fn selectors(State(agent): Shared) -> Json<FqdnNames> {
    Json(
        names(&agent)
            .map(|names| names.selectors())
            .unwrap_or_default(),
    )
}
