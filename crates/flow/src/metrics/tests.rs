use super::*;
use crate::summary::flags_of;
use api::hubble::flow::{
    CiliumEventType, Dns, DropReason, Endpoint, IcmPv6, Ip, IpVersion, L7FlowType, Layer4, Layer7,
    LostEventSource, Tcp, TrafficDirection, Verdict, Workload, layer4::Protocol, layer7::Record,
};

fn metrics(items: &[&str]) -> Metrics {
    let items: Vec<Item> = items.iter().map(|item| Item::parse(item)).collect();
    Metrics::new(&items).unwrap()
}

/// The lines of the text that count something, without the prefix and `_total`.
fn counted(metrics: &Metrics) -> Vec<String> {
    let text = metrics.text().unwrap();
    // How exports stand is told whatever is counted.
    let counts = |line: &&str| !line.starts_with('#') && !line.contains("_dynamic_exporter_");
    let lines = text.lines().filter(counts);
    let mut lines: Vec<String> = lines
        .map(|line| line.trim_start_matches("hubble_").replace("_total", ""))
        .collect();
    lines.sort();
    lines
}

fn see(metrics: &Metrics, flow: &Flow) {
    metrics.tap().whole(flow);
}

fn flow() -> Flow {
    let endpoint = |pod: &str, labels: &[&str]| Endpoint {
        namespace: "shop".into(),
        pod_name: pod.into(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        workloads: vec![Workload {
            name: "cart".into(),
            kind: "Deployment".into(),
        }],
        ..Endpoint::default()
    };
    Flow {
        verdict: Verdict::Forwarded as i32,
        ip: Some(Ip {
            source: "10.0.0.1".into(),
            destination: "192.0.2.1".into(),
            ip_version: IpVersion::IPv4 as i32,
            ..Ip::default()
        }),
        l4: Some(Layer4 {
            protocol: Some(Protocol::Tcp(Tcp {
                source_port: 40112,
                destination_port: 443,
                flags: Some(flags_of(2)),
            })),
        }),
        source: Some(endpoint("cart-1", &["k8s:app=cart"])),
        destination: Some(Endpoint {
            labels: vec!["reserved:world".into()],
            ..Endpoint::default()
        }),
        event_type: Some(CiliumEventType {
            r#type: 4,
            sub_type: 11,
        }),
        traffic_direction: TrafficDirection::Egress as i32,
        is_reply: Some(false),
        ..Flow::default()
    }
}

pub(super) fn dropped() -> Flow {
    Flow {
        verdict: Verdict::Dropped as i32,
        drop_reason_desc: DropReason::PolicyDenied as i32,
        event_type: Some(CiliumEventType {
            r#type: 1,
            sub_type: 133,
        }),
        is_reply: None,
        ..flow()
    }
}

#[test]
fn each_metric_counts_its_flows() {
    let all = [
        "drop",
        "tcp",
        "flow",
        "flows-to-world:port",
        "port-distribution",
        "icmp",
    ];
    let metrics = metrics(&all);
    see(&metrics, &flow());
    see(&metrics, &dropped());
    let ping = Flow {
        l4: Some(Layer4 {
            protocol: Some(Protocol::IcmPv6(IcmPv6 {
                r#type: 128,
                code: 0,
            })),
        }),
        destination: None,
        event_type: Some(CiliumEventType {
            r#type: 4,
            sub_type: 0,
        }),
        ..flow()
    };
    see(&metrics, &ping);
    assert_eq!(
        counted(&metrics),
        [
            r#"drop{reason="POLICY_DENIED",protocol="TCP"} 1"#,
            r#"flows_processed{protocol="ICMPv6",type="Trace",subtype="to-endpoint",verdict="FORWARDED"} 1"#,
            r#"flows_processed{protocol="TCP",type="Drop",subtype="",verdict="DROPPED"} 1"#,
            r#"flows_processed{protocol="TCP",type="Trace",subtype="to-network",verdict="FORWARDED"} 1"#,
            r#"flows_to_world{protocol="TCP",verdict="DROPPED",port="443"} 1"#,
            r#"flows_to_world{protocol="TCP",verdict="FORWARDED",port="443"} 1"#,
            r#"icmp{family="IPv6",type="EchoRequest"} 1"#,
            r#"port_distribution{protocol="ICMPv6",port="0"} 1"#,
            r#"port_distribution{protocol="TCP",port="443"} 1"#,
            r#"tcp_flags{flag="SYN",family="IPv4"} 1"#,
        ]
    );
}

#[test]
fn a_drop_by_policy_counts_once_though_it_is_told_twice() {
    let metrics = metrics(&["drop", "policy"]);
    let verdict = Flow {
        event_type: Some(CiliumEventType {
            r#type: 5,
            sub_type: 0,
        }),
        policy_match_type: 2,
        ..dropped()
    };
    see(&metrics, &verdict);
    see(&metrics, &dropped());
    assert_eq!(
        counted(&metrics),
        [
            r#"drop{reason="POLICY_DENIED",protocol="TCP"} 1"#,
            r#"policy_verdicts{direction="egress",match="l3-l4",action="dropped"} 1"#,
        ]
    );
}

#[test]
fn answers_are_not_new_connections() {
    let metrics = metrics(&["flows-to-world", "port-distribution", "tcp"]);
    let mut answer = flow();
    answer.is_reply = Some(true);
    see(&metrics, &answer);
    assert_eq!(
        counted(&metrics),
        [r#"tcp_flags{flag="SYN",family="IPv4"} 1"#]
    );
}

#[test]
fn names() {
    let metrics = metrics(&["dns:query;ignoreAAAA"]);
    let dns = |kind: L7FlowType, qtype: &str| Flow {
        l7: Some(Layer7 {
            r#type: kind as i32,
            latency_ns: 0,
            record: Some(Record::Dns(Dns {
                query: "a.example.com.".into(),
                qtypes: vec![qtype.into()],
                rrtypes: vec!["A".into()],
                ips: vec!["192.0.2.1".into()],
                ..Dns::default()
            })),
        }),
        ..flow()
    };
    see(&metrics, &dns(L7FlowType::Request, "A"));
    see(&metrics, &dns(L7FlowType::Response, "A"));
    see(&metrics, &dns(L7FlowType::Request, "AAAA"));
    assert_eq!(
        counted(&metrics),
        [
            r#"dns_queries{rcode="",qtypes="A",ips_returned="1",query="a.example.com"} 1"#,
            r#"dns_response_types{type="A",qtypes="A",query="a.example.com"} 1"#,
            r#"dns_responses{rcode="No Error",qtypes="A",ips_returned="1",query="a.example.com"} 1"#,
        ]
    );
}

#[test]
fn contexts_say_who() {
    let text = "drop:sourceContext=app;sourceEgressContext=pod|dns;destinationContext=dns|reserved-identity;labelsContext=source_workload,source_workload_kind,traffic_direction";
    let metrics = metrics(&[text]);
    see(&metrics, &dropped());
    let wanted = r#"drop{reason="POLICY_DENIED",protocol="TCP",source_workload="cart",source_workload_kind="Deployment",traffic_direction="egress",source="shop/cart-1",destination="reserved:world"} 1"#;
    assert_eq!(counted(&metrics), [wanted]);
    metrics.forget("shop/other");
    assert_eq!(counted(&metrics), [wanted]);
    metrics.forget("shop/cart-1");
    assert!(counted(&metrics).is_empty());
}

#[test]
fn losses_are_always_counted() {
    let metrics = metrics(&[]);
    metrics.tap().lost(&LostEvent {
        source: LostEventSource::PerfEventRingBuffer as i32,
        num_events_lost: 7,
        cpu: None,
    });
    assert_eq!(
        counted(&metrics),
        [r#"lost_events{source="perf_event_ring_buffer"} 7"#]
    );
}

#[test]
fn mistakes_are_named() {
    for (item, says) in [
        ("drops", "accepted are dns, drop"),
        ("drop:colour", "no option \"colour\""),
        ("tcp:sourceContext=pods", "no context \"pods\""),
        ("tcp:labelsContext=source", "no label \"source\""),
    ] {
        let error = Metrics::new(&[Item::parse(item)]).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}
