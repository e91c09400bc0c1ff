//! Whatever is read: no panic, and what is refused says what is accepted.
use super::*;
use proptest::prelude::*;

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
            for result in [policy(object, Options::default()), policy_of_kind(kind, object, Options { node_selector_labels: true, always_default_deny: true, l7: true })] {
                if let Err(error) = result {
                    prop_assert!(error.to_string().contains("accepted: "));
                }
            }
            let _ = cidr_group(object);
        }
    }
}
