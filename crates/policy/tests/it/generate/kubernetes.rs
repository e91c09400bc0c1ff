//! Policies of Kubernetes' kinds, those of administrators among them.
use super::{cidr, cidr_with_except, namespace, namespaces, pods, port_number};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

fn kubernetes_entry(side: &'static str) -> impl Strategy<Value = Value> {
    let peer = prop_oneof![
        2 => pods().prop_map(|pods| json!({"podSelector": pods})),
        2 => namespaces().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        1 => (pods(), namespaces()).prop_map(|(pods, namespaces)| {
            json!({"podSelector": pods, "namespaceSelector": namespaces})
        }),
        2 => cidr_with_except()
            .prop_filter("a range with its length", |block| {
                block["cidr"].as_str().is_some_and(|text| text.contains('/'))
            })
            .prop_map(|block| json!({"ipBlock": block})),
    ];
    let protocol = select(vec![None, Some("TCP"), Some("UDP"), Some("SCTP")]);
    let port = prop_oneof![
        2 => port_number().prop_map(|port| json!({"port": port})),
        1 => (port_number(), port_number())
            .prop_map(|(a, b)| json!({"port": a.min(b), "endPort": a.max(b)})),
        1 => Just(json!({})),
        1 => select(vec!["http", "dns"]).prop_map(|name| json!({"port": name})),
    ];
    let port = (port, protocol).prop_map(|(mut port, protocol)| {
        if let Some(protocol) = protocol {
            port["protocol"] = json!(protocol);
        }
        port
    });
    (
        prop::option::of(prop::collection::vec(peer, 0..3)),
        prop::option::of(prop::collection::vec(port, 0..3)),
    )
        .prop_map(move |(peers, ports)| {
            let mut entry = json!({});
            if let Some(peers) = peers {
                entry[side] = json!(peers);
            }
            if let Some(ports) = ports {
                entry["ports"] = json!(ports);
            }
            entry
        })
}

/// A NetworkPolicy of Kubernetes.
pub fn kubernetes() -> impl Strategy<Value = Value> {
    let types = select(vec![
        None,
        Some(vec!["Ingress"]),
        Some(vec!["Egress"]),
        Some(vec!["Ingress", "Egress"]),
    ]);
    let list = |side| prop::option::of(prop::collection::vec(kubernetes_entry(side), 0..3));
    (namespace(), pods(), types, list("from"), list("to")).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            let mut spec = json!({"podSelector": pods});
            if let Some(types) = types {
                spec["policyTypes"] = json!(types);
            }
            if let Some(list) = ingress {
                spec["ingress"] = json!(list);
            }
            if let Some(list) = egress {
                spec["egress"] = json!(list);
            }
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace},
                "spec": spec,
            })
        },
    )
}

fn admin_peer(egress: bool) -> impl Strategy<Value = Value> {
    let networks = prop::collection::vec(cidr(), 1..3);
    let zones = select(vec!["z1", "z2"]);
    prop_oneof![
        2 => namespaces().prop_map(|namespaces| json!({"namespaces": namespaces})),
        2 => (namespaces(), pods()).prop_map(|(namespaces, pods)| {
            json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}})
        }),
        1 => (networks, zones, any::<bool>()).prop_map(move |(networks, zone, nodes)| {
            match (egress, nodes) {
                (false, _) => json!({"namespaces": {}}),
                (true, true) => json!({"nodes": {"matchLabels": {"zone": zone}}}),
                (true, false) => json!({"networks": networks}),
            }
        }),
    ]
}

fn admin_entry(side: &'static str, baseline: bool) -> impl Strategy<Value = Value> {
    let actions = if baseline {
        vec!["Allow", "Deny"]
    } else {
        vec!["Allow", "Deny", "Pass", "Pass"]
    };
    let protocol = select(vec!["TCP", "UDP", "SCTP"]);
    let port = prop_oneof![
        (protocol.clone(), port_number()).prop_map(
            |(protocol, port)| json!({"portNumber": {"protocol": protocol, "port": port}})
        ),
        (protocol, port_number(), port_number()).prop_map(|(protocol, a, b)| {
            json!({"portRange": {"protocol": protocol, "start": a.min(b), "end": a.max(b)}})
        }),
        select(vec!["http", "dns"]).prop_map(|name| json!({"namedPort": name})),
    ];
    (
        select(actions),
        prop::collection::vec(admin_peer(side == "to"), 1..3),
        prop::option::of(prop::collection::vec(port, 1..3)),
    )
        .prop_map(move |(action, peers, ports)| {
            let mut entry = json!({"action": action});
            entry[side] = json!(peers);
            if let Some(ports) = ports {
                entry["ports"] = json!(ports);
            }
            entry
        })
}

pub fn admin() -> impl Strategy<Value = Value> {
    any::<bool>().prop_flat_map(|baseline| {
        let list = |side| prop::collection::vec(admin_entry(side, baseline), 0..4);
        let subject = prop_oneof![
            namespaces().prop_map(|namespaces| json!({"namespaces": namespaces})),
            pods().prop_map(|pods| json!({"pods": {"namespaceSelector": {}, "podSelector": pods}})),
        ];
        (subject, list("from"), list("to"), 0..3).prop_map(move |(subject, ingress, egress, priority)| {
            let mut spec = json!({"subject": subject, "ingress": ingress, "egress": egress});
            if !baseline {
                spec["priority"] = json!(priority);
            }
            json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha1",
                "kind": if baseline { "BaselineAdminNetworkPolicy" } else { "AdminNetworkPolicy" },
                "metadata": {"name": "default"},
                "spec": spec,
            })
        })
    })
}
