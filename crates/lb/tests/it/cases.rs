//! Each kind of service and each traffic policy, by name.
use crate::kit::*;
use hypha_lb::frontend::{State, flags};
use hypha_lb::input::{Node, Service, ServiceType};
use hypha_lb::{Change, Planner, Settings};

/// A service with two backends on this node's and the other's.
pub fn two_nodes(service: Service) -> [Change; 2] {
    let endpoints = vec![
        endpoint("10.0.1.1", "n1"),
        endpoint("10.0.2.1", "n2"),
        endpoint("fd00::1:1", "n1"),
        endpoint("fd00::2:1", "n2"),
    ];
    [
        put_slice(slice(&service, 8080, endpoints)),
        put_service(service),
    ]
}

pub fn plan(service: Service) -> Planner {
    planned(Settings::default(), two_nodes(service)).0
}

pub fn flags_of(planner: &Planner, text: &str) -> u16 {
    planner.frontend(&key(text)).unwrap().flags
}

#[test]
fn cluster_ip_of_both_families() {
    let planner = plan(service(
        "a/s",
        &["10.96.0.1", "fd00:1::1"],
        &[("http", 80, 0)],
    ));
    assert_eq!(
        listing(&planner),
        [
            "10.96.0.1:80/TCP ClusterIP -> 10.0.1.1 10.0.2.1",
            "[fd00:1::1]:80/TCP ClusterIP -> fd00::1:1 fd00::2:1",
        ]
    );
    assert_eq!(flags_of(&planner, "10.96.0.1:80"), 0);
}

#[test]
fn headless_and_external_names_have_no_frontend() {
    let headless = service("a/s", &[], &[("http", 80, 0)]);
    let named = Service {
        kind: ServiceType::ExternalName,
        ..service("a/s", &["10.96.0.1"], &[("http", 80, 0)])
    };
    assert!(listing(&plan(headless)).is_empty() && listing(&plan(named)).is_empty());
}

#[test]
fn several_ports_and_protocols() {
    let planner = plan(service(
        "a/s",
        &["10.96.0.1"],
        &[("tcp-a", 80, 0), ("udp-b", 80, 0), ("sctp-c", 80, 0)],
    ));
    let keys: Vec<_> = planner
        .frontends()
        .map(|frontend| frontend.key.to_string())
        .collect();
    assert_eq!(
        keys,
        ["10.96.0.1:80/TCP", "10.96.0.1:80/UDP", "10.96.0.1:80/SCTP"]
    );
}

#[test]
fn node_port_at_the_chosen_addresses_and_the_wildcard() {
    let planner = plan(service("a/s", &["10.96.0.1"], &[("http", 80, 30_080)]));
    assert_eq!(
        listing(&planner),
        [
            "0.0.0.0:30080/TCP NodePort -> 10.0.1.1 10.0.2.1",
            "10.96.0.1:80/TCP ClusterIP -> 10.0.1.1 10.0.2.1",
            "192.0.2.11:30080/TCP NodePort -> 10.0.1.1 10.0.2.1",
        ]
    );
    assert_eq!(
        flags_of(&planner, "192.0.2.11:30080"),
        flags::NODE_PORT | flags::ROUTABLE
    );
}

#[test]
fn load_balancer_without_those_in_proxy_mode_and_external_ips() {
    let mut lb = balanced(
        service("a/s", &["10.96.0.1"], &[("http", 80, 0)]),
        &["198.51.100.1", "198.51.100.2"],
    );
    lb.ingress[1].proxy = true;
    lb.external_ips = vec![ip("203.0.113.1")];
    let planner = plan(lb);
    assert_eq!(
        listing(&planner),
        [
            "10.96.0.1:80/TCP ClusterIP -> 10.0.1.1 10.0.2.1",
            "198.51.100.1:80/TCP LoadBalancer -> 10.0.1.1 10.0.2.1",
            "203.0.113.1:80/TCP ExternalIPs -> 10.0.1.1 10.0.2.1",
        ]
    );
    assert_eq!(
        flags_of(&planner, "203.0.113.1:80"),
        flags::EXTERNAL_IP | flags::ROUTABLE
    );
}

#[test]
fn each_traffic_policy_inside_and_outside() {
    for (external, internal) in [(false, false), (true, false), (false, true), (true, true)] {
        let lb = balanced(
            service("a/s", &["10.96.0.1"], &[("http", 80, 30_080)]),
            &["198.51.100.1"],
        );
        let planner = plan(local(lb, external, internal));
        let own = |local: bool| {
            if local {
                vec!["10.0.1.1"]
            } else {
                vec!["10.0.1.1", "10.0.2.1"]
            }
        };
        assert_eq!(backends(&planner, "10.96.0.1:80"), own(internal));
        for place in ["198.51.100.1:80", "192.0.2.11:30080", "0.0.0.0:30080"] {
            assert_eq!(
                backends(&planner, place),
                own(external),
                "{place}, external {external}"
            );
            let inside = format!("{place}/TCP/i");
            let two = flags_of(&planner, place) & flags::TWO_SCOPES != 0;
            assert_eq!(two, external != internal);
            assert_eq!(planner.frontend(&key(&inside)).is_some(), two);
            if two {
                assert_eq!(backends(&planner, &inside), own(internal), "{inside}");
            }
            assert_eq!(
                flags_of(&planner, place) & flags::EXTERNAL_LOCAL != 0,
                external
            );
            assert_eq!(
                flags_of(&planner, place) & flags::INTERNAL_LOCAL != 0,
                internal
            );
        }
    }
}

#[test]
fn health_check_says_whether_this_node_has_backends() {
    let mut lb = local(
        balanced(
            service(
                "a/s",
                &["10.96.0.1", "fd00:1::1"],
                &[("http", 80, 30_080), ("tcp-b", 81, 0)],
            ),
            &["198.51.100.1"],
        ),
        true,
        false,
    );
    lb.health_check_port = 32_000;
    let mut planner = plan(lb.clone());
    let check = planner.health_check("a/s").unwrap();
    assert_eq!((check.status(), check.port, check.local), (200, 32_000, 1));
    assert_eq!(
        check.body(),
        r#"{"localEndpoints":1,"service":{"name":"s","namespace":"a"}}"#
    );
    // Whoever ends is no reason to be sent anything, though it still serves what comes.
    planner.apply(put_slice(slice(
        &lb,
        8080,
        vec![
            terminating("10.0.1.1", "n1", true),
            endpoint("10.0.2.1", "n2"),
        ],
    )));
    planner.flush();
    assert_eq!(planner.health_check("a/s").unwrap().status(), 503);
    assert_eq!(backends(&planner, "198.51.100.1:80"), ["10.0.1.1"]);
    planner.apply(put_service(local(lb, false, false)));
    assert_eq!(planner.health_checks(), []);
}

#[test]
fn terminating_backends_serve_when_nobody_else_does() {
    let service = service("a/s", &["10.96.0.1"], &[("http", 80, 0)]);
    let of = |endpoints| {
        planned(
            Settings::default(),
            [
                put_slice(slice(&service, 80, endpoints)),
                put_service(service.clone()),
            ],
        )
        .0
    };
    let planner = of(vec![
        endpoint("10.0.0.1", "n1"),
        terminating("10.0.0.2", "n1", true),
        terminating("10.0.0.3", "n1", false),
    ]);
    assert_eq!(backends(&planner, "10.96.0.1:80"), ["10.0.0.1"]);
    let kept = &planner
        .frontend(&key("10.96.0.1:80"))
        .unwrap()
        .selection
        .kept;
    assert!(
        kept.len() == 2
            && kept
                .iter()
                .all(|backend| backend.state == State::Terminating),
        "{kept:?}"
    );
    let planner = of(vec![
        not_ready("10.0.0.1", "n1"),
        terminating("10.0.0.2", "n1", true),
        terminating("10.0.0.3", "n1", false),
    ]);
    assert_eq!(backends(&planner, "10.96.0.1:80"), ["10.0.0.2"]);
    assert_eq!(
        planner.row(&key("10.96.0.1:80")).unwrap().serving,
        State::Terminating
    );
}

#[test]
fn without_backends_the_frontend_stays_and_refuses() {
    let service = service("a/s", &["10.96.0.1"], &[("http", 80, 0)]);
    let (planner, _) = planned(
        Settings::default(),
        [
            put_slice(slice(&service, 80, vec![not_ready("10.0.0.1", "n1")])),
            put_service(service),
        ],
    );
    assert_eq!(planner.row(&key("10.96.0.1:80")).unwrap().count, 0);
}

#[test]
fn not_ready_addresses_may_be_published() {
    let mut service = service("a/s", &["10.96.0.1"], &[("http", 80, 0)]);
    service.publish_not_ready = true;
    let endpoints = vec![
        not_ready("10.0.0.1", "n1"),
        terminating("10.0.0.2", "n1", false),
    ];
    let (planner, _) = planned(
        Settings::default(),
        [
            put_slice(slice(&service, 80, endpoints)),
            put_service(service),
        ],
    );
    assert_eq!(backends(&planner, "10.96.0.1:80"), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn hints_count_only_if_everybody_has_one_and_one_is_for_us() {
    let service = service("a/s", &["10.96.0.1"], &[("http", 80, 0)]);
    let settings = || Settings {
        topology: true,
        ..Settings::default()
    };
    let of = |settings, endpoints| {
        let planner = planned(
            settings,
            [
                put_slice(slice(&service, 80, endpoints)),
                put_service(service.clone()),
            ],
        )
        .0;
        backends(&planner, "10.96.0.1:80")
    };
    let zones = || {
        vec![
            hinted("10.0.0.1", "n1", &["z1"], &[]),
            hinted("10.0.0.2", "n2", &["z2"], &[]),
            hinted("10.0.0.3", "n3", &["z1", "z2"], &[]),
        ]
    };
    assert_eq!(of(settings(), zones()), ["10.0.0.1", "10.0.0.3"]);
    assert_eq!(of(Settings::default(), zones()).len(), 3, "hints are off");
    let mut one_without = zones();
    one_without.push(endpoint("10.0.0.4", "n1"));
    assert_eq!(of(settings(), one_without).len(), 4);
    assert_eq!(
        of(settings(), vec![hinted("10.0.0.2", "n2", &["z2"], &[])]),
        ["10.0.0.2"],
        "nothing is for us"
    );
    let nodes = vec![
        hinted("10.0.0.1", "n2", &["z1"], &["n2"]),
        hinted("10.0.0.2", "n1", &["z1"], &["n1"]),
    ];
    assert_eq!(
        of(settings(), nodes),
        ["10.0.0.2"],
        "the same node comes before the same zone"
    );
    let mut unready = zones();
    unready.push(not_ready("10.0.0.5", "n1"));
    assert_eq!(
        of(settings(), unready).len(),
        2,
        "whoever is not ready needs no hint"
    );
}

#[test]
fn hints_mean_nothing_where_only_this_node_counts() {
    let service = local(
        service("a/s", &["10.96.0.1"], &[("http", 80, 0)]),
        false,
        true,
    );
    let settings = Settings {
        topology: true,
        ..Settings::default()
    };
    let endpoints = vec![
        hinted("10.0.0.1", "n1", &["z2"], &[]),
        hinted("10.0.0.2", "n2", &["z1"], &[]),
    ];
    let (planner, _) = planned(
        settings,
        [
            put_slice(slice(&service, 80, endpoints)),
            put_service(service),
        ],
    );
    assert_eq!(backends(&planner, "10.96.0.1:80"), ["10.0.0.1"]);
}

#[test]
fn host_ports_of_pods() {
    let mut settings = Settings::default();
    let pods = || {
        [
            put_pod(host_port(
                host_port(pod("a/p", &["10.0.0.1", "fd00::1"], "x"), None, 8080, 80),
                Some("127.0.0.1"),
                9090,
                90,
            )),
            put_pod(host_port(
                hypha_lb::input::Pod {
                    created: 5,
                    ..pod("a/later", &["10.0.0.2"], "x")
                },
                None,
                8080,
                80,
            )),
            put_pod(host_port(
                hypha_lb::input::Pod {
                    host_network: true,
                    ..pod("a/host", &["192.0.2.11"], "x")
                },
                None,
                7070,
                70,
            )),
        ]
    };
    let (planner, _) = planned(settings.clone(), pods());
    assert_eq!(
        listing(&planner),
        [
            "0.0.0.0:8080/TCP HostPort -> 10.0.0.1",
            "127.0.0.1:9090/TCP HostPort -> 10.0.0.1",
            "192.0.2.11:8080/TCP HostPort -> 10.0.0.1",
            "[::]:8080/TCP HostPort -> fd00::1",
            "[fd00:9::11]:8080/TCP HostPort -> fd00::1",
        ]
    );
    assert!(flags_of(&planner, "127.0.0.1:9090") & flags::LOOPBACK != 0);
    let clash = planner.problems();
    assert!(
        clash.len() == 2
            && clash[0].0.to_string() == "pod a/later"
            && clash[0].1.to_string().contains("belongs to pod a/p"),
        "{clash:?}"
    );
    settings.host_ports = false;
    assert!(listing(&planned(settings, pods()).0).is_empty());
}

#[test]
fn of_two_who_want_the_same_the_older_has_it_until_it_goes() {
    let mut old = service("b/old", &["10.96.0.1"], &[("http", 80, 30_080)]);
    let mut new = service("a/new", &["10.96.0.2"], &[("http", 80, 30_080)]);
    (old.created, new.created) = (1, 2);
    let (mut planner, _) = planned(
        Settings::default(),
        two_nodes(old).into_iter().chain(two_nodes(new)),
    );
    let place = key("192.0.2.11:30080");
    assert_eq!(
        planner.frontend(&place).unwrap().owner.to_string(),
        "service b/old"
    );
    assert_eq!(planner.problems().len(), 2);
    let number = planner.row(&place).unwrap().id;
    planner.apply(Change::Service("b/old".into(), None));
    planner.flush();
    assert_eq!(
        planner.frontend(&place).unwrap().owner.to_string(),
        "service a/new"
    );
    assert_eq!(
        planner.row(&place).unwrap().id,
        number,
        "the address keeps its number"
    );
    assert!(planner.problems().is_empty());
}

#[test]
fn a_node_port_out_of_range_is_served_and_complained_of() {
    let planner = plan(service("a/s", &["10.96.0.1"], &[("http", 80, 8000)]));
    assert!(planner.frontend(&key("192.0.2.11:8000")).is_some());
    assert!(
        planner.problems()[0]
            .1
            .to_string()
            .contains("node port 8000")
    );
}

#[test]
fn what_slices_say_wrongly_harms_nobody() {
    let service = service("a/s", &["10.96.0.1"], &[("http", 80, 0)]);
    let mut bad = slice(&service, 0, vec![endpoint("10.0.0.9", "n1")]);
    bad.key = "a/bad".into();
    let mut unnamed = slice(&service, 80, vec![endpoint("10.0.0.8", "n1")]);
    unnamed.key = "a/unnamed".into();
    unnamed.ports[0].name = "other".into();
    let twice = slice(
        &service,
        80,
        vec![
            not_ready("10.0.0.1", "n1"),
            endpoint("10.0.0.1", "n1"),
            endpoint("0.0.0.0", "n1"),
        ],
    );
    let (planner, _) = planned(
        Settings::default(),
        [
            put_slice(bad),
            put_slice(unnamed),
            put_slice(twice),
            put_service(service),
        ],
    );
    assert_eq!(backends(&planner, "10.96.0.1:80"), ["10.0.0.1"]);
}

#[test]
fn one_endpoint_more_or_less_is_a_few_writes() {
    let service = service("a/s", &["10.96.0.1"], &[("http", 80, 0)]);
    let all = |count: u8| {
        (1..=count)
            .map(|n| endpoint(&format!("10.0.0.{n}"), "n1"))
            .collect::<Vec<_>>()
    };
    let (mut planner, _) = planned(
        Settings::default(),
        [
            put_slice(slice(&service, 80, all(100))),
            put_service(service.clone()),
        ],
    );
    planner.apply(put_slice(slice(&service, 80, all(101))));
    assert_eq!(
        planner.flush().ops.len(),
        3,
        "a backend, its slot, the count"
    );
    let mut without = all(101);
    without.remove(7);
    planner.apply(put_slice(slice(&service, 80, without)));
    let diff = planner.flush();
    assert_eq!(
        diff.ops.len(),
        4,
        "the last takes its slot, the count, the last slot, the backend"
    );
    assert_eq!(
        (diff.left.len(), diff.left[0].backend, diff.left[0].kept),
        (1, backend("10.0.0.8:80"), None)
    );
    planner.apply(Change::Node(Node {
        zone: "z2".into(),
        ..node()
    }));
    assert!(
        planner.flush().ops.is_empty(),
        "a zone changes nothing here"
    );
}
