//! The lab's nodes in a cluster whose API server is Kubernetes' own: what the project's components use must be what every
//! cluster has. Run with `cargo xtask test-conformance`; see README.md of this package.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod access;
mod calls;
mod container;
mod refusals;
mod server;
mod streams;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hypha_e2e::cluster::Cluster;
use serde_json::Value;
use server::{Manager, Server, kubectl};
use testkit::{LabBuilder, LabGuard, wait_until};

/// How long something that goes through several controllers may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A lab that joins a server.
fn join(server: &Server, more: &[&str]) -> LabBuilder {
    let _ = hypha_e2e::program("hypha-cni");
    let owner = server.kubeconfig("lab-owner", Some("system:masters"));
    let lab = LabBuilder::new(hypha_e2e::program("hypha"), "e2e-real")
        .args(&["--timeout", "90", "--kubeconfig"])
        .args(&[owner.to_str().unwrap()]);
    if has_slices(server) || more.contains(&"--cluster-dns") {
        return lab.args(more);
    }
    lab.args(&["--cluster-dns", "none"]).args(more)
}

/// Cluster DNS and controllers of the lab, other than agents and operator, read slices of endpoints as every server since 1.21 has them.
fn has_slices(server: &Server) -> bool {
    let has = server.minor >= 21;
    if !has {
        println!(
            "without cluster DNS and the lab's own controllers: Kubernetes 1.{} has no EndpointSlice of discovery.k8s.io/v1",
            server.minor
        );
    }
    has
}

/// What `kubectl` prints; it must succeed.
#[track_caller]
fn ok(config: &Path, args: &[&str]) -> String {
    let run = kubectl(config, args);
    assert!(run.ok(), "kubectl {args:?}: {}{}", run.stdout, run.stderr);
    run.stdout
}

/// Objects, as `kubectl get … -o json` shows them.
#[track_caller]
fn items(config: &Path, args: &[&str]) -> Vec<Value> {
    let text = ok(config, &[&["get", "-o", "json"], args].concat());
    let list: Value = serde_json::from_str(&text).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn names(items: &[Value]) -> Vec<&str> {
    items
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect()
}

/// Waits until a deployment has all its pods.
#[track_caller]
fn rolled_out(config: &Path, name: &str) {
    ok(
        config,
        &[
            "rollout",
            "status",
            &format!("deployment/{name}"),
            "--timeout=60s",
        ],
    );
}

const ELSEWHERE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: elsewhere}
spec: {podCIDR: 10.99.0.0/24, podCIDRs: [10.99.0.0/24]}
---
apiVersion: v1
kind: Pod
metadata: {name: theirs, namespace: default}
spec:
  nodeName: elsewhere
  containers: [{name: c, image: whatever}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: theirs, namespace: default}
data: {a: b}
"#;

/// Names of the cluster's custom kinds of ours.
fn kinds(config: &Path) -> Vec<String> {
    let all = items(config, &["customresourcedefinitions"]);
    let ours = all
        .iter()
        .filter(|kind| kind["spec"]["group"] == "cilium.io");
    ours.filter_map(|kind| Some(kind["metadata"]["name"].as_str()?.to_owned()))
        .collect()
}

const POOL: &str = r#"
apiVersion: cilium.io/v2alpha1
kind: CiliumPodIPPool
metadata: {name: theirs}
spec: {ipv4: {cidrs: [10.70.0.0/16], maskSize: 24}}
"#;

/// Asserts that nothing of the lab is in the cluster any more, and everything else is.
#[track_caller]
fn assert_left(config: &Path) {
    assert_eq!(names(&items(config, &["nodes"])), ["elsewhere"]);
    let pods = items(config, &["pods", "-A"]);
    assert_eq!(names(&pods), ["theirs"], "{pods:?}");
    assert!(items(config, &["leases", "-n", "kube-node-lease"]).is_empty());
    let labelled = "deployments,replicasets,services,configmaps,serviceaccounts,secrets,clusterroles,clusterrolebindings";
    let rest = items(config, &[labelled, "-A", "-l", "hypha.dev/lab"]);
    assert!(rest.is_empty(), "{:?}", names(&rest));
    assert!(kinds(config).is_empty(), "{:?}", kinds(config));
    ok(config, &["get", "configmap", "theirs"]);
    ok(config, &["get", "service", "kubernetes"]);
}

#[test]
#[ignore = "needs a real API server: cargo xtask test-conformance"]
fn e2e_conformant_cluster() {
    let server = Server::start(Manager::Own);
    let config = server.admin();
    let manifest = server.write("elsewhere.yaml", ELSEWHERE);
    ok(&config, &["apply", "-f", manifest.to_str().unwrap()]);

    let lab = join(&server, &["--sample"]).up();
    let cluster = Cluster::of(lab);
    let rows = cluster.assert_connected(&[]);
    assert!(rows.len() >= 100, "{} cells", rows.len());

    streams::every_client(&server, &cluster.lab);
    workloads(&config, &cluster.lab, has_slices(&server));
    calls::assert_conformant(&server);

    cluster.lab.down();
    assert_left(&config);
}

/// Deployments, services and, with cluster DNS, names, made by the cluster's own controllers and scheduler.
fn workloads(config: &Path, lab: &LabGuard, dns: bool) {
    ok(
        config,
        &[
            "create",
            "deployment",
            "web",
            "--image=traefik/whoami",
            "--replicas=3",
        ],
    );
    rolled_out(config, "web");
    ok(config, &["expose", "deployment", "web", "--port=80"]);
    ok(
        config,
        &[
            "run",
            "client",
            "--image=host",
            "--restart=Never",
            "--command",
            "--",
            "sleep",
            "1000",
        ],
    );
    ok(
        config,
        &[
            "wait",
            "--for=condition=Ready",
            "pod/client",
            "--timeout=60s",
        ],
    );
    let web = items(config, &["services", "--field-selector=metadata.name=web"]);
    let web = web[0]["spec"]["clusterIP"].as_str().unwrap();
    wait_until("the service answers", LIMIT, || {
        let run = lab.exec("client", &["curl", "-sS", "--max-time", "1", web]);
        run.stdout.contains("Hostname: web-").then_some(())
    });
    if dns {
        resolves(lab, web);
    }
    ok(config, &["scale", "deployment/web", "--replicas=5"]);
    rolled_out(config, "web");
    ok(config, &["rollout", "restart", "deployment/web"]);
    rolled_out(config, "web");
    ok(
        config,
        &[
            "delete",
            "pod/client",
            "deployment/web",
            "service/web",
            "--grace-period=1",
        ],
    );
    wait_until("the pods are gone", LIMIT, || {
        items(config, &["pods", "-l", "app=web"])
            .is_empty()
            .then_some(())
    });
}

/// A pod finds the service by its name.
fn resolves(lab: &LabGuard, address: &str) {
    let found = wait_until("the name of the service", LIMIT, || {
        let run = lab.exec(
            "client",
            &["getent", "ahostsv4", "web.default.svc.cluster.local"],
        );
        run.ok().then_some(run.stdout)
    });
    assert!(found.starts_with(address), "{found} is not {address}");
}

#[test]
#[ignore = "needs a real API server: cargo xtask test-conformance"]
fn e2e_conformant_bare_server() {
    let server = Server::start(Manager::None);
    if !has_slices(&server) {
        return;
    }
    let config = server.admin();
    let manifest = server.write("elsewhere.yaml", ELSEWHERE.split("---").next().unwrap());
    ok(&config, &["apply", "-f", manifest.to_str().unwrap()]);
    // Some distributions' servers mount this into every pod, and controllers of theirs publish it.
    for namespace in ["kube-system", "default"] {
        let name = "openshift-service-ca.crt";
        ok(
            &config,
            &[
                "create",
                "configmap",
                name,
                "-n",
                namespace,
                "--from-literal=service-ca.crt=none",
            ],
        );
    }
    let lab = join(&server, &["--nodes", "2", "--controllers"]).up();
    ok(
        &config,
        &[
            "create",
            "deployment",
            "web",
            "--image=traefik/whoami",
            "--replicas=4",
        ],
    );
    rolled_out(&config, "web");
    let pods = items(&config, &["pods", "-l", "app=web"]);
    let mut nodes: Vec<_> = pods
        .iter()
        .filter_map(|p| p["spec"]["nodeName"].as_str())
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes, ["node1", "node2"], "both are used, and no other");
    calls::assert_conformant(&server);

    // A crash leaves everything; `down` finds it.
    let supervisor: Value = read(&lab.dir().join("supervisor.json"));
    kill(&supervisor);
    assert_eq!(items(&config, &["nodes"]).len(), 3);
    // Somebody has made use of a kind that came with the lab.
    let pool = server.write("pool.yaml", POOL);
    ok(&config, &["apply", "-f", pool.to_str().unwrap()]);
    let down = lab.lab("down", &[]);
    assert!(down.ok(), "{}", down.stderr);
    let last = down.stdout.lines().last().unwrap_or_default();
    assert!(
        last.contains("stay: others use them, as ciliumpodippools theirs"),
        "{last}"
    );
    assert!(!kinds(&config).is_empty());
    assert_eq!(names(&items(&config, &["nodes"])), ["elsewhere"]);
    assert!(items(&config, &["pods", "-A"]).is_empty());
    assert!(items(&config, &["leases", "-n", "kube-node-lease"]).is_empty());
}

fn read(path: &PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Ends a process at once.
fn kill(process: &Value) {
    let process: ::lab::proc::ProcId = serde_json::from_value(process.clone()).unwrap();
    assert!(process.signal(nix::sys::signal::Signal::SIGKILL));
    assert!(process.wait_gone(Duration::from_secs(5)));
}
