//! Rules above the transport: who is seen by the proxy, and what it has to know. Told from the semantics by hand.
use crate::scenarios::{A_DB, A_WEB, B_WEB, DNS, WEB, cnp, named, port};
use crate::world::{Ask, Remote, World, policy};
use hypha_policy::Settings;
use hypha_policy::kernel::{Map, Question, Verdict};
use hypha_policy::reference::{Decision, Packet};
use hypha_policy::resolve::{Change, Engine, Subject};
use hypha_policy::rule::Direction::{self, Egress, Ingress};
use hypha_policy::rule::{L7Kind, NamedPorts};
use serde_json::{Value, json};

/// Items of `toPorts`: the ports of TCP with http rules of this path.
fn http(port: &str, path: &str) -> Value {
    json!([{"ports": [{"port": port, "protocol": "TCP"}], "rules": {"http": [{"path": path}]}}])
}

fn kafka(port: &str) -> Value {
    json!([{"ports": [{"port": port, "protocol": "TCP"}], "rules": {"kafka": [{"role": "consume"}]}}])
}

fn from(app: &str) -> Value {
    json!([{"matchLabels": {"app": app}}])
}

fn world(objects: &[Value]) -> World {
    let mut world = World::new(Settings::default(), true);
    let changes = objects.iter().map(|object| Change::Policy(policy(object)));
    world.apply(changes.collect());
    world
}

/// `denied`, `plain`, or the kind and the paths of what may be asked for. Model, rows and rules for the proxy must agree.
fn asked(world: &World, direction: Direction, subject: u32, remote: u32, packet: Packet) -> String {
    let ask = Ask {
        subject,
        direction,
        remote: Remote::Member(remote),
        packet,
    };
    match world.compare(&ask).unwrap() {
        Decision::Denied(_) | Decision::NotAllowed => "denied".to_owned(),
        Decision::AllowedVia(via) => {
            let paths: Vec<&str> = via.rules.iter().map(|(_, l7)| l7.path.as_str()).collect();
            let all = if via.all { " all" } else { "" };
            format!("{}{all} {}", via.kind, paths.join(" "))
        }
        _ => "plain".to_owned(),
    }
}

fn of_db(ingress: Value) -> Value {
    json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": ingress})
}

const RULE: &str = "spec.ingress[0].toPorts[0].rules.http";

#[test]
fn rules_add_up_and_those_without_any_limit_lift_that_of_others() {
    let web = json!({"fromEndpoints": from("web"), "toPorts": http("80", "/a")});
    let seen = |second: Value| {
        let world = world(&[cnp("p", of_db(json!([web, second])))]);
        asked(&world, Ingress, A_DB, A_WEB, WEB)
    };
    let both = format!("http {RULE} spec.ingress[1].toPorts[0].rules.http");
    let all = format!("http all {RULE}");
    let db = json!({"fromEndpoints": from("db"), "toPorts": port("80", "TCP")});
    assert_eq!(seen(db), format!("http {RULE}"), "of another peer");
    assert_eq!(seen(json!({"toPorts": http("80", "/b")})), both);
    for broader in [
        json!({"fromEndpoints": from("web"), "toPorts": port("80", "TCP")}),
        json!({"toPorts": port("80", "TCP")}),
        json!({"fromEndpoints": from("web")}),
        json!({"fromEntities": ["cluster"]}),
        json!({"toPorts": [{"ports": [{"port": "79", "endPort": 90}]}]}),
        json!({"toPorts": port("0", "ANY")}),
    ] {
        assert_eq!(seen(broader.clone()), all, "{broader}");
    }
    let other = json!({"fromEndpoints": from("web"), "toPorts": port("81", "TCP")});
    assert_eq!(seen(other), format!("http {RULE}"), "at another port");
}

#[test]
fn who_is_not_seen_is_allowed_or_not_as_ever() {
    let rules = json!([{"fromEndpoints": from("web"), "toPorts": http("80", "/a")}, {"toPorts": port("81", "TCP")}]);
    let world = world(&[cnp("p", of_db(rules))]);
    let tcp = |port| Packet { protocol: 6, port };
    assert_eq!(asked(&world, Ingress, A_DB, 1003, WEB), "denied");
    assert_eq!(asked(&world, Ingress, A_DB, A_WEB, tcp(81)), "plain");
    assert_eq!(asked(&world, Ingress, A_DB, A_WEB, tcp(82)), "denied");
    assert_eq!(
        asked(&world, Ingress, A_DB, 1, WEB),
        "plain",
        "the host reaches its pods"
    );
    assert!(world.engine.proxy_rules(A_WEB).is_empty());
}

#[test]
fn deny_and_admin_policies_come_before() {
    let allow = json!([{"toPorts": http("80", "/a")}]);
    let deny = |denied: Value| {
        let mut spec = of_db(allow.clone());
        spec["ingressDeny"] = json!([denied]);
        asked(&world(&[cnp("p", spec)]), Ingress, A_DB, A_WEB, WEB)
    };
    assert_eq!(deny(json!({"fromEndpoints": from("web")})), "denied");
    assert_eq!(deny(json!({"toPorts": port("0", "ANY")})), "denied");
    assert_eq!(
        deny(json!({"fromEndpoints": from("db")})),
        format!("http {RULE}")
    );
    let admin = |action: &str| {
        let spec = json!({"priority": 1, "subject": {"namespaces": {}}, "ingress": [{"action": action, "from": [{"namespaces": {}}]}]});
        let objects = [
            cnp("p", of_db(allow.clone())),
            named("AdminNetworkPolicy", "a", None, spec),
        ];
        asked(&world(&objects), Ingress, A_DB, A_WEB, WEB)
    };
    assert_eq!(admin("Allow"), "plain");
    assert_eq!(admin("Deny"), "denied");
    assert_eq!(admin("Pass"), format!("http {RULE}"));
}

#[test]
fn a_policy_that_denies_nothing_takes_nothing_away() {
    let mut spec = of_db(json!([{"toPorts": http("80", "/a")}]));
    spec["enableDefaultDeny"] = json!({"ingress": false});
    let open = cnp("p", spec);
    let all = format!("http all {RULE}");
    assert_eq!(
        asked(
            &world(std::slice::from_ref(&open)),
            Ingress,
            A_DB,
            A_WEB,
            WEB
        ),
        all
    );
    let closed = cnp("q", of_db(json!([{}])));
    let seen = asked(&world(&[open.clone(), closed]), Ingress, A_DB, A_WEB, WEB);
    assert_eq!(seen, format!("http {RULE}"));
    // What the baseline says of the rest is not told apart by request: then the rule is all that counts.
    let spec = json!({"subject": {"namespaces": {}}, "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]});
    let baseline = named("BaselineAdminNetworkPolicy", "default", None, spec);
    let seen = asked(&world(&[open, baseline]), Ingress, A_DB, A_WEB, WEB);
    assert_eq!(seen, format!("http {RULE}"));
}

#[test]
fn of_two_kinds_one_counts_everywhere_and_both_policies_are_told() {
    let wide = cnp(
        "wide",
        of_db(
            json!([{"toPorts": [{"ports": [{"port": "79", "endPort": 90, "protocol": "TCP"}], "rules": {"http": [{}]}}]}]),
        ),
    );
    let narrow = cnp(
        "narrow",
        of_db(json!([{"fromEndpoints": from("web"), "toPorts": kafka("80")}])),
    );
    let both = world(&[wide.clone(), narrow]);
    assert_eq!(
        asked(&both, Ingress, A_DB, A_WEB, WEB),
        "kafka spec.ingress[0].toPorts[0].rules.kafka"
    );
    assert_eq!(
        asked(&both, Ingress, A_DB, 1003, WEB),
        format!("http {RULE}")
    );
    let conflicts = both.engine.proxy_conflicts();
    assert_eq!(conflicts.len(), 2, "{conflicts:?}");
    assert!(
        conflicts
            .values()
            .all(|text| text.contains("kafka") && text.contains("a/wide"))
    );
    let elsewhere = cnp("narrow", of_db(json!([{"toPorts": kafka("9092")}])));
    assert!(
        world(&[wide, elsewhere])
            .engine
            .proxy_conflicts()
            .is_empty()
    );
}

#[test]
fn connections_are_decrypted_by_one_certificate() {
    let by = |name: &str, secret: &str, server: &str| {
        let item = json!({"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": [server],
            "terminatingTLS": {"secret": {"name": secret}}});
        cnp(name, of_db(json!([{"toPorts": [item]}])))
    };
    let conflicts = |other: Value| {
        let both = world(&[by("one", "s", "a.org"), other]);
        both.engine.proxy_conflicts().len()
    };
    assert_eq!(conflicts(by("two", "t", "a.org")), 2);
    assert_eq!(conflicts(by("two", "s", "a.org")), 0);
    assert_eq!(conflicts(by("two", "t", "b.org")), 0);
}

#[test]
fn dns_is_seen_by_udp_and_tcp() {
    let dns = |protocol: &str| json!([{"ports": [{"port": "53", "protocol": protocol}], "rules": {"dns": [{"matchPattern": "*"}]}}]);
    let seen = |protocol: &str, packet: Packet| {
        let spec = json!({"endpointSelector": {}, "egress": [{"toPorts": dns(protocol)}]});
        asked(&world(&[cnp("p", spec)]), Egress, A_WEB, B_WEB, packet)
    };
    let by = |protocol| Packet { protocol, port: 53 };
    let rules = "dns spec.egress[0].toPorts[0].rules.dns";
    assert_eq!(
        (seen("ANY", DNS), seen("ANY", by(6))),
        (rules.to_owned(), rules.to_owned())
    );
    assert_eq!(
        (seen("UDP", DNS), seen("UDP", by(6))),
        (rules.to_owned(), "denied".to_owned())
    );
    assert_eq!(
        seen("ANY", by(132)),
        "denied",
        "questions by SCTP cannot be told apart"
    );
}

#[test]
fn names_of_ports_are_those_of_the_receiver() {
    let named = |list: &str| json!({"endpointSelector": {}, list: [{"toPorts": [{"ports": [{"port": "http", "protocol": "TCP"}], "rules": {"http": [{}]}}]}]});
    let ingress = world(&[cnp("p", named("ingress"))]);
    let (of_1001, of_1002) = (
        Packet {
            protocol: 6,
            port: 80,
        },
        Packet {
            protocol: 6,
            port: 8080,
        },
    );
    let rules = "http spec.ingress[0].toPorts[0].rules.http";
    assert_eq!(asked(&ingress, Ingress, 1001, B_WEB, of_1002), "denied");
    let all: Vec<_> = (1000..1004)
        .flat_map(|subject| {
            [of_1001, of_1002].map(|packet| asked(&ingress, Ingress, subject, B_WEB, packet))
        })
        .collect();
    assert_eq!(
        all.iter().filter(|seen| *seen == rules).count(),
        3,
        "{all:?}"
    );
    let egress = world(&[cnp("p", named("egress"))]);
    for one in egress.engine.proxy_rules(A_WEB).iter() {
        assert!(
            one.peers
                .as_ref()
                .is_some_and(|peers| !peers.contains(&A_WEB)
                    || one.first == 80
                    || one.first == 8080)
        );
    }
    assert!(!egress.engine.proxy_rules(A_WEB).is_empty());
}

#[test]
fn a_rule_that_changes_is_told_and_writes_no_rows() {
    let mut world = world(&[cnp("p", of_db(json!([{"toPorts": http("80", "/a")}])))]);
    let other = Change::Policy(policy(&cnp(
        "p",
        of_db(json!([{"toPorts": http("80", "/b")}])),
    )));
    let diff = world.apply(vec![other.clone()]);
    assert!(diff.ops.is_empty(), "{:?}", diff.ops);
    assert!(diff.proxy_rules.contains(&A_DB) && !diff.proxy_rules.contains(&A_WEB));
    let again = world.apply(vec![other]);
    assert!(again.proxy_rules.is_empty());
    let gone = world.apply(vec![Change::SubjectGone(A_DB)]);
    assert!(gone.proxy_rules.contains(&A_DB));
    assert!(world.engine.proxy_rules(A_DB).is_empty());
}

/// Rows in the order of the contract: at no moment does what the proxy has to see pass by it.
#[test]
fn turning_the_proxy_on_and_off_opens_nothing_in_between() {
    let subject = Subject {
        labels: crate::world::labels(&["k8s:app=db", "k8s:io.kubernetes.pod.namespace=a"]),
        ports: NamedPorts::new(),
    };
    let question = Question {
        subject: 7,
        direction: Ingress,
        remote: 9,
        protocol: 6,
        port: Some(80),
    };
    let mut engine = Engine::new(Settings::default());
    let mut map = Map::default();
    let mut step = |change: Change| {
        let diff = engine.apply([change]);
        let mut seen = vec![map.ask(&question)];
        for op in &diff.ops {
            match op {
                hypha_policy::resolve::Op::Put(key, value) => map.put(*key, *value),
                hypha_policy::resolve::Op::Delete(key) => map.delete(key),
            }
            seen.push(map.ask(&question));
        }
        seen.into_iter()
            .map(|one| (one.verdict, one.l7))
            .collect::<Vec<_>>()
    };
    step(Change::Subject(7, subject));
    let plain = |text: Value| Change::Policy(policy(&cnp("p", of_db(text))));
    step(plain(json!([{"toPorts": port("80", "TCP")}])));
    let on = step(plain(json!([{"toPorts": http("80", "/a")}])));
    assert!(
        on.iter().all(|(verdict, _)| *verdict == Verdict::Allow),
        "{on:?}"
    );
    assert_eq!(on.last(), Some(&(Verdict::Allow, Some(L7Kind::Http))));
    let wider = step(plain(
        json!([{"toPorts": [{"ports": [{"port": "80", "endPort": 90, "protocol": "TCP"}], "rules": {"http": [{}]}}]}]),
    ));
    assert!(
        wider
            .iter()
            .all(|one| *one == (Verdict::Allow, Some(L7Kind::Http))),
        "{wider:?}"
    );
}

#[test]
fn names_of_servers_are_rules_like_others() {
    let tls = |names: Value| json!([{"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": names}]);
    let web = json!({"fromEndpoints": from("web"), "toPorts": tls(json!(["a.org", "**.a.org"]))});
    let seen = |second: Value| {
        let world = world(&[cnp("p", of_db(json!([web, second])))]);
        let https = Packet {
            protocol: 6,
            port: 443,
        };
        asked(&world, Ingress, A_DB, A_WEB, https)
    };
    let first = "spec.ingress[0].toPorts[0].serverNames";
    let second = "spec.ingress[1].toPorts[0].serverNames";
    let other = json!({"toPorts": tls(json!(["b.org"]))});
    assert_eq!(seen(other), format!("tls {first} {second}"));
    let plain = json!({"toPorts": port("443", "TCP")});
    assert_eq!(seen(plain), format!("tls all {first}"));
    // Of two kinds the connection is taken for one.
    let other = json!({"toPorts": http("443", "/a")});
    assert_eq!(seen(other), format!("tls {first}"));
}
