//! What is taken, what is refused, and in which words.
use super::*;
use crate::rule::{
    Action, Direction, Entity, Entry, Peer, Peers, Port, PortMatch, Protocol, SubjectSelector,
    Tier, Traffic,
};
use proptest::prelude::*;
use serde_json::json;

fn cnp(spec: Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop", "uid": "u1"},
        "spec": spec,
    })
}

fn ccnp(spec: Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": spec,
    })
}

fn np(spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": spec,
    })
}

fn anp(entry: Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"priority": 5, "subject": {"namespaces": {}}, "egress": [entry]},
    })
}

/// A rule with one entry of ingress.
fn ingress(entry: Value) -> Value {
    cnp(json!({"endpointSelector": {}, "ingress": [entry]}))
}

fn egress(entry: Value) -> Value {
    cnp(json!({"endpointSelector": {}, "egress": [entry]}))
}

fn read(object: &Value) -> Policy {
    match policy(object, Options::default()) {
        Ok(policy) => policy,
        Err(error) => panic!("{error}"),
    }
}

fn refused(object: &Value) -> String {
    match policy(object, Options::default()) {
        Ok(policy) => panic!("taken: {policy:?}"),
        Err(error) => error.to_string(),
    }
}

fn entries(object: &Value, direction: Direction) -> Vec<Entry> {
    read(object).rules[0].section(direction).entries.clone()
}

fn peers_text(object: &Value, direction: Direction) -> String {
    let entry = &entries(object, direction)[0];
    let Peers::Of(peers) = &entry.peers else {
        return "anybody".to_owned();
    };
    let texts: Vec<String> = peers
        .iter()
        .map(|peer| match peer {
            Peer::Labels(selector) | Peer::Nodes(selector) => selector.to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    texts.join(" | ")
}

#[test]
fn a_policy_has_a_name_labels_and_rules_of_spec_and_specs() {
    let mut object = cnp(
        json!({"endpointSelector": {}, "ingress": [{}], "description": "d",
        "labels": [{"key": "team", "value": "x", "source": "k8s"}, {"key": "y"}]}),
    );
    object["specs"] = json!([{"endpointSelector": {"matchLabels": {"app": "a"}}, "egress": []}]);
    let policy = read(&object);
    assert_eq!(policy.name.to_string(), "CiliumNetworkPolicy shop/p");
    assert_eq!(policy.rules.len(), 2);
    assert_eq!(policy.rules[0].labels, ["k8s:team=x", "unspec:y"]);
    assert_eq!(policy.rules[1].path, "specs[0]");
    assert_eq!(
        policy.labels(),
        [
            "k8s:io.cilium.k8s.policy.derived-from=CiliumNetworkPolicy",
            "k8s:io.cilium.k8s.policy.name=p",
            "k8s:io.cilium.k8s.policy.namespace=shop",
            "k8s:io.cilium.k8s.policy.uid=u1",
        ]
    );
}

#[test]
fn the_subject_stays_in_its_namespace() {
    let subject = |object: &Value| match &read(object).rules[0].subject {
        SubjectSelector::Endpoints(selector) => selector.to_string(),
        SubjectSelector::Nodes(selector) => format!("node {selector}"),
    };
    let own = "k8s:io.kubernetes.pod.namespace=shop";
    assert_eq!(subject(&ingress(json!({}))), own);
    let object = cnp(json!({"endpointSelector": {"matchLabels": {"app": "a"}}, "ingress": []}));
    assert_eq!(subject(&object), format!("any:app=a,{own}"));
    let object = ccnp(json!({"nodeSelector": {"matchLabels": {"zone": "z"}}, "ingress": []}));
    assert_eq!(subject(&object), "node any:zone=z");
    let object = cnp(
        json!({"endpointSelector": {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "bank"}}, "ingress": []}),
    );
    assert_eq!(
        refused(&object),
        "spec.endpointSelector: selects in namespace bank; accepted: pods of the policy's own namespace shop; the subject is always limited to it"
    );
}

#[test]
fn peers_are_in_the_own_namespace_unless_one_is_named() {
    let of = |selector: Value| {
        peers_text(
            &ingress(json!({"fromEndpoints": [selector]})),
            Direction::Ingress,
        )
    };
    let own = "k8s:io.kubernetes.pod.namespace=shop";
    assert_eq!(of(json!({})), own);
    assert_eq!(
        of(json!({"matchLabels": {"k8s:app": "a"}})),
        format!("k8s:app=a,{own}")
    );
    let named = json!({"matchLabels": {"io.kubernetes.pod.namespace": "bank"}});
    assert_eq!(of(named), "any:io.kubernetes.pod.namespace=bank");
    let named = json!({"matchExpressions": [{"key": "k8s:io.cilium.k8s.namespace.labels.team", "operator": "Exists"}]});
    assert_eq!(of(named), "k8s:io.cilium.k8s.namespace.labels.team");
    assert_eq!(
        of(json!({"matchLabels": {"reserved:host": ""}})),
        "reserved:host"
    );
    let everywhere = |selector: Value| {
        let object =
            ccnp(json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [selector]}]}));
        peers_text(&object, Direction::Ingress)
    };
    assert_eq!(everywhere(json!({})), "k8s:io.kubernetes.pod.namespace");
    assert_eq!(
        everywhere(json!({"matchLabels": {"app": "a"}})),
        "any:app=a"
    );
}

#[test]
fn absent_empty_and_all_peers_differ() {
    assert!(entries(&ingress(json!({})), Direction::Ingress).is_empty());
    let ports = json!([{"ports": [{"port": "80"}]}]);
    let only_ports = entries(&ingress(json!({"toPorts": ports})), Direction::Ingress);
    assert_eq!(only_ports[0].peers, Peers::Any);
    let nobody = entries(&ingress(json!({"fromEndpoints": []})), Direction::Ingress);
    assert_eq!(nobody[0].peers, Peers::Of(vec![]));
    let all = entries(
        &ingress(json!({"fromEntities": ["host", "all"]})),
        Direction::Ingress,
    );
    assert_eq!(all[0].peers, Peers::Any);
    let world = entries(
        &ingress(json!({"fromEntities": ["world"]})),
        Direction::Ingress,
    );
    assert_eq!(world[0].peers, Peers::Of(vec![Peer::Entity(Entity::World)]));
}

#[test]
fn default_deny_comes_with_entries_unless_it_is_said() {
    let deny = |spec: Value| {
        let rule = read(&cnp(spec)).rules[0].clone();
        rule.sections.map(|section| section.default_deny)
    };
    assert_eq!(
        deny(json!({"endpointSelector": {}, "ingress": [{}]})),
        [true, false]
    );
    assert_eq!(
        deny(json!({"endpointSelector": {}, "ingress": []})),
        [false, false]
    );
    assert_eq!(
        deny(json!({"endpointSelector": {}, "egressDeny": [{"toEntities": ["world"]}]})),
        [false, true]
    );
    assert_eq!(
        deny(
            json!({"endpointSelector": {}, "ingress": [{}], "egress": [],
            "enableDefaultDeny": {"ingress": false, "egress": true}})
        ),
        [false, true]
    );
}

#[test]
fn ports_are_numbers_ranges_or_names() {
    let port = |port: Value| {
        let object = ingress(json!({"toPorts": [{"ports": [port]}]}));
        match &entries(&object, Direction::Ingress)[0].traffic {
            Traffic::Ports(ports) => ports[0].clone(),
            other => panic!("{other:?}"),
        }
    };
    let of = |protocol, port| PortMatch { protocol, port };
    let tcp = Some(Protocol::Tcp);
    assert_eq!(
        port(json!({"port": "80", "protocol": "TCP"})),
        of(tcp, Port::Range(80, 80))
    );
    assert_eq!(
        port(json!({"port": "80", "endPort": 90})),
        of(None, Port::Range(80, 90))
    );
    assert_eq!(port(json!({"port": "0"})), of(None, Port::ALL));
    assert_eq!(
        port(json!({"port": "", "protocol": "ANY"})),
        of(None, Port::ALL)
    );
    assert_eq!(
        port(json!({"port": "DNS-TCP"})),
        of(None, Port::Named("dns-tcp".to_owned()))
    );
}

#[test]
fn a_network_policy_is_translated() {
    let object = np(json!({"podSelector": {"matchLabels": {"app": "a"}},
        "ingress": [{"from": [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {"team": "x"}}, "podSelector": {"matchLabels": {"app": "b"}}},
            {"namespaceSelector": {}}], "ports": [{"port": 80}, {"protocol": "UDP"}]}]}));
    assert_eq!(
        peers_text(&object, Direction::Ingress),
        "k8s:io.kubernetes.pod.namespace=shop \
         | k8s:io.cilium.k8s.namespace.labels.team=x,k8s:app=b \
         | k8s:io.kubernetes.pod.namespace"
    );
    let entry = &entries(&object, Direction::Ingress)[0];
    let Traffic::Ports(ports) = &entry.traffic else {
        panic!("{entry:?}")
    };
    assert_eq!(ports[0].protocol, Some(Protocol::Tcp));
    assert_eq!(ports[1].port, Port::ALL);
    let deny = |spec: Value| {
        let rule = read(&np(spec)).rules[0].clone();
        rule.sections.map(|section| section.default_deny)
    };
    assert_eq!(deny(json!({"podSelector": {}})), [true, false]);
    assert_eq!(
        deny(json!({"podSelector": {}, "egress": [{}]})),
        [true, true]
    );
    assert_eq!(
        deny(json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]})),
        [false, true]
    );
}

#[test]
fn admin_policies_have_ranks_and_actions() {
    let entry = json!({"name": "n", "action": "Pass", "to": [{"networks": ["10.0.0.0/8", "::/0"]}],
        "ports": [{"portRange": {"protocol": "UDP", "start": 1, "end": 9}}, {"namedPort": "http"}]});
    let got = entries(&anp(entry), Direction::Egress);
    assert_eq!(
        got[0].tier,
        Tier::Admin {
            priority: 5,
            index: 0
        }
    );
    assert_eq!(got[0].action, Action::Pass);
    let Peers::Of(peers) = &got[0].peers else {
        panic!("{got:?}")
    };
    assert_eq!(peers.len(), 2);
}

#[test]
fn a_group_is_read() {
    let object = json!({"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumCIDRGroup",
        "metadata": {"name": "g", "labels": {"kind": "office"}}, "spec": {"externalCIDRs": ["10.1.2.3/8"]}});
    let group = cidr_group(&object).unwrap();
    assert_eq!(group.cidrs[0].to_string(), "10.0.0.0/8");
    assert_eq!(group.labels["kind"], "office");
    let mut wrong = object;
    wrong["spec"]["externalCIDRs"][0] = json!("x");
    assert_eq!(
        cidr_group(&wrong).unwrap_err().to_string(),
        "spec.externalCIDRs[0]: \"x\" is no range of addresses; accepted: an address or a range such as 10.0.0.0/8 or fd00::/64"
    );
}

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
        "originatingTLS": {"secret": {"name": "s", "namespace": "n"}}});
    let listener = json!({"ports": [{"port": "81"}], "listener": {"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "e"}, "name": "l", "priority": 3}});
    let object = cnp(json!({
        "endpointSelector": {},
        "ingress": [{"fromRequires": [{"matchLabels": {"a": "b"}}]}, {"fromEndpoints": [{}], "authentication": {"mode": "required"}}],
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
            "spec.ingress[0].fromRequires[0]",
            "spec.ingress[1].authentication.mode",
            "spec.egress[0].toPorts[0].rules",
            "spec.egress[0].toPorts[1].rules",
            "spec.egress[0].toPorts[2].rules",
            "spec.egress[0].toPorts[3].originatingTLS",
            "spec.egress[0].toPorts[3].serverNames",
            "spec.egress[0].toPorts[4].listener",
            "spec.egress[1].toFQDNs[0]",
            "spec.egress[2].toGroups[0]",
        ]
    );
    assert!(
        problems
            .iter()
            .all(|problem| problem.what.ends_with("not enforced yet"))
    );
}

/// Any JSON, with the names that the parsers look for.
fn anything() -> impl Strategy<Value = Value> {
    let names = || {
        prop::sample::select(vec![
            "spec",
            "specs",
            "metadata",
            "name",
            "namespace",
            "kind",
            "apiVersion",
            "endpointSelector",
            "ingress",
            "egress",
            "ingressDeny",
            "fromEndpoints",
            "toCIDRSet",
            "cidr",
            "except",
            "toPorts",
            "ports",
            "port",
            "endPort",
            "protocol",
            "rules",
            "http",
            "icmps",
            "fields",
            "type",
            "from",
            "to",
            "ipBlock",
            "podSelector",
            "matchLabels",
            "matchExpressions",
            "key",
            "operator",
            "values",
            "subject",
            "priority",
            "action",
            "networks",
            "portRange",
            "start",
            "end",
            "toServices",
            "k8sService",
            "listener",
        ])
    };
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "80",
            "10.0.0.0/8",
            "::/0",
            "In",
            "TCP",
            "CiliumNetworkPolicy",
            "cilium.io/v2",
            "p"
        ])
        .prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((names(), inner), 0..6).prop_map(|members| {
                members
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect()
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_makes_a_parser_panic(spec in anything(), kind in 0..KINDS.len()) {
        let (kind, version) = KINDS[kind];
        let object = json!({"kind": kind.text(), "apiVersion": version, "metadata": {"name": "default"}, "spec": spec});
        for object in [&object, &spec] {
            for result in [policy(object, Options::default()), policy_of_kind(kind, object, Options { node_selector_labels: true })] {
                if let Err(error) = result {
                    prop_assert!(error.to_string().contains("accepted: "));
                }
            }
            let _ = cidr_group(object);
        }
    }
}
