use crate::cluster::{Cluster, eventually, kind, settings};
use k8s::{
    crd::{Installed, SCHEMA_LABEL, install},
    error::says,
};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::json;

const MODE: &[(&str, &str)] = &[("ipam", "kubernetes")];

#[tokio::test]
async fn kinds_are_installed_once_and_never_downgraded() {
    let cluster = Cluster::start().await;
    let node = kind("CiliumNode");
    assert_eq!(
        install(&cluster.client, &node).await.unwrap(),
        Installed::Created
    );
    assert_eq!(
        install(&cluster.client, &node).await.unwrap(),
        Installed::Current
    );
    let definitions = kube::api::ApiResource {
        group: "apiextensions.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
        plural: "customresourcedefinitions".to_owned(),
    };
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &definitions);
    for (version, outcome) in [
        ("1.0.0", Installed::Updated),
        ("99.0.0", Installed::Newer("99.0.0".to_owned())),
    ] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {SCHEMA_LABEL: version}}}));
        api.patch(&node.name(), &PatchParams::default(), &patch)
            .await
            .unwrap();
        assert_eq!(install(&cluster.client, &node).await.unwrap(), outcome);
    }
}

#[tokio::test]
async fn bad_objects_are_refused_with_the_field() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(MODE));
    cluster.installed().await;
    let pools = cluster.objects("CiliumPodIPPool");
    for (spec, field) in [
        (
            json!({"ipv4": {"cidrs": ["10.0.0.0/8"], "maskSize": 33}}),
            "spec.ipv4.maskSize",
        ),
        (
            json!({"ipv4": {"cidrs": ["10.0.0.0/8"]}}),
            "spec.ipv4.maskSize",
        ),
        (
            json!({"ipv6": {"cidrs": [], "maskSize": 120}}),
            "spec.ipv6.cidrs",
        ),
        (
            json!({"ipv4": {"cidrs": "10.0.0.0/8", "maskSize": 24}}),
            "spec.ipv4.cidrs",
        ),
    ] {
        let value = json!({"metadata": {"name": "x"}, "spec": spec});
        let error = says(&pools.create(value).await.unwrap_err());
        assert!(error.contains(field), "{error}");
    }
    operator.stop().await;
}

#[tokio::test]
async fn one_of_several_operators_leads() {
    let cluster = Cluster::start().await;
    let first = cluster.operator(settings(&[
        ("ipam", "cluster-pool"),
        ("cluster-pool-ipv4-cidr", "10.0.0.0/16"),
    ]));
    cluster.installed().await;
    // Ranges of the one that leads, not of this one.
    let second = cluster.operator(settings(&[
        ("ipam", "cluster-pool"),
        ("cluster-pool-ipv4-cidr", "10.9.0.0/16"),
    ]));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    cluster.add_node("a", json!({})).await;
    assert_eq!(cluster.ranges("a", 1).await, ["10.0.0.0/24"]);
    first.stop().await;
    cluster.add_node("b", json!({})).await;
    assert_eq!(cluster.ranges("b", 1).await, ["10.9.0.0/24"]);
    second.kill().await;
    let third = cluster.operator(settings(&[
        ("ipam", "cluster-pool"),
        ("cluster-pool-ipv4-cidr", "10.7.0.0/16"),
    ]));
    cluster.add_node("c", json!({})).await;
    let began = std::time::Instant::now();
    assert_eq!(cluster.ranges("c", 1).await, ["10.7.0.0/24"]);
    assert!(
        began.elapsed().as_millis() >= 500,
        "a killed leader's lease is waited for"
    );
    eventually("the lease names the third", || async {
        let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
            Api::namespaced(cluster.client.clone(), "kube-system");
        let lease = leases.get("cilium-operator-resource-lock").await.unwrap();
        match lease.spec.unwrap().lease_transitions {
            Some(2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    third.stop().await;
}
