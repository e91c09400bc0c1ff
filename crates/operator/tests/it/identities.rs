use crate::cluster::{Cluster, eventually, settings};
use kube::api::DynamicObject;
use serde_json::json;

/// The label sets of all identities, with their numbers.
async fn identities(cluster: &Cluster) -> Vec<(String, String)> {
    let all = cluster.objects("CiliumIdentity").list().await.unwrap();
    let row = |one: DynamicObject| {
        let app = one.data["security-labels"]["k8s:app"].as_str();
        (
            app.unwrap_or_default().to_owned(),
            one.metadata.name.unwrap(),
        )
    };
    let mut rows: Vec<_> = all.into_iter().map(row).collect();
    rows.sort();
    rows
}

async fn pod(cluster: &Cluster, name: &str, app: &str) {
    let value = json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": app, "pod-template-hash": name}},
        "spec": {"containers": [{"name": "c", "image": "x"}]}});
    cluster.create("Pod", "pods", value).await;
}

async fn apps(cluster: &Cluster, wanted: &[&str]) -> Vec<(String, String)> {
    eventually("every set of labels has one identity", || async {
        let rows = identities(cluster).await;
        let found: Vec<&str> = rows.iter().map(|(app, _)| app.as_str()).collect();
        if found == wanted {
            Ok(rows.clone())
        } else {
            Err(format!("{rows:?}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_gives_numbers_to_the_labels_of_pods() {
    let cluster = Cluster::start().await;
    let managed = settings(&[
        ("ipam", "kubernetes"),
        ("identity-management-mode", "operator"),
    ]);
    let operator = cluster.operator(managed.clone());
    cluster.installed().await;
    for (name, app) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        pod(&cluster, name, app).await;
    }
    let first = apps(&cluster, &["a", "b"]).await;
    operator.kill().await;
    // The next one knows what there is, and what came meanwhile.
    pod(&cluster, "c1", "c").await;
    let operator = cluster.operator(managed);
    let second = apps(&cluster, &["a", "b", "c"]).await;
    assert_eq!(second[..2], first);
    // One that somebody deletes while pods need it comes again with the same number.
    let (_, number) = first[0].clone();
    let objects = cluster.objects("CiliumIdentity");
    objects.delete(&number, Default::default()).await.unwrap();
    let third = apps(&cluster, &["a", "b", "c"]).await;
    assert_eq!(third, second);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_of_pods_are_no_garbage_though_no_agent_has_said_so() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[
        ("ipam", "kubernetes"),
        ("identity-management-mode", "both"),
        ("identity-gc-interval", "50ms"),
        ("identity-heartbeat-timeout", "100ms"),
    ]));
    cluster.installed().await;
    pod(&cluster, "a1", "a").await;
    apps(&cluster, &["a"]).await;
    let objects = cluster.objects("CiliumIdentity");
    let unused = json!({"metadata": {"name": "1001"}, "security-labels": {"k8s:app": "old"}});
    objects.create(unused).await.unwrap();
    apps(&cluster, &["a"]).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_endpoint_objects_no_identity_is_removed() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator(settings(&[
        ("ipam", "kubernetes"),
        ("disable-endpoint-crd", "true"),
        ("nodes-gc-interval", "50ms"),
        ("identity-gc-interval", "50ms"),
        ("identity-heartbeat-timeout", "50ms"),
    ]));
    cluster.installed().await;
    let objects = cluster.objects("CiliumIdentity");
    let value = json!({"metadata": {"name": "1001"}, "security-labels": {"k8s:app": "a"}});
    objects.create(value).await.unwrap();
    // Many looks later: other garbage has come and gone.
    for n in 0..2 {
        cluster.add_node(&format!("n{n}"), json!({})).await;
        eventually("a node without node object goes", || async {
            match cluster.nodes().await.len() {
                0 => Ok(()),
                left => Err(format!("{left} left")),
            }
        })
        .await;
    }
    assert!(objects.get("1001").await.unwrap().is_some());
    operator.stop().await;
}
