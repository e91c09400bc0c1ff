//! What one looks at inside a node: every command prints titles and plausible rows.

use hypha_e2e::cluster::Cluster;

use super::Parts;
use super::paths::ip;
use super::shell::Shell;
use super::table::Table;

const NODE: &str = "k8s-ctr";

/// What the tool of node [`NODE`] prints.
#[track_caller]
pub fn dbg(cluster: &Cluster, line: &str) -> String {
    let words = line.split(' ').chain(["--node", NODE]);
    let run = cluster
        .lab
        .hypha(&[&["dbg"], &words.collect::<Vec<_>>()[..]].concat());
    assert!(run.ok(), "{line}: {}{}", run.stdout, run.stderr);
    run.stdout
}

#[track_caller]
fn has(cluster: &Cluster, line: &str, parts: &[&str]) -> String {
    let text = dbg(cluster, line);
    for part in parts {
        assert!(text.contains(part), "{line}: no `{part}` in\n{text}");
    }
    text
}

pub fn all(sh: &Shell, cluster: &Cluster, parts: &mut Parts) {
    let pod = ip(sh, "curl-pod");
    let id = sh.ok("kubectl get cep curl-pod -o jsonpath='{.status.id}'");
    let identity = sh.ok("kubectl get cep curl-pod -o jsonpath='{.status.identity.id}'");
    parts.run("introspection: status", || status(cluster, &pod));
    parts.run("introspection: endpoints", || {
        endpoints(cluster, &pod, &id, &identity);
    });
    parts.run("introspection: maps", || maps(cluster, &pod, &identity));
    parts.run("introspection: flows", || flows(sh, cluster, &pod));
    parts.run("introspection: others", || others(cluster));
}

fn others(cluster: &Cluster) {
    has(
        cluster,
        "config",
        &["routing-mode", "tunnel", "enable-ipv4"],
    );
    has(
        cluster,
        "metrics list",
        &["Metric", "Labels", "Value", "cilium_endpoint_state"],
    );
    has(cluster, "version", &["Client:", "Daemon:"]);
    has(
        cluster,
        "statedb",
        &["Name", "#Objects", "endpoints", "routes"],
    );
    has(cluster, "check", &[]);
    let run = cluster.lab.hypha(&["dbg", "bpf", "map", "list"]);
    assert!(
        !run.ok() && run.stderr.contains("accepted:"),
        "{}",
        run.stderr
    );
}

fn status(cluster: &Cluster, pod: &str) {
    let titles = [
        "KVStore:",
        "Kubernetes:",
        "KubeProxyReplacement:",
        "CNI Config file:",
        "Cilium:",
        "NodeMonitor:",
        "IPAM:",
        "Routing:",
        "Attach Mode:",
        "Device Mode:",
        "Masquerading:",
        "Controller Status:",
        "Hubble:",
        "Encryption:",
        "Modules Health:",
    ];
    let text = has(cluster, "status", &titles);
    let place = |title: &&str| text.find(&format!("\n{title}")).map_or(0, |at| at + 1);
    assert!(
        titles.iter().map(place).is_sorted(),
        "in this order: {text}"
    );
    for part in [
        "Network: Tunnel [vxlan]   Host: BPF",
        "allocated from 10.244.1.0/24",
        "[eth0]",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let verbose = has(
        cluster,
        "status --verbose",
        &[
            "Allocated addresses:",
            "10.244.1.1 (router)",
            "Last success",
        ],
    );
    assert!(
        verbose.contains(&format!("{pod} (default/curl-pod)")),
        "{verbose}"
    );
    has(cluster, "status --all-addresses", &["10.244.1.1 (router)"]);
    has(cluster, "status --brief", &["OK"]);
}

fn endpoints(cluster: &Cluster, pod: &str, id: &str, identity: &str) {
    has(
        cluster,
        "endpoint list",
        &[
            "ENDPOINT   POLICY (ingress)   POLICY (egress)   IDENTITY   LABELS (source:key[=value])",
            "ENFORCEMENT        ENFORCEMENT",
            pod,
            identity,
            "k8s:app=curl",
            "k8s:io.kubernetes.pod.namespace=default",
            "Disabled",
            "ready",
        ],
    );
    has(
        cluster,
        &format!("endpoint get {id}"),
        &["\"state\": \"ready\"", "interface-name", "\"k8s:app=curl\""],
    );
    let ips = Table::of(&dbg(cluster, "ip list -n"));
    assert_eq!(ips.titles(), ["IP", "IDENTITY", "SOURCE"]);
    assert_eq!(ips.cell(&format!("{pod}/32"), "IDENTITY"), identity);
    assert_eq!(ips.cell("192.168.10.101/32", "IDENTITY"), "6");
    assert_eq!(ips.cell("192.168.10.100/32", "IDENTITY"), "1");
    has(
        cluster,
        "ip list",
        &["reserved:remote-node", "k8s:app=curl"],
    );
    has(
        cluster,
        "node list",
        &[
            "Name",
            "IPv4 Address",
            "Endpoint CIDR",
            "Source",
            "k8s-w1",
            "192.168.10.101",
            "10.244.2.0/24",
            "local",
        ],
    );
}

fn maps(cluster: &Cluster, pod: &str, identity: &str) {
    has(
        cluster,
        "bpf endpoint list",
        &[
            "IP ADDRESS",
            "LOCAL ENDPOINT INFO",
            pod,
            "(localhost)",
            "nodemac=",
        ],
    );
    has(
        cluster,
        "bpf ipcache list",
        &[
            "IP PREFIX/ADDRESS",
            "IDENTITY",
            &format!("{pod}/32"),
            &format!("identity={identity} "),
            "tunnelendpoint=192.168.10.101",
        ],
    );
    has(
        cluster,
        "bpf tunnel list",
        &[
            "TUNNEL",
            "VALUE",
            "10.244.2.0",
            "192.168.10.101",
            "10.244.3.0",
            "192.168.20.100",
        ],
    );
    has(
        cluster,
        "bpf metrics list",
        &[
            "REASON",
            "DIRECTION",
            "PACKETS",
            "BYTES",
            "EGRESS",
            "INGRESS",
        ],
    );
    let list = Table::of(&dbg(cluster, "map list"));
    assert_eq!(
        list.titles(),
        ["Name", "Num entries", "Num errors", "Cache enabled"]
    );
    assert!(
        list.cell("cilium_lxc", "Num entries")
            .parse::<u32>()
            .unwrap()
            >= 2
    );
    has(
        cluster,
        "map list --verbose",
        &["## Map: cilium_lxc", "Key", "Value", "State", "Error"],
    );
    has(
        cluster,
        "map get cilium_lxc",
        &["Key", "Value", "State", "Error", pod, "sync"],
    );
    let cache = dbg(cluster, "map get cilium_ipcache");
    let line = cache
        .lines()
        .find(|line| line.starts_with(&format!("{pod}/32")));
    assert!(
        line.is_some_and(|line| line.contains(&format!("identity={identity} "))),
        "{cache}"
    );
    let pins = cluster.lab.sh(
        NODE,
        "ls -R /sys/fs/bpf; ls /etc/cni/net.d; cat /etc/cni/net.d/05-cilium.conflist; mount",
    );
    for part in [
        "cilium_ipcache",
        "cilium_lxc",
        "05-cilium.conflist",
        "\"name\": \"cilium\"",
        "type bpf",
    ] {
        let same = pins.replace("\":\"", "\": \"");
        assert!(same.contains(part), "no {part} in {pins}");
    }
    let shown = cluster.lab.sh(NODE, "bpftool prog show");
    for program in [
        "cil_from_container",
        "cil_from_netdev",
        "cil_from_overlay",
        "cil_from_host",
    ] {
        assert!(shown.contains(program), "no {program} in {shown}");
    }
}

/// Connections, mappings and live events of traffic.
fn flows(sh: &Shell, cluster: &Cluster, pod: &str) {
    let words = [
        "dbg",
        "monitor",
        "-v",
        "--node",
        NODE,
        "--name",
        cluster.lab.name(),
    ];
    let mut monitor = std::process::Command::new(hypha_e2e::program("hypha"));
    monitor.args(words);
    let monitor = super::shell::Running::of("dbg monitor", monitor, &std::env::temp_dir());
    monitor.says("Press Ctrl-C to quit");
    let web = sh.ok("kubectl get pods -l app=webpod -o jsonpath='{.items[0].status.podIP}'");
    sh.ok(&format!(
        "kubectl exec curl-pod -- curl -s --max-time 3 {web}"
    ));
    sh.run("kubectl exec curl-pod -- curl -s --max-time 2 10.10.1.200:81");
    monitor.says_such("an event of the connection", |text| {
        text.contains(&format!("{pod}:")) && text.contains(&format!("{web}:80 tcp SYN"))
    });
    has(
        cluster,
        "bpf ct list global",
        &[
            "TCP",
            "OUT",
            &format!("{pod}:"),
            &format!("-> {web}:80 expires="),
        ],
    );
    has(
        cluster,
        "bpf nat list",
        &[&format!("{pod}:"), "XLATE_SRC 192.168.10.100:", "XLATE_DST"],
    );
    has(cluster, "monitor -h", &["--type", "--related-to"]);
}
