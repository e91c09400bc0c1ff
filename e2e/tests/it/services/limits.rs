//! What cannot be served, is told of, and harms nobody else: a full map, addresses and ports that others have, slices that make no sense.

use hypha_e2e::cluster::Cluster;
use hypha_e2e::policy::objects::Server;
use serde_json::{Value, json};
use testkit::{skip_unless_root, wait_until};

use super::faults::{READY, address_of, answers, bare, logs, pods, slice};
use super::tables::{dbg, of, services};

/// More services than a map of this size has rows for.
const ROOM: &str = "bpf-lb-map-max=256";
const TOO_MANY: usize = 160;

/// Services that find no room are named, those that were there answer all the while, and room that is made is used by itself.
#[test]
fn e2e_services_full_map() {
    if skip_unless_root() {
        return;
    }
    let args = ["--nodes", "2", "--ipv4", "--agent-config", ROOM];
    let cluster = Cluster::up("e2e-full", &args);
    let server = Server::of_cluster(&cluster);
    cluster.lab.apply(&pods(&["kept"]));
    server.create(&[bare("kept", &json!({"selector": {"app": "kept"}}))]);
    let kept = address_of(&cluster, "kept");
    answers(&cluster, "ask", &kept, 80, "kept");

    let name = |number: usize| format!("many{number}");
    let many: Vec<Value> = (0..TOO_MANY)
        .map(|n| bare(&name(n), &Value::Null))
        .collect();
    server.create(&many);
    let slices: Vec<Value> = (0..TOO_MANY)
        .map(|n| {
            slice(
                &name(n),
                0,
                std::iter::once(format!("10.77.0.{}", n + 1)),
                true,
            )
        })
        .collect();
    server.create(&slices);
    for node in ["node1", "node2"] {
        wait_until("the status names the full map", READY, || {
            let status = dbg(&cluster, node, &["status", "--verbose"]);
            status
                .contains("map is full; raise bpf-lb-map-max")
                .then_some(())
        });
        assert!(!cluster.is_healthy(node), "{node} is well with a full map");
        let log = logs(&cluster, node);
        assert!(log.contains("map is full"), "{node} logged nothing of it");
    }
    answers(&cluster, "ask", &kept, 80, "kept");
    // An agent that starts with full maps does not take anybody's place, either.
    let old = cluster.kill_agent("node1");
    wait_until("another agent runs, well or not", READY, || {
        cluster.agent_process("node1").filter(|new| *new != old)
    });
    answers(&cluster, "ask", &kept, 80, "kept");

    server.delete(&many[20..]);
    server.delete(&slices[20..]);
    for node in ["node1", "node2"] {
        wait_until("everything that is left is served", READY, || {
            let all = services(&cluster, node);
            let is_served = |n| {
                let found = of(&all, &format!("service default/{}", name(n)), "ClusterIP");
                found.len() == 1 && found[0]["backends"][0]["used"] == true
            };
            ((0..20).all(is_served) && cluster.is_healthy(node)).then_some(())
        });
        let rows = dbg(&cluster, node, &["bpf", "lb", "list"]);
        for n in 0..20 {
            assert!(rows.contains(&format!("10.77.0.{}:8080", n + 1)), "{rows}");
        }
    }
    answers(&cluster, "ask", &kept, 80, "kept");
    cluster.assert_clean();
}

/// Who comes second is told whose the address, port or node port is; the first is not disturbed, and gives way when it goes.
#[test]
fn e2e_services_clashes() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-clashes", &["--nodes", "2", "--ipv4"]);
    let server = Server::of_cluster(&cluster);
    cluster.lab.apply(&pods(&["first", "second"]));
    let outside = "198.51.100.7";
    let wants = |app: &str| {
        let more = json!({"selector": {"app": app}, "externalIPs": [outside]});
        bare(app, &more)
    };
    server.create(&[wants("first")]);
    answers(&cluster, "ask", outside, 80, "first");
    server.create(&[wants("second")]);
    let own = address_of(&cluster, "second");
    answers(&cluster, "ask", &own, 80, "second");
    for node in ["node1", "node2"] {
        wait_until("the clash is told", READY, || {
            let said = format!("{outside}:80/TCP belongs to service default/first");
            logs(&cluster, node).contains(&said).then_some(())
        });
    }
    answers(&cluster, "ask", outside, 80, "first");
    cluster.kubectl(&["delete", "svc", "first"]);
    answers(&cluster, "ask", outside, 80, "second");

    let with_port = |name: &str| {
        let port = json!([{"name": "p", "port": 80, "targetPort": 8080, "nodePort": 30222}]);
        bare(name, &json!({"type": "NodePort", "ports": port})).to_string()
    };
    cluster.lab.apply(&with_port("early"));
    let refused = cluster.lab.try_apply(&with_port("late"));
    assert!(!refused.ok());
    assert!(
        refused.stderr.contains("spec.ports[0].nodePort")
            && refused.stderr.contains("already allocated"),
        "{}",
        refused.stderr
    );
    cluster.assert_clean();
}

/// Slices that the API server can tell to be wrong are refused with the field; what it lets pass is left out by the agent, one endpoint at a time.
#[test]
fn e2e_services_malformed_slices() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-slices", &["--nodes", "2", "--ipv4"]);
    let server = Server::of_cluster(&cluster);
    cluster.lab.apply(&pods(&["kept"]));
    server.create(&[
        bare("kept", &json!({"selector": {"app": "kept"}})),
        bare("hand", &Value::Null),
    ]);
    let good = |pod: &str| {
        cluster
            .lab
            .pod_ips(pod)
            .into_iter()
            .next()
            .expect("an address")
    };
    let written = slice("hand", 0, std::iter::once(good("kept")), true);
    server.create(std::slice::from_ref(&written));
    let (kept, hand) = (address_of(&cluster, "kept"), address_of(&cluster, "hand"));
    answers(&cluster, "ask", &hand, 80, "kept");

    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut slice = written.clone();
        slice["metadata"]["name"] = "wrong".into();
        change(&mut slice);
        cluster.lab.try_apply(&slice.to_string())
    };
    type Change<'a> = (&'a dyn Fn(&mut Value), &'a str);
    let changes: [Change<'_>; 7] = [
        (
            &|s| s["endpoints"][0]["addresses"][0] = "127.0.0.1".into(),
            "endpoints[0].addresses[0]",
        ),
        (
            &|s| s["endpoints"][0]["addresses"][0] = "0.0.0.0".into(),
            "endpoints[0].addresses[0]",
        ),
        (
            &|s| s["endpoints"][0]["addresses"][0] = "10.0.0".into(),
            "endpoints[0].addresses[0]",
        ),
        (
            &|s| s["endpoints"][0]["addresses"] = json!([]),
            "endpoints[0].addresses",
        ),
        (&|s| s["addressType"] = "IPX".into(), "addressType"),
        (&|s| s["ports"][0]["port"] = 70_000.into(), "ports[0].port"),
        (
            &|s| s["ports"][0]["protocol"] = "GRE".into(),
            "ports[0].protocol",
        ),
    ];
    for (change, place) in changes {
        let refused = wrong(change);
        assert!(!refused.ok(), "{place} was taken");
        assert!(
            refused.stderr.contains(place),
            "{place}: {}",
            refused.stderr
        );
    }
    answers(&cluster, "ask", &hand, 80, "kept");
    answers(&cluster, "ask", &kept, 80, "kept");
    cluster.assert_clean();
}
