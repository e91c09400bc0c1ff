//! What users do with rollouts, through the real `kubectl`.
use std::process::Stdio;

use hypha_controllers::{Settings, pods};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{cluster::Cluster, workload};

const KUBECTL: &str = "/usr/bin/kubectl";

fn is_missing() -> bool {
    let missing = !std::path::Path::new(KUBECTL).exists();
    if missing {
        eprintln!("skipped: {KUBECTL} is not there");
    }
    missing
}

/// Runs a command; gives what it printed, and whether it succeeded.
async fn run(cluster: &Cluster, input: Option<Value>, args: &str) -> (String, bool) {
    let home = std::env::temp_dir().join(format!("hypha-kubectl-{}", std::process::id()));
    let mut child = Command::new(KUBECTL)
        .env("HOME", &home)
        .env("KUBECONFIG", "/dev/null")
        .arg(format!("--server={}", cluster.url))
        .args(args.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    if let Some(input) = input {
        stdin.write_all(input.to_string().as_bytes()).await.unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let _ = std::fs::remove_dir_all(home);
    let text = [output.stdout, output.stderr].concat();
    (
        String::from_utf8_lossy(&text).into_owned(),
        output.status.success(),
    )
}

async fn kubectl(cluster: &Cluster, args: &str) -> String {
    let (text, ok) = run(cluster, None, args).await;
    assert!(ok, "kubectl {args}: {text}");
    text
}

async fn apply(cluster: &Cluster, object: Value) {
    let (text, ok) = run(cluster, Some(object), "apply -f -").await;
    assert!(ok, "{text}");
}

async fn images(cluster: &Cluster) -> Vec<String> {
    let all = cluster.ready_pods().await;
    let image = |pod: &Pod| pod.spec.as_ref()?.containers[0].image.clone();
    all.iter().filter_map(image).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollouts_of_every_sort() {
    if is_missing() {
        return;
    }
    let cluster = Cluster::start(2, Settings::default()).await;
    for (kind, replicas, done) in [
        ("Deployment", Some(2), "successfully rolled out"),
        ("StatefulSet", Some(2), "2 pods at revision"),
        ("DaemonSet", None, "successfully rolled out"),
    ] {
        let name = format!("{}/web", kind.to_lowercase());
        let status = format!("rollout status {name} --timeout=20s");
        apply(&cluster, workload(kind, "web", replicas)).await;
        // A StatefulSet of one version has nothing to tell but that it is there.
        kubectl(&cluster, &status).await;
        kubectl(&cluster, &format!("set image {name} c=v2")).await;
        let text = kubectl(&cluster, &status).await;
        let told = if kind == "StatefulSet" {
            "roll out complete"
        } else {
            done
        };
        assert!(text.contains(told), "{kind}: {text}");
        assert_eq!(images(&cluster).await, ["v2", "v2"], "{kind}");
        let history = kubectl(&cluster, &format!("rollout history {name}")).await;
        let numbers: Vec<_> = history
            .lines()
            .filter_map(|l| l.split_whitespace().next()?.parse::<u32>().ok())
            .collect();
        assert_eq!(numbers, [1, 2], "{kind}: {history}");
        let undone = kubectl(&cluster, &format!("rollout undo {name}")).await;
        assert!(undone.contains("rolled back"), "{undone}");
        kubectl(&cluster, &status).await;
        assert_eq!(images(&cluster).await, ["v1", "v1"], "{kind}");
        let before = uids(&cluster).await;
        kubectl(&cluster, &format!("rollout restart {name}")).await;
        kubectl(&cluster, &status).await;
        assert!(
            uids(&cluster).await.iter().all(|uid| !before.contains(uid)),
            "{kind}"
        );
        kubectl(&cluster, &format!("delete {name} --wait=true")).await;
        cluster
            .until("its pods are gone", async || {
                cluster.list::<Pod>().await.is_empty()
            })
            .await;
    }
}

async fn uids(cluster: &Cluster) -> Vec<Option<String>> {
    let all = cluster.ready_pods().await.into_iter();
    all.map(|pod| pod.metadata.uid).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_scale_and_describe() {
    if is_missing() {
        return;
    }
    let cluster = Cluster::start(1, Settings::default()).await;
    apply(&cluster, workload("Deployment", "web", Some(1))).await;
    kubectl(&cluster, "rollout status deployment/web --timeout=20s").await;
    kubectl(&cluster, "rollout pause deployment/web").await;
    kubectl(&cluster, "set image deployment/web c=v2").await;
    kubectl(&cluster, "scale deployment/web --replicas=3").await;
    cluster
        .until("it is scaled", async || {
            cluster.ready_pods().await.len() == 3
        })
        .await;
    assert_eq!(images(&cluster).await, ["v1", "v1", "v1"]);
    kubectl(&cluster, "rollout resume deployment/web").await;
    kubectl(&cluster, "rollout status deployment/web --timeout=20s").await;
    assert_eq!(images(&cluster).await, ["v2", "v2", "v2"]);
    kubectl(
        &cluster,
        "wait --for=condition=Available deployment/web --timeout=20s",
    )
    .await;
    let text = kubectl(&cluster, "describe deployment web").await;
    for wanted in [
        "3 desired | 3 updated | 3 total | 3 available | 0 unavailable",
        "NewReplicaSetAvailable",
        "MinimumReplicasAvailable",
        "ScalingReplicaSet",
        "deployment-controller",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
    let pods = cluster.ready_pods().await;
    let name = pods[0].metadata.name.clone().unwrap();
    let text = kubectl(&cluster, &format!("describe pod {name}")).await;
    assert!(text.contains("Successfully assigned default/"), "{text}");
    assert!(text.contains("Controlled By:  ReplicaSet/web-"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_respects_the_budget_and_moves_everything() {
    if is_missing() {
        return;
    }
    let cluster = Cluster::start(2, Settings::default()).await;
    apply(&cluster, workload("Deployment", "web", Some(4))).await;
    apply(&cluster, workload("DaemonSet", "agent", None)).await;
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "web"}}},
    });
    apply(&cluster, budget).await;
    kubectl(&cluster, "rollout status deployment/web --timeout=20s").await;
    kubectl(&cluster, "rollout status daemonset/agent --timeout=20s").await;
    cluster
        .until("the budget is known", async || {
            kubectl(
                &cluster,
                "get pdb web -o jsonpath={.status.disruptionsAllowed}",
            )
            .await
                == "1"
        })
        .await;
    let text = kubectl(&cluster, "drain n1 --ignore-daemonsets --timeout=60s").await;
    assert!(text.contains("node/n1 drained"), "{text}");
    kubectl(&cluster, "rollout status deployment/web --timeout=20s").await;
    let pods = cluster.ready_pods().await;
    let on = |node: &str| {
        pods.iter()
            .filter(|pod| pods::node(pod) == Some(node))
            .count()
    };
    assert_eq!((on("n1"), on("n2")), (1, 5), "only the daemon stays");
    kubectl(&cluster, "uncordon n1").await;
    kubectl(&cluster, "taint nodes n1 out=yes:NoExecute").await;
    cluster
        .until("the daemon is gone, too", async || {
            let pods = cluster.list::<Pod>().await;
            pods.iter().all(|pod| pods::node(pod) == Some("n2"))
        })
        .await;
}
