use crate::cluster::{Cluster, disjoint, eventually, settings};
use serde_json::{Value, json};

const PAIRS: &[(&str, &str)] = &[
    ("ipam", "multi-pool"),
    (
        "auto-create-cilium-pod-ip-pools",
        r#"{"default": "ipv4-cidrs:10.10.0.0/16;ipv4-mask-size:27"}"#,
    ),
];

fn requests(list: &[(&str, u32)]) -> Value {
    let rows: Vec<Value> = list
        .iter()
        .map(|(pool, count)| json!({"pool": pool, "needed": {"ipv4-addrs": count}}))
        .collect();
    json!({"ipam": {"pools": {"requested": rows}}})
}

/// The ranges of a pool that a node has, once they are as many.
async fn allocated(cluster: &Cluster, node: &str, pool: &str, count: usize) -> Vec<String> {
    eventually("a node has ranges of a pool", || async {
        let found = cluster.node(node).await;
        let own = found
            .spec
            .ipam
            .pools
            .allocated
            .iter()
            .find(|p| p.pool == pool);
        let cidrs = own.map(|own| own.cidrs.clone()).unwrap_or_default();
        if cidrs.len() == count {
            Ok(cidrs)
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await
}

async fn error(cluster: &Cluster, node: &str, want: &str) {
    eventually("the operator complains", || async {
        let error = cluster.node(node).await.status.ipam.operator_status.error;
        if error == want { Ok(()) } else { Err(error) }
    })
    .await;
}

#[tokio::test]
async fn nodes_get_ranges_of_pools_as_they_need_them() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(PAIRS));
    cluster.installed().await;
    cluster.add_node("a", requests(&[("default", 8)])).await;
    assert_eq!(
        allocated(&cluster, "a", "default", 1).await,
        ["10.10.0.0/27"]
    );
    let nodes = cluster.objects("CiliumNode");
    let ask = |list: &[(&str, u32)]| json!({"spec": requests(list)});
    nodes
        .merge("a", ask(&[("default", 40), ("red", 1)]), None)
        .await
        .unwrap();
    allocated(&cluster, "a", "default", 2).await;
    error(&cluster, "a", "there is no pool red with IPv4 ranges").await;
    let red = json!({"metadata": {"name": "red"}, "spec": {"ipv4": {"cidrs": ["10.20.0.0/28"], "maskSize": 32}}});
    cluster
        .objects("CiliumPodIPPool")
        .create(red)
        .await
        .unwrap();
    allocated(&cluster, "a", "red", 1).await;
    error(&cluster, "a", "").await;
    // The agent gives a range back by taking it out, and it is free for others then.
    let give_back = json!({"spec": {"ipam": {"pools": {
        "requested": [{"pool": "default", "needed": {"ipv4-addrs": 8}}],
        "allocated": [{"pool": "default", "cidrs": ["10.10.0.32/27"]}]}}}});
    nodes.merge("a", give_back, None).await.unwrap();
    cluster.add_node("b", requests(&[("red", 16)])).await;
    assert_eq!(allocated(&cluster, "b", "red", 16).await.len(), 16);
    disjoint(&cluster.nodes().await);
    operator.stop().await;
}

#[tokio::test]
async fn overlapping_pools_are_not_used() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(PAIRS));
    cluster.installed().await;
    let pools = cluster.objects("CiliumPodIPPool");
    eventually("the default pool is made", || async {
        let found = pools.get("default").await.unwrap();
        found.map(drop).ok_or_else(String::new)
    })
    .await;
    let inside = json!({"metadata": {"name": "red"}, "spec": {"ipv4": {"cidrs": ["10.10.7.0/24"], "maskSize": 28}}});
    pools.create(inside).await.unwrap();
    cluster
        .add_node("a", requests(&[("default", 8), ("red", 8)]))
        .await;
    allocated(&cluster, "a", "default", 1).await;
    error(&cluster, "a", "there is no pool red with IPv4 ranges").await;
    operator.stop().await;
}
