use std::time::Duration;

use api::{
    ApiError, ComponentState, ErrorCode,
    delete_queue::{DeleteQueue, Deletion},
};
use netlink::{NewLink, Peer};

use crate::{agent::Agent, node::Node};

fn queued(node: &Node) -> Vec<Deletion> {
    DeleteQueue::lock(&node.dir.path().join("deleteQueue"), Duration::from_secs(5))
        .unwrap()
        .entries()
        .unwrap()
}

#[test]
fn no_address_left_names_the_pool_and_leaks_nothing() {
    let Some(node) = Node::with_cidrs("10.244.1.0/24", "fd00:244:1::/127") else {
        return;
    };
    let first = node.pod("first");
    assert!(node.run("ADD", &first).ok);
    let late = node.pod("late");
    let refused = node.run("ADD", &late);
    assert_eq!(refused.code(), 102, "{refused:?}");
    assert!(
        refused
            .message()
            .contains("no address left in fd00:244:1::/127"),
        "{refused:?}"
    );
    assert!(late.handle().find_link("eth0").unwrap().is_none());
    assert!(node.run("DEL", &late).ok);
    assert!(node.run("DEL", &first).ok);
    node.assert_clean();
}

#[test]
fn a_refused_endpoint_is_undone() {
    let Some(node) = Node::new() else { return };
    for (code, expected) in [
        (ErrorCode::Internal, 100),
        (ErrorCode::NotReady, 11),
        (ErrorCode::BadRequest, 100),
    ] {
        let pod = node.pod("cart-0");
        node.agent.state.lock().unwrap().refuse_endpoints = Some(ApiError::new(code, "not today"));
        let refused = node.run("ADD", &pod);
        assert_eq!(refused.code(), expected, "{refused:?}");
        assert!(refused.message().starts_with("not today"), "{refused:?}");
        assert!(pod.handle().find_link("eth0").unwrap().is_none());
        node.assert_clean();
    }
}

#[test]
fn an_interface_of_somebody_else_in_the_pod_is_left_alone() {
    let Some(node) = Node::new() else { return };
    let pod = node.pod("cart-0");
    pod.handle()
        .link_create(&NewLink::veth("eth0", Peer::new("other")))
        .unwrap();
    let refused = node.run("ADD", &pod);
    assert_eq!(refused.code(), 101, "{refused:?}");
    assert!(
        refused
            .message()
            .contains("interface eth0 in the pod is there"),
        "{refused:?}"
    );
    assert!(pod.handle().find_link("eth0").unwrap().is_some());
    node.assert_clean();
}

#[test]
fn agent_down() {
    let Some(node) = Node::new() else { return };
    let pod = node.pod("cart-0");
    assert!(node.run("ADD", &pod).ok);
    node.agent.kill();

    let late = node.pod("late");
    let refused = node.run("ADD", &late);
    assert_eq!(refused.code(), 11, "{refused:?}");
    assert!(
        refused.message().contains("cilium.sock") && refused.message().contains("is it running"),
        "{refused:?}"
    );
    assert_eq!(node.run("STATUS", &pod).code(), 50);
    let mut config = node.config();
    config["cni.dev/valid-attachments"] = serde_json::json!([]);
    assert_eq!(node.run_with("GC", &pod, &config).code(), 11);

    for _ in 0..2 {
        let deleted = node.run("DEL", &pod);
        assert!(deleted.ok, "{deleted:?}");
        assert!(node.interfaces().is_empty(), "the interface goes at once");
    }
    let waiting = Deletion {
        container_id: "cart-0".into(),
        interface: "eth0".into(),
    };
    assert_eq!(queued(&node), std::slice::from_ref(&waiting), "once");

    // The agent comes back with what it had, and replays.
    let back = Agent::start(
        &node.dir.path().join("cilium.sock"),
        "10.244.1.0/24",
        "fd00:244:1::/112",
    );
    let queue =
        DeleteQueue::lock(&node.dir.path().join("deleteQueue"), Duration::from_secs(5)).unwrap();
    assert_eq!(queue.drain(|d| *d == waiting).unwrap().done, 1);
    drop(queue);
    assert!(node.run("STATUS", &pod).ok);
    assert!(node.run("DEL", &pod).ok, "now the agent answers");
    assert_eq!((queued(&node), back.endpoints()), (vec![], 0));
}

#[test]
fn an_agent_that_comes_up_while_the_plugin_waits_for_the_queue() {
    let Some(node) = Node::new() else { return };
    let pod = node.pod("cart-0");
    assert!(node.run("ADD", &pod).ok);
    node.agent.kill();
    let held =
        DeleteQueue::lock(&node.dir.path().join("deleteQueue"), Duration::from_secs(5)).unwrap();
    let deleted = std::thread::scope(|scope| {
        let run = scope.spawn(|| node.run("DEL", &pod));
        std::thread::sleep(Duration::from_millis(100));
        let _back = Agent::start(
            &node.dir.path().join("cilium.sock"),
            "10.244.1.0/24",
            "fd00:244:1::/112",
        );
        held.drain(|_| true).unwrap();
        drop(held);
        run.join().unwrap()
    });
    assert!(deleted.ok, "{deleted:?}");
    assert_eq!(queued(&node), []);
}

#[test]
fn deletions_of_what_never_was() {
    let Some(node) = Node::new() else { return };
    let pod = node.pod("nobody");
    assert!(node.run("DEL", &pod).ok);
    let mut env = pod.env();
    env.insert("CNI_COMMAND".into(), "DEL".into());
    env.remove("CNI_NETNS");
    env.remove("CNI_ARGS");
    assert!(node.run_raw(&env, node.config().to_string().as_bytes()).ok);
    env.insert("CNI_NETNS".into(), "/run/netns/long-gone".into());
    assert!(node.run_raw(&env, node.config().to_string().as_bytes()).ok);
    node.assert_clean();
}

#[test]
fn status_tells_why() {
    let Some(node) = Node::new() else { return };
    let pod = node.pod("cart-0");
    assert!(node.run("STATUS", &pod).ok);
    node.agent.state.lock().unwrap().health = ComponentState::Warning;
    assert!(node.run("STATUS", &pod).ok);
    node.agent.state.lock().unwrap().health = ComponentState::Failure;
    assert_eq!(node.run("STATUS", &pod).code(), 50);
}

#[test]
fn namespaces_that_cannot_be() {
    let Some(node) = Node::new() else { return };
    let pod = node.pod("cart-0");
    let mut env = pod.env();
    env.insert("CNI_COMMAND".into(), "ADD".into());
    for (path, code) in [
        ("/proc/thread-self/ns/net", 8),
        ("/run/netns/long-gone", 3),
        ("/etc/passwd", 3),
        ("relative", 4),
        ("", 4),
    ] {
        env.insert("CNI_NETNS".into(), path.into());
        let refused = node.run_raw(&env, node.config().to_string().as_bytes());
        assert_eq!(refused.code(), code, "{path}: {refused:?}");
    }
    node.assert_clean();
}
