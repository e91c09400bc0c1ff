//! Local redirect policies.
use crate::kit::*;
use hypha_lb::frontend::{Kind, flags};
use hypha_lb::input::Pod;
use hypha_lb::rows::{Op, Row};
use hypha_lb::{Change, Planner, Settings, parse};
use serde_json::{Value, json};
use std::sync::Arc;

fn policy(spec: &Value) -> Change {
    let redirect = parse::redirect("a/lrp", 1, spec).unwrap();
    Change::Redirect(redirect.key.clone(), Some(Arc::new(redirect)))
}

fn dns() -> [Change; 2] {
    let dns = service(
        "a/dns",
        &["10.96.0.10", "fd00:1::a"],
        &[("udp-dns", 53, 0), ("tcp-dns", 53, 0)],
    );
    [
        put_slice(slice(
            &dns,
            53,
            vec![endpoint("10.0.2.1", "n2"), endpoint("fd00::2:1", "n2")],
        )),
        put_service(dns),
    ]
}

fn by_service(skip: bool) -> Change {
    policy(&json!({
        "redirectFrontend": {"serviceMatcher": {"serviceName": "dns", "namespace": "a"}},
        "redirectBackend": {
            "localEndpointSelector": {"matchLabels": {"app": "cache"}},
            "toPorts": [{"port": "5353", "name": "udp-dns", "protocol": "UDP"}, {"port": "5354", "name": "tcp-dns", "protocol": "TCP"}],
        },
        "skipRedirectFromBackend": skip,
    }))
}

fn cache() -> Pod {
    pod("a/cache", &["10.0.1.9", "fd00::1:9"], "cache")
}

fn plan(changes: impl IntoIterator<Item = Change>) -> (Planner, Vec<Op>) {
    planned(Settings::default(), dns().into_iter().chain(changes))
}

#[test]
fn a_service_goes_to_the_node_s_own_pod_and_back_when_that_is_not_ready() {
    let (mut planner, _) = plan([
        by_service(false),
        put_pod(cache()),
        put_pod(pod("b/cache", &["10.0.1.8"], "cache")),
    ]);
    let place = key("10.96.0.10:53/UDP");
    assert_eq!(backends(&planner, "10.96.0.10:53/UDP"), ["10.0.1.9"]);
    assert_eq!(backends(&planner, "[fd00:1::a]:53/TCP"), ["fd00::1:9"]);
    let frontend = planner.frontend(&place).unwrap();
    assert!(frontend.kind == Kind::LocalRedirect && frontend.has(flags::LOCAL_REDIRECT));
    assert_eq!(frontend.selection.used[0].key.port, 5353);
    assert!(
        planner.problems().is_empty(),
        "to take a service's place is what it is for"
    );
    let number = planner.row(&place).unwrap().id;

    planner.apply(put_pod(Pod {
        ready: false,
        ..cache()
    }));
    planner.flush();
    assert_eq!(backends(&planner, "10.96.0.10:53/UDP"), ["10.0.2.1"]);
    assert_eq!(planner.row(&place).unwrap().id, number);
    planner.apply(put_pod(cache()));
    planner.flush();
    assert_eq!(backends(&planner, "10.96.0.10:53/UDP"), ["10.0.1.9"]);
    planner.apply(Change::Redirect("a/lrp".into(), None));
    planner.flush();
    assert_eq!(planner.frontend(&place).unwrap().kind, Kind::ClusterIp);
}

#[test]
fn an_address_is_taken_over_only_while_somebody_serves_it() {
    let spec = json!({
        "redirectFrontend": {"addressMatcher": {"ip": "169.254.169.254", "toPorts": [{"port": "80", "protocol": "TCP"}]}},
        "redirectBackend": {"localEndpointSelector": {"matchLabels": {"app": "cache"}}, "toPorts": [{"port": "8080", "protocol": "TCP"}]},
    });
    let (mut planner, _) = plan([policy(&spec)]);
    assert!(planner.frontend(&key("169.254.169.254:80")).is_none());
    planner.apply(put_pod(cache()));
    planner.flush();
    assert_eq!(backends(&planner, "169.254.169.254:80"), ["10.0.1.9"]);
    planner.apply(put_pod(Pod {
        terminating: true,
        ..cache()
    }));
    planner.flush();
    assert!(planner.frontend(&key("169.254.169.254:80")).is_none());
}

#[test]
fn the_pods_themselves_may_be_left_out() {
    let (mut planner, ops) = plan([by_service(true), put_pod(cache())]);
    let skips = |ops: &[Op]| {
        ops.iter()
            .filter(|op| matches!(op, Op::Put(Row::Skip(pod, _)) if **pod == *"a/cache"))
            .count()
    };
    assert_eq!(skips(&ops), 4, "two ports of two families");
    planner.apply(by_service(false));
    let ops = planner.flush().ops;
    assert_eq!(ops.len(), 4, "{ops:?}");
}

#[test]
fn why_names_the_pods() {
    let (planner, _) = plan([
        by_service(false),
        put_pod(cache()),
        put_pod(Pod {
            ready: false,
            ..pod("a/cache-2", &["10.0.1.7"], "cache")
        }),
    ]);
    let why = planner.why(&key("10.96.0.10:53/UDP")).unwrap().to_string();
    assert!(
        why.contains(
            "10.0.1.9:5353/UDP  used: a pod of this node that the policy selects  (pod a/cache)"
        ),
        "{why}"
    );
    assert!(
        why.contains("10.0.1.7:5353/UDP  left out: not ready  (pod a/cache-2)"),
        "{why}"
    );
    assert!(why.contains("wanted by service a/dns, too"), "{why}");
}
