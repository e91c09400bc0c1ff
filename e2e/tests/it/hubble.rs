//! Flows as a person looks at them: the relay by the API server's port forwarding, a node by its agent's socket.
mod captured;
mod counted;
mod rotated;

use hypha_e2e::cluster::Cluster;
use serde_json::Value;
use testkit::{LabBuilder, skip_unless_root};

use crate::acceptance::shell::{Release, Running, Shell};

/// A pod on every node.
const EVERYWHERE: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      tolerations: [{operator: Exists}]
      containers: [{name: whoami, image: traefik/whoami, ports: [{containerPort: 80}]}]
";

#[test]
fn e2e_hubble() {
    if skip_unless_root() {
        return;
    }
    let _ = hypha_e2e::program("hypha-cni");
    let builder = LabBuilder::new(hypha_e2e::program("hypha"), "e2e-hubble");
    let cluster = Cluster::of(builder.up());
    let Some(sh) = Shell::new(&cluster, Release::New) else {
        return;
    };
    sh.file("everywhere.yaml", EVERYWHERE);
    sh.ok("kubectl create -f $MANIFESTS/deathstar.yaml -f everywhere.yaml");
    sh.ok("hypha upgrade --reuse-values --set hubble.relay.enabled=true");
    sh.ok("kubectl -n kube-system rollout status deployment/hubble-relay --timeout 60s");
    sh.until("hypha status --name $LAB", &["Hubble Relay:       OK"]);
    let (_forward, server) = forwarded(&sh);
    status(&sh, &server);
    sh.ok("kubectl rollout status deployment/deathstar ds/everywhere --timeout 60s");
    sh.ok("kubectl wait --for=condition=Ready pod/tiefighter pod/xwing --timeout 60s");
    all_nodes(&sh, &server);
    one_request(&sh, &server);
    drops(&sh, &server);
    at_once(&sh);
    on_a_node(&sh);
    mistakes(&sh, &server);
    rotated::under_load(&sh, &server);
    cluster.assert_clean();
}

/// The relay at a free port of this machine, and what says so to every command.
fn forwarded(sh: &Shell) -> (Running, String) {
    let forward = sh.start("hypha hubble port-forward --port-forward-port 0");
    let said = forward.says_such("where the relay is", |text| text.ends_with('\n'));
    let (_, at) = said.trim().rsplit_once(' ').unwrap();
    assert!(
        said.contains("Hubble Relay is available at 127.0.0.1:"),
        "{said}"
    );
    (forward, format!("HUBBLE_SERVER={at}"))
}

fn status(sh: &Shell, server: &str) {
    let text = sh.until(
        &format!("{server} hypha hubble status"),
        &["Connected Nodes: 3/3"],
    );
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("Healthcheck (via 127.0.0.1:") && lines[0].ends_with("): Ok"),
        "{text}"
    );
    assert!(
        lines[1].starts_with("Current/Max Flows: ") && lines[1].ends_with("%)"),
        "{text}"
    );
    assert!(
        lines[1].contains("/12,285 ("),
        "three rings of 4095: {text}"
    );
    assert!(lines[2].starts_with("Flows/s: "), "{text}");
    assert_eq!(lines[3..], ["Connected Nodes: 3/3"], "{text}");
    // The same through the API server alone.
    sh.has(
        "hypha hubble status -P",
        &["Healthcheck (via kube-system/hubble-relay-", "): Ok"],
    );
    let list = sh.ok(&format!("{server} hypha hubble list nodes -o wide"));
    assert!(list.starts_with("NAME"), "{list}");
    assert_eq!(list.matches("Connected").count(), 3, "{list}");
    assert_eq!(
        list.matches("Enabled").count(),
        3,
        "nodes are asked by TLS: {list}"
    );
}

/// Every node's flows come, in the order of their times.
fn all_nodes(sh: &Shell, server: &str) {
    sh.ok("for ip in $(kubectl get pod -l app=everywhere -o jsonpath='{.items[*].status.podIP}'); do kubectl exec tiefighter -- curl -s --max-time 5 $ip; done");
    let seen = |text: &str| {
        let nodes = text.lines().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            Some(line["flow"]["node_name"].as_str()?.to_owned())
        });
        nodes.collect::<std::collections::BTreeSet<_>>()
    };
    let ask = format!("{server} hypha hubble observe --all --pod default/everywhere -o jsonpb");
    let mut text = sh.ok(&ask);
    // What the kernel told last is read within a moment.
    for _ in 0..100 {
        if seen(&text).len() == 3 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        text = sh.ok(&ask);
    }
    assert_eq!(seen(&text).len(), 3, "{text}");
    let times: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["time"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert!(
        times.len() > 6 && times.is_sorted_by_key(|time| padded(time)),
        "{times:?}"
    );
    let namespaces = sh.ok(&format!("{server} hypha hubble list namespaces"));
    assert!(
        namespaces.lines().any(|line| line == "default"),
        "{namespaces}"
    );
}

/// A time with all nine digits of its fraction, so that texts compare as times.
fn padded(time: &str) -> String {
    let (whole, fraction) = time
        .trim_end_matches('Z')
        .split_once('.')
        .unwrap_or((time.trim_end_matches('Z'), ""));
    format!("{whole}.{fraction:0<9}")
}

/// One call of a service, from the socket to the answer.
fn one_request(sh: &Shell, server: &str) {
    sh.ok("kubectl exec tiefighter -- curl -s --max-time 5 -XPOST deathstar.default.svc.cluster.local/v1/request-landing");
    let ask = format!("{server} hypha hubble observe --from-pod default/tiefighter --last 100");
    sh.until(
        &ask,
        &[
            ":80 (",
            " pre-xlate-fwd TRACED (TCP)",
            " post-xlate-fwd TRANSLATED (TCP)",
        ],
    );
    let ask = format!(
        "{server} hypha hubble observe --pod default/tiefighter --protocol tcp --last 200 --type trace"
    );
    let text = sh.until(&ask, &["(TCP Flags: SYN)", "(TCP Flags: SYN, ACK)"]);
    let answered = |line: &str| {
        line.contains(": default/tiefighter:")
            && line.contains(" <- default/deathstar-")
            && line.contains(" to-endpoint FORWARDED (TCP Flags: SYN, ACK)")
    };
    assert!(text.lines().any(answered), "{text}");
    // What is recorded can be looked at again.
    sh.ok(&format!(
        "{server} hypha hubble observe --all -o json > flows.json"
    ));
    let again = sh.ok("hypha hubble observe --input-file flows.json --from-pod tiefighter --to-port 80 --protocol tcp");
    assert!(again.contains("default/tiefighter:"), "{again}");
}

/// What policy refuses is told with its reason, and who asked.
fn drops(sh: &Shell, server: &str) {
    sh.ok("kubectl apply -f $MANIFESTS/rule1.yaml");
    let landing = "kubectl exec xwing -- curl -s --connect-timeout 1 -XPOST deathstar.default.svc.cluster.local/v1/request-landing";
    let follow = sh.start(&format!(
        "{server} hypha hubble observe -f --last 0 --verdict DROPPED --to-pod default/deathstar"
    ));
    let refused = |text: &str| {
        text.lines().any(|line| {
            line.contains(": default/xwing:")
                && line.contains(" (ID:")
                && line.contains(" <> default/deathstar-")
                && line.ends_with(" Policy denied DROPPED (TCP Flags: SYN)")
        })
    };
    // The policy reaches the nodes within a moment.
    let start = std::time::Instant::now();
    while !refused(&follow.said()) {
        assert!(
            start.elapsed().as_secs() < 30,
            "no drop is told of: {}",
            follow.said()
        );
        sh.run(landing);
    }
    let text = sh.ok(&format!(
        "{server} hypha hubble observe --pod deathstar --verdict DROPPED"
    ));
    assert!(refused(&text), "{text}");
    let verdicts = sh.ok(&format!(
        "{server} hypha hubble observe --from-pod xwing --type policy-verdict"
    ));
    assert!(
        verdicts.contains(" policy-verdict:none INGRESS DENIED (TCP Flags: SYN)"),
        "{verdicts}"
    );
    let none = sh.ok(&format!(
        "{server} hypha hubble observe --verdict DROPPED --not --from-pod xwing --to-pod deathstar"
    ));
    assert_eq!(none, "");
}

/// A drop is seen within a tenth of a second of its packet. A busy machine may be slower at times, so one in several counts.
fn at_once(sh: &Shell) {
    let node = sh.ok("kubectl get pod -l class=deathstar -o jsonpath='{.items[0].spec.nodeName}'");
    let ip = sh.ok("kubectl get pod -l class=deathstar -o jsonpath='{.items[0].status.podIP}'");
    let agent = sh.ok(&format!("kubectl -n kube-system get pod -l k8s-app=cilium --field-selector spec.nodeName={node} -o name"));
    let follow = sh.start(&format!(
        "kubectl -n kube-system exec {} -- hubble observe -f --last 0 --verdict DROPPED -o jsonpb | while read -r line; do echo \"$EPOCHREALTIME $line\"; done",
        agent.trim()
    ));
    let mut late = Vec::new();
    for _ in 0..20 {
        let before = follow.said().len();
        sh.run(&format!(
            "kubectl exec xwing -- curl -s --connect-timeout 0.2 {ip}"
        ));
        let said = follow.said();
        for line in said[before..].lines() {
            let Some((now, event)) = line.split_once(' ') else {
                continue;
            };
            let Ok(event) = serde_json::from_str::<Value>(event) else {
                continue;
            };
            late.push(now.parse::<f64>().unwrap() - seconds(event["time"].as_str().unwrap()));
        }
        if late.iter().any(|late| *late < 0.1) {
            return;
        }
    }
    panic!("drops are seen late: {late:?}: {}", follow.said());
}

/// Seconds since 1970 of a time of this day or later.
fn seconds(time: &str) -> f64 {
    let output = std::process::Command::new("date")
        .args(["-u", "+%s.%N", "-d", time])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// Inside an agent's pod its own socket is asked, and the node alone answers.
fn on_a_node(sh: &Shell) {
    let exec = "kubectl -n kube-system exec ds/cilium -- ";
    sh.has(
        &format!("{exec}hubble status"),
        &[
            "Healthcheck (via unix:///var/run/cilium/hubble.sock): Ok",
            "/4,095 (",
        ],
    );
    let nodes = sh.run(&format!("{exec}hubble list nodes"));
    assert!(
        nodes.code != 0 && nodes.stderr.contains("does not answer that"),
        "{nodes:?}"
    );
    sh.has(
        &format!("{exec}hubble observe agent-events --all"),
        &["AGENT_STARTED (start time: "],
    );
}

fn mistakes(sh: &Shell, server: &str) {
    for (line, said) in [
        (
            "observe --first 1 --last 1",
            "Error: --first and --last exclude each other",
        ),
        ("observe --verdict LOST", "accepted: FORWARDED, DROPPED"),
        ("observe --not", "--not stands last"),
        ("observe --http-path '('", "http_path"),
        ("observe -f -o table", "exclude each other"),
        ("ui abc", "accepted: a port from 1 to 65535"),
    ] {
        let run = sh.run(&format!("{server} hypha hubble {line}"));
        assert!(run.code != 0 && run.stdout.is_empty(), "{line}: {run:?}");
        assert!(
            run.stderr.contains(said) && run.stderr.lines().count() == 1,
            "{line}: {run:?}"
        );
    }
    let run = sh.run("hypha hubble status --server 127.0.0.1:1");
    assert!(
        run.code == 1
            && run.stderr.contains("cannot connect to 127.0.0.1:1: ")
            && run.stderr.lines().count() == 1,
        "{run:?}"
    );
}
