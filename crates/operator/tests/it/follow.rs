use crate::cluster::{Cluster, eventually, kind, settings};
use k8s::write::Objects;
use serde_json::{Value, json};

fn pods(cluster: &Cluster) -> Objects {
    Objects::core(&cluster.client, "Pod", "pods", Some("kube-system"))
}

fn nodes(cluster: &Cluster) -> Objects {
    Objects::core(&cluster.client, "Node", "nodes", None)
}

/// A running pod on `node`.
async fn pod(cluster: &Cluster, name: &str, app: &str, node: &str, ready: bool) {
    let value = json!({
        "metadata": {"name": name, "namespace": "kube-system", "labels": {"k8s-app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}], "terminationGracePeriodSeconds": 0},
    });
    pods(cluster).create(value).await.unwrap();
    set_ready(cluster, name, ready).await;
}

async fn set_ready(cluster: &Cluster, name: &str, ready: bool) {
    let status = if ready { "True" } else { "False" };
    let value = json!({
        "phase": "Running", "startTime": "2020-01-01T00:00:00Z",
        "conditions": [{"type": "Ready", "status": status}],
    });
    pods(cluster).patch_status(name, value).await.unwrap();
}

async fn node(cluster: &Cluster, name: &str) -> Value {
    let found = nodes(cluster).get(name).await.unwrap().unwrap();
    found.data
}

/// What `kubectl get events` shows of an object: reason and message.
async fn event(cluster: &Cluster, namespace: &str, object: &str, reason: &str) -> String {
    let events = Objects::core(&cluster.client, "Event", "events", Some(namespace));
    eventually("an event is there", || async {
        let all = events.list().await.map_err(|error| error.to_string())?;
        let of =
            |data: &Value| data["involvedObject"]["name"] == object && data["reason"] == reason;
        let found = all.iter().find(|event| of(&event.data));
        let message = found.and_then(|event| event.data["message"].as_str());
        message.map(str::to_owned).ok_or(format!("{all:?}"))
    })
    .await
}

#[tokio::test]
async fn a_node_is_opened_once_its_agent_is_ready() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[("ipam", "kubernetes")]));
    cluster.installed().await;
    for name in ["n1", "n2"] {
        let value = json!({
            "metadata": {"name": name, "labels": {"zone": "a"}},
            "spec": {"taints": [{"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"}, {"key": "mine", "effect": "NoSchedule"}]},
        });
        nodes(&cluster).create(value).await.unwrap();
    }
    pod(&cluster, "cilium-1", "cilium", "n1", false).await;
    pod(&cluster, "other", "other", "n2", true).await;
    cluster.add_node("n1", json!({})).await;
    let labelled = |zone: &'static str| {
        let cluster = &cluster;
        eventually("the CiliumNode has the node's labels", move || async move {
            let labels = cluster.node("n1").await.metadata.labels.unwrap_or_default();
            let zone_is = labels.get("zone").map(String::as_str) == Some(zone);
            let all = zone_is && !labels.contains_key("old");
            all.then_some(()).ok_or(format!("{labels:?}"))
        })
    };
    labelled("a").await;
    let taints = |node: &Value| node["spec"]["taints"].as_array().map_or(0, Vec::len);
    assert_eq!(
        taints(&node(&cluster, "n1").await),
        2,
        "the agent is not ready"
    );
    set_ready(&cluster, "cilium-1", true).await;
    eventually("the node is open", || async {
        let node = node(&cluster, "n1").await;
        let conditions = node["status"]["conditions"].as_array().cloned();
        let up = conditions.unwrap_or_default().into_iter().any(|one| {
            one["type"] == "NetworkUnavailable"
                && one["status"] == "False"
                && one["reason"] == "CiliumIsUp"
        });
        let rest = json!([{"key": "mine", "effect": "NoSchedule"}]);
        (up && node["spec"]["taints"] == rest)
            .then_some(())
            .ok_or(format!("{node}"))
    })
    .await;
    assert_eq!(taints(&node(&cluster, "n2").await), 2, "it has no agent");
    // Labels follow, those that are gone too.
    let labels = |value: Value| json!({"metadata": {"labels": value}});
    let said = cluster.objects("CiliumNode");
    said.merge("n1", labels(json!({"old": "1"})), None)
        .await
        .unwrap();
    nodes(&cluster)
        .merge("n1", labels(json!({"zone": "b"})), None)
        .await
        .unwrap();
    labelled("b").await;
    operator.stop().await;
}

#[tokio::test]
async fn pods_of_another_network_are_restarted() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[
        ("ipam", "kubernetes"),
        ("unmanaged-pod-watcher-interval", "1"),
    ]));
    cluster.installed().await;
    nodes(&cluster)
        .create(json!({"metadata": {"name": "n1"}}))
        .await
        .unwrap();
    for (name, app) in [
        ("dns-old", "kube-dns"),
        ("dns-new", "kube-dns"),
        ("other", "other"),
    ] {
        pod(&cluster, name, app, "n1", true).await;
    }
    let endpoints = Objects::within(&cluster.client, &kind("CiliumEndpoint"), "kube-system");
    let endpoint = json!({"metadata": {"name": "dns-new", "namespace": "kube-system"}, "status": {"state": "ready"}});
    endpoints.create(endpoint).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let there = pods(&cluster).get("dns-old").await.unwrap();
    assert!(there.is_some(), "no agent could connect it again");
    pod(&cluster, "cilium-1", "cilium", "n1", true).await;
    eventually("the pod is restarted", || async {
        let found = pods(&cluster).get("dns-old").await.unwrap();
        let going = found.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        going.then_some(()).ok_or("it is there".to_owned())
    })
    .await;
    for name in ["dns-new", "other", "cilium-1"] {
        let left = pods(&cluster).get(name).await.unwrap().unwrap();
        assert!(left.metadata.deletion_timestamp.is_none(), "{name} goes");
    }
    operator.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_ranges_is_told_in_events() {
    let cluster = Cluster::start().await;
    let pool = |name: &str, cidr: &str| json!({"metadata": {"name": name}, "spec": {"ipv4": {"cidrs": [cidr], "maskSize": 28}}});
    let operator = cluster.operator(settings(&[("ipam", "multi-pool")]));
    cluster.installed().await;
    let pools = cluster.objects("CiliumPodIPPool");
    pools.create(pool("a", "10.0.0.0/28")).await.unwrap();
    pools.create(pool("b", "10.0.0.0/24")).await.unwrap();
    assert_eq!(
        event(&cluster, "default", "b", "PoolNotUsed").await,
        "CiliumPodIPPool b is not used: 10.0.0.0/24 overlaps 10.0.0.0/28 of pool a"
    );
    let asks = |count: u32| json!({"ipam": {"pools": {"requested": [{"pool": "a", "needed": {"ipv4-addrs": count}}]}}});
    cluster.add_node("n1", asks(8)).await;
    cluster.add_node("n2", asks(8)).await;
    let lacking = eventually("one of the two lacks addresses", || async {
        let nodes = cluster.nodes().await;
        let error = |name: &str| nodes[name].status.ipam.operator_status.error.clone();
        let found = ["n1", "n2"]
            .into_iter()
            .find(|name| !error(name).is_empty());
        found
            .map(|name| (name, error(name)))
            .ok_or(format!("{nodes:?}"))
    })
    .await;
    assert_eq!(
        event(&cluster, "default", lacking.0, "NoPodAddresses").await,
        lacking.1
    );
    operator.stop().await;
}

#[tokio::test]
async fn settings_that_make_no_sense_are_told_where_they_stand() {
    let cluster = Cluster::start().await;
    let maps = Objects::core(
        &cluster.client,
        "ConfigMap",
        "configmaps",
        Some("kube-system"),
    );
    let map = json!({"metadata": {"name": "cilium-config", "namespace": "kube-system"}, "data": {"ipam": "x"}});
    maps.create(map).await.unwrap();
    let settings = settings(&[("config-map", "cilium-config")]);
    for _ in 0..2 {
        hypha_operator::tell_by(&cluster.client, &settings, "ipam: \"x\" is no mode").await;
    }
    assert_eq!(
        event(&cluster, "kube-system", "cilium-config", "InvalidSettings").await,
        "ipam: \"x\" is no mode"
    );
}
