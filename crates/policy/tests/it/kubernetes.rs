//! NetworkPolicy straight from its JSON, by Kubernetes' own words, against the model that reads what the parser made of it.
use crate::generate::kubernetes;
use crate::world::{ADDRESSES, Member, members, policy};
use hypha_policy::Settings;
use hypha_policy::reference::{End, Model, Packet};
use hypha_policy::rule::{Direction, NamedPorts, Policy};
use ipnet::IpNet;
use model::Labels;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A pod as Kubernetes sees it.
struct Pod {
    namespace: String,
    labels: BTreeMap<String, String>,
    namespace_labels: BTreeMap<String, String>,
    ports: NamedPorts,
}

fn pod(member: &Member) -> Pod {
    let mut pod = Pod {
        namespace: String::new(),
        labels: BTreeMap::new(),
        namespace_labels: BTreeMap::new(),
        ports: member.ports.clone(),
    };
    for (key, value) in member.labels.iter() {
        let key = key.strip_prefix("k8s:").unwrap();
        if let Some(key) = key.strip_prefix("io.cilium.k8s.namespace.labels.") {
            pod.namespace_labels
                .insert(key.to_owned(), value.to_owned());
        } else if key == "io.kubernetes.pod.namespace" {
            pod.namespace = value.to_owned();
        } else {
            pod.labels.insert(key.to_owned(), value.to_owned());
        }
    }
    pod
}

fn list<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    value[name]
        .as_array()
        .map(|list| list.iter().collect())
        .unwrap_or_default()
}

fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let pairs = selector["matchLabels"].as_object();
    let pairs = pairs
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str());
    pairs
        && list(selector, "matchExpressions")
            .into_iter()
            .all(|expression| {
                let value = labels.get(expression["key"].as_str().unwrap());
                let listed = value.is_some_and(|value| {
                    list(expression, "values")
                        .iter()
                        .any(|one| one.as_str() == Some(value))
                });
                match expression["operator"].as_str().unwrap() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    _ => value.is_none(),
                }
            })
}

enum Other<'a> {
    Pod(&'a Pod),
    Address(IpAddr),
}

fn is_peer(peer: &Value, own_namespace: &str, other: &Other<'_>) -> bool {
    match other {
        Other::Address(address) => {
            let within = |net: &Value| {
                net.as_str()
                    .unwrap()
                    .parse::<IpNet>()
                    .is_ok_and(|net| net.contains(address))
            };
            let block = &peer["ipBlock"];
            let single = |net: &Value| {
                net.as_str()
                    .unwrap()
                    .parse::<IpAddr>()
                    .is_ok_and(|one| one == *address)
            };
            block.is_object()
                && within(&block["cidr"])
                && !list(block, "except")
                    .into_iter()
                    .any(|net| within(net) || single(net))
        }
        Other::Pod(pod) => {
            let (pods, namespaces) = (&peer["podSelector"], &peer["namespaceSelector"]);
            if peer["ipBlock"].is_object() {
                return false;
            }
            let right_namespace = if namespaces.is_object() {
                selects(namespaces, &pod.namespace_labels)
            } else {
                pod.namespace == own_namespace
            };
            right_namespace && (!pods.is_object() || selects(pods, &pod.labels))
        }
    }
}

fn is_port(port: &Value, receiver: &NamedPorts, packet: Packet) -> bool {
    let protocol = match port["protocol"].as_str() {
        Some("UDP") => 17,
        Some("SCTP") => 132,
        _ => 6,
    };
    if packet.protocol != protocol {
        return false;
    }
    match &port["port"] {
        Value::String(name) => receiver.iter().any(|known| {
            known.name == *name && known.protocol.number() == protocol && known.port == packet.port
        }),
        Value::Number(first) => {
            let first = first.as_u64().unwrap();
            let last = port["endPort"].as_u64().unwrap_or(first);
            (first..=last).contains(&u64::from(packet.port))
        }
        _ => true,
    }
}

/// What Kubernetes says of a pod's traffic in one direction.
fn allowed(
    policies: &[Value],
    direction: Direction,
    pod: &Pod,
    other: &Other<'_>,
    packet: Packet,
) -> bool {
    let (kind, section, side) = match direction {
        Direction::Ingress => ("Ingress", "ingress", "from"),
        Direction::Egress => ("Egress", "egress", "to"),
    };
    let mut isolated = false;
    for policy in policies {
        let (spec, namespace) = (
            &policy["spec"],
            policy["metadata"]["namespace"].as_str().unwrap(),
        );
        let types = list(spec, "policyTypes");
        let is_about = if types.is_empty() {
            direction == Direction::Ingress || !list(spec, "egress").is_empty()
        } else {
            types.iter().any(|one| one.as_str() == Some(kind))
        };
        if !is_about || pod.namespace != namespace || !selects(&spec["podSelector"], &pod.labels) {
            continue;
        }
        isolated = true;
        let none = NamedPorts::new();
        let receiver = match (direction, other) {
            (Direction::Ingress, _) => &pod.ports,
            (Direction::Egress, Other::Pod(other)) => &other.ports,
            (Direction::Egress, Other::Address(_)) => &none,
        };
        for entry in list(spec, section) {
            let (peers, ports) = (list(entry, side), list(entry, "ports"));
            let peer = peers.is_empty() || peers.iter().any(|peer| is_peer(peer, namespace, other));
            let port = ports.is_empty() || ports.iter().any(|port| is_port(port, receiver, packet));
            if peer && port {
                return true;
            }
        }
    }
    !isolated
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_network_policy_means_what_kubernetes_says(
        objects in prop::collection::vec(kubernetes(), 1..4),
        asks in prop::collection::vec((0..9_usize, 0..9_usize, 0..2 * ADDRESSES.len(), any::<bool>(), select(vec![6, 17, 132, 1]), select(vec![53, 80, 81, 443, 8080, 8081, 2000])), 60),
    ) {
        let pods: Vec<Member> = members().into_iter().filter(|member| member.id >= 1000 && member.id < 0x0100_0000).collect();
        let named: Vec<Value> = objects.into_iter().zip(0..).map(|(mut object, number)| {
            object["metadata"]["name"] = Value::from(format!("p{number}"));
            object
        }).collect();
        let read: Vec<Policy> = named.iter().map(policy).collect();
        let settings = Settings::default();
        let model = Model { settings: &settings, policies: &read, groups: &[], services: &[] };
        let (world, no_ports): (Labels, _) = (["reserved:world".to_owned()].into_iter().collect(), NamedPorts::new());
        for (subject, remote, address, ingress, protocol, port) in asks {
            let (subject, remote) = (&pods[subject], &pods[remote]);
            let direction = if ingress { Direction::Ingress } else { Direction::Egress };
            let packet = Packet { protocol, port };
            let end = End { labels: &subject.labels, ports: &subject.ports, address: None };
            let (own, peer) = (pod(subject), pod(remote));
            let (expected, got) = match ADDRESSES.get(address) {
                Some(text) => {
                    let address: IpAddr = text.parse().unwrap();
                    let other = End { labels: &world, ports: &no_ports, address: Some(address) };
                    (allowed(&named, direction, &own, &Other::Address(address), packet), model.decide(direction, &end, &other, packet))
                }
                None => {
                    let other = End { labels: &remote.labels, ports: &remote.ports, address: None };
                    (allowed(&named, direction, &own, &Other::Pod(&peer), packet), model.decide(direction, &end, &other, packet))
                }
            };
            prop_assert_eq!(got.passes(), expected, "{:?} {:?} {:?} {:?}", direction, subject.id, packet, got);
        }
    }
}
