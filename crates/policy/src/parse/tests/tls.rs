//! Certificates and Secrets.
use super::*;
use crate::rule::{L7Rules, Purpose, TlsSecret};

const L7: Options = Options {
    node_selector_labels: false,
    always_default_deny: false,
    l7: true,
};

fn item(more: Value) -> Value {
    let mut item = json!({"ports": [{"port": "443", "protocol": "TCP"}]});
    if let (Some(item), Value::Object(more)) = (item.as_object_mut(), more) {
        item.extend(more);
    }
    item
}

#[test]
fn certificates_stand_with_names_and_rules() {
    let object = egress(json!({"toPorts": [item(json!({
        "terminatingTLS": {"secret": {"name": "web"}, "certificate": "c", "privateKey": ""},
        "originatingTLS": {"secret": {"namespace": "cilium-secrets", "name": "ca"}, "trustedCA": "bundle"},
        "serverNames": ["*.example.org"],
        "rules": {"http": [{"method": "GET"}, {"headerMatches": [
            {"name": "x", "secret": {"name": "token"}, "mismatch": "REPLACE"},
            {"name": "y", "secret": {"name": "token"}, "value": "z"}]}]},
    }))]}));
    let policy = policy(&object, L7).unwrap();
    let uses = policy.secret_uses();
    let found: Vec<String> = uses
        .iter()
        .map(|one| format!("{} {}", one.path, one.secret))
        .collect();
    let at = "spec.egress[0].toPorts[0]";
    assert_eq!(
        found,
        [
            format!("{at}.terminatingTLS shop/web"),
            format!("{at}.originatingTLS cilium-secrets/ca"),
            format!("{at}.rules.http[1].headerMatches shop/token"),
        ],
        "a value that is there takes the place of a Secret that is not"
    );
    let Purpose::Terminating(TlsSecret {
        certificate,
        private_key,
        ..
    }) = uses[0].purpose
    else {
        panic!("{uses:?}");
    };
    assert_eq!(
        (certificate.as_deref(), private_key.as_deref()),
        (Some("c"), None)
    );
    let Traffic::Ports(ports) = &policy.rules[0].sections[1].entries[0].traffic else {
        panic!("no ports");
    };
    let L7Rules::Inspect(rules) = &*ports[0].l7.as_ref().unwrap().rules else {
        panic!("another kind");
    };
    assert_eq!(rules.server_names, ["*.example.org"]);
    assert_eq!(rules.http.as_ref().unwrap().len(), 2);
}

#[test]
fn one_end_alone_and_no_rules_are_right() {
    for more in [
        json!({"terminatingTLS": {"secret": {"name": "web"}}}),
        json!({"originatingTLS": {"secret": {"name": "web"}}, "rules": {"http": [{}]}}),
        json!({"terminatingTLS": {"secret": {"name": "web"}}, "serverNames": ["a.org"]}),
    ] {
        let read = policy(&egress(json!({"toPorts": [item(more)]})), L7).unwrap();
        assert_eq!(read.secret_uses().len(), 1);
    }
}

#[test]
fn certificates_that_make_no_sense_are_named() {
    let tls = |value: Value| item(json!({"terminatingTLS": value}));
    let place = |port: Value| json!({"ports": [port], "originatingTLS": {"secret": {"name": "s"}}});
    let of = "spec.egress[0].toPorts[0].";
    for (item, text) in [
        (tls(json!({})), "terminatingTLS: secret is missing"),
        (
            tls(json!({"secret": {"name": "A b"}})),
            "terminatingTLS.secret.name: \"A b\" is no name of an object",
        ),
        (
            tls(json!({"secret": {"name": "s"}, "key": "x"})),
            "terminatingTLS: unknown field \"key\"",
        ),
        (
            place(json!({"port": "443"})),
            "originatingTLS: originatingTLS with a protocol other than TCP",
        ),
        (
            place(json!({"port": "0", "protocol": "TCP"})),
            "originatingTLS: originatingTLS for every port",
        ),
        (
            item(json!({"originatingTLS": {"secret": {"name": "s"}}, "serverNames": ["a.org"]})),
            "serverNames: server names of clients that speak without TLS",
        ),
        (
            item(json!({"terminatingTLS": {"secret": {"name": "s"}}, "rules": {"kafka": [{}]}})),
            "terminatingTLS: terminatingTLS together with rules other than http",
        ),
    ] {
        let error = policy(&egress(json!({"toPorts": [item]})), L7)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(&format!("{of}{text}")), "{error}");
        assert!(error.contains("; accepted: "), "{error}");
    }
    let clusterwide = ccnp(
        json!({"endpointSelector": {}, "egress": [{"toPorts": [tls(json!({"secret": {"name": "s"}}))]}]}),
    );
    let error = policy(&clusterwide, L7).unwrap_err().to_string();
    assert!(
        error.contains("terminatingTLS.secret: names no namespace"),
        "{error}"
    );
}
