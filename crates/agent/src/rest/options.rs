//! Options of endpoints: what holds, and the one that can be changed.
use super::{Answer, Shared, blocking, body, endpoints};
use crate::{agent::Agent, endpoint::Enforcer, policy::HOST_ENDPOINT, setup};
use api::{ApiError, Endpoint, EndpointConfig, ErrorCode, path::EndpointId};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
};
use model::LocalNode;

/// The option that can be changed.
const AUDIT: &str = "PolicyAuditMode";

/// `GET /v1/endpoint/{id}/config`.
pub(super) async fn list(
    State(agent): Shared,
    Path(id): Path<String>,
) -> Answer<Json<EndpointConfig>> {
    let id: EndpointId = id.parse()?;
    Ok(Json(options(&agent, &endpoints::find(&agent, &id)?)))
}

/// `PATCH /v1/endpoint/{id}/config`: the options that the body names; the answer has all.
pub(super) async fn change(
    State(agent): Shared,
    Path(id): Path<String>,
    raw: Body,
) -> Answer<Json<EndpointConfig>> {
    let id: EndpointId = id.parse()?;
    let wanted: EndpointConfig = body(raw).await?;
    blocking(move || changed(&agent, &id, &wanted))
        .await
        .map(Json)
}

fn changed(
    agent: &Agent,
    id: &EndpointId,
    wanted: &EndpointConfig,
) -> Result<EndpointConfig, ApiError> {
    let before = endpoints::find(agent, id)?;
    let known = options(agent, &before);
    if let Some(name) = wanted.options.keys().find(|name| *name != AUDIT) {
        let what = if known.options.contains_key(name) {
            format!("{name} cannot be changed while the agent runs")
        } else {
            format!("`{}` is no option of an endpoint", name.escape_default())
        };
        return Err(ApiError::bad_request(format!(
            "{what}; accepted: {AUDIT}=Enabled or Disabled"
        )));
    }
    if let Some(value) = wanted.options.get(AUDIT) {
        let audit = switch(value)?;
        if before.id == HOST_ENDPOINT {
            set_host_audit(agent, audit)?;
        } else {
            agent.manager.set_audit(id, audit)?;
        }
        tracing::info!(endpoint = before.id, audit, "audit of policy set");
        agent.monitor.agent_event(format!(
            "endpoint {}: {AUDIT} is {}",
            before.id,
            word(audit)
        ));
    }
    Ok(options(agent, &endpoints::find(agent, id)?))
}

/// The node itself: its records first, then what is kept for the next start, then its connections.
fn set_host_audit(agent: &Agent, audit: bool) -> Result<(), ApiError> {
    let internal = |what: String| ApiError::new(ErrorCode::Internal, what);
    let mut txn = agent.tables.db.write();
    let local = agent.tables.local_node.iter(&txn).next().cloned();
    let local = local.ok_or_else(|| internal("the node's own row is missing".to_owned()))?;
    let next = LocalNode {
        policy_audit: Some(audit),
        ..LocalNode::clone(&local)
    };
    let (settings, pair) = (&agent.loaded.settings, &agent.facts.pair);
    setup::write_addresses(&agent.datapath, settings, &next, pair)
        .map_err(|error| internal(format!("{error:#}")))?;
    let inserted = agent.tables.local_node.insert(&mut txn, next);
    inserted.map_err(|error| internal(error.to_string()))?;
    txn.commit();
    agent.policy.ask_again();
    agent.manager.save()
}

/// All options of an endpoint, those too that are the same for all.
fn options(agent: &Agent, endpoint: &Endpoint) -> EndpointConfig {
    let settings = &agent.loaded.settings;
    let is_pod = endpoint.id != HOST_ENDPOINT;
    let aggregation = settings.get("monitor-aggregation").unwrap_or_default();
    let switches = [
        ("ConntrackAccounting", settings.bpf_conntrack_accounting),
        ("ConntrackLocal", false),
        ("Debug", settings.debug),
        ("DebugLB", false),
        ("DebugPolicy", false),
        ("DropNotification", true),
        ("PolicyAccounting", false),
        (AUDIT, endpoint.policy_audit),
        ("PolicyVerdictNotification", true),
        ("SourceIPVerification", is_pod),
        ("TraceNotification", true),
    ];
    let switches = switches.map(|(name, on)| (name.to_owned(), word(on).to_owned()));
    let level = ("MonitorAggregationLevel".to_owned(), aggregation);
    EndpointConfig {
        options: switches.into_iter().chain([level]).collect(),
    }
}

const fn word(on: bool) -> &'static str {
    if on { "Enabled" } else { "Disabled" }
}

/// A switch in one of the words that people write.
fn switch(text: &str) -> Result<bool, ApiError> {
    match text.to_ascii_lowercase().as_str() {
        "enabled" | "enable" | "true" | "on" | "1" => Ok(true),
        "disabled" | "disable" | "false" | "off" | "0" => Ok(false),
        _ => Err(ApiError::bad_request(format!(
            "{AUDIT}: `{}` is no switch; accepted: Enabled, Disabled",
            text.escape_default()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read_in_many_words_and_refused_in_one_line() {
        for (text, on) in [
            ("Enabled", true),
            ("true", true),
            ("ON", true),
            ("Disabled", false),
            ("0", false),
        ] {
            assert_eq!(switch(text).unwrap(), on, "{text}");
        }
        let error = switch("may\nbe").unwrap_err();
        assert_eq!(
            error.message,
            "PolicyAuditMode: `may\\nbe` is no switch; accepted: Enabled, Disabled"
        );
    }
}
