//! The binary against an API server: install, upgrade, uninstall, config and status as a person uses them.
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use apiserver::{ApiServer, ServerOptions};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::{HYPHA, text};

/// An API server on threads of its own, and something that says of every workload that it is up.
struct Cluster {
    runtime: Runtime,
    server: ApiServer,
    client: Client,
    dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

impl Cluster {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let server = ApiServer::open(ServerOptions::default()).unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = server.clone();
        runtime.spawn(async move { serving.serve(listener).await });
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
        std::fs::write(dir.path().join("kubeconfig"), config.to_string()).unwrap();
        let client = runtime
            .block_on(async { Client::try_from(Config::new(url.parse().unwrap())).unwrap() });
        runtime.spawn(up(client.clone()));
        Self {
            runtime,
            server,
            client,
            dir,
        }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Standard output, standard error, exit status.
    fn hypha(&self, words: &[&str]) -> (String, String, i32) {
        let output = Command::new(HYPHA)
            .args(words)
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (
            text(&output.stdout),
            text(&output.stderr),
            output.status.code().unwrap_or(-1),
        )
    }

    fn good(&self, words: &[&str]) -> String {
        let (out, errors, status) = self.hypha(words);
        assert_eq!((status, errors.as_str()), (0, ""), "{words:?}: {out}");
        out
    }

    fn bad(&self, words: &[&str]) -> String {
        let (_, errors, status) = self.hypha(words);
        assert_eq!(
            (status, errors.lines().count()),
            (1, 1),
            "{words:?}: {errors}"
        );
        errors
    }

    fn set(&self) -> DaemonSet {
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), "kube-system");
        self.runtime.block_on(sets.get("cilium")).unwrap()
    }
}

async fn up(client: Client) {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), "kube-system");
    let deployments: Api<Deployment> = Api::namespaced(client, "kube-system");
    loop {
        for name in ["cilium", "cilium-envoy"] {
            let Ok(Some(set)) = sets.get_opt(name).await else {
                continue;
            };
            let status = json!({"observedGeneration": set.metadata.generation, "desiredNumberScheduled": 3, "currentNumberScheduled": 3,
                "numberMisscheduled": 0, "updatedNumberScheduled": 3, "numberReady": 3, "numberAvailable": 3});
            let _ = sets
                .patch_status(
                    name,
                    &PatchParams::default(),
                    &Patch::Merge(json!({"status": status})),
                )
                .await;
        }
        if let Ok(Some(one)) = deployments.get_opt("cilium-operator").await {
            let status = json!({"observedGeneration": one.metadata.generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1});
            let _ = deployments
                .patch_status(
                    "cilium-operator",
                    &PatchParams::default(),
                    &Patch::Merge(json!({"status": status})),
                )
                .await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn documents(text: &str) -> Vec<Value> {
    let parts = text.split("---\n").filter(|part| !part.trim().is_empty());
    parts
        .map(|part| serde_saphyr::from_str(part).unwrap())
        .collect()
}

#[test]
fn a_cluster_is_set_up_changed_and_left() {
    let cluster = Cluster::start();
    let error = cluster.bad(&["status"]);
    assert!(
        error.contains("nothing is installed in namespace kube-system"),
        "{error}"
    );
    let error = cluster.bad(&["upgrade"]);
    assert!(
        error.contains(
            "there is no release cilium in namespace kube-system; `hypha install` makes one"
        ),
        "{error}"
    );
    // Nothing is changed by trying.
    assert_eq!(
        documents(&cluster.good(&["install", "--dry-run", "--set", "debug.enabled=true"])).len(),
        23
    );
    let values = cluster.good(&[
        "install",
        "--dry-run-helm-values",
        "--set",
        "devices={eth0,eth1}",
        "--set-string",
        "k8sServicePort=6443",
    ]);
    assert_eq!(
        values,
        "devices:\n- eth0\n- eth1\nk8sServicePort: \"6443\"\n"
    );
    let error = cluster.bad(&["install", "--set", "routingMode=nativ"]);
    assert!(
        error.contains("routingMode: \"nativ\" is not accepted; accepted: \"\", tunnel, native"),
        "{error}"
    );
    let error = cluster.bad(&["install", "--version", "9.9.9"]);
    assert!(error.contains("installs v0.1.0, not v9.9.9"), "{error}");
    assert_eq!(
        cluster.good(&["install", "--list-versions"]),
        "v0.1.0 (default)\n"
    );

    let file = cluster.dir.path().join("values.yaml");
    std::fs::write(&file, "ipam: {mode: kubernetes}\noperator: {replicas: 1}\n").unwrap();
    let out = cluster.good(&[
        "install",
        "--wait",
        "-f",
        file.to_str().unwrap(),
        "--set",
        "gke.enabled=true",
    ]);
    for line in [
        "✨ DaemonSet kube-system/cilium created",
        "✅ Revision 1 is in place",
        "gke.enabled=true has no effect: there are no settings for this cloud; set routing and ipam yourself",
    ] {
        assert!(
            out.lines().any(|one| one == line),
            "{line} is not in\n{out}"
        );
    }
    let error = cluster.bad(&["install"]);
    assert!(error.contains("release cilium is in namespace kube-system already (revision 1); `hypha upgrade` changes it"), "{error}");
    let out = cluster.good(&["upgrade", "--reuse-values", "--set", "debug.enabled=true"]);
    assert!(
        out.contains("✨ ConfigMap kube-system/cilium-config configured\n"),
        "{out}"
    );
    assert!(
        out.contains("✨ DaemonSet kube-system/cilium unchanged\n"),
        "{out}"
    );
    let view = cluster.good(&["config", "view"]);
    assert!(
        view.contains("\nipam ") && view.contains(" kubernetes\n") && view.contains("debug "),
        "{view}"
    );
    let out = cluster.good(&["upgrade", "--reset-values", "--set", "operator.replicas=1"]);
    assert!(out.contains("Revision 3"), "{out}");
    let view = cluster.good(&["config", "view"]);
    assert!(view.contains(" cluster-pool\n"), "{view}");

    let out = cluster.good(&["uninstall", "--wait"]);
    assert!(
        out.contains("✨ DaemonSet kube-system/cilium deleted\n")
            && out.ends_with("✅ Release cilium is gone\n"),
        "{out}"
    );
    let error = cluster.bad(&["uninstall"]);
    assert!(
        error.contains("there is no release cilium in namespace kube-system"),
        "{error}"
    );
}

#[test]
fn settings_and_state_are_those_of_the_pods() {
    let cluster = Cluster::start();
    cluster.good(&["install", "--wait", "--set", "operator.replicas=1"]);
    let before = cluster.set().metadata.generation;
    let out = cluster.good(&["config", "set", "debug", "true"]);
    assert_eq!(
        out,
        "✨ Patching ConfigMap cilium-config with debug=true...\n♻️  Restarted Cilium pods and the operator\n"
    );
    assert!(cluster.set().metadata.generation > before);
    let error = cluster.bad(&["config", "set", "ipam", "eni"]);
    assert!(
        error.contains("nothing is changed")
            && error.contains("kubernetes, cluster-pool, multi-pool or crd"),
        "{error}"
    );
    let out = cluster.good(&["config", "set", "no-such-key", "x", "--restart=false"]);
    assert!(
        out.contains("⚠️  Neither agent nor operator knows no-such-key"),
        "{out}"
    );
    // An upgrade takes back what it has a value for, and leaves the rest.
    cluster.good(&["upgrade"]);
    let view = cluster.good(&["config", "view"]);
    assert!(
        view.lines()
            .any(|line| line.starts_with("debug ") && line.ends_with(" false")),
        "{view}"
    );
    assert!(view.contains("no-such-key"), "{view}");

    let out = cluster.good(&["status", "--wait", "--wait-duration", "20s"]);
    for line in [
        "DaemonSet cilium Desired: 3, Ready: 3/3, Available: 3/3",
        "DaemonSet cilium-envoy Desired: 3, Ready: 3/3, Available: 3/3",
        "Deployment cilium-operator Desired: 1, Ready: 1/1, Available: 1/1",
        "Helm chart version: 0.1.0",
    ] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            out.lines().any(|one| words(one) == line),
            "{line} is not in\n{out}"
        );
    }
    let out = cluster.good(&["version"]);
    assert!(
        out.ends_with("cilium image (running): none; no agent runs in the cluster\n"),
        "{out}"
    );
}
