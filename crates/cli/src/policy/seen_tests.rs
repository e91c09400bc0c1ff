//! What flows mean to policy: changes of verdicts, and policies made from them.
use std::collections::BTreeMap;

use ::policy::reference::Packet;
use api::hubble::flow::Flow;
use api::hubble::json::{self, Unknown};
use expect_test::expect;
use serde_json::{Value, json};

use super::cluster::World;
use super::flows::{Seen, Talk, talks};
use super::place::Place;
use super::tests::{RULE, documents, with, world};
use super::{diff, files, flows, manifest, suggest};

fn end(world: &World, name: &str) -> (Value, String) {
    match world.pods.iter().find(|pod| pod.name == name) {
        Some(pod) => {
            let labels = pod.labels.to_strings();
            let endpoint = json!({"namespace": "default", "pod_name": name, "labels": labels, "identity": 300});
            (endpoint, pod.ips[0].to_string())
        }
        None if name.starts_with("192.") => {
            let labels = ["reserved:remote-node"];
            (json!({"labels": labels, "identity": 6}), name.to_owned())
        }
        None => (
            json!({"labels": ["reserved:world"], "identity": 2}),
            name.to_owned(),
        ),
    }
}

/// A flow from one to the other; `turned`: the answer to it.
fn flow(world: &World, from: &str, to: &str, l4: &Value, verdict: &str, turned: bool) -> Flow {
    let ((source, source_ip), (destination, destination_ip)) = (end(world, from), end(world, to));
    let text = json!({
        "verdict": verdict, "is_reply": turned, "Type": "L3_L4", "event_type": {"type": 4},
        "source": source, "destination": destination, "l4": l4,
        "IP": {"source": source_ip, "destination": destination_ip, "ipVersion": "IPv4"},
    });
    json::from_str(&text.to_string(), Unknown::Refuse).unwrap()
}

fn tcp(from: u16, to: u16) -> Value {
    json!({"TCP": {"source_port": from, "destination_port": to}})
}

fn seen(world: &World) -> BTreeMap<Talk, Seen> {
    let to = |from, to, port| flow(world, from, to, &tcp(40000, port), "FORWARDED", false);
    let all = [
        to("tiefighter", "deathstar-1", 80),
        to("tiefighter", "deathstar-1", 80),
        flow(
            world,
            "deathstar-1",
            "tiefighter",
            &tcp(80, 40001),
            "FORWARDED",
            true,
        ),
        to("xwing", "deathstar-2", 80),
        to("deathstar-1", "198.51.100.7", 443),
        to("192.0.2.12", "deathstar-1", 80),
        flow(
            world,
            "xwing",
            "tiefighter",
            &tcp(40000, 22),
            "DROPPED",
            false,
        ),
        flow(
            world,
            "tiefighter",
            "deathstar-2",
            &json!({"ICMPv4": {"type": 8}}),
            "FORWARDED",
            false,
        ),
        flow(
            world,
            "deathstar-2",
            "tiefighter",
            &json!({"ICMPv4": {"type": 0}}),
            "FORWARDED",
            true,
        ),
    ];
    talks(&all)
}

#[test]
fn packets_and_their_answers_are_one_conversation() {
    let seen = seen(&world());
    let lines: Vec<String> = seen
        .iter()
        .map(|(talk, seen)| {
            let (from, to) = (talk.source.name(&world()), talk.destination.name(&world()));
            format!(
                "{from} {to} {} {} {}",
                talk.traffic(),
                seen.passed,
                seen.dropped
            )
        })
        .collect();
    let mut lines = lines;
    lines.sort();
    assert_eq!(
        lines,
        [
            "default/deathstar-1 198.51.100.7 443/TCP 1 0",
            "default/tiefighter default/deathstar-1 80/TCP 3 0",
            "default/tiefighter default/deathstar-2 ICMP type 8 1 0",
            "default/xwing default/deathstar-2 80/TCP 1 0",
            "default/xwing default/tiefighter 22/TCP 0 1",
            "node/n2 default/deathstar-1 80/TCP 1 0",
        ]
    );
}

#[test]
fn a_change_is_held_against_what_was_talked() {
    let (before, after) = (world(), with(RULE));
    let report = diff::talk_report(&before, &after, &seen(&before));
    expect![[r#"
        - node/n2              → default/deathstar-1   80/TCP        1 flows
        - default/tiefighter   → default/deathstar-2   ICMP type 8   1 flows
        - default/xwing        → default/deathstar-2   80/TCP        1 flows

        0 of 6 conversations opened, 3 closed (+ passes afterwards, - no longer passes)
    "#]]
    .assert_eq(&diff::talk_text(&report));
    let none = diff::talk_report(&after, &after, &seen(&before));
    assert_eq!(
        diff::talk_text(&none),
        "None of 6 conversations changes its verdict\n"
    );
}

#[test]
fn what_is_suggested_allows_what_was_seen_and_nothing_else() {
    let world = world();
    let found = suggest::suggest(&world, &seen(&world), &[]).unwrap();
    assert_eq!((found.policies, found.talks), (3, 5));
    assert_eq!(found.closed, Vec::<String>::new());
    let mut after = world.clone();
    for (document, known) in manifest::all(&documents(&found.yaml), world.options()).unwrap() {
        manifest::put(document, known, &mut after);
    }
    let passes = |from: &str, to: &str, port| {
        let place = |name: &str| Place::parse(name, &after).unwrap();
        let packet = Packet { protocol: 6, port };
        flows::ask(&after, &place(from), &place(to), packet).passes()
    };
    assert!(
        passes("xwing", "deathstar-1", 80),
        "a replica of the one that was asked"
    );
    for (from, to, port) in [
        ("xwing", "deathstar-1", 81),
        ("xwing", "tiefighter", 22),
        ("xwing", "xwing", 80),
        ("deathstar-1", "198.51.100.8", 443),
        ("deathstar-1", "198.51.100.7", 80),
        ("198.51.100.7", "deathstar-1", 80),
        ("tiefighter", "xwing", 80),
    ] {
        assert!(!passes(from, to, port), "{from} {to} {port}");
    }
    // Only of one namespace, where there is nobody.
    let none = suggest::suggest(&world, &seen(&world), &["shop".to_owned()]).unwrap();
    assert_eq!((none.policies, none.yaml.as_str()), (0, ""));
    // One of them, as people read it.
    let all = files::documents("all", &found.yaml).unwrap();
    let xwing = all
        .iter()
        .find(|one| one.value["metadata"]["name"] == "seen-xwing");
    assert_eq!(
        xwing.unwrap().value["spec"],
        json!({
            "endpointSelector": {"matchLabels": {"class": "xwing", "org": "alliance"}},
            "ingress": [{}],
            "egress": [{
                "toEndpoints": [{"matchLabels": {"class": "deathstar", "org": "empire"}}],
                "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}],
            }],
        })
    );
}

/// A policy that denies what was seen is told of.
#[test]
fn what_would_not_pass_is_told() {
    let deny = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: deny}
spec:
  endpointSelector: {matchLabels: {class: deathstar}}
  ingressDeny: [{fromEndpoints: [{matchLabels: {org: alliance}}]}]
"#;
    let world = with(deny);
    let found = suggest::suggest(&world, &seen(&world), &[]).unwrap();
    assert_eq!(found.closed, ["default/xwing → default/deathstar-2 80/TCP"]);
}
