use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use serde_json::{Value, json};
use std::time::Duration;

use crate::{Kind, meta, sim::Sim};

fn with(budget: Value) -> Sim {
    let mut sim = Sim::new();
    sim.nodes(2);
    sim.apply(Kind::Deployment, json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}},
        },
    }));
    let mut spec = budget;
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    sim.apply(
        Kind::PodDisruptionBudget,
        json!({"metadata": {"name": "pdb"}, "spec": spec}),
    );
    sim.run_all();
    sim
}

fn status(sim: &Sim) -> PodDisruptionBudgetStatus {
    sim.get::<PodDisruptionBudget>("pdb")
        .unwrap()
        .status
        .unwrap()
}

fn numbers(sim: &Sim) -> (i32, i32, i32, i32) {
    let s = status(sim);
    (
        s.expected_pods.unwrap(),
        s.current_healthy.unwrap(),
        s.desired_healthy.unwrap(),
        s.disruptions_allowed.unwrap(),
    )
}

#[test]
fn numbers_of_all_forms() {
    assert_eq!(numbers(&with(json!({"minAvailable": 3}))), (4, 4, 3, 1));
    assert_eq!(numbers(&with(json!({"minAvailable": "50%"}))), (4, 4, 2, 2));
    assert_eq!(numbers(&with(json!({"maxUnavailable": 1}))), (4, 4, 3, 1));
    assert_eq!(
        numbers(&with(json!({"maxUnavailable": "30%"}))),
        (4, 4, 2, 2)
    );
}

#[test]
fn unready_and_granted_pods_use_the_budget_up() {
    let mut sim = with(json!({"maxUnavailable": 2}));
    let pods = sim.all::<k8s_openapi::api::core::v1::Pod>();
    let name = |i: usize| meta::name(&pods[i].metadata).to_owned();
    sim.run_pod(&name(0), false);
    sim.settle();
    assert_eq!(numbers(&sim), (4, 3, 2, 1));
    assert_eq!(status(&sim).conditions.unwrap()[0].reason, "SufficientPods");
    // The API server grants an eviction, and it does not happen.
    let now = meta::time(sim.now.wall);
    sim.edit(Kind::PodDisruptionBudget, "pdb", |pdb| {
        pdb["status"]["disruptionsAllowed"] = json!(0);
        pdb["status"]["disruptedPods"] = json!({name(1): now});
    });
    sim.settle();
    assert_eq!(numbers(&sim), (4, 2, 2, 0));
    assert_eq!(
        status(&sim).conditions.unwrap()[0].reason,
        "InsufficientPods"
    );
    sim.pass(Duration::from_secs(121));
    sim.settle();
    assert_eq!(numbers(&sim), (4, 3, 2, 1));
    assert_eq!(status(&sim).disrupted_pods, None);
}
