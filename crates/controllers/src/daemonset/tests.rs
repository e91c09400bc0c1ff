use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus},
    core::v1::Pod,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    Kind, meta, pods,
    sim::{Dice, Sim},
};

fn set(strategy: Value) -> Value {
    json!({
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "updateStrategy": strategy,
            "template": {
                "metadata": {"labels": {"app": "agent"}},
                "spec": {"containers": [{"name": "c", "image": "v1"}]},
            },
        },
    })
}

fn started(nodes: usize, strategy: Value) -> Sim {
    let mut sim = Sim::new();
    sim.nodes(nodes);
    sim.apply(Kind::DaemonSet, set(strategy));
    sim.run_all();
    sim
}

fn status(sim: &Sim) -> DaemonSetStatus {
    sim.get::<DaemonSet>("agent").unwrap().status.unwrap()
}

fn set_image(sim: &mut Sim, image: &str) {
    sim.edit(Kind::DaemonSet, "agent", |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

fn of(sim: &Sim, image: &str) -> usize {
    let all = sim.all::<Pod>().into_iter();
    all.filter(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image))
        .count()
}

#[test]
fn a_pod_on_every_node_also_on_new_ones() {
    let mut sim = started(3, json!({}));
    let nodes = |sim: &Sim| {
        let mut nodes: Vec<_> = sim
            .all::<Pod>()
            .iter()
            .map(|p| pods::node(p).unwrap().to_owned())
            .collect();
        nodes.sort();
        nodes
    };
    assert_eq!(nodes(&sim), ["n1", "n2", "n3"]);
    let now = status(&sim);
    assert_eq!(
        (
            now.desired_number_scheduled,
            now.current_number_scheduled,
            now.number_ready
        ),
        (3, 3, 3)
    );
    assert_eq!(
        (
            now.updated_number_scheduled,
            now.number_available,
            now.number_unavailable
        ),
        (Some(3), Some(3), None)
    );
    sim.nodes(4);
    sim.run_all();
    assert_eq!(nodes(&sim).len(), 4);
}

#[test]
fn only_nodes_that_suit() {
    let mut sim = Sim::new();
    sim.nodes(4);
    sim.edit(Kind::Node, "n1", |n| {
        n["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}])
    });
    sim.edit(Kind::Node, "n2", |n| {
        n["spec"]["unschedulable"] = json!(true)
    });
    sim.edit(Kind::Node, "n3", |n| {
        n["metadata"]["labels"]["disk"] = json!("ssd")
    });
    sim.apply(Kind::DaemonSet, set(json!({})));
    sim.run_all();
    assert_eq!(
        sim.all::<Pod>().len(),
        3,
        "cordoned nodes have one, tainted ones do not"
    );
    sim.edit(Kind::DaemonSet, "agent", |d| {
        d["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"})
    });
    sim.run_all();
    let pods = sim.all::<Pod>();
    assert_eq!(
        pods.iter()
            .map(|p| pods::node(p).unwrap())
            .collect::<Vec<_>>(),
        ["n3"]
    );
}

#[test]
fn a_taint_that_evicts_removes_the_pod() {
    let mut sim = started(2, json!({}));
    sim.edit(Kind::Node, "n1", |n| {
        n["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}])
    });
    sim.run_all();
    assert_eq!(sim.all::<Pod>().len(), 1);
    assert_eq!(status(&sim).desired_number_scheduled, 1);
}

#[test]
fn a_rolling_update_takes_one_node_at_a_time() {
    let mut sim = started(
        3,
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}),
    );
    set_image(&mut sim, "v2");
    for done in 0..3 {
        sim.settle();
        let ending: Vec<_> = sim
            .all::<Pod>()
            .into_iter()
            .filter(|p| meta::is_ending(&p.metadata))
            .collect();
        assert_eq!(ending.len(), 1, "one at a time");
        assert_eq!(of(&sim, "v2"), done);
        sim.run_pod(meta::name(&ending[0].metadata), false);
        sim.settle();
        let fresh = sim
            .all::<Pod>()
            .into_iter()
            .find(|p| !pods::is_ready(p))
            .unwrap();
        sim.run_pod(meta::name(&fresh.metadata), true);
    }
    sim.settle();
    assert_eq!(
        (of(&sim, "v2"), status(&sim).updated_number_scheduled),
        (3, Some(3))
    );
    let mut numbers: Vec<_> = sim
        .all::<ControllerRevision>()
        .iter()
        .map(|r| r.revision)
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [Some(1), Some(2)]);
}

#[test]
fn undoing_takes_the_old_version_with_a_new_number() {
    let mut sim = started(1, json!({}));
    set_image(&mut sim, "v2");
    sim.run_all();
    let first = sim
        .all::<ControllerRevision>()
        .into_iter()
        .find(|r| r.revision == Some(1))
        .unwrap();
    assert_eq!(
        first.data.0["spec"]["template"]["$patch"], "replace",
        "clients apply it as a patch"
    );
    let template = crate::history::template(&first).unwrap();
    sim.edit(Kind::DaemonSet, "agent", |d| {
        d["spec"]["template"] = json!(template)
    });
    sim.run_all();
    assert_eq!(of(&sim, "v1"), 1);
    let first = sim
        .get::<ControllerRevision>(meta::name(&first.metadata))
        .unwrap();
    assert_eq!(
        (first.revision, sim.all::<ControllerRevision>().len()),
        (Some(3), 2)
    );
}

#[test]
fn on_delete_waits_for_somebody_to_delete() {
    let mut sim = started(2, json!({"type": "OnDelete"}));
    set_image(&mut sim, "v2");
    sim.run_all();
    assert_eq!(of(&sim, "v1"), 2);
    let key = crate::Key::of(&sim.all::<Pod>()[0].metadata);
    sim.remove(Kind::Pod, &key);
    sim.run_all();
    assert_eq!((of(&sim, "v1"), of(&sim, "v2")), (1, 1));
    assert_eq!(status(&sim).updated_number_scheduled, Some(1));
}

#[test]
fn with_a_surge_the_new_pod_comes_first() {
    let surge =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    let mut sim = started(2, surge);
    set_image(&mut sim, "v2");
    sim.settle();
    assert_eq!((of(&sim, "v1"), of(&sim, "v2")), (2, 1));
    assert!(
        sim.all::<Pod>()
            .iter()
            .all(|p| !meta::is_ending(&p.metadata))
    );
    sim.run_all();
    assert_eq!((of(&sim, "v1"), of(&sim, "v2")), (0, 2));
}

#[test]
fn failed_pods_are_replaced_but_not_in_a_rush() {
    let mut sim = started(1, json!({}));
    let name = meta::name(&sim.all::<Pod>()[0].metadata).to_owned();
    sim.edit(Kind::Pod, &name, |p| p["status"]["phase"] = json!("Failed"));
    sim.settle();
    assert!(
        sim.get::<Pod>(&name)
            .is_some_and(|p| !meta::is_ending(&p.metadata))
    );
    sim.pass(std::time::Duration::from_secs(6));
    sim.settle();
    sim.run_pod(&name, false);
    sim.run_all();
    assert_eq!(sim.messages("FailedDaemonPod").len(), 1);
    let pods = sim.all::<Pod>();
    assert!(pods.len() == 1 && meta::name(&pods[0].metadata) != name);
}

proptest! {
    #![proptest_config(crate::sim::cases(24))]

    #[test]
    fn no_more_nodes_than_allowed_are_without_a_ready_pod(
        nodes in 1usize..5,
        unavailable in 1usize..3,
        seed in any::<u64>(),
    ) {
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable}});
        let mut sim = started(nodes, strategy);
        set_image(&mut sim, "v2");
        let mut dice = Dice(seed);
        for _ in 0..300 {
            let pods = sim.all::<Pod>();
            let serving = pods.iter().filter(|p| pods::is_ready(p) && !meta::is_ending(&p.metadata)).count();
            prop_assert!(serving + unavailable >= nodes, "{serving} of {nodes} serve");
            prop_assert!(pods.len() <= nodes, "two pods on a node");
            if dice.roll(10) < 7 {
                sim.step(dice.roll(1000));
            } else if !pods.is_empty() {
                let pod = &pods[dice.roll(pods.len())];
                if pods::node(pod).is_some() {
                    sim.run_pod(meta::name(&pod.metadata), true);
                }
            }
        }
        sim.run_all();
        prop_assert_eq!(of(&sim, "v2"), nodes);
    }
}
