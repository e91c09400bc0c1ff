//! What is taken, and what it comes to.
mod random;
mod refused;
mod tls;

use super::*;
use crate::rule::{
    Action, Direction, Entity, Entry, Peer, Peers, Port, PortMatch, Protocol, SubjectSelector,
    Tier, Traffic,
};
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
    let always = Options {
        always_default_deny: true,
        ..Options::default()
    };
    let object = cnp(json!({"endpointSelector": {}, "ingress": [{}],
        "enableDefaultDeny": {"ingress": false, "egress": true}}));
    let rule = policy(&object, always).unwrap().rules.remove(0);
    let denies = rule.sections.map(|section| section.default_deny);
    assert_eq!(denies, [true, false], "what the rule says does not count");
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
    let of = |protocol, port| PortMatch {
        protocol,
        port,
        l7: None,
    };
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
