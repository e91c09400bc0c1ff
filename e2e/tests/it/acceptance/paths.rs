//! Where packets go: the sample applications, the nodes' routes and devices, and what is on the wire.

use hypha_e2e::cluster::Cluster;

use super::shell::{Running, Shell};
use super::table::Table;

/// The application of most notes.
pub fn deploy(sh: &Shell) {
    sh.has(
        "kubectl apply -f $MANIFESTS/webpod.yaml",
        &[
            "deployment.apps/webpod created",
            "service/webpod created",
            "pod/curl-pod created",
        ],
    );
    sh.has(
        "kubectl rollout status deploy/webpod --timeout=20s",
        &["successfully rolled out"],
    );
    sh.ok("kubectl wait --for=condition=Ready pod/curl-pod --timeout=20s");
}

/// The address of a pod.
pub fn ip(sh: &Shell, pod: &str) -> String {
    sh.ok(&format!(
        "kubectl get pods {pod} -o jsonpath='{{.status.podIP}}'"
    ))
}

/// Starts `tcpdump` on a node or the router; it shows packets at once, without names.
pub fn tcpdump(cluster: &Cluster, machine: &str, interface: &str, filter: &str) -> Running {
    let words = [
        "timeout", "30", "tcpdump", "-i", interface, "-nn", "-l", filter,
    ];
    let command = cluster.lab.exec_command(machine, &words);
    let running = Running::of(
        &format!("tcpdump on {machine}: {filter}"),
        command,
        &std::env::temp_dir(),
    );
    running.says("listening on");
    running
}

/// Addresses of a machine's devices and what pods see of them, in every routing mode.
fn devices(sh: &Shell, cluster: &Cluster, node: &str, router: &str) {
    let host = cluster
        .lab
        .sh(node, "ip addr show cilium_host; ip addr show cilium_net");
    for part in [
        "cilium_host@cilium_net:",
        "cilium_net@cilium_host:",
        "NOARP",
        &format!("inet {router}/32 scope"),
    ] {
        assert!(host.contains(part), "no {part} in {host}");
    }
    let devices = cluster.lab.sh(
        node,
        "for d in /sys/class/net/lxc*; do ip addr show dev ${d##*/}; done",
    );
    assert!(
        devices.contains("lxc") && !devices.contains("inet "),
        "pods' devices have no IPv4 address: {devices}"
    );
    assert_eq!(cluster.lab.sh(node, "cat /proc/sys/net/ipv4/conf/cilium_host/proxy_arp /proc/sys/net/ipv4/conf/cilium_net/proxy_arp"), "0\n0\n");
    // The gateway's address answers with the MAC of the pod's own device on the node.
    let pod = if node == "k8s-ctr" {
        "curl-pod"
    } else {
        "netpod"
    };
    sh.has(
        &format!("kubectl exec {pod} -- ip -4 route"),
        &[&format!("default via {router} dev eth0")],
    );
    let neighbour = sh.ok(&format!("kubectl exec {pod} -- ip neigh"));
    let mac = neighbour
        .split("lladdr ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let mac = mac.unwrap_or_else(|| panic!("no neighbour in {neighbour}"));
    assert!(
        devices.contains(&format!("link/ether {mac}")),
        "{mac} is not a device's: {devices}"
    );
}

/// Between pods: pings, pages, and a closed port that says so.
fn reaches(sh: &Shell, from: &str, to: &str) {
    sh.has(
        &format!("kubectl exec {from} -- ping -c 1 -W 2 {to}"),
        &["1 packets transmitted, 1 received, 0% packet loss"],
    );
    sh.has(
        &format!("kubectl exec -it {from} -- curl -s --max-time 3 {to} | grep Hostname"),
        &["Hostname: webpod"],
    );
    sh.fails(
        &format!("kubectl exec {from} -- curl -sS --max-time 3 {to}:8080"),
        &["port 8080"],
    );
}

/// Encapsulation.
pub fn overlay(sh: &Shell, cluster: &Cluster) {
    let far = "$(kubectl get pods -l app=webpod -o jsonpath='{.items[0].status.podIP}')";
    let near = ip(sh, "curl-pod");
    for target in sh
        .ok("kubectl get pods -l app=webpod -o jsonpath='{.items[*].status.podIP}'")
        .split(' ')
    {
        reaches(sh, "curl-pod", target);
    }
    sh.has(
        "kubectl exec curl-pod -- ping -c 1 -W 2 10.10.1.200",
        &["1 received"],
    );
    devices(sh, cluster, "k8s-ctr", "10.244.1.1");
    let routes = cluster.lab.sh("k8s-ctr", "ip -4 route");
    for other in ["10.244.2.0/24", "10.244.3.0/24"] {
        let line = routes.lines().find(|line| line.starts_with(other));
        let line = line.unwrap_or_else(|| panic!("no way to {other} in {routes}"));
        assert!(
            line.contains("via 10.244.1.1") && line.contains("cilium_host"),
            "{line}"
        );
    }
    cluster.lab.sh("k8s-ctr", "ip link show cilium_vxlan");
    // A pod on another node: the wire has UDP 8472 between nodes, also through the router.
    sh.ok("kubectl run lonely --image=traefik/whoami --overrides='{\"spec\":{\"nodeName\":\"k8s-w0\"}}'");
    sh.ok("kubectl wait --for=condition=Ready pod/lonely --timeout=20s");
    let lonely = ip(sh, "lonely");
    let wire = tcpdump(cluster, "k8s-ctr", "eth0", "udp port 8472");
    let between = tcpdump(
        cluster,
        "router",
        "any",
        &format!("udp port 8472 or host {lonely}"),
    );
    sh.has(
        &format!("kubectl exec curl-pod -- ping -c 1 -W 2 {lonely}"),
        &["1 received"],
    );
    let inner = format!("IP {near} > {lonely}: ICMP echo request");
    wire.says_such("nodes outside and pods inside", |text| {
        text.contains("192.168.10.100.")
            && text.contains("> 192.168.20.100.8472: ")
            && text.contains(&inner)
    });
    let seen = between.says("> 192.168.20.100.8472: ");
    // What stands inside has a line of its own, without a time.
    let packet =
        |line: &str| line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(&lonely);
    assert!(
        !seen.lines().any(packet),
        "the router sees nodes alone: {seen}"
    );
    sh.ok("kubectl delete pod lonely --now");
    sh.has(
        &format!("kubectl exec curl-pod -- curl -s --max-time 3 {far} | grep Hostname"),
        &["Hostname: webpod-"],
    );
    // Names, by the cluster's own name server.
    let service = sh.ok("kubectl get svc webpod -o jsonpath='{.spec.clusterIP}'");
    sh.has(
        "kubectl exec curl-pod -- nslookup webpod",
        &["webpod.default.svc.cluster.local", &service],
    );
}

/// Routing without encapsulation.
pub fn native(sh: &Shell, cluster: &Cluster) {
    sh.has(
        "kubectl create -f $MANIFESTS/netpod.yaml",
        &[
            "pod/netpod created",
            "pod/webpod1 created",
            "pod/webpod2 created",
        ],
    );
    sh.ok("kubectl wait --for=condition=Ready pod/netpod pod/webpod1 pod/webpod2 --timeout=20s");
    let (netpod, web1, web2) = (ip(sh, "netpod"), ip(sh, "webpod1"), ip(sh, "webpod2"));
    reaches(sh, "netpod", &web1);
    reaches(sh, "netpod", &web2);
    devices(sh, cluster, "k8s-s", "10.244.1.1");
    // A route to the node of the same network, none to the one behind the router: there the default route is taken.
    let routes = cluster.lab.sh("k8s-s", "ip -4 route");
    let direct = routes
        .lines()
        .find(|line| line.starts_with("10.244.2.0/24"));
    let direct = direct.unwrap_or_else(|| panic!("no route in {routes}"));
    assert!(direct.contains("via 192.168.10.101 dev eth0"), "{direct}");
    assert!(!routes.contains("10.244.3.0/24"), "{routes}");
    cluster.lab.sh("k8s-s", "! ip link show cilium_vxlan");
    // The wire has the pods' own addresses both ways.
    let wire = tcpdump(cluster, "k8s-w1", "eth0", "tcp port 80");
    sh.has(
        &format!("kubectl exec netpod -- curl -s --max-time 3 {web1}"),
        &["Hostname: webpod1"],
    );
    wire.says_such("both directions", |text| {
        text.contains(&format!("IP {netpod}."))
            && text.contains(&format!("> {web1}.80: "))
            && text.contains(&format!("IP {web1}.80 > {netpod}."))
    });
    drop(wire);
    let wire = tcpdump(cluster, "router", "any", "icmp");
    sh.has(
        &format!("kubectl exec netpod -- ping -c 1 -W 2 {web2}"),
        &["1 received"],
    );
    wire.says(&format!("{netpod} > {web2}: ICMP echo request"));
    endpoints(
        sh,
        &[("netpod", &netpod), ("webpod1", &web1), ("webpod2", &web2)],
    );
}

/// What custom resources tell about pods.
fn endpoints(sh: &Shell, pods: &[(&str, &str)]) {
    let table = Table::of(&sh.ok("kubectl get ciliumendpoints"));
    assert_eq!(
        table.titles(),
        [
            "NAME",
            "SECURITY IDENTITY",
            "ENDPOINT STATE",
            "IPV4",
            "IPV6"
        ]
    );
    for (name, ip) in pods {
        assert_eq!(
            (table.cell(name, "ENDPOINT STATE"), table.cell(name, "IPV4")),
            ("ready", *ip)
        );
        assert!(
            table
                .cell(name, "SECURITY IDENTITY")
                .parse::<u32>()
                .is_ok_and(|id| id >= 256)
        );
    }
    assert_eq!(
        table.cell("webpod1", "SECURITY IDENTITY"),
        table.cell("webpod2", "SECURITY IDENTITY"),
        "the same labels, one identity"
    );
    sh.has(
        "kubectl get ciliumendpoints.cilium.io -A -o wide",
        &["INGRESS ENFORCEMENT", "EGRESS ENFORCEMENT", "kube-dns-"],
    );
    sh.has(
        "kubectl get cep netpod -o yaml",
        &["k8s:app=netpod", "node: 192.168.10.100", "state: ready"],
    );
}
