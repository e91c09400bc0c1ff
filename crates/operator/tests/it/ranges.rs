use crate::cluster::{Cluster, disjoint, eventually, settings};
use k8s::write::Meant;
use serde_json::json;
use std::time::Duration;

const MODE: (&str, &str) = ("ipam", "cluster-pool");

#[tokio::test]
async fn nodes_get_ranges_and_give_them_back() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[
        MODE,
        ("cluster-pool-ipv4-cidr", "10.0.0.0/23"),
        ("cluster-pool-ipv6-cidr", "fd00::/104"),
        ("cluster-pool-ipv6-mask-size", "120"),
    ]));
    cluster.installed().await;
    for name in ["a", "b"] {
        cluster.add_node(name, json!({})).await;
        let ranges = cluster.ranges(name, 2).await;
        assert!(
            ranges[0].contains('.') && ranges[1].contains(':'),
            "{ranges:?}"
        );
    }
    cluster.add_node("c", json!({})).await;
    let error = eventually("the exhausted pool is reported", || async {
        let node = cluster.node("c").await;
        let error = node.status.ipam.operator_status.error.clone();
        if error.is_empty() {
            Err(format!("{node:?}"))
        } else {
            Ok(error)
        }
    })
    .await;
    assert_eq!(error, "pool cluster-pool: no /24 is left in 10.0.0.0/23");
    let freed = cluster.node("a").await.spec.ipam.pod_cidrs;
    cluster
        .objects("CiliumNode")
        .delete("a", Meant::default())
        .await
        .unwrap();
    let ranges = cluster.ranges("c", 2).await;
    assert_eq!(ranges[0], freed[0]);
    assert_ne!(ranges[1], freed[1], "what was given back is given last");
    eventually("the error is taken back", || async {
        let error = cluster.node("c").await.status.ipam.operator_status.error;
        if error.is_empty() { Ok(()) } else { Err(error) }
    })
    .await;
    disjoint(&cluster.nodes().await);
    operator.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_what_nodes_have_and_reports_disputes() {
    let cluster = Cluster::start().await;
    let pairs = [MODE, ("cluster-pool-ipv4-cidr", "10.0.0.0/16")];
    let operator = cluster.operator(settings(&pairs));
    cluster.installed().await;
    cluster.add_node("a", json!({})).await;
    let before = cluster.ranges("a", 1).await;
    operator.stop().await;
    let claim = |range: &str| json!({"ipam": {"podCIDRs": [range]}});
    // While no operator is there, somebody claims ranges: one that is free, one of elsewhere, one that is taken.
    cluster.add_node("b", claim("10.0.1.0/24")).await;
    cluster.add_node("c", claim("172.20.0.0/24")).await;
    cluster.add_node("d", claim("10.0.0.128/25")).await;
    cluster.add_node("e", json!({})).await;
    let operator = cluster.operator(settings(&pairs));
    assert_eq!(cluster.ranges("e", 1).await, ["10.0.2.0/24"]);
    assert_eq!(cluster.ranges("a", 1).await, before);
    assert_eq!(cluster.ranges("c", 1).await, ["172.20.0.0/24"]);
    let error = eventually("the dispute is reported", || async {
        let nodes = cluster.nodes().await;
        let of = |name: &str| nodes[name].status.ipam.operator_status.error.clone();
        // Both were made within the same second, perhaps: then the name decides.
        if of("d").is_empty() {
            Err(of("a"))
        } else {
            Ok(of("d"))
        }
    })
    .await;
    assert!(
        error.starts_with("10.0.0.128/25 overlaps 10.0.0.0/24 of node a; delete"),
        "{error}"
    );
    assert_eq!(
        cluster.ranges("d", 1).await,
        ["10.0.0.128/25"],
        "nothing is changed until people decide"
    );
    operator.stop().await;
}

#[tokio::test]
async fn a_changed_pool_leaves_nodes_their_ranges_until_their_objects_are_deleted() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[("ipam", "kubernetes")]));
    cluster.installed().await;
    let claim = |range: &str| json!({"ipam": {"podCIDRs": [range]}});
    for (name, range) in [("a", "10.244.1.0/24"), ("b", "10.244.2.0/24")] {
        cluster.add_node(name, claim(range)).await;
    }
    operator.stop().await;
    let operator = cluster.operator(settings(&[
        MODE,
        ("cluster-pool-ipv4-cidr", "172.20.0.0/16"),
    ]));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.ranges("a", 1).await, ["10.244.1.0/24"]);
    let nodes = cluster.objects("CiliumNode");
    for (name, range) in [
        ("a", "172.20.0.0/24"),
        ("b", "172.20.1.0/24"),
        ("a", "172.20.2.0/24"),
    ] {
        nodes.delete(name, Meant::default()).await.unwrap();
        // The agent makes it anew after its restart.
        cluster.add_node(name, json!({})).await;
        assert_eq!(cluster.ranges(name, 1).await, [range]);
    }
    operator.stop().await;
}

#[tokio::test]
async fn operators_killed_at_random_never_give_a_range_twice() {
    let cluster = Cluster::start().await;
    let pairs = [
        MODE,
        ("cluster-pool-ipv4-cidr", "10.0.0.0/20"),
        ("cluster-pool-ipv4-mask-size", "26"),
        ("leader-election-retry-period", "10ms"),
    ];
    let operator = cluster.operator(settings(&pairs));
    cluster.installed().await;
    operator.kill().await;
    let mut alive = Vec::new();
    for round in 0..12u64 {
        let operator = cluster.operator(settings(&pairs));
        for n in 0..5 {
            let name = format!("n{round}-{n}");
            cluster.add_node(&name, json!({})).await;
            alive.push(name);
        }
        if round % 3 == 2 {
            let gone = alive.remove(round as usize);
            let meant = Meant::default();
            cluster
                .objects("CiliumNode")
                .delete(&gone, meant)
                .await
                .unwrap();
        }
        // Some are killed while they wait for the lease, some while they write.
        tokio::time::sleep(Duration::from_millis(round * 137 % 1300)).await;
        operator.kill().await;
        disjoint(&cluster.nodes().await);
    }
    let operator = cluster.operator(settings(&pairs));
    eventually("everybody has a range", || async {
        let nodes = cluster.nodes().await;
        let lacking = nodes
            .values()
            .filter(|n| n.spec.ipam.pod_cidrs.len() != 1)
            .count();
        if lacking == 0 {
            Ok(())
        } else {
            Err(format!("{lacking} lack one"))
        }
    })
    .await;
    disjoint(&cluster.nodes().await);
    operator.stop().await;
}

#[tokio::test]
async fn settings_without_sense_end_the_operator_with_the_reason() {
    let cluster = Cluster::start().await;
    for (pairs, why) in [
        (vec![MODE], "there is no range"),
        (
            vec![MODE, ("cluster-pool-ipv4-cidr", "10.0.0.0/16,10.0.3.0/24")],
            "cluster-pool-ipv4-cidr: 10.0.0.0/16 and 10.0.3.0/24 overlap",
        ),
        (
            vec![
                ("ipam", "multi-pool"),
                ("auto-create-cilium-pod-ip-pools", "x"),
            ],
            "auto-create-cilium-pod-ip-pools",
        ),
    ] {
        let (_stopper, stop) = runtime::stop::channel();
        let outcome =
            hypha_operator::run_until(settings(&pairs), cluster.client.clone(), stop).await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
