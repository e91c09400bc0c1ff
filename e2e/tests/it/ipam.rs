//! Where addresses come from, and what a change of that does to pods that run.

use std::time::Duration;

use hypha_e2e::cluster::{Cluster, pod_yaml};
use nix::sys::signal::Signal;
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
