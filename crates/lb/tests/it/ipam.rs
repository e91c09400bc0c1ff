//! Addresses for load balancers, by cases.
use crate::kit::{ip, labels};
use hypha_lb::input::{Protocol, Service, ServiceType, TrafficPolicy};
use hypha_lb::lbipam::{Change, DefaultIpam, Families, Manager, PoolStatus, Request, Setup, Write};
use hypha_lb::node_ipam::{self, NodeFacts};
use hypha_lb::parse;
use model::Text;
use serde_json::{Value, json};

pub const SETUP: Setup = Setup {
    ipv4: true,
    ipv6: true,
    default: DefaultIpam::Pools,
};

pub fn pool(name: &str, created: i64, spec: &Value) -> Change {
    Change::Pool(
        Text::from(name),
        Some(parse::pool(name, created, spec).unwrap()),
    )
}

pub fn request(key: &str, notes: &[(&str, &str)]) -> Request {
    Request {
        key: Text::from(key),
        annotations: labels(notes),
        load_balancer: true,
        ports: vec![(Protocol::Tcp, 80)],
        ..Request::default()
    }
}

pub fn put(request: Request) -> Change {
    Change::Service(request.key.clone(), Some(request))
}

fn manager(changes: impl IntoIterator<Item = Change>) -> (Manager, Vec<Write>) {
    let mut manager = Manager::new(SETUP);
    changes.into_iter().for_each(|change| manager.apply(change));
    let writes = manager.flush();
    (manager, writes)
}

fn given(manager: &Manager, key: &str) -> String {
    let all: Vec<_> = manager
        .addresses(key)
        .iter()
        .map(ToString::to_string)
        .collect();
    all.join(" ")
}

/// `satisfied`, or the reason why not; with the message.
fn outcome(writes: &[Write], wanted: &str) -> (&'static str, String) {
    let found = writes.iter().rev().find_map(|write| match write {
        Write::Service { key, outcome, .. } if **key == *wanted => Some(outcome.clone()),
        _ => None,
    });
    match found.unwrap_or_else(|| panic!("nothing is written of {wanted}: {writes:?}")) {
        None => ("", String::new()),
        Some(Ok(())) => ("satisfied", String::new()),
        Some(Err(why)) => (why.reason, why.message),
    }
}

fn status(writes: &[Write], wanted: &str) -> PoolStatus {
    let found = writes.iter().rev().find_map(|write| match write {
        Write::Pool(name, status) if **name == *wanted => Some(status.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("nothing is written of {wanted}: {writes:?}"))
}

fn small() -> Change {
    pool(
        "small",
        1,
        &json!({"blocks": [{"start": "198.51.100.1", "stop": "198.51.100.2"}]}),
    )
}

#[test]
fn nothing_happens_before_the_first_pool() {
    let (mut manager, writes) = manager([put(request("a/s", &[]))]);
    assert!(writes.is_empty());
    manager.apply(small());
    let writes = manager.flush();
    assert_eq!(
        (given(&manager, "a/s").as_str(), outcome(&writes, "a/s").0),
        ("198.51.100.1", "satisfied")
    );
    assert!(manager.flush().is_empty());
}

#[test]
fn out_of_addresses_until_one_comes_free() {
    let (mut manager, writes) = manager([
        small(),
        put(request("a/1", &[])),
        put(request("a/2", &[])),
        put(request("a/3", &[])),
    ]);
    assert_eq!(
        (
            given(&manager, "a/2").as_str(),
            given(&manager, "a/3").as_str()
        ),
        ("198.51.100.2", "")
    );
    assert_eq!(outcome(&writes, "a/3").0, "out_of_ips");
    assert_eq!(
        (
            status(&writes, "small").used,
            status(&writes, "small").available()
        ),
        (2, 0)
    );
    assert_eq!(
        (manager.totals().matching, manager.totals().unsatisfied),
        (3, 1)
    );
    manager.apply(Change::Service("a/1".into(), None));
    let writes = manager.flush();
    assert_eq!(
        (given(&manager, "a/3").as_str(), outcome(&writes, "a/3").0),
        ("198.51.100.1", "satisfied")
    );
    manager.apply(Change::Pool("small".into(), None));
    let writes = manager.flush();
    assert_eq!(
        (given(&manager, "a/3").as_str(), outcome(&writes, "a/3").0),
        ("", "no_pool")
    );
}

#[test]
fn first_and_last_addresses_are_kept_back_if_asked_for() {
    let totals = |spec| status(&manager([pool("p", 1, &spec)]).1, "p").total;
    assert_eq!(totals(json!({"blocks": [{"cidr": "10.0.0.0/24"}]})), 256);
    assert_eq!(
        totals(json!({"blocks": [{"cidr": "10.0.0.0/24"}], "allowFirstLastIPs": "No"})),
        254
    );
    assert_eq!(
        totals(
            json!({"blocks": [{"cidr": "10.0.0.0/31"}, {"cidr": "fd00::1/128"}], "allowFirstLastIPs": "No"})
        ),
        3
    );
    assert_eq!(
        totals(
            json!({"blocks": [{"start": "10.0.0.0", "stop": "10.0.0.9"}, {"start": "10.0.1.0"}], "allowFirstLastIPs": "No"})
        ),
        11
    );
    assert_eq!(totals(json!({"blocks": [{"cidr": "::/0"}]})), u128::MAX);
    let (manager, _) = manager([
        pool(
            "p",
            1,
            &json!({"blocks": [{"cidr": "10.0.0.0/24"}], "allowFirstLastIPs": "No"}),
        ),
        put(request("a/s", &[])),
    ]);
    assert_eq!(given(&manager, "a/s"), "10.0.0.1");
}

#[test]
fn selectors_by_label_namespace_and_name() {
    let spec = |key: &str, value: &str, net: &str| json!({"blocks": [{"cidr": net}], "serviceSelector": {"matchLabels": {key: value}}});
    let changes = [
        pool("blue", 1, &spec("color", "blue", "10.1.0.0/24")),
        pool(
            "tenant",
            2,
            &spec("io.kubernetes.service.namespace", "b", "10.2.0.0/24"),
        ),
        pool(
            "one",
            3,
            &spec("io.kubernetes.service.name", "web", "10.3.0.0/24"),
        ),
        put(Request {
            labels: labels(&[("color", "blue")]),
            ..request("a/x", &[])
        }),
        put(request("b/x", &[])),
        put(request("a/web", &[])),
        put(request("a/none", &[])),
    ];
    let (mut manager, writes) = manager(changes);
    assert_eq!(
        ["a/x", "b/x", "a/web", "a/none"].map(|key| given(&manager, key)),
        ["10.1.0.0", "10.2.0.0", "10.3.0.0", ""]
    );
    assert_eq!(outcome(&writes, "a/none").0, "no_pool");
    manager.apply(put(Request {
        labels: labels(&[("color", "red")]),
        ..request("a/x", &[])
    }));
    assert_eq!(
        (outcome(&manager.flush(), "a/x").0, given(&manager, "a/x")),
        ("no_pool", String::new())
    );
}

#[test]
fn requested_addresses_and_why_they_cannot_be_had() {
    let ips = |list: &'static str| [("lbipam.cilium.io/ips", list)];
    let red = json!({"blocks": [{"cidr": "10.9.0.0/24"}], "serviceSelector": {"matchLabels": {"color": "red"}}});
    let (mut manager, writes) = manager([
        pool(
            "p",
            1,
            &json!({"blocks": [{"cidr": "10.0.0.0/24"}, {"cidr": "fd00::/64"}]}),
        ),
        pool("red", 2, &red),
        put(request("a/1", &ips("10.0.0.7,fd00::7,10.0.0.8"))),
        put(request("a/2", &ips("10.0.0.7"))),
        put(request("a/3", &ips("192.0.2.1"))),
        put(request("a/4", &ips("10.9.0.1"))),
        put(request("a/5", &ips("none"))),
        put(Request {
            address: "10.0.0.9".into(),
            ..request("a/6", &[])
        }),
    ]);
    assert_eq!(given(&manager, "a/1"), "10.0.0.7 10.0.0.8 fd00::7");
    assert_eq!(given(&manager, "a/6"), "10.0.0.9");
    let reasons = ["a/1", "a/2", "a/3", "a/4", "a/5"].map(|key| outcome(&writes, key).0);
    assert_eq!(
        reasons,
        [
            "satisfied",
            "already_allocated",
            "no_pool",
            "pool_selector_mismatch",
            "invalid_request"
        ]
    );
    assert!(
        outcome(&writes, "a/2")
            .1
            .contains("service a/1 has the requested address 10.0.0.7")
    );
    // Whoever has it gives it up: the other gets it.
    manager.apply(put(request("a/1", &ips("10.0.0.8"))));
    let writes = manager.flush();
    assert_eq!(
        (
            outcome(&writes, "a/2").0,
            given(&manager, "a/2").as_str(),
            given(&manager, "a/1").as_str()
        ),
        ("satisfied", "10.0.0.7", "10.0.0.8")
    );
}

#[test]
fn of_pools_that_overlap_the_older_is_used() {
    let (mut manager, writes) = manager([
        pool("new", 2, &json!({"blocks": [{"cidr": "10.0.0.0/16"}]})),
        pool("old", 1, &json!({"blocks": [{"cidr": "10.0.1.0/24"}]})),
        pool(
            "odd",
            3,
            &json!({"blocks": [{"cidr": "10.7.0.0/24"}, {"start": "10.7.0.9", "stop": "10.7.0.10"}]}),
        ),
        put(request("a/s", &[])),
    ]);
    assert_eq!(
        status(&writes, "new").conflict.as_deref(),
        Some("10.0.0.0/16 overlaps 10.0.1.0/24 of pool old")
    );
    assert_eq!(
        status(&writes, "odd").conflict.as_deref(),
        Some("10.7.0.9 - 10.7.0.10 overlaps 10.7.0.0/24 of the same pool")
    );
    assert_eq!(status(&writes, "new").conditions()[0].2, "cidr_overlap");
    assert_eq!(
        (
            given(&manager, "a/s").as_str(),
            manager.totals().conflicting
        ),
        ("10.0.1.0", 2)
    );
    manager.apply(Change::Pool("old".into(), None));
    let writes = manager.flush();
    assert_eq!(status(&writes, "new").conflict, None);
    assert_eq!(
        given(&manager, "a/s"),
        "10.0.1.0",
        "the address is in the other pool, too: it stays"
    );
}

#[test]
fn a_disabled_pool_keeps_what_it_gave() {
    let spec = |disabled: bool| json!({"blocks": [{"cidr": "10.0.0.0/24"}], "disabled": disabled});
    let (mut manager, _) = manager([pool("p", 1, &spec(false)), put(request("a/1", &[]))]);
    manager.apply(pool("p", 1, &spec(true)));
    manager.apply(put(request("a/2", &[])));
    let writes = manager.flush();
    assert_eq!(
        (given(&manager, "a/1").as_str(), outcome(&writes, "a/2").0),
        ("10.0.0.0", "no_pool")
    );
}

#[test]
fn both_families_as_the_policy_says() {
    let both = || {
        pool(
            "p",
            1,
            &json!({"blocks": [{"cidr": "10.0.0.0/24"}, {"cidr": "fd00::/64"}]}),
        )
    };
    let of = |families, ipv6: &[bool], setup| {
        let mut manager = Manager::new(setup);
        manager.apply(both());
        manager.apply(put(Request {
            families,
            ipv6: ipv6.to_vec(),
            ..request("a/s", &[])
        }));
        let writes = manager.flush();
        (given(&manager, "a/s"), outcome(&writes, "a/s").0)
    };
    let had = |text: &str, outcome| (text.to_owned(), outcome);
    let v4 = Setup {
        ipv6: false,
        ..SETUP
    };
    assert_eq!(
        of(Families::Single, &[], SETUP),
        had("10.0.0.0", "satisfied")
    );
    assert_eq!(
        of(Families::Single, &[true], SETUP),
        had("fd00::", "satisfied")
    );
    assert_eq!(
        of(Families::PreferDual, &[false, true], SETUP),
        had("10.0.0.0 fd00::", "satisfied")
    );
    assert_eq!(
        of(Families::PreferDual, &[false], v4),
        had("10.0.0.0", "satisfied")
    );
    assert_eq!(
        of(Families::RequireDual, &[false, true], SETUP),
        had("10.0.0.0 fd00::", "satisfied")
    );
    assert_eq!(
        of(Families::RequireDual, &[false, true], v4),
        had("", "no_pool")
    );
}

#[test]
fn one_family_without_a_pool_is_not_all_that_was_asked_for() {
    let dual = Request {
        families: Families::PreferDual,
        ..request("a/s", &[])
    };
    let (manager, writes) = manager([
        pool("p", 1, &json!({"blocks": [{"cidr": "10.0.0.0/24"}]})),
        put(dual),
    ]);
    assert_eq!(
        (given(&manager, "a/s").as_str(), outcome(&writes, "a/s").0),
        ("10.0.0.0", "no_pool")
    );
}

#[test]
fn sharing_by_key_and_what_stands_in_its_way() {
    let key = ("lbipam.cilium.io/sharing-key", "k");
    let at = |name: &str, port: u16, notes: &[(&str, &str)]| Request {
        ports: vec![(Protocol::Tcp, port)],
        ..request(name, notes)
    };
    let across = ("lbipam.cilium.io/sharing-cross-namespace", "a, b");
    let local = |request: Request, app: &str| Request {
        local: true,
        selector: labels(&[("app", app)]),
        ..request
    };
    let any_pods = ("lbipam.cilium.io/sharing-permit-different-pods", "true");
    let (manager, writes) = manager([
        pool("p", 1, &json!({"blocks": [{"cidr": "10.0.0.0/24"}]})),
        put(at("a/1", 80, &[key])),
        put(at("a/2", 81, &[key])),
        put(Request {
            ports: vec![(Protocol::Udp, 80)],
            ..request("a/3", &[key])
        }),
        put(at("a/4-same-port", 80, &[key])),
        put(at("b/5-namespace", 85, &[key, across])),
        put(at(
            "a/6-other-key",
            86,
            &[("lbipam.cilium.io/sharing-key", "l")],
        )),
        put(local(at("a/7-local", 87, &[key]), "x")),
        put(Request {
            ports: vec![(Protocol::Tcp, 80)],
            ..request("a/8-asks", &[key, ("lbipam.cilium.io/ips", "10.0.0.0")])
        }),
    ]);
    let shown = [
        "a/1",
        "a/2",
        "a/3",
        "a/4-same-port",
        "b/5-namespace",
        "a/6-other-key",
        "a/7-local",
    ]
    .map(|key| given(&manager, key));
    assert_eq!(
        shown,
        [
            "10.0.0.0", "10.0.0.0", "10.0.0.0", "10.0.0.1", "10.0.0.4", "10.0.0.2", "10.0.0.3"
        ]
    );
    let (reason, message) = outcome(&writes, "a/8-asks");
    assert!(
        reason == "already_allocated_incompatible_service"
            && message.contains("both have port 80/TCP"),
        "{message}"
    );

    let pair = |one: Request, two: Request| {
        let (manager, _) = self::manager([
            pool("p", 1, &json!({"blocks": [{"cidr": "10.0.0.0/24"}]})),
            put(one.clone()),
            put(two.clone()),
        ]);
        given(&manager, &one.key) == given(&manager, &two.key)
    };
    assert!(pair(
        at("a/1", 80, &[key, across]),
        at("b/2", 81, &[key, across])
    ));
    assert!(!pair(
        at("a/1", 80, &[key, across]),
        at("c/2", 81, &[key, across])
    ));
    assert!(pair(
        at(
            "a/1",
            80,
            &[key, ("lbipam.cilium.io/sharing-cross-namespace", "*")]
        ),
        at("b/2", 81, &[key, across])
    ));
    assert!(pair(
        local(at("a/1", 80, &[key]), "x"),
        local(at("a/2", 81, &[key]), "x")
    ));
    assert!(!pair(
        local(at("a/1", 80, &[key]), "x"),
        local(at("a/2", 81, &[key]), "y")
    ));
    assert!(pair(
        local(at("a/1", 80, &[key, any_pods]), "x"),
        local(at("a/2", 81, &[key, any_pods]), "y")
    ));
}

#[test]
fn classes_that_are_not_ours_are_left_alone_and_given_up() {
    for (class, ours) in [
        ("", true),
        ("io.cilium/l2-announcer", true),
        ("io.cilium/bgp-control-plane", true),
        ("io.cilium/node", false),
        ("cloud", false),
    ] {
        let theirs = Request {
            class: class.into(),
            ingress: vec![ip("203.0.113.1")],
            ..request("a/s", &[])
        };
        let (manager, writes) = manager([small(), put(theirs)]);
        assert_eq!(given(&manager, "a/s").is_empty(), !ours, "{class}");
        assert_eq!(
            writes
                .iter()
                .any(|write| matches!(write, Write::Service { .. })),
            ours,
            "{class}"
        );
    }
    let (mut manager, _) = manager([small(), put(request("a/s", &[]))]);
    manager.apply(put(Request {
        load_balancer: false,
        ingress: vec![ip("198.51.100.1")],
        ..request("a/s", &[])
    }));
    let writes = manager.flush();
    assert!(
        writes.contains(&Write::Service {
            key: "a/s".into(),
            ingress: vec![],
            outcome: None
        }),
        "{writes:?}"
    );
    let nobody = Setup {
        default: DefaultIpam::parse("none").unwrap(),
        ..SETUP
    };
    assert!(!nobody.manages(&request("a/s", &[])));
}

#[test]
fn what_somebody_else_writes_over_is_written_again() {
    let (mut manager, _) = manager([small(), put(request("a/s", &[]))]);
    manager.apply(put(Request {
        ingress: vec![ip("198.51.100.1")],
        ..request("a/s", &[])
    }));
    assert!(manager.flush().is_empty());
    manager.apply(put(Request {
        ingress: vec![ip("203.0.113.1")],
        ..request("a/s", &[])
    }));
    assert_eq!(outcome(&manager.flush(), "a/s").0, "satisfied");
}

#[test]
fn after_a_restart_everybody_keeps_what_the_status_says() {
    let has = |key, created, text: &str| Request {
        created,
        ingress: vec![ip(text)],
        ..request(key, &[])
    };
    let (manager, _) = manager([
        small(),
        put(Request {
            created: 0,
            ..request("a/new", &[])
        }),
        put(has("a/1", 1, "198.51.100.1")),
        put(has("a/2", 2, "198.51.100.1")),
    ]);
    assert_eq!(
        ["a/new", "a/1", "a/2"].map(|key| given(&manager, key)),
        ["198.51.100.2", "198.51.100.1", ""]
    );
}

fn node(name: &str, internal: &str, external: &[&str], pairs: &[(&str, &str)]) -> NodeFacts {
    NodeFacts {
        name: Text::from(name),
        labels: labels(pairs),
        internal: vec![ip(internal), ip("fd00:9::1")],
        external: external.iter().map(|text| ip(text)).collect(),
        leaving: false,
    }
}

#[test]
fn addresses_of_nodes() {
    let service = Service {
        kind: ServiceType::LoadBalancer,
        class: "io.cilium/node".into(),
        ..Service::default()
    };
    assert!(node_ipam::manages(&service, DefaultIpam::Pools));
    let plain = Service {
        class: Text::default(),
        ..service.clone()
    };
    assert!(
        node_ipam::manages(&plain, DefaultIpam::Nodes)
            && !node_ipam::manages(&plain, DefaultIpam::Pools)
    );
    let mut nodes = vec![
        node("n1", "10.0.0.1", &[], &[("zone", "a")]),
        node("n2", "10.0.0.2", &[], &[("zone", "b")]),
        node("n3", "10.0.0.3", &[], &[(node_ipam::EXCLUDED, "")]),
    ];
    let endpoints = [
        crate::kit::endpoint("10.1.0.1", "n2"),
        crate::kit::not_ready("10.1.0.2", "n1"),
    ];
    let of = |service: &Service, nodes: &[NodeFacts], families| {
        let all = node_ipam::addresses(service, families, nodes, &endpoints).unwrap();
        all.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(of(&service, &nodes, [true, false]), "10.0.0.1 10.0.0.2");
    assert_eq!(
        of(&service, &nodes, [true, true]),
        "10.0.0.1 10.0.0.2 fd00:9::1"
    );
    let local = Service {
        external_policy: TrafficPolicy::Local,
        ..service.clone()
    };
    assert_eq!(of(&local, &nodes, [true, false]), "10.0.0.2");
    let chosen = Service {
        annotations: labels(&[("io.cilium.nodeipam/match-node-labels", "zone in (a)")]),
        ..service.clone()
    };
    assert_eq!(of(&chosen, &nodes, [true, false]), "10.0.0.1");
    nodes[1].external = vec![ip("203.0.113.2")];
    assert_eq!(
        of(&service, &nodes, [true, false]),
        "203.0.113.2",
        "outer addresses, where any node has some"
    );
    nodes[1].leaving = true;
    assert_eq!(of(&service, &nodes, [true, false]), "10.0.0.1");
    let wrong = Service {
        annotations: labels(&[("io.cilium.nodeipam/match-node-labels", "zone in a")]),
        ..service
    };
    assert!(node_ipam::addresses(&wrong, [true, true], &nodes, &endpoints).is_err());
}
