use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};

use crate::{
    Kind, meta, pods,
    sim::{Dice, Sim},
};

fn pod(name: &str, extra: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}]},
    });
    for (key, value) in extra.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn cluster(nodes: usize) -> Sim {
    let mut sim = Sim::new();
    sim.nodes(nodes);
    sim
}

fn node(sim: &Sim, name: &str) -> Option<String> {
    pods::node(&sim.get::<Pod>(name).unwrap()).map(str::to_owned)
}

fn message(sim: &Sim, name: &str) -> String {
    let pod = sim.get::<Pod>(name).unwrap();
    let condition = pods::condition(&pod, "PodScheduled").unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_deref()),
        ("False", Some("Unschedulable"))
    );
    condition.message.clone().unwrap()
}

fn cpu(amount: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
}

#[test]
fn pods_are_spread_and_it_is_told() {
    let mut sim = cluster(3);
    for i in 0..6 {
        sim.apply(Kind::Pod, pod(&format!("p{i}"), json!({})));
    }
    sim.settle();
    let mut count = BTreeMap::new();
    for i in 0..6 {
        *count.entry(node(&sim, &format!("p{i}"))).or_insert(0) += 1;
    }
    assert_eq!(count.values().copied().collect::<Vec<_>>(), [2, 2, 2]);
    assert!(
        sim.messages("Scheduled")
            .contains(&"Successfully assigned default/p0 to n1".to_owned())
    );
}

#[test]
fn the_reasons_are_told_in_the_familiar_words() {
    let mut sim = cluster(3);
    sim.edit(Kind::Node, "n1", |n| {
        n["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}])
    });
    sim.apply(
        Kind::Pod,
        pod("p", json!({"nodeSelector": {"disk": "ssd"}})),
    );
    sim.settle();
    let text = "0/3 nodes are available: 1 node(s) had untolerated taint {k: v}, 2 node(s) didn't match Pod's node affinity/selector.";
    assert_eq!(message(&sim, "p"), text);
    assert_eq!(sim.messages("FailedScheduling"), [text]);
    sim.pass(std::time::Duration::from_secs(700));
    sim.settle();
    assert_eq!(
        sim.messages("FailedScheduling").len(),
        1,
        "the same is not told again"
    );
    sim.edit(Kind::Node, "n2", |n| {
        n["metadata"]["labels"]["disk"] = json!("ssd")
    });
    sim.settle();
    assert_eq!(
        node(&sim, "p").as_deref(),
        Some("n2"),
        "tried again when a node changes"
    );
}

#[test]
fn without_nodes_and_with_closed_ones() {
    let mut sim = cluster(0);
    sim.apply(Kind::Pod, pod("p", json!({})));
    sim.settle();
    assert_eq!(message(&sim, "p"), "no nodes available to schedule pods");
    sim.apply(
        Kind::Node,
        json!({
            "metadata": {"name": "n1"},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }),
    );
    sim.settle();
    assert_eq!(
        message(&sim, "p"),
        "0/1 nodes are available: 1 node(s) were unschedulable."
    );
    sim.edit(Kind::Node, "n1", |n| {
        n["spec"]["unschedulable"] = json!(false)
    });
    sim.settle();
    assert_eq!(node(&sim, "p").as_deref(), Some("n1"));
}

#[test]
fn resources_are_counted_and_given_back() {
    let mut sim = cluster(2);
    for i in 0..3 {
        sim.apply(Kind::Pod, pod(&format!("p{i}"), cpu("2500m")));
    }
    sim.settle();
    let waiting: Vec<_> = (0..3)
        .filter(|i| node(&sim, &format!("p{i}")).is_none())
        .collect();
    assert_eq!(waiting, [2]);
    assert_eq!(
        message(&sim, "p2"),
        "0/2 nodes are available: 2 Insufficient cpu."
    );
    sim.edit(Kind::Pod, "p0", |p| {
        p["status"]["phase"] = json!("Succeeded")
    });
    sim.settle();
    assert!(node(&sim, "p2").is_some());
}

#[test]
fn required_neighbours_and_strangers() {
    let term = |app: &str| json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]);
    let mut sim = cluster(3);
    let anti = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term("web")}}});
    for i in 0..4 {
        sim.apply(Kind::Pod, pod(&format!("p{i}"), anti.clone()));
    }
    sim.settle();
    assert_eq!(
        message(&sim, "p3"),
        "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."
    );
    // They keep those away, too, that say nothing themselves.
    sim.apply(Kind::Pod, pod("plain", json!({})));
    sim.settle();
    assert_eq!(
        message(&sim, "plain"),
        "0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term("db")}}});
    let mut client = pod("client", near.clone());
    client["metadata"]["labels"] = json!({"app": "client"});
    sim.apply(Kind::Pod, client);
    sim.settle();
    assert_eq!(
        message(&sim, "client"),
        "0/3 nodes are available: 3 node(s) didn't match pod affinity rules."
    );
    let mut db = pod(
        "db",
        json!({"nodeSelector": {"kubernetes.io/hostname": "n2"}}),
    );
    db["metadata"]["labels"] = json!({"app": "db"});
    sim.apply(Kind::Pod, db);
    sim.settle();
    assert_eq!(node(&sim, "client").as_deref(), Some("n2"));
    let mut group = pod(
        "first",
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term("group")}}}),
    );
    group["metadata"]["labels"] = json!({"app": "group"});
    sim.apply(Kind::Pod, group);
    sim.settle();
    assert!(
        node(&sim, "first").is_some(),
        "the first of a group is with itself"
    );
}

#[test]
fn spread_over_zones() {
    let mut sim = cluster(3);
    for (name, zone) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        sim.edit(Kind::Node, name, |n| {
            n["metadata"]["labels"]["zone"] = json!(zone)
        });
    }
    let constraint = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}}]});
    for i in 0..4 {
        sim.apply(Kind::Pod, pod(&format!("p{i}"), constraint.clone()));
    }
    sim.settle();
    assert_eq!(
        (0..4)
            .filter(|i| node(&sim, &format!("p{i}")).as_deref() == Some("n3"))
            .count(),
        2
    );
    sim.edit(Kind::Node, "n3", |n| {
        n["spec"]["unschedulable"] = json!(true)
    });
    sim.apply(Kind::Pod, pod("p4", constraint.clone()));
    sim.settle();
    sim.apply(Kind::Pod, pod("p5", constraint));
    sim.settle();
    assert!(node(&sim, "p4").is_some());
    assert_eq!(
        message(&sim, "p5"),
        "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints."
    );
}

#[test]
fn ports_of_the_host_are_used_once() {
    let mut sim = cluster(1);
    let port = |number: i32| json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": number}]}]});
    sim.apply(Kind::Pod, pod("a", port(8080)));
    sim.apply(Kind::Pod, pod("b", port(8080)));
    sim.apply(Kind::Pod, pod("c", port(8081)));
    sim.settle();
    assert_eq!(
        message(&sim, "b"),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
    assert!(node(&sim, "c").is_some());
}

#[test]
fn preferences_priorities_and_other_schedulers() {
    let mut sim = cluster(3);
    sim.edit(Kind::Node, "n3", |n| {
        n["metadata"]["labels"]["disk"] = json!("ssd")
    });
    let liked = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}});
    sim.apply(Kind::Pod, pod("liked", liked));
    sim.apply(Kind::Pod, pod("other", json!({"schedulerName": "mine"})));
    sim.apply(
        Kind::Pod,
        pod("gated", json!({"schedulingGates": [{"name": "wait"}]})),
    );
    sim.settle();
    assert_eq!(node(&sim, "liked").as_deref(), Some("n3"));
    assert_eq!((node(&sim, "other"), node(&sim, "gated")), (None, None));
    let mut sim = cluster(1);
    let mut low = pod("low", cpu("3"));
    low["spec"]["priority"] = json!(0);
    let mut high = pod("high", cpu("3"));
    high["spec"]["priority"] = json!(100);
    sim.apply(Kind::Pod, low);
    sim.apply(Kind::Pod, high);
    // Both are known before the first is placed.
    let world = {
        let mut world = crate::World::default();
        for node in sim.all::<k8s_openapi::api::core::v1::Node>() {
            world.put(node.into(), sim.now);
        }
        for pod in sim.all::<Pod>() {
            world.put(pod.into(), sim.now);
        }
        world
    };
    let keys = sim
        .all::<Pod>()
        .iter()
        .map(|p| crate::Key::of(&p.metadata))
        .collect();
    let plans = crate::engine::Controller::plan_all(&super::Scheduler, keys, &world, sim.now);
    let bound: Vec<_> = plans
        .iter()
        .filter(|(_, plan)| {
            plan.writes
                .iter()
                .any(|w| matches!(w, crate::write::Write::Bind { .. }))
        })
        .collect();
    assert_eq!(
        bound
            .iter()
            .map(|(key, _)| key.name.as_str())
            .collect::<Vec<_>>(),
        ["high"]
    );
}

#[test]
fn a_hundred_pods_at_once_are_quick() {
    let mut world = crate::World::default();
    let mut sim = cluster(20);
    for i in 0..1100 {
        let mut one = pod(&format!("p{i:04}"), cpu("10m"));
        if i < 1000 {
            one["spec"]["nodeName"] = json!(format!("n{}", i % 20 + 1));
        }
        sim.apply(Kind::Pod, one);
    }
    for node in sim.all::<k8s_openapi::api::core::v1::Node>() {
        world.put(node.into(), sim.now);
    }
    let mut keys = Vec::new();
    for pod in sim.all::<Pod>() {
        if pods::node(&pod).is_none() {
            keys.push(crate::Key::of(&pod.metadata));
        }
        world.put(pod.into(), sim.now);
    }
    let begin = Instant::now();
    let plans = crate::engine::Controller::plan_all(&super::Scheduler, keys, &world, sim.now);
    let time = begin.elapsed();
    println!("100 pods on 20 nodes with 1000 pods: {time:?}");
    assert_eq!(
        plans
            .iter()
            .filter(|(_, plan)| plan.writes.len() == 1)
            .count(),
        100
    );
    // Unoptimised, and others may be using the machine.
    assert!(time.as_millis() < 1000, "{time:?}");
}

/// A pod with some hard wishes, by the dice.
fn wish(dice: &mut Dice, name: &str) -> Value {
    let term = json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": format!("a{}", dice.roll(3))}}}]);
    let mut extra = match dice.roll(6) {
        0 => json!({"nodeSelector": {"zone": format!("z{}", dice.roll(3))}}),
        1 => {
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}})
        }
        2 => {
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}})
        }
        3 => json!({"tolerations": [{"key": "k", "operator": "Exists"}]}),
        _ => json!({}),
    };
    let port = if dice.roll(4) == 0 {
        json!([{"containerPort": 1, "hostPort": 1000 + dice.roll(2)}])
    } else {
        json!([])
    };
    extra["containers"] = json!([{"name": "c", "ports": port, "resources": {"requests": {"cpu": format!("{}m", 100 * dice.roll(12))}}}]);
    let mut pod = pod(name, extra);
    pod["metadata"]["labels"] = json!({"app": format!("a{}", dice.roll(3))});
    pod
}

proptest! {
    #![proptest_config(crate::sim::cases(24))]

    #[test]
    fn no_hard_wish_is_ever_violated(nodes in 1usize..6, seed in any::<u64>()) {
        let mut dice = Dice(seed);
        let mut sim = cluster(nodes);
        for i in 1..=nodes {
            let (zone, tainted) = (dice.roll(3), dice.roll(4) == 0);
            sim.edit(Kind::Node, &format!("n{i}"), |n| {
                n["metadata"]["labels"]["zone"] = json!(format!("z{zone}"));
                if tainted {
                    n["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
                }
            });
        }
        sim.settle();
        for i in 0..25 {
            let pod = wish(&mut dice, &format!("p{i:02}"));
            sim.apply(Kind::Pod, pod);
            (0..dice.roll(20)).for_each(|_| { sim.step(dice.roll(1000)); });
            if dice.roll(5) == 0 {
                let bound: Vec<_> = sim.all::<Pod>().iter().filter(|p| pods::node(p).is_some()).map(|p| crate::Key::of(&p.metadata)).collect();
                if !bound.is_empty() {
                    let gone = dice.roll(bound.len());
                    sim.remove(Kind::Pod, &bound[gone]);
                }
            }
        }
        sim.settle();
        check(&sim)?;
    }
}

/// Checks what does not depend on the order in which pods came: by a plain reading of the objects.
fn check(sim: &Sim) -> Result<(), TestCaseError> {
    let all: Vec<Pod> = sim
        .all::<Pod>()
        .into_iter()
        .filter(|p| pods::node(p).is_some())
        .collect();
    for node in sim.all::<k8s_openapi::api::core::v1::Node>() {
        let name = meta::name(&node.metadata);
        let zone = meta::label(&node.metadata, "zone");
        let here: Vec<&Pod> = all.iter().filter(|p| pods::node(p) == Some(name)).collect();
        let (mut cpu, mut ports) = (0, Vec::new());
        for pod in &here {
            let json = json!(pod);
            let container = &json["spec"]["containers"][0];
            let text = container["resources"]["requests"]["cpu"].as_str().unwrap();
            cpu += text.trim_end_matches('m').parse::<i32>().unwrap();
            ports.extend(container["ports"][0]["hostPort"].as_i64());
            let selector = json["spec"]["nodeSelector"]["zone"].as_str();
            prop_assert!(selector.is_none() || selector == zone);
            let tainted = node.spec.as_ref().is_some_and(|s| s.taints.is_some());
            prop_assert!(!tainted || json["spec"]["tolerations"].is_array());
            let term = &json["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
                [0];
            if let Some(app) = term["labelSelector"]["matchLabels"]["app"].as_str() {
                let clash = all.iter().any(|other| {
                    let home = sim
                        .get::<k8s_openapi::api::core::v1::Node>(pods::node(other).unwrap())
                        .unwrap();
                    other.metadata.uid != pod.metadata.uid
                        && meta::label(&other.metadata, "app") == Some(app)
                        && meta::label(&home.metadata, "zone") == zone
                });
                prop_assert!(
                    !clash,
                    "{} is beside what it must not be beside",
                    meta::name(&pod.metadata)
                );
            }
        }
        prop_assert!(cpu <= 4000, "{name} has {cpu}m of 4000m");
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        prop_assert_eq!(ports.len(), count, "a host port is used twice");
    }
    Ok(())
}
