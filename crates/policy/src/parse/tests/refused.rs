//! What is refused, with the words that the user reads.
use super::*;
use crate::rule::{DnsRule, L7Rules};

/// Every way to be wrong that the semantics name, with the beginning of what the user reads.
#[test]
fn what_is_wrong_is_named_with_its_place() {
    let port = |port: Value| ingress(json!({"toPorts": [{"ports": [port]}]}));
    let rules = |rules: Value, protocol: &str| {
        egress(
            json!({"toPorts": [{"ports": [{"port": "80", "protocol": protocol}], "rules": rules}]}),
        )
    };
    let many = vec![json!({"port": "80"}); 41];
    let fields = vec![json!({"type": 8}); 41];
    let block = |block: Value| np(json!({"podSelector": {}, "ingress": [{"from": [block]}]}));
    let table: Vec<(Value, &str)> = vec![
        (json!([]), "object: kind is missing"),
        (
            json!({"kind": "Pod"}),
            "kind: \"Pod\" is no kind of policy; accepted: AdminNetworkPolicy",
        ),
        (
            json!({"kind": "NetworkPolicy", "apiVersion": "v1"}),
            "apiVersion: \"v1\" is not the version of NetworkPolicy that is read; accepted: networking.k8s.io/v1",
        ),
        (
            json!({"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1"}),
            "object: metadata is missing",
        ),
        (
            cnp(json!(null)),
            "object: there is no rule; accepted: spec, or specs",
        ),
        (cnp(json!("x")), "spec: is a string; accepted: an object"),
        (
            cnp(json!({"endpointSelector": {}})),
            "spec: the rule says nothing",
        ),
        (
            cnp(json!({"ingress": []})),
            "spec: nothing is chosen; accepted: exactly one of endpointSelector, nodeSelector",
        ),
        (
            cnp(json!({"nodeSelector": {}, "ingress": []})),
            "spec.nodeSelector: a policy of a namespace cannot be about nodes",
        ),
        (
            ccnp(json!({"nodeSelector": {}, "endpointSelector": {}, "ingress": []})),
            "spec: endpointSelector and nodeSelector exclude each other",
        ),
        (
            cnp(json!({"endpointSelector": {}, "ingres": []})),
            "spec: unknown field \"ingres\"; accepted: endpointSelector, nodeSelector, ingress",
        ),
        (
            cnp(json!({"endpointSelector": {}, "ingress": {}})),
            "spec.ingress: is an object; accepted: a list",
        ),
        (
            cnp(
                json!({"endpointSelector": {}, "ingress": [], "enableDefaultDeny": {"ingress": 1}}),
            ),
            "spec.enableDefaultDeny.ingress: is a number; accepted: true or false",
        ),
        (
            cnp(json!({"endpointSelector": {"matchLabels": {"a": 1}}, "ingress": []})),
            "spec.endpointSelector.matchLabels[\"a\"]: is a number; accepted: a string",
        ),
        (
            cnp(json!({"endpointSelector": {"matchLabels": {"k8s:": ""}}, "ingress": []})),
            "spec.endpointSelector.matchLabels[\"k8s:\"]: the key of the label is empty",
        ),
        (
            ingress(
                json!({"fromEndpoints": [{"matchExpressions": [{"key": "a", "operator": "Is"}]}]}),
            ),
            "spec.ingress[0].fromEndpoints[0].matchExpressions[0].operator: \"Is\" is not known; accepted: In, NotIn, Exists, DoesNotExist",
        ),
        (
            ingress(
                json!({"fromEndpoints": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}),
            ),
            "spec.ingress[0].fromEndpoints[0].matchExpressions[0]: operator In needs values",
        ),
        (
            ingress(
                json!({"fromEndpoints": [{"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}]}),
            ),
            "spec.ingress[0].fromEndpoints[0].matchExpressions[0]: operator Exists takes no values",
        ),
        (
            ingress(json!({"fromEndpoints": [{"matchLabels": {"cidr:x": ""}}]})),
            "spec.ingress[0].fromEndpoints[0].matchLabels[\"cidr:x\"]: \"x\" is no range of addresses",
        ),
        (
            ingress(json!({"fromEndpoints": [], "fromEntities": []})),
            "spec.ingress[0]: fromEndpoints and fromEntities exclude each other; accepted: one of them",
        ),
        (
            ingress(json!({"toEndpoints": []})),
            "spec.ingress[0]: unknown field \"toEndpoints\"; accepted: fromEndpoints",
        ),
        (
            ingress(json!({"fromEntities": ["moon"]})),
            "spec.ingress[0].fromEntities[0]: \"moon\" is no entity; accepted: all, world, cluster",
        ),
        (
            ingress(json!({"fromEntities": ["world-ipv4"]})),
            "spec.ingress[0].fromEntities[0]: \"world-ipv4\" is no entity",
        ),
        (
            ingress(json!({"fromCIDR": ["10.0.0.0/33"]})),
            "spec.ingress[0].fromCIDR[0]: \"10.0.0.0/33\" is no range of addresses",
        ),
        (
            ingress(json!({"fromCIDRSet": [{}]})),
            "spec.ingress[0].fromCIDRSet[0]: nothing is chosen; accepted: exactly one of cidr, cidrGroupRef, cidrGroupSelector",
        ),
        (
            ingress(json!({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "cidrGroupRef": "g"}]})),
            "spec.ingress[0].fromCIDRSet[0]: cidr and cidrGroupRef exclude each other",
        ),
        (
            ingress(
                json!({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16"]}]}),
            ),
            "spec.ingress[0].fromCIDRSet[0].except[1]: 11.0.0.0/16 is not within 10.0.0.0/8; accepted: a part of 10.0.0.0/8",
        ),
        (
            ingress(
                json!({"fromCIDRSet": [{"cidrGroupSelector": {"matchLabels": {"k8s:a": "b"}}}]}),
            ),
            "spec.ingress[0].fromCIDRSet[0].cidrGroupSelector: k8s:a=b asks for labels that groups cannot have",
        ),
        (
            ingress(json!({"fromNodes": [{}]})),
            "spec.ingress[0].fromNodes[0]: nodes are selected by labels, but their identities have none; accepted: fromEntities or toEntities, or enable-node-selector-labels",
        ),
        (
            egress(json!({"toServices": [{"k8sService": {}}]})),
            "spec.egress[0].toServices[0].k8sService: serviceName is missing",
        ),
        (
            ccnp(
                json!({"endpointSelector": {}, "egress": [{"toServices": [{"k8sService": {"serviceName": "s"}}]}]}),
            ),
            "spec.egress[0].toServices[0].k8sService: namespace is missing",
        ),
        (
            ingress(
                json!({"toPorts": [{"ports": [{"port": "80"}]}], "icmps": [{"fields": [{"type": 8}]}]}),
            ),
            "spec.ingress[0]: toPorts and icmps exclude each other",
        ),
        (
            ingress(json!({"toPorts": [{"ports": many}]})),
            "spec.ingress[0].toPorts[0]: 41 ports in one item; accepted: at most 40",
        ),
        (
            ingress(json!({"toPorts": [{}]})),
            "spec.ingress[0].toPorts[0]: ports is empty",
        ),
        (
            port(json!({"port": "70000"})),
            "spec.ingress[0].toPorts[0].ports[0].port: 70000 is no port; accepted: a number from 0 to 65535",
        ),
        (
            port(json!({"port": "-80"})),
            "spec.ingress[0].toPorts[0].ports[0].port: \"-80\" is neither a port number nor a name",
        ),
        (
            port(json!({"port": "http_alt"})),
            "spec.ingress[0].toPorts[0].ports[0].port: \"http_alt\" is neither a port number nor a name",
        ),
        (
            port(json!({"port": "80", "endPort": 79})),
            "spec.ingress[0].toPorts[0].ports[0].endPort: 79 is less than port 80; accepted: a number from 80 to 65535",
        ),
        (
            port(json!({"port": "http", "endPort": 90})),
            "spec.ingress[0].toPorts[0].ports[0].endPort: port \"http\" is a name, which has no range",
        ),
        (
            port(json!({"port": "0", "endPort": 90})),
            "spec.ingress[0].toPorts[0].ports[0].endPort: there is no first port",
        ),
        (
            port(json!({"port": "80", "endPort": 65536})),
            "spec.ingress[0].toPorts[0].ports[0].endPort: 65536 is out of range",
        ),
        (
            port(json!({"port": "80", "protocol": "ICMP"})),
            "spec.ingress[0].toPorts[0].ports[0].protocol: \"ICMP\" is not known; accepted: TCP, UDP, SCTP, ANY",
        ),
        (
            ingress(json!({"icmps": [{"fields": fields}]})),
            "spec.ingress[0].icmps[0]: 41 fields; accepted: 1 to 40 fields",
        ),
        (
            ingress(json!({"icmps": [{"fields": [{"type": 256}]}]})),
            "spec.ingress[0].icmps[0].fields[0].type: 256 is out of range",
        ),
        (
            ingress(json!({"icmps": [{"fields": [{"family": "IPv6", "type": "Echo"}]}]})),
            "spec.ingress[0].icmps[0].fields[0].type: \"Echo\" is no type of ICMP message; accepted: a number from 0 to 255, or DestinationUnreachable, PacketTooBig",
        ),
        (
            rules(json!({"http": [], "dns": []}), "TCP"),
            "spec.egress[0].toPorts[0].rules: http and dns exclude each other",
        ),
        (
            rules(json!({"http": [{"path": "("}]}), "TCP"),
            "spec.egress[0].toPorts[0].rules.http[0].path: \"(\" is no regular expression",
        ),
        (
            rules(json!({"http": []}), "ANY"),
            "spec.egress[0].toPorts[0].rules: http rules with a protocol other than TCP",
        ),
        (
            rules(json!({"kafka": [{"role": "eat"}]}), "TCP"),
            "spec.egress[0].toPorts[0].rules.kafka[0].role: \"eat\" is not known; accepted: produce, consume",
        ),
        (
            ingress(json!({"toPorts": [{"ports": [{"port": "53"}], "rules": {"dns": []}}]})),
            "spec.ingress[0].toPorts[0].rules: dns rules of ingress",
        ),
        (
            egress(json!({"toPorts": [{"ports": [{"port": "0"}], "rules": {"dns": []}}]})),
            "spec.egress[0].toPorts[0].rules: rules for every port",
        ),
        (
            egress(
                json!({"toPorts": [{"ports": [{"port": "53", "endPort": 54}], "rules": {"dns": []}}]}),
            ),
            "spec.egress[0].toPorts[0].rules: dns rules with a range of ports",
        ),
        (
            egress(json!({"toFQDNs": [{"matchName": "*.x"}]})),
            "spec.egress[0].toFQDNs[0].matchName: \"*.x\" is no name",
        ),
        (
            ingress(json!({"toFQDNs": []})),
            "spec.ingress[0]: unknown field \"toFQDNs\"",
        ),
        (
            cnp(json!({"endpointSelector": {}, "egressDeny": [{"toFQDNs": []}]})),
            "spec.egressDeny[0]: unknown field \"toFQDNs\"",
        ),
        (
            cnp(
                json!({"endpointSelector": {}, "ingressDeny": [{"toPorts": [{"ports": [{"port": "80"}], "rules": {}}]}]}),
            ),
            "spec.ingressDeny[0].toPorts[0]: unknown field \"rules\"; accepted: ports",
        ),
        (
            cnp(
                json!({"endpointSelector": {}, "ingressDeny": [{"authentication": {"mode": "required"}}]}),
            ),
            "spec.ingressDeny[0]: unknown field \"authentication\"",
        ),
        (
            egress(json!({"toPorts": [{"ports": [{"port": "443"}], "serverNames": ["x"]}]})),
            "spec.egress[0].toPorts[0].serverNames: server names with a protocol other than TCP",
        ),
        (
            egress(
                json!({"toPorts": [{"ports": [{"port": "0", "protocol": "TCP"}], "serverNames": ["x"]}]}),
            ),
            "spec.egress[0].toPorts[0].serverNames: server names for every port",
        ),
        (
            egress(
                json!({"toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": ["x", "a.**.b"]}]}),
            ),
            "spec.egress[0].toPorts[0].serverNames[1]: \"a.**.b\" is no name of a server",
        ),
        (
            egress(
                json!({"toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": ["x"], "rules": {"http": [{}]}}]}),
            ),
            "spec.egress[0].toPorts[0].serverNames: server names together with rules",
        ),
        (
            ccnp(
                json!({"nodeSelector": {}, "egress": [{"toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": ["x"]}]}]}),
            ),
            "spec.egress[0].toPorts[0].serverNames: server names in a policy of nodes",
        ),
        (
            ingress(
                json!({"toPorts": [{"ports": [{"port": "80"}], "listener": {"envoyConfig": {"name": "e"}, "name": "l"}}]}),
            ),
            "spec.ingress[0].toPorts[0].listener: a listener of ingress",
        ),
        (
            egress(
                json!({"toPorts": [{"ports": [{"port": "80"}], "listener": {"envoyConfig": {"name": "e"}, "name": "l", "priority": 101}}]}),
            ),
            "spec.egress[0].toPorts[0].listener.priority: 101 is out of range; accepted: a whole number from 0 to 100",
        ),
        (
            ccnp(
                json!({"nodeSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": []}}]}]}),
            ),
            "spec.ingress[0].toPorts[0].rules: http rules in a policy of nodes",
        ),
        (
            ingress(json!({"authentication": {"mode": "maybe"}})),
            "spec.ingress[0].authentication.mode: \"maybe\" is not known; accepted: disabled, required, test-always-fail",
        ),
        (
            np(json!({"podSelector": {}, "policyTypes": ["Both"]})),
            "spec.policyTypes[0]: \"Both\" is not known; accepted: Ingress, Egress",
        ),
        (
            block(json!({})),
            "spec.ingress[0].from[0]: nobody is named; accepted: podSelector, namespaceSelector",
        ),
        (
            block(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
            "spec.ingress[0].from[0]: ipBlock stands beside a selector",
        ),
        (
            block(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["9.0.0.0/8"]}})),
            "spec.ingress[0].from[0].ipBlock.except[0]: 9.0.0.0/8 is not within 10.0.0.0/8",
        ),
        (
            np(json!({"podSelector": {}, "ingress": [{"ports": [{"endPort": 5}]}]})),
            "spec.ingress[0].ports[0].endPort: there is no first port",
        ),
        (
            np(json!({"podSelector": {}, "ingress": [{"ports": [{"port": 0}]}]})),
            "spec.ingress[0].ports[0].port: 0 is out of range; accepted: a whole number from 1 to 65535",
        ),
        (
            anp(json!({"action": "Drop", "to": []})),
            "spec.egress[0].action: \"Drop\" is not known; accepted: Allow, Deny, Pass",
        ),
        (
            anp(json!({"action": "Deny"})),
            "spec.egress[0]: to names nobody",
        ),
        (
            anp(json!({"action": "Deny", "to": [{"nodes": {}}]})),
            "spec.egress[0].to[0].nodes: nodes are selected by labels",
        ),
        (
            anp(
                json!({"action": "Deny", "to": [{"namespaces": {}}], "ports": [{"portRange": {"start": 9, "end": 1}}]}),
            ),
            "spec.egress[0].ports[0].portRange: end 1 is less than start 9",
        ),
    ];
    for (object, text) in &table {
        let error = refused(object);
        assert!(error.starts_with(text), "{error}\nshould be\n{text}");
        assert!(error.contains("; accepted: "), "{error}");
    }
}

#[test]
fn what_is_not_enforced_is_refused_with_all_its_places() {
    let http = json!({"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": "/a", "headers": ["X-A: b"],
        "headerMatches": [{"name": "x", "value": "y", "mismatch": "LOG"}]}]}});
    let dns = json!({"ports": [{"port": "53"}], "rules": {"dns": [{"matchPattern": "*.x"}]}});
    let kafka = json!({"ports": [{"port": "9092", "protocol": "TCP"}], "rules": {"kafka": [{"role": "produce", "topic": "t", "apiVersion": "2"}]}});
    let tls = json!({"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": ["x"],
        "terminatingTLS": {"secret": {"name": "s", "namespace": "n"}}});
    let listener = json!({"ports": [{"port": "81"}], "listener": {"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "e"}, "name": "l", "priority": 3}});
    let object = cnp(json!({
        "endpointSelector": {},
        "ingress": [{"fromGroups": [{"aws": {"region": "x"}}]}, {"fromEndpoints": [{}], "authentication": {"mode": "required"}}],
        "egress": [{"toPorts": [http, dns, kafka, tls, listener]}, {"toFQDNs": [{"matchName": "example.org"}]}, {"toGroups": [{"aws": {}}]}],
    }));
    let Err(Refused::NotEnforced(problems)) = policy(&object, Options::default()) else {
        panic!("taken or invalid");
    };
    let paths: Vec<&str> = problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "spec.ingress[0].fromGroups[0]",
            "spec.ingress[1].authentication.mode",
            "spec.egress[0].toPorts[0].rules",
            "spec.egress[0].toPorts[1].rules",
            "spec.egress[0].toPorts[2].rules",
            "spec.egress[0].toPorts[3].serverNames",
            "spec.egress[0].toPorts[3].terminatingTLS",
            "spec.egress[0].toPorts[4].listener",
            "spec.egress[1].toFQDNs[0]",
            "spec.egress[2].toGroups[0]",
        ]
    );
    let off = "not enforced while enable-l7-proxy is false";
    for problem in &problems {
        let settable = [".rules", ".serverNames", ".terminatingTLS", "toFQDNs[0]"];
        let is_off = settable.iter().any(|end| problem.path.ends_with(end));
        assert_eq!(problem.what.ends_with(off), is_off, "{problem}");
        assert!(
            is_off || problem.what.ends_with("not enforced yet"),
            "{problem}"
        );
        assert_eq!(problem.accepted.contains("enable-l7-proxy=true"), is_off);
    }
}

const L7: Options = Options {
    node_selector_labels: false,
    always_default_deny: false,
    l7: true,
};

#[test]
fn what_the_proxy_cannot_do_is_refused_where_there_is_one() {
    let tls = json!({"ports": [{"port": "443", "protocol": "TCP"}], "terminatingTLS": {"secret": {"name": "s"}, "trustedCA": "c"}});
    let dns = |protocol: &str| json!({"ports": [{"port": "53", "protocol": protocol}], "rules": {"dns": [{"matchName": "a.b"}]}});
    let proto = json!({"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"l7proto": "x", "l7": [{"a": "b"}]}});
    let to = |item: &Value| egress(json!({"toPorts": [item]}));
    let table = [
        (
            to(&tls),
            "toPorts[0].terminatingTLS.trustedCA: asking clients for certificates is",
        ),
        (
            to(&dns("SCTP")),
            "toPorts[0].rules: dns rules over SCTP are",
        ),
        (
            to(&proto),
            "toPorts[0].rules.l7proto: rules of other parsers are",
        ),
        (
            ccnp(json!({"nodeSelector": {}, "egress": [{"toPorts": [dns("UDP")]}]})),
            "toPorts[0].rules: rules above the transport of nodes are",
        ),
    ];
    for (object, text) in table {
        let error = policy(&object, L7).unwrap_err();
        assert!(matches!(error, Refused::NotEnforced(_)), "{error}");
        let text = format!("spec.egress[0].{text} not enforced yet; accepted: ");
        assert!(error.to_string().starts_with(&text), "{error}\n{text}");
    }
}

#[test]
fn rules_above_the_transport_that_say_nothing_sensible_are_named() {
    let http = |rule: Value| json!({"http": [rule]});
    let table = [
        (json!({"http": []}), "http: is empty"),
        (json!({"kafka": []}), "kafka: is empty"),
        (
            http(json!({"method": "(?:\\w{500}){500}"})),
            "http[0].method: \"(?:\\\\w{500}){500}\" is too large a regular expression",
        ),
        (
            http(json!({"headers": ["a b: c"]})),
            "http[0].headers[0]: \"a b\" is no name of a header",
        ),
        (
            http(json!({"headers": ["a: \u{7}"]})),
            "http[0].headers[0]: the value cannot stand in a header",
        ),
        (
            http(json!({"headerMatches": [{"name": "x", "mismatch": "ADD"}]})),
            "http[0].headerMatches[0]: there is no value to be put in",
        ),
        (
            http(json!({"headerMatches": [{"name": "x", "mismatch": "DROP"}]})),
            "http[0].headerMatches[0].mismatch: \"DROP\" is not known",
        ),
        (
            json!({"kafka": [{"apiKey": "eat"}]}),
            "kafka[0].apiKey: \"eat\" is no request",
        ),
        (
            json!({"kafka": [{"apiKey": "fetch", "role": "consume"}]}),
            "kafka[0]: role and apiKey exclude each other",
        ),
        (
            json!({"kafka": [{"topic": "a b"}]}),
            "kafka[0].topic: \"a b\" is no topic",
        ),
        (
            json!({"kafka": [{"apiVersion": "two"}]}),
            "kafka[0]: apiVersion \"two\" is no version",
        ),
    ];
    for (rules, text) in table {
        let item = json!({"ports": [{"port": "80", "protocol": "TCP"}], "rules": rules});
        let error = policy(&egress(json!({"toPorts": [item]})), L7)
            .unwrap_err()
            .to_string();
        let text = format!("spec.egress[0].toPorts[0].rules.{text}");
        assert!(error.starts_with(&text), "{error}\nshould be\n{text}");
        assert!(error.contains("; accepted: "), "{error}");
    }
}

#[test]
fn rules_above_the_transport_are_read() {
    let item = json!({"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": "/a", "method": "", "headers": ["X-A", "X-B: c"]}]}});
    let dns = json!({"ports": [{"port": "53"}], "rules": {"dns": [{"matchName": "a.b"}, {"matchPattern": "*"}]}});
    let read = policy(&egress(json!({"toPorts": [item, dns]})), L7).unwrap();
    let Traffic::Ports(ports) = &read.rules[0].sections[1].entries[0].traffic else {
        panic!("no ports");
    };
    let protocols: Vec<_> = ports.iter().map(|port| port.protocol.unwrap()).collect();
    assert_eq!(protocols, [Protocol::Tcp, Protocol::Tcp, Protocol::Udp]);
    let l7 = ports[0].l7.as_ref().unwrap();
    assert_eq!(l7.path, "spec.egress[0].toPorts[0].rules.http");
    let L7Rules::Http(rules) = &*l7.rules else {
        panic!("another kind");
    };
    assert_eq!(
        (rules[0].path.as_deref(), &rules[0].method),
        (Some("/a"), &None)
    );
    let headers: Vec<_> = rules[0]
        .headers
        .iter()
        .map(|one| (one.name.as_str(), one.value.as_deref()))
        .collect();
    assert_eq!(headers, [("X-A", None), ("X-B", Some("c"))]);
    let all = L7Rules::Dns(vec![
        DnsRule::MatchName("a.b".to_owned()),
        DnsRule::MatchPattern("*".to_owned()),
    ]);
    assert_eq!(*ports[1].l7.as_ref().unwrap().rules, all);
}
