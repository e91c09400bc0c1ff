//! Where addresses come from, and what happens when there are no more.

use std::time::Duration;

use hypha_e2e::cluster::Cluster;
use testkit::wait_until;

use super::Parts;
use super::shell::{SOON, Shell};
use super::table::Table;

const NODES: [&str; 3] = ["k8s-s", "k8s-w1", "k8s-w2"];

pub fn all(sh: &Shell, cluster: &Cluster, parts: &mut Parts) {
    parts.run("addresses: from Kubernetes", || from_kubernetes(sh));
    parts.run("addresses: another mode", || switch(sh, cluster));
    parts.run("addresses: no more", || exhausted(sh, cluster));
}

fn ranges(sh: &Shell) -> Vec<String> {
    let line = "kubectl get ciliumnodes -o jsonpath='{range .items[*]}{.spec.ipam.podCIDRs[0]}{\"\\n\"}{end}'";
    sh.ok(line).lines().map(str::to_owned).collect()
}

fn from_kubernetes(sh: &Shell) {
    sh.has("cilium config view | grep ^ipam", &["kubernetes"]);
    let line = "kubectl get nodes -o jsonpath='{range .items[*]}{.metadata.name}{\"\\t\"}{.spec.podCIDR}{\"\\n\"}{end}'";
    assert_eq!(
        sh.ok(line),
        "k8s-s\t10.244.1.0/24\nk8s-w1\t10.244.2.0/24\nk8s-w2\t10.244.3.0/24\n"
    );
    assert_eq!(
        ranges(sh),
        ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]
    );
    let grep = sh.ok("kubectl get ciliumnode -o json | grep podCIDRs -A2");
    assert_eq!(grep.matches("\"podCIDRs\": [").count(), 3, "{grep}");
    assert!(grep.contains("\"10.244.1.0/24\""), "{grep}");
    let table = Table::of(&sh.ok("kubectl get cn"));
    assert_eq!(
        table.titles(),
        ["NAME", "CILIUMINTERNALIP", "INTERNALIP", "AGE"]
    );
    assert_eq!(
        (
            table.cell("k8s-s", "CILIUMINTERNALIP"),
            table.cell("k8s-s", "INTERNALIP")
        ),
        ("10.244.1.1", "192.168.10.100")
    );
    sh.has(
        "kubectl get cn k8s-w1 -o yaml",
        &[
            "type: CiliumInternalIP",
            "ip: 10.244.2.1",
            "- 10.244.2.0/24",
        ],
    );
}

fn restart_agent(cluster: &Cluster, node: &str) {
    let old = cluster.kill_agent(node);
    cluster.wait_replaced(node, Some(&old));
}

fn set(sh: &Shell, settings: &[(&str, &str)]) {
    for (key, value) in settings {
        sh.has(
            &format!("cilium config set {key} {value} --restart=false"),
            &[
                "Patching ConfigMap cilium-config",
                &format!("{key}={value}"),
            ],
        );
    }
}

/// As the third note does it: settings, restarts, and only the deletion of a CiliumNode changes its range.
fn switch(sh: &Shell, cluster: &Cluster) {
    let before = super::paths::ip(sh, "netpod");
    let pool = [
        ("ipam", "cluster-pool"),
        ("cluster-pool-ipv4-cidr", "172.20.0.0/16"),
        ("cluster-pool-ipv4-mask-size", "28"),
        ("ipv4-native-routing-cidr", "172.20.0.0/16"),
    ];
    set(sh, &pool);
    cluster.restart_operator(nix::sys::signal::Signal::SIGTERM);
    NODES.iter().for_each(|node| restart_agent(cluster, node));
    assert_eq!(
        ranges(sh),
        ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"],
        "as long as the objects are there"
    );
    for node in NODES {
        sh.ok(&format!("kubectl delete ciliumnode {node}"));
        restart_agent(cluster, node);
    }
    let found = wait_until("other ranges", SOON, || {
        let found = ranges(sh);
        (found.len() == 3 && found.iter().all(|range| range.starts_with("172.20.")))
            .then_some(found)
    });
    assert!(
        found[0] != found[1] && found[1] != found[2] && found[0] != found[2],
        "{found:?}"
    );
    sh.has("cilium config view | grep ^ipam", &["cluster-pool"]);
    // Kubernetes has its own idea still; pods that run keep their addresses; peers know the new way.
    assert_eq!(
        sh.ok("kubectl get node k8s-s -o jsonpath='{.spec.podCIDR}'"),
        "10.244.1.0/24"
    );
    assert_eq!(super::paths::ip(sh, "netpod"), before);
    wait_until("a route to the new range", SOON, || {
        let routes = cluster.lab.sh("k8s-s", "ip -4 route");
        routes
            .contains(&format!("{} via 192.168.10.101 dev eth0", found[1]))
            .then_some(())
    });
    sh.ok("kubectl delete pod --all --now && kubectl create -f $MANIFESTS/netpod.yaml");
    sh.ok("kubectl wait --for=condition=Ready pod/netpod pod/webpod1 --timeout=20s");
    let (netpod, web1) = (
        super::paths::ip(sh, "netpod"),
        super::paths::ip(sh, "webpod1"),
    );
    assert!(
        netpod.starts_with("172.20.") && web1.starts_with("172.20."),
        "{netpod} {web1}"
    );
    sh.until(
        &format!("kubectl exec netpod -- curl -s --max-time 1 {web1}"),
        &["Hostname: webpod1"],
    );
}

/// More pods than a range has addresses: the others wait, with an event that says why; they start when others go.
fn exhausted(sh: &Shell, cluster: &Cluster) {
    sh.file("many.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: many}\nspec:\n  replicas: 16\n  selector: {matchLabels: {app: many}}\n  template:\n    metadata: {labels: {app: many}}\n    spec:\n      nodeName: k8s-w1\n      terminationGracePeriodSeconds: 0\n      containers: [{name: c, image: registry.k8s.io/pause}]\n");
    sh.ok("kubectl apply -f many.yaml");
    let range = ranges(sh)[1].clone();
    sh.until(
        "kubectl get events --field-selector reason=FailedCreatePodSandBox",
        &[&range, "code 102"],
    );
    // A /28 has 14, one is the router's, one webpod1's.
    wait_until(
        "as many run as there are addresses, and the others wait for theirs",
        SOON,
        || {
            let shown = Table::of(&sh.ok("kubectl get pods -l app=many"));
            let status = shown.column("STATUS");
            let count = |what: &str| status.iter().filter(|status| **status == what).count();
            let (running, waiting) = (count("Running"), count("ContainerCreating"));
            (running + waiting == 16 && (11..=13).contains(&running)).then_some(())
        },
    );
    sh.has(
        "kubectl describe pods -l app=many | grep -A99 'Events:'",
        &["FailedCreatePodSandBox", &range],
    );
    // The pods of other nodes and what runs do not mind.
    sh.has("kubectl exec netpod -- ping -c 1 -W 2 $(kubectl get pods -l app=many --field-selector status.phase=Running -o jsonpath='{.items[0].status.podIP}')", &["1 received"]);
    sh.ok("kubectl scale deploy many --replicas=6 && kubectl rollout status deploy/many --timeout=30s");
    wait_until("the waiting pods are gone", Duration::from_secs(20), || {
        (sh.ok("kubectl get pods -l app=many -o name")
            .lines()
            .count()
            == 6)
            .then_some(())
    });
    sh.ok("kubectl delete deploy many");
    wait_until("no pod of it is left", SOON, || {
        sh.ok("kubectl get pods -l app=many -o name")
            .is_empty()
            .then_some(())
    });
    cluster.assert_clean();
}
