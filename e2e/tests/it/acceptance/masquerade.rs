//! Whose address the world sees.

use hypha_e2e::cluster::Cluster;

use super::paths::{ip, tcpdump};
use super::shell::Shell;

pub fn all(sh: &Shell, cluster: &Cluster) {
    sh.has(
        "cilium config view | grep ipv4-native-routing-cidr",
        &["10.244.0.0/16"],
    );
    let status = cluster
        .lab
        .hypha(&["dbg", "status", "--node", "k8s-s"])
        .stdout;
    let line = status
        .lines()
        .find(|line| line.starts_with("Masquerading:"));
    let line = line.unwrap_or_else(|| panic!("no such line in {status}"));
    for part in [
        "BPF",
        "[eth0]",
        "10.244.0.0/16",
        "[IPv4: Enabled, IPv6: Disabled]",
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    let pod = ip(sh, "netpod");
    let node = "192.168.10.100";
    let ping = |to: &str| {
        sh.has(
            &format!("kubectl exec netpod -- ping -c 1 -W 2 {to}"),
            &["1 received"],
        )
    };
    // A node of the cluster sees the pod.
    let wire = tcpdump(cluster, "k8s-s", "eth0", "icmp");
    ping("192.168.10.101");
    wire.says(&format!("IP {pod} > 192.168.10.101: ICMP echo request"));
    drop(wire);
    // Everybody else sees the node, on either end of the wire.
    for outside in ["192.168.10.200", "10.10.1.200", "10.10.2.200"] {
        let (sent, came) = (
            tcpdump(cluster, "k8s-s", "eth0", "icmp"),
            tcpdump(cluster, "router", "eth0", "icmp"),
        );
        ping(outside);
        for end in [&sent, &came] {
            let said = end.says(&format!("IP {outside} > {node}: ICMP echo reply"));
            assert!(
                said.contains(&format!("IP {node} > {outside}: ICMP echo request"))
                    && !said.contains(&pod),
                "{said}"
            );
        }
    }
    let came = tcpdump(cluster, "router", "eth0", "tcp port 80");
    sh.run("kubectl exec netpod -- curl -s --max-time 2 192.168.10.200");
    let said = came.says(&format!("IP {node}."));
    assert!(!said.contains(&pod), "{said}");
}
