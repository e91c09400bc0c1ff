//! What people read, for a small cluster.
use ::policy::rule::{NamedPort, Protocol};
use clap::Parser;
use expect_test::{Expect, expect};
use model::LabelMap;
use serde_json::json;

use super::cluster::{Node, Pod, World};
use super::{check, diff, files, manifest, why};

pub(super) const RULE: &str = r#"apiVersion: "cilium.io/v2"
kind: CiliumNetworkPolicy
metadata:
  name: "rule1"
spec:
  description: "L3-L4 policy to restrict deathstar access to empire ships only"
  endpointSelector:
    matchLabels:
      org: empire
      class: deathstar
  ingress:
  - fromEndpoints:
    - matchLabels:
        org: empire
    toPorts:
    - ports:
      - port: "80"
        protocol: TCP
"#;

fn map(pairs: &[(&str, &str)]) -> LabelMap {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub(super) fn world() -> World {
    let settings = [("enable-ipv4", "true"), ("enable-ipv6", "false")];
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut world = World::with_settings(&settings.into()).unwrap();
    world.namespaces = [("default".to_owned(), map(&[]))].into();
    let node = |name: &str, ip: &str| Node {
        name: name.into(),
        ips: vec![ip.parse().unwrap()],
        ..Node::default()
    };
    world.nodes = vec![node("n1", "192.0.2.11"), node("n2", "192.0.2.12")];
    let ships = [
        ("deathstar-1", "n1", "10.7.1.12", "deathstar", "empire"),
        ("deathstar-2", "n2", "10.7.2.12", "deathstar", "empire"),
        ("tiefighter", "n1", "10.7.1.13", "tiefighter", "empire"),
        ("xwing", "n2", "10.7.2.13", "xwing", "alliance"),
    ];
    let port = NamedPort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
    };
    world.pods = ships
        .map(|(name, node, ip, class, org)| Pod {
            namespace: "default".into(),
            name: name.into(),
            node: node.into(),
            ips: vec![ip.parse().unwrap()],
            labels: world.labels_of("default", "", &map(&[("class", class), ("org", org)])),
            ports: [port.clone()]
                .into_iter()
                .filter(|_| class == "deathstar")
                .collect(),
            audit: None,
        })
        .into();
    world
}

pub(super) fn documents(text: &str) -> Vec<files::Document> {
    files::documents("rule.yaml", text).unwrap()
}

pub(super) fn with(text: &str) -> World {
    let mut world = world();
    manifest::apply(&documents(text), &mut world).unwrap();
    world
}

#[derive(Parser)]
struct Why {
    #[command(flatten)]
    args: why::WhyArgs,
}

fn ask(world: &World, words: &str) -> String {
    let args = Why::parse_from(["why"].into_iter().chain(words.split(' '))).args;
    match why::answer(world, &args) {
        Ok(report) => why::text(&report),
        Err(error) => format!("Error: {error}\n"),
    }
}

fn check_why(world: &World, words: &str, expected: &Expect) {
    expected.assert_eq(&ask(world, words));
}

#[test]
fn why_knows_what_is_only_watched() {
    let mut world = with(RULE);
    let verdict = |world: &World| {
        let says = ask(world, "default/xwing default/deathstar-1 80/TCP");
        says.lines().nth(2).unwrap_or_default().to_owned()
    };
    let audited = "80/TCP: denied, but passes: audit mode is on for who denies it";
    assert_eq!(verdict(&world), "80/TCP: denied");
    world.audit = true;
    assert_eq!(verdict(&world), audited);
    let says = |name: &str, state: &str| {
        json!({"metadata": {"namespace": "default", "name": name},
            "status": {"policy": {"ingress": {"state": state}, "egress": {"state": "disabled"}}}})
    };
    // What a pod's agent says of it counts more than what holds for all.
    world.note_audits(&[says("deathstar-1", "enforcing")]);
    assert_eq!(verdict(&world), "80/TCP: denied");
    world.audit = false;
    world.note_audits(&[
        says("deathstar-1", "non-enforcing"),
        says("xwing", "disabled"),
    ]);
    assert_eq!(verdict(&world), audited);
    world.note_audits(&[says("xwing", "non-enforcing")]);
    assert_eq!(verdict(&world), "80/TCP: denied");
    world.node_files = "/etc/policies".to_owned();
    assert!(ask(&world, "default/xwing default/deathstar-1").contains("Note: nodes may have"));
}

#[test]
fn why_knows_which_nodes_are_only_watched() {
    let rule = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: nodes}\nspec: {nodeSelector: {}, ingress: [{fromEntities: [cluster]}]}\n";
    let mut world = world();
    world.host_firewall = true;
    manifest::apply(&documents(rule), &mut world).unwrap();
    let verdict = |world: &World, node: &str| {
        let says = ask(world, &format!("203.0.113.9 node/{node} 22/TCP"));
        says.lines().nth(2).unwrap_or_default().to_owned()
    };
    let audited = "22/TCP: denied, but passes: audit mode is on for who denies it";
    assert_eq!(verdict(&world, "n1"), "22/TCP: denied");
    let says = |name: &str, audit: &str| json!({"metadata": {"name": name, "annotations": {"network.cilium.io/policy-audit-mode": audit}}});
    world.note_node_audits(&[says("n1", "true"), json!({"metadata": {"name": "n2"}})]);
    assert_eq!(verdict(&world, "n1"), audited);
    assert_eq!(verdict(&world, "n2"), "22/TCP: denied");
    // What a node says of itself counts more than what holds for all.
    world.audit = true;
    world.note_node_audits(&[says("n1", "false")]);
    assert_eq!(verdict(&world, "n1"), "22/TCP: denied");
    assert_eq!(verdict(&world, "n2"), audited);
}

#[test]
fn why_names_the_rule_with_its_line() {
    let world = with(RULE);
    check_why(
        &world,
        "default/tiefighter default/deathstar-1 80/TCP",
        &expect![[r#"
            default/tiefighter (pod on n1, 10.7.1.13) → default/deathstar-1 (pod on n1, 10.7.1.12)

            80/TCP: allowed
              egress of default/tiefighter: allowed: no policy denies it or asks for more
              ingress of default/deathstar-1: allowed by
                CiliumNetworkPolicy default/rule1: spec.ingress[0] (rule.yaml:12)
                  | fromEndpoints:
                  | - matchLabels:
                  |     org: empire
                  | toPorts:
                  | - ports:
                  |   - port: "80"
                  |     protocol: TCP
        "#]],
    );
}

#[test]
fn why_says_what_is_near_and_what_is_needed() {
    let world = with(RULE);
    check_why(
        &world,
        "default/xwing 10.7.1.12 http",
        &expect![[r#"
        default/xwing (pod on n2, 10.7.2.13) → default/deathstar-1 (pod on n1, 10.7.1.12)

        80/TCP: denied
          egress of default/xwing: allowed: no policy denies it or asks for more
          ingress of default/deathstar-1: denied: no rule allows it
            CiliumNetworkPolicy default/rule1: spec.ingress[0] (rule.yaml:12) allows this port, but not this peer
              | fromEndpoints:
              | - matchLabels:
              |     org: empire
              | toPorts:
              | - ports:
              |   - port: "80"
              |     protocol: TCP
            needed: an entry of ingress in a policy that selects k8s:class=deathstar,k8s:io.kubernetes.pod.namespace=default,k8s:org=empire, from fromEndpoints k8s:class=xwing,k8s:io.kubernetes.pod.namespace=default,k8s:org=alliance, toPorts 80/TCP
    "#]],
    );
}

#[test]
fn why_without_a_port_tells_all_traffic() {
    let world = with(RULE);
    check_why(
        &world,
        "tiefighter deathstar-2",
        &expect![[r#"
        default/tiefighter (pod on n1, 10.7.1.13) → default/deathstar-2 (pod on n2, 10.7.2.12)

        80/TCP: allowed
          egress of default/tiefighter: allowed: no policy denies it or asks for more
          ingress of default/deathstar-2: allowed by
            CiliumNetworkPolicy default/rule1: spec.ingress[0] (rule.yaml:12)
              | fromEndpoints:
              | - matchLabels:
              |     org: empire
              | toPorts:
              | - ports:
              |   - port: "80"
              |     protocol: TCP

        everything else: denied
          egress of default/tiefighter: allowed: no policy denies it or asks for more
          ingress of default/deathstar-2: denied: no rule allows it
    "#]],
    );
    check_why(
        &world,
        "node/n1 deathstar-1",
        &expect![[r#"
        node/n1 (the node itself and what runs in its network) → default/deathstar-1 (pod on n1, 10.7.1.12)

        all traffic: allowed
          ingress of default/deathstar-1: allowed: the host reaches its pods
    "#]],
    );
    check_why(
        &world,
        "node/n1 deathstar-2 8/ICMP",
        &expect![[r#"
        node/n1 (the node itself and what runs in its network) → default/deathstar-2 (pod on n2, 10.7.2.12)

        ICMP type 8: denied
          ingress of default/deathstar-2: denied: no rule allows it
            needed: an entry of ingress in a policy that selects k8s:class=deathstar,k8s:io.kubernetes.pod.namespace=default,k8s:org=empire, from fromEntities remote-node, icmps type 8 of IPv4, or no ports at all
    "#]],
    );
    check_why(
        &world,
        "xwing 198.51.100.0/24",
        &expect![[r#"
        default/xwing (pod on n2, 10.7.2.13) → 198.51.100.0/24 (outside the cluster)

        all traffic: allowed
          egress of default/xwing: allowed: no policy denies it or asks for more
    "#]],
    );
}

#[test]
fn why_says_what_it_does_not_understand() {
    let world = with(RULE);
    for (words, expected) in [
        (
            "ywing xwing",
            expect![[r#"
                Error: SRC: there is no pod default/ywing with an address of its own; accepted: a pod as NAMESPACE/NAME, an address, a range as 192.0.2.0/24, a node as node/NAME, labels as app=web,io.kubernetes.pod.namespace=shop, or one of world, host, remote-node, kube-apiserver, health, init, ingress, unmanaged; as DST a name outside as www.example.org, too
            "#]],
        ),
        (
            "xwing deathstar-1 https",
            expect![[r#"
            Error: PORT/PROTO: `https` is no port; accepted: 80/TCP, 53/UDP, 9999/SCTP, a port's name as http, or ICMP with or without a type as 8/ICMP; ports that the receiver names: http
        "#]],
        ),
        (
            "world 192.0.2.11",
            expect![[r#"
            world (entity) → node/n1 (the node itself and what runs in its network)

            all traffic: allowed
        "#]],
        ),
        (
            "world 198.51.100.7",
            expect![[r#"
                Error: neither world nor 198.51.100.7 is an endpoint: policy has no say in what they send each other; accepted: a pod as NAMESPACE/NAME, an address, a range as 192.0.2.0/24, a node as node/NAME, labels as app=web,io.kubernetes.pod.namespace=shop, or one of world, host, remote-node, kube-apiserver, health, init, ingress, unmanaged; as DST a name outside as www.example.org, too
            "#]],
        ),
    ] {
        check_why(&world, words, &expected);
    }
}

const NAMES: &str = r#"apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names}
spec:
  endpointSelector: {matchLabels: {class: tiefighter}}
  egress:
  - toEndpoints: [{matchLabels: {k8s-app: kube-dns}}]
    toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchName: a.org}, {matchPattern: "*.empire.org"}]}}]
  - toFQDNs: [{matchName: dock.empire.org}, {matchName: base.rebels.org}]
    toPorts: [{ports: [{port: "443"}]}]
  - toCIDR: [203.0.113.0/24]
    toPorts: [{ports: [{port: "80"}]}]
"#;

#[test]
fn why_knows_names() {
    let mut world = world();
    world.l7 = true;
    manifest::apply(&documents(NAMES), &mut world).unwrap();
    world.names = Some(Ok(Vec::new()));
    check_why(
        &world,
        "tiefighter dock.empire.org. 443/TCP",
        &expect![[r#"
            default/tiefighter (pod on n1, 10.7.1.13) → dock.empire.org. (a name outside the cluster)

            443/TCP: allowed
              egress of default/tiefighter: allowed by
                CiliumNetworkPolicy default/names: spec.egress[1] (rule.yaml:9)
                  | toFQDNs:
                  | - matchName: dock.empire.org
                  | - matchName: base.rebels.org
                  | toPorts:
                  | - ports:
                  |   - port: "443"

            Note: default/tiefighter may look up dock.empire.org. by CiliumNetworkPolicy default/names: spec.egress[0].toPorts[0].rules.dns[1]

            Note: n1 knows no address of dock.empire.org.: rules by name let connections in once it was looked up by way of the proxy
        "#]],
    );
    check_why(
        &world,
        "tiefighter base.rebels.org 443/TCP",
        &expect![[r#"
        default/tiefighter (pod on n1, 10.7.1.13) → base.rebels.org (a name outside the cluster)

        443/TCP: denied
          egress of default/tiefighter: denied: no rule allows it
            CiliumNetworkPolicy default/names: spec.egress[1] (rule.yaml:9) allows this port, but not this peer
              | toFQDNs:
              | - matchName: dock.empire.org
              | - matchName: base.rebels.org
              | toPorts:
              | - ports:
              |   - port: "443"
            needed: an entry of egress in a policy that selects k8s:class=tiefighter,k8s:io.kubernetes.pod.namespace=default,k8s:org=empire, to toFQDNs matchName base.rebels.org, toPorts 443/TCP

        Note: no DNS rule lets default/tiefighter look up base.rebels.org by way of the proxy, so that its addresses are not learned from it; needed: an entry of egress towards the DNS server, toPorts 53/ANY, with rules.dns matchName base.rebels.org

        Note: n1 knows no address of base.rebels.org: rules by name let connections in once it was looked up by way of the proxy
    "#]],
    );
    world.names = Some(Err("no agent runs there".to_owned()));
    let asked = ask(&world, "tiefighter dock.empire.org 443/TCP");
    assert!(
        asked.contains("could not be asked (no agent runs there)"),
        "{asked}"
    );
    // One of two addresses is in a range that rules name; the third is a pod's.
    let lookup = |ip: &str, source: &str| api::FqdnLookup {
        fqdn: "dock.empire.org.".to_owned(),
        ips: vec![ip.parse().unwrap()],
        lookup_time: "2030-01-02T03:04:05Z".to_owned(),
        ttl: 60,
        expiration_time: "2030-01-02T03:05:05Z".to_owned(),
        endpoint_id: 7,
        source: source.to_owned(),
    };
    world.names = Some(Ok(vec![
        lookup("203.0.113.9", "lookup"),
        lookup("2001:db8::9", "connection"),
        lookup("10.7.2.13", "lookup"),
    ]));
    check_why(
        &world,
        "tiefighter dock.empire.org 80/TCP",
        &expect![[r#"
        default/tiefighter (pod on n1, 10.7.1.13) → dock.empire.org (a name outside the cluster)

        80/TCP to default/xwing: denied
          egress of default/tiefighter: denied: no rule allows it
            CiliumNetworkPolicy default/names: spec.egress[2] (rule.yaml:11) allows this port, but not this peer
              | toCIDR:
              | - 203.0.113.0/24
              | toPorts:
              | - ports:
              |   - port: "80"
            needed: an entry of egress in a policy that selects k8s:class=tiefighter,k8s:io.kubernetes.pod.namespace=default,k8s:org=empire, to toEndpoints k8s:class=xwing,k8s:io.kubernetes.pod.namespace=default,k8s:org=alliance, toPorts 80/TCP
          ingress of dock.empire.org: allowed: no policy denies it or asks for more

        80/TCP to 203.0.113.9: allowed
          egress of default/tiefighter: allowed by
            CiliumNetworkPolicy default/names: spec.egress[2] (rule.yaml:11)
              | toCIDR:
              | - 203.0.113.0/24
              | toPorts:
              | - ports:
              |   - port: "80"

        80/TCP to 2001:db8::9: denied
          egress of default/tiefighter: denied: no rule allows it
            CiliumNetworkPolicy default/names: spec.egress[1] (rule.yaml:9) allows this peer, but not this port
              | toFQDNs:
              | - matchName: dock.empire.org
              | - matchName: base.rebels.org
              | toPorts:
              | - ports:
              |   - port: "443"
            CiliumNetworkPolicy default/names: spec.egress[2] (rule.yaml:11) allows this port, but not this peer
              | toCIDR:
              | - 203.0.113.0/24
              | toPorts:
              | - ports:
              |   - port: "80"
            needed: an entry of egress in a policy that selects k8s:class=tiefighter,k8s:io.kubernetes.pod.namespace=default,k8s:org=empire, to toCIDR 2001:db8::9 or toFQDNs matchName dock.empire.org, toPorts 80/TCP

        Note: default/tiefighter may look up dock.empire.org by CiliumNetworkPolicy default/names: spec.egress[0].toPorts[0].rules.dns[1]

        Note: n1 knows dock.empire.org as 10.7.2.13 (until 2030-01-02T03:05:05Z), 203.0.113.9 (until 2030-01-02T03:05:05Z), 2001:db8::9 (while there are connections)

        Note: 10.7.2.13 is default/xwing: rules by name say nothing of it
    "#]],
    );
    world.names = Some(Ok(Vec::new()));
    let nobody = ask(&world, "xwing dock.empire.org 80/TCP");
    assert!(
        nobody.contains("80/TCP: allowed") && !nobody.contains("Note"),
        "{nobody}"
    );
    assert!(
        ask(&world, "dock.empire.org xwing")
            .starts_with("Error: SRC: dock.empire.org is no endpoint")
    );
}

fn check_text(world: Option<&World>, text: &str) -> String {
    check::text(&check::check(&documents(text), world).unwrap())
}

#[test]
fn check_says_whom_a_policy_selects_and_what_it_closes() {
    expect![[r#"
        rule.yaml:2: CiliumNetworkPolicy default/rule1: valid
          selects 2: default/deathstar-1, default/deathstar-2
          denies what no rule allows: ingress, which is new for 2: default/deathstar-1, default/deathstar-2
          opens 0 and closes 18 pairs (`hypha policy diff` lists them)
    "#]].assert_eq(&check_text(Some(&world()), RULE));
    let nobody = RULE.replace("class: deathstar", "class: falcon").replace(
        "        org: empire\n    toPorts",
        "        org: hutts\n    toPorts",
    );
    expect![[r#"
        rule.yaml:2: CiliumNetworkPolicy default/rule1: valid
          opens 0 and closes 0 pairs (`hypha policy diff` lists them)
          Warning: selects nobody that exists now
          Warning: spec.ingress[0]: matches no peer that exists now
    "#]]
    .assert_eq(&check_text(Some(&world()), &nobody));
}

#[test]
fn check_points_at_what_is_wrong() {
    let wrong = RULE.replace("\"80\"", "\"eighty five\"");
    let twice = format!(
        "{RULE}---\n{wrong}---\nkind: Pod\n---\n{}",
        RULE.replace("ingress:", "ingres:")
    );
    expect![[r#"
        rule.yaml:2: CiliumNetworkPolicy default/rule1: valid
        rule.yaml:36: CiliumNetworkPolicy default/rule1: spec.ingress[0].toPorts[0].ports[0].port: "eighty five" is neither a port number nor a name; accepted: a number from 0 to 65535, or a name of at most 15 letters, digits and single hyphens with at least one letter
        rule.yaml:45: CiliumNetworkPolicy default/rule1: spec: unknown field "ingres"; accepted: endpointSelector, nodeSelector, ingress, ingressDeny, egress, egressDeny, enableDefaultDeny, labels, description
    "#]].assert_eq(&check_text(None, &twice));
}

#[test]
fn diff_lists_the_pairs() {
    let before = with(RULE);
    let mut after = before.clone();
    let wider = RULE
        .replace("\"80\"", "\"443\"")
        .replace(
            "        org: empire\n    toPorts",
            "        {}\n    toPorts",
        )
        .replace("    - matchLabels:\n        {}", "    - {}");
    manifest::apply(&documents(&wider), &mut after).unwrap();
    let text = diff::text(&diff::report(&before, &after));
    expect![[r#"
        - default/deathstar-1, default/deathstar-2, default/tiefighter              → default/deathstar-1, default/deathstar-2   80/TCP
        + default/deathstar-1, default/deathstar-2, default/tiefighter and 1 more   → default/deathstar-1, default/deathstar-2   443/TCP

        8 pairs opened, 6 closed (+ passes afterwards, - no longer passes; a pair counts each direction)
    "#]].assert_eq(&text);
    let none = diff::text(&diff::report(&before, &before));
    expect![[r#"
        No pair of endpoints changes its verdict
    "#]]
    .assert_eq(&none);
}
