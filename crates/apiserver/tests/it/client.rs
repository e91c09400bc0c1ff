//! The embedded API server through `kube`'s ordinary client.

use std::collections::BTreeSet;

use hypha_apiserver::{ApiServer, ServerOptions};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Config, Error};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A server on a loopback port, ended with the test.
pub struct Running {
    pub server: ApiServer,
    pub url: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

pub async fn start(options: ServerOptions) -> Running {
    let server = ApiServer::open(options).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    Running { server, url }
}

impl Running {
    pub fn client(&self) -> Client {
        Client::try_from(Config::new(self.url.parse().unwrap())).unwrap()
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client(), "default")
    }
}

pub fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "nginx"}]},
    }))
    .unwrap()
}

pub fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> (u16, String) {
    match result {
        Err(Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("expected an API error, got {other:?}"),
    }
}

#[tokio::test]
async fn pods_live_from_creation_to_removal() {
    let running = start(ServerOptions::default()).await;
    let pods = running.pods();
    let made = pods
        .create(&PostParams::default(), &pod("web"))
        .await
        .unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(
        made.status.as_ref().unwrap().phase.as_deref(),
        Some("Pending")
    );
    assert_eq!(
        made.spec.as_ref().unwrap().restart_policy.as_deref(),
        Some("Always")
    );
    assert_eq!(
        code(pods.create(&PostParams::default(), &pod("web")).await),
        (409, "AlreadyExists".into())
    );

    let got = pods.get("web").await.unwrap();
    assert_eq!(got, made);
    assert_eq!(code(pods.get("nobody").await), (404, "NotFound".into()));

    // A writer with an old copy is refused; one with the newest goes through.
    let mut newer = got.clone();
    newer
        .metadata
        .labels
        .get_or_insert_default()
        .insert("tier".into(), "front".into());
    let newer = pods
        .replace("web", &PostParams::default(), &newer)
        .await
        .unwrap();
    assert_ne!(
        newer.metadata.resource_version,
        got.metadata.resource_version
    );
    assert_eq!(
        code(pods.replace("web", &PostParams::default(), &got).await),
        (409, "Conflict".into())
    );

    // Nothing changed, nothing written.
    let same = pods
        .replace("web", &PostParams::default(), &newer)
        .await
        .unwrap();
    assert_eq!(
        same.metadata.resource_version,
        newer.metadata.resource_version
    );

    // Nobody runs it: gone at once.
    pods.delete("web", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(pods.get("web").await).0, 404);
    assert_eq!(
        code(pods.delete("web", &DeleteParams::default()).await).0,
        404
    );
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let running = start(ServerOptions::default()).await;
    let pods = running.pods();
    pods.create(&PostParams::default(), &pod("web"))
        .await
        .unwrap();

    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}});
    let through_main = pods
        .patch("web", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    assert_eq!(
        through_main.status.unwrap().phase.as_deref(),
        Some("Pending")
    );

    let through_status = pods
        .patch_status("web", &PatchParams::default(), &Patch::Strategic(&status))
        .await
        .unwrap();
    assert_eq!(
        through_status.status.as_ref().unwrap().phase.as_deref(),
        Some("Running")
    );
    let more = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]}});
    let merged = pods
        .patch_status("web", &PatchParams::default(), &Patch::Strategic(&more))
        .await
        .unwrap();
    let conditions = merged.status.as_ref().unwrap().conditions.clone().unwrap();
    assert_eq!(
        conditions
            .iter()
            .map(|c| (c.type_.as_str(), c.status.as_str()))
            .collect::<Vec<_>>(),
        [("Ready", "True"), ("PodScheduled", "True")]
    );

    let mut both = merged.clone();
    both.status.as_mut().unwrap().phase = Some("Failed".into());
    both.spec.as_mut().unwrap().node_name = Some("n1".into());
    let written = pods
        .replace_status("web", &PostParams::default(), &both)
        .await
        .unwrap();
    assert_eq!(written.status.unwrap().phase.as_deref(), Some("Failed"));
    assert_eq!(written.spec.unwrap().node_name, None);
}

#[tokio::test]
async fn patches() {
    let running = start(ServerOptions::default()).await;
    let pods = running.pods();
    pods.create(&PostParams::default(), &pod("web"))
        .await
        .unwrap();
    let params = PatchParams::default();
    let set_image = json!({"spec": {"containers": [{"name": "main", "image": "nginx:2"}]}});
    let patched = pods
        .patch("web", &params, &Patch::Strategic(&set_image))
        .await
        .unwrap();
    assert_eq!(
        patched.spec.unwrap().containers[0].image.as_deref(),
        Some("nginx:2")
    );

    let label = json!([{"op": "add", "path": "/metadata/labels/x", "value": "1"}]);
    let operations: Value = label.clone();
    let patch: Patch<Pod> = Patch::Json(serde_json::from_value(operations).unwrap());
    let patched = pods.patch("web", &params, &patch).await.unwrap();
    assert_eq!(patched.metadata.labels.unwrap()["x"], "1");

    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"y": "1"}}});
    assert_eq!(
        code(pods.patch("web", &params, &Patch::Merge(&stale)).await).0,
        409
    );
    let rename = json!({"metadata": {"name": "other"}});
    assert_eq!(
        code(pods.patch("web", &params, &Patch::Merge(&rename)).await).0,
        400
    );
    let moved = json!({"spec": {"hostname": "other"}});
    assert_eq!(
        code(pods.patch("web", &params, &Patch::Merge(&moved)).await),
        (422, "Invalid".into())
    );
    let apply = PatchParams::apply("test").force();
    let applied = pods
        .patch("web", &apply, &Patch::Apply(&pod("web")))
        .await
        .unwrap();
    assert_eq!(
        applied.spec.unwrap().containers[0].image.as_deref(),
        Some("nginx")
    );
    let managers = applied.metadata.managed_fields.unwrap();
    assert!(
        managers.iter().any(
            |m| m.manager.as_deref() == Some("test") && m.operation.as_deref() == Some("Apply")
        )
    );
}

#[tokio::test]
async fn lists_select_and_page() {
    let running = start(ServerOptions::default()).await;
    let pods = running.pods();
    for i in 0..7 {
        let mut pod = pod(&format!("p{i}"));
        pod.metadata.labels = Some([("half".to_owned(), (i % 2).to_string())].into());
        if i > 4 {
            pod.spec.as_mut().unwrap().node_name = Some("n1".into());
        }
        pods.create(&PostParams::default(), &pod).await.unwrap();
    }
    let names = |list: kube::api::ObjectList<Pod>| -> Vec<String> {
        list.items
            .into_iter()
            .filter_map(|p| p.metadata.name)
            .collect()
    };
    let by_label = pods
        .list(&ListParams::default().labels("half in (1),half"))
        .await
        .unwrap();
    assert_eq!(names(by_label), ["p1", "p3", "p5"]);
    let by_field = pods
        .list(&ListParams::default().fields("spec.nodeName=n1,status.phase=Pending"))
        .await
        .unwrap();
    assert_eq!(names(by_field), ["p5", "p6"]);
    let by_name = pods
        .list(&ListParams::default().fields("metadata.name=p2"))
        .await
        .unwrap();
    assert_eq!(names(by_name), ["p2"]);
    assert_eq!(
        code(
            pods.list(&ListParams::default().fields("spec.color=red"))
                .await
        )
        .0,
        400
    );

    // Pages show the state of the first one, whatever happens in between.
    let first = pods.list(&ListParams::default().limit(3)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(4));
    pods.delete("p4", &DeleteParams::default()).await.unwrap();
    pods.create(&PostParams::default(), &pod("p35"))
        .await
        .unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let second = pods
        .list(&ListParams::default().limit(10).continue_token(&token))
        .await
        .unwrap();
    assert_eq!(names(first), ["p0", "p1", "p2"]);
    assert_eq!(names(second), ["p3", "p4", "p5", "p6"]);

    let everywhere: Api<Pod> = Api::all(running.client());
    assert_eq!(
        everywhere
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        7
    );
    let (now, even) = (
        DeleteParams::default().grace_period(0),
        ListParams::default().labels("half=0"),
    );
    let deleted = pods.delete_collection(&now, &even).await.unwrap();
    assert_eq!(deleted.left().unwrap().items.len(), 3);
}

#[tokio::test]
async fn names_are_generated() {
    let running = start(ServerOptions::default()).await;
    let pods = running.pods();
    let mut nameless = pod("x");
    nameless.metadata.name = None;
    assert_eq!(
        code(pods.create(&PostParams::default(), &nameless).await),
        (422, "Invalid".into())
    );
    nameless.metadata.generate_name = Some("web-".into());
    let mut names = BTreeSet::new();
    for _ in 0..20 {
        let made = pods
            .create(&PostParams::default(), &nameless)
            .await
            .unwrap();
        let name = made.metadata.name.unwrap();
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), 20);
}

#[tokio::test]
async fn pods_of_a_node_end_gracefully() {
    let running = start(ServerOptions::default()).await;
    let pods = running.pods();
    pods.create(&PostParams::default(), &pod("web"))
        .await
        .unwrap();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"}, "target": {"name": "n1"}});
    let params = PostParams::default();
    let bind = || pods.create_subresource::<Value, Value>("binding", "web", &params, &binding);
    bind().await.unwrap();
    assert_eq!(code(bind().await), (409, "Conflict".into()));
    assert_eq!(
        pods.get("web")
            .await
            .unwrap()
            .spec
            .unwrap()
            .node_name
            .as_deref(),
        Some("n1")
    );

    let pending = pods
        .delete("web", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert!(pending.metadata.deletion_timestamp.is_some());
    assert_eq!(pending.metadata.deletion_grace_period_seconds, Some(30));
    let wrong = DeleteParams::default().preconditions(kube::api::Preconditions {
        uid: Some("x".into()),
        ..Default::default()
    });
    assert_eq!(
        code(pods.delete("web", &wrong).await),
        (409, "Conflict".into())
    );
    // Asking again does not make it longer; a shorter time holds; none ends it.
    let again = pods
        .delete("web", &DeleteParams::default().grace_period(60))
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(again.metadata.deletion_grace_period_seconds, Some(30));
    let shorter = pods
        .delete("web", &DeleteParams::default().grace_period(5))
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(shorter.metadata.deletion_grace_period_seconds, Some(5));
    pods.delete("web", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    assert_eq!(code(pods.get("web").await).0, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let running = start(ServerOptions::default()).await;
    let nodes: Api<Node> = Api::all(running.client());
    let node: Node = serde_json::from_value(
        json!({"metadata": {"name": "n1", "finalizers": ["example.com/x"]}}),
    )
    .unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let marked = nodes
        .delete("n1", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    let more = json!({"metadata": {"finalizers": ["example.com/x", "example.com/y"]}});
    assert_eq!(
        code(
            nodes
                .patch("n1", &PatchParams::default(), &Patch::Merge(&more))
                .await
        )
        .0,
        422
    );
    let none = json!({"metadata": {"finalizers": null}});
    nodes
        .patch("n1", &PatchParams::default(), &Patch::Merge(&none))
        .await
        .unwrap();
    assert_eq!(code(nodes.get("n1").await).0, 404);
}

#[tokio::test]
async fn namespaces_take_their_content_along() {
    let running = start(ServerOptions::default()).await;
    let namespaces: Api<Namespace> = Api::all(running.client());
    let team: Api<Pod> = Api::namespaced(running.client(), "team");
    assert_eq!(
        code(team.create(&PostParams::default(), &pod("a")).await),
        (404, "NotFound".into())
    );
    let namespace: Namespace =
        serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    let made = namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    assert_eq!(
        made.metadata.labels.unwrap()["kubernetes.io/metadata.name"],
        "team"
    );
    team.create(&PostParams::default(), &pod("a"))
        .await
        .unwrap();
    let mut running_pod = pod("b");
    running_pod.spec.as_mut().unwrap().node_name = Some("n1".into());
    team.create(&PostParams::default(), &running_pod)
        .await
        .unwrap();

    let ending = namespaces
        .delete("team", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(ending.status.unwrap().phase.as_deref(), Some("Terminating"));
    assert_eq!(code(team.get("a").await).0, 404);
    assert!(
        team.get("b")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some()
    );
    assert_eq!(
        code(team.create(&PostParams::default(), &pod("c")).await),
        (403, "Forbidden".into())
    );
    // The node is done with the last pod: the namespace goes too.
    team.delete("b", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    assert_eq!(code(namespaces.get("team").await).0, 404);
    assert_eq!(
        code(namespaces.delete("default", &DeleteParams::default()).await),
        (403, "Forbidden".into())
    );
}

#[tokio::test]
async fn leases_want_a_revision_and_nodes_keep_their_status() {
    let running = start(ServerOptions::default()).await;
    let leases: Api<Lease> = Api::namespaced(running.client(), "kube-node-lease");
    let lease: Lease = serde_json::from_value(
        json!({"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}}),
    )
    .unwrap();
    let mut made = leases.create(&PostParams::default(), &lease).await.unwrap();
    assert_eq!(
        code(leases.replace("n1", &PostParams::default(), &lease).await).0,
        422
    );
    made.spec.as_mut().unwrap().lease_transitions = Some(3);
    leases
        .replace("n1", &PostParams::default(), &made)
        .await
        .unwrap();

    let nodes: Api<Node> = Api::all(running.client());
    let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:244:1::/112"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.10.100"}]}});
    let made = nodes
        .create(
            &PostParams::default(),
            &serde_json::from_value(node).unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(
        made.spec.unwrap().pod_cidr.as_deref(),
        Some("10.244.1.0/24")
    );
    assert_eq!(made.status.unwrap().addresses.unwrap().len(), 1);
    let cidr = json!({"spec": {"podCIDRs": ["10.9.9.0/24"]}});
    assert_eq!(
        code(
            nodes
                .patch("n1", &PatchParams::default(), &Patch::Merge(&cidr))
                .await
        )
        .0,
        422
    );
}

#[tokio::test]
async fn writers_that_race_lose_nothing() {
    let running = start(ServerOptions::default()).await;
    let pods = running.pods();
    pods.create(&PostParams::default(), &pod("web"))
        .await
        .unwrap();
    let writers = (0..40).map(|i| {
        let pods = pods.clone();
        async move {
            let label = json!({"metadata": {"labels": {format!("l{i}"): "1"}}});
            pods.patch("web", &PatchParams::default(), &Patch::Merge(&label))
                .await
        }
    });
    futures::future::try_join_all(writers).await.unwrap();
    assert_eq!(
        pods.get("web")
            .await
            .unwrap()
            .metadata
            .labels
            .unwrap()
            .len(),
        41
    );
}
