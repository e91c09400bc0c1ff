//! Policies of Cilium's kinds.
use super::{cidr, cidr_with_except, expression, namespace, port_number, selecting};
use hypha_policy::rule::Direction;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

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

/// A selector whose keys may have sources.
fn selector() -> impl Strategy<Value = Value> {
    let labels = prop::collection::vec(pair(), 0..3);
    let expressions = prop::collection::vec(expression(true), 1..3);
    (labels, prop::option::weighted(0.25, expressions))
        .prop_map(|(labels, expressions)| selecting(labels, expressions))
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

/// Names, and patterns, of which each has its label in the tests' world.
fn name() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"matchName": "A.example.org."}),
        json!({"matchName": "x.y"}),
        json!({"matchPattern": "*.example.org"}),
        json!({"matchPattern": "a.*.org"}),
        json!({"matchPattern": "b*.example.org"}),
        json!({"matchPattern": "*"}),
        json!({"matchName": "nobody.asked"}),
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
    let names = match direction {
        Direction::Egress => list("FQDNs", name().boxed()).boxed(),
        Direction::Ingress => Just(None).boxed(),
    };
    prop_oneof![
        1 => names,
        4 => list("Endpoints", selector().boxed()),
        3 => list("Entities", entity().prop_map(|text| json!(text)).boxed()),
        2 => list("CIDR", cidr().prop_map(|text| json!(text)).boxed()),
        3 => list("CIDRSet", cidr_set().boxed()),
        1 => list("Nodes", node.boxed()),
        1 => services,
        3 => Just(None),
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

/// Ports with rules above the transport.
fn seen_ports(direction: Direction) -> impl Strategy<Value = Value> {
    let usual = || select(vec![53_u16, 80, 80, 8080]);
    let single = prop_oneof![
        5 => usual().prop_map(|port| json!({"port": port.to_string()})),
        1 => port_number().prop_map(|port| json!({"port": port.to_string()})),
        1 => select(vec!["http", "dns"]).prop_map(|name| json!({"port": name})),
    ];
    let range = (1..=80_u16, port_number())
        .prop_map(|(a, b)| json!({"port": a.min(b).to_string(), "endPort": a.max(b)}));
    let tcp = prop_oneof![3 => single.clone(), 1 => range].prop_map(|mut port| {
        port["protocol"] = json!("TCP");
        port
    });
    let tls = tcp.clone();
    let http = select(vec![
        json!({"http": [{}]}),
        json!({"http": [{"method": "GET", "path": "/a.*"}, {"headers": ["X-A: b"]}]}),
        json!({"http": [{"headerMatches": [{"name": "x", "value": "y", "mismatch": "ADD"}]}]}),
    ]);
    let kafka = select(vec![
        json!({"kafka": [{"role": "produce", "topic": "t"}]}),
        json!({"kafka": [{"apiKey": "fetch"}]}),
    ]);
    let dns = select(vec![
        json!({"dns": [{"matchPattern": "*.example.org"}]}),
        json!({"dns": [{"matchName": "a.b"}]}),
    ]);
    let of_tcp = (
        prop::collection::vec(tcp, 1..3),
        prop_oneof![3 => http, 1 => kafka],
    );
    let of_tcp = of_tcp.prop_map(|(ports, rules)| json!({"ports": ports, "rules": rules}));
    let names = select(vec![
        json!(["a.org", "**.b.org"]),
        json!(["*.a.org"]),
        json!(["**"]),
    ]);
    let of_tls = (prop::collection::vec(tls, 1..3), names)
        .prop_map(|(ports, names)| json!({"ports": ports, "serverNames": names}));
    let protocol = select(vec![json!("ANY"), json!("UDP"), json!("TCP"), json!(null)]);
    let of_dns =
        (prop::collection::vec((single, protocol), 1..3), dns).prop_map(|(ports, rules)| {
            let with = |(mut port, protocol): (Value, Value)| {
                port["protocol"] = protocol;
                port
            };
            let ports: Vec<Value> = ports.into_iter().map(with).collect();
            json!({"ports": ports, "rules": rules})
        });
    match direction {
        Direction::Ingress => prop_oneof![3 => of_tcp, 1 => of_tls].boxed(),
        Direction::Egress => prop_oneof![4 => of_tcp, 2 => of_dns, 1 => of_tls].boxed(),
    }
}

/// Entries that deny, and policies of nodes, have no rules above the transport.
fn without_rules(entries: &mut [Value]) {
    let all = entries.iter_mut().filter_map(Value::as_object_mut);
    all.for_each(|entry| drop(entry.remove("toFQDNs")));
    let ports = entries
        .iter_mut()
        .filter_map(|entry| entry.get_mut("toPorts")?.as_array_mut());
    for item in ports.flatten().filter_map(Value::as_object_mut) {
        item.remove("rules");
        item.remove("serverNames");
    }
}

fn cilium_traffic(direction: Direction) -> impl Strategy<Value = Option<(&'static str, Value)>> {
    let plain =
        prop::collection::vec(cilium_port(), 1..3).prop_map(|ports| json!({"ports": ports}));
    let port_rule = prop_oneof![1 => plain, 1 => seen_ports(direction)];
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

/// What all peers must have: mostly what some have, so that something is left.
fn required() -> impl Strategy<Value = Value> {
    let likely = select(vec![
        json!({}),
        json!({"matchLabels": {"app": "web"}}),
        json!({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "b"}}),
        json!({"matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}, {"key": "reserved:host", "operator": "DoesNotExist"}]}),
        json!({"matchExpressions": [{"key": "cidr:10.0.0.0/8", "operator": "DoesNotExist"}]}),
    ]);
    prop_oneof![3 => likely, 1 => selector()]
}

fn cilium_entry(direction: Direction) -> impl Strategy<Value = Value> {
    let requires = prop::collection::vec(required(), 0..3);
    let requires = prop::option::weighted(0.12, requires);
    (peers(direction), cilium_traffic(direction), requires).prop_map(
        move |(peers, traffic, requires)| {
            let mut entry = json!({});
            if let Some(requires) = requires {
                let name = match direction {
                    Direction::Ingress => "fromRequires",
                    Direction::Egress => "toRequires",
                };
                entry[name] = json!(requires);
            }
            if let Some((name, value)) = peers {
                entry[name] = value;
            }
            if let Some((name, value)) = traffic {
                entry[name] = value;
            }
            entry
        },
    )
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
            |(
                subject,
                node,
                mut ingress,
                mut ingress_deny,
                mut egress,
                mut egress_deny,
                default,
            )| {
                let denying = [&mut ingress_deny, &mut egress_deny].into_iter().flatten();
                denying.for_each(|list| without_rules(list));
                if node.is_some() {
                    let all = [&mut ingress, &mut egress].into_iter().flatten();
                    all.for_each(|list| without_rules(list));
                }
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

/// Policies whose rules above the transport meet each other, and plain ones, at a few ports.
pub fn layer7() -> impl Strategy<Value = Value> {
    let entry = |direction: Direction| {
        let side = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let peers = prop_oneof![
            2 => Just(None),
            2 => Just(Some(("Endpoints", json!([{}])))),
            1 => Just(Some(("Endpoints", json!([{"matchLabels": {"app": "web"}}])))),
            2 => select(vec!["all", "cluster", "world"]).prop_map(|name| Some(("Entities", json!([name])))),
        ];
        let plain = cilium_port().prop_map(|port| json!({"ports": [port]}));
        let ports = prop_oneof![4 => seen_ports(direction), 1 => plain];
        let ports = prop_oneof![8 => ports.prop_map(Some), 1 => Just(None)];
        (peers, ports).prop_map(move |(peers, ports)| {
            let mut entry = json!({});
            if let Some((name, list)) = peers {
                entry[format!("{side}{name}")] = list;
            }
            if let Some(ports) = ports {
                entry["toPorts"] = json!([ports]);
            }
            entry
        })
    };
    let subject = prop_oneof![
        2 => Just(json!({})),
        1 => select(vec!["web", "db"]).prop_map(|app| json!({"matchLabels": {"app": app}})),
    ];
    (
        namespace(),
        subject,
        prop::collection::vec(entry(Direction::Ingress), 0..4),
        prop::collection::vec(entry(Direction::Egress), 0..4),
        any::<bool>(),
    )
        .prop_map(|(namespace, subject, ingress, egress, default_deny)| {
            json!({
                "apiVersion": "cilium.io/v2",
                "kind": "CiliumNetworkPolicy",
                "metadata": {"namespace": namespace},
                "spec": {
                    "endpointSelector": subject, "ingress": ingress, "egress": egress,
                    "enableDefaultDeny": {"ingress": default_deny, "egress": default_deny},
                },
            })
        })
}

pub fn cilium() -> impl Strategy<Value = Value> {
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
