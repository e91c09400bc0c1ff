//! Addresses of services: pools and services in, statuses out.
use crate::cluster::{Cluster, eventually, settings};
use k8s::write::Objects;
use serde_json::{Value, json};

fn services(cluster: &Cluster) -> Objects {
    Objects::core(&cluster.client, "Service", "services", Some("default"))
}

async fn add(cluster: &Cluster, name: &str, annotations: Value, spec: Value) {
    let mut whole = json!({"metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let fields = spec.as_object().unwrap().clone();
    whole["spec"].as_object_mut().unwrap().extend(fields);
    cluster.create("Service", "services", whole).await;
}

async fn add_pool(cluster: &Cluster, name: &str, spec: Value) {
    let value = json!({"metadata": {"name": name}, "spec": spec});
    let pools = cluster.objects("CiliumLoadBalancerIPPool");
    pools.create(value).await.unwrap();
}

/// Addresses of a service and the reason of its condition.
async fn seen(cluster: &Cluster, name: &str) -> (Vec<String>, String) {
    let found = services(cluster).get(name).await.unwrap().unwrap();
    let status = &found.data["status"];
    let points = status["loadBalancer"]["ingress"].as_array();
    let ips = points.into_iter().flatten();
    let ips = ips.map(|point| point["ip"].as_str().unwrap().to_owned());
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut ours = conditions.filter(|one| one["type"] == "cilium.io/IPAMRequestSatisfied");
    let reason = ours.next().map(|one| one["reason"].as_str().unwrap());
    (ips.collect(), reason.unwrap_or_default().to_owned())
}

async fn wait(cluster: &Cluster, name: &str, ips: &[&str], reason: &str) {
    eventually(name, || async {
        let seen = seen(cluster, name).await;
        let right = seen.0 == ips && seen.1 == reason;
        right.then_some(()).ok_or(format!("{seen:?}"))
    })
    .await;
}

/// A condition of a pool: status and message.
async fn wait_pool(cluster: &Cluster, name: &str, kind: &str, want: (&str, &str)) {
    let pools = cluster.objects("CiliumLoadBalancerIPPool");
    eventually(name, || async {
        let found = pools.get(name).await.unwrap().unwrap();
        let conditions = found.data["status"]["conditions"].clone();
        let mut all = conditions.as_array().into_iter().flatten();
        let right = all
            .any(|one| one["type"] == kind && one["status"] == want.0 && one["message"] == want.1);
        right.then_some(()).ok_or(conditions.to_string())
    })
    .await;
}

#[tokio::test]
async fn services_get_addresses_of_pools_and_keep_them() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[
        ("ipam", "kubernetes"),
        ("enable-ipv6", "false"),
    ]));
    cluster.installed().await;
    add(&cluster, "a", json!({}), json!({})).await;
    add_pool(
        &cluster,
        "blue",
        json!({"blocks": [{"start": "192.0.2.1", "stop": "192.0.2.2"}]}),
    )
    .await;
    wait(&cluster, "a", &["192.0.2.1"], "satisfied").await;
    let ask = json!({"lbipam.cilium.io/ips": "192.0.2.1"});
    add(&cluster, "asks", ask, json!({})).await;
    wait(&cluster, "asks", &[], "already_allocated").await;
    add(&cluster, "b", json!({}), json!({})).await;
    wait(&cluster, "b", &["192.0.2.2"], "satisfied").await;
    add(&cluster, "late", json!({}), json!({})).await;
    wait(&cluster, "late", &[], "out_of_ips").await;
    wait_pool(&cluster, "blue", "cilium.io/IPsAvailable", ("Unknown", "0")).await;
    wait_pool(&cluster, "blue", "cilium.io/IPsUsed", ("Unknown", "2")).await;

    // Another operator takes over in the middle of it: who has an address keeps it, who waits for one gets what becomes free, in
    // the order of their age and name.
    operator.kill().await;
    services(&cluster)
        .delete("a", Default::default())
        .await
        .unwrap();
    let operator = cluster.operator(settings(&[
        ("ipam", "kubernetes"),
        ("enable-ipv6", "false"),
    ]));
    wait(&cluster, "asks", &["192.0.2.1"], "satisfied").await;
    wait(&cluster, "b", &["192.0.2.2"], "satisfied").await;
    wait(&cluster, "late", &[], "out_of_ips").await;

    // A pool of the same addresses is not used; one of other addresses is.
    add_pool(
        &cluster,
        "copy",
        json!({"blocks": [{"cidr": "192.0.2.0/24"}]}),
    )
    .await;
    let text = "192.0.2.0/24 overlaps 192.0.2.1 - 192.0.2.2 of pool blue";
    wait_pool(&cluster, "copy", "cilium.io/PoolConflict", ("True", text)).await;
    add_pool(
        &cluster,
        "red",
        json!({"blocks": [{"cidr": "198.51.100.7/32"}]}),
    )
    .await;
    wait(&cluster, "late", &["198.51.100.7"], "satisfied").await;

    // A class of somebody else, and a service that is no load balancer any more: what was written goes.
    add(
        &cluster,
        "other",
        json!({}),
        json!({"loadBalancerClass": "example.com/own"}),
    )
    .await;
    let change = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}});
    services(&cluster)
        .merge("late", change, None)
        .await
        .unwrap();
    wait(&cluster, "late", &[], "").await;
    assert_eq!(seen(&cluster, "other").await, (Vec::new(), String::new()));
    operator.stop().await;
}

#[tokio::test]
async fn services_share_an_address_if_both_want_that() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[
        ("ipam", "kubernetes"),
        ("enable-ipv6", "false"),
    ]));
    cluster.installed().await;
    add_pool(
        &cluster,
        "blue",
        json!({"blocks": [{"cidr": "192.0.2.8/31"}]}),
    )
    .await;
    let key = |key: &str| json!({"lbipam.cilium.io/sharing-key": key});
    let port = |port: u16| json!({"ports": [{"port": port}]});
    add(&cluster, "http", key("x"), port(80)).await;
    wait(&cluster, "http", &["192.0.2.8"], "satisfied").await;
    add(&cluster, "https", key("x"), port(443)).await;
    wait(&cluster, "https", &["192.0.2.8"], "satisfied").await;
    add(&cluster, "clash", key("x"), port(80)).await;
    wait(&cluster, "clash", &["192.0.2.9"], "satisfied").await;
    add(&cluster, "alone", key("y"), port(80)).await;
    wait(&cluster, "alone", &[], "out_of_ips").await;
    operator.stop().await;
}

#[tokio::test]
async fn both_families_where_the_cluster_has_both() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[("ipam", "kubernetes")]));
    cluster.installed().await;
    add_pool(
        &cluster,
        "blue",
        json!({"blocks": [{"cidr": "192.0.2.8/32"}, {"cidr": "fd00:1::/127"}]}),
    )
    .await;
    add(
        &cluster,
        "dual",
        json!({}),
        json!({"ipFamilyPolicy": "PreferDualStack"}),
    )
    .await;
    eventually("dual", || async {
        let (ips, reason) = seen(&cluster, "dual").await;
        // The lab's server gives services of one family what they ask for.
        let right = ips.contains(&"192.0.2.8".to_owned()) && reason == "satisfied";
        right.then_some(()).ok_or(format!("{ips:?} {reason}"))
    })
    .await;
    operator.stop().await;
}

#[tokio::test]
async fn addresses_of_nodes() {
    let cluster = Cluster::start().await;
    let pairs = [
        ("ipam", "kubernetes"),
        ("enable-node-ipam", "true"),
        ("default-lb-service-ipam", "nodeipam"),
    ];
    let operator = cluster.operator(settings(&pairs));
    cluster.installed().await;
    for (name, ip) in [("n1", "192.0.2.11"), ("n2", "192.0.2.12")] {
        let node = json!({"metadata": {"name": name, "labels": {"rack": name}}});
        cluster.create("Node", "nodes", node).await;
        let nodes = Objects::core(&cluster.client, "Node", "nodes", None);
        let status = json!({"addresses": [{"type": "InternalIP", "address": ip}]});
        nodes.merge_status(name, status).await.unwrap();
    }
    add(&cluster, "all", json!({}), json!({})).await;
    wait(&cluster, "all", &["192.0.2.11", "192.0.2.12"], "").await;
    let some = json!({"io.cilium.nodeipam/match-node-labels": "rack=n2"});
    add(
        &cluster,
        "some",
        some,
        json!({"loadBalancerClass": "io.cilium/node"}),
    )
    .await;
    wait(&cluster, "some", &["192.0.2.12"], "").await;
    let nodes = Objects::core(&cluster.client, "Node", "nodes", None);
    let label = json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}}});
    nodes.merge("n1", label, None).await.unwrap();
    wait(&cluster, "all", &["192.0.2.12"], "").await;
    operator.stop().await;
}
