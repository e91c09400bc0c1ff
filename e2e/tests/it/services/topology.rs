//! Clients get the servers that are close to them, as services ask for it: hints of the cluster's controller, followed by every node.

use std::collections::BTreeSet;
use std::time::Duration;

use hypha_e2e::cluster::{Cluster, pod_yaml};
use testkit::{skip_unless_root, wait_until};

const READY: Duration = Duration::from_secs(30);
/// Nodes, and the zone of each.
const NODES: [(&str, &str); 3] = [("node1", "west"), ("node2", "west"), ("node3", "east")];

/// Connects so often that it meets every server that it may, and says their names.
const ASK: &str = r#"
import socket, sys
for _ in range(40):
    with socket.create_connection((sys.argv[1], 80), 3) as own:
        own.sendall(b"GET /hostname HTTP/1.0\r\n\r\n")
        text = b""
        while part := own.recv(4096): text += part
        print(text.split(b"\r\n\r\n")[1].decode().strip())
"#;

fn manifests() -> String {
    let server = |(n, (node, _)): (usize, &(&str, &str))| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: back{}, labels: {{app: back}}}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: registry.k8s.io/e2e-test-images/agnhost:2.40\n    \
             args: [netexec, --http-port=8080, --udp-port=8080]\n---\n{}---\n",
            n + 1,
            pod_yaml(&format!("ask{}", n + 1), node)
        )
    };
    let servers: String = NODES.iter().enumerate().map(server).collect();
    servers
        + "apiVersion: v1\nkind: Service\nmetadata: {name: back}\nspec:\n  selector: {app: back}\n  ports: [{port: 80, targetPort: 8080}]\n"
}

/// Waits until each client of a node gets these servers, and no others.
#[track_caller]
fn get(cluster: &Cluster, address: &str, wanted: [&[&str]; 3]) {
    for (n, wanted) in wanted.iter().enumerate() {
        let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        // A pod, and the node itself.
        for client in [format!("ask{}", n + 1), NODES[n].0.to_owned()] {
            let mut last = BTreeSet::new();
            let what = format!("{client} gets {wanted:?}");
            wait_until(&what, READY, || {
                let run = cluster.lab.exec(&client, &["python3", "-c", ASK, address]);
                last = run.stdout.lines().map(str::to_owned).collect();
                (run.ok() && last == wanted).then_some(())
            });
        }
    }
}

fn prefer(cluster: &Cluster, value: &str) {
    let patch = format!("{{\"spec\":{{\"trafficDistribution\":{value}}}}}");
    cluster.kubectl(&["patch", "svc", "back", "-p", &patch]);
}

#[test]
fn e2e_services_topology() {
    if skip_unless_root() {
        return;
    }
    let follow = "enable-service-topology=true";
    let cluster = Cluster::up("e2e-topology", &["--ipv4", "--agent-config", follow]);
    for (node, zone) in NODES {
        let label = format!("topology.kubernetes.io/zone={zone}");
        cluster.kubectl(&["label", "node", node, &label]);
    }
    cluster.lab.apply(&manifests());
    let address = cluster.kubectl(&["get", "svc", "back", "-o", "jsonpath={.spec.clusterIP}"]);
    let all: &[&str] = &["back1", "back2", "back3"];
    let west: &[&str] = &["back1", "back2"];
    get(&cluster, &address, [all, all, all]);
    for value in ["\"PreferClose\"", "\"PreferSameZone\""] {
        prefer(&cluster, value);
        get(&cluster, &address, [west, west, &["back3"]]);
        prefer(&cluster, "null");
        get(&cluster, &address, [all, all, all]);
    }
    prefer(&cluster, "\"PreferSameNode\"");
    get(&cluster, &address, [&["back1"], &["back2"], &["back3"]]);
    // Nobody is left on the node: the zone; nobody in the zone: everybody.
    cluster.lab.delete_pod("back1");
    get(&cluster, &address, [&["back2"], &["back2"], &["back3"]]);
    cluster.lab.delete_pod("back3");
    get(&cluster, &address, [&["back2"], &["back2"], &["back2"]]);
    cluster.lab.apply(&manifests());
    get(&cluster, &address, [&["back1"], &["back2"], &["back3"]]);

    // By zones as they have processors: two of three nodes are in the west, and so are two of three servers.
    let auto = "service.kubernetes.io/topology-mode=Auto";
    cluster.kubectl(&["annotate", "svc", "back", auto]);
    get(&cluster, &address, [west, west, &["back3"]]);
    let why = cluster
        .lab
        .hypha(&["service", "why", "default/back", "--node", "node3"]);
    assert!(
        why.stdout.contains("hints give it to zone west"),
        "{}",
        why.stdout
    );
    // Two servers for three nodes: the zones cannot be served evenly.
    cluster.lab.delete_pod("back1");
    let rest: &[&str] = &["back2", "back3"];
    get(&cluster, &address, [rest, rest, rest]);
    cluster.assert_clean();
}
