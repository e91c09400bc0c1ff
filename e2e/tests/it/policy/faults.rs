//! What goes wrong: a full map, an object that is wrong among many, an agent that is killed in the middle of an import.

use std::time::{Duration, Instant};

use hypha_e2e::policy::hammer::{Hammer, Ports};
use hypha_e2e::policy::objects::{Server, ccnp, cnp, wait_in_force};
use hypha_e2e::policy::stage::Stage;
use serde_json::{Value, json};
use testkit::{skip_unless_root, wait_until};

const SOON: Duration = Duration::from_secs(20);
/// Policies of the import.
const MANY: usize = 2000;
const PORT: u16 = 7400;

fn hammer(stage: &Stage, from: &str, to: &str, port: u16) -> Hammer {
    let (from, to) = (
        &stage.actors[stage.find(from)],
        &stage.actors[stage.find(to)],
    );
    let target = to.ip(true).expect("an IPv4 address");
    Hammer::start(
        &format!("{} → {}", from.name, to.name),
        &from.netns,
        &to.netns,
        target,
        port,
        Ports::Fresh,
    )
}

/// Databases of namespace `a` answer web servers.
fn database() -> Value {
    cnp(
        "a",
        "db",
        &json!({"endpointSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "web"}}]}]}),
    )
}

/// Lets web servers in by one more port each, and nobody else.
fn one_of_many(number: usize) -> Value {
    let port = (10_000 + number).to_string();
    cnp(
        "a",
        &format!("many-{number:04}"),
        &json!({"endpointSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "web"}}], "toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}]}]}),
    )
}

/// One object among many is wrong: it says so, the others are in force, and it opens and closes nothing.
#[test]
fn e2e_policy_one_invalid_among_many() {
    if skip_unless_root() {
        return;
    }
    let stage = Stage::up("e2e-invalid", &[]);
    let server = Server::of(&stage);
    let mut objects: Vec<Value> = (0..30).map(one_of_many).collect();
    objects.push(database());
    // Right by its schema, wrong by its meaning.
    let wrong = cnp(
        "a",
        "wrong",
        &json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["all"]},
        {"toPorts": [{"ports": [{"port": "100", "endPort": 90, "protocol": "TCP"}]}]}]}),
    );
    objects.insert(12, wrong.clone());
    let created = server.create(&objects);
    wait_in_force(&stage, &created);
    let (good, bad) = (
        hammer(&stage, "a/x", "a/y", PORT),
        hammer(&stage, "a/z", "a/y", PORT + 1),
    );
    let condition = wait_until("the object says that it is wrong", SOON, || {
        let object = server.get(&wrong);
        let conditions = object["status"]["conditions"].as_array()?;
        conditions
            .iter()
            .find(|condition| condition["type"] == "Valid")
            .cloned()
    });
    assert_eq!(condition["status"], "False", "{condition}");
    let message = condition["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("spec.ingress[1].toPorts[0].ports[0]"),
        "{condition}"
    );
    good.wait_for_more(100);
    bad.wait_for_more(100);
    good.finish().assert_all("one object is wrong");
    bad.finish().assert_nothing("one object is wrong");
    server.delete(&objects);
}

/// A version that is refused takes nothing of the one before it out of force, neither at once nor when agents start anew: people
/// are told what is wrong and what is in force.
#[test]
fn e2e_policy_refused_update() {
    if skip_unless_root() {
        return;
    }
    // Without a proxy rules of requests are refused.
    let stage = Stage::up("e2e-refused", &["--agent-config", "enable-l7-proxy=false"]);
    let server = Server::of(&stage);
    let everywhere = ccnp(
        "everywhere",
        &json!({"endpointSelector": {"matchLabels": {"app": "db"}},
        "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"app": "client"}}]}],
        "enableDefaultDeny": {"ingress": false}}),
    );
    let objects = [database(), everywhere];
    let created = server.create(&objects);
    wait_in_force(&stage, &created);
    let allowed = hammer(&stage, "a/x", "a/y", PORT);
    let denied = [
        hammer(&stage, "a/z", "a/y", PORT + 1),
        hammer(&stage, "c/z", "a/y", PORT + 2),
    ];
    let wait_for_more = || {
        for hammer in denied.iter().chain([&allowed]) {
            hammer.wait_for_more(100);
        }
    };
    // Would let everybody in, and names requests by their path.
    let http =
        json!({"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": "/"}]}});
    let ingress = json!([{"fromEntities": ["all"]}, {"toPorts": [http]}]);
    for object in &objects {
        let wrong =
            json!({"spec": {"ingress": ingress, "ingressDeny": null, "enableDefaultDeny": null}});
        server.merge(object, &wrong);
        let message = wait_until("the object says that it is refused", SOON, || {
            let object = server.get(object);
            let conditions = object["status"]["conditions"].as_array()?.clone();
            let valid = conditions.into_iter().find(|one| one["type"] == "Valid")?;
            (valid["status"] == "False").then(|| valid["message"].to_string())
        });
        assert!(
            message.contains("spec.ingress[1].toPorts[0].rules"),
            "{message}"
        );
        assert!(message.contains("go on enforcing"), "{message}");
    }
    let node = stage.actors[stage.find("a/y")].node.clone();
    let tells = |when: &str| {
        wait_until(&format!("the agent tells, {when}"), SOON, || {
            let list = stage.cluster.agent(&node).policies().ok()?;
            let former = list.policies.iter().filter(|policy| {
                policy.former && !policy.problems.is_empty() && !policy.labels.is_empty()
            });
            (former.count() == objects.len()).then_some(())
        });
        let status = stage.cluster.agent(&node).healthz().expect("a status");
        assert_eq!((status.policy.refused, status.policy.former), (2, 2));
        let run = stage
            .cluster
            .lab
            .hypha(&["dbg", "policy", "get", "--node", &node]);
        let says = "CiliumNetworkPolicy a/db is refused as it stands, its last version that was not stays in force";
        assert!(run.ok() && run.stderr.contains(says), "{}", run.stderr);
        assert!(run.stdout.contains("fromEndpoints"), "{}", run.stdout);
        assert!(!run.stdout.contains("fromEntities"), "{}", run.stdout);
    };
    tells("while it runs");
    wait_for_more();
    for round in 0..2 {
        let old = stage.cluster.kill_agent(&node);
        stage.cluster.wait_replaced(&node, Some(&old));
        tells(&format!("after restart {round}"));
        wait_for_more();
    }
    let during = "versions are refused";
    allowed.finish().assert_all(during);
    for hammer in denied {
        hammer.finish().assert_nothing(during);
    }
    // Right again: what it says counts. Gone: nothing of it is left.
    let mended = json!({"spec": {"ingress": [{"fromEntities": ["all"]}]}});
    let mended = objects
        .each_ref()
        .map(|object| server.merge(object, &mended));
    for node in &stage.nodes {
        wait_until(&format!("{node} takes what is mended"), SOON, || {
            let list = stage.cluster.agent(node).policies().ok()?;
            let mut policies = list.policies.iter();
            policies
                .all(|policy| policy.problems.is_empty())
                .then_some(())
        });
    }
    wait_in_force(&stage, &mended);
    let opened = hammer(&stage, "a/z", "a/y", PORT + 3);
    opened.wait_for_more(100);
    opened.finish().assert_all("it is mended");
    server.merge(&objects[0], &json!({"spec": {"ingress": ingress}}));
    server.delete(&objects);
    wait_in_force(&stage, &[]);
}

/// Agents are killed while 2,000 policies come. At no moment does anything pass that may not, and then all are in force.
#[test]
fn e2e_policy_agents_killed_in_an_import() {
    if skip_unless_root() {
        return;
    }
    let stage = Stage::up("e2e-import", &[]);
    let server = Server::of(&stage);
    let created = server.create(&[database()]);
    wait_in_force(&stage, &created);
    let node = stage.actors[stage.find("a/y")].node.clone();
    let hammers = [
        hammer(&stage, "a/z", "a/y", PORT),
        hammer(&stage, "c/z", "a/y", PORT + 1),
    ];
    let allowed = [hammer(&stage, "a/x", "a/y", PORT + 2)];
    let start = Instant::now();
    let mut all = created;
    for (round, chunk) in (0..MANY).collect::<Vec<_>>().chunks(MANY / 5).enumerate() {
        let objects: Vec<Value> = chunk.iter().copied().map(one_of_many).collect();
        all.extend(server.create(&objects));
        if round < 4 {
            stage.cluster.kill_agent(&node);
        }
    }
    stage.cluster.wait_replaced(&node, None);
    let imported = start.elapsed();
    wait_in_force(&stage, &all);
    eprintln!(
        "{MANY} policies written in {imported:?}, in force after {:?}",
        start.elapsed()
    );
    for hammer in hammers {
        hammer
            .finish()
            .assert_nothing("agents are killed in an import");
    }
    for hammer in allowed {
        hammer.finish().assert_all("agents are killed in an import");
    }
    // Every one of them has its row.
    let mut agent = stage.cluster.agent(&node);
    let rows = agent.map("cilium_policy").expect("the policy map");
    let own = rows
        .iter()
        .filter_map(|row| api::PolicyMapRow::of(row).ok());
    let ports = own
        .filter(|row| row.traffic.ends_with("/TCP") && row.traffic.starts_with('1'))
        .count();
    assert!(
        ports >= MANY
            || rows
                .iter()
                .any(|row| api::PolicyMapRow::of(row).is_ok_and(|row| row.rules.len() > 1)),
        "{ports} of {MANY}"
    );
}

/// The map is too small for a policy: the endpoint keeps its last complete policy, and the agent says so.
#[test]
fn e2e_policy_full_map_keeps_the_last_complete_policy() {
    full_map(&[], "left with their last complete policy");
}

/// The same, where the settings want such endpoints locked down.
#[test]
fn e2e_policy_full_map_locks_down() {
    full_map(
        &[
            "--agent-config",
            "enable-endpoint-lockdown-on-policy-overflow=true",
        ],
        "locked down",
    );
}

#[track_caller]
fn full_map(args: &[&str], then: &str) {
    if skip_unless_root() {
        return;
    }
    let stage = Stage::up(
        "e2e-full",
        &[&["--agent-config", "bpf-policy-map-max=256"], args].concat(),
    );
    let server = Server::of(&stage);
    let created = server.create(&[database()]);
    wait_in_force(&stage, &created);
    let denied = hammer(&stage, "a/z", "a/y", PORT);
    let node = stage.actors[stage.find("a/y")].node.clone();
    let mut agent = stage.cluster.agent(&node);
    // More rows than there is room for, and not one that covers another: every second port.
    let ports: Vec<Value> = (0..400)
        .map(|number| json!({"port": (20_000 + number * 2).to_string(), "protocol": "UDP"}))
        .collect();
    let entries: Vec<Value> = ports
        .chunks(40)
        .map(|ports| json!({"ports": ports}))
        .collect();
    let big = cnp(
        "a",
        "big",
        &json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"fromEntities": ["all"], "toPorts": entries}]}),
    );
    server.create(std::slice::from_ref(&big));
    let status = wait_until("the agent says that an endpoint is behind", SOON, || {
        let status = agent.healthz().ok()?;
        (!status.policy.behind.is_empty()).then_some(status)
    });
    assert_eq!(status.policy.behind_has, then, "{:?}", status.policy);
    denied.wait_for_more(200);
    let (allowed, opened) = (
        hammer(&stage, "a/x", "a/y", PORT + 1),
        hammer(&stage, "a/z", "a/y", 20_000),
    );
    allowed.wait_for_more(100);
    opened.wait_for_more(100);
    // Nothing of a policy that is not whole is in force.
    opened.finish().assert_nothing("the map is full");
    let allowed = allowed.finish();
    if then == "locked down" {
        allowed.assert_nothing("the map is full");
    } else {
        allowed.assert_all("the map is full");
    }
    server.delete(&[big]);
    wait_until("there is room again", SOON, || {
        agent
            .healthz()
            .ok()
            .filter(|status| status.policy.behind.is_empty())
    });
    let allowed = hammer(&stage, "a/x", "a/y", PORT + 2);
    allowed.wait_for_more(100);
    allowed.finish().assert_all("there is room again");
    denied.finish().assert_nothing("the map was full");
}
