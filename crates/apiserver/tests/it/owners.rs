//! What goes with what: owners, finalizers, grace, namespaces.

use serde_json::{Value, json};

use crate::api::{Api, JSON_PATCH, MERGE, deployment, owned_by, template};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn pod(name: &str, owner: Option<&Value>, node: &str) -> Value {
    let mut pod = json!({ "metadata": { "name": name, "labels": { "app": "d" } },
        "spec": { "containers": [{ "name": "c", "image": "nginx" }] } });
    if let Some(owner) = owner {
        pod["metadata"]["ownerReferences"] = json!([owned_by(owner, true)]);
    }
    if !node.is_empty() {
        pod["spec"]["nodeName"] = json!(node);
    }
    pod
}

/// A deployment with a replica set and two pods, one of which runs on a node.
async fn workload(api: &Api) {
    let deployment = api.post(DEPLOYMENTS, deployment("d")).await.good();
    let mut set = json!({ "metadata": { "name": "d-1" },
        "spec": { "selector": { "matchLabels": { "app": "d" } }, "template": template("d") } });
    set["metadata"]["ownerReferences"] = json!([owned_by(&deployment, true)]);
    let set = api.post(SETS, set).await.good();
    api.post(PODS, pod("d-1-a", Some(&set), "")).await.good();
    api.post(PODS, pod("d-1-b", Some(&set), "n1")).await.good();
}

#[tokio::test]
async fn owned_objects_go_after_their_owner() {
    let api = Api::new();
    workload(&api).await;
    let answer = api
        .delete(
            &format!("{DEPLOYMENTS}/d"),
            json!({ "propagationPolicy": "Background" }),
        )
        .await
        .good();
    assert_eq!(answer["status"], "Success");
    assert!(api.names(SETS).await.is_empty());
    // The pod that runs is told to end; whoever runs it takes it away.
    assert_eq!(api.names(PODS).await, ["d-1-b"]);
    let running = api.get(&format!("{PODS}/d-1-b")).await.good();
    assert_eq!(running["metadata"]["deletionGracePeriodSeconds"], 30);
    api.delete(&format!("{PODS}/d-1-b"), json!({ "gracePeriodSeconds": 0 }))
        .await
        .good();
    assert!(api.names(PODS).await.is_empty());
}

#[tokio::test]
async fn owned_objects_go_before_their_owner() {
    let api = Api::new();
    workload(&api).await;
    let path = format!("{DEPLOYMENTS}/d");
    let waiting = api
        .delete(&path, json!({ "propagationPolicy": "Foreground" }))
        .await
        .good();
    assert_eq!(
        waiting["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    assert_eq!(api.names(SETS).await, ["d-1"]);
    api.delete(&format!("{PODS}/d-1-b"), json!({ "gracePeriodSeconds": 0 }))
        .await
        .good();
    assert!(api.names(SETS).await.is_empty());
    api.get(&path).await.refused(404);
}

#[tokio::test]
async fn orphans_stay_without_owner() {
    let api = Api::new();
    workload(&api).await;
    api.delete(
        &format!("{DEPLOYMENTS}/d"),
        json!({ "propagationPolicy": "Orphan" }),
    )
    .await
    .good();
    let set = api.get(&format!("{SETS}/d-1")).await.good();
    assert_eq!(set["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(api.names(PODS).await.len(), 2);
}

#[tokio::test]
async fn an_object_with_another_owner_stays_and_one_without_any_goes() {
    let api = Api::new();
    let make = async |name: &str, owners: Vec<Value>| {
        let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "ownerReferences": owners } });
        api.post(CONFIG_MAPS, body).await.good()
    };
    let (a, b) = (make("a", vec![]).await, make("b", vec![]).await);
    make("c", vec![owned_by(&a, false), owned_by(&b, false)]).await;
    api.delete(&format!("{CONFIG_MAPS}/a"), Value::Null)
        .await
        .good();
    let kept = api.get(&format!("{CONFIG_MAPS}/c")).await.good();
    assert_eq!(
        kept["metadata"]["ownerReferences"],
        json!([owned_by(&b, false)])
    );
    api.delete(&format!("{CONFIG_MAPS}/b"), Value::Null)
        .await
        .good();
    // An owner that is gone already has no objects, and one of an unknown kind is not judged.
    make("late", vec![owned_by(&a, false)]).await;
    let mut unknown = owned_by(&a, false);
    unknown["apiVersion"] = json!("example.org/v1");
    make("unknown", vec![unknown]).await;
    let names = api.names(CONFIG_MAPS).await;
    assert_eq!(names, ["unknown"]);
}

#[tokio::test]
async fn a_ring_of_owners_goes_as_a_whole() {
    let api = Api::new();
    let mut made = Vec::new();
    for i in 0..3 {
        let body = json!({ "metadata": { "name": format!("m{i}") } });
        made.push(api.post(CONFIG_MAPS, body).await.good());
    }
    for i in 0..3 {
        let owner = owned_by(&made[(i + 1) % 3], true);
        let patch = json!({ "metadata": { "ownerReferences": [owner] } });
        api.patch(&format!("{CONFIG_MAPS}/m{i}"), MERGE, patch)
            .await
            .good();
    }
    api.delete(
        &format!("{CONFIG_MAPS}/m0"),
        json!({ "propagationPolicy": "Background" }),
    )
    .await
    .good();
    assert!(api.names(CONFIG_MAPS).await.is_empty());
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let api = Api::new();
    let body = json!({ "metadata": { "name": "f", "finalizers": ["example.org/hold"] } });
    api.post(CONFIG_MAPS, body).await.good();
    let path = format!("{CONFIG_MAPS}/f");
    let held = api.delete(&path, Value::Null).await.good();
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let more = json!({ "metadata": { "finalizers": ["example.org/hold", "example.org/more"] } });
    assert!(
        api.patch(&path, MERGE, more)
            .await
            .refused(422)
            .contains("metadata.finalizers: Forbidden")
    );
    let done = json!([{ "op": "remove", "path": "/metadata/finalizers/0" }]);
    api.patch(&path, JSON_PATCH, done).await.good();
    api.get(&path).await.refused(404);
}

#[tokio::test]
async fn preconditions_and_dry_runs() {
    let api = Api::new();
    let made = api
        .post(CONFIG_MAPS, json!({ "metadata": { "name": "p" } }))
        .await
        .good();
    let path = format!("{CONFIG_MAPS}/p");
    let wrong = json!({ "preconditions": { "uid": "x" } });
    assert!(
        api.delete(&path, wrong)
            .await
            .refused(409)
            .contains("Precondition failed: UID in precondition: x")
    );
    let stale = json!({ "preconditions": { "resourceVersion": "1" } });
    api.delete(&path, stale).await.refused(409);
    api.delete(&format!("{path}?dryRun=All"), Value::Null)
        .await
        .good();
    api.delete(&path, json!({ "propagationPolicy": "Sideways" }))
        .await
        .refused(400);
    let right = json!({ "preconditions": { "uid": made["metadata"]["uid"] } });
    api.delete(&path, right).await.good();
    api.delete(&path, Value::Null).await.refused(404);
}

#[tokio::test]
async fn a_namespace_takes_its_content_along() {
    let api = Api::new();
    let post = async |path: &str, body: Value| api.post(path, body).await.good();
    post(
        "/api/v1/namespaces",
        json!({ "metadata": { "name": "team" } }),
    )
    .await;
    let (pods, maps) = (
        "/api/v1/namespaces/team/pods",
        "/api/v1/namespaces/team/configmaps",
    );
    post(pods, pod("waiting", None, "")).await;
    post(pods, pod("running", None, "n1")).await;
    post(
        maps,
        json!({ "metadata": { "name": "held", "finalizers": ["example.org/hold"] } }),
    )
    .await;
    let terminating = api
        .delete("/api/v1/namespaces/team", Value::Null)
        .await
        .good();
    assert_eq!(terminating["status"]["phase"], "Terminating");
    assert_eq!(api.names(pods).await, ["running"]);

    let late = api
        .post(maps, json!({ "metadata": { "name": "late" } }))
        .await;
    let cause = late.body["details"]["causes"][0]["reason"].clone();
    let expected = "configmaps \"late\" is forbidden: unable to create new content in namespace team because it is being terminated";
    assert_eq!(
        (late.refused(403).as_str(), cause),
        (expected, json!("NamespaceTerminating"))
    );
    let absent = api
        .post(
            "/api/v1/namespaces/nowhere/configmaps",
            json!({ "metadata": { "name": "x" } }),
        )
        .await;
    assert_eq!(absent.refused(404), "namespaces \"nowhere\" not found");

    api.delete(
        &format!("{pods}/running"),
        json!({ "gracePeriodSeconds": 0 }),
    )
    .await
    .good();
    api.get("/api/v1/namespaces/team").await.good();
    api.patch(
        &format!("{maps}/held"),
        MERGE,
        json!({ "metadata": { "finalizers": null } }),
    )
    .await
    .good();
    api.get("/api/v1/namespaces/team").await.refused(404);
    for name in ["default", "kube-system", "kube-public"] {
        api.delete(&format!("/api/v1/namespaces/{name}"), Value::Null)
            .await
            .refused(403);
    }
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let api = Api::new();
    for (name, color) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        api.post(
            CONFIG_MAPS,
            json!({ "metadata": { "name": name, "labels": { "color": color } } }),
        )
        .await
        .good();
    }
    api.delete(
        &format!("{CONFIG_MAPS}?labelSelector=color%3Dred"),
        Value::Null,
    )
    .await
    .good();
    assert_eq!(api.names(CONFIG_MAPS).await, ["b"]);
}

#[tokio::test]
async fn evictions_respect_budgets() {
    let api = Api::new();
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({ "metadata": { "name": "b" }, "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "d" } } } });
    api.post(budgets, budget).await.good();
    api.post(PODS, pod("p", None, "n1")).await.good();
    let running = json!({ "status": { "phase": "Running" } });
    api.patch(&format!("{PODS}/p/status"), MERGE, running)
        .await
        .good();
    let evict = async || {
        api.post(&format!("{PODS}/p/eviction"), json!({ "kind": "Eviction" }))
            .await
    };
    let why = evict().await.refused(429);
    assert_eq!(
        why,
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    let allowed = json!({ "status": { "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2 } });
    api.patch(&format!("{budgets}/b/status"), MERGE, allowed)
        .await
        .good();
    evict().await.good();
    let after = api.get(&format!("{budgets}/b")).await.good();
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
}
