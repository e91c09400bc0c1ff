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

/// The authority stays over upgrades; what it vouches for is new each time.
#[test]
fn the_authority_stays() {
    let first = objects(json!({}));
    let ca = find(&first, "Secret", "cilium-ca");
    let again = render(&Request {
        there: vec![ca.clone()],
        revision: 2,
        ..Request::default()
    })
    .unwrap();
    let kept = find(&again, "Secret", "cilium-ca");
    assert_eq!(ca["data"], kept["data"]);
    let of = |all: &[Value]| find(all, "Secret", "hubble-server-certs")["data"]["tls.crt"].clone();
    assert_ne!(of(&first), of(&again));
    names(find(&again, "Secret", "hubble-server-certs"), ca);
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
