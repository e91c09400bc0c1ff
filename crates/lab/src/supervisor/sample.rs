//! The sample pods: two of the built-in server on every node.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client};
use serde_json::json;

use crate::state::LabState;

/// Creates those that are missing, in namespace `default`; the names of all.
pub async fn create(client: &Client, state: &LabState) -> anyhow::Result<Vec<String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let mut names = Vec::new();
    for node in &state.nodes {
        for letter in ["a", "b"] {
            let name = format!("echo-{}-{letter}", node.name);
            let pod = serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"app": "echo", "hypha.io/sample": "true"}},
                "spec": {"nodeName": node.name, "terminationGracePeriodSeconds": 2,
                    "containers": [{"name": "echo", "image": "hypha/echo", "ports": [{"containerPort": 8080}]}]},
            }))?;
            match pods.create(&PostParams::default(), &pod).await {
                // It is there already: that is what was asked for.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                made => drop(made.with_context(|| format!("pod {name}"))?),
            }
            names.push(name);
        }
    }
    Ok(names)
}

/// A condition: the pod is Ready.
pub fn pod_ready() -> impl Condition<Pod> {
    |pod: Option<&Pod>| {
        let conditions = pod
            .and_then(|p| p.status.as_ref())
            .and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    }
}

/// Waits until all are ready.
pub async fn wait_ready(client: &Client, names: &[String], limit: Duration) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let all = names.iter().map(async |name| {
        let ready = await_condition(pods.clone(), name, pod_ready());
        let waited = tokio::time::timeout(limit, ready).await;
        waited
            .with_context(|| format!("pod {name} is not ready after {limit:?}"))?
            .with_context(|| format!("pod {name}"))
    });
    futures::future::try_join_all(all).await.map(drop)
}
