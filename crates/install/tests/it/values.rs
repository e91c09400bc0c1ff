//! Values that are not accepted, and what is said of values.
use hypha_install::{Request, chart, render};
use serde_json::{Value, json};

fn error(values: Value) -> String {
    let request = Request {
        values,
        ..Request::default()
    };
    render(&request)
        .map(|_| String::new())
        .unwrap_or_else(|error| error.to_string())
}

#[test]
fn a_wrong_value_is_named_with_what_is_accepted() {
    for (values, said) in [
        (
            json!({"routingMode": "nativ"}),
            "routingMode: \"nativ\" is not accepted; accepted: \"\", tunnel, native",
        ),
        (
            json!({"routingmode": "native"}),
            "routingmode: there is no such value; did you mean routingMode?",
        ),
        (
            json!({"ipam": {"mode": "eni"}}),
            "ipam.mode: \"eni\" is not accepted; accepted: kubernetes, cluster-pool",
        ),
        (
            json!({"ipam": {"operator": {"clusterPoolIPv4PodCIDRList": "10.0.0.0/8"}}}),
            "ipam.operator.clusterPoolIPv4PodCIDRList: \"10.0.0.0/8\" is not accepted; accepted: a list, as {a,b} with --set",
        ),
        (
            json!({"ipam": {"operator": {"clusterPoolIPv4PodCIDRList": ["10.0.0.0"]}}}),
            "ipam.operator.clusterPoolIPv4PodCIDRList[0]: \"10.0.0.0\" is not accepted; accepted: a range as 10.0.0.0/8",
        ),
        (
            json!({"autoDirectNodeRoutes": "yes"}),
            "autoDirectNodeRoutes: \"yes\" is not accepted; accepted: true or false",
        ),
        (
            json!({"cluster": {"id": 256}}),
            "cluster.id: 256 is not accepted; accepted: 0 to 255",
        ),
        (
            json!({"operator": {"replica": 1}}),
            "operator.replica: there is no such value; did you mean replicas?",
        ),
        (
            json!({"debug": true}),
            "debug: true is not accepted; accepted: a map",
        ),
        (
            json!({"conntrackGCInterval": "5"}),
            "conntrackGCInterval: \"5\" is not accepted; accepted: a time as 90s",
        ),
        (
            json!({"dnsProxy": {"dnsRejectResponseCode": "nxdomain"}}),
            "dnsProxy.dnsRejectResponseCode: \"nxdomain\" is not accepted; accepted: refused, nameError",
        ),
        (
            json!({"dnsProxy": {"minTTL": 5}}),
            "dnsProxy.minTTL: there is no such value; did you mean minTtl?",
        ),
        // What only agent and operator can judge.
        (
            json!({"ipv4": {"enabled": false}}),
            "pods need at least one family",
        ),
        (
            json!({"ipam": {"operator": {"clusterPoolIPv4PodCIDRList": ["300.0.0.0/8"]}}}),
            "cluster-pool-ipv4-cidr",
        ),
        (
            json!({"extraConfig": {"tunnel-protocol": "gre"}}),
            "tunnel-protocol",
        ),
        (
            json!({"k8s": {"requireIPv6PodCIDR": true}}),
            "k8s-require-ipv6-pod-cidr is true, but enable-ipv6 is false",
        ),
    ] {
        let found = error(values.clone());
        assert!(
            found.contains(said) && found.lines().count() == 1,
            "{values}: {found}"
        );
    }
}

#[test]
fn a_cluster_that_is_too_old_is_refused() {
    let render = |version: &str| {
        render(&Request {
            kube_version: Some(version.to_owned()),
            ..Request::default()
        })
    };
    assert!(render("v1.20.15").is_ok() && render("v1.34.0+k3s1").is_ok());
    assert_eq!(
        render("v1.19.3").unwrap_err().to_string(),
        "the cluster has Kubernetes v1.19.3; needed: >=1.20.0-0"
    );
}

/// Values that users know from the reference are accepted.
#[test]
fn values_of_the_notes_are_accepted() {
    let values = json!({
        "k8sServiceHost": "192.168.10.100", "k8sServicePort": "6443", "kubeProxyReplacement": true, "routingMode": "native",
        "autoDirectNodeRoutes": true, "ipv4NativeRoutingCIDR": "172.20.0.0/16", "endpointRoutes": {"enabled": true},
        "ipam": {"mode": "cluster-pool", "operator": {"clusterPoolIPv4PodCIDRList": ["172.20.0.0/16"]}},
        "k8s": {"requireIPv4PodCIDR": true}, "installNoConntrackIptablesRules": true,
        "bpf": {"masquerade": true, "hostRouting": true, "monitorAggregation": "medium", "lbMapMax": 65536},
        "ipv6": {"enabled": false}, "ipMasqAgent": {"enabled": true}, "bandwidthManager": {"enabled": true, "bbr": true},
        "endpointHealthChecking": {"enabled": false}, "healthChecking": false,
        "hubble": {"enabled": true, "relay": {"enabled": true}, "ui": {"enabled": true, "service": {"type": "NodePort", "nodePort": 30003}},
            "metrics": {"enabled": ["dns", "drop"], "enableOpenMetrics": true, "port": 9965}},
        "prometheus": {"enabled": true}, "operator": {"prometheus": {"enabled": true}, "replicas": 1}, "debug": {"enabled": true},
        "rollOutCiliumPods": true, "ingressController": {"enabled": true, "loadbalancerMode": "shared", "default": true},
        "gatewayAPI": {"enabled": true}, "nodePort": {"enabled": true}, "l7Proxy": true, "ciliumEndpointSlice": {"enabled": true},
        "cluster": {"name": "kind-west", "id": 1}, "clustermesh": {"useAPIServer": true, "config": {"enabled": true}},
        "gke": {"enabled": false}, "eni": {"enabled": false}, "azure": {"enabled": false}, "egressMasqueradeInterfaces": "eth+",
        "l2announcements": {"enabled": true}, "k8sClientRateLimit": {"qps": 10, "burst": 20}, "externalIPs": {"enabled": true},
        "bgpControlPlane": {"enabled": true}, "loadBalancer": {"mode": "dsr", "algorithm": "maglev", "dsrDispatch": "geneve"}, "tunnelProtocol": "geneve",
        "maglev": {"tableSize": 65521, "hashSeed": "JLfvgnHc2kaSUFaI"}, "encryption": {"enabled": true, "type": "wireguard"},
        "cni": {"exclusive": true, "chainingMode": "none", "logFile": "/var/run/cilium/cilium-cni.log"},
        "policyEnforcementMode": "default", "identityAllocationMode": "crd", "envoy": {"enabled": true}, "tls": {"ca": {}},
        "upgradeCompatibility": "1.16",
    });
    assert_eq!(error(values), "");
}

/// Every key of `values.yaml` stands in `values.schema.json` with a description, and nothing else does.
#[test]
fn values_and_schema_agree() {
    fn walk(
        root: &Value,
        schema: &Value,
        value: Option<&Value>,
        path: &str,
        found: &mut Vec<String>,
    ) {
        let target = match schema["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix('#'))
        {
            Some(pointer) => root.pointer(pointer).unwrap(),
            None => schema,
        };
        if !path.is_empty()
            && schema["description"]
                .as_str()
                .is_none_or(|text| text.len() < 4)
        {
            found.push(format!("{path} has no description"));
        }
        let known = target["properties"].as_object();
        let values = value.and_then(Value::as_object);
        for (key, inner) in values.into_iter().flatten() {
            let path = format!("{path}.{key}");
            match known.and_then(|known| known.get(key)) {
                Some(known) => walk(root, known, Some(inner), &path, found),
                None if target
                    .get("additionalProperties")
                    .is_none_or(|rest| *rest == false)
                    && known.is_some() =>
                {
                    found.push(format!("{path} is not in the schema"));
                }
                None => {}
            }
        }
    }
    let (schema, values) = (chart::schema().unwrap(), chart::values().unwrap());
    let mut found = Vec::new();
    walk(&schema, &schema, Some(&values), "", &mut found);
    // At the top every name is in both.
    for name in schema["properties"].as_object().unwrap().keys() {
        if values.get(name).is_none() && name != "global" {
            found.push(format!("{name} is not in values.yaml"));
        }
    }
    assert_eq!(found, Vec::<String>::new());
}
