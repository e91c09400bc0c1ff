use crate::cluster::{Cluster, eventually, kind, settings};
use k8s::write::Objects;
use kube::api::DynamicObject;
use runtime::settings::OperatorSettings;
use serde_json::json;
use std::collections::BTreeMap;

fn with_slices(pairs: &[(&str, &str)]) -> OperatorSettings {
    let always = [
        ("ipam", "kubernetes"),
        ("enable-cilium-endpoint-slice", "true"),
        ("ces-max-ciliumendpoints-per-ces", "2"),
        ("ces-write-qps-limit", "1000"),
        ("ces-write-qps-burst", "1000"),
    ];
    settings(&[&always, pairs].concat())
}

fn endpoints(cluster: &Cluster) -> Objects {
    Objects::within(&cluster.client, &kind("CiliumEndpoint"), "default")
}

async fn add(cluster: &Cluster, name: &str, identity: u32, ip: &str) {
    let value = json!({"metadata": {"name": name, "namespace": "default"}, "status": {
        "id": 7, "state": "ready", "identity": {"id": identity, "labels": []}, "named-ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
        "networking": {"addressing": [{"ipv4": ip}], "node": "192.0.2.1"}}});
    endpoints(cluster).create(value).await.unwrap();
}

/// Names of the endpoints of each slice, by the name of the slice.
async fn slices(cluster: &Cluster) -> BTreeMap<String, Vec<(String, u64)>> {
    let all = cluster.objects("CiliumEndpointSlice").list().await;
    let row = |one: DynamicObject| {
        assert_eq!(one.data["namespace"], "default");
        let list = one.data["endpoints"].as_array().unwrap().clone();
        let entry = |e: &serde_json::Value| {
            (
                e["name"].as_str().unwrap().to_owned(),
                e["id"].as_u64().unwrap(),
            )
        };
        (one.metadata.name.unwrap(), list.iter().map(entry).collect())
    };
    all.unwrap_or_default().into_iter().map(row).collect()
}

/// Waits until the slices hold these, whatever their names.
async fn hold(
    cluster: &Cluster,
    wanted: &[&[(&str, u64)]],
) -> BTreeMap<String, Vec<(String, u64)>> {
    let own = |one: &&[(&str, u64)]| -> Vec<(String, u64)> {
        one.iter()
            .map(|(name, id)| ((*name).to_owned(), *id))
            .collect()
    };
    let mut wanted: Vec<_> = wanted.iter().map(own).collect();
    wanted.sort();
    eventually("slices hold the endpoints", || async {
        let found = slices(cluster).await;
        let mut lists: Vec<_> = found.values().cloned().collect();
        lists.sort();
        if lists == wanted {
            Ok(found.clone())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_published_in_slices() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(with_slices(&[]));
    cluster.installed().await;
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        add(&cluster, name, 300, &format!("10.0.0.{n}")).await;
    }
    add(&cluster, "d", 301, "10.0.0.9").await;
    let first = hold(
        &cluster,
        &[&[("a", 300), ("b", 300)], &[("c", 300)], &[("d", 301)]],
    )
    .await;
    let objects = cluster.objects("CiliumEndpointSlice");
    let name = first.iter().find(|(_, list)| list[0].0 == "d").unwrap().0;
    let slice = objects.get(name).await.unwrap().unwrap();
    let entry = &slice.data["endpoints"][0];
    assert_eq!(
        entry["networking"],
        json!({"addressing": [{"ipv4": "10.0.0.9"}], "node": "192.0.2.1"})
    );
    assert_eq!(
        entry["named-ports"],
        json!([{"name": "web", "port": 80, "protocol": "TCP"}])
    );
    // Another identity is another slice.
    let moved = json!({"status": {"identity": {"id": 301}}});
    endpoints(&cluster).merge("c", moved, None).await.unwrap();
    let second = hold(
        &cluster,
        &[&[("a", 300), ("b", 300)], &[("c", 301), ("d", 301)]],
    )
    .await;
    assert!(
        second.keys().all(|name| first.contains_key(name)),
        "no new slice"
    );
    // A restart moves nothing, and finds what has gone meanwhile.
    operator.kill().await;
    endpoints(&cluster)
        .delete("b", Default::default())
        .await
        .unwrap();
    let operator = cluster.operator(with_slices(&[]));
    let third = hold(&cluster, &[&[("a", 300)], &[("c", 301), ("d", 301)]]).await;
    assert!(third.keys().all(|name| second.contains_key(name)));
    // What somebody else does to a slice is taken back.
    let name = third.keys().next().unwrap();
    objects.delete(name, Default::default()).await.unwrap();
    hold(&cluster, &[&[("a", 300)], &[("c", 301), ("d", 301)]]).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_are_made_when_they_are_asked_for() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[("ipam", "kubernetes")]));
    cluster.installed().await;
    for (name, identity) in [("a", 300), ("b", 301), ("c", 302)] {
        add(&cluster, name, identity, "10.0.0.1").await;
    }
    operator.stop().await;
    assert!(slices(&cluster).await.is_empty());
    let operator = cluster.operator(with_slices(&[("ces-slice-mode", "fcfs")]));
    hold(&cluster, &[&[("a", 300), ("b", 301)], &[("c", 302)]]).await;
    operator.stop().await;
}
