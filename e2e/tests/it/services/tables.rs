//! Services from `kubectl` to the tables of every node, and what the node's tools say of them.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use hypha_e2e::cluster::{Cluster, pod_yaml};
use serde_json::Value;
use testkit::{skip_unless_root, wait_until};

const READY: Duration = Duration::from_secs(30);

/// Two services of the same pod, a headless one, and one that wants what another has.
const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  sessionAffinity: ClientIP
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30180}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: [198.51.100.0/24]
  healthCheckNodePort: 30190
  selector: {app: web}
  ports:
  - {port: 443, targetPort: 8080, nodePort: 30181}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: web}
  ports:
  - {port: 80}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec:
  selector: {app: nobody}
  ports:
  - {port: 80}
";

pub fn dbg(cluster: &Cluster, node: &str, words: &[&str]) -> String {
    let args = [&["dbg"], words, &["--node", node]].concat();
    let run = cluster.lab.hypha(&args);
    assert!(run.ok(), "hypha {}: {}", args.join(" "), run.stderr);
    run.stdout
}

/// The frontends of a node by `service/kind`, as `service list -o json` tells them.
pub fn services(cluster: &Cluster, node: &str) -> Vec<Value> {
    let text = dbg(cluster, node, &["service", "list", "-o", "json"]);
    serde_json::from_str(&text).expect("a list")
}

pub fn of<'a>(all: &'a [Value], owner: &str, kind: &str) -> Vec<&'a Value> {
    let all = all.iter();
    all.filter(|one| one["owner"] == owner && one["kind"] == kind)
        .collect()
}

fn used(frontend: &Value) -> usize {
    let backends = frontend["backends"].as_array().into_iter().flatten();
    backends.filter(|backend| backend["used"] == true).count()
}

/// What a health check of a load balancer gets at a node.
fn check(cluster: &Cluster, node: &str) -> (String, Value) {
    let script = "curl -s -g -o - -w '\\n%{http_code}' http://127.0.0.1:30190/";
    let text = cluster.lab.sh(node, script);
    let (body, code) = text.trim_end().rsplit_once('\n').expect("body and status");
    (
        code.to_owned(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

#[test]
fn e2e_services_tables() {
    if skip_unless_root() {
        return;
    }
    let healthz = "kube-proxy-replacement-healthz-bind-address=0.0.0.0:10256";
    let metrics = "prometheus-serve-addr=:9962";
    let args = ["--agent-config", healthz, "--agent-config", metrics];
    let cluster = Cluster::up("e2e-tables", &args);
    let pod = |name: &str, node: &str| {
        let named = format!("{{name: {name}}}");
        pod_yaml(name, node).replace(&named, &format!("{{name: {name}, labels: {{app: web}}}}"))
    };
    cluster.lab.apply(&format!(
        "{SERVICES}---\n{}---\n{}",
        pod("web1", "node1"),
        pod("web2", "node2")
    ));
    for node in ["node1", "node2", "node3"] {
        wait_until("both backends are served", READY, || {
            let all = services(&cluster, node);
            let web = of(&all, "service default/web", "ClusterIP");
            (web.len() == 2 && web.iter().all(|one| used(one) == 2)).then_some(())
        });
    }
    let addresses = cluster.kubectl(&["get", "svc", "web", "-o", "jsonpath={.spec.clusterIPs[*]}"]);
    let all = services(&cluster, "node1");
    for address in addresses.split(' ') {
        let found = of(&all, "service default/web", "ClusterIP");
        let is_of = |one: &&&Value| {
            let frontend = one["frontend"].as_str().unwrap_or_default();
            frontend.trim_start_matches('[').starts_with(address)
        };
        let one = found.iter().find(is_of).expect("the address is served");
        assert_eq!(used(one), 2, "{one}");
        assert_eq!(one["affinitySeconds"], 10_800);
    }
    assert!(!of(&all, "service default/web", "NodePort").is_empty());
    let empty = of(&all, "service default/empty", "ClusterIP");
    assert!(!empty.is_empty() && empty.iter().all(|one| used(one) == 0));
    assert!(
        all.iter()
            .all(|one| one["owner"] != "service default/headless")
    );
    // What comes from outside goes to this node's backend alone.
    let local = of(&all, "service default/local", "NodePort");
    let outside = local
        .iter()
        .filter(|one| !one["frontend"].as_str().unwrap_or_default().ends_with("/i"));
    assert!(outside.clone().count() > 0 && outside.clone().all(|one| used(one) == 1));
    tools(&cluster, addresses.split(' ').next().unwrap_or_default());

    assert_eq!(check(&cluster, "node1").0, "200");
    let (code, body) = check(&cluster, "node3");
    assert_eq!((code.as_str(), &body["localEndpoints"]), ("503", &0.into()));
    assert_eq!(body["service"]["name"], "local");

    served(&cluster);

    // A new agent finds everything as it was, numbers included.
    for node in ["node1", "node2", "node3"] {
        let before = services(&cluster, node);
        let rows = dbg(&cluster, node, &["bpf", "lb", "list"]);
        let old = cluster.kill_agent(node);
        // Rows are pinned: they outlive it.
        let _ = cluster.wait_replaced(node, Some(&old));
        wait_until("the new agent knows all", READY, || {
            (services(&cluster, node) == before).then_some(())
        });
        assert_eq!(dbg(&cluster, node, &["bpf", "lb", "list"]), rows);
    }
    cluster.kubectl(&["delete", "svc", "web", "local", "empty", "headless"]);
    for node in ["node1", "node2", "node3"] {
        wait_until("services are gone", READY, || {
            let all = services(&cluster, node);
            of(&all, "service default/web", "ClusterIP")
                .is_empty()
                .then_some(())
        });
    }
    cluster.assert_clean();
}

/// What machines ask: whether services are served, and how many.
fn served(cluster: &Cluster) {
    let get = |url: &str| {
        cluster
            .lab
            .sh("node2", &format!("curl -s -f http://127.0.0.1:{url}"))
    };
    let health: Value = serde_json::from_str(&get("10256/healthz")).expect("JSON");
    assert!(health["lastUpdated"].is_string() && health["currentTime"].is_string());
    let metrics = get("9962/metrics");
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
        let value = line.rsplit(' ').next().unwrap_or_default();
        value.parse::<f64>().expect("a number")
    };
    for name in [
        "cilium_services_events_total{action=\"add\"}",
        "cilium_services_frontends{type=\"ClusterIP\"}",
        "cilium_services_backends",
        "cilium_services_map_pressure{map_name=\"cilium_lb4_services_v2\"}",
        "cilium_service_implementation_delay_count",
    ] {
        assert!(value(name) > 0.0, "{name}");
    }
    assert!(value("cilium_services_problems").abs() < 0.5);
}

/// The layouts that people know.
fn tools(cluster: &Cluster, address: &str) {
    let list = dbg(cluster, "node1", &["service", "list"]);
    assert!(list.starts_with("ID "), "{list}");
    let line = list
        .lines()
        .find(|line| line.contains(&format!(" {address}:80/TCP ")))
        .unwrap_or_else(|| panic!("{address} is not in\n{list}"));
    assert!(
        line.contains("ClusterIP") && line.contains("1 => "),
        "{line}"
    );
    let id = line.split_whitespace().next().unwrap_or_default();
    let one = dbg(cluster, "node1", &["service", "get", id]);
    assert!(one.contains(address) && one.contains("2 => "), "{one}");

    let lb = dbg(cluster, "node1", &["bpf", "lb", "list"]);
    let master = format!("{address}:80/TCP (0)");
    let words = format!("0.0.0.0:0 ({id}) (0) [ClusterIP, sessionAffinity, non-routable]");
    assert!(
        lb.lines()
            .any(|line| line.starts_with(&master) && line.ends_with(&words)),
        "no {master} … {words} in\n{lb}"
    );
    assert!(lb.contains(&format!("{address}:80/TCP (2)")), "{lb}");
    for (option, part) in [
        ("--revnat", format!("{address}:80")),
        ("--backends", "active".to_owned()),
        ("--frontends", master),
    ] {
        let text = dbg(cluster, "node1", &["bpf", "lb", "list", option]);
        assert!(text.contains(&part), "{option}: {text}");
    }
    let status = dbg(cluster, "node1", &["status", "--verbose"]);
    for part in [
        "KubeProxyReplacement:",
        "KubeProxyReplacement Details:",
        "Range: 30000-32767",
        "(Direct Routing)",
    ] {
        assert!(status.contains(part), "{part} is not in\n{status}");
    }

    let why = |what: &str| {
        cluster
            .lab
            .hypha(&["service", "why", what, "--node", "node3"])
    };
    let told = why("default/empty");
    assert!(
        told.ok() && told.stdout.contains("refused at once"),
        "{told:?}"
    );
    let told = why("192.0.2.99:1");
    assert!(
        !told.ok() && told.stderr.contains("nobody serves it"),
        "{told:?}"
    );
    let told = why("web");
    assert!(!told.ok() && told.stderr.contains("accepted"), "{told:?}");
}

/// A client with a connected socket: says what it hears, and how it ends.
const CONNECTED: &str = r"
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
    own.settimeout(2)
    own.connect((sys.argv[1], 80))
    own.send(b'hostname')
    print(own.recv(1024).decode().strip(), flush=True)
    own.settimeout(40)
    try:
        print('heard', own.recv(1024), flush=True)
    except OSError as error:
        print('ended', error.errno, flush=True)
";

/// A pod that answers datagrams.
const ANSWERS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: back, labels: {app: back}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/agnhost:2.40
    args: [netexec, --http-port=8080, --udp-port=8080]
---
apiVersion: v1
kind: Service
metadata: {name: back}
spec:
  selector: {app: back}
  ports:
  - {protocol: UDP, port: 80, targetPort: 8080}
";

/// Clients on the host and in a pod are told when the backend that their sockets are connected to is gone.
#[test]
fn e2e_services_connected_sockets() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-connected", &[]);
    cluster
        .lab
        .apply(&format!("{ANSWERS}---\n{}", pod_yaml("ask", "node1")));
    let address = cluster.kubectl(&["get", "svc", "back", "-o", "jsonpath={.spec.clusterIP}"]);
    wait_until("the backend is served", READY, || {
        let all = services(&cluster, "node1");
        let back = of(&all, "service default/back", "ClusterIP");
        back.iter().any(|one| used(one) == 1).then_some(())
    });
    let clients = ["ask", "node1"].map(|client| {
        let mut command = cluster
            .lab
            .exec_command(client, &["python3", "-c", CONNECTED, &address]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a client");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let first = lines.next().expect("a line").expect("a line");
        assert_eq!(first, "back", "{client}");
        (client, child, lines)
    });
    cluster.lab.delete_pod("back");
    for (client, mut child, mut lines) in clients {
        let last = lines.next().expect("a line").expect("a line");
        let status = dbg(&cluster, "node1", &["status", "--verbose"]);
        let ended = format!("ended {}", nix::libc::ECONNABORTED);
        assert!(
            last == ended || status.contains("CONFIG_INET_DIAG_DESTROY"),
            "{client}: {last}\n{status}"
        );
        assert!(child.wait().expect("its end").success());
    }
    cluster.assert_clean();
}
