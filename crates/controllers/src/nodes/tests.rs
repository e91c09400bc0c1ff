use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::time::Duration;

use crate::{Key, Kind, Settings, meta, nodematch, pods, sim::Sim};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn pod(name: &str, node: &str, extra: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c"}]}});
    for (key, value) in extra.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn heartbeat(sim: &mut Sim, node: &str) {
    let now = sim.now.wall;
    sim.apply(
        Kind::Lease,
        json!({
            "metadata": {"name": node, "namespace": "kube-node-lease"},
            "spec": {"renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(now)},
        }),
    );
    sim.settle();
}

fn taints(sim: &Sim, node: &str) -> Vec<String> {
    let node = sim.get::<Node>(node).unwrap();
    nodematch::taints(&node)
        .iter()
        .map(|t| format!("{}:{}", t.key, t.effect))
        .collect()
}

fn ready(sim: &Sim, node: &str) -> String {
    meta::node_condition(&sim.get::<Node>(node).unwrap(), "Ready")
        .unwrap()
        .status
        .clone()
}

#[test]
fn a_silent_node_is_lost_and_its_pods_go_after_their_time() {
    let mut sim = Sim::with(&Settings::default());
    sim.nodes(2);
    sim.apply(Kind::Pod, pod("a", "n1", json!({})));
    sim.apply(
        Kind::Pod,
        pod(
            "stays",
            "n1",
            json!({"tolerations": [{"operator": "Exists"}]}),
        ),
    );
    sim.apply(Kind::Pod, pod("quick", "n1", json!({"tolerations": [
        {"key": nodematch::UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}]})));
    sim.run_all();
    for _ in 0..6 {
        sim.pass(seconds(10));
        heartbeat(&mut sim, "n1");
        heartbeat(&mut sim, "n2");
    }
    assert_eq!(ready(&sim, "n1"), "True", "a lease is a sign of life");
    for _ in 0..5 {
        sim.pass(seconds(10));
        heartbeat(&mut sim, "n2");
    }
    assert_eq!(
        (ready(&sim, "n1"), ready(&sim, "n2")),
        ("Unknown".into(), "True".into())
    );
    let unreachable = [
        "node.kubernetes.io/unreachable:NoSchedule",
        "node.kubernetes.io/unreachable:NoExecute",
    ];
    assert_eq!(taints(&sim, "n1"), unreachable);
    assert!(taints(&sim, "n2").is_empty());
    assert!(!pods::is_ready(&sim.get::<Pod>("a").unwrap()));
    assert_eq!(
        sim.messages("NodeNotReady"),
        ["Node n1 status is now: NodeNotReady"]
    );
    let ending = |sim: &Sim, name: &str| meta::is_ending(&sim.get::<Pod>(name).unwrap().metadata);
    sim.pass(seconds(31));
    heartbeat(&mut sim, "n2");
    assert_eq!((ending(&sim, "quick"), ending(&sim, "a")), (true, false));
    for _ in 0..28 {
        sim.pass(seconds(10));
        heartbeat(&mut sim, "n2");
    }
    assert_eq!((ending(&sim, "a"), ending(&sim, "stays")), (true, false));
    assert!(
        sim.messages("TaintManagerEviction")
            .contains(&"Marking for deletion Pod default/a".to_owned())
    );
    sim.edit(Kind::Node, "n1", |n| n["status"]["conditions"][0] = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": "2027-01-15T09:00:00Z"}));
    sim.settle();
    assert!(taints(&sim, "n1").is_empty(), "it is back");
}

#[test]
fn taints_follow_conditions_and_cordon_and_leave_others_alone() {
    let mut sim = Sim::new();
    sim.nodes(1);
    sim.edit(Kind::Node, "n1", |n| {
        n["spec"] = json!({"unschedulable": true, "taints": [{"key": "mine", "effect": "NoSchedule"}]});
        n["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}, {"type": "MemoryPressure", "status": "True"}]);
    });
    sim.settle();
    assert_eq!(
        taints(&sim, "n1"),
        [
            "mine:NoSchedule",
            "node.kubernetes.io/not-ready:NoSchedule",
            "node.kubernetes.io/not-ready:NoExecute",
            "node.kubernetes.io/memory-pressure:NoSchedule",
            "node.kubernetes.io/unschedulable:NoSchedule",
        ]
    );
    sim.edit(Kind::Node, "n1", |n| {
        n["spec"]["unschedulable"] = json!(false);
        n["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    });
    sim.settle();
    assert_eq!(taints(&sim, "n1"), ["mine:NoSchedule"]);
}

#[test]
fn a_taint_that_nobody_tolerates_evicts_at_once() {
    let mut sim = Sim::new();
    sim.nodes(1);
    sim.apply(Kind::Pod, pod("a", "n1", json!({})));
    sim.run_all();
    sim.edit(Kind::Node, "n1", |n| {
        n["spec"]["taints"] = json!([{"key": "out", "value": "x", "effect": "NoExecute"}])
    });
    sim.settle();
    let pod = sim.get::<Pod>("a").unwrap();
    assert!(meta::is_ending(&pod.metadata));
    assert_eq!(
        pods::condition(&pod, "DisruptionTarget").unwrap().status,
        "True"
    );
}

#[test]
fn pods_of_a_node_that_is_gone_go_after_a_while() {
    let mut sim = Sim::new();
    sim.nodes(2);
    sim.apply(Kind::Pod, pod("a", "n1", json!({})));
    sim.apply(Kind::Pod, pod("b", "n2", json!({})));
    sim.run_all();
    sim.remove(Kind::Node, &Key::new("", "n1"));
    sim.settle();
    sim.pass(seconds(30));
    sim.settle();
    assert!(sim.get::<Pod>("a").is_some());
    sim.pass(seconds(15));
    sim.settle();
    assert!(sim.get::<Pod>("a").is_none() && sim.get::<Pod>("b").is_some());
}

#[test]
fn ranges_are_given_once_and_given_again_when_free() {
    let settings = Settings {
        pod_cidrs: vec![
            "10.244.0.0/22".parse().unwrap(),
            "fd00:244::/96".parse().unwrap(),
        ],
        node_mask_v6: 112,
        ..Settings::default()
    };
    let mut sim = Sim::with(&settings);
    sim.nodes(4);
    sim.settle();
    let range = |sim: &Sim, node: &str| sim.get::<Node>(node).unwrap().spec.unwrap().pod_cidrs;
    let mut all: Vec<_> = (1..=4)
        .filter_map(|i| range(&sim, &format!("n{i}")))
        .collect();
    assert_eq!(all[0], ["10.244.0.0/24", "fd00:244::/112"]);
    all.dedup();
    assert_eq!(all.len(), 4);
    sim.nodes(5);
    sim.settle();
    assert_eq!(range(&sim, "n5"), None);
    assert_eq!(sim.messages("CIDRNotAvailable").len(), 1);
    sim.remove(Kind::Node, &Key::new("", "n2"));
    sim.settle();
    assert_eq!(range(&sim, "n5").unwrap()[0], "10.244.1.0/24");
}
