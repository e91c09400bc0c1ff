//! What flags mean, as filters of the flow API.
use expect_test::expect;

use super::*;

fn flags(line: &str) -> Vec<(&'static str, String)> {
    super::super::flags::read(&format!("observe {line}")).unwrap()
}

fn shown(line: &str) -> String {
    match Filters::of(&flags(line)) {
        Ok(filters) => filters.show().unwrap(),
        Err(text) => format!("{text}\n"),
    }
}

#[test]
fn flags_become_filters() {
    let lines = [
        "--pod a --pod x/b",
        "--from-pod a --to-port 80 --protocol TCP --verdict dropped",
        "--namespace shop",
        "-n shop --pod cart --pod shop/db",
        "-A --to-service web",
        "-A",
        "--from-namespace a --to-namespace b --not --to-pod b/c",
        "--type trace:to-endpoint -t drop -t 4 -t trace:101 -t l7",
        "--identity world --label k8s:app=x --port 80",
        "--tcp-flags syn,ack --tcp-flags RST -4 --interface eth0 --interface 3",
        "--workload Deployment/web --from-cluster a --to-fqdn *.example.com --snat-ip 192.0.2.0/24",
        "--http-status 4+ --http-method get --http-header a:b --uuid 1 --trace-id 2 --node-name a/b* --node-label x=y",
        "--drop-reason-desc policy_denied --traffic-direction egress --ip-version v6 --cel-expression true",
        "--allowlist {\"source_pod\":[\"it's/\"]} --denylist {\"verdict\":[\"DROPPED\"]}",
    ];
    let text: String = lines
        .iter()
        .map(|line| format!("# {line}\n{}", shown(line)))
        .collect();
    expect![[r##"
        # --pod a --pod x/b
        allowlist:
            - '{"source_pod":["default/a","x/b"]}'
            - '{"destination_pod":["default/a","x/b"]}'
        # --from-pod a --to-port 80 --protocol TCP --verdict dropped
        allowlist:
            - '{"source_pod":["default/a"],"verdict":["DROPPED"],"protocol":["tcp"],"destination_port":["80"]}'
        # --namespace shop
        allowlist:
            - '{"source_pod":["shop/"]}'
            - '{"destination_pod":["shop/"]}'
        # -n shop --pod cart --pod shop/db
        allowlist:
            - '{"source_pod":["shop/cart","shop/db"]}'
            - '{"destination_pod":["shop/cart","shop/db"]}'
        # -A --to-service web
        allowlist:
            - '{"destination_service":["/web"]}'
        # -A
        allowlist:
            - '{"source_pod":["/"]}'
            - '{"destination_pod":["/"]}'
        # --from-namespace a --to-namespace b --not --to-pod b/c
        allowlist:
            - '{"source_pod":["a/"],"destination_pod":["b/"]}'
        denylist:
            - '{"destination_pod":["b/c"]}'
        # --type trace:to-endpoint -t drop -t 4 -t trace:101 -t l7
        allowlist:
            - '{"event_type":[{"type":4,"match_sub_type":true},{"type":1},{"type":4},{"type":4,"match_sub_type":true,"sub_type":101},{"type":129}]}'
        # --identity world --label k8s:app=x --port 80
        allowlist:
            - '{"source_label":["k8s:app=x"],"source_port":["80"],"source_identity":[2]}'
            - '{"destination_label":["k8s:app=x"],"destination_port":["80"],"destination_identity":[2]}'
        # --tcp-flags syn,ack --tcp-flags RST -4 --interface eth0 --interface 3
        allowlist:
            - '{"tcp_flags":[{"SYN":true,"ACK":true},{"RST":true}],"ip_version":["IPv4"],"interface":[{"name":"eth0"},{"index":3}]}'
        # --workload Deployment/web --from-cluster a --to-fqdn *.example.com --snat-ip 192.0.2.0/24
        allowlist:
            - '{"destination_fqdn":["*.example.com"],"source_workload":[{"name":"web","kind":"Deployment"}],"source_ip_xlated":["192.0.2.0/24"],"source_cluster_name":["a"]}'
            - '{"destination_fqdn":["*.example.com"],"destination_workload":[{"name":"web","kind":"Deployment"}],"source_ip_xlated":["192.0.2.0/24"],"source_cluster_name":["a"]}'
        # --http-status 4+ --http-method get --http-header a:b --uuid 1 --trace-id 2 --node-name a/b* --node-label x=y
        allowlist:
            - '{"http_status_code":["4+"],"http_method":["get"],"node_name":["a/b*"],"trace_id":["2"],"uuid":["1"],"http_header":[{"key":"a","value":"b"}],"node_labels":["x=y"]}'
        # --drop-reason-desc policy_denied --traffic-direction egress --ip-version v6 --cel-expression true
        allowlist:
            - '{"ip_version":["IPv6"],"traffic_direction":["EGRESS"],"drop_reason_desc":["POLICY_DENIED"],"experimental":{"cel_expression":["true"]}}'
        # --allowlist {"source_pod":["it's/"]} --denylist {"verdict":["DROPPED"]}
        allowlist:
            - '{"source_pod":["it''s/"]}'
        denylist:
            - '{"verdict":["DROPPED"]}'
    "##]].assert_eq(&text);
}

#[test]
fn mistakes_are_one_line() {
    let lines = [
        "--not",
        "--not --not --pod a",
        "--not --allowlist {}",
        "--pod a --from-pod b",
        "--namespace a -A",
        "--namespace a --pod b/c",
        "--port http",
        "--verdict lost",
        "--protocol ospf",
        "--type tracing",
        "--type trace:there",
        "--http-status 9",
        "--http-header a",
        "--identity me",
        "--tcp-flags syn+ack",
        "--ip-version 5",
        "--traffic-direction up",
        "--pod=",
        "--allowlist {\"pods\":[]}",
    ];
    let text: String = lines.iter().map(|line| shown(line)).collect();
    expect![[r#"
        --not stands last; accepted: --not before the filter that it negates
        two --not follow each other; accepted: --not before a filter
        --not cannot stand before --allowlist; the other list is its opposite
        invalid value 'b' for '--from-pod': it cannot be combined with --pod
        --namespace and --all-namespaces exclude each other
        `b/c` is in namespace `b`, and --namespace asks for `a`
        invalid value 'http' for '--port': accepted: a port, 0 to 65535
        invalid value 'lost' for '--verdict': accepted: FORWARDED, DROPPED, ERROR, AUDIT, REDIRECTED, TRACED, TRANSLATED
        invalid value 'ospf' for '--protocol': accepted: tcp, udp, icmp, icmpv4, icmpv6, sctp, http, dns, kafka
        invalid value 'tracing' for '--type': accepted: capture, drop, l7, policy-verdict, trace, trace-sock, a number; of traces also the point as trace:to-endpoint
        invalid value 'trace:there' for '--type': accepted points: to-endpoint, to-proxy, to-host, to-stack, to-overlay, from-endpoint, from-proxy, from-host, from-stack, from-overlay, from-network, to-network
        invalid value '9' for '--http-status': accepted: a code as 404, or its beginning and a plus sign as 4+ or 40+
        invalid value 'a' for '--http-header': accepted: a header and its value as key:value
        invalid value 'me' for '--identity': accepted: a number, unknown, host, world, unmanaged, health, init, remote-node, kube-apiserver, ingress, world-ipv4, world-ipv6
        invalid value 'syn+ack' for '--tcp-flags': accepted: one or several of FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, NS, with commas
        invalid value '5' for '--ip-version': accepted: 4, 6
        invalid value 'up' for '--traffic-direction': accepted: ingress, egress
        invalid value '' for '--pod': it is empty
        --allowlist: not a flow.FlowFilter: unrecognized field name 'pods' at line 1 column 7; accepted: a FlowFilter as {"source_pod":["ns/pod"]}
    "#]].assert_eq(&text);
}
