use super::*;
use crate::{summary::flags_of, view::View};
use api::hubble::flow::{
    CiliumEventType, Dns, DropReason, Endpoint, Flow, Http, HttpHeader, IcmPv4, Ip, IpVersion,
    Layer4, Layer7, Service, Tcp, TrafficDirection, flow_filter, layer4, layer7,
};

fn endpoint(namespace: &str, pod: &str, identity: u32, labels: &[&str]) -> Endpoint {
    Endpoint {
        namespace: namespace.into(),
        pod_name: pod.into(),
        identity,
        cluster_name: "c1".into(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        workloads: vec![Workload {
            name: pod
                .trim_end_matches(|c: char| c == '-' || c.is_ascii_digit())
                .into(),
            kind: "Deployment".into(),
        }],
        ..Endpoint::default()
    }
}

fn flow() -> Flow {
    Flow {
        uuid: "u1".into(),
        verdict: Verdict::Forwarded as i32,
        ip: Some(Ip {
            source: "10.0.1.7".into(),
            source_xlated: "192.0.2.1".into(),
            destination: "10.0.2.9".into(),
            ip_version: IpVersion::IPv4 as i32,
            ..Ip::default()
        }),
        l4: Some(Layer4 {
            protocol: Some(layer4::Protocol::Tcp(Tcp {
                source_port: 40112,
                destination_port: 80,
                flags: Some(flags_of(0x12)),
            })),
        }),
        source: Some(endpoint("shop", "cart-1", 20311, &["k8s:app=cart"])),
        destination: Some(endpoint("bank", "db-0", 31007, &["k8s:app=db"])),
        source_names: vec!["cart.example.com".into()],
        destination_service: Some(Service {
            name: "db".into(),
            namespace: "bank".into(),
        }),
        traffic_direction: TrafficDirection::Egress as i32,
        is_reply: Some(false),
        event_type: Some(CiliumEventType {
            r#type: 4,
            sub_type: 11,
        }),
        interface: Some(NetworkInterface {
            index: 3,
            name: "eth0".into(),
        }),
        node_name: "default/w1".into(),
        node_labels: vec!["zone=a".into()],
        ..Flow::default()
    }
}

fn passes(filter: FlowFilter, flow: &Flow) -> bool {
    Filters::compile(&[filter], &[]).unwrap().passes(flow)
}

macro_rules! filter {
    ($($field:ident: $($value:expr),+);+) => {
        FlowFilter { $($field: vec![$($value.into()),+],)+ ..FlowFilter::default() }
    };
}

/// Filters that take [`flow`], and like ones that do not.
fn pairs() -> Vec<(FlowFilter, FlowFilter)> {
    let event = |kind, sub| EventTypeFilter {
        r#type: kind,
        match_sub_type: sub != 0,
        sub_type: sub,
    };
    let workload = |name: &str, kind: &str| Workload {
        name: name.into(),
        kind: kind.into(),
    };
    let device = |index, name: &str| NetworkInterface {
        index,
        name: name.into(),
    };
    vec![
        (filter!(uuid: "u1"), filter!(uuid: "u2")),
        (
            filter!(source_ip: "10.0.1.7"),
            filter!(source_ip: "10.0.1.8"),
        ),
        (
            filter!(source_ip: "10.0.0.0/16"),
            filter!(source_ip: "10.1.0.0/16", "fd00::/8"),
        ),
        (
            filter!(source_ip_xlated: "192.0.2.0/24"),
            filter!(source_ip_xlated: "10.0.1.7"),
        ),
        (
            filter!(destination_ip: "10.0.2.9"),
            filter!(destination_ip: "10.0.1.7"),
        ),
        (filter!(source_pod: "shop/ca"), filter!(source_pod: "cart")),
        (filter!(source_pod: "shop/"), filter!(source_pod: "sho/")),
        (filter!(source_pod: "/cart"), filter!(source_pod: "/db")),
        (
            filter!(destination_pod: "bank/db-0"),
            filter!(destination_pod: "bank/db-00"),
        ),
        (
            filter!(source_fqdn: "*.Example.com."),
            filter!(source_fqdn: "example.com"),
        ),
        (
            filter!(source_label: "app in (x, cart)"),
            filter!(source_label: "app=db"),
        ),
        (
            filter!(destination_label: "k8s:app"),
            filter!(destination_label: "!app"),
        ),
        (
            filter!(destination_service: "bank/d"),
            filter!(destination_service: "shop/d"),
        ),
        (
            filter!(source_workload: workload("cart", "")),
            filter!(source_workload: workload("", "Job")),
        ),
        (
            filter!(destination_workload: workload("db", "Deployment")),
            filter!(destination_workload: workload("cart", "")),
        ),
        (
            filter!(source_cluster_name: "c1"),
            filter!(source_cluster_name: "c2"),
        ),
        (
            filter!(destination_cluster_name: "c1"),
            filter!(destination_cluster_name: "c"),
        ),
        (
            filter!(source_identity: 20311u32),
            filter!(source_identity: 1u32),
        ),
        (
            filter!(destination_identity: 1u32, 31007u32),
            filter!(destination_identity: 20311u32),
        ),
        (filter!(source_port: "40112"), filter!(source_port: "80")),
        (
            filter!(destination_port: "443", "80"),
            filter!(destination_port: "443"),
        ),
        (
            filter!(traffic_direction: TrafficDirection::Egress),
            filter!(traffic_direction: TrafficDirection::Ingress),
        ),
        (
            filter!(verdict: Verdict::Forwarded),
            filter!(verdict: Verdict::Dropped),
        ),
        (
            filter!(interface: device(0, "eth0")),
            filter!(interface: device(4, "eth0")),
        ),
        (
            filter!(event_type: event(4, 0)),
            filter!(event_type: event(1, 0)),
        ),
        (
            filter!(event_type: event(4, 11)),
            filter!(event_type: event(4, 3)),
        ),
        (
            filter!(protocol: "TCP"),
            filter!(protocol: "udp", "icmp", "http"),
        ),
        (filter!(reply: false), filter!(reply: true)),
        (
            filter!(tcp_flags: flags_of(2)),
            filter!(tcp_flags: flags_of(6)),
        ),
        (filter!(node_name: "w*"), filter!(node_name: "c1/w1")),
        (filter!(node_name: "default/"), filter!(node_name: "/x")),
        (
            filter!(node_labels: "zone in (a)"),
            filter!(node_labels: "zone=b"),
        ),
        (
            filter!(ip_version: IpVersion::IPv4),
            filter!(ip_version: IpVersion::IPv6),
        ),
    ]
}

#[test]
fn every_field_tells_flows_apart() {
    for (takes, not) in pairs() {
        assert!(passes(takes.clone(), &flow()), "{takes:?}");
        assert!(!passes(not.clone(), &flow()), "{not:?}");
        assert!(passes(FlowFilter::default(), &flow()), "nothing asked");
    }
}

#[test]
fn fields_are_anded_filters_are_ored_and_the_blacklist_takes_away() {
    let (a, b) = (
        filter!(source_pod: "shop/"),
        filter!(destination_port: "443"),
    );
    let both = FlowFilter {
        destination_port: b.destination_port.clone(),
        ..a.clone()
    };
    assert!(!passes(both, &flow()));
    let either = Filters::compile(&[b.clone(), a.clone()], &[]).unwrap();
    assert!(either.passes(&flow()));
    let without = Filters::compile(&[b, a.clone()], &[a]).unwrap();
    assert!(!without.passes(&flow()));
}

#[test]
fn what_was_dropped_is_no_reply() {
    let mut dropped = flow();
    dropped.is_reply = None;
    assert!(!passes(filter!(reply: false), &dropped), "nobody knows");
    dropped.verdict = Verdict::Dropped as i32;
    dropped.drop_reason_desc = DropReason::PolicyDenied as i32;
    assert!(passes(filter!(reply: false), &dropped));
    assert!(passes(
        filter!(drop_reason_desc: DropReason::PolicyDenied),
        &dropped
    ));
}

#[test]
fn icmp_is_both_families() {
    let mut ping = flow();
    ping.l4 = Some(Layer4 {
        protocol: Some(layer4::Protocol::IcmPv4(IcmPv4::default())),
    });
    assert!(passes(filter!(protocol: "icmp"), &ping) && passes(filter!(protocol: "ICMPv4"), &ping));
    assert!(!passes(filter!(protocol: "icmpv6"), &ping));
    assert!(
        !passes(filter!(destination_port: "0"), &ping),
        "it has no ports"
    );
}

#[test]
fn requests() {
    let http = Http {
        code: 404,
        method: "GET".into(),
        url: "http://db.shop.svc/v1/x?y=1".into(),
        headers: vec![HttpHeader {
            key: "a".into(),
            value: "b".into(),
        }],
        ..Http::default()
    };
    let of = |record| Flow {
        l7: Some(Layer7 {
            record: Some(record),
            ..Layer7::default()
        }),
        ..flow()
    };
    let request = of(layer7::Record::Http(http));
    let header = |value: &str| HttpHeader {
        key: "a".into(),
        value: value.into(),
    };
    for (takes, not) in [
        (
            filter!(http_status_code: "404"),
            filter!(http_status_code: "40"),
        ),
        (
            filter!(http_status_code: "4+"),
            filter!(http_status_code: "50+"),
        ),
        (filter!(http_method: "get"), filter!(http_method: "put")),
        (filter!(http_path: "^/v1/x$"), filter!(http_path: "y=1")),
        (filter!(http_url: "y=1$"), filter!(http_url: "^/v1")),
        (
            filter!(http_header: header("b")),
            filter!(http_header: header("c")),
        ),
        (filter!(protocol: "http"), filter!(dns_query: ".*")),
    ] {
        assert!(passes(takes.clone(), &request), "{takes:?}");
        let refused =
            Filters::compile(std::slice::from_ref(&not), &[]).is_ok_and(|one| one.passes(&request));
        assert!(!refused, "{not:?}");
        assert!(!passes(takes.clone(), &flow()), "{takes:?} of a packet");
    }
    let query = Dns {
        query: "a.example.com.".into(),
        ..Dns::default()
    };
    let query = of(layer7::Record::Dns(query));
    assert!(passes(
        filter!(dns_query: r"\.example\."; protocol: "dns"),
        &query
    ));
}

#[test]
fn malformed_filters_say_what_is_wrong_and_what_is_accepted() {
    let event = EventTypeFilter {
        r#type: 1,
        ..EventTypeFilter::default()
    };
    let cel = FlowFilter {
        experimental: Some(flow_filter::Experimental {
            cel_expression: vec!["_flow.verdicts == 1".into()],
        }),
        ..FlowFilter::default()
    };
    for (filter, field, says) in [
        (
            filter!(source_ip: "10.0.0"),
            "source_ip",
            "\"10.0.0\" is no address",
        ),
        (
            filter!(destination_port: "http"),
            "destination_port",
            "from 0 to 65535",
        ),
        (
            filter!(source_pod: "a/b/c"),
            "source_pod",
            "more than one slash",
        ),
        (
            filter!(source_label: "a in b"),
            "source_label",
            "accepted are",
        ),
        (filter!(destination_fqdn: "a b"), "destination_fqdn", "' '"),
        (filter!(node_name: ""), "node_name", "empty"),
        (filter!(verdict: 99), "verdict", "99"),
        (filter!(protocol: "quic"), "protocol", "accepted are tcp"),
        (filter!(http_status_code: "600"), "http_status_code", "404"),
        (filter!(http_path: "("), "http_path", "regular expression"),
        (
            filter!(http_path: "((a{1000}){1000}){1000}"),
            "http_path",
            "regular expression",
        ),
        (
            filter!(http_method: "GET"; event_type: event),
            "http_method",
            "l7",
        ),
        (filter!(tcp_flags: flags_of(0)), "tcp_flags", "no flag"),
        (
            filter!(source_workload: Workload::default()),
            "source_workload",
            "at least one",
        ),
        (cel, "cel_expression", "has no field \"verdicts\""),
    ] {
        let error = Filters::compile(&[], &[filter]).unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_message_is_its_own_view() {
    assert_eq!(View::to_flow(&flow()).as_ref(), &flow());
    assert_eq!(flow().tcp_flags(), Some(0x12));
}
