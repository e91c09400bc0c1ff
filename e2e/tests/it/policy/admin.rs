//! AdminNetworkPolicy and BaselineAdminNetworkPolicy, where the API server comes to have them; what is said of policies that are
//! refused.

use hypha_e2e::policy::objects::{admin, cnp};
use serde_json::{Value, json};
use testkit::skip_unless_root;

use super::theatre::Theatre;
use crate::acceptance::shell::{Release, Shell};

/// The definitions of the two kinds, as open as the agents' own readers are strict.
fn definitions() -> Vec<Value> {
    let definition = |plural: &str, singular: &str, kind: &str, short: &str| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.policy.networking.k8s.io"),
                "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api/pull/30"}},
            "spec": {"group": "policy.networking.k8s.io", "scope": "Cluster",
                "names": {"plural": plural, "singular": singular, "kind": kind, "shortNames": [short]},
                "versions": [{"name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
    };
    vec![
        definition(
            "adminnetworkpolicies",
            "adminnetworkpolicy",
            "AdminNetworkPolicy",
            "anp",
        ),
        definition(
            "baselineadminnetworkpolicies",
            "baselineadminnetworkpolicy",
            "BaselineAdminNetworkPolicy",
            "banp",
        ),
    ]
}

/// Pods of namespaces with a label.
fn pods_of(label: &str, value: &str) -> Value {
    json!({"namespaces": {"matchLabels": {label: value}}})
}

fn one(name: &str, action: &str, from: &Value) -> Value {
    json!({"name": name, "action": action, "from": [from]})
}

#[test]
fn e2e_policy_admin_tiers() {
    if skip_unless_root() {
        return;
    }
    let mut theatre = Theatre::up("e2e-admin", &[], &[true, false]);
    // The agents run already: they find the kinds when they come.
    let list = json!({"apiVersion": "v1", "kind": "List", "items": definitions()});
    theatre.stage.cluster.lab.apply(&list.to_string());
    let (red, blue, dev) = (
        pods_of("team", "red"),
        pods_of("team", "blue"),
        pods_of("env", "dev"),
    );
    let prod = json!({"namespaces": {"matchLabels": {"env": "prod"}}});
    let open = cnp(
        "a",
        "open",
        &json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["all"]}]}),
    );
    let closed = cnp(
        "a",
        "closed",
        &json!({"endpointSelector": {}, "ingress": [{}]}),
    );
    let anp = |name: &str, priority: u16, ingress: &[Value]| {
        admin(
            name,
            &json!({"priority": priority, "subject": prod, "ingress": ingress}),
        )
    };
    let banp = |ingress: &[Value]| admin("default", &json!({"subject": prod, "ingress": ingress}));
    let web = json!([{"portNumber": {"protocol": "TCP", "port": 7080}}, {"portRange": {"protocol": "UDP", "start": 7081, "end": 7100}}]);
    let with_ports = |mut entry: Value| {
        entry["ports"] = web.clone();
        entry
    };
    let egress = admin(
        "out",
        &json!({"priority": 3, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "client"}}}},
            "egress": [{"name": "no", "action": "Deny", "to": [{"namespaces": {"matchLabels": {"env": "prod"}}}], "ports": web}]}),
    );
    let cases: Vec<(&str, Vec<Value>)> = vec![
        (
            "an admin's deny wins over an allow",
            vec![open.clone(), anp("deny", 10, &[one("no", "Deny", &blue)])],
        ),
        (
            "an admin's allow wins over default deny",
            vec![
                closed.clone(),
                anp("allow", 10, &[one("yes", "Allow", &red)]),
            ],
        ),
        (
            "some ports of an allow",
            vec![
                closed.clone(),
                anp("allow", 10, &[with_ports(one("yes", "Allow", &red))]),
            ],
        ),
        (
            "the lower number is asked first",
            vec![
                anp("first", 5, &[one("yes", "Allow", &red)]),
                anp(
                    "second",
                    6,
                    &[one("no", "Deny", &red), one("no", "Deny", &blue)],
                ),
            ],
        ),
        (
            "what is passed on is for namespaces to say",
            vec![
                closed.clone(),
                anp("pass", 5, &[one("on", "Pass", &dev)]),
                anp(
                    "allow",
                    6,
                    &[one("yes", "Allow", &red), one("yes", "Allow", &dev)],
                ),
            ],
        ),
        (
            "entries of one object in their order",
            vec![anp(
                "order",
                5,
                &[one("yes", "Allow", &dev), one("no", "Deny", &red)],
            )],
        ),
        (
            "a baseline's deny where nobody says anything",
            vec![banp(&[one("no", "Deny", &blue)])],
        ),
        (
            "an allow of a namespace wins over the baseline",
            vec![
                open,
                banp(&[one("no", "Deny", &red), one("no", "Deny", &blue)]),
            ],
        ),
        (
            "default deny wins over a baseline's allow",
            vec![closed, banp(&[one("yes", "Allow", &red)])],
        ),
        ("egress to some ports is denied", vec![egress]),
    ];
    for (what, objects) in cases {
        theatre.try_out(what, &objects, |rules| rules);
    }
    if let Some(sh) = Shell::new(&theatre.stage.cluster, Release::New) {
        refused(&sh);
        asked_wrongly(&sh);
    }
    theatre.stage.cluster.assert_clean();
}

/// What is wrong is said by the object's condition in the words of `policy check`, which knows the line, too.
fn refused(sh: &Shell) {
    for (name, entry, line, said) in [
        (
            "range",
            "  - fromCIDR: [10.0.0.0/33]",
            7,
            "spec.ingress[0].fromCIDR[0]: \"10.0.0.0/33\" is no range of addresses",
        ),
        (
            "two",
            "  - fromEndpoints: [{}]\n    fromEntities: [world]",
            7,
            "spec.ingress[0]: fromEndpoints and fromEntities exclude each other; accepted: one of them",
        ),
        (
            "both",
            "  - icmps: [{fields: [{type: 8}]}]\n    toPorts: [{ports: [{port: \"80\"}]}]",
            7,
            "spec.ingress[0]: toPorts and icmps exclude each other",
        ),
        (
            "end",
            "  - toPorts:\n    - ports:\n      - port: \"80\"\n        endPort: 79",
            10,
            "spec.ingress[0].toPorts[0].ports[0].endPort: 79 is less than port 80",
        ),
        (
            "except",
            "  - fromCIDRSet:\n    - cidr: 10.0.0.0/8\n      except:\n      - 11.0.0.0/16",
            10,
            "spec.ingress[0].fromCIDRSet[0].except[0]: 11.0.0.0/16 is not within 10.0.0.0/8",
        ),
        (
            "later",
            "  - fromEndpoints: [{}]\n    authentication: {mode: required}",
            8,
            "spec.ingress[0].authentication.mode: mutual authentication is not enforced yet",
        ),
    ] {
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: a}}\nspec:\n  \
             endpointSelector: {{}}\n  ingress:\n{entry}\n"
        );
        let file = format!("{name}.yaml");
        sh.file(&file, &text);
        let checked = sh.run(&format!("hypha policy check --name $LAB -f {file}"));
        let place = format!("{file}:{line}: CiliumNetworkPolicy a/{name}: {said}");
        assert!(
            !checked.ok() && (checked.stdout + &checked.stderr).contains(&place),
            "{place}\n{:?}",
            sh.run(&format!("hypha policy check --name $LAB -f {file}"))
        );
        sh.ok(&format!("kubectl apply --validate=false -f {file}"));
        let row = format!("kubectl -n a get cnp {name} --no-headers");
        sh.until(&row, &["False"]);
        let valid = "jsonpath={.status.conditions[?(@.type==\"Valid\")].message}";
        sh.has(
            &format!("kubectl -n a get cnp {name} -o '{valid}'"),
            &[said],
        );
        sh.ok(&format!("kubectl delete -f {file}"));
    }
}

/// Whoever asks for what is not there gets one line.
fn asked_wrongly(sh: &Shell) {
    sh.file("no.yaml", "kind: [\n");
    for (line, said) in [
        (
            "policy why --name $LAB a/nobody a/x",
            "SRC: there is no pod a/nobody with an address",
        ),
        ("policy why --name $LAB a/x a/y 80000/TCP", "PORT/PROTO: "),
        ("policy why --name $LAB a/x a/y 80/XYZ", "PORT/PROTO: "),
        (
            "policy why --name $LAB world world",
            "policy has no say in what they send each other",
        ),
        ("policy why --name nowhere a/x a/y", "`nowhere`"),
        ("policy check --name $LAB -f no.yaml", "no.yaml:"),
        ("policy diff --name $LAB -f none.yaml", "none.yaml"),
        ("dbg --name $LAB identity get 99999999", "identity 99999999"),
        ("dbg --name $LAB identity get many", "many"),
        ("dbg --name $LAB bpf policy get 4242", "endpoint 4242"),
        (
            "dbg --name $LAB bpf policy get somebody",
            "`somebody` does not name an endpoint",
        ),
        (
            "dbg --name $LAB --node node9 policy get",
            "no node `node9`; accepted: node1, node2, node3",
        ),
        ("dbg -H /nowhere.sock policy selectors", "/nowhere.sock"),
        (
            "dbg --name $LAB policy wait 99999 --max-wait-time 0",
            "99999",
        ),
    ] {
        let run = sh.run(&format!("hypha {line}"));
        let lines = run.stderr.trim_end().lines().count();
        assert!(
            !run.ok() && lines == 1 && run.stderr.contains(said),
            "$ hypha {line}\n{run:?}"
        );
    }
}
