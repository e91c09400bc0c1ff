//! Every packet is accounted for: with aggregation off, flows of pods are as many as the packets that their own kernel counted.
use hypha_e2e::cluster::Cluster;
use serde_json::Value;
use testkit::{LabBuilder, skip_unless_root};

use crate::acceptance::shell::{Release, Shell};

/// Two pods on one node, one on another.
const PODS: [(&str, &str); 3] = [("client", "node2"), ("near", "node2"), ("far", "node3")];

/// What is sent: messages, datagrams to a port where nobody listens, connections with requests.
const MIX: &str = "for to in $NEAR $FAR; do ping -q -c 20 -i 0.05 $to; for i in $(seq 15); do echo x > /dev/udp/$to/9; sleep 0.01; done; for i in 1 2 3 4 5; do curl -s -o /dev/null --max-time 5 $to; done; done";

#[test]
fn e2e_hubble_counts_every_packet() {
    if skip_unless_root() {
        return;
    }
    let _ = hypha_e2e::program("hypha-cni");
    let builder = LabBuilder::new(hypha_e2e::program("hypha"), "e2e-counted");
    let cluster = Cluster::of(builder.up());
    let Some(sh) = Shell::new(&cluster, Release::New) else {
        return;
    };
    super::captured::refused(&sh);
    sh.ok("hypha upgrade --reuse-values --set bpf.monitorAggregation=none --set hubble.eventBufferCapacity=65535 --set hubble.capture.enabled=true");
    sh.ok("kubectl -n kube-system rollout restart ds/cilium");
    sh.ok("kubectl -n kube-system rollout status ds/cilium --timeout 60s");
    let nodes = sh.ok("kubectl get nodes -o jsonpath='{.items[*].metadata.name}'");
    let nodes: Vec<&str> = nodes.split_whitespace().collect();
    let node = |wanted: &str| match wanted {
        "node2" => nodes[1],
        _ => nodes[2],
    };
    for (name, on) in PODS {
        let on = node(on);
        sh.ok(&format!(
            "kubectl run {name} --image traefik/whoami --port 80 --overrides '{{\"spec\":{{\"nodeName\":\"{on}\"}}}}'"
        ));
    }
    sh.ok("kubectl wait --for=condition=Ready pod/client pod/near pod/far --timeout 60s");
    let ip = |pod: &str| {
        let ip = sh.ok(&format!(
            "kubectl get pod {pod} -o jsonpath='{{.status.podIP}}'"
        ));
        ip.trim().to_owned()
    };
    let before = PODS.map(|(pod, _)| counted(&sh, pod));
    let since = sh.ok("date -u +%Y-%m-%dT%H:%M:%S.%NZ");
    let mix = MIX
        .replace("$NEAR", &ip("near"))
        .replace("$FAR", &ip("far"));
    sh.ok(&format!("kubectl exec client -- bash -c '{mix}'"));
    for ((pod, on), before) in PODS.into_iter().zip(before) {
        let agent = sh.ok(&format!(
            "kubectl -n kube-system get pod -l k8s-app=cilium --field-selector spec.nodeName={} -o name",
            node(on)
        ));
        let ask = format!(
            "kubectl -n kube-system exec {} -- hubble observe --since {} --pod default/{pod} --type trace -o jsonpb",
            agent.trim(),
            since.trim()
        );
        // The last packets of a connection pass after its client has ended, and are told a moment later.
        let mut last = (before, [0; 2]);
        for _ in 0..50 {
            let now = counted(&sh, pod);
            last = (now, told(&sh.ok(&ask), pod));
            if last.1[0] > 40 && [now[0] - before[0], now[1] - before[1]] == last.1 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let (now, told) = last;
        assert_eq!(
            told,
            [now[0] - before[0], now[1] - before[1]],
            "packets that {pod} received and sent"
        );
        assert!(told.iter().all(|count| *count > 40), "{pod}: {told:?}");
    }
    super::captured::by_names(&sh);
    cluster.assert_clean();
}

/// Packets of IPv4 that a pod's kernel received and sent.
fn counted(sh: &Shell, pod: &str) -> [u64; 2] {
    let text = sh.ok(&format!("kubectl exec {pod} -- cat /proc/net/snmp"));
    let mut lines = text.lines().filter(|line| line.starts_with("Ip: "));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let of = |name: &str| {
        let mut pairs = names.split_whitespace().zip(numbers.split_whitespace());
        let (_, number) = pairs.find(|(one, _)| *one == name).unwrap();
        number.parse::<u64>().unwrap()
    };
    [of("InReceives"), of("OutRequests")]
}

/// Packets of IPv4 that the agent tells of as handed to a pod, and as received from it.
fn told(text: &str, pod: &str) -> [u64; 2] {
    let mut found = [0; 2];
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let flow = &line["flow"];
        assert!(line["lost_events"].is_null(), "{line}");
        if flow["IP"]["ipVersion"] != "IPv4" {
            continue;
        }
        let is = |end: &str| flow[end]["pod_name"] == pod;
        match flow["trace_observation_point"].as_str() {
            Some("TO_ENDPOINT") if is("destination") => found[0] += 1,
            Some("FROM_ENDPOINT") if is("source") => found[1] += 1,
            _ => {}
        }
    }
    found
}
