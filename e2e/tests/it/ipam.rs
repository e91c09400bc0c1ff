//! Where addresses come from, and what a change of that does to pods that run.

use std::time::Duration;

use hypha_e2e::cluster::{Cluster, pod_yaml};
use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};
use testkit::{skip_unless_root, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const NODES: [&str; 2] = ["node1", "node2"];

fn set(cluster: &Cluster, settings: &[(&str, &str)]) {
    for (key, value) in settings {
        let run = cluster
            .lab
            .hypha(&["config", "set", key, value, "--restart=false"]);
        assert!(run.ok(), "{}", run.stderr);
    }
    let view = cluster.lab.hypha(&["config", "view"]).stdout;
    for (key, value) in settings {
        let is_line = |line: &str| line.split_whitespace().eq([*key, *value]);
        assert!(view.lines().any(is_line), "{key} is not {value} in {view}");
    }
}

fn restart(cluster: &Cluster, node: &str) {
    let old = cluster.kill_agent(node);
    cluster.wait_replaced(node, Some(&old));
}

/// IPv4 ranges of a node.
fn range(cluster: &Cluster, node: &str) -> String {
    let path = "-o=jsonpath={.spec.ipam.podCIDRs[0]}";
    cluster.kubectl(&["get", "ciliumnode", node, path])
}

#[test]
fn e2e_ipam_changes_with_settings_and_a_deleted_cilium_node() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up(
        "e2e-ipam",
        &["--nodes", "2", "--routing", "native", "--sample"],
    );
    for (node, first) in NODES.iter().zip(["10.244.1.0/24", "10.244.2.0/24"]) {
        assert_eq!(range(&cluster, node), first);
    }
    let old_pods: Vec<String> = cluster.lab.pod_ips("echo-node1-a");
    set(
        &cluster,
        &[
            ("ipam", "cluster-pool"),
            ("cluster-pool-ipv4-cidr", "172.20.0.0/16"),
            ("cluster-pool-ipv6-cidr", "fd00:172::/104"),
            ("cluster-pool-ipv6-mask-size", "120"),
            ("ipv4-native-routing-cidr", "172.20.0.0/16"),
        ],
    );
    cluster.restart_operator(Signal::SIGTERM);
    for node in NODES {
        restart(&cluster, node);
    }
    assert_eq!(
        range(&cluster, "node1"),
        "10.244.1.0/24",
        "as long as the object is there"
    );
    for node in NODES {
        cluster.kubectl(&["delete", "ciliumnode", node]);
        restart(&cluster, node);
        let found = range(&cluster, node);
        assert!(found.starts_with("172.20."), "{node}: {found}");
    }
    // Pods that ran keep their addresses, new ones get new ones, and other nodes know the way to them.
    assert_eq!(cluster.lab.pod_ips("echo-node1-a"), old_pods);
    for node in NODES {
        cluster.lab.apply(&pod_yaml(&format!("new-{node}"), node));
    }
    let ips: Vec<String> = NODES
        .iter()
        .map(|node| {
            wait_until("a new pod has an address", LIMIT, || {
                cluster
                    .lab
                    .pod_ips(&format!("new-{node}"))
                    .into_iter()
                    .next()
            })
        })
        .collect();
    assert!(ips.iter().all(|ip| ip.starts_with("172.20.")), "{ips:?}");
    wait_until("packets find their way", LIMIT, || {
        let ping = ["ping", "-c1", "-W1", &ips[1]];
        cluster.lab.exec("new-node1", &ping).ok().then_some(())
    });
    wait_until("all endpoints are published", LIMIT, || {
        let endpoints = cluster.kubectl(&["get", "ciliumendpoints", "-o=name"]);
        (endpoints.lines().count() == 6).then_some(())
    });
    cluster.assert_clean();
}

/// Lists addresses of both families in a node's object, besides those that it has.
fn list_addresses(cluster: &Cluster, node: &str, last: std::ops::Range<u32>) {
    let number = &node["node".len()..];
    let of_both = |i| {
        [
            format!("172.21.{number}.{i}"),
            format!("fd00:21:{number}::{i}"),
        ]
    };
    let pool: Map<_, _> = last.flat_map(of_both).map(|ip| (ip, json!({}))).collect();
    let patch = json!({"spec": {"ipam": {"pool": pool}}}).to_string();
    cluster.kubectl(&["patch", "ciliumnode", node, "--type=merge", "-p", &patch]);
}

#[test]
fn e2e_ipam_of_listed_addresses() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-listed", &["--nodes", "2"]);
    let often = ("ipam-cilium-node-update-rate", "1s");
    set(&cluster, &[("ipam", "crd"), often]);
    cluster.restart_operator(Signal::SIGTERM);
    for node in NODES {
        // The router's, and one for a pod.
        list_addresses(&cluster, node, 10..12);
        restart(&cluster, node);
        cluster.lab.apply(&pod_yaml(&format!("first-{node}"), node));
    }
    let addresses = |pod: &str| {
        let found = wait_until("a pod has addresses", LIMIT, || {
            Some(cluster.lab.pod_ips(pod)).filter(|ips| ips.len() == 2)
        });
        assert!(
            found[0].starts_with("172.21.") && found[1].starts_with("fd00:21:"),
            "{found:?}"
        );
        found
    };
    let (_, there) = (addresses("first-node1"), addresses("first-node2"));
    for ip in &there {
        wait_until("packets find their way", LIMIT, || {
            let ping = ["ping", "-c1", "-W1", ip];
            cluster.lab.exec("first-node1", &ping).ok().then_some(())
        });
    }
    // There is none for a second one, until somebody lists more.
    let there_too = r#"--overrides={"spec": {"nodeName": "node2"}}"#;
    cluster.kubectl(&["run", "second", "--image=hypha/echo", there_too]);
    wait_until("the lack is told", LIMIT, || {
        let told = cluster.warnings("second");
        told.iter()
            .any(|line| line.contains("FailedCreatePodSandBox"))
            .then_some(())
    });
    list_addresses(&cluster, "node2", 12..13);
    let second = addresses("second");
    wait_until("what is in use is told", LIMIT, || {
        let used = cluster.kubectl(&["get", "ciliumnode", "node2", "-o=jsonpath={.status.ipam}"]);
        let used: Value = serde_json::from_str(&used).ok()?;
        let owner = |ip: &String, pod: &str| {
            let family = if ip.contains(':') {
                "ipv6-used"
            } else {
                "used"
            };
            used[family][ip]["owner"] == format!("default/{pod}")
        };
        let all = second.iter().all(|ip| owner(ip, "second"));
        (all && there.iter().all(|ip| owner(ip, "first-node2"))).then_some(())
    });
    cluster.assert_clean();
}

#[test]
fn e2e_settings_of_single_nodes() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-node-config", &["--nodes", "2"]);
    let audits = |node: &str| {
        let run = cluster.lab.hypha(&["dbg", "config", "--node", node]);
        assert!(run.ok(), "{}", run.stderr);
        let line = |line: &str| line.replace(' ', "") == "policy-audit-mode:true";
        run.stdout.lines().any(line)
    };
    cluster.kubectl(&["label", "node", "node1", "watched=yes"]);
    let config = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNodeConfig",
        "metadata": {"name": "watched", "namespace": "kube-system"},
        "spec": {"nodeSelector": {"matchLabels": {"watched": "yes"}}, "defaults": {"policy-audit-mode": "true"}},
    });
    cluster.lab.apply(&config.to_string());
    NODES.iter().for_each(|node| restart(&cluster, node));
    assert_eq!(NODES.map(audits), [true, false], "the labels choose");
    // What makes no sense is told with its place, and the agent that runs stays as it is.
    let wrong = json!({"spec": {"defaults": {"policy-audit-mode": "maybe"}}}).to_string();
    let patch = [
        "patch",
        "ciliumnodeconfig",
        "-n=kube-system",
        "watched",
        "--type=merge",
        "-p",
        &wrong,
    ];
    cluster.kubectl(&patch);
    assert!(cluster.is_healthy("node1") && audits("node1"));
    cluster.kubectl(&["delete", "ciliumnodeconfig", "-n=kube-system", "watched"]);
    restart(&cluster, "node1");
    assert_eq!(NODES.map(audits), [false, false]);
    cluster.assert_clean();
}
