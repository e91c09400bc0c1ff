use super::*;
use std::{collections::BTreeMap, fs, path::Path};

/// Set to write the golden files anew.
const UPDATE: &str = "UPDATE_GOLDEN";

#[test]
fn definitions_are_as_the_golden_files_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let update = std::env::var_os(UPDATE).is_some();
    for crd in ALL {
        let path = dir.join(format!("{}.yaml", crd.plural));
        let made = yaml(crd).unwrap();
        if update {
            fs::write(&path, &made).unwrap();
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            golden == made,
            "{} differs; {UPDATE}=1 writes it anew",
            path.display()
        );
    }
}

#[test]
fn names_are_those_that_people_type() {
    let short: BTreeMap<&str, &[&str]> = ALL.iter().map(|crd| (crd.plural, crd.short)).collect();
    assert_eq!(short["ciliumnodes"], ["cn", "ciliumn"]);
    assert_eq!(short["ciliumendpoints"], ["cep", "ciliumep"]);
    assert_eq!(short["ciliumidentities"], ["ciliumid"]);
    assert_eq!(short["ciliumpodippools"], ["cpip"]);
    assert!(short["ciliumnodeconfigs"].is_empty());
    assert_eq!(short["ciliumnetworkpolicies"], ["cnp", "ciliumnp"]);
    assert_eq!(short["ciliumclusterwidenetworkpolicies"], ["ccnp"]);
    assert_eq!(short["ciliumcidrgroups"], ["ccg"]);
    assert_eq!(short["ciliumendpointslices"], ["ces"]);
    assert_eq!(
        short["ciliumloadbalancerippools"],
        ["ippools", "ippool", "lbippool", "lbippools"]
    );
    assert_eq!(short["ciliuml2announcementpolicies"], ["l2announcement"]);
    assert_eq!(short["ciliumlocalredirectpolicies"], ["clrp"]);
}

/// Every node of a structural schema has a type, or says that anything goes.
fn structural(schema: &Value, path: &str) {
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true
        || schema["x-kubernetes-int-or-string"] == true;
    assert!(schema["type"].is_string() || open, "{path} has no type");
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        structural(inner, &format!("{path}.{name}"));
    }
    for part in ["items", "additionalProperties"] {
        if schema[part].is_object() {
            structural(&schema[part], &format!("{path}.{part}"));
        }
    }
    let required = schema["required"].as_array().into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        assert!(
            schema["properties"][name].is_object(),
            "{path}: {name} is required but unknown"
        );
    }
}

#[test]
fn schemas_are_structural() {
    for crd in ALL {
        structural(&(crd.schema)(), crd.kind);
    }
}

/// Every field of `value` is in the schema: what the types write is not pruned.
fn known(schema: &Value, value: &Value, path: &str) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let path = format!("{path}.{name}");
                let property = &schema["properties"][name];
                let values = &schema["additionalProperties"];
                let found = if property.is_object() {
                    property
                } else {
                    values
                };
                assert!(found.is_object(), "{path} is not in the schema");
                known(found, inner, &path);
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| known(&schema["items"], item, path)),
        _ => {}
    }
}

/// Reads `sample` as `T` and back: nothing may be lost, and the schema must know all of it.
fn round<T: serde::Serialize + serde::de::DeserializeOwned>(crd: &Crd, sample: Value) {
    let typed: T = serde_json::from_value(sample.clone()).unwrap();
    let mut back = serde_json::to_value(&typed).unwrap();
    back["metadata"] = sample["metadata"].clone();
    assert_eq!(back, sample);
    let mut without = sample;
    without.as_object_mut().unwrap().remove("metadata");
    known(&(crd.schema)(), &without, crd.kind);
}

#[test]
fn types_and_schemas_agree() {
    let metadata = json!({"name": "x"});
    round::<CiliumNode>(
        &node::CRD,
        json!({"metadata": metadata, "spec": {
            "addresses": [{"type": "InternalIP", "ip": "192.0.2.1"}], "encryption": {"key": 0}, "bootid": "b",
            "ipam": {
                "podCIDRs": ["10.0.0.0/24"], "pool": {"10.0.0.1": {"owner": "a/b", "resource": "r"}}, "ipv6-pool": {"fd00::1": {}},
                "pools": {"requested": [{"pool": "default", "needed": {"ipv4-addrs": 8, "ipv6-addrs": 0}}],
                    "allocated": [{"pool": "default", "cidrs": ["10.0.0.0/27"]}]},
            }},
            "status": {"ipam": {"used": {"10.0.0.1": {}}, "ipv6-used": {"fd00::1": {}}, "operator-status": {"error": "none left"}}}}),
    );
    round::<CiliumEndpoint>(
        &endpoint::CRD,
        json!({"metadata": metadata, "status": {
            "id": 7, "identity": {"id": 4711, "labels": ["k8s:app=a"]}, "encryption": {"key": 0}, "state": "ready",
            "networking": {"addressing": [{"ipv4": "10.0.0.1", "ipv6": "fd00::1"}], "node": "192.0.2.1"},
            "external-identifiers": {"container-id": "c"}, "named-ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
            "policy": {"ingress": {"enforcing": false, "state": "disabled"}, "egress": {"enforcing": false, "state": "disabled"}}}}),
    );
    round::<CiliumIdentity>(
        &identity::CRD,
        json!({"metadata": metadata, "security-labels": {"k8s:app": "a"}}),
    );
    round::<CiliumEndpointSlice>(
        &endpoint_slice::CRD,
        json!({"metadata": metadata, "namespace": "shop", "endpoints": [{
            "name": "cart", "id": 4711, "encryption": {"key": 0}, "named-ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
            "networking": {"addressing": [{"ipv4": "10.0.0.1", "ipv6": "fd00::1"}], "node": "192.0.2.1"}}]}),
    );
    let range = json!({"cidrs": ["10.0.0.0/16"], "maskSize": 24});
    round::<CiliumPodIpPool>(
        &pool::CRD,
        json!({"metadata": metadata, "spec": {"ipv4": range, "ipv6": range}}),
    );
    round::<CiliumNodeConfig>(
        &node_config::CRD,
        json!({"metadata": metadata, "spec": {"defaults": {"debug": "true"}, "nodeSelector": {
            "matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}}),
    );
}

/// Every field that a rule can have.
fn whole_rule() -> Value {
    let selector = json!({"matchLabels": {"k8s:app": "a"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["c"]}]});
    let peers = |side: &str| {
        let mut all = Vec::new();
        for (name, value) in [
            ("Endpoints", json!([selector])),
            ("Requires", json!([selector])),
            ("Nodes", json!([selector])),
            ("Entities", json!(["all", "kube-apiserver"])),
            ("CIDR", json!(["10.0.0.0/8", "fd00::1"])),
            (
                "CIDRSet",
                json!([{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidrGroupRef": "g"}, {"cidrGroupSelector": selector}]),
            ),
            (
                "Groups",
                json!([{"aws": {"labels": {"a": "b"}, "securityGroupsIds": ["x"], "securityGroupsNames": ["y"], "region": "z"}}]),
            ),
        ] {
            all.push(json!({format!("{side}{name}"): value}));
        }
        all
    };
    let tls = json!({"secret": {"namespace": "n", "name": "s"}, "trustedCA": "a", "certificate": "b", "privateKey": "c"});
    let ports = json!([{"port": "80", "protocol": "TCP"}, {"port": "web"}, {"port": "1", "endPort": 9, "protocol": "ANY"}, {"port": ""}]);
    let l7 = json!({
        "http": [{"path": "/", "method": "GET", "host": "h", "headers": ["X"], "headerMatches": [{"name": "n", "value": "v", "secret": {"name": "s"}, "mismatch": "LOG"}]}],
        "kafka": [{"role": "produce", "topic": "t", "apiKey": "a", "apiVersion": "1", "clientID": "c"}],
        "dns": [{"matchName": "a.b"}, {"matchPattern": "*.b"}], "l7proto": "p", "l7": [{"k": "v"}],
    });
    let mut ingress = peers("from");
    let listener = json!({"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "c"}, "name": "l", "priority": 7});
    ingress.push(json!({"toPorts": [{"ports": ports, "rules": l7, "terminatingTLS": tls, "originatingTLS": tls, "serverNames": ["a"], "listener": listener}],
        "authentication": {"mode": "required"}}));
    ingress.push(
        json!({"icmps": [{"fields": [{"family": "IPv6", "type": 128}, {"type": "EchoRequest"}]}]}),
    );
    let mut egress = peers("to");
    egress.push(json!({"toServices": [{"k8sService": {"serviceName": "s", "namespace": "n"}}, {"k8sServiceSelector": {"selector": selector, "namespace": "n"}}]}));
    egress.push(json!({"toFQDNs": [{"matchName": "a.b"}, {"matchPattern": "*"}]}));
    json!({
        "endpointSelector": selector, "nodeSelector": selector, "ingress": ingress, "egress": egress,
        "ingressDeny": peers("from"), "egressDeny": peers("to"), "enableDefaultDeny": {"ingress": true, "egress": false},
        "labels": [{"key": "a", "value": "b", "source": "k8s"}], "description": "d",
    })
}

#[test]
fn policies_may_have_every_field_and_no_other() {
    let rule = whole_rule();
    for crd in [policy::NETWORK, policy::CLUSTERWIDE] {
        let schema = (crd.schema)();
        let status = json!({"conditions": [{"type": "Valid", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": "t"}], "derivativePolicies": {}});
        known(
            &schema,
            &json!({"spec": rule, "specs": [rule], "status": status}),
            crd.kind,
        );
        let rule = &schema["properties"]["spec"]["properties"];
        for (section, field) in [
            ("ingressDeny", "authentication"),
            ("egressDeny", "toFQDNs"),
            ("ingress", "toServices"),
        ] {
            let fields = &rule[section]["items"]["properties"];
            assert!(
                fields["toPorts"].is_object() && fields[field].is_null(),
                "{section}.{field}"
            );
        }
        let denied = &rule["ingressDeny"]["items"]["properties"]["toPorts"]["items"]["properties"];
        assert_eq!(denied.as_object().map(serde_json::Map::len), Some(1));
    }
}

#[test]
fn what_says_how_services_are_served_may_have_every_field() {
    let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]});
    let status = json!({"conditions": [{"type": "a", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": "t"}]});
    let ports = json!([{"name": "dns", "port": "53", "protocol": "UDP"}]);
    let samples = [
        (
            service::POOL,
            json!({"blocks": [{"cidr": "192.0.2.0/24"}, {"start": "192.0.3.1", "stop": "192.0.3.9"}],
                "serviceSelector": selector, "allowFirstLastIPs": "No", "disabled": true}),
            status.clone(),
        ),
        (
            service::L2_ANNOUNCEMENT,
            json!({"externalIPs": true, "loadBalancerIPs": true, "interfaces": ["^eth"], "nodeSelector": selector,
                "serviceSelector": selector}),
            status,
        ),
        (
            service::LOCAL_REDIRECT,
            json!({"redirectFrontend": {"addressMatcher": {"ip": "192.0.2.1", "toPorts": ports},
                    "serviceMatcher": {"serviceName": "a", "namespace": "b", "toPorts": ports}},
                "redirectBackend": {"localEndpointSelector": selector, "toPorts": ports},
                "skipRedirectFromBackend": true, "description": "d"}),
            json!({"ok": true}),
        ),
    ];
    for (crd, spec, status) in samples {
        let schema = (crd.schema)();
        known(&schema, &json!({"spec": spec, "status": status}), crd.kind);
    }
}
