//! Rules for Kafka, with a broker and clients that others have written: who may produce to and consume of which topic.

use std::thread;

use hypha_e2e::cluster::Cluster;
use testkit::{LabBuilder, skip_unless_root};

use crate::acceptance::shell::{Release, Shell, tools};
use crate::pods::{SCRIPTS, bring, pod};

/// The program of brokers and clients.
const PROGRAM: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../crates/proxy/tests/it/clients/kafka_clients.py"
);

/// Where the broker is reached.
const PORT: u16 = 9092;

/// A broker in a pod of its own, and clients of two kinds on its node and on the other.
const CLIENTS: [(&str, &str, &str); 4] = [
    ("hq-near", "hq", "node1"),
    ("hq-far", "hq", "node2"),
    ("outpost-near", "outpost", "node1"),
    ("outpost-far", "outpost", "node2"),
];

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: topics}
spec:
  endpointSelector: {matchLabels: {app: broker}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: hq}}]
    toPorts:
    - ports: [{port: "9092", protocol: TCP}]
      rules: {kafka: [{role: produce, topic: announcements}, {role: produce, topic: plans}]}
  - fromEndpoints: [{matchLabels: {app: outpost}}]
    toPorts:
    - ports: [{port: "9092", protocol: TCP}]
      rules: {kafka: [{role: consume, topic: announcements}]}
"#;

/// What a kind of client does to which topic, and how that ends.
type Step = (&'static str, &'static str, &'static str, &'static str);

const DENIED: &str = "TOPIC_AUTHORIZATION_FAILED";
const STEPS: [Step; 5] = [
    ("hq", "produce", "announcements", "done"),
    ("hq", "produce", "plans", "done"),
    ("hq", "produce", "payroll", DENIED),
    ("outpost", "consume", "announcements", "done"),
    ("outpost", "consume", "plans", DENIED),
];

/// How pods run it; without the packages that it needs, says so.
fn program() -> Option<String> {
    let python = tools().join("python-protocols/bin/python");
    if !python.is_file() {
        eprintln!(
            "skipped: there is no {}; `cargo xtask setup` makes it",
            python.display()
        );
        return None;
    }
    Some(format!(
        "{} -B {SCRIPTS}/kafka_clients.py",
        python.display()
    ))
}

fn lab() -> Cluster {
    let _ = hypha_e2e::program("hypha-cni");
    let lab = LabBuilder::new(hypha_e2e::program("hypha"), "e2e-l7-kafka").args(&[
        "--nodes",
        "2",
        "--agent-config",
        "enable-l7-proxy=true",
        "--agent-config",
        "hubble-metrics=kafka",
        "--agent-config",
        "hubble-metrics-server=:9965",
    ]);
    Cluster::of(lab.up())
}

/// Where the broker tells its clients that it is, and where it is.
fn broker(sh: &Shell) -> (String, Vec<String>) {
    let said = sh.until("kubectl logs broker", &["127.0.0.1:"]);
    let ips = sh.ok("kubectl get pod broker -o jsonpath='{.status.podIPs[*].ip}'");
    let ips: Vec<String> = ips.split_whitespace().map(str::to_owned).collect();
    assert_eq!(ips.len(), 2, "{ips:?}");
    (said.trim().to_owned(), ips)
}

/// Every client of a kind takes its steps, by both families; what was not as wanted.
fn steps(sh: &Shell, program: &str, app: &str) -> Vec<String> {
    let (told, ips) = broker(sh);
    let own = CLIENTS.iter().filter(|(_, of, _)| *of == app);
    let take = |name: &str| -> Vec<String> {
        let mut wrong = Vec::new();
        for ip in &ips {
            for (_, action, topic, wanted) in STEPS.iter().filter(|(of, ..)| *of == app) {
                let line = format!(
                    "kubectl exec {name} -- {program} librdkafka {told} {app} {action} {topic} {ip} {PORT}"
                );
                let run = sh.run(&line);
                if run.stdout.trim() != *wanted {
                    wrong.push(format!("$ {line}\n{wanted} was expected: {run:?}"));
                }
            }
        }
        wrong
    };
    let take = &take;
    thread::scope(|scope| {
        let all: Vec<_> = own
            .map(|(name, ..)| scope.spawn(move || take(name)))
            .collect();
        all.into_iter()
            .flat_map(|one| one.join().unwrap())
            .collect()
    })
}

/// What was asked for, and what became of it, in flows and in what is counted of them.
fn told(sh: &Shell, cluster: &Cluster) {
    let agent = sh.ok(
        "kubectl -n kube-system get pod -l k8s-app=cilium --field-selector spec.nodeName=node1 -o name",
    );
    let observe = format!(
        "kubectl -n kube-system exec {} -- hubble observe --last 4000 --protocol kafka --to-pod default/broker",
        agent.trim()
    );
    let lines = sh.ok(&observe);
    let metrics = cluster
        .lab
        .sh("node1", "curl -s -f http://127.0.0.1:9965/metrics");
    for (app, action, topic, wanted) in STEPS {
        let passes = wanted == "done";
        let verdict = if passes { "FORWARDED" } else { "DROPPED" };
        let key = if action == "consume" { "fetch" } else { action };
        let request = if passes {
            format!("Kafka request {key} ")
        } else {
            // What is denied is the first question about the topic.
            "Kafka request ".to_owned()
        };
        for (name, ..) in CLIENTS.iter().filter(|(_, of, _)| *of == app) {
            let parts = [
                format!("default/{name}:"),
                format!("kafka-request {verdict} ({request}"),
                format!(" topic '{topic}'"),
            ];
            let has = |line: &str| parts.iter().all(|part| line.contains(part.as_str()));
            assert!(lines.lines().any(has), "no line with {parts:?}:\n{lines}");
        }
        let key = if passes {
            format!("api_key=\"{key}\"")
        } else {
            String::new()
        };
        let topic = format!("topic=\"{topic}\"");
        let is_counted = |line: &str| {
            line.starts_with("hubble_kafka_requests_total{")
                && line.contains(&topic)
                && line.contains(&key)
        };
        assert!(
            metrics.lines().any(is_counted),
            "{topic} {key} is not counted:\n{metrics}"
        );
    }
}

/// Which rule lets requests in, and how many were asked.
fn explained(sh: &Shell) {
    let why = |client: &str, request: &str| {
        format!("hypha policy why default/{client} default/broker --kafka {request}")
    };
    let rule = |index| format!("default/topics: spec.ingress[{index}].toPorts[0].rules.kafka[");
    sh.has(
        &why("hq-far", "produce plans"),
        &["9092/TCP: allowed", &(rule(0) + "1]")],
    );
    sh.has(
        &why("outpost-near", "fetch announcements"),
        &[&(rule(1) + "0]")],
    );
    sh.fails(&why("hq-far", "produce payroll"), &["9092/TCP: denied"]);
    let status = sh.has(
        "hypha dbg --name $LAB --node node1 status --all-redirects",
        &["1 redirects active"],
    );
    let line = status
        .lines()
        .find(|line| line.contains(":ingress:TCP:9092:"));
    let counts: Vec<u64> = line
        .iter()
        .flat_map(|line| line.split_whitespace())
        .filter_map(|word| word.parse().ok())
        .collect();
    let [15_002, received, forwarded, denied, _] = counts[..] else {
        panic!("{status}");
    };
    assert!(
        received == forwarded + denied && forwarded > 8 && denied >= 8,
        "{status}"
    );
}

#[test]
fn e2e_layer7_kafka_topics() {
    if skip_unless_root() {
        return;
    }
    let Some(program) = program() else { return };
    let cluster = lab();
    let Some(sh) = Shell::new(&cluster, Release::New) else {
        return;
    };
    let mut pods = pod(
        "broker",
        "broker",
        "node1",
        &format!("{program} broker {PORT}"),
    );
    for (name, app, node) in CLIENTS {
        pods += &pod(name, app, node, "sleep infinity");
    }
    bring(&sh, PROGRAM);
    sh.file("pods.yaml", &pods);
    sh.file("topics.yaml", POLICY);
    sh.ok("kubectl create -f pods.yaml");
    sh.ok("kubectl -n kube-system rollout status ds/cilium-envoy --timeout 60s");
    sh.ok("kubectl wait --for=condition=Ready pod --all --timeout 60s");
    sh.ok("kubectl apply -f topics.yaml");
    sh.until("kubectl get cnp", &["topics", "True"]);
    sh.ok("hypha dbg --name $LAB --node node1 policy wait --max-wait-time 30");
    // What is to be consumed has to be there.
    let mut wrong = steps(&sh, &program, "hq");
    wrong.extend(steps(&sh, &program, "outpost"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    told(&sh, &cluster);
    explained(&sh);
    cluster.assert_clean();
}
