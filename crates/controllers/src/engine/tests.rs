use super::*;
use crate::{Kept, Settings};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

fn now(ms: u64) -> Now {
    Now {
        wall: jiff::Timestamp::UNIX_EPOCH,
        steady: Duration::from_millis(ms),
    }
}

fn engine() -> Engine {
    let pace = Pace {
        concurrency: 2,
        resync: Duration::from_secs(600),
    };
    Engine::new(crate::controllers(&Settings::default()), pace, now(0))
}

fn pod(name: &str, uid: &str, version: u64) -> Object {
    let pod: Value = json!({"metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": version.to_string()}});
    Kind::Pod.parse(pod).unwrap()
}

fn version(engine: &Engine) -> Option<String> {
    let pod = engine.world().get::<Pod>(&Key::new("ns", "a"))?;
    pod.metadata.resource_version.clone()
}

fn job() -> Job {
    Job {
        controller: Some(0),
        key: Key::default(),
        writes: Vec::new(),
        begun: 0,
    }
}

#[test]
fn controllers_start_when_all_their_kinds_are_listed() {
    let mut engine = engine();
    assert!(engine.poll(now(1)).is_empty());
    let scheduler = |engine: &Engine| {
        let health = engine
            .health(now(1))
            .into_iter()
            .find(|h| h.name == "scheduler")
            .unwrap();
        health
            .waiting_for
            .iter()
            .map(|m| m.kind)
            .collect::<Vec<_>>()
    };
    assert_eq!(scheduler(&engine), ["pods", "nodes", "namespaces"]);
    engine.observe(Seen::Failed(Kind::Pod, "refused".into()), now(1));
    for kind in [Kind::Node, Kind::Namespace] {
        engine.observe(Seen::Listed(kind, Vec::new()), now(1));
    }
    assert_eq!(scheduler(&engine), ["pods"]);
    let waiting = Kind::parse(
        Kind::Pod,
        json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}, "spec": {"containers": []}}),
    );
    engine.observe(Seen::Listed(Kind::Pod, vec![waiting.unwrap()]), now(1));
    assert!(scheduler(&engine).is_empty());
    let jobs = engine.poll(now(2));
    assert_eq!(
        jobs.len(),
        1,
        "the pod cannot be scheduled, and that is said"
    );
    assert!(jobs[0].writes.iter().all(Write::is_report));
}

#[test]
fn what_is_older_is_ignored() {
    let mut engine = engine();
    engine.observe(Seen::Applied(pod("a", "u", 5)), now(0));
    engine.observe(Seen::Applied(pod("a", "u", 3)), now(0));
    assert_eq!(version(&engine).as_deref(), Some("5"));
    engine.observe(Seen::Deleted(pod("a", "u", 6)), now(0));
    engine.complete(&job(), vec![Effect::Put(pod("a", "u", 4))], None, now(0));
    assert_eq!(version(&engine), None, "a late answer brings nothing back");
    engine.observe(Seen::Applied(pod("a", "v", 7)), now(0));
    engine.observe(Seen::Deleted(pod("a", "u", 6)), now(0));
    assert_eq!(
        version(&engine).as_deref(),
        Some("7"),
        "another one of that name"
    );
}

#[test]
fn a_list_that_is_older_than_own_writes_does_not_undo_them() {
    let mut engine = engine();
    engine.observe(Seen::Applied(pod("b", "b", 1)), now(0));
    engine.observe(Seen::Listing(Kind::Pod), now(0));
    engine.complete(&job(), vec![Effect::Put(pod("a", "u", 9))], None, now(0));
    engine.observe(Seen::Listed(Kind::Pod, Vec::new()), now(0));
    assert_eq!(version(&engine).as_deref(), Some("9"));
    assert!(engine.world().get::<Pod>(&Key::new("ns", "b")).is_none());
    let look = engine.poll(now(0)).remove(0);
    let [Write::Look { at }] = &look.writes[..] else {
        panic!("whether it is there still has to be seen: {look:?}");
    };
    engine.complete(&look, vec![Effect::Gone(at.clone())], None, now(0));
    assert_eq!(
        version(&engine),
        None,
        "it was removed before the list was made"
    );
    engine.complete(&job(), vec![Effect::Put(pod("a", "w", 10))], None, now(0));
    assert_eq!(version(&engine).as_deref(), Some("10"));
    engine.observe(Seen::Listing(Kind::Pod), now(0));
    engine.observe(Seen::Listed(Kind::Pod, Vec::new()), now(0));
    assert_eq!(version(&engine), None);
}

#[test]
fn a_server_may_begin_to_count_anew() {
    let mut engine = engine();
    engine.observe(Seen::Applied(pod("a", "old", 500)), now(0));
    engine.observe(Seen::Listing(Kind::Pod), now(0));
    engine.observe(Seen::Listed(Kind::Pod, vec![pod("a", "new", 3)]), now(0));
    assert_eq!(version(&engine).as_deref(), Some("3"));
}

#[test]
fn indexes_follow_the_objects() {
    let mut world = World::default();
    let object = |owner: &str, node: &str| -> Object {
        Kind::Pod.parse(json!({
            "metadata": {"name": "a", "namespace": "ns", "ownerReferences": [
                {"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner, "controller": true}]},
            "spec": {"nodeName": node, "containers": []},
        })).unwrap()
    };
    let counts = |world: &World| {
        let pods = world.all::<Pod>();
        (
            pods.owned("ns", "o1").count(),
            pods.owned("ns", "o2").count(),
            pods.group("n1").count(),
            pods.group("n2").count(),
        )
    };
    world.put(object("o1", "n1"), now(0));
    assert_eq!(counts(&world), (1, 0, 1, 0));
    world.put(object("o2", "n2"), now(0));
    assert_eq!(counts(&world), (0, 1, 0, 1));
    assert_eq!(world.all::<Pod>().in_namespace("ns").count(), 1);
    world.remove(Pod::STORED, &Key::new("ns", "a"), now(0));
    assert_eq!(counts(&world), (0, 0, 0, 0));
    assert!(world.all::<Pod>().is_empty());
}

#[test]
fn a_write_without_an_answer_waits_for_the_watch() {
    let failure = |code| Failure {
        code,
        reason: String::new(),
        message: "lost".into(),
    };
    for (code, due) in [(0, 1000), (500, 10)] {
        let mut engine = engine();
        let mut kinds = engine.kinds().collect::<Vec<_>>();
        kinds.sort();
        for kind in kinds {
            engine.observe(Seen::Listed(kind, Vec::new()), now(0));
        }
        let namespace = json!({"metadata": {"name": "x", "uid": "x"}});
        engine.observe(
            Seen::Applied(Kind::Namespace.parse(namespace).unwrap()),
            now(0),
        );
        let jobs = engine.poll(now(0));
        assert_eq!(jobs.len(), 1, "the service account");
        engine.complete(&jobs[0], Vec::new(), Some(failure(code)), now(0));
        assert!(engine.poll(now(due - 1)).is_empty());
        let health = engine.health(now(0)).into_iter().find(|h| h.failing > 0);
        assert_eq!(health.unwrap().last_error.unwrap().message, "lost");
        assert_eq!(engine.poll(now(due)).len(), 1);
    }
}

#[test]
fn a_pod_counts_as_its_nodes_from_the_decision_on() {
    let state = |version: u64, node: Option<&str>| -> Object {
        let meta = json!({"name": "a", "namespace": "ns", "uid": "u", "resourceVersion": version.to_string()});
        let spec = json!({"nodeName": node, "containers": []});
        Kind::Pod
            .parse(json!({"metadata": meta, "spec": spec}))
            .unwrap()
    };
    let node = |engine: &Engine| {
        let pod = engine
            .world()
            .get::<Pod>(&Key::new("ns", "a"))
            .unwrap()
            .clone();
        pods::node(&pod).map(str::to_owned)
    };
    let begun = || {
        let mut engine = engine();
        let n1 = json!({"metadata": {"name": "n1", "uid": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        engine.observe(Seen::Listed(Kind::Namespace, Vec::new()), now(0));
        engine.observe(
            Seen::Listed(Kind::Node, vec![Kind::Node.parse(n1).unwrap()]),
            now(0),
        );
        engine.observe(Seen::Listed(Kind::Pod, vec![state(1, None)]), now(0));
        let jobs = engine.poll(now(0));
        let bind = jobs
            .into_iter()
            .find(|job| matches!(job.writes[0], Write::Bind { .. }));
        assert_eq!(
            node(&engine).as_deref(),
            Some("n1"),
            "before the server has said so"
        );
        engine.observe(Seen::Applied(state(2, None)), now(0));
        assert_eq!(
            node(&engine).as_deref(),
            Some("n1"),
            "whatever else changes"
        );
        (engine, bind.unwrap())
    };
    let lost = Failure {
        code: 0,
        reason: String::new(),
        message: String::new(),
    };
    let (mut engine, job) = begun();
    engine.complete(&job, Vec::new(), Some(lost.clone()), now(0));
    assert_eq!(node(&engine), None);
    let (mut engine, job) = begun();
    engine.complete(&job, vec![Effect::Bound(job.key.clone())], None, now(0));
    engine.observe(Seen::Applied(state(3, None)), now(0));
    assert_eq!(
        node(&engine).as_deref(),
        Some("n1"),
        "until the watch shows it"
    );
    let (mut engine, job) = begun();
    engine.observe(Seen::Applied(state(3, Some("n1"))), now(0));
    engine.complete(&job, Vec::new(), Some(lost), now(0));
    assert_eq!(
        node(&engine).as_deref(),
        Some("n1"),
        "only the answer was lost"
    );
}

mod storms {
    use super::*;
    use crate::{
        meta, pods,
        sim::{Dice, Sim},
    };
    use k8s_openapi::api::batch::v1::Job;
    use proptest::prelude::*;

    fn workload(name: &str, more: Value) -> Value {
        let mut spec = json!({
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({"metadata": {"name": name}, "spec": spec})
    }

    fn active(sim: &Sim, app: &str) -> Vec<Pod> {
        let mut all = sim.all::<Pod>();
        all.retain(|pod| pods::is_active(pod) && meta::label(&pod.metadata, "app") == Some(app));
        all
    }

    /// One step of anything: the engine, a watch, a kubelet, a user, the network.
    fn anything(sim: &mut Sim, dice: &mut Dice) {
        match dice.roll(20) {
            0..13 => drop(sim.step(dice.roll(1000))),
            13..18 => {
                let all = sim.all::<Pod>();
                if let Some(pod) = all
                    .get(dice.roll(all.len()))
                    .filter(|p| pods::node(p).is_some())
                {
                    sim.run_pod(meta::name(&pod.metadata), dice.roll(10) > 0);
                }
            }
            18 => {
                let kinds: Vec<Kind> = sim.engine.kinds().collect();
                sim.relist(kinds[dice.roll(kinds.len())]);
            }
            _ => {
                let image = format!("v{}", dice.roll(3));
                let (kind, name) =
                    [(Kind::Deployment, "web"), (Kind::DaemonSet, "agent")][dice.roll(2)];
                sim.edit(kind, name, |object| {
                    object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
                });
            }
        }
        sim.pass(Duration::from_millis(50));
    }

    proptest! {
        #![proptest_config(crate::sim::cases(16))]

        #[test]
        fn everything_comes_right_after_any_storm(seed in any::<u64>()) {
            let mut dice = Dice(seed);
            let mut sim = Sim::new();
            sim.nodes(3);
            sim.apply(Kind::Deployment, workload("web", json!({"replicas": 4})));
            sim.apply(Kind::DaemonSet, workload("agent", json!({})));
            sim.apply(Kind::StatefulSet, workload("db", json!({"replicas": 2, "serviceName": "db"})));
            sim.apply(Kind::Job, json!({"metadata": {"name": "work"}, "spec": {"completions": 2, "parallelism": 2,
                "template": {"metadata": {"labels": {"app": "work"}}, "spec": {"containers": [{"name": "c"}]}}}}));
            sim.flaky = Some(Dice(seed ^ 1));
            for _ in 0..400 {
                anything(&mut sim, &mut dice);
            }
            sim.flaky = None;
            for _ in 0..4 {
                sim.pass(Duration::from_secs(61));
                sim.run_all();
            }
            for (app, wanted) in [("web", 4), ("agent", 3), ("db", 2), ("work", 2)] {
                prop_assert_eq!(active(&sim, app).len(), wanted, "{}", app);
            }
            let mut images: Vec<_> = active(&sim, "web").iter().map(|p| p.spec.as_ref().unwrap().containers[0].image.clone()).collect();
            images.dedup();
            prop_assert_eq!(images.len(), 1, "one version");
            // The world is what the server has.
            prop_assert_eq!(sim.engine.world().all::<Pod>().len(), sim.all::<Pod>().len());
            let job = sim.get::<Job>("work").unwrap().status.unwrap();
            prop_assert_eq!((job.active, job.ready), (Some(2), Some(2)));
            for health in sim.engine.health(sim.now) {
                prop_assert_eq!(health.failing, 0, "{:?}", health);
            }
        }
    }
}
