//! Random policies as JSON, so that the parsers take part, and random questions.
use crate::world::{ADDRESSES, Ask, Remote, members};
use hypha_policy::reference::Packet;
use hypha_policy::rule::{CidrGroup, Direction, Service};
use hypha_policy::{Mode, Settings};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

fn namespace() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b"])
}

fn pair() -> impl Strategy<Value = (&'static str, &'static str)> {
    select(vec![
        ("app", "web"),
        ("app", "web"),
        ("app", "db"),
        ("k8s:app", "web"),
        ("any:app", "db"),
        ("tier", "x"),
        ("tier", "y"),
        ("app", "web"),
        ("k8s:io.kubernetes.pod.namespace", "a"),
        ("io.kubernetes.pod.namespace", "b"),
        ("io.cilium.k8s.namespace.labels.team", "red"),
        ("k8s:io.cilium.k8s.policy.cluster", "other"),
        ("k8s:io.cilium.k8s.policy.cluster", "default"),
        ("reserved:host", ""),
        ("reserved:world", ""),
        ("reserved:remote-node", ""),
        ("reserved:init", ""),
        ("reserved:health", ""),
    ])
}

fn expression(sourced: bool) -> impl Strategy<Value = Value> {
    let keys = if sourced {
        vec![
            "app",
            "k8s:tier",
            "any:tier",
            "io.kubernetes.pod.namespace",
            "reserved:host",
            "cidr:10.0.0.0/8",
            "zone",
        ]
    } else {
        vec!["app", "tier", "team"]
    };
    let values = prop::collection::vec(
        select(vec!["web", "db", "x", "a", "red", ""]).prop_map(str::to_owned),
        1..3,
    );
    (select(keys), 0..4, values).prop_map(|(key, operator, values)| match operator {
        0 => json!({"key": key, "operator": "In", "values": values}),
        1 => json!({"key": key, "operator": "NotIn", "values": values}),
        2 => json!({"key": key, "operator": "Exists"}),
        _ => json!({"key": key, "operator": "DoesNotExist"}),
    })
}

/// A selector whose keys may have sources.
fn selector() -> impl Strategy<Value = Value> {
    let labels = prop::collection::vec(pair(), 0..3);
    let expressions = prop::collection::vec(expression(true), 1..3);
    (labels, prop::option::weighted(0.25, expressions)).prop_map(|(labels, expressions)| {
        let labels: Map<String, Value> = labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        let mut selector = json!({"matchLabels": labels});
        if let Some(expressions) = expressions {
            selector["matchExpressions"] = json!(expressions);
        }
        selector
    })
}

/// A selector of plain labels.
fn plain_selector(pairs: &'static [(&'static str, &'static str)]) -> impl Strategy<Value = Value> {
    let labels = prop::collection::vec(select(pairs.to_vec()), 0..2);
    let expressions = prop::collection::vec(expression(false), 0..2);
    (labels, prop::option::weighted(0.3, expressions)).prop_map(|(labels, expressions)| {
        let labels: Map<String, Value> = labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        let mut selector = json!({"matchLabels": labels});
        if let Some(expressions) = expressions {
            selector["matchExpressions"] = json!(expressions);
        }
        selector
    })
}

fn pods() -> impl Strategy<Value = Value> {
    plain_selector(&[("app", "web"), ("app", "db"), ("tier", "x")])
}

fn namespaces() -> impl Strategy<Value = Value> {
    plain_selector(&[
        ("team", "red"),
        ("team", "blue"),
        ("kubernetes.io/metadata.name", "a"),
    ])
}

const CIDRS: [&str; 11] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3",
    "0.0.0.0/0",
    "192.168.0.0/16",
    "203.0.113.0/24",
    "::/0",
    "fd00::/16",
    "fd00:1::/32",
    "fd00:1::5/128",
];

fn cidr() -> impl Strategy<Value = &'static str> {
    select(CIDRS.to_vec())
}

fn within(cidr: &str) -> Vec<&'static str> {
    let parse = |text: &str| -> ipnet::IpNet {
        text.parse()
            .unwrap_or_else(|_| ipnet::IpNet::from(text.parse::<std::net::IpAddr>().unwrap()))
    };
    let outer = parse(cidr);
    CIDRS
        .iter()
        .copied()
        .filter(|text| *text != cidr && outer.contains(&parse(text)))
        .collect()
}

fn cidr_with_except() -> impl Strategy<Value = Value> {
    (
        cidr(),
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    )
        .prop_map(|(cidr, picks)| {
            let inner = within(cidr);
            let except: Vec<&str> = picks
                .iter()
                .filter(|_| !inner.is_empty())
                .map(|pick| inner[pick.index(inner.len())])
                .collect();
            json!({"cidr": cidr, "except": except})
        })
}

fn cidr_set() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => cidr_with_except(),
        1 => (select(vec!["g1", "g2"]), prop::option::of(cidr())).prop_map(|(name, except)| {
            json!({"cidrGroupRef": name, "except": except.into_iter().collect::<Vec<_>>()})
        }),
        1 => select(vec!["office", "home"]).prop_map(|kind| {
            json!({"cidrGroupSelector": {"matchLabels": {"kind": kind}}})
        }),
    ]
}

fn entity() -> impl Strategy<Value = &'static str> {
    select(vec![
        "all",
        "world",
        "cluster",
        "host",
        "remote-node",
        "kube-apiserver",
        "ingress",
        "health",
        "init",
        "unmanaged",
        "none",
        "world",
        "cluster",
    ])
}

fn service() -> impl Strategy<Value = Value> {
    let name = select(vec!["s1", "s2"]);
    prop_oneof![
        (name, namespace()).prop_map(|(name, namespace)| {
            json!({"k8sService": {"serviceName": name, "namespace": namespace}})
        }),
        prop::option::of(namespace()).prop_map(|namespace| {
            let mut selector = json!({"selector": {"matchLabels": {"svc": "yes"}}});
            if let Some(namespace) = namespace {
                selector["namespace"] = json!(namespace);
            }
            json!({"k8sServiceSelector": selector})
        }),
    ]
}

/// The member that says who the peers are, if any.
fn peers(direction: Direction) -> impl Strategy<Value = Option<(String, Value)>> {
    let side = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let list = |name: &'static str, items: BoxedStrategy<Value>| {
        prop::collection::vec(items, 0..3)
            .prop_map(move |items| Some((format!("{side}{name}"), json!(items))))
    };
    let services = match direction {
        Direction::Egress => list("Services", service().boxed()).boxed(),
        Direction::Ingress => {
            list("Entities", entity().prop_map(|text| json!(text)).boxed()).boxed()
        }
    };
    let node = prop_oneof![
        Just(json!({})),
        select(vec!["z1", "z2"]).prop_map(|zone| json!({"matchLabels": {"zone": zone}})),
    ];
    prop_oneof![
        4 => list("Endpoints", selector().boxed()),
        3 => list("Entities", entity().prop_map(|text| json!(text)).boxed()),
        2 => list("CIDR", cidr().prop_map(|text| json!(text)).boxed()),
        3 => list("CIDRSet", cidr_set().boxed()),
        1 => list("Nodes", node.boxed()),
        1 => services,
        3 => Just(None),
    ]
}

fn port_number() -> impl Strategy<Value = u16> {
    prop_oneof![
        4 => select(vec![53, 80, 8080]),
        4 => select(vec![1, 79, 81, 443, 1000, 1023, 1024, 2047, 8081, 65535]),
        1 => 1..=u16::MAX,
    ]
}

fn cilium_port() -> impl Strategy<Value = Value> {
    let protocol = select(vec![
        None,
        Some("ANY"),
        Some("TCP"),
        Some("UDP"),
        Some("SCTP"),
        Some("TCP"),
    ]);
    let port = prop_oneof![
        3 => port_number().prop_map(|port| json!({"port": port.to_string()})),
        2 => (port_number(), port_number()).prop_map(|(a, b)| {
            json!({"port": a.min(b).to_string(), "endPort": a.max(b)})
        }),
        1 => Just(json!({"port": "0"})),
        2 => select(vec!["http", "dns", "HTTP"]).prop_map(|name| json!({"port": name})),
    ];
    (port, protocol).prop_map(|(mut port, protocol)| {
        if let Some(protocol) = protocol {
            port["protocol"] = json!(protocol);
        }
        port
    })
}

fn cilium_traffic() -> impl Strategy<Value = Option<(&'static str, Value)>> {
    let port_rule =
        prop::collection::vec(cilium_port(), 1..3).prop_map(|ports| json!({"ports": ports}));
    let kinds = prop_oneof![
        select(vec![
            json!("EchoRequest"),
            json!("EchoReply"),
            json!(3),
            json!("128")
        ]),
        (0..=255_u8).prop_map(|kind| json!(kind)),
    ];
    let field = (any::<bool>(), kinds)
        .prop_map(|(v6, kind)| json!({"family": if v6 { "IPv6" } else { "IPv4" }, "type": kind}));
    let icmp = prop::collection::vec(field, 1..3).prop_map(|fields| json!({"fields": fields}));
    prop_oneof![
        3 => Just(None),
        5 => prop::collection::vec(port_rule, 0..3).prop_map(|list| Some(("toPorts", json!(list)))),
        2 => prop::collection::vec(icmp, 1..2).prop_map(|list| Some(("icmps", json!(list)))),
    ]
}

fn cilium_entry(direction: Direction) -> impl Strategy<Value = Value> {
    (peers(direction), cilium_traffic()).prop_map(|(peers, traffic)| {
        let mut entry = json!({});
        if let Some((name, value)) = peers {
            entry[name] = value;
        }
        if let Some((name, value)) = traffic {
            entry[name] = value;
        }
        entry
    })
}

fn cilium_rule(clusterwide: bool) -> impl Strategy<Value = Value> {
    let entries = |direction| {
        prop::option::weighted(0.7, prop::collection::vec(cilium_entry(direction), 0..4))
    };
    let few = |direction| {
        prop::option::weighted(0.5, prop::collection::vec(cilium_entry(direction), 0..3))
    };
    let subject = prop_oneof![
        4 => Just(json!({})),
        3 => select(vec!["web", "db"]).prop_map(|app| json!({"matchLabels": {"app": app}})),
        1 => Just(json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]})),
        1 => Just(json!({"matchLabels": {"reserved:init": ""}})),
    ];
    let node = prop_oneof![
        Just(json!({})),
        Just(json!({"matchLabels": {"zone": "z1"}}))
    ];
    (
        subject,
        prop::option::weighted(0.3, node).prop_map(move |node| node.filter(|_| clusterwide)),
        entries(Direction::Ingress),
        few(Direction::Ingress),
        entries(Direction::Egress),
        few(Direction::Egress),
        prop::option::weighted(
            0.3,
            (
                prop::option::of(any::<bool>()),
                prop::option::of(any::<bool>()),
            ),
        ),
    )
        .prop_map(
            |(subject, node, ingress, ingress_deny, egress, egress_deny, default)| {
                let mut rule = match node {
                    Some(node) => json!({"nodeSelector": node}),
                    None => json!({"endpointSelector": subject}),
                };
                let mut put = |name: &str, list: Option<Vec<Value>>| {
                    if let Some(list) = list {
                        rule[name] = json!(list);
                    }
                };
                put("ingress", Some(ingress.unwrap_or_default()));
                put("ingressDeny", ingress_deny);
                put("egress", egress);
                put("egressDeny", egress_deny);
                if let Some((ingress, egress)) = default {
                    rule["enableDefaultDeny"] = json!({"ingress": ingress, "egress": egress});
                }
                rule
            },
        )
}

fn cilium() -> impl Strategy<Value = Value> {
    any::<bool>().prop_flat_map(|clusterwide| {
        (
            namespace(),
            prop::collection::vec(cilium_rule(clusterwide), 1..3),
        )
            .prop_map(move |(namespace, mut rules)| {
                let mut object = json!({"apiVersion": "cilium.io/v2", "metadata": {}});
                if clusterwide {
                    object["kind"] = json!("CiliumClusterwideNetworkPolicy");
                } else {
                    object["kind"] = json!("CiliumNetworkPolicy");
                    object["metadata"]["namespace"] = json!(namespace);
                }
                object["spec"] = rules.remove(0);
                object["specs"] = json!(rules);
                object
            })
    })
}

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

fn admin() -> impl Strategy<Value = Value> {
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

/// A policy of any kind, under one of a few names.
pub fn object() -> impl Strategy<Value = Value> {
    let any_kind = prop_oneof![5 => cilium(), 3 => kubernetes(), 3 => admin()];
    (any_kind, 0..3).prop_map(|(mut object, number)| {
        if object["kind"] != "BaselineAdminNetworkPolicy" {
            object["metadata"]["name"] = json!(format!("p{number}"));
        }
        object
    })
}

pub fn settings() -> impl Strategy<Value = Settings> {
    let mode = prop_oneof![
        18 => Just(Mode::Default),
        1 => Just(Mode::Always),
        1 => Just(Mode::Never),
    ];
    (mode, prop::bool::weighted(0.7)).prop_map(|(mode, allow_localhost)| Settings {
        mode,
        allow_localhost,
        ..Settings::default()
    })
}

pub fn group() -> impl Strategy<Value = CidrGroup> {
    let net = |text: &str| match text.parse() {
        Ok(net) => net,
        Err(_) => ipnet::IpNet::from(text.parse::<std::net::IpAddr>().unwrap()),
    };
    let kind = select(vec!["office", "home"]);
    (
        select(vec!["g1", "g2"]),
        kind,
        prop::collection::vec(cidr(), 0..4),
    )
        .prop_map(move |(name, kind, cidrs)| CidrGroup {
            name: name.to_owned(),
            labels: [("kind".to_owned(), kind.to_owned())].into(),
            cidrs: cidrs.into_iter().map(net).collect(),
        })
}

pub fn some_service() -> impl Strategy<Value = Service> {
    let addresses = prop::collection::vec(select(ADDRESSES.to_vec()), 0..3);
    (
        namespace(),
        select(vec!["s1", "s2"]),
        any::<bool>(),
        prop::option::of(select(vec!["web", "db"])),
        addresses,
    )
        .prop_map(|(namespace, name, marked, app, addresses)| Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: marked
                .then(|| ("svc".to_owned(), "yes".to_owned()))
                .into_iter()
                .collect(),
            selector: app
                .map(|app| ("app".to_owned(), app.to_owned()))
                .into_iter()
                .collect(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        })
}

pub fn ask() -> impl Strategy<Value = Ask> {
    let ids: Vec<u32> = members().iter().map(|member| member.id).collect();
    let subjects: Vec<u32> = members()
        .iter()
        .filter(|member| member.is_subject)
        .map(|member| member.id)
        .collect();
    let addresses: Vec<std::net::IpAddr> =
        ADDRESSES.iter().map(|text| text.parse().unwrap()).collect();
    let remote = prop_oneof![
        select(ids).prop_map(Remote::Member),
        select(addresses).prop_map(Remote::Address),
    ];
    let protocol = select(vec![
        6, 6, 6, 6, 6, 6, 17, 17, 17, 132, 132, 1, 58, 47, 0, 255,
    ]);
    let port = prop_oneof![
        6 => select(vec![53, 80, 8080, 128, 8]),
        4 => select(vec![0, 1, 3, 8, 53, 79, 80, 81, 128, 443, 1000, 1023, 1024, 2047, 2048, 8080, 8081, 65535]),
        1 => any::<u16>(),
    ];
    let direction = select(vec![Direction::Ingress, Direction::Egress]);
    // Pods more often than what the node has besides.
    let pods: Vec<u32> = subjects.iter().copied().filter(|id| *id >= 1000).collect();
    let subject = prop_oneof![4 => select(pods), 1 => select(subjects)];
    (subject, direction, remote, protocol, port).prop_map(
        |(subject, direction, remote, protocol, port)| Ask {
            subject,
            direction,
            remote,
            packet: Packet { protocol, port },
        },
    )
}

/// Many questions, of which a report names only the one that matters.
#[derive(Clone)]
pub struct Asks(pub Vec<Ask>);

impl std::fmt::Debug for Asks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} questions", self.0.len())
    }
}

pub fn asks(count: usize) -> impl Strategy<Value = Asks> {
    prop::collection::vec(ask(), count)
        .prop_map(Asks)
        .no_shrink()
}
