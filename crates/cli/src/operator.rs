//! The operator as `hypha status` shows it: by its lease, and by what it says of the nodes.
use std::time::Duration;

use ::kube::api::{Api, ListParams};
use anyhow::Result;
use k8s::{
    Client,
    crd::{CiliumNode, CiliumPodIpPool},
};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use serde::Serialize;

use crate::kube::{ClusterArgs, block_on};

/// The lease of the leader.
const LEASE: &str = "cilium-operator-resource-lock";
/// How long the API server may take: without it, too, there is a status.
const LIMIT: Duration = Duration::from_secs(3);

/// What is known of the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorState {
    /// Who leads; nothing if nobody does.
    pub leader: String,
    /// What is wrong, one line each.
    pub errors: Vec<String>,
}

/// Asks the API server; none if there is no operator, or no API server that could be asked.
#[must_use]
pub fn look(args: &ClusterArgs) -> Option<OperatorState> {
    let asked = block_on(async {
        let client = args.client().await?;
        let limited = tokio::time::timeout(LIMIT, ask(&client, &args.namespace));
        limited.await?
    });
    asked.ok().flatten()
}

async fn ask(client: &Client, namespace: &str) -> Result<Option<OperatorState>> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let Some(lease) = leases.get_opt(LEASE).await? else {
        return Ok(None);
    };
    let mut state = judge(&lease, Timestamp::now());
    let nodes: Api<CiliumNode> = Api::all(client.clone());
    // No kind, no nodes: not this one's business.
    if let Ok(nodes) = nodes.list(&ListParams::default()).await {
        state
            .errors
            .extend(nodes.items.iter().filter_map(complaint));
    }
    let pools: Api<CiliumPodIpPool> = Api::all(client.clone());
    if let Ok(pools) = pools.list(&ListParams::default()).await {
        state.errors.extend(operator::pool_errors(pools.items));
    }
    Ok(Some(state))
}

fn judge(lease: &Lease, now: Timestamp) -> OperatorState {
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    let renewed = spec.renew_time.map_or(0, |time| time.0.as_second());
    let age = now.as_second().saturating_sub(renewed).max(0);
    let duration = i64::from(spec.lease_duration_seconds.unwrap_or(0));
    let mut state = OperatorState {
        leader: holder,
        errors: Vec::new(),
    };
    if state.leader.is_empty() {
        state.errors.push("no operator leads".to_owned());
    } else if age > duration {
        let leader = std::mem::take(&mut state.leader);
        let last = crate::dbg::duration(age.unsigned_abs());
        state
            .errors
            .push(format!("{leader} gave its last sign of life {last} ago"));
    }
    state
}

fn complaint(node: &CiliumNode) -> Option<String> {
    let error = &node.status.ipam.operator_status.error;
    let name = node.metadata.name.as_deref().unwrap_or_default();
    (!error.is_empty()).then(|| format!("node {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(holder: &str) -> Lease {
        serde_json::from_value(json!({"metadata": {}, "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": "2030-01-01T00:00:00.000000Z"}}))
        .unwrap()
    }

    #[test]
    fn a_leader_that_does_not_renew_is_an_error() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let state = judge(&lease("a"), at("2030-01-01T00:00:10Z"));
        assert_eq!((state.leader.as_str(), state.errors.len()), ("a", 0));
        let state = judge(&lease("a"), at("2030-01-01T00:01:10Z"));
        assert_eq!(state.errors, ["a gave its last sign of life 1m10s ago"]);
        let state = judge(&lease(""), at("2030-01-01T00:00:01Z"));
        assert_eq!(state.errors, ["no operator leads"]);
    }

    #[test]
    fn what_nodes_lack_is_said() {
        let node: CiliumNode = serde_json::from_value(json!({
            "metadata": {"name": "n1"}, "status": {"ipam": {"operator-status": {"error": "no /24 is left"}}}}))
        .unwrap();
        assert_eq!(complaint(&node).unwrap(), "node n1: no /24 is left");
        assert_eq!(complaint(&CiliumNode::default()), None);
    }
}
