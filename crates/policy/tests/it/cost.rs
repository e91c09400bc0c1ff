//! What a change costs in a cluster of 10,000 identities, 2,000 policies and 250 subjects: how much is looked at.
use crate::world::policy;
use hypha_policy::Settings;
use hypha_policy::resolve::{Change, Diff, Engine, Subject};
use hypha_policy::rule::{NamedPorts, Policy};
use model::Labels;
use serde_json::json;
use std::time::Instant;

const NAMESPACES: u32 = 50;
const APPS: u32 = 200;
const FIRST: u32 = 256;
/// Subjects of each namespace.
const LOCAL: u32 = 5;
/// Policies of each namespace.
const POLICIES: u32 = 40;

fn labels(namespace: u32, app: u32) -> Labels {
    [
        format!("k8s:app=a{app}"),
        format!("k8s:tier=t{}", app % 4),
        format!("k8s:io.kubernetes.pod.namespace=n{namespace}"),
        format!("k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=n{namespace}"),
        "k8s:io.cilium.k8s.policy.cluster=default".to_owned(),
        "k8s:io.cilium.k8s.policy.serviceaccount=default".to_owned(),
    ]
    .into_iter()
    .collect()
}

const fn id(namespace: u32, app: u32) -> u32 {
    FIRST + namespace * APPS + app
}

fn identity(namespace: u32, app: u32) -> Change {
    Change::Identity(
        id(namespace, app),
        labels(namespace, app),
        NamedPorts::new(),
    )
}

fn some_policy(namespace: u32, number: u32) -> Policy {
    let app =
        |shift: u32| json!({"matchLabels": {"app": format!("a{}", (number * 7 + shift) % APPS)}});
    policy(&json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": format!("p{number}"), "namespace": format!("n{namespace}")},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": format!("a{}", number % (2 * LOCAL))}},
            "ingress": [
                {"fromEndpoints": [app(0), app(1), app(2)], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]},
                {"fromEndpoints": [{"matchLabels": {"tier": format!("t{}", number % 4)}}], "toPorts": [{"ports": [{"port": "1024", "endPort": 2000, "protocol": "TCP"}]}]},
            ],
            "egress": [
                {"toEndpoints": [app(3)]},
                {"toCIDR": [format!("10.{}.{number}.0/24", namespace)]},
            ],
        },
    }))
}

/// All of the cluster; the diff of the cold start.
fn cluster() -> (Engine, Diff) {
    let mut changes = Vec::new();
    for namespace in 0..NAMESPACES {
        for number in 0..POLICIES {
            changes.push(Change::Policy(some_policy(namespace, number)));
        }
        for app in 0..APPS {
            changes.push(identity(namespace, app));
        }
        for app in 0..LOCAL {
            let subject = Subject {
                labels: labels(namespace, app),
                ports: NamedPorts::new(),
            };
            changes.push(Change::Subject(id(namespace, app), subject));
        }
    }
    let mut engine = Engine::new(Settings::default());
    let start = Instant::now();
    let diff = engine.apply(changes);
    eprintln!(
        "cold: {} rows in {:?}, {:?}",
        diff.ops.len(),
        start.elapsed(),
        diff.cost
    );
    (engine, diff)
}

fn timed(engine: &mut Engine, what: &str, change: Change) -> Diff {
    let start = Instant::now();
    let diff = engine.apply([change]);
    let took = start.elapsed();
    eprintln!(
        "{what}: {} writes in {took:?}, {:?}",
        diff.ops.len(),
        diff.cost
    );
    diff
}

#[test]
fn a_change_looks_at_what_it_concerns() {
    let (mut engine, cold) = cluster();
    assert!(cold.ops.len() > 100_000, "{}", cold.ops.len());
    assert!(cold.cost.tried < 60_000, "{:?}", cold.cost);

    // An identity comes that three selectors of its namespace name: the subjects whose rules use them, no others.
    timed(
        &mut engine,
        "identity gone",
        Change::IdentityGone(id(3, 100)),
    );
    let diff = timed(&mut engine, "identity", identity(3, 100));
    assert!(!diff.ops.is_empty());
    assert!(diff.cost.visited <= 2 * u64::from(LOCAL), "{:?}", diff.cost);
    assert!(diff.cost.terms <= 40, "{:?}", diff.cost);
    assert!(diff.cost.tried <= 8, "{:?}", diff.cost);
    assert!(
        diff.subjects
            .iter()
            .all(|subject| (id(3, 0)..id(3, LOCAL)).contains(subject))
    );

    // An identity that no rule names concerns nobody.
    let stranger = ["k8s:app=x", "k8s:io.kubernetes.pod.namespace=none"].map(str::to_owned);
    let stranger = Change::Identity(60_000, stranger.into_iter().collect(), NamedPorts::new());
    let diff = timed(&mut engine, "stranger", stranger);
    assert_eq!((diff.ops.len(), diff.cost.visited), (0, 0));

    // A policy for one subject.
    let mut more = some_policy(3, 1);
    more.name.name = "more".to_owned();
    let diff = timed(&mut engine, "policy", Change::Policy(more.clone()));
    assert_eq!(
        diff.subjects.iter().copied().collect::<Vec<_>>(),
        [id(3, 1)]
    );
    assert!(diff.cost.visited <= 60, "{:?}", diff.cost);

    // Said again, nothing happens, and what is added goes as it came.
    assert_eq!(
        timed(&mut engine, "again", Change::Policy(more.clone()))
            .cost
            .visited,
        0
    );
    let back = timed(&mut engine, "policy gone", Change::PolicyGone(more.name));
    assert_eq!(back.ops.len(), diff.ops.len());

    // A rule with 3,000 entries: one row each, whatever else there is.
    let ports: Vec<_> = (0..75)
        .map(|item: u32| {
            let ports = (0..40).map(|port| json!({"port": (20_001 + 2 * (item * 40 + port)).to_string(), "protocol": "TCP"}));
            json!({"ports": ports.collect::<Vec<_>>()})
        })
        .collect();
    let big = policy(&json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "big", "namespace": "n3"},
        "spec": {"endpointSelector": {"matchLabels": {"app": "a1"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "a9"}}], "toPorts": ports}]},
    }));
    let diff = timed(&mut engine, "3,000 entries", Change::Policy(big));
    assert_eq!(diff.ops.len(), 3000);
    assert_eq!(diff.cost.visited, 1);
}
