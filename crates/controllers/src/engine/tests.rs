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
        controller: 0,
        key: Key::default(),
        writes: Vec::new(),
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
    engine.observe(Seen::Listing(Kind::Pod), now(0));
    engine.observe(Seen::Listed(Kind::Pod, Vec::new()), now(0));
    assert_eq!(version(&engine), None);
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
