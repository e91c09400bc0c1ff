use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetStatus},
    core::v1::Pod,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    Kind, meta, pods,
    sim::{Dice, Sim},
};

fn set(replicas: i32, extra: Value) -> Value {
    let mut set = json!({
        "metadata": {"name": "db"},
        "spec": {
            "replicas": replicas,
            "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c", "image": "v1"}]},
            },
        },
    });
    for (key, value) in extra.as_object().unwrap() {
        set["spec"][key] = value.clone();
    }
    set
}

fn new(replicas: i32, extra: Value) -> Sim {
    let mut sim = Sim::new();
    sim.nodes(2);
    sim.apply(Kind::StatefulSet, set(replicas, extra));
    sim
}

fn names(sim: &Sim) -> Vec<String> {
    sim.all::<Pod>()
        .iter()
        .map(|p| meta::name(&p.metadata).to_owned())
        .collect()
}

fn images(sim: &Sim) -> Vec<String> {
    let image = |p: &Pod| {
        p.spec.as_ref().unwrap().containers[0]
            .image
            .clone()
            .unwrap()
    };
    sim.all::<Pod>().iter().map(image).collect()
}

fn status(sim: &Sim) -> StatefulSetStatus {
    sim.get::<StatefulSet>("db").unwrap().status.unwrap()
}

fn set_image(sim: &mut Sim, image: &str) {
    sim.edit(Kind::StatefulSet, "db", |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

#[test]
fn pods_come_in_order_with_names_of_their_own() {
    let mut sim = new(3, json!({}));
    for i in 0..3 {
        sim.settle();
        assert_eq!(
            names(&sim).len(),
            i + 1,
            "the next only when the last is ready"
        );
        sim.run_pod(&format!("db-{i}"), true);
    }
    sim.settle();
    assert_eq!(names(&sim), ["db-0", "db-1", "db-2"]);
    let pod = sim.get::<Pod>("db-1").unwrap();
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(
        (spec.hostname.as_deref(), spec.subdomain.as_deref()),
        (Some("db-1"), Some("db"))
    );
    assert_eq!(
        meta::label(&pod.metadata, "statefulset.kubernetes.io/pod-name"),
        Some("db-1")
    );
    assert_eq!(
        meta::label(&pod.metadata, "apps.kubernetes.io/pod-index"),
        Some("1")
    );
    let status = status(&sim);
    assert_eq!(
        (
            status.replicas,
            status.ready_replicas,
            status.updated_replicas
        ),
        (3, Some(3), Some(3))
    );
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(
        sim.messages("SuccessfulCreate")[0],
        "create Pod db-0 in StatefulSet db successful"
    );
}

#[test]
fn in_parallel_all_come_at_once() {
    let mut sim = new(
        3,
        json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}),
    );
    sim.settle();
    assert_eq!(names(&sim), ["db-5", "db-6", "db-7"]);
}

#[test]
fn scaling_down_takes_the_highest_first() {
    let mut sim = new(3, json!({}));
    sim.run_all();
    sim.edit(Kind::StatefulSet, "db", |d| {
        d["spec"]["replicas"] = json!(1)
    });
    sim.settle();
    let ending = |sim: &Sim| -> Vec<String> {
        let all = sim
            .all::<Pod>()
            .into_iter()
            .filter(|p| meta::is_ending(&p.metadata));
        all.map(|p| meta::name(&p.metadata).to_owned()).collect()
    };
    assert_eq!(ending(&sim), ["db-2"]);
    sim.run_pod("db-2", false);
    sim.settle();
    assert_eq!(ending(&sim), ["db-1"]);
    sim.run_all();
    assert_eq!(names(&sim), ["db-0"]);
}

#[test]
fn a_lost_pod_comes_back_under_its_name() {
    let mut sim = new(2, json!({}));
    sim.run_all();
    let uid = sim.get::<Pod>("db-0").unwrap().metadata.uid;
    sim.remove(Kind::Pod, &crate::Key::new("default", "db-0"));
    sim.run_all();
    assert_ne!(sim.get::<Pod>("db-0").unwrap().metadata.uid, uid);
    sim.edit(Kind::Pod, "db-1", |p| {
        p["status"]["phase"] = json!("Failed")
    });
    sim.settle();
    assert!(meta::is_ending(&sim.get::<Pod>("db-1").unwrap().metadata));
    sim.run_pod("db-1", false);
    sim.run_all();
    assert_eq!(names(&sim), ["db-0", "db-1"]);
}

#[test]
fn a_rollout_goes_from_the_highest_down() {
    let mut sim = new(3, json!({}));
    sim.run_all();
    set_image(&mut sim, "v2");
    sim.settle();
    assert!(meta::is_ending(&sim.get::<Pod>("db-2").unwrap().metadata));
    assert_ne!(status(&sim).current_revision, status(&sim).update_revision);
    sim.run_pod("db-2", false);
    sim.settle();
    assert_eq!(images(&sim), ["v1", "v1", "v2"]);
    assert!(
        !meta::is_ending(&sim.get::<Pod>("db-1").unwrap().metadata),
        "db-2 is not ready yet"
    );
    sim.run_all();
    assert_eq!(images(&sim), ["v2", "v2", "v2"]);
    let status = status(&sim);
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(
        (status.current_replicas, status.updated_replicas),
        (Some(3), Some(3))
    );
}

#[test]
fn the_partition_holds_the_lower_ones_back() {
    let mut sim = new(
        3,
        json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
    );
    sim.run_all();
    set_image(&mut sim, "v2");
    sim.run_all();
    assert_eq!(images(&sim), ["v1", "v1", "v2"]);
    sim.remove(Kind::Pod, &crate::Key::new("default", "db-0"));
    sim.run_all();
    assert_eq!(
        images(&sim),
        ["v1", "v1", "v2"],
        "a lost pod comes back as it was"
    );
    sim.edit(Kind::StatefulSet, "db", |d| {
        d["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(0)
    });
    sim.run_all();
    assert_eq!(images(&sim), ["v2", "v2", "v2"]);
}

#[test]
fn on_delete_and_claims() {
    let mut sim = new(1, json!({"updateStrategy": {"type": "OnDelete"}}));
    sim.run_all();
    set_image(&mut sim, "v2");
    sim.run_all();
    assert_eq!(images(&sim), ["v1"]);
    let mut sim = new(
        1,
        json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}),
    );
    sim.settle();
    assert!(names(&sim).is_empty());
    assert!(sim.messages("FailedCreate")[0].contains("volumeClaimTemplates"));
}

proptest! {
    #![proptest_config(crate::sim::cases(16))]

    #[test]
    fn at_most_one_pod_is_missing_during_a_rollout(replicas in 1usize..5, seed in any::<u64>()) {
        let mut sim = new(replicas as i32, json!({}));
        sim.run_all();
        set_image(&mut sim, "v2");
        let mut dice = Dice(seed);
        for _ in 0..300 {
            let pods = sim.all::<Pod>();
            let serving = pods.iter().filter(|p| pods::is_ready(p) && !meta::is_ending(&p.metadata)).count();
            prop_assert!(serving + 1 >= replicas, "{serving} of {replicas} serve");
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
        prop_assert!(images(&sim).iter().all(|image| image == "v2"));
        prop_assert_eq!(names(&sim).len(), replicas);
    }
}
