//! What runs of us in a cluster, as its API server tells: workloads, pods, images.
use std::collections::{BTreeMap, BTreeSet};

use ::install::apply::{Rollout, Workload};
use ::kube::api::{Api, DynamicObject, ListParams};
use anyhow::Result;
use k8s::{Client, crd};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::Serialize;

use crate::kube::answer;

/// A DaemonSet or Deployment, and its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// `DaemonSet` or `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// How many pods there are to be.
    pub desired: i32,
    /// How many are ready.
    pub ready: i32,
    /// How many were ready long enough.
    pub available: i32,
    /// All of them are up, and of the newest template.
    pub complete: bool,
    /// Pods of which a container runs.
    pub running: usize,
    /// How many pods have which image.
    pub images: BTreeMap<String, usize>,
    /// Pod and what is wrong with it; no pod for what is wrong with all.
    pub errors: Vec<(String, String)>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workloads {
    /// Agents, operator, relay.
    pub components: Vec<Component>,
    /// Version of the chart, where it was installed as a release.
    pub chart: String,
    /// Pods with addresses of their own.
    pub pods: usize,
    /// Those of them that have a CiliumEndpoint.
    pub managed: usize,
}

/// Asks the API server; none if nothing is installed as pods.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn look(client: &Client, namespace: &str) -> Result<Option<Workloads>> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let agents = answer(sets.get_opt("cilium")).await?;
    let mut found = Workloads::default();
    for (name, selector) in [
        ("cilium-operator", "io.cilium/app=operator"),
        ("hubble-relay", "k8s-app=hubble-relay"),
    ] {
        if answer(deployments.get_opt(name)).await?.is_some() {
            let workload = Workload::Deployment(name.to_owned());
            let part = component(client, namespace, &workload, selector).await?;
            found.components.push(part);
        }
    }
    if agents.is_none() && found.components.is_empty() {
        return Ok(None);
    }
    if answer(sets.get_opt("cilium-envoy")).await?.is_some() {
        let workload = Workload::DaemonSet("cilium-envoy".to_owned());
        let part = component(client, namespace, &workload, "k8s-app=cilium-envoy").await?;
        found.components.insert(0, part);
    }
    if let Some(set) = agents {
        let metadata = &set.metadata;
        let ours = metadata
            .annotations
            .iter()
            .flatten()
            .any(|(key, _)| key == "meta.helm.sh/release-name");
        let version = metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get("app.kubernetes.io/version"));
        found.chart = version.filter(|_| ours).cloned().unwrap_or_default();
        let workload = Workload::DaemonSet("cilium".to_owned());
        let part = component(client, namespace, &workload, "k8s-app=cilium").await?;
        found.components.insert(0, part);
    }
    (found.managed, found.pods) = managed(client).await?;
    Ok(Some(found))
}

async fn component(
    client: &Client,
    namespace: &str,
    workload: &Workload,
    selector: &str,
) -> Result<Component> {
    let rollout = answer(Rollout::of(client, namespace, workload))
        .await?
        .unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = answer(pods.list(&ListParams::default().labels(selector))).await?;
    Ok(judge(workload, rollout, &pods.items))
}

fn judge(workload: &Workload, rollout: Rollout, pods: &[Pod]) -> Component {
    let (kind, name) = match workload {
        Workload::DaemonSet(name) => ("DaemonSet", name),
        Workload::Deployment(name) => ("Deployment", name),
    };
    let mut component = Component {
        kind: kind.to_owned(),
        name: name.clone(),
        desired: rollout.desired,
        ready: rollout.ready,
        available: rollout.available,
        complete: rollout.complete(),
        ..Component::default()
    };
    for pod in pods {
        let status = pod.status.clone().unwrap_or_default();
        let pod_name = pod.metadata.name.clone().unwrap_or_default();
        let containers = status.container_statuses.unwrap_or_default();
        if containers.iter().any(|one| {
            one.state
                .as_ref()
                .is_some_and(|state| state.running.is_some())
        }) {
            component.running += 1;
        }
        let spec = pod.spec.clone();
        if let Some(first) = spec.as_ref().and_then(|spec| spec.containers.first()) {
            let image = first.image.clone().unwrap_or_default();
            *component.images.entry(image).or_default() += 1;
        }
        let all = status
            .init_container_statuses
            .unwrap_or_default()
            .into_iter()
            .chain(containers);
        let wrong = all.filter_map(|one| complaint(&one));
        component
            .errors
            .extend(wrong.map(|text| (pod_name.clone(), text)));
    }
    if !component.complete && component.errors.is_empty() {
        let text = format!("{} of {} pods are ready", rollout.ready, rollout.desired);
        let text = if rollout.ready >= rollout.desired {
            format!(
                "{} of {} pods are of the newest settings",
                rollout.updated, rollout.desired
            )
        } else {
            text
        };
        component.errors.push((name.clone(), text));
    }
    component
}

/// Why a container does not run, if it does not and is not about to.
fn complaint(status: &ContainerStatus) -> Option<String> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    if matches!(reason, "" | "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let message = waiting.message.as_deref().unwrap_or_default().trim();
    let last = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    // Its last line is why: what the program said, where there is a message.
    let ended = last.map(|ended| {
        let words = ended.message.as_deref().unwrap_or_default().trim();
        match words.lines().next_back() {
            Some(words) => format!(" (it ended with {}: {words})", ended.exit_code),
            None => format!(" (it ended with {} before)", ended.exit_code),
        }
    });
    let ended = ended.unwrap_or_default();
    Some(
        format!("{}: {reason} {message}{ended}", status.name)
            .trim()
            .to_owned(),
    )
}

/// How many pods that should have an endpoint have one.
async fn managed(client: &Client) -> Result<(usize, usize)> {
    let pods: Api<Pod> = Api::all(client.clone());
    let pods = answer(pods.list(&ListParams::default().fields("status.phase=Running"))).await?;
    let key = |namespace: Option<String>, name: Option<String>| {
        (namespace.unwrap_or_default(), name.unwrap_or_default())
    };
    let wanted: BTreeSet<_> = pods
        .items
        .into_iter()
        .filter(|pod| {
            !pod.spec
                .as_ref()
                .and_then(|spec| spec.host_network)
                .unwrap_or(false)
        })
        .map(|pod| key(pod.metadata.namespace, pod.metadata.name))
        .collect();
    let Some(kind) = crd::ALL.iter().find(|crd| crd.kind == "CiliumEndpoint") else {
        return Ok((0, wanted.len()));
    };
    let endpoints: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
    // No kind, no endpoints.
    let endpoints = answer(endpoints.list_metadata(&ListParams::default())).await;
    let endpoints = endpoints.map(|list| list.items).unwrap_or_default();
    let there = endpoints
        .into_iter()
        .map(|one| key(one.metadata.namespace, one.metadata.name));
    Ok((
        there.filter(|key| wanted.contains(key)).count(),
        wanted.len(),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, state: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name},
            "spec": {"containers": [{"name": "cilium-agent", "image": "reg.example/hypha:v9"}]},
            "status": {"containerStatuses": [{"name": "cilium-agent", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state,
                "lastState": {"terminated": {"exitCode": 2}}}]}}))
        .unwrap()
    }

    #[test]
    fn pods_that_do_not_run_say_why() {
        let workload = Workload::DaemonSet("cilium".into());
        let rollout = Rollout {
            desired: 2,
            updated: 2,
            ready: 1,
            available: 1,
            observed: true,
        };
        let up = pod("a", json!({"running": {}}));
        let down = pod(
            "b",
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5s"}}),
        );
        let found = judge(&workload, rollout, &[up.clone(), down]);
        assert_eq!(
            (found.running, found.images["reg.example/hypha:v9"]),
            (1, 2)
        );
        let error = "cilium-agent: CrashLoopBackOff back-off 5s (it ended with 2 before)";
        assert_eq!(found.errors, [("b".to_owned(), error.to_owned())]);
        let mut told = pod(
            "b",
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5s"}}),
        );
        let status = told.status.as_mut().unwrap();
        let container = &mut status.container_statuses.as_mut().unwrap()[0];
        let ended = container.last_state.as_mut().unwrap().terminated.as_mut();
        ended.unwrap().message = Some("once\nhypha agent: mtu=7 is not accepted\n".into());
        let found = judge(&workload, rollout, &[told]);
        let error = "cilium-agent: CrashLoopBackOff back-off 5s (it ended with 2: hypha agent: mtu=7 is not accepted)";
        assert_eq!(found.errors, [("b".to_owned(), error.to_owned())]);
        // Somebody is starting: nothing is wrong with a pod, but not all is well.
        let starting = pod("b", json!({"waiting": {"reason": "ContainerCreating"}}));
        let found = judge(&workload, rollout, &[up.clone(), starting]);
        assert_eq!(
            found.errors,
            [("cilium".to_owned(), "1 of 2 pods are ready".to_owned())]
        );
        let all = Rollout {
            ready: 2,
            available: 2,
            ..rollout
        };
        assert!(judge(&workload, all, &[up]).errors.is_empty());
    }
}
