use crate::cluster::{Cluster, eventually, kind, settings};
use k8s::write::Objects;
use serde_json::json;

#[tokio::test]
async fn what_nobody_needs_goes_and_the_rest_stays() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[
        ("ipam", "kubernetes"),
        ("cilium-endpoint-gc-interval", "100ms"),
        ("nodes-gc-interval", "100ms"),
        ("identity-gc-interval", "100ms"),
        ("identity-heartbeat-timeout", "300ms"),
    ]));
    cluster.installed().await;
    let node = json!({"metadata": {"name": "n1"}});
    cluster.create("Node", "nodes", node).await;
    let pod = json!({"metadata": {"name": "lives", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let pod = cluster.create("Pod", "pods", pod).await;
    for name in ["n1", "n2"] {
        cluster.add_node(name, json!({})).await;
    }
    let kept = json!({"metadata": {"name": "kept", "annotations": {"cilium.io/do-not-gc": "true"}}, "spec": {}});
    cluster.objects("CiliumNode").create(kept).await.unwrap();
    let identities = cluster.objects("CiliumIdentity");
    for name in ["1000", "1001"] {
        let value = json!({"metadata": {"name": name}, "security-labels": {"k8s:app": name}});
        identities.create(value).await.unwrap();
    }
    let endpoints = Objects::within(&cluster.client, &kind("CiliumEndpoint"), "default");
    for (name, uid) in [
        ("lives", pod.metadata.uid.unwrap()),
        ("gone", "x".to_owned()),
    ] {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        let mut value = json!({"metadata": {"name": name, "namespace": "default"}, "status": {"identity": {"id": 1000}, "state": "ready"}});
        // An owner that is not there takes the object with it in the API server; what is left to the operator has none.
        if name == "lives" {
            value["metadata"]["ownerReferences"] = json!([owner]);
        }
        endpoints.create(value).await.unwrap();
    }
    eventually("all garbage is gone", || async {
        let left = [
            endpoints.get("gone").await.unwrap(),
            cluster.objects("CiliumNode").get("n2").await.unwrap(),
            identities.get("1001").await.unwrap(),
        ];
        let names: Vec<_> = left
            .into_iter()
            .flatten()
            .map(|o| o.metadata.name)
            .collect();
        if names.is_empty() {
            Ok(())
        } else {
            Err(format!("{names:?} are there"))
        }
    })
    .await;
    assert!(endpoints.get("lives").await.unwrap().is_some());
    assert!(identities.get("1000").await.unwrap().is_some());
    assert_eq!(
        cluster.nodes().await.into_keys().collect::<Vec<_>>(),
        ["kept", "n1"]
    );
    operator.stop().await;
}
