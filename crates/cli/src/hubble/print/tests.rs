//! Golden lines: every kind of flow in every format.
use api::hubble::flow::DebugEvent;
use api::hubble::json::Unknown;
use expect_test::expect;
use serde_json::{Value, json};

use super::*;

fn flow(overrides: Value) -> GetFlowsResponse {
    let mut flow = json!({
        "time": "2025-03-04T09:12:01.402Z",
        "verdict": "FORWARDED",
        "IP": {"source": "10.7.1.12", "destination": "10.7.2.9", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 40112, "destination_port": 80, "flags": {"SYN": true}}},
        "source": {"ID": 904, "identity": 20311, "namespace": "shop", "pod_name": "cart-6d9"},
        "destination": {"identity": 31007, "namespace": "shop", "pod_name": "db-0"},
        "Type": "L3_L4",
        "node_name": "default/w1",
        "event_type": {"type": 4, "sub_type": 11},
        "is_reply": false,
        "traffic_direction": "EGRESS",
        "Summary": "TCP Flags: SYN",
    });
    for (key, value) in overrides.as_object().unwrap() {
        if value.is_null() {
            flow.as_object_mut().unwrap().remove(key);
        } else {
            flow[key] = value.clone();
        }
    }
    let text = json!({"flow": flow, "node_name": "default/w1", "time": flow["time"]}).to_string();
    json::from_str(&text, Unknown::Refuse).unwrap()
}

fn printed(options: Options, work: impl Fn(&mut Printer<&mut Vec<u8>, &mut Vec<u8>>)) -> String {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut printer = Printer::new(options, &mut out, &mut err);
    work(&mut printer);
    printer.finish().unwrap();
    let err = String::from_utf8(err).unwrap();
    let out = String::from_utf8(out).unwrap();
    err.lines()
        .fold(out, |out, line| out + "stderr: " + line + "\n")
}

fn lines(options: Options, flows: &[GetFlowsResponse]) -> String {
    printed(options, |printer| {
        flows
            .iter()
            .for_each(|flow| printer.response(flow).unwrap());
    })
}

/// The connection of the reference: before and after the socket's translation, SYN, answer, a verdict, a drop, a request.
fn story() -> Vec<GetFlowsResponse> {
    let bad = json!({"ID": 1, "identity": 777, "namespace": "shop", "pod_name": "bad"});
    let db = json!({"ID": 612, "identity": 31007, "namespace": "shop", "pod_name": "db-0"});
    let syn =
        json!({"TCP": {"source_port": 51000, "destination_port": 80, "flags": {"SYN": true}}});
    vec![
        flow(json!({
            "verdict": "TRACED", "Type": "SOCK", "is_reply": null, "Summary": "TCP",
            "IP": {"source": "10.7.1.12", "destination": "10.96.12.7", "ipVersion": "IPv4"},
            "l4": {"TCP": {"destination_port": 80}}, "destination": {"identity": 2},
            "event_type": {"type": 7}, "sock_xlate_point": "SOCK_XLATE_POINT_PRE_DIRECTION_FWD",
        })),
        flow(json!({
            "verdict": "TRANSLATED", "Type": "SOCK", "is_reply": null, "Summary": "TCP",
            "l4": {"TCP": {"destination_port": 80}},
            "event_type": {"type": 7}, "sock_xlate_point": "SOCK_XLATE_POINT_POST_DIRECTION_FWD",
        })),
        flow(json!({"time": "2025-03-04T09:12:01.403Z"})),
        flow(json!({
            "time": "2025-03-04T09:12:01.404Z", "is_reply": true, "event_type": {"type": 4, "sub_type": 0},
            "IP": {"source": "10.7.2.9", "destination": "10.7.1.12", "ipVersion": "IPv4"},
            "l4": {"TCP": {"source_port": 80, "destination_port": 40112, "flags": {"SYN": true, "ACK": true}}},
            "source": {"identity": 31007, "namespace": "shop", "pod_name": "db-0"},
            "destination": {"ID": 904, "identity": 20311, "namespace": "shop", "pod_name": "cart-6d9"},
            "Summary": "TCP Flags: SYN, ACK",
        })),
        flow(json!({
            "time": "2025-03-04T09:12:05.001Z", "verdict": "DROPPED", "source": bad, "destination": db, "l4": syn,
            "event_type": {"type": 5}, "traffic_direction": "INGRESS", "drop_reason_desc": "POLICY_DENIED",
        })),
        flow(json!({
            "time": "2025-03-04T09:12:05.001Z", "verdict": "DROPPED", "source": bad, "destination": db, "l4": syn,
            "event_type": {"type": 1, "sub_type": 133}, "is_reply": null, "drop_reason_desc": "POLICY_DENIED",
        })),
        flow(json!({
            "time": "2025-03-04T09:12:09.640Z", "verdict": "DROPPED", "Type": "L7", "destination": db,
            "source": {"identity": 778, "namespace": "shop", "pod_name": "ok"}, "event_type": {"type": 129},
            "l4": {"TCP": {"source_port": 51020, "destination_port": 80}},
            "l7": {"type": "REQUEST", "http": {"method": "PUT", "url": "http://db.shop.svc/v1/x", "protocol": "HTTP/1.1"}},
            "Summary": "HTTP/1.1 PUT http://db.shop.svc/v1/x",
        })),
    ]
}

/// The reference's own example, byte for byte.
#[test]
fn compact_lines() {
    let text = lines(Options::default(), &story());
    assert_eq!(
        text,
        "\
Mar  4 09:12:01.402: shop/cart-6d9 (ID:20311) <> 10.96.12.7:80 (world) pre-xlate-fwd TRACED (TCP)
Mar  4 09:12:01.402: shop/cart-6d9 (ID:20311) <> shop/db-0:80 (ID:31007) post-xlate-fwd TRANSLATED (TCP)
Mar  4 09:12:01.403: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) to-network FORWARDED (TCP Flags: SYN)
Mar  4 09:12:01.404: shop/cart-6d9:40112 (ID:20311) <- shop/db-0:80 (ID:31007) to-endpoint FORWARDED (TCP Flags: SYN, ACK)
Mar  4 09:12:05.001: shop/bad:51000 (ID:777) -> shop/db-0:80 (ID:31007) policy-verdict:none INGRESS DENIED (TCP Flags: SYN)
Mar  4 09:12:05.001: shop/bad:51000 (ID:777) <> shop/db-0:80 (ID:31007) Policy denied DROPPED (TCP Flags: SYN)
Mar  4 09:12:09.640: shop/ok:51020 (ID:778) -> shop/db-0:80 (ID:31007) http-request DROPPED (HTTP/1.1 PUT http://db.shop.svc/v1/x)
"
    );
}

/// Every kind of event, end and verdict that the story does not have.
fn odds() -> Vec<GetFlowsResponse> {
    let outside = json!({"identity": 2, "labels": ["reserved:world"]});
    let verdict = |verdict: &str, matched: u32| json!({"verdict": verdict, "event_type": {"type": 5}, "policy_match_type": matched, "traffic_direction": "EGRESS"});
    vec![
        flow(json!({"time": null})),
        flow(
            json!({"time": "2025-11-21T00:00:00Z", "destination": outside, "destination_names": ["a.example", "b.example"]}),
        ),
        flow(
            json!({"destination": outside, "destination_service": {"name": "db", "namespace": "shop"}}),
        ),
        flow(
            json!({"IP": {"source": "fd00::1", "destination": "fd00::2", "ipVersion": "IPv6"}, "source": null, "destination": {"identity": 1}}),
        ),
        flow(
            json!({"IP": null, "l4": null, "ethernet": {"source": "aa:bb:cc:00:00:01", "destination": "ff:ff:ff:ff:ff:ff"}, "Summary": "ARP"}),
        ),
        flow(
            json!({"l4": {"ICMPv4": {"type": 8}}, "Summary": "ICMPv4 EchoRequest", "destination": {"identity": 7}}),
        ),
        flow(
            json!({"l4": {"UDP": {"source_port": 5353, "destination_port": 53}}, "Summary": "UDP", "destination": {"identity": 6}, "auth_type": "SPIRE"}),
        ),
        flow(verdict("FORWARDED", 2)),
        flow(verdict("REDIRECTED", 3)),
        flow(verdict("AUDIT", 0)),
        flow(verdict("ERROR", 1)),
        flow(
            json!({"verdict": "VERDICT_UNKNOWN", "event_type": {"type": 3}, "debug_capture_point": "DBG_CAPTURE_DELIVERY", "is_reply": null}),
        ),
        flow(
            json!({"event_type": {"type": 7}, "sock_xlate_point": "SOCK_XLATE_POINT_PRE_DIRECTION_REV"}),
        ),
        flow(json!({"event_type": {"type": 4, "sub_type": 77}})),
        flow(json!({"event_type": {"type": 1, "sub_type": 255}, "verdict": "DROPPED"})),
        flow(json!({"event_type": null})),
        flow(json!({
            "Type": "L7", "event_type": {"type": 129}, "is_reply": true,
            "l7": {"type": "RESPONSE", "dns": {"query": "a.example.", "observation_source": "proxy"}}, "Summary": "DNS Answer",
        })),
        flow(json!({
            "Type": "L7", "event_type": {"type": 129},
            "l7": {"type": "REQUEST", "kafka": {"api_key": "produce"}}, "Summary": "Kafka request produce",
        })),
        flow(
            json!({"Type": "L7", "event_type": {"type": 129}, "l7": {"type": "SAMPLE"}, "Summary": "x"}),
        ),
    ]
}

#[test]
fn every_kind() {
    expect![[r#"
        N/A: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) to-network FORWARDED (TCP Flags: SYN)
        Nov 21 00:00:00.000: shop/cart-6d9:40112 (ID:20311) -> a.example,b.example:80 (world) to-network FORWARDED (TCP Flags: SYN)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db:80 (world) to-network FORWARDED (TCP Flags: SYN)
        Mar  4 09:12:01.402: [fd00::1]:40112 (unknown) -> [fd00::2]:80 (host) to-network FORWARDED (TCP Flags: SYN)
        Mar  4 09:12:01.402: aa:bb:cc:00:00:01 (ID:20311) -> ff:ff:ff:ff:ff:ff (ID:31007) to-network FORWARDED (ARP)
        Mar  4 09:12:01.402: shop/cart-6d9 (ID:20311) -> 10.7.2.9 (kube-apiserver) to-network FORWARDED (ICMPv4 EchoRequest)
        Mar  4 09:12:01.402: shop/cart-6d9:5353 (ID:20311) -> 10.7.2.9:53 (remote-node) to-network FORWARDED (UDP; Auth: SPIRE)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) policy-verdict:L3-L4 EGRESS ALLOWED (TCP Flags: SYN)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) policy-verdict:L4-Only EGRESS ALLOWED (TCP Flags: SYN)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) policy-verdict:none EGRESS AUDITED (TCP Flags: SYN)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) policy-verdict:L3-Only EGRESS DENIED (TCP Flags: SYN)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) <> shop/db-0:80 (ID:31007) DBG_CAPTURE_DELIVERY VERDICT_UNKNOWN (TCP Flags: SYN)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) pre-xlate-rev FORWARDED (TCP Flags: SYN)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) 77 FORWARDED (TCP Flags: SYN)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) 255 DROPPED (TCP Flags: SYN)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) UNKNOWN FORWARDED (TCP Flags: SYN)
        Mar  4 09:12:01.402: shop/db-0:80 (ID:31007) <- shop/cart-6d9:40112 (ID:20311) dns-response proxy FORWARDED (DNS Answer)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) kafka-request FORWARDED (Kafka request produce)
        Mar  4 09:12:01.402: shop/cart-6d9:40112 (ID:20311) -> shop/db-0:80 (ID:31007) l7-sample FORWARDED (x)
    "#]].assert_eq(&lines(Options::default(), &odds()));
    let plain = Options {
        translate: false,
        numeric: true,
        node: true,
        layout: Layout::Rfc3339Nano,
        ..Options::default()
    };
    expect![[r#"
        N/A [default/w1]: 10.7.1.12:40112 (ID:20311) -> 10.7.2.9:80 (ID:31007) to-network FORWARDED (TCP Flags: SYN)
        2025-11-21T00:00:00Z [default/w1]: 10.7.1.12:40112 (ID:20311) -> 10.7.2.9:80 (ID:2) to-network FORWARDED (TCP Flags: SYN)
        2025-03-04T09:12:01.402Z [default/w1]: 10.7.1.12:40112 (ID:20311) -> 10.7.2.9:80 (ID:2) to-network FORWARDED (TCP Flags: SYN)
        2025-03-04T09:12:01.402Z [default/w1]: [fd00::1]:40112 (ID:0) -> [fd00::2]:80 (ID:1) to-network FORWARDED (TCP Flags: SYN)
        2025-03-04T09:12:01.402Z [default/w1]: aa:bb:cc:00:00:01 (ID:20311) -> ff:ff:ff:ff:ff:ff (ID:31007) to-network FORWARDED (ARP)
    "#]]
    .assert_eq(&lines(plain, &odds()[..5]));
}

/// What was not filled in by the server is made anew.
#[test]
fn summaries_are_made_where_there_are_none() {
    let text = lines(Options::default(), &[flow(json!({"Summary": null}))]);
    assert!(text.ends_with("(TCP Flags: SYN)\n"), "{text}");
}

fn in_format(format: Format) -> Options {
    Options {
        format,
        ..Options::default()
    }
}

#[test]
fn other_formats() {
    let few = &story()[2..4];
    expect![[r#"
          TIMESTAMP: Mar  4 09:12:01.403
             SOURCE: shop/cart-6d9:40112
        DESTINATION: shop/db-0:80
               TYPE: to-network
            VERDICT: FORWARDED
            SUMMARY: TCP Flags: SYN
        ------------
          TIMESTAMP: Mar  4 09:12:01.404
             SOURCE: shop/db-0:80
        DESTINATION: shop/cart-6d9:40112
               TYPE: to-endpoint
            VERDICT: FORWARDED
            SUMMARY: TCP Flags: SYN, ACK
    "#]]
    .assert_eq(&lines(in_format(Format::Dict), few));
    expect![[r#"
        TIMESTAMP             SOURCE                DESTINATION           TYPE          VERDICT     SUMMARY
        Mar  4 09:12:01.403   shop/cart-6d9:40112   shop/db-0:80          to-network    FORWARDED   TCP Flags: SYN
        Mar  4 09:12:01.404   shop/db-0:80          shop/cart-6d9:40112   to-endpoint   FORWARDED   TCP Flags: SYN, ACK
    "#]]
    .assert_eq(&lines(in_format(Format::Table), few));
    let node = Options {
        node: true,
        ..in_format(Format::Table)
    };
    expect![[r#"
        TIMESTAMP             NODE         SOURCE                DESTINATION    TYPE         VERDICT     SUMMARY
        Mar  4 09:12:01.403   default/w1   shop/cart-6d9:40112   shop/db-0:80   to-network   FORWARDED   TCP Flags: SYN
    "#]]
    .assert_eq(&lines(node, &few[..1]));
    // One object a line, as a server sent it.
    for format in [Format::Json, Format::Jsonpb] {
        let text = lines(in_format(format), few);
        let read = text
            .lines()
            .map(|line| json::from_str(line, Unknown::Refuse).unwrap());
        assert_eq!(read.collect::<Vec<GetFlowsResponse>>(), few);
        assert!(
            text.starts_with(r#"{"flow":{"time":"2025-03-04T09:12:01.403Z","#),
            "{text}"
        );
    }
    let bare = Options {
        bare: true,
        ..in_format(Format::Json)
    };
    let text = lines(bare, few);
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["source"]["pod_name"], "cart-6d9");
}

#[test]
fn colours() {
    let options = Options {
        colors: Colors::of(color::When::Always),
        ..Options::default()
    };
    let all = story();
    let text = lines(options, &[all[2].clone(), all[5].clone()]).replace('\x1b', "^");
    expect![[r#"
        Mar  4 09:12:01.403: ^[36mshop/cart-6d9:^[0m^[33m40112^[0m ^[35m(ID:20311)^[0m -> ^[36mshop/db-0:^[0m^[33m80^[0m ^[35m(ID:31007)^[0m to-network ^[32mFORWARDED^[0m (TCP Flags: SYN)
        Mar  4 09:12:05.001: ^[36mshop/bad:^[0m^[33m51000^[0m ^[35m(ID:777)^[0m <> ^[36mshop/db-0:^[0m^[33m80^[0m ^[35m(ID:31007)^[0m Policy denied ^[31mDROPPED^[0m (TCP Flags: SYN)
    "#]].assert_eq(&text);
}

fn status(state: &str, names: &[&str], message: &str) -> GetFlowsResponse {
    let text = json!({
        "node_status": {"state_change": state, "node_names": names, "message": message},
        "node_name": "relay-1", "time": "2025-03-04T09:12:01.402Z",
    });
    json::from_str(&text.to_string(), Unknown::Refuse).unwrap()
}

fn lost() -> GetFlowsResponse {
    let text = json!({
        "lost_events": {"source": "HUBBLE_RING_BUFFER", "num_events_lost": "7", "cpu": 3},
        "node_name": "default/w1", "time": "2025-03-04T09:12:01.402Z",
    });
    json::from_str(&text.to_string(), Unknown::Refuse).unwrap()
}

#[test]
fn what_is_not_a_flow() {
    let many: Vec<String> = (0..20).map(|number| format!("node-{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let all = [
        lost(),
        status("NODE_CONNECTED", &["a", "b"], ""),
        status("NODE_UNAVAILABLE", &many, ""),
        status("NODE_GONE", &["a"], ""),
        status("NODE_ERROR", &["a"], "it broke"),
    ];
    let mut text = lines(Options::default(), &all);
    // Empty values have a blank before them.
    let visible = |text: String| text.replace(": \n", ":\n");
    for format in [Format::Compact, Format::Dict, Format::Table, Format::Json] {
        let options = Options {
            debug: true,
            node: true,
            ..in_format(format)
        };
        text += &format!("# {format:?}\n{}", visible(lines(options, &all)));
    }
    expect![[r#"
        EVENTS LOST: HUBBLE_RING_BUFFER CPU(3) 7
        stderr: Mar  4 09:12:01.402 [relay-1]: 20 nodes are unavailable: node-0, node-1, node-2, node-3, node-4, node-5 (and 14 more)
        stderr: Mar  4 09:12:01.402 [relay-1]: Error "it broke" on 1 nodes: a
        # Compact
        EVENTS LOST: HUBBLE_RING_BUFFER CPU(3) 7
        stderr: Mar  4 09:12:01.402 [relay-1]: Receiving flows from 2 nodes: a, b
        stderr: Mar  4 09:12:01.402 [relay-1]: 20 nodes are unavailable: node-0, node-1, node-2, node-3, node-4, node-5 (and 14 more)
        stderr: Mar  4 09:12:01.402 [relay-1]: 1 nodes removed from cluster: a
        stderr: Mar  4 09:12:01.402 [relay-1]: Error "it broke" on 1 nodes: a
        # Dict
          TIMESTAMP: Mar  4 09:12:01.402
               NODE: default/w1
             SOURCE: HUBBLE_RING_BUFFER
        DESTINATION:
               TYPE: EVENTS LOST
            VERDICT:
            SUMMARY: CPU(3) - 7
        stderr: TIMESTAMP: Mar  4 09:12:01.402
        stderr:     STATE: NODE_CONNECTED
        stderr:     NODES: a, b
        stderr:   MESSAGE: N/A
        stderr: TIMESTAMP: Mar  4 09:12:01.402
        stderr:     STATE: NODE_UNAVAILABLE
        stderr:     NODES: node-0, node-1, node-2, node-3, node-4, node-5 (and 14 more)
        stderr:   MESSAGE: N/A
        stderr: TIMESTAMP: Mar  4 09:12:01.402
        stderr:     STATE: NODE_GONE
        stderr:     NODES: a
        stderr:   MESSAGE: N/A
        stderr: TIMESTAMP: Mar  4 09:12:01.402
        stderr:     STATE: NODE_ERROR
        stderr:     NODES: a
        stderr:   MESSAGE: "it broke"
        # Table
        TIMESTAMP             NODE         SOURCE               DESTINATION   TYPE          VERDICT   SUMMARY
        Mar  4 09:12:01.402   default/w1   HUBBLE_RING_BUFFER                 EVENTS LOST             CPU(3) - 7
        stderr: Mar  4 09:12:01.402 [relay-1]: Receiving flows from 2 nodes: a, b
        stderr: Mar  4 09:12:01.402 [relay-1]: 20 nodes are unavailable: node-0, node-1, node-2, node-3, node-4, node-5 (and 14 more)
        stderr: Mar  4 09:12:01.402 [relay-1]: 1 nodes removed from cluster: a
        stderr: Mar  4 09:12:01.402 [relay-1]: Error "it broke" on 1 nodes: a
        # Json
        {"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"7","cpu":3},"node_name":"default/w1","time":"2025-03-04T09:12:01.402Z"}
        stderr: {"node_status":{"state_change":"NODE_CONNECTED","node_names":["a","b"]},"node_name":"relay-1","time":"2025-03-04T09:12:01.402Z"}
        stderr: {"node_status":{"state_change":"NODE_UNAVAILABLE","node_names":["node-0","node-1","node-2","node-3","node-4","node-5","node-6","node-7","node-8","node-9","node-10","node-11","node-12","node-13","node-14","node-15","node-16","node-17","node-18","node-19"]},"node_name":"relay-1","time":"2025-03-04T09:12:01.402Z"}
        stderr: {"node_status":{"state_change":"NODE_GONE","node_names":["a"]},"node_name":"relay-1","time":"2025-03-04T09:12:01.402Z"}
        stderr: {"node_status":{"state_change":"NODE_ERROR","node_names":["a"],"message":"it broke"},"node_name":"relay-1","time":"2025-03-04T09:12:01.402Z"}
    "#]].assert_eq(&text);
}

#[test]
fn events_of_agents() {
    let events = [
        json!({"type": "AGENT_STARTED", "agent_start": {"time": "2025-03-04T09:12:01Z"}}),
        json!({"type": "POLICY_UPDATED", "policy_update": {"labels": ["a", "b"], "revision": "7", "rule_count": "2"}}),
        json!({"type": "ENDPOINT_REGENERATE_FAILURE", "endpoint_regenerate": {"id": "904", "labels": ["k8s:app=x"], "error": "no"}}),
        json!({"type": "ENDPOINT_CREATED", "endpoint_update": {"id": "904", "pod_name": "cart-0", "namespace": "shop"}}),
        json!({"type": "IPCACHE_UPSERTED", "ipcache_update": {"cidr": "10.7.1.12/32", "identity": 21565, "old_identity": 3, "host_ip": "192.0.2.11", "pod_name": "cart-0", "namespace": "shop"}}),
        json!({"type": "SERVICE_UPSERTED", "service_upsert": {"id": 7, "frontend_address": {"ip": "10.96.0.1", "port": 443}, "backend_addresses": [{"ip": "fd00::1", "port": 6443}], "type": "ClusterIP", "name": "kubernetes", "namespace": "default"}}),
        json!({"type": "SERVICE_DELETED", "service_delete": {"id": 7}}),
        json!({"type": "AGENT_EVENT_UNKNOWN", "unknown": {"type": "x", "notification": "y"}}),
    ];
    let of = |event: &Value| -> GetAgentEventsResponse {
        let text = json!({"agent_event": event, "node_name": "default/w1", "time": "2025-03-04T09:12:01.402Z"});
        json::from_str(&text.to_string(), Unknown::Refuse).unwrap()
    };
    let all = |format| {
        let options = Options {
            node: format == Format::Compact,
            ..in_format(format)
        };
        printed(options, |printer| {
            events
                .iter()
                .for_each(|event| printer.agent_event(&of(event)).unwrap());
        })
    };
    expect![[r#"
        Mar  4 09:12:01.402 [default/w1]: AGENT_STARTED (start time: Mar  4 09:12:01.000)
        Mar  4 09:12:01.402 [default/w1]: POLICY_UPDATED (labels: [a,b], revision: 7, count: 2)
        Mar  4 09:12:01.402 [default/w1]: ENDPOINT_REGENERATE_FAILURE (id: 904, labels: [k8s:app=x], error: no)
        Mar  4 09:12:01.402 [default/w1]: ENDPOINT_CREATED (id: 904, namespace: shop, pod name: cart-0)
        Mar  4 09:12:01.402 [default/w1]: IPCACHE_UPSERTED (cidr: 10.7.1.12/32, identity: 21565, old identity: 3, host ip: 192.0.2.11, encrypt key: 0, namespace: shop, pod name: cart-0)
        Mar  4 09:12:01.402 [default/w1]: SERVICE_UPSERTED (id: 7, frontend: 10.96.0.1:443, backends: [[fd00::1]:6443], type: ClusterIP, namespace: default, name: kubernetes)
        Mar  4 09:12:01.402 [default/w1]: SERVICE_DELETED (id: 7)
        Mar  4 09:12:01.402 [default/w1]: AGENT_EVENT_UNKNOWN (type: x, notification: y)
        TIMESTAMP: Mar  4 09:12:01.402
             TYPE: AGENT_STARTED
          DETAILS: start time: Mar  4 09:12:01.000
        ------------
        TIMESTAMP: Mar  4 09:12:01.402
             TYPE: POLICY_UPDATED
          DETAILS: labels: [a,b], revision: 7, count: 2
        ------------
        TIMESTAMP: Mar  4 09:12:01.402
             TYPE: ENDPOINT_REGENERATE_FAILURE
          DETAILS: id: 904, labels: [k8s:app=x], error: no
        ------------
        TIMESTAMP: Mar  4 09:12:01.402
             TYPE: ENDPOINT_CREATED
          DETAILS: id: 904, namespace: shop, pod name: cart-0
        ------------
        TIMESTAMP: Mar  4 09:12:01.402
             TYPE: IPCACHE_UPSERTED
          DETAILS: cidr: 10.7.1.12/32, identity: 21565, old identity: 3, host ip: 192.0.2.11, encrypt key: 0, namespace: shop, pod name: cart-0
        ------------
        TIMESTAMP: Mar  4 09:12:01.402
             TYPE: SERVICE_UPSERTED
          DETAILS: id: 7, frontend: 10.96.0.1:443, backends: [[fd00::1]:6443], type: ClusterIP, namespace: default, name: kubernetes
        ------------
        TIMESTAMP: Mar  4 09:12:01.402
             TYPE: SERVICE_DELETED
          DETAILS: id: 7
        ------------
        TIMESTAMP: Mar  4 09:12:01.402
             TYPE: AGENT_EVENT_UNKNOWN
          DETAILS: type: x, notification: y
        TIMESTAMP             TYPE                          DETAILS
        Mar  4 09:12:01.402   AGENT_STARTED                 start time: Mar  4 09:12:01.000
        Mar  4 09:12:01.402   POLICY_UPDATED                labels: [a,b], revision: 7, count: 2
        Mar  4 09:12:01.402   ENDPOINT_REGENERATE_FAILURE   id: 904, labels: [k8s:app=x], error: no
        Mar  4 09:12:01.402   ENDPOINT_CREATED              id: 904, namespace: shop, pod name: cart-0
        Mar  4 09:12:01.402   IPCACHE_UPSERTED              cidr: 10.7.1.12/32, identity: 21565, old identity: 3, host ip: 192.0.2.11, encrypt key: 0, namespace: shop, pod name: cart-0
        Mar  4 09:12:01.402   SERVICE_UPSERTED              id: 7, frontend: 10.96.0.1:443, backends: [[fd00::1]:6443], type: ClusterIP, namespace: default, name: kubernetes
        Mar  4 09:12:01.402   SERVICE_DELETED               id: 7
        Mar  4 09:12:01.402   AGENT_EVENT_UNKNOWN           type: x, notification: y
    "#]].assert_eq(&[Format::Compact, Format::Dict, Format::Table].map(all).concat());
    let debug = GetDebugEventsResponse {
        debug_event: Some(DebugEvent {
            r#type: 41,
            hash: Some(0x1a2b),
            cpu: Some(1),
            message: "text".to_owned(),
            ..DebugEvent::default()
        }),
        ..GetDebugEventsResponse::default()
    };
    let all = |format| {
        printed(in_format(format), |printer| {
            printer.debug_event(&debug).unwrap()
        })
    };
    expect![[r#"
        N/A: N/A DBG_RR_BACKEND_SLOT_SEL MARK: 0x00001a2b CPU: 01 (text)
        TIMESTAMP: N/A
             FROM: N/A
             TYPE: DBG_RR_BACKEND_SLOT_SEL
              CPU: 01
             MARK: 0x00001a2b
          MESSAGE: text
        TIMESTAMP   FROM   TYPE                      CPU   MARK         MESSAGE
        N/A         N/A    DBG_RR_BACKEND_SLOT_SEL   01    0x00001a2b   text
    "#]]
    .assert_eq(
        &[Format::Compact, Format::Dict, Format::Table]
            .map(all)
            .concat(),
    );
}
