use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use serde_json::{Value, json};
use std::time::Duration;

use crate::{Kind, meta, sim::Sim};

fn set(replicas: i32) -> Value {
    json!({
        "metadata": {"name": "rs"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c"}]}},
        },
    })
}

fn pod(name: &str, node: Option<&str>, ready: bool, made: i64, cost: Option<i32>) -> Value {
    let at =
        |second: i64| meta::time(jiff::Timestamp::from_second(1_799_000_000 + second).unwrap());
    let annotations =
        cost.map(|c| json!({"controller.kubernetes.io/pod-deletion-cost": c.to_string()}));
    json!({
        "metadata": {"name": name, "labels": {"app": "a"}, "annotations": annotations},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": at(made)}],
        },
    })
}

/// Which of these pods go, one by one, when the set is made smaller step by step.
fn order(pods: &[Value]) -> Vec<String> {
    let mut sim = Sim::new();
    sim.nodes(3);
    for pod in pods {
        sim.pass(Duration::from_secs(1));
        sim.apply(Kind::Pod, pod.clone());
    }
    sim.settle();
    let all = |sim: &Sim| -> Vec<String> {
        let pods = sim
            .all::<Pod>()
            .into_iter()
            .filter(|p| !meta::is_ending(&p.metadata));
        pods.map(|p| meta::name(&p.metadata).to_owned()).collect()
    };
    let mut gone = Vec::new();
    sim.apply(Kind::ReplicaSet, set(pods.len() as i32));
    sim.settle();
    for left in (0..pods.len()).rev() {
        let before = all(&sim);
        sim.edit(Kind::ReplicaSet, "rs", |rs| {
            rs["spec"]["replicas"] = json!(left)
        });
        sim.settle();
        let after = all(&sim);
        gone.extend(before.into_iter().filter(|name| !after.contains(name)));
    }
    gone
}

#[test]
fn those_missed_least_go_first() {
    let pods = [
        pod("old-ready", Some("n1"), true, 0, None),
        pod("young-ready", Some("n2"), true, 500, None),
        pod("unready", Some("n3"), false, 0, None),
        pod("cheap", Some("n3"), true, 0, Some(-5)),
        pod("dear", Some("n3"), true, 900, Some(5)),
    ];
    assert_eq!(
        order(&pods),
        ["unready", "cheap", "young-ready", "old-ready", "dear"]
    );
}

#[test]
fn crowded_nodes_are_relieved_first() {
    let pods = [
        pod("alone", Some("n1"), true, 900, None),
        pod("one", Some("n2"), true, 0, None),
        pod("two", Some("n2"), true, 10, None),
    ];
    assert_eq!(order(&pods)[0], "two");
}

#[test]
fn ready_for_long_enough_is_available() {
    let mut sim = Sim::new();
    sim.nodes(1);
    let mut slow = set(2);
    slow["spec"]["minReadySeconds"] = json!(30);
    sim.apply(Kind::ReplicaSet, slow);
    sim.run_all();
    let status = |sim: &Sim| sim.get::<ReplicaSet>("rs").unwrap().status.unwrap();
    assert_eq!(
        (status(&sim).ready_replicas, status(&sim).available_replicas),
        (Some(2), None)
    );
    sim.pass(Duration::from_secs(31));
    sim.settle();
    assert_eq!(status(&sim).available_replicas, Some(2));
}

#[test]
fn nothing_is_made_twice_while_the_watch_is_late() {
    let mut sim = Sim::new();
    sim.nodes(1);
    sim.apply(Kind::ReplicaSet, set(10));
    // Jobs run, and hardly any watch event is delivered: the last options are the jobs.
    for _ in 0..2000 {
        sim.step(usize::MAX);
    }
    sim.edit(Kind::ReplicaSet, "rs", |rs| {
        rs["metadata"]["labels"] = json!({"touched": "yes"})
    });
    sim.settle();
    assert_eq!(sim.all::<Pod>().len(), 10);
    assert_eq!(sim.messages("SuccessfulCreate").len(), 10);
    assert!(sim.messages("SuccessfulDelete").is_empty());
}

#[test]
fn creations_that_fail_stop_the_rest() {
    let mut sim = Sim::new();
    sim.nodes(1);
    sim.refuse_pods = Some("no".into());
    sim.apply(Kind::ReplicaSet, set(50));
    for _ in 0..60 {
        sim.step(0);
    }
    assert!(
        sim.messages("FailedCreate").len() < 5,
        "{}",
        sim.messages("FailedCreate").len()
    );
}
