//! `fromRequires` and `toRequires`: what peers must have besides.
use crate::scenarios::{
    A_DB, A_WEB, A_WEB_X, B_WEB, Case, DNS, REMOTE_NODE, WEB, cnp, named, port,
};
use crate::world::Remote;
use hypha_policy::rule::Direction::Ingress;
use serde_json::{Value, json};

#[test]
fn what_is_required_narrows_every_entry_that_selects_peers_by_labels() {
    let all_pods =
        json!({"matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "Exists"}]});
    let open = cnp(
        "open",
        json!({"endpointSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{"fromEndpoints": [all_pods]}, {"fromEntities": ["remote-node"]}, {"fromCIDR": ["8.8.8.0/24"]}]}),
    );
    let outside = Remote::Address("8.8.8.8".parse().unwrap());
    let case = Case::of(std::slice::from_ref(&open));
    assert!(case.from(A_DB, A_WEB, WEB) && case.from(A_DB, B_WEB, WEB));
    // Another policy about the same pods. Its own namespace is meant, as in any selector of peers.
    let require = |more: Value| {
        let mut entry = json!({"fromRequires": [{"matchLabels": {"app": "web"}}]});
        for (name, value) in more.as_object().unwrap() {
            entry[name] = value.clone();
        }
        cnp(
            "require",
            json!({"endpointSelector": {}, "ingress": [entry]}),
        )
    };
    let case = Case::of(&[open.clone(), require(json!({}))]);
    assert!(case.from(A_DB, A_WEB, WEB));
    assert!(!case.from(A_DB, B_WEB, WEB) && !case.from(A_DB, A_DB, WEB));
    assert!(
        case.from(A_DB, REMOTE_NODE, WEB),
        "entities are not narrowed"
    );
    assert!(case.ask(Ingress, A_DB, outside, WEB), "nor are addresses");
    // It allows nothing by itself, but it is a section of its direction.
    assert!(!case.from(A_WEB, A_WEB_X, WEB) && case.to(A_WEB, A_DB, WEB));
    let case = Case::of(&[require(json!({"toPorts": port("80", "TCP")}))]);
    assert!(!case.from(A_DB, A_WEB, WEB));
    // Beside peers it holds for them, too; other directions and other subjects are free.
    let case = Case::of(&[require(
        json!({"fromEndpoints": [{}], "toPorts": port("80", "TCP")}),
    )]);
    assert!(case.from(A_DB, A_WEB, WEB) && !case.from(A_DB, A_DB, WEB));
    assert!(!case.from(A_DB, A_WEB, DNS));
    assert!(case.from(B_WEB, A_DB, WEB) && case.to(A_DB, B_WEB, WEB));
    let everything = require(json!({"fromEntities": ["all"]}));
    assert!(Case::of(&[everything]).from(A_DB, B_WEB, WEB));
}

#[test]
fn what_denials_require_narrows_denials_alone() {
    let rule = json!({"endpointSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"fromEntities": ["all"]}],
        "ingressDeny": [{"fromEndpoints": [{}], "fromRequires": [{"matchLabels": {"tier": "x"}}]}]});
    let case = Case::of(&[cnp("deny", rule)]);
    assert!(case.from(A_DB, A_WEB, WEB));
    assert!(!case.from(A_DB, A_WEB_X, WEB));
}

#[test]
fn what_is_required_holds_for_policies_of_kubernetes_and_not_for_those_of_admins() {
    let network = named(
        "NetworkPolicy",
        "np",
        Some("a"),
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [
            {"podSelector": {}}, {"ipBlock": {"cidr": "8.8.8.0/24"}}]}]}),
    );
    let admin = named(
        "AdminNetworkPolicy",
        "admin",
        None,
        json!({"priority": 5, "subject": {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "a"}}},
            "ingress": [{"action": "Allow", "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}}]}]}),
    );
    let require = cnp(
        "require",
        json!({"endpointSelector": {}, "ingress": [{"fromRequires": [{"matchLabels": {"app": "web"}}]}]}),
    );
    let outside = Remote::Address("8.8.8.8".parse().unwrap());
    let case = Case::of(&[network.clone(), require.clone()]);
    assert!(case.from(A_DB, A_WEB, WEB) && !case.from(A_DB, A_DB, WEB));
    assert!(case.ask(Ingress, A_DB, outside, WEB));
    let case = Case::of(&[network, require, admin]);
    assert!(case.from(A_DB, A_DB, WEB));
}
