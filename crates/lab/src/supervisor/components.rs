//! Agent and operator: pods of the chart's DaemonSet and Deployment, rendered with the lab's values and applied as anybody would.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use install::apply::Release;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::runtime::wait::await_condition;
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt, predicates};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::nodes::{self, NodeHealth};
use super::outside::Joined;
use super::owned::LABEL;
use crate::kubelet::logs::{Wanted, previous, select};
use crate::spec::{LabSpec, Routing};
use crate::state::{AGENT, COMPONENTS, LabState, StateDir};
use crate::topology::{CLUSTER_V4, CLUSTER_V6};

/// Label of a node, and its value, that keeps the agent off it.
pub(crate) const STOPPED: (&str, &str) = ("hypha.dev/agent", "stopped");
/// The name of the release.
const RELEASE: &str = "cilium";
/// The DaemonSets and the Deployment of the chart.
const AGENTS: &str = "cilium";
const PROXIES: &str = "cilium-envoy";
const OPERATOR: &str = "cilium-operator";
/// What all pods of the chart have.
const PART_OF: &str = "app.kubernetes.io/part-of=cilium";
/// A container that ended so often does not come up.
const GIVE_UP: i32 = 3;
/// Why a container waits that does not come up by itself.
const STUCK: [&str; 5] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// Whether there is a proxy on every node: its pods come and go with the agents' setting.
fn has_proxies(spec: &LabSpec) -> bool {
    let mut own = spec.agent_config.iter().rev();
    own.find(|(key, _)| key == "enable-l7-proxy")
        .is_none_or(|(_, value)| value == "true")
}

/// The chart's values for a lab.
fn values(spec: &LabSpec, api: &str) -> anyhow::Result<Value> {
    let uri: http::Uri = api.parse().context("the API server has no URL")?;
    let (v4, v6) = (spec.families.v4(), spec.families.v6());
    let native = spec.routing == Routing::Native;
    let range = |wanted: bool, range: &str| {
        if wanted {
            range.to_owned()
        } else {
            String::new()
        }
    };
    let own: BTreeMap<&String, &String> = spec.agent_config.iter().map(|(k, v)| (k, v)).collect();
    Ok(json!({
        "k8sServiceHost": uri.host().unwrap_or_default().trim_matches(['[', ']']),
        "k8sServicePort": uri.port_u16().unwrap_or(443).to_string(),
        "ipam": {"mode": "kubernetes"},
        "ipv4": {"enabled": v4},
        "ipv6": {"enabled": v6},
        // Nobody else serves services here.
        "kubeProxyReplacement": true,
        "devices": ["eth0"],
        "routingMode": if native { "native" } else { "tunnel" },
        "tunnelProtocol": if spec.routing == Routing::Geneve { "geneve" } else { "vxlan" },
        "autoDirectNodeRoutes": native,
        "ipv4NativeRoutingCIDR": range(native && v4, CLUSTER_V4),
        "ipv6NativeRoutingCIDR": range(native && v6, CLUSTER_V6),
        "prometheus": {"enabled": true},
        "l7Proxy": has_proxies(spec),
        "operator": {"replicas": 1},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": STOPPED.0, "operator": "NotIn", "values": [STOPPED.1]}]},
        ]}}},
        "extraConfig": own,
    }))
}

/// Installs the chart as `hypha install` does, with a record by which `hypha upgrade` and Helm know the release. Values that people
/// gave to those stay, beside the lab's own. A cluster that is not the lab's own and has agents already is left as it is: its
/// DaemonSet is for the lab's nodes, too.
pub(super) async fn install(
    client: &Client,
    state: &LabState,
    joined: Option<&Joined>,
) -> anyhow::Result<()> {
    let mut ours = values(&state.spec, &state.api_url_inside)?;
    if let Some(joined) = joined {
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), COMPONENTS);
        let there = sets.get_opt(AGENTS).await.context("the cluster's agents")?;
        if there.is_some_and(|set| set.labels().get(LABEL) != Some(&joined.owner)) {
            return Ok(());
        }
        ours["commonLabels"] = json!({LABEL: joined.owner});
    }
    let mut release = Release {
        client: client.clone(),
        name: RELEASE,
        namespace: COMPONENTS,
        force: true,
        report: &mut |step| tracing::debug!("{step}"),
    };
    let history = release.history().await?;
    let before = history.deployed().map(|record| record.config.clone());
    let mut values = before.clone().unwrap_or_else(|| json!({}));
    install::values::merge(&mut values, ours);
    if before.as_ref() == Some(&values) {
        // From before a restart of the lab.
        return Ok(());
    }
    let plan = release.plan(history, values).await?;
    Ok(release.carry_out(plan).await?)
}

/// Waits until every node's network takes pods, and all agents, proxies and the operator are ready.
pub(super) async fn wait(
    client: &Client,
    spec: &LabSpec,
    dir: &StateDir,
    health: Vec<NodeHealth>,
) -> anyhow::Result<()> {
    let limit = spec.ready_limit;
    let ready = async {
        nodes::wait_ready(health, limit, dir).await?;
        let rolled_out = rolled_out(client, spec);
        tokio::time::timeout(limit, rolled_out)
            .await
            .with_context(|| format!("agents, proxies and operator are not ready after {limit:?}: kubectl -n kube-system describe pods -l {PART_OF}"))?
    };
    tokio::select! {
        ready = ready => ready,
        why = stuck(client, dir) => bail!(why),
    }
}

async fn rolled_out(client: &Client, spec: &LabSpec) -> anyhow::Result<()> {
    let nodes = i32::from(spec.nodes);
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), COMPONENTS);
    let all_ready = |set: Option<&DaemonSet>| {
        let status = set.and_then(|s| s.status.as_ref());
        status.is_some_and(|s| s.number_ready >= nodes.min(s.desired_number_scheduled))
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), COMPONENTS);
    let available = |d: Option<&Deployment>| {
        let status = d.and_then(|d| d.status.as_ref());
        status.and_then(|s| s.available_replicas).unwrap_or(0) > 0
    };
    let agents = await_condition(sets.clone(), AGENTS, all_ready);
    let proxies = async {
        if has_proxies(spec) {
            await_condition(sets, PROXIES, all_ready).await?;
        }
        Ok(())
    };
    let operator = await_condition(deployments, OPERATOR, available);
    tokio::try_join!(agents, proxies, operator)
        .context("waiting for agents, proxies and operator")?;
    Ok(())
}

/// Resolves when a container of agent or operator does not come up by itself, with a text that says which, and why.
async fn stuck(client: &Client, dir: &StateDir) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), COMPONENTS);
    let seen = watcher(pods, watcher::Config::default().labels(PART_OF))
        .default_backoff()
        .applied_objects()
        .predicate_filter(predicates::resource_version, Default::default());
    let mut seen = seen.boxed();
    loop {
        match seen.try_next().await {
            Ok(Some(pod)) => {
                if let Some(why) = trouble(&pod, dir) {
                    return why;
                }
            }
            Ok(None) => return std::future::pending().await,
            Err(e) => tracing::warn!("watching agents and operator: {e}"),
        }
    }
}

fn trouble(pod: &Pod, dir: &StateDir) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().flatten();
    let mut all = all.chain(status.container_statuses.iter().flatten());
    let node = pod.spec.as_ref()?.node_name.as_deref().unwrap_or_default();
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    all.find_map(|container| {
        let how = ended(container).or_else(|| waits(container))?;
        let log = dir.container_log(&namespace, &name, &container.name);
        let words = last_words(&log);
        let which = &container.name;
        Some(format!("{which} on {node} {how}, saying: {words}"))
    })
}

/// It ends again and again.
fn ended(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let waits = state.waiting.as_ref().and_then(|w| w.reason.as_deref());
    let often = container.restart_count >= GIVE_UP && !container.ready;
    if !often && waits != Some("CrashLoopBackOff") {
        return None;
    }
    let last = container.last_state.as_ref()?.terminated.as_ref()?;
    let code = last.exit_code;
    Some(match last.message.as_deref().filter(|_| code == 128) {
        Some(text) => format!("does not start ({text})"),
        None => format!("ends again and again (exit code {code})"),
    })
}

/// It cannot start.
fn waits(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let message = waiting.message.as_deref().unwrap_or_default();
    STUCK
        .contains(&reason)
        .then(|| format!("does not start ({reason}: {message})"))
}

/// The last error in the log of a node's agent, or its last line.
pub(super) fn last_words_of_agent(dir: &StateDir, node: &str) -> String {
    let found = dir.container(AGENT, Some(node)).ok().flatten();
    let log = found.map(|(pod, c)| dir.container_log(&pod.namespace, &pod.name, &c.name));
    log.map_or_else(|| "nothing".to_owned(), |log| last_words(&log))
}

/// The last error in a container's log, or its last line; of the run before, if the present one wrote nothing.
fn last_words(log: &Path) -> String {
    let read = |path: &Path| {
        let data = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&select(&data, &Wanted::default())).into_owned()
    };
    let mut text = read(log);
    if text.trim().is_empty() {
        text = read(&previous(log));
    }
    let error = text.lines().rev().find(|l| l.contains("ERROR"));
    let line = error.or(text.lines().next_back()).unwrap_or("nothing");
    let line = line.split_once("ERROR").map_or(line, |(_, words)| words);
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Families;

    const API: &str = "https://[fd00:10::100]:6443";

    fn settings(spec: &LabSpec) -> Value {
        let request = install::Request {
            values: values(spec, API).unwrap(),
            ..install::Request::default()
        };
        let objects = install::render(&request).unwrap();
        let map = objects.iter().find(|o| o["kind"] == "ConfigMap").unwrap();
        map["data"].clone()
    }

    #[test]
    fn settings_follow_the_spec() {
        let mut spec = LabSpec::default();
        let found = settings(&spec);
        assert_eq!(found["routing-mode"], "tunnel");
        assert_eq!(found["tunnel-protocol"], "vxlan");
        assert_eq!(found["ipam"], "kubernetes");
        assert_eq!(found["prometheus-serve-addr"], ":9962");
        assert_eq!(found["devices"], "eth0");
        assert!(found["ipv4-native-routing-cidr"].is_null());
        assert_eq!(found["enable-l7-proxy"], "true");
        spec = LabSpec {
            routing: Routing::Native,
            families: Families::Ipv6,
            agent_config: vec![
                ("devices".into(), "eth1".into()),
                ("mtu".into(), "1400".into()),
                ("enable-l7-proxy".into(), "false".into()),
            ],
            ..spec
        };
        let found = settings(&spec);
        assert_eq!(found["enable-ipv4"], "false");
        assert_eq!(found["enable-ipv4-masquerade"], "false");
        assert_eq!(found["auto-direct-node-routes"], "true");
        assert!(found["ipv4-native-routing-cidr"].is_null());
        assert_eq!(found["ipv6-native-routing-cidr"], CLUSTER_V6);
        assert_eq!(found["enable-l7-proxy"], "false");
        assert!(!has_proxies(&spec));
        assert_eq!(
            (&found["devices"], &found["mtu"]),
            (&json!("eth1"), &json!("1400"))
        );
    }

    #[test]
    fn the_api_server_is_named_and_agents_can_be_kept_off_nodes() {
        let objects = install::render(&install::Request {
            values: values(&LabSpec::default(), API).unwrap(),
            ..install::Request::default()
        });
        let objects = objects.unwrap();
        let set = objects.iter().find(|o| o["kind"] == "DaemonSet").unwrap();
        let pod = &set["spec"]["template"]["spec"];
        let env = pod["containers"][0]["env"].as_array().unwrap();
        let value = |name: &str| env.iter().find(|v| v["name"] == name).unwrap()["value"].clone();
        assert_eq!(value("KUBERNETES_SERVICE_HOST"), "fd00:10::100");
        assert_eq!(value("KUBERNETES_SERVICE_PORT"), "6443");
        assert_eq!(pod["containers"][0]["name"], AGENT);
        let text = pod["affinity"].to_string();
        assert!(
            text.contains(STOPPED.0) && text.contains(STOPPED.1),
            "{text}"
        );
    }

    #[test]
    fn what_does_not_come_up_is_said() {
        let dir = StateDir::of(&"no-such-lab".parse().unwrap());
        let pod = |status: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "node1", "containers": []},
                "status": {"containerStatuses": [status]}})).unwrap()
        };
        let base = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 1, "state": {"running": {}}});
        let with = |more: Value| {
            let mut status = base.clone();
            for (key, value) in more.as_object().unwrap() {
                status[key] = value.clone();
            }
            trouble(&pod(status), &dir)
        };
        assert_eq!(with(json!({})), None);
        let image = with(
            json!({"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}),
        );
        assert!(
            image
                .unwrap()
                .contains("c on node1 does not start (ErrImagePull: no such image)")
        );
        let ended = json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 3}}});
        assert!(
            with(ended)
                .unwrap()
                .contains("ends again and again (exit code 3)")
        );
        let often = json!({"restartCount": 3, "lastState": {"terminated": {"exitCode": 128, "message": "cannot start"}}});
        assert!(
            with(often)
                .unwrap()
                .contains("does not start (cannot start)")
        );
    }
}
