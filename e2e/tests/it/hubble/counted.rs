//! Every packet is accounted for: with aggregation off, flows of pods are as many as the packets that their own kernel counted.
use hypha_e2e::cluster::Cluster;
use serde_json::Value;
use testkit::{LabBuilder, skip_unless_root};

use crate::acceptance::shell::{Release, Shell};

/// Two pods on one node, one on another.
const PODS: [(&str, &str); 3] = [("client", "node2"), ("near", "node2"), ("far", "node3")];

/// What is sent: messages, datagrams to a port where nobody listens, connections with requests.
const MIX: &str = "for to in $ADDRESSES; do ping -q -c 20 -i 0.05 $to; for i in $(seq 15); do echo x > /dev/udp/$to/9; sleep 0.01; done; url=$to; case $to in *:*) url=[$to];; esac; for i in 1 2 3 4 5; do curl -g -s -o /dev/null --max-time 5 http://$url; done; done";

/// The families as flows call them.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
/// What hosts tell each other about addresses and groups, by the kernel's names: nobody else is told of it.
const OF_HOSTS_NAMES: [&str; 7] = [
    "RouterSolicits",
    "RouterAdvertisements",
    "NeighborSolicits",
    "NeighborAdvertisements",
    "GroupMembQueries",
    "GroupMembResponses",
    "MLDv2Reports",
];
/// The same by their types.
const OF_HOSTS: [u64; 8] = [130, 131, 132, 133, 134, 135, 136, 143];

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
    let ips = |pod: &str| {
        sh.ok(&format!(
            "kubectl get pod {pod} -o jsonpath='{{.status.podIPs[*].ip}}'"
        ))
    };
    let before = PODS.map(|(pod, _)| counted(&sh, pod));
    let since = sh.ok("date -u +%Y-%m-%dT%H:%M:%S.%NZ");
    let addresses = [ips("near"), ips("far")].join(" ");
    assert_eq!(addresses.split_whitespace().count(), 4, "{addresses}");
    let mix = MIX.replace("$ADDRESSES", &addresses);
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
        let (mut passed, mut heard) = Default::default();
        for _ in 0..50 {
            let now = counted(&sh, pod);
            passed = std::array::from_fn(|family| {
                std::array::from_fn(|way| now[family][way] - before[family][way])
            });
            heard = told(&sh.ok(&ask), pod);
            if heard[1][0] > 40 && passed == heard {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        assert_eq!(heard, passed, "packets that {pod} received and sent");
        let all = heard.iter().flatten().all(|count| *count > 40);
        assert!(all, "{pod}: {heard:?}");
    }
    super::captured::by_names(&sh);
    cluster.assert_clean();
}

/// Packets of each family, received and sent.
type Packets = [[u64; 2]; 2];

/// Those that a pod's kernel counted.
fn counted(sh: &Shell, pod: &str) -> Packets {
    let text = sh.ok(&format!(
        "kubectl exec {pod} -- cat /proc/net/snmp /proc/net/snmp6"
    ));
    let mut lines = text.lines().filter(|line| line.starts_with("Ip: "));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let of_v4 = |wanted: &str| -> u64 {
        let mut pairs = names.split_whitespace().zip(numbers.split_whitespace());
        let (_, number) = pairs.find(|(name, _)| *name == wanted).unwrap();
        number.parse().unwrap()
    };
    let of_v6 = |wanted: &str| -> u64 {
        let words = text.lines().map(|line| line.split_whitespace());
        let mut found = words.filter_map(|mut words| Some((words.next()?, words.next()?)));
        let number = found.find(|(name, _)| *name == wanted);
        number.map_or(0, |(_, number)| number.parse().unwrap())
    };
    let of_hosts = |way: &str| -> u64 {
        let names = OF_HOSTS_NAMES.iter();
        names.map(|name| of_v6(&format!("Icmp6{way}{name}"))).sum()
    };
    // Received, and for the pod: its node tells routers of the groups that it joins on the cable, by packets for nobody here.
    [
        [of_v4("InReceives"), of_v4("OutRequests")],
        [
            of_v6("Ip6InDelivers") - of_hosts("In"),
            of_v6("Ip6OutRequests") - of_hosts("Out"),
        ],
    ]
}

/// Those that the agent tells of as handed to a pod, and as received from it.
fn told(text: &str, pod: &str) -> Packets {
    let mut found = Packets::default();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let flow = &line["flow"];
        assert!(line["lost_events"].is_null(), "{line}");
        let version = &flow["IP"]["ipVersion"];
        let Some(family) = FAMILIES.iter().position(|name| version == name) else {
            continue;
        };
        let of_hosts = flow["l4"]["ICMPv6"]["type"].as_u64();
        if of_hosts.is_some_and(|kind| OF_HOSTS.contains(&kind)) {
            continue;
        }
        let is = |end: &str| flow[end]["pod_name"] == pod;
        match flow["trace_observation_point"].as_str() {
            Some("TO_ENDPOINT") if is("destination") => found[family][0] += 1,
            Some("FROM_ENDPOINT") if is("source") => found[family][1] += 1,
            _ => {}
        }
    }
    found
}
