//! What must not harm others: endpoints that come and go by the thousand, sockets that cannot be translated.

use std::collections::BTreeSet;
use std::time::Duration;

use hypha_e2e::cluster::{Cluster, pod_yaml};
use hypha_e2e::policy::objects::Server;
use serde_json::{Value, json};
use testkit::{skip_unless_root, wait_until};

use super::tables::{dbg, of, services};

pub const READY: Duration = Duration::from_secs(30);

/// Says by which name the server at an address and port calls itself, or the number of the error.
const ASK: &str = r#"
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as own:
        own.sendall(b"GET /hostname HTTP/1.0\r\n\r\n")
        text = b""
        while part := own.recv(4096): text += part
        print(text.split(b"\r\n\r\n")[1].decode().strip())
except OSError as error:
    print("errno", error.errno)
"#;

fn ask(cluster: &Cluster, client: &str, ip: &str, port: u16) -> String {
    let port = port.to_string();
    let run = cluster.lab.exec(client, &["python3", "-c", ASK, ip, &port]);
    assert!(run.ok(), "{client} {ip} {port}: {}", run.stderr);
    run.stdout.trim().to_owned()
}

#[track_caller]
pub fn answers(cluster: &Cluster, client: &str, ip: &str, port: u16, name: &str) {
    let mut last = String::new();
    let what = format!("{client} → {ip}:{port} answered by {name:?}");
    wait_until(&what, READY, || {
        last = ask(cluster, client, ip, port);
        (last == name).then_some(())
    });
}

/// A server whose port is 8080, and a client.
pub fn pods(backs: &[&str]) -> String {
    let back = |name: &&str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  nodeName: node2\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: registry.k8s.io/e2e-test-images/agnhost:2.40\n    \
             args: [netexec, --http-port=8080, --udp-port=8080]\n---\n"
        )
    };
    let backs: String = backs.iter().map(back).collect();
    backs + &pod_yaml("ask", "node1")
}

/// A service without selector: its slices are written by hand.
pub fn bare(name: &str, more: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "p", "port": 80, "targetPort": 8080}]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        service["spec"][key] = value.clone();
    }
    service
}

pub fn slice(
    service: &str,
    number: usize,
    addresses: impl Iterator<Item = String>,
    ready: bool,
) -> Value {
    let endpoint = |address| json!({"addresses": [address], "conditions": {"ready": ready}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{service}-{number}"), "namespace": "default", "labels": {"kubernetes.io/service-name": service},
        },
        "endpoints": addresses.map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}],
    })
}

pub fn address_of(cluster: &Cluster, service: &str) -> String {
    cluster.kubectl(&["get", "svc", service, "-o", "jsonpath={.spec.clusterIP}"])
}

/// What the agent of a node has logged.
pub fn logs(cluster: &Cluster, node: &str) -> String {
    let on = format!("spec.nodeName={node}");
    let name = cluster.kubectl(&[
        "get",
        "pods",
        "-n=kube-system",
        "-l=k8s-app=cilium",
        "--field-selector",
        &on,
        "-o=name",
    ]);
    cluster.kubectl(&["logs", "-n=kube-system", name.trim(), "-c=cilium-agent"])
}

/// Kilobytes of an agent.
fn memory(cluster: &Cluster, node: &str) -> u64 {
    let process = cluster.agent_process(node).expect("an agent");
    let path = format!("/proc/{}/status", process.pid);
    let text = std::fs::read_to_string(path).expect("its status");
    let line = text.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|n| n.parse().ok()).expect("a number")
}

const FLAPPING: usize = 3000;
const ROUNDS: usize = 30;

/// Thousands of endpoints come and go: the agent grows no more than it must, and ends with what is true.
#[test]
fn e2e_services_flapping() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-flapping", &["--nodes", "2", "--ipv4"]);
    let server = Server::of_cluster(&cluster);
    cluster.lab.apply(&pods(&["kept"]));
    server.create(&[
        bare("kept", &json!({"selector": {"app": "kept"}})),
        bare("many", &Value::Null),
    ]);
    let kept = address_of(&cluster, "kept");
    answers(&cluster, "ask", &kept, 80, "kept");
    // In every round, other endpoints are there, and every other slice is not ready.
    let round = |round: usize| -> Vec<Value> {
        let slices = (0..FLAPPING / 100).map(|n| {
            let start = round % 7;
            let addresses = (0..100).map(move |i| format!("10.77.{n}.{}", start + i + 1));
            slice("many", n, addresses, (n + round).is_multiple_of(2))
        });
        slices.collect()
    };
    server.create(&round(0));
    let change = |slices: &[Value]| {
        for slice in slices {
            server.merge(slice, slice);
        }
    };
    change(&round(1));
    let settled = |last: usize| {
        let addresses: BTreeSet<String> = round(last)
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .filter_map(|endpoint| Some(format!("{}:8080/TCP", endpoint["addresses"][0].as_str()?)))
            .collect();
        for node in ["node1", "node2"] {
            wait_until("the last endpoints are served", READY, || {
                let all = services(&cluster, node);
                let many = of(&all, "service default/many", "ClusterIP");
                let backends = many.first()?["backends"].as_array()?.clone();
                let served: BTreeSet<String> = backends
                    .iter()
                    .filter(|backend| backend["used"] == true)
                    .filter_map(|backend| Some(backend["address"].as_str()?.to_owned()))
                    .collect();
                (served == addresses).then_some(())
            });
        }
    };
    settled(1);
    let before = memory(&cluster, "node1");
    for n in 2..ROUNDS {
        change(&round(n));
    }
    settled(ROUNDS - 1);
    answers(&cluster, "ask", &kept, 80, "kept");
    let after = memory(&cluster, "node1");
    println!("{before} kB, after {ROUNDS} rounds of {FLAPPING} endpoints {after} kB");
    assert!(after < before + 40_000, "{before} kB became {after} kB");
    cluster.assert_clean();
}

/// Where programs cannot be put at sockets, pods' packets are translated, the status tells what is missing, and it is tried again.
#[test]
fn e2e_services_without_sockets() {
    if skip_unless_root() {
        return;
    }
    // A link that leads nowhere yet, in the agent's directory.
    let root = "cgroup-root=/var/run/cilium/late";
    let cluster = Cluster::up("e2e-socketless", &["--nodes", "2", "--agent-config", root]);
    cluster.lab.apply(&pods(&["one"]));
    Server::of_cluster(&cluster).create(&[bare("one", &json!({"selector": {"app": "one"}}))]);
    let address = address_of(&cluster, "one");
    answers(&cluster, "ask", &address, 80, "one");
    let status = dbg(&cluster, "node1", &["status", "--verbose"]);
    for part in [
        "not translated at sockets",
        "/var/run/cilium/late",
        "Socket LB:",
    ] {
        assert!(status.contains(part), "{part} is not in\n{status}");
    }
    assert!(!cluster.is_healthy("node1"));
    assert!(logs(&cluster, "node1").contains("not translated at sockets"));
    for node in ["node1", "node2"] {
        let link = "ln -s /run/cilium/cgroupv2 /var/run/cilium/late";
        cluster.lab.sh(node, link);
    }
    answers(&cluster, "node1", &address, 80, "one");
    answers(&cluster, "ask", &address, 80, "one");
    wait_until("the agent is well", READY, || {
        cluster.is_healthy("node1").then_some(())
    });
    cluster.assert_clean();
}
