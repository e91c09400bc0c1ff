//! The controllers against the embedded API server.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod cluster;
mod kubectl;

use std::time::{Duration, Instant};

use cluster::Cluster;
use hypha_controllers::{Settings, meta, pods};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::Job,
    core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
    })
}

fn workload(kind: &str, name: &str, replicas: Option<i32>) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name, "v1")},
    });
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = json!(replicas);
    }
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = json!(name);
    }
    object
}

fn image(name: &str, image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}, "metadata": {"labels": {"app": name}}}}})
}

async fn rolled_out(cluster: &Cluster, name: &str, replicas: i32) {
    cluster
        .until(&format!("{name} is rolled out"), async || {
            let web = cluster.api::<Deployment>().get(name).await.unwrap();
            let status = web.status.unwrap_or_default();
            let number = |n: Option<i32>| n.unwrap_or(0);
            status.observed_generation == web.metadata.generation
                && number(status.updated_replicas) == replicas
                && number(status.replicas) == replicas
                && number(status.available_replicas) == replicas
        })
        .await;
}

async fn messages(cluster: &Cluster, reason: &str) -> Vec<(String, i32)> {
    let events = cluster.list::<Event>().await.into_iter();
    let events = events.filter(|event| event.reason.as_deref() == Some(reason));
    events
        .map(|event| (event.message.unwrap_or_default(), event.count.unwrap_or(0)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_from_creation_to_removal() {
    let cluster = Cluster::start(3, Settings::default()).await;
    cluster
        .create::<Service>(json!({
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        }))
        .await;
    cluster
        .create::<Deployment>(workload("Deployment", "web", Some(3)))
        .await;
    rolled_out(&cluster, "web", 3).await;
    let mut nodes: Vec<_> = cluster.ready_pods().await;
    nodes.sort_by_key(|pod| pods::node(pod).map(str::to_owned));
    let nodes: Vec<_> = nodes.iter().filter_map(|pod| pods::node(pod)).collect();
    assert_eq!(nodes, ["n1", "n2", "n3"]);
    cluster
        .until("the slice has three ready endpoints", async || {
            let slices = cluster.list::<EndpointSlice>().await;
            let ready = slices
                .iter()
                .flat_map(|slice| slice.endpoints.iter().flatten());
            ready
                .filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)))
                .count()
                == 3
        })
        .await;
    let slice = &cluster.list::<EndpointSlice>().await[0];
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    assert!(meta::controller_of(&slice.metadata).is_some());
    cluster
        .until("there are endpoints, too", async || {
            let endpoints = cluster.api::<Endpoints>().get_opt("web").await.unwrap();
            endpoints.is_some_and(|e| e.subsets.is_some())
        })
        .await;

    cluster.patch::<Deployment>("web", image("web", "v2")).await;
    rolled_out(&cluster, "web", 3).await;
    let sets = cluster.list::<ReplicaSet>().await;
    assert_eq!(sets.len(), 2);
    let scaled = json!({"spec": {"replicas": 5}});
    cluster.patch::<Deployment>("web", scaled).await;
    rolled_out(&cluster, "web", 5).await;
    // What `kubectl rollout undo` does.
    cluster.patch::<Deployment>("web", image("web", "v1")).await;
    rolled_out(&cluster, "web", 5).await;
    let web = cluster.api::<Deployment>().get("web").await.unwrap();
    assert_eq!(
        meta::annotation(&web.metadata, "deployment.kubernetes.io/revision"),
        Some("3")
    );
    assert_eq!(cluster.list::<ReplicaSet>().await.len(), 2);
    cluster
        .until("events tell what happened", async || {
            messages(&cluster, "ScalingReplicaSet").await.len() > 3
                && messages(&cluster, "Scheduled").await.len() >= 8
                && messages(&cluster, "SuccessfulCreate").await.len() >= 8
        })
        .await;
    cluster
        .api::<Deployment>()
        .delete("web", &DeleteParams::background())
        .await
        .unwrap();
    cluster
        .until("everything of it is gone", async || {
            cluster.list::<Pod>().await.is_empty() && cluster.list::<ReplicaSet>().await.is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_sets_stateful_sets_and_jobs() {
    let cluster = Cluster::start(2, Settings::default()).await;
    cluster
        .create::<DaemonSet>(workload("DaemonSet", "agent", None))
        .await;
    cluster
        .create::<StatefulSet>(workload("StatefulSet", "db", Some(3)))
        .await;
    cluster
        .create::<Job>(json!({
            "metadata": {"name": "work"},
            "spec": {"completions": 4, "parallelism": 2, "template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "v1"}]}}},
        }))
        .await;
    cluster
        .until("all of them have their pods", async || {
            let agent = cluster
                .api::<DaemonSet>()
                .get("agent")
                .await
                .unwrap()
                .status
                .unwrap_or_default();
            let db = cluster
                .api::<StatefulSet>()
                .get("db")
                .await
                .unwrap()
                .status
                .unwrap_or_default();
            let work = cluster
                .api::<Job>()
                .get("work")
                .await
                .unwrap()
                .status
                .unwrap_or_default();
            agent.number_available == Some(2)
                && db.ready_replicas == Some(3)
                && work.succeeded == Some(4)
        })
        .await;
    let work = cluster
        .api::<Job>()
        .get("work")
        .await
        .unwrap()
        .status
        .unwrap();
    assert!(
        work.conditions
            .unwrap()
            .iter()
            .any(|c| c.type_ == "Complete")
    );
    cluster.add_node("n3").await;
    cluster
        .patch::<DaemonSet>("agent", image("agent", "v2"))
        .await;
    cluster.patch::<StatefulSet>("db", image("db", "v2")).await;
    cluster
        .until("both are rolled out", async || {
            let agent = cluster
                .api::<DaemonSet>()
                .get("agent")
                .await
                .unwrap()
                .status
                .unwrap_or_default();
            let db = cluster
                .api::<StatefulSet>()
                .get("db")
                .await
                .unwrap()
                .status
                .unwrap_or_default();
            agent.updated_number_scheduled == Some(3)
                && agent.number_available == Some(3)
                && db.updated_replicas == Some(3)
                && db.ready_replicas == Some(3)
                && db.current_revision == db.update_revision
        })
        .await;
    assert!(cluster.api::<Pod>().get("db-2").await.is_ok());
    // What `kubectl rollout undo` does: the older version's data is the patch.
    let revisions = cluster.list::<ControllerRevision>().await;
    let first = revisions
        .iter()
        .find(|r| r.revision == Some(1) && meta::name(&r.metadata).starts_with("agent-"));
    let data = first.unwrap().data.0.clone();
    cluster.patch::<DaemonSet>("agent", data).await;
    cluster
        .until("the first version is back", async || {
            let pods = cluster.ready_pods().await;
            let old = pods.iter().filter(|pod| {
                let spec = pod.spec.as_ref().unwrap();
                meta::label(&pod.metadata, "app") == Some("agent")
                    && spec.containers[0].image.as_deref() == Some("v1")
            });
            old.count() == 3
        })
        .await;
    let name = meta::name(&first.unwrap().metadata);
    let first = cluster.api::<ControllerRevision>().get(name).await.unwrap();
    assert_eq!(first.revision, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_budgets_and_lost_nodes() {
    let settings = Settings {
        root_ca: Some("PEM".into()),
        node_grace: Duration::from_secs(3),
        gone_node_grace: Duration::from_secs(1),
        ..Settings::default()
    };
    let cluster = Cluster::start(2, settings).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let team: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &team)
        .await
        .unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "team");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team");
    cluster
        .until("the namespace has what every namespace has", async || {
            let ca = maps.get_opt("kube-root-ca.crt").await.unwrap();
            accounts.get_opt("default").await.unwrap().is_some()
                && ca.is_some_and(|m| m.data.unwrap()["ca.crt"] == "PEM")
        })
        .await;
    cluster
        .create::<Deployment>(workload("Deployment", "web", Some(2)))
        .await;
    cluster
        .create::<PodDisruptionBudget>(json!({
            "metadata": {"name": "web"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        }))
        .await;
    cluster
        .until("one may be evicted", async || {
            let budget = cluster
                .api::<PodDisruptionBudget>()
                .get("web")
                .await
                .unwrap();
            budget
                .status
                .is_some_and(|s| s.disruptions_allowed == Some(1))
        })
        .await;
    // Only n2 goes on to give signs of life.
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    cluster
        .until("n1 is lost, and n2 is not", async || {
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now());
            let alive = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now}]}});
            nodes
                .patch_status("n2", &PatchParams::default(), &Patch::Strategic(alive))
                .await
                .unwrap();
            let tainted = async |name| {
                let node: Node = nodes.get(name).await.unwrap();
                hypha_controllers::nodematch::taints(&node).iter().any(|t| t.key == "node.kubernetes.io/unreachable")
            };
            let (first, second) = (tainted("n1").await, tainted("n2").await);
            assert!(!second, "n2 is alive");
            first
        })
        .await;
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    cluster
        .until("its pods are replaced on the other", async || {
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now());
            let alive = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now}]}});
            let _ = nodes
                .patch_status("n2", &PatchParams::default(), &Patch::Strategic(alive))
                .await;
            let pods = cluster.list::<Pod>().await;
            pods.len() == 2 && pods.iter().all(|pod| pods::node(pod) == Some("n2"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_pods_at_once() {
    let cluster = Cluster::start(3, Settings::default()).await;
    let begin = Instant::now();
    cluster
        .create::<Deployment>(workload("Deployment", "many", Some(100)))
        .await;
    rolled_out(&cluster, "many", 100).await;
    println!("100 pods of a deployment ready after {:?}", begin.elapsed());
    for health in cluster.health.get().iter().filter(|h| h.writes > 0) {
        println!(
            "{}: {} plans, {} writes",
            health.name, health.plans, health.writes
        );
    }
    let pods = cluster.list::<Pod>().await;
    assert_eq!(pods.len(), 100, "and none too many");
    for node in ["n1", "n2", "n3"] {
        let here = pods
            .iter()
            .filter(|pod| pods::node(pod) == Some(node))
            .count();
        assert!((33..=34).contains(&here), "{node} has {here}");
    }
    assert!(
        cluster
            .health
            .get()
            .iter()
            .all(|health| health.last_error.is_none()),
        "{:#?}",
        cluster.health.get()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_scheduled_says_why_until_it_can() {
    let cluster = Cluster::start(1, Settings::default()).await;
    cluster
        .create::<Pod>(json!({
            "metadata": {"name": "picky"},
            "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "v1"}]},
        }))
        .await;
    let text = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    cluster
        .until("the event tells why", async || {
            // Before the scheduler heard of the node it may have told of none.
            let told = messages(&cluster, "FailedScheduling").await;
            told.contains(&(text.to_owned(), 1))
        })
        .await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let label = json!({"metadata": {"labels": {"disk": "ssd"}}});
    nodes
        .patch("n1", &PatchParams::default(), &Patch::Merge(label))
        .await
        .unwrap();
    cluster
        .until("it runs", async || cluster.ready_pods().await.len() == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_server_takes_the_place_of_another() {
    let mut cluster = Cluster::start(2, Settings::default()).await;
    cluster
        .create::<Deployment>(workload("Deployment", "web", Some(5)))
        .await;
    rolled_out(&cluster, "web", 5).await;
    cluster.replace_server().await;
    // Everything is as in a new cluster, and nothing of before comes back.
    cluster.add_node("n1").await;
    assert!(cluster.list::<Deployment>().await.is_empty());
    cluster
        .create::<Deployment>(workload("Deployment", "web", Some(2)))
        .await;
    rolled_out(&cluster, "web", 2).await;
    let pods = cluster.ready_pods().await;
    let nodes: Vec<_> = pods.iter().filter_map(|pod| pods::node(pod)).collect();
    assert_eq!(nodes, ["n1", "n1"]);
}
