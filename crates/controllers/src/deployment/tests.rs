use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentCondition, ReplicaSet},
    core::v1::Pod,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

use crate::{Kind, meta, pods, sim::Sim};

fn deployment(replicas: i32, version: &str, strategy: Value) -> Value {
    json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": replicas,
            "strategy": strategy,
            "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": version}]},
            },
        },
    })
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn started(replicas: i32, strategy: Value) -> Sim {
    let mut sim = Sim::new();
    sim.nodes(3);
    sim.apply(Kind::Deployment, deployment(replicas, "v1", strategy));
    sim.run_all();
    sim
}

fn set_image(sim: &mut Sim, image: &str) {
    sim.edit(Kind::Deployment, "web", |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

fn image(pod: &Pod) -> String {
    pod.spec.as_ref().unwrap().containers[0]
        .image
        .clone()
        .unwrap()
}

fn condition(sim: &Sim, kind: &str) -> DeploymentCondition {
    let status = sim.get::<Deployment>("web").unwrap().status.unwrap();
    let conditions = status.conditions.unwrap();
    conditions
        .into_iter()
        .find(|c| c.type_.as_deref() == Some(kind))
        .unwrap()
}

fn reason(sim: &Sim, kind: &str) -> String {
    condition(sim, kind).reason.unwrap()
}

fn revision(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    meta::annotation(meta, super::revision::REVISION)
        .unwrap()
        .to_owned()
}

#[test]
fn a_deployment_makes_its_pods_and_says_so() {
    let sim = started(3, json!({}));
    let web = sim.get::<Deployment>("web").unwrap();
    let status = web.status.unwrap();
    assert_eq!(
        (
            status.replicas,
            status.updated_replicas,
            status.ready_replicas,
            status.available_replicas
        ),
        (Some(3), Some(3), Some(3), Some(3))
    );
    assert_eq!(
        (status.unavailable_replicas, status.observed_generation),
        (None, Some(1))
    );
    assert_eq!(revision(&web.metadata), "1");
    let sets = sim.all::<ReplicaSet>();
    assert_eq!(sets.len(), 1);
    let hash = meta::label(&sets[0].metadata, "pod-template-hash").unwrap();
    assert_eq!(meta::name(&sets[0].metadata), format!("web-{hash}"));
    let pods = sim.all::<Pod>();
    assert_eq!(pods.len(), 3);
    assert!(
        pods.iter()
            .all(|p| meta::label(&p.metadata, "pod-template-hash") == Some(hash))
    );
    assert_eq!(reason(&sim, "Available"), "MinimumReplicasAvailable");
    assert_eq!(reason(&sim, "Progressing"), "NewReplicaSetAvailable");
    let scaled = format!("Scaled up replica set web-{hash} from 0 to 3");
    assert_eq!(sim.messages("ScalingReplicaSet"), [scaled]);
    assert_eq!(sim.messages("SuccessfulCreate").len(), 3);
}

#[test]
fn a_settled_deployment_is_left_alone() {
    let mut sim = started(3, json!({}));
    let before = sim.written;
    sim.pass(Duration::from_secs(1200));
    sim.settle();
    assert_eq!(sim.written, before, "looking again writes nothing");
}

#[test]
fn scaling_up_and_down() {
    let mut sim = started(3, json!({}));
    for count in [5, 2, 0, 1] {
        sim.edit(Kind::Deployment, "web", |d| {
            d["spec"]["replicas"] = json!(count)
        });
        sim.run_all();
        assert_eq!(sim.all::<Pod>().len(), count);
        assert_eq!(sim.all::<ReplicaSet>().len(), 1, "no new version");
    }
    assert_eq!(reason(&sim, "Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn a_rolling_update_replaces_all_pods_and_keeps_history() {
    let mut sim = started(4, rolling(json!(1), json!(1)));
    set_image(&mut sim, "v2");
    sim.run_all();
    let pods = sim.all::<Pod>();
    assert_eq!(pods.len(), 4);
    assert!(pods.iter().all(|pod| image(pod) == "v2"));
    assert_eq!(sim.all::<ReplicaSet>().len(), 2);
    assert_eq!(
        revision(&sim.get::<Deployment>("web").unwrap().metadata),
        "2"
    );
    assert_eq!(reason(&sim, "Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn going_back_takes_the_old_set_with_a_new_number() {
    let mut sim = started(2, json!({}));
    set_image(&mut sim, "v2");
    sim.run_all();
    set_image(&mut sim, "v1");
    sim.run_all();
    let sets = sim.all::<ReplicaSet>();
    assert_eq!(sets.len(), 2);
    let current = sets
        .iter()
        .find(|set| set.spec.replicas == Some(2))
        .unwrap();
    assert_eq!(revision(&current.metadata), "3");
    let history = "deployment.kubernetes.io/revision-history";
    assert_eq!(meta::annotation(&current.metadata, history), Some("1"));
    assert!(sim.all::<Pod>().iter().all(|pod| image(pod) == "v1"));
}

#[test]
fn recreate_waits_for_the_end_of_the_old_pods() {
    let mut sim = started(3, json!({"type": "Recreate"}));
    set_image(&mut sim, "v2");
    sim.settle();
    let pods = sim.all::<Pod>();
    assert!(
        pods.iter()
            .all(|pod| image(pod) == "v1" && meta::is_ending(&pod.metadata))
    );
    let names: Vec<_> = pods
        .iter()
        .map(|p| meta::name(&p.metadata).to_owned())
        .collect();
    for (gone, name) in names.iter().enumerate() {
        assert_eq!(
            sim.all::<Pod>().len(),
            3 - gone,
            "nothing new before the last has ended"
        );
        sim.run_pod(name, false);
        sim.settle();
    }
    sim.run_all();
    assert_eq!(
        sim.all::<Pod>()
            .iter()
            .filter(|pod| image(pod) == "v2")
            .count(),
        3
    );
}

#[test]
fn a_stuck_rollout_times_out_and_recovers() {
    let mut sim = started(4, rolling(json!(1), json!(1)));
    set_image(&mut sim, "broken");
    sim.settle();
    // Old pods end, new ones never become ready.
    for _ in 0..4 {
        let ending = sim.all::<Pod>();
        for pod in ending.iter().filter(|pod| meta::is_ending(&pod.metadata)) {
            sim.run_pod(meta::name(&pod.metadata), false);
        }
        sim.settle();
    }
    assert_eq!(reason(&sim, "Progressing"), "ReplicaSetUpdated");
    let ready = sim
        .all::<Pod>()
        .iter()
        .filter(|pod| pods::is_ready(pod))
        .count();
    assert_eq!((sim.all::<Pod>().len(), ready), (5, 3));
    assert_eq!(reason(&sim, "Available"), "MinimumReplicasAvailable");
    sim.pass(Duration::from_secs(590));
    sim.settle();
    assert_eq!(reason(&sim, "Progressing"), "ReplicaSetUpdated");
    sim.pass(Duration::from_secs(20));
    sim.settle();
    let stuck = condition(&sim, "Progressing");
    assert_eq!(stuck.status.as_deref(), Some("False"));
    assert_eq!(stuck.reason.as_deref(), Some("ProgressDeadlineExceeded"));
    set_image(&mut sim, "v1");
    sim.run_all();
    assert_eq!(reason(&sim, "Progressing"), "NewReplicaSetAvailable");
    assert!(sim.all::<Pod>().iter().all(|pod| image(pod) == "v1"));
    assert_eq!(sim.all::<Pod>().len(), 4);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut sim = started(2, json!({}));
    sim.edit(Kind::Deployment, "web", |d| {
        d["spec"]["paused"] = json!(true);
        d["spec"]["replicas"] = json!(4);
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("v2");
    });
    sim.run_all();
    assert_eq!(sim.all::<ReplicaSet>().len(), 1);
    assert!(sim.all::<Pod>().iter().all(|pod| image(pod) == "v1"));
    assert_eq!(sim.all::<Pod>().len(), 4);
    assert_eq!(reason(&sim, "Progressing"), "DeploymentPaused");
    sim.edit(Kind::Deployment, "web", |d| {
        d["spec"]["paused"] = json!(false)
    });
    sim.run_all();
    assert!(sim.all::<Pod>().iter().all(|pod| image(pod) == "v2"));
    assert_eq!(reason(&sim, "Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn history_is_kept_up_to_the_limit() {
    let mut sim = started(1, json!({}));
    sim.edit(Kind::Deployment, "web", |d| {
        d["spec"]["revisionHistoryLimit"] = json!(2)
    });
    for version in 2..8 {
        set_image(&mut sim, &format!("v{version}"));
        sim.run_all();
    }
    let mut numbers: Vec<_> = sim
        .all::<ReplicaSet>()
        .iter()
        .map(|s| revision(&s.metadata))
        .collect();
    numbers.sort();
    assert_eq!(numbers, ["5", "6", "7"]);
}

#[test]
fn sets_share_a_change_of_size_during_a_rollout() {
    let mut sim = started(10, rolling(json!(3), json!(2)));
    set_image(&mut sim, "broken");
    sim.settle();
    let sizes = |sim: &Sim| {
        let mut sizes: Vec<_> = sim
            .all::<ReplicaSet>()
            .iter()
            .map(|s| s.spec.replicas.unwrap())
            .collect();
        sizes.sort_unstable();
        sizes
    };
    let ending = sim.all::<Pod>();
    for pod in ending.iter().filter(|pod| meta::is_ending(&pod.metadata)) {
        sim.run_pod(meta::name(&pod.metadata), false);
    }
    sim.settle();
    assert_eq!(sizes(&sim), [5, 8]);
    sim.edit(Kind::Deployment, "web", |d| {
        d["spec"]["replicas"] = json!(15)
    });
    sim.settle();
    assert_eq!(sizes(&sim).iter().sum::<i32>(), 18, "wanted and surge");
    assert!(
        sizes(&sim)[0] > 5 && sizes(&sim)[1] > 8,
        "{:?}",
        sizes(&sim)
    );
}

#[test]
fn failing_pods_show_in_the_deployment() {
    let mut sim = Sim::new();
    sim.nodes(1);
    sim.refuse_pods = Some("exceeded quota".into());
    sim.apply(Kind::Deployment, deployment(2, "v1", json!({})));
    sim.settle();
    sim.pass(Duration::from_secs(1));
    sim.settle();
    let failure = condition(&sim, "ReplicaFailure");
    assert_eq!(failure.message.as_deref(), Some("exceeded quota"));
    assert_eq!(
        sim.messages("FailedCreate")[0],
        "Error creating: exceeded quota"
    );
    sim.refuse_pods = None;
    sim.pass(Duration::from_secs(60));
    sim.run_all();
    assert_eq!(sim.all::<Pod>().len(), 2);
    let status = sim.get::<Deployment>("web").unwrap().status.unwrap();
    let kinds: Vec<_> = status
        .conditions
        .unwrap()
        .into_iter()
        .filter_map(|c| c.type_)
        .collect();
    assert!(!kinds.contains(&"ReplicaFailure".to_owned()), "{kinds:?}");
}

#[test]
fn orphans_are_adopted_and_strangers_let_go() {
    let mut sim = started(2, json!({}));
    let set = sim.all::<ReplicaSet>().remove(0);
    let labels = set.metadata.labels.clone().unwrap();
    sim.apply(
        Kind::Pod,
        json!({
            "metadata": {"name": "orphan", "labels": labels},
            "spec": {"containers": [{"name": "c", "image": "v1"}]},
        }),
    );
    sim.run_all();
    assert_eq!(sim.all::<Pod>().len(), 2, "one too many: one goes");
    let name = meta::name(&sim.all::<Pod>()[0].metadata).to_owned();
    sim.edit(Kind::Pod, &name, |pod| {
        pod["metadata"]["labels"] = json!({"app": "other"})
    });
    sim.run_all();
    let lost = sim.get::<Pod>(&name).unwrap();
    assert_eq!(lost.metadata.owner_references, None, "it is on its own now");
    assert_eq!(sim.all::<Pod>().len(), 3, "and has a successor");
}

/// What must hold at every moment of a rolling update from one working version to another.
fn check(sim: &Sim, least: usize, most: usize) -> Result<(), TestCaseError> {
    let pods = sim.all::<Pod>();
    let active: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).collect();
    let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
    prop_assert!(ready >= least, "{ready} ready, at least {least} must be");
    prop_assert!(
        active.len() <= most,
        "{} pods, at most {most} may be",
        active.len()
    );
    Ok(())
}

proptest! {
    #![proptest_config(crate::sim::cases(16))]

    #[test]
    fn a_rolling_update_keeps_within_its_bounds_in_any_order(
        replicas in 1usize..6,
        surge in 0usize..3,
        unavailable in 0usize..3,
        seed in any::<u64>(),
    ) {
        prop_assume!(surge + unavailable > 0);
        let unavailable = unavailable.min(replicas);
        let mut sim = started(replicas as i32, rolling(json!(surge), json!(unavailable)));
        set_image(&mut sim, "v2");
        let mut turned = 0;
        let mut dice = crate::sim::Dice(seed);
        for _ in 0..400 {
            let (step, pod, what) = (dice.roll(1000), dice.roll(1000), dice.roll(10));
            check(&sim, replicas - unavailable, replicas + surge)?;
            if what < 7 {
                sim.step(step);
            } else if what < 9 {
                // A kubelet makes a pod ready, or ends it.
                let bound: Vec<String> = sim.all::<Pod>().iter().filter(|p| pods::node(p).is_some())
                    .map(|p| meta::name(&p.metadata).to_owned()).collect();
                if let Some(name) = bound.get(pod % bound.len().max(1)) {
                    sim.run_pod(name, true);
                }
            } else if turned < 2 && step % 40 == 0 {
                // The user changes their mind in the middle.
                turned += 1;
                set_image(&mut sim, if turned == 1 { "v3" } else { "v2" });
            }
            sim.pass(Duration::from_millis(100));
        }
        sim.pass(Duration::from_secs(60));
        sim.run_all();
        check(&sim, replicas, replicas)?;
        let wanted = sim.get::<Deployment>("web").unwrap().spec.template.spec.unwrap().containers[0].image.clone();
        prop_assert!(sim.all::<Pod>().iter().all(|pod| Some(image(pod)) == wanted));
    }
}
