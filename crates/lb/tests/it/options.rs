//! What a service and the settings may ask for besides: affinity, ranges, annotations, forwarding, algorithms, states.
use crate::cases::{flags_of, plan, two_nodes};
use crate::kit::*;
use crate::sim::Sim;
use hypha_lb::frontend::{Algorithm, State, flags};
use hypha_lb::input::Mark;
use hypha_lb::rows::{Op, Row};
use hypha_lb::{Change, Forwarding, Settings, maglev};

#[test]
fn affinity_has_rows_for_those_who_serve_and_a_time_out() {
    let mut service = service("a/s", &["10.96.0.1"], &[("http", 80, 0)]);
    for (given, expected) in [(0, 10_800), (60, 60), (1_000_000, 86_400)] {
        service.affinity = Some(given);
        let (planner, ops) = planned(Settings::default(), two_nodes(service.clone()));
        assert_eq!(
            planner.row(&key("10.96.0.1:80")).unwrap().affinity,
            expected
        );
        assert_eq!(
            ops.iter()
                .filter(|op| matches!(op, Op::Put(Row::Affinity(..))))
                .count(),
            2
        );
    }
    let (planner, _) = planned(
        Settings {
            affinity: false,
            ..Settings::default()
        },
        two_nodes(service),
    );
    assert_eq!(
        planner.row(&key("10.96.0.1:80")).unwrap().flags & flags::AFFINITY,
        0
    );
}

#[test]
fn source_ranges_of_load_balancers_by_family() {
    let mut lb = balanced(
        service("a/s", &["10.96.0.1"], &[("http", 80, 30_080)]),
        &["198.51.100.1", "fd00:2::1"],
    );
    lb.source_ranges = vec!["10.0.0.0/8".into(), " fd00::/16 ".into(), "x".into()];
    let (planner, ops) = planned(Settings::default(), two_nodes(lb.clone()));
    let mut sim = Sim::default();
    sim.run(&ops);
    assert!(
        sim.admits(&key("198.51.100.1:80"), ip("10.1.1.1"))
            && !sim.admits(&key("198.51.100.1:80"), ip("11.1.1.1"))
    );
    assert!(
        sim.admits(&key("[fd00:2::1]:80"), ip("fd00::7"))
            && !sim.admits(&key("[fd00:2::1]:80"), ip("fd01::7"))
    );
    assert!(
        sim.admits(&key("192.0.2.11:30080"), ip("11.1.1.1")),
        "node ports are not checked unless asked for"
    );
    assert!(
        planner.problems()[0]
            .1
            .to_string()
            .contains("\"x\" is no range")
    );
    lb.annotations = labels(&[("service.cilium.io/src-ranges-policy", "deny")]);
    let all = Settings {
        source_ranges_all: true,
        ..Settings::default()
    };
    let (_, ops) = planned(all, two_nodes(lb));
    let mut sim = Sim::default();
    sim.run(&ops);
    for place in ["198.51.100.1:80", "192.0.2.11:30080"] {
        assert!(
            !sim.admits(&key(place), ip("10.1.1.1")) && sim.admits(&key(place), ip("11.1.1.1")),
            "{place}"
        );
    }
}

#[test]
fn ranges_that_cannot_be_read_let_nobody_in() {
    let mut lb = balanced(
        service("a/s", &["10.96.0.1"], &[("http", 80, 0)]),
        &["198.51.100.1"],
    );
    lb.source_ranges = vec!["everybody".into()];
    let (_, ops) = planned(Settings::default(), two_nodes(lb));
    let mut sim = Sim::default();
    sim.run(&ops);
    assert!(!sim.admits(&key("198.51.100.1:80"), ip("10.1.1.1")));
}

#[test]
fn annotations_limit_types_and_nodes() {
    let lb = |pairs| {
        let mut lb = balanced(
            service("a/s", &["10.96.0.1"], &[("http", 80, 30_080)]),
            &["198.51.100.1"],
        );
        lb.annotations = labels(pairs);
        let planner = plan(lb);
        let kinds: std::collections::BTreeSet<_> = planner
            .frontends()
            .map(|frontend| frontend.kind.text())
            .collect();
        kinds.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(lb(&[]), "ClusterIP LoadBalancer NodePort");
    assert_eq!(
        lb(&[("service.cilium.io/type", "LoadBalancer")]),
        "LoadBalancer"
    );
    assert_eq!(
        lb(&[("service.cilium.io/type", "ClusterIP, NodePort")]),
        "ClusterIP NodePort"
    );
    assert_eq!(
        lb(&[("service.cilium.io/node", "edge")]),
        "ClusterIP LoadBalancer NodePort"
    );
    assert_eq!(lb(&[("service.cilium.io/node", "core")]), "");
    assert_eq!(
        lb(&[("service.cilium.io/node-selector", "role in (worker)")]),
        "ClusterIP LoadBalancer NodePort"
    );
    assert_eq!(
        lb(&[("service.cilium.io/node-selector", "role=control")]),
        ""
    );
}

#[test]
fn another_proxy_s_services_are_left_alone() {
    let mut theirs = service("a/s", &["10.96.0.1"], &[("http", 80, 0)]);
    theirs.labels = labels(&[("service.kubernetes.io/service-proxy-name", "mine")]);
    assert!(listing(&plan(theirs.clone())).is_empty());
    let settings = Settings {
        proxy_name: "mine".into(),
        ..Settings::default()
    };
    assert_eq!(listing(&planned(settings, two_nodes(theirs)).0).len(), 1);
}

#[test]
fn forwarding_modes_by_protocol_and_annotation() {
    let dsr = |forwarding, note: Option<&str>| {
        let mut service = service(
            "a/s",
            &["10.96.0.1"],
            &[("tcp-a", 80, 30_080), ("udp-b", 80, 30_080)],
        );
        service.annotations = note.map_or_else(
            || labels(&[]),
            |note| labels(&[("service.cilium.io/forwarding-mode", note)]),
        );
        let settings = Settings {
            forwarding,
            forwarding_annotation: true,
            ..Settings::default()
        };
        let planner = planned(settings, two_nodes(service)).0;
        assert_eq!(
            flags_of(&planner, "10.96.0.1:80") & flags::DSR,
            0,
            "only from outside"
        );
        ["192.0.2.11:30080/TCP", "192.0.2.11:30080/UDP"]
            .map(|place| flags_of(&planner, place) & flags::DSR != 0)
    };
    assert_eq!(dsr(Forwarding::Snat, None), [false, false]);
    assert_eq!(dsr(Forwarding::Dsr, None), [true, true]);
    assert_eq!(dsr(Forwarding::Hybrid, None), [true, false]);
    assert_eq!(dsr(Forwarding::Dsr, Some("snat")), [false, false]);
    assert_eq!(dsr(Forwarding::Snat, Some("dsr")), [true, true]);
}

#[test]
fn maglev_outside_random_inside_and_shared_by_the_service_s_frontends() {
    let settings = Settings {
        algorithm: Algorithm::Maglev,
        maglev: maglev::Shape::new(251, b"x").unwrap(),
        ..Settings::default()
    };
    let service = local(
        service("a/s", &["10.96.0.1"], &[("http", 80, 30_080)]),
        false,
        true,
    );
    let (planner, ops) = planned(settings, two_nodes(service));
    let algorithm = |text: &str| planner.frontend(&key(text)).unwrap().algorithm;
    assert_eq!(algorithm("192.0.2.11:30080"), Algorithm::Maglev);
    assert_eq!(
        (
            algorithm("10.96.0.1:80"),
            algorithm("192.0.2.11:30080/TCP/i")
        ),
        (Algorithm::Random, Algorithm::Random)
    );
    let tables: Vec<_> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Put(Row::Maglev(_, _, table)) => Some(table),
            _ => None,
        })
        .collect();
    assert!(tables.len() == 2 && std::sync::Arc::ptr_eq(tables[0], tables[1]));
}

#[test]
fn a_frontend_of_one_family_with_backends_of_the_other() {
    let lb = balanced(
        service("a/s", &["10.96.0.1"], &[("http", 80, 0)]),
        &["fd00:2::1"],
    );
    let endpoints = || vec![endpoint("10.0.0.1", "n1")];
    let settings = Settings {
        nat46x64: true,
        ..Settings::default()
    };
    let (planner, _) = planned(
        settings,
        [
            put_slice(slice(&lb, 80, endpoints())),
            put_service(lb.clone()),
        ],
    );
    assert_eq!(backends(&planner, "[fd00:2::1]:80"), ["10.0.0.1"]);
    assert!(flags_of(&planner, "[fd00:2::1]:80") & flags::NAT46X64 != 0);
    let (planner, _) = planned(
        Settings::default(),
        [put_slice(slice(&lb, 80, endpoints())), put_service(lb)],
    );
    assert!(backends(&planner, "[fd00:2::1]:80").is_empty());
}

#[test]
fn quarantine_maintenance_and_weights() {
    let service = service("a/s", &["10.96.0.1"], &[("http", 80, 0)]);
    let (mut planner, _) = planned(Settings::default(), two_nodes(service.clone()));
    let (one, two) = (backend("10.0.1.1:8080"), backend("10.0.2.1:8080"));
    planner.apply(Change::Mark(one, Some(Mark::Quarantined)));
    let left = planner.flush().left;
    assert_eq!(
        (left.len(), left[0].backend, left[0].kept),
        (1, one, Some(State::Quarantined))
    );
    assert_eq!(backends(&planner, "10.96.0.1:80"), ["10.0.2.1"]);
    planner.apply(Change::Mark(two, Some(Mark::Maintenance)));
    planner.flush();
    assert_eq!(
        backends(&planner, "10.96.0.1:80"),
        ["10.0.1.1"],
        "a sick one is better than none"
    );
    planner.apply(Change::Mark(one, None));
    let mut none = slice(&service, 8080, vec![endpoint("10.0.3.1", "n1")]);
    none.annotations = labels(&[("service.cilium.io/weight", "0")]);
    planner.apply(put_slice(none));
    planner.flush();
    assert!(
        backends(&planner, "10.96.0.1:80").is_empty(),
        "a weight of zero is maintenance"
    );
}
