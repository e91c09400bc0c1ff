//! What people are told.
use crate::world::{World, policy};
use hypha_policy::Settings;
use hypha_policy::explain::{PairChange, Span, Turn, pair_changes, why};
use hypha_policy::reference::{End, Model, Packet};
use hypha_policy::resolve::{Change, Engine};
use hypha_policy::rule::{Direction, NamedPorts, Policy};
use model::Labels;
use proptest::prelude::*;
use serde_json::{Value, json};

fn cnp(name: &str, spec: Value) -> Policy {
    policy(
        &json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": name, "namespace": "a"}, "spec": spec}),
    )
}

fn labels(texts: &[&str]) -> Labels {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn answer(policies: &[Policy], source: &[&str], destination: &[&str], packet: Packet) -> String {
    let settings = Settings::default();
    let model = Model {
        settings: &settings,
        policies,
        groups: &[],
        services: &[],
    };
    let (source, destination, ports) = (labels(source), labels(destination), NamedPorts::new());
    let end = |labels, address| End {
        labels,
        ports: &ports,
        address,
    };
    let world = "192.0.2.7".parse().ok();
    let address = |labels: &Labels| world.filter(|_| labels.get("reserved:world").is_some());
    why(
        &model,
        &end(&source, address(&source)),
        &end(&destination, address(&destination)),
        packet,
    )
    .to_string()
}

const WEB: [&str; 2] = ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=a"];
const DB: [&str; 2] = ["k8s:app=db", "k8s:io.kubernetes.pod.namespace=a"];

fn tcp(port: u16) -> Packet {
    Packet { protocol: 6, port }
}

#[test]
fn both_sides_name_their_rules_or_what_is_needed() {
    let ports = |port: &str| json!([{"ports": [{"port": port, "protocol": "TCP"}]}]);
    let policies = [
        cnp(
            "db",
            json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": [
                {"fromEndpoints": [{"matchLabels": {"app": "web"}}], "toPorts": ports("5432")},
                {"fromEndpoints": [{"matchLabels": {"app": "backup"}}], "toPorts": ports("80")},
            ]}),
        ),
        cnp(
            "no-world",
            json!({"endpointSelector": {}, "enableDefaultDeny": {"egress": false}, "egressDeny": [{"toEntities": ["world"]}]}),
        ),
    ];
    assert_eq!(
        answer(&policies, &WEB, &DB, tcp(5432)),
        "allowed\negress: allowed: no policy denies it or asks for more\ningress: allowed by CiliumNetworkPolicy a/db: spec.ingress[0]"
    );
    assert_eq!(
        answer(&policies, &WEB, &DB, tcp(80)),
        "denied\negress: allowed: no policy denies it or asks for more\ningress: denied: no rule allows it\
         \n  CiliumNetworkPolicy a/db: spec.ingress[0] allows this peer, but not this port\
         \n  CiliumNetworkPolicy a/db: spec.ingress[1] allows this port, but not this peer\
         \n  needed: an entry of ingress in a policy that selects k8s:app=db,k8s:io.kubernetes.pod.namespace=a, \
         from fromEndpoints k8s:app=web,k8s:io.kubernetes.pod.namespace=a, toPorts 80/TCP"
    );
    assert_eq!(
        answer(&policies, &WEB, &["reserved:world"], tcp(443)),
        "denied\negress: denied by CiliumNetworkPolicy a/no-world: spec.egressDeny[0]"
    );
    assert_eq!(
        answer(&policies, &["reserved:host"], &DB, tcp(22)),
        "allowed\negress: allowed: no policy denies it or asks for more\ningress: allowed: the host reaches its pods"
    );
}

#[test]
fn a_change_is_told_as_pairs() {
    let spec = |last: u16| {
        json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": [
        {"fromEndpoints": [{"matchLabels": {"app": "web", "tier": "x"}}], "toPorts": [{"ports": [{"port": "80", "endPort": last, "protocol": "TCP"}]}]}]})
    };
    let mut world = World::new(Settings::default(), true);
    world.apply(vec![Change::Policy(cnp("p", spec(90)))]);
    let before = world.engine.clone();
    world.apply(vec![Change::Policy(cnp("p", spec(99)))]);
    let told: Vec<String> = pair_changes(&before, &world.engine)
        .iter()
        .map(|change| {
            let traffic: Vec<_> = change.traffic.iter().map(ToString::to_string).collect();
            format!(
                "{} {} {} {}",
                change.turn.sign(),
                change.source,
                change.destination,
                traffic.join(","),
            )
        })
        .collect();
    // 1001 is web with tier x, 1002 and 1003 are db.
    assert_eq!(told, ["+ 1001 1002 91-99/TCP", "+ 1001 1003 91-99/TCP"]);
    let back = pair_changes(&world.engine, &before);
    assert!(back.len() == 2 && back.iter().all(|change| change.turn == Turn::Closed));
    assert!(pair_changes(&before, &before).is_empty());
}

#[test]
fn what_is_asked_for_is_told_where_connections_pass_as_before() {
    let spec = |rules: Value| {
        let mut item = json!({"ports": [{"port": "80", "protocol": "TCP"}]});
        if !rules.is_null() {
            item["rules"] = json!({"http": [rules]});
        }
        json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": [
            {"fromEndpoints": [{"matchLabels": {"app": "web", "tier": "x"}}], "toPorts": [item]}]})
    };
    let engine = |rules: Value| {
        let mut world = World::new(Settings::default(), true);
        world.apply(vec![Change::Policy(cnp("p", spec(rules)))]);
        world.engine
    };
    let told = |before: &Engine, after: &Engine| -> Vec<String> {
        let changes = pair_changes(before, after).into_iter();
        let text = |change: PairChange| {
            format!(
                "{} {} {}",
                change.turn.sign(),
                change.destination,
                Span::words(&change.traffic).join(",")
            )
        };
        changes.map(text).collect()
    };
    let (plain, get, post) = (
        engine(json!(null)),
        engine(json!({"method": "GET"})),
        engine(json!({"method": "POST"})),
    );
    let both = ["~ 1002 80/TCP", "~ 1003 80/TCP"];
    assert_eq!(told(&plain, &get), both);
    assert_eq!(told(&get, &post), both);
    assert_eq!(told(&get, &plain), both);
    assert!(told(&get, &get.clone()).is_empty());
}

#[test]
fn the_proxy_and_its_rules_are_named() {
    let spec = |rules: Value| {
        json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": [
            {"fromEndpoints": [{"matchLabels": {"app": "web"}}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": rules}]}]})
    };
    let http = cnp("get", spec(json!({"http": [{"method": "GET"}]})));
    let said = answer(std::slice::from_ref(&http), &WEB, &DB, tcp(80));
    let place = "CiliumNetworkPolicy a/get: spec.ingress[0].toPorts[0].rules.http";
    assert!(
        said.ends_with(&format!(
            "ingress: allowed by way of the proxy: http rules {place}"
        )),
        "{said}"
    );
    let plain = cnp(
        "all",
        json!({"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "80"}]}]}]}),
    );
    let said = answer(&[http.clone(), plain], &WEB, &DB, tcp(80));
    assert!(
        said.contains("allowed by way of the proxy, every http request"),
        "{said}"
    );
    let kafka = cnp("read", spec(json!({"kafka": [{"role": "consume"}]})));
    let said = answer(&[http, kafka], &WEB, &DB, tcp(80));
    assert!(said.contains("a/get: spec.ingress[0].toPorts[0].rules.http is of another kind and allows nothing here"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A pair that changes is told, and one that does not is not.
    #[test]
    fn pairs_are_told_rightly(
        first in prop::collection::vec(crate::generate::object(), 0..4),
        second in prop::collection::vec(crate::generate::object(), 1..3),
        asks in crate::generate::asks(60),
    ) {
        use crate::world::Remote;
        use hypha_policy::kernel::{Question, Verdict};
        let mut world = World::new(Settings::default(), true);
        world.apply(first.iter().map(|object| Change::Policy(policy(object))).collect());
        let before = world.engine.clone();
        world.apply(second.iter().map(|object| Change::Policy(policy(object))).collect());
        let changes = pair_changes(&before, &world.engine);
        for ask in &asks.0 {
            let Remote::Member(remote) = ask.remote else { continue };
            let (source, destination) = match ask.direction {
                Direction::Egress => (ask.subject, remote),
                Direction::Ingress => (remote, ask.subject),
            };
            let passes = |engine: &hypha_policy::resolve::Engine| {
                let side = |subject, direction, remote| {
                    let question = Question { subject, direction, remote, protocol: ask.packet.protocol, port: Some(ask.packet.port) };
                    engine.ask(&question).is_none_or(|outcome| outcome.verdict == Verdict::Allow)
                };
                side(source, Direction::Egress, destination) && side(destination, Direction::Ingress, source)
            };
            let at = u32::from(ask.packet.protocol) << 16 | u32::from(ask.packet.port);
            let told = changes.iter().find(|change| {
                (change.source, change.destination) == (source, destination)
                    && change.traffic.iter().any(|span| span.contains(at))
            });
            let expected = (passes(&before), passes(&world.engine));
            match told {
                None => prop_assert_eq!(expected.0, expected.1),
                Some(change) => prop_assert_eq!(expected, match change.turn {
                    Turn::Opened => (false, true),
                    Turn::Closed => (true, false),
                    Turn::Requests => (true, true),
                }),
            }
        }
    }
}
