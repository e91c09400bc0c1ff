//! Backends are replaced one after the other while clients ask, and agents are killed meanwhile: no request fails.

use std::net::SocketAddr;

use hypha_e2e::cluster::{Cluster, pod_yaml};
use hypha_e2e::services::load::{Client, Report};
use testkit::skip_unless_root;

const ROLLOUTS: usize = 2;
const NODE_PORT: u16 = 30_200;

/// Backends that serve on for a while once they are told to end, as such behind any load balancer must.
const MANIFEST: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: back}
spec:
  replicas: 4
  selector: {matchLabels: {app: back}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: back}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: c
        image: registry.k8s.io/e2e-test-images/agnhost:2.40
        args: [netexec, --http-port=8080, --udp-port=8080]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {exec: {command: [sleep, \"5\"]}}}
---
apiVersion: v1
kind: Service
metadata: {name: back}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: back}
  ports:
  - {name: t, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30200}
  - {name: u, protocol: UDP, port: 80, targetPort: 8080, nodePort: 30200}
";

fn clients(cluster: &Cluster) -> Vec<Client> {
    let addresses =
        cluster.kubectl(&["get", "svc", "back", "-o", "jsonpath={.spec.clusterIPs[*]}"]);
    let mut all = Vec::new();
    for (client, ip) in ["ask1", "ask2"].iter().zip(addresses.split(' ')) {
        let ip = ip.parse().expect("an address");
        all.push(Client::start(cluster, client, SocketAddr::new(ip, 80)));
    }
    for ip in &cluster.machine("node2").ips {
        let service = SocketAddr::new(*ip, NODE_PORT);
        all.push(Client::start(cluster, "router", service));
    }
    all
}

#[test]
fn e2e_services_rolling_update() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-rolling", &[]);
    let asking = format!(
        "{}---\n{}",
        pod_yaml("ask1", "node1"),
        pod_yaml("ask2", "node2")
    );
    cluster.lab.apply(&format!("{MANIFEST}---\n{asking}"));
    cluster.kubectl(&["rollout", "status", "deployment/back", "--timeout=60s"]);

    let clients = clients(&cluster);
    for round in 0..ROLLOUTS {
        cluster.kubectl(&["rollout", "restart", "deployment/back"]);
        for node in ["node1", "node2", "node3"] {
            let old = cluster.kill_agent(node);
            let _ = cluster.wait_replaced(node, Some(&old));
        }
        cluster.kubectl(&["rollout", "status", "deployment/back", "--timeout=120s"]);
        println!("rollout {round} is done");
    }
    let reports: Vec<Report> = clients.into_iter().map(Client::stop).collect();
    let mut failures = Vec::new();
    for report in &reports {
        println!(
            "{} new connections, {} requests by kept ones ({} reopened), {} datagrams ({} lost), {} backends",
            report.new,
            report.kept,
            report.reopened,
            report.datagrams,
            report.lost,
            report.backends.len()
        );
        let idle = [report.new, report.kept, report.datagrams].contains(&0);
        assert!(!idle, "a client did nothing: {report:?}");
        assert!(
            report.backends.len() > 4,
            "no backend was replaced: {report:?}"
        );
        failures.extend(report.failures.iter().cloned());
        for line in &report.slow {
            println!("{line}");
        }
    }
    // Connections send again what a pod does not get at first; so nobody may be kept from it while it is ready.
    for node in ["node1", "node2", "node3"] {
        let list = ["dbg", "bpf", "metrics", "list", "--node", node];
        let dropped = cluster.lab.hypha(&list).stdout;
        let denied = dropped
            .lines()
            .filter(|line| line.contains("Policy denied"));
        failures.extend(denied.map(|line| format!("{node}: {line}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    cluster.assert_clean();
}
