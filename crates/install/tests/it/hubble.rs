//! What the chart makes for flows: certificates that fit each other, the relay, its services.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hypha_install::{Request, render};
use serde_json::{Value, json};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{GeneralName, X509Certificate};

use crate::rendering::{config, find, objects};

fn pem(secret: &Value, key: &str) -> Vec<u8> {
    STANDARD
        .decode(secret["data"][key].as_str().unwrap())
        .unwrap()
}

/// Whether the authority of a Secret vouches for its certificate, and for which names.
fn names(secret: &Value, authority: &Value) -> Vec<String> {
    assert_eq!(secret["data"]["ca.crt"], authority["data"]["ca.crt"]);
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let (_, ca) = parse_x509_pem(&pem(authority, "ca.crt")).unwrap();
    let ca: X509Certificate<'_> = ca.parse_x509().unwrap();
    assert!(ca.is_ca());
    let (_, own) = parse_x509_pem(&pem(secret, "tls.crt")).unwrap();
    let own = own.parse_x509().unwrap();
    own.verify_signature(Some(ca.public_key())).unwrap();
    assert!(own.validity().is_valid() && !own.is_ca());
    let key = String::from_utf8(pem(secret, "tls.key")).unwrap();
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"), "{key}");
    let usage = own.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth);
    let alternatives = own.subject_alternative_name().unwrap().unwrap().value;
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        other => panic!("{other:?}"),
    };
    alternatives.general_names.iter().map(name).collect()
}

#[test]
fn certificates_fit_each_other() {
    let all = objects(
        json!({"cluster": {"name": "c-one"}, "hubble": {"relay": {"enabled": true, "tls": {"server": {"enabled": true}}}}}),
    );
    let ca = find(&all, "Secret", "cilium-ca");
    let of = |name: &str| names(find(&all, "Secret", name), ca);
    assert_eq!(of("hubble-server-certs"), ["*.c-one.hubble-grpc.cilium.io"]);
    assert_eq!(
        of("hubble-relay-client-certs"),
        ["*.hubble-relay.cilium.io"]
    );
    assert_eq!(
        of("hubble-relay-server-certs"),
        [
            "*.hubble-relay.cilium.io",
            "hubble-relay.kube-system.svc",
            "hubble-relay",
            "localhost"
        ]
    );
}

fn again(there: &[&Value], values: Value) -> Vec<Value> {
    let request = Request {
        there: there.iter().map(|one| (*one).clone()).collect(),
        revision: 2,
        values,
        ..Request::default()
    };
    render(&request).unwrap()
}

/// The authority stays over upgrades, and what it vouches for stays as long as it is of use.
#[test]
fn certificates_stay_unless_others_are_wanted() {
    const SERVER: &str = "hubble-server-certs";
    let first = objects(json!({}));
    let ca = find(&first, "Secret", "cilium-ca");
    let own = find(&first, "Secret", SERVER);
    let same = again(&[ca, own], json!({}));
    assert_eq!(find(&same, "Secret", "cilium-ca")["data"], ca["data"]);
    assert_eq!(find(&same, "Secret", SERVER), own);
    // For others, for another time, by another authority, or old.
    let mut old = own.clone();
    old["metadata"]["annotations"]["hypha.io/renew-after"] = "1000".into();
    let mut strange = own.clone();
    strange["metadata"]["annotations"] = Value::Null;
    let other = objects(json!({}));
    let other_ca = find(&other, "Secret", "cilium-ca");
    for (ca, own, values) in [
        (ca, own, json!({"cluster": {"name": "c-two"}})),
        (
            ca,
            own,
            json!({"hubble": {"tls": {"auto": {"certValidityDuration": 30}}}}),
        ),
        (other_ca, own, json!({})),
        (ca, &old, json!({})),
        (ca, &strange, json!({})),
    ] {
        let all = again(&[ca, own], values);
        let made = find(&all, "Secret", SERVER);
        assert_ne!(made["data"]["tls.crt"], own["data"]["tls.crt"]);
        names(made, ca);
        assert_eq!(
            find(&again(&[ca, made], json!({})), "Secret", "cilium-ca")["data"],
            ca["data"]
        );
    }
}

#[test]
fn an_authority_that_cannot_be_used_is_told() {
    let broken = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cilium-ca", "namespace": "kube-system"},
        "data": {"ca.crt": "eA==", "ca.key": "eA=="}});
    let error = render(&Request {
        there: vec![broken],
        ..Request::default()
    })
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the authority's key cannot be used"),
        "{error}"
    );
}

#[test]
fn the_relay_is_shaped_by_values() {
    let all = objects(json!({"hubble": {"relay": {
        "enabled": true, "replicas": 2, "image": {"tag": "t"}, "service": {"type": "NodePort", "nodePort": 30004},
        "retryTimeout": "5s", "extraArgs": ["--debug"], "listenPort": 4250,
    }}, "debug": {"enabled": false}}));
    let spec = &find(&all, "Deployment", "hubble-relay")["spec"];
    assert_eq!(spec["replicas"], 2);
    let pod = &spec["template"]["spec"];
    let container = &pod["containers"][0];
    assert!(container["image"].as_str().unwrap().ends_with(":t"));
    assert_eq!(
        container["args"],
        json!([
            "relay",
            "--listen-address=:4250",
            "--peer-service=hubble-peer.kube-system.svc.cluster.local:443",
            "--cluster-name=default",
            "--retry-timeout=5s",
            "--tls-client-cert-file=/var/lib/hubble-relay/tls/client/tls.crt",
            "--tls-client-key-file=/var/lib/hubble-relay/tls/client/tls.key",
            "--tls-hubble-server-ca-files=/var/lib/hubble-relay/tls/client/ca.crt",
            "--debug"
        ])
    );
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    assert_eq!(
        pod["volumes"][0]["secret"]["secretName"],
        "hubble-relay-client-certs"
    );
    let service = &find(&all, "Service", "hubble-relay")["spec"];
    assert_eq!(
        (&service["type"], &service["ports"][0]["nodePort"]),
        (&json!("NodePort"), &json!(30004))
    );
    assert_eq!(service["ports"][0]["port"], 80);
    let peer = &find(&all, "Service", "hubble-peer")["spec"];
    assert_eq!(
        (&peer["ports"][0]["port"], &peer["ports"][0]["targetPort"]),
        (&json!(443), &json!(4244))
    );
    assert_eq!(peer["internalTrafficPolicy"], "Local");
    find(&all, "ServiceAccount", "hubble-relay");
}

#[test]
fn in_the_clear_or_not_at_all() {
    let clear = json!({"hubble": {"tls": {"enabled": false}, "relay": {"enabled": true}}});
    let all = objects(clear.clone());
    assert!(!all.iter().any(|object| object["kind"] == "Secret"));
    let args = find(&all, "Deployment", "hubble-relay")["spec"]["template"]["spec"]["containers"]
        [0]["args"]
        .to_string();
    assert!(
        args.contains("--disable-client-tls") && args.contains(":80\""),
        "{args}"
    );
    let settings = config(clear);
    assert_eq!(settings["hubble-disable-tls"], "true");
    assert!(!settings.contains_key("hubble-tls-cert-file"));
    let off = json!({"hubble": {"enabled": false, "relay": {"enabled": true}}});
    let all = objects(off.clone());
    let named = |name: &str| {
        all.iter()
            .any(|object| object["metadata"]["name"].as_str().unwrap().contains(name))
    };
    assert!(!named("hubble") && !named("cilium-ca"));
    let settings = config(off);
    assert_eq!(settings["enable-hubble"], "false");
    assert!(!settings.keys().any(|key| key.starts_with("hubble-")));
}

#[test]
fn the_page_is_the_relays() {
    let all = objects(json!({"hubble": {"relay": {"enabled": true}, "ui": {
        "enabled": true, "listenPort": 8090, "service": {"type": "NodePort", "nodePort": 30003},
    }}}));
    let container =
        &find(&all, "Deployment", "hubble-relay")["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].to_string();
    assert!(args.contains("\"--ui-listen-address=:8090\""), "{args}");
    assert_eq!(
        container["ports"][1],
        json!({"name": "ui", "containerPort": 8090, "protocol": "TCP"})
    );
    let service = &find(&all, "Service", "hubble-ui")["spec"];
    assert_eq!(service["selector"], json!({"k8s-app": "hubble-relay"}));
    assert_eq!(
        service["ports"],
        json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "ui", "nodePort": 30003}])
    );
    let error = render(&Request {
        values: json!({"hubble": {"ui": {"enabled": true}}}),
        ..Request::default()
    })
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("it needs hubble.relay.enabled=true"),
        "{error}"
    );
}

#[test]
fn metrics_have_a_service() {
    let all = objects(
        json!({"hubble": {"metrics": {"enabled": ["dns", "drop"], "serviceMonitor": {"enabled": true}}}}),
    );
    let service = &find(&all, "Service", "hubble-metrics")["spec"];
    assert_eq!(
        (&service["clusterIP"], &service["ports"][0]["port"]),
        (&json!("None"), &json!(9965))
    );
    find(&all, "ServiceMonitor", "hubble");
    let ports =
        find(&all, "DaemonSet", "cilium")["spec"]["template"]["spec"]["containers"][0]["ports"]
            .clone();
    assert_eq!(ports[0]["name"], "hubble-metrics");
}

/// What agents look at again and again is a ConfigMap, mounted where the settings say.
#[test]
fn exports_and_metrics_may_come_from_files() {
    let values = json!({"hubble": {
        "export": {"dynamic": {"enabled": true, "config": {"content": [{"name": "drops", "filePath": "/a"}]}}},
        "metrics": {"dynamic": {"enabled": true, "config": {"content": [{"name": "drop"}]}}, "enableOpenMetrics": true},
        "redact": {"enabled": true, "http": {"urlQuery": true, "headers": {"allow": ["traceparent", "host"]}}},
    }});
    let settings = config(values.clone());
    let all = objects(values);
    for (key, value) in [
        (
            "hubble-flowlogs-config-path",
            "/var/lib/cilium/hubble/flowlogs/flowlogs.yaml",
        ),
        (
            "hubble-dynamic-metrics-config-path",
            "/var/lib/cilium/hubble/metrics/dynamic-metrics.yaml",
        ),
        ("hubble-metrics-server", ":9965"),
        ("enable-hubble-open-metrics", "true"),
        ("hubble-redact-enabled", "true"),
        ("hubble-redact-http-urlquery", "true"),
        ("hubble-redact-http-headers-allow", "traceparent,host"),
    ] {
        assert_eq!(settings[key], value, "{key}");
    }
    let file = |map: &str, key: &str| -> Value {
        let text = find(&all, "ConfigMap", map)["data"][key].as_str().unwrap();
        serde_json::from_str(text).unwrap()
    };
    assert_eq!(
        file("cilium-flowlog-config", "flowlogs.yaml"),
        json!({"flowLogs": [{"name": "drops", "filePath": "/a"}]})
    );
    assert_eq!(
        file("cilium-dynamic-metrics-config", "dynamic-metrics.yaml"),
        json!({"metrics": [{"name": "drop"}]})
    );
    let pod = &find(&all, "DaemonSet", "cilium")["spec"]["template"]["spec"];
    let names = |list: &Value| -> Vec<String> {
        let names = list.as_array().unwrap().iter();
        names
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    for name in ["hubble-flowlogs", "hubble-dynamic-metrics"] {
        assert!(names(&pod["volumes"]).contains(&name.to_owned()), "{pod}");
        assert!(
            names(&pod["containers"][0]["volumeMounts"]).contains(&name.to_owned()),
            "{pod}"
        );
    }
    find(&all, "Service", "hubble-metrics");
    let none = objects(json!({}));
    assert!(
        none.iter()
            .all(|object| object["metadata"]["name"] != "cilium-flowlog-config")
    );
}

#[test]
fn old_servers_get_no_fields_that_they_refuse() {
    let of = |version: &str| {
        let request = Request {
            kube_version: Some(version.to_owned()),
            values: json!({"envoy": {"enabled": true}, "operator": {"podDisruptionBudget": {"enabled": true}}}),
            ..Request::default()
        };
        let all = render(&request).unwrap();
        let field =
            |kind: &str, name: &str, path: &str| find(&all, kind, name).pointer(path).cloned();
        [
            field("Service", "hubble-peer", "/spec/internalTrafficPolicy"),
            field(
                "DaemonSet",
                "cilium-envoy",
                "/spec/updateStrategy/rollingUpdate/maxSurge",
            ),
            field("PodDisruptionBudget", "cilium-operator", "/apiVersion"),
        ]
    };
    let (beta, stable) = (Some(json!("policy/v1beta1")), Some(json!("policy/v1")));
    let new = [Some(json!("Local")), Some(json!(1)), stable.clone()];
    assert_eq!(of("v1.20.2"), [None, None, beta]);
    assert_eq!(of("v1.21.14-eks-fb459a0"), [None, None, stable]);
    assert_eq!(of("v1.22.0"), new);
    assert_eq!(of("v1.36.2+k3s1"), new);
}
