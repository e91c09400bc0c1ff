//! Policies as people write them, and what must come of them: not random, and told from the semantics by hand.
use crate::world::{Ask, Remote, World, policy};
use hypha_policy::kernel::{Match, Question};
use hypha_policy::reference::{Decision, Packet};
use hypha_policy::resolve::{Change, Enforcement};
use hypha_policy::rule::Direction::{self, Egress, Ingress};
use hypha_policy::{Mode, Settings};
use serde_json::{Value, json};

// Identities of `world::members`.
pub const A_WEB: u32 = 1000;
pub const A_WEB_X: u32 = 1001;
pub const A_DB: u32 = 1002;
pub const B_WEB: u32 = 1004;
const HOST: u32 = 1;
const HEALTH: u32 = 4;
const INIT: u32 = 5;
pub const REMOTE_NODE: u32 = 6;
const OTHER_CLUSTER: u32 = 70_000;

pub const WEB: Packet = Packet {
    protocol: 6,
    port: 80,
};
pub const DNS: Packet = Packet {
    protocol: 17,
    port: 53,
};
const PING: Packet = Packet {
    protocol: 1,
    port: 8,
};

pub struct Case {
    world: World,
}

impl Case {
    fn with(settings: Settings, objects: &[Value]) -> Self {
        let mut world = World::new(settings, true);
        world.apply(
            objects
                .iter()
                .map(|object| Change::Policy(policy(object)))
                .collect(),
        );
        Self { world }
    }

    pub fn of(objects: &[Value]) -> Self {
        Self::with(Settings::default(), objects)
    }

    pub fn ask(&self, direction: Direction, subject: u32, remote: Remote, packet: Packet) -> bool {
        let ask = Ask {
            subject,
            direction,
            remote,
            packet,
        };
        match self.world.compare(&ask) {
            Ok(decision) => decision.passes(),
            Err(difference) => panic!("{difference}"),
        }
    }

    pub fn from(&self, subject: u32, remote: u32, packet: Packet) -> bool {
        self.ask(Ingress, subject, Remote::Member(remote), packet)
    }

    pub fn to(&self, subject: u32, remote: u32, packet: Packet) -> bool {
        self.ask(Egress, subject, Remote::Member(remote), packet)
    }

    fn to_address(&self, subject: u32, address: &str, packet: Packet) -> bool {
        self.ask(
            Egress,
            subject,
            Remote::Address(address.parse().unwrap()),
            packet,
        )
    }
}

pub fn named(kind: &str, name: &str, namespace: Option<&str>, spec: Value) -> Value {
    let version = match kind {
        "NetworkPolicy" => "networking.k8s.io/v1",
        kind if kind.contains("Admin") => "policy.networking.k8s.io/v1alpha1",
        _ => "cilium.io/v2",
    };
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
}

pub fn cnp(name: &str, spec: Value) -> Value {
    named("CiliumNetworkPolicy", name, Some("a"), spec)
}

fn ccnp(name: &str, spec: Value) -> Value {
    named("CiliumClusterwideNetworkPolicy", name, None, spec)
}

pub fn port(port: &str, protocol: &str) -> Value {
    json!([{"ports": [{"port": port, "protocol": protocol}]}])
}

#[test]
fn the_first_rule_closes_its_direction_and_no_other() {
    let open = Case::of(&[]);
    assert!(open.from(A_WEB, B_WEB, WEB) && open.to(A_WEB, B_WEB, WEB));
    let case = Case::of(&[cnp(
        "deny-all",
        json!({"endpointSelector": {}, "ingress": [{}]}),
    )]);
    assert!(!case.from(A_WEB, A_DB, WEB));
    assert!(case.to(A_WEB, A_DB, WEB));
    assert!(case.from(B_WEB, A_WEB, WEB), "another namespace");
    let enforcement = case.world.engine.enforcement(A_WEB).unwrap();
    assert_eq!(enforcement, [Enforcement::DefaultDeny, Enforcement::Off]);
    assert_eq!(
        enforcement.map(|side| side.text(false)),
        ["Enabled", "Disabled"]
    );
    assert_eq!(enforcement[0].text(true), "Disabled (Audit)");
    let name = case.world.known.policies.keys().next().unwrap();
    let selected: Vec<u32> = case.world.engine.selected(name).into_iter().collect();
    assert_eq!(selected, [A_WEB, A_WEB_X, A_DB, 1003]);
}

#[test]
fn modes_and_localhost() {
    let mode = |mode, allow_localhost| Settings {
        mode,
        allow_localhost,
        ..Settings::default()
    };
    let deny = cnp(
        "d",
        json!({"endpointSelector": {}, "ingress": [{}], "ingressDeny": [{"fromEntities": ["all"]}]}),
    );
    let always = Case::with(mode(Mode::Always, true), &[]);
    assert!(!always.from(A_WEB, A_DB, WEB) && !always.to(A_WEB, A_DB, WEB));
    assert!(always.from(A_WEB, HOST, WEB), "probes");
    assert!(
        always.from(HEALTH, REMOTE_NODE, WEB),
        "the health endpoint has no rules of its own"
    );
    let never = Case::with(mode(Mode::Never, false), std::slice::from_ref(&deny));
    assert!(never.from(A_WEB, A_DB, WEB));
    let default = Case::with(mode(Mode::Default, true), std::slice::from_ref(&deny));
    assert!(default.from(A_WEB, HOST, WEB) && !default.from(A_WEB, A_DB, WEB));
    let strict = Case::with(mode(Mode::Default, false), &[deny]);
    assert!(!strict.from(A_WEB, HOST, WEB));
}

#[test]
fn endpoints_without_identity_are_closed_until_a_rule_names_them() {
    assert!(!Case::of(&[]).to(INIT, A_DB, DNS));
    let object = ccnp(
        "init",
        json!({"endpointSelector": {"matchLabels": {"reserved:init": ""}}, "egress": [{"toPorts": port("53", "UDP")}]}),
    );
    let case = Case::of(&[object]);
    assert!(case.to(INIT, A_DB, DNS) && !case.to(INIT, A_DB, WEB));
}

#[test]
fn peers_are_of_the_own_namespace_unless_named() {
    let from = |selector: Value| {
        Case::of(&[cnp(
            "p",
            json!({"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"fromEndpoints": [selector]}]}),
        )])
    };
    let case = from(json!({}));
    assert!(
        case.from(A_WEB, A_DB, WEB)
            && !case.from(A_WEB, B_WEB, WEB)
            && !case.from(A_WEB, REMOTE_NODE, WEB)
    );
    assert!(case.from(A_WEB, A_DB, PING), "all protocols");
    assert!(case.from(A_WEB, OTHER_CLUSTER, WEB), "pods of all clusters");
    let case = from(json!({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "b", "app": "web"}}));
    assert!(case.from(A_WEB, B_WEB, WEB) && !case.from(A_WEB, A_DB, WEB));
    let case = from(json!({"matchLabels": {"io.cilium.k8s.policy.cluster": "default"}}));
    assert!(case.from(A_WEB, A_DB, WEB) && !case.from(A_WEB, OTHER_CLUSTER, WEB));
}

#[test]
fn ports_without_peers_hold_for_anybody_and_leave_out_icmp() {
    let object = cnp(
        "p",
        json!({"endpointSelector": {}, "ingress": [{"toPorts": port("80", "ANY")}]}),
    );
    let case = Case::of(&[object]);
    for remote in [A_DB, B_WEB, REMOTE_NODE, 2] {
        assert!(case.from(A_WEB, remote, WEB));
        assert!(case.from(
            A_WEB,
            remote,
            Packet {
                protocol: 132,
                port: 80
            }
        ));
        assert!(!case.from(A_WEB, remote, PING) && !case.from(A_WEB, remote, DNS));
    }
    let question = Question {
        subject: A_WEB,
        direction: Ingress,
        remote: A_DB,
        protocol: 6,
        port: Some(80),
    };
    assert_eq!(case.world.map.ask(&question).matched, Match::L4Only);
    let fragment = Question {
        port: None,
        ..question
    };
    assert_eq!(
        case.world.map.ask(&fragment).matched,
        Match::None,
        "only rows without ports match fragments"
    );
}

#[test]
fn deny_beats_allow_whichever_is_more_exact() {
    let allow = json!({"endpointSelector": {}, "egress": [{"toEndpoints": [{"matchLabels": {"app": "db"}}], "toPorts": port("80", "TCP")}, {"toEntities": ["world"]}]});
    let broad = Case::of(&[
        cnp("allow", allow.clone()),
        ccnp(
            "deny",
            json!({"endpointSelector": {}, "egressDeny": [{"toPorts": [{"ports": [{"port": "1", "endPort": 1024, "protocol": "TCP"}]}]}]}),
        ),
    ]);
    assert!(!broad.to(A_WEB, A_DB, WEB));
    assert!(broad.to_address(
        A_WEB,
        "8.8.8.8",
        Packet {
            protocol: 6,
            port: 1025
        }
    ));
    let narrow = Case::of(&[
        cnp("allow", allow),
        cnp(
            "deny",
            json!({"endpointSelector": {}, "egressDeny": [{"toCIDR": ["8.8.8.8"], "toPorts": port("53", "UDP")}]}),
        ),
    ]);
    assert!(!narrow.to_address(A_WEB, "8.8.8.8", DNS));
    assert!(narrow.to_address(A_WEB, "8.8.8.8", WEB) && narrow.to_address(A_WEB, "10.0.0.1", DNS));
}

#[test]
fn without_default_deny_only_what_is_denied_is_closed() {
    let object = cnp(
        "p",
        json!({"endpointSelector": {}, "enableDefaultDeny": {"egress": false}, "egressDeny": [{"toEntities": ["world"]}]}),
    );
    let case = Case::of(std::slice::from_ref(&object));
    assert!(!case.to_address(A_WEB, "8.8.8.8", WEB) && case.to(A_WEB, A_DB, WEB));
    assert_eq!(
        case.world.engine.enforcement(A_WEB).unwrap()[1],
        Enforcement::Rules
    );
    let strict = cnp(
        "q",
        json!({"endpointSelector": {}, "egress": [{"toPorts": port("53", "UDP")}]}),
    );
    let case = Case::of(&[object, strict]);
    assert!(!case.to(A_WEB, A_DB, WEB) && case.to(A_WEB, A_DB, DNS));
}

#[test]
fn ranges_match_what_is_outside_alone_and_except_subtracts() {
    let object = cnp(
        "p",
        json!({"endpointSelector": {}, "egress": [{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}, {"toCIDR": ["10.1.2.3", "::/0"]}]}),
    );
    let case = Case::of(&[object]);
    assert!(case.to_address(A_WEB, "10.0.0.1", WEB) && case.to_address(A_WEB, "10.200.0.1", WEB));
    assert!(!case.to_address(A_WEB, "10.1.0.1", WEB) && case.to_address(A_WEB, "10.1.2.3", WEB));
    assert!(!case.to_address(A_WEB, "8.8.8.8", WEB) && case.to_address(A_WEB, "2001:db8::1", WEB));
    assert!(
        !case.to(A_WEB, A_DB, WEB) && !case.to(A_WEB, REMOTE_NODE, WEB),
        "pods and nodes have no range"
    );
}

#[test]
fn named_ports_are_those_of_the_receiver() {
    // 1002 calls 80/TCP http, 1000 calls 8080/TCP and 8081/UDP so, 1001 nothing.
    let ingress = Case::of(&[cnp(
        "p",
        json!({"endpointSelector": {}, "ingress": [{"toPorts": port("http", "TCP")}]}),
    )]);
    assert!(ingress.from(A_DB, B_WEB, WEB));
    assert!(
        !ingress.from(A_WEB, B_WEB, WEB)
            && ingress.from(
                A_WEB,
                B_WEB,
                Packet {
                    protocol: 6,
                    port: 8080
                }
            )
    );
    assert!(!ingress.from(A_WEB_X, B_WEB, WEB));
    let egress = Case::of(&[cnp(
        "p",
        json!({"endpointSelector": {}, "egress": [{"toPorts": port("http", "ANY")}]}),
    )]);
    assert!(egress.to(A_WEB_X, A_DB, WEB) && !egress.to(A_WEB_X, A_WEB, WEB));
    assert!(egress.to(
        A_WEB_X,
        A_WEB,
        Packet {
            protocol: 17,
            port: 8081
        }
    ));
    assert!(!egress.to_address(A_WEB_X, "8.8.8.8", WEB));
}

#[test]
fn icmp_by_type() {
    let object = cnp(
        "p",
        json!({"endpointSelector": {}, "ingress": [{"icmps": [{"fields": [{"type": "EchoRequest"}, {"family": "IPv6", "type": 128}]}]}]}),
    );
    let case = Case::of(&[object]);
    assert!(
        case.from(A_WEB, A_DB, PING)
            && !case.from(
                A_WEB,
                A_DB,
                Packet {
                    protocol: 1,
                    port: 0
                }
            )
    );
    assert!(case.from(
        A_WEB,
        A_DB,
        Packet {
            protocol: 58,
            port: 128
        }
    ));
    assert!(!case.from(
        A_WEB,
        A_DB,
        Packet {
            protocol: 58,
            port: 8
        }
    ));
}

#[test]
fn a_host_policy_is_about_the_host_alone() {
    let object = ccnp(
        "host",
        json!({"nodeSelector": {"matchLabels": {"zone": "z1"}}, "ingress": [{"fromEntities": ["remote-node"], "toPorts": port("10250", "TCP")}]}),
    );
    let case = Case::of(&[object]);
    let kubelet = Packet {
        protocol: 6,
        port: 10250,
    };
    assert!(
        case.from(HOST, REMOTE_NODE, kubelet)
            && !case.from(HOST, REMOTE_NODE, WEB)
            && !case.from(HOST, A_WEB, kubelet)
    );
    assert!(case.from(A_WEB, A_DB, WEB));
    let everybody = Case::of(&[ccnp(
        "all",
        json!({"endpointSelector": {}, "ingress": [{}]}),
    )]);
    assert!(everybody.from(HOST, A_WEB, WEB) && !everybody.from(A_WEB, A_DB, WEB));
    let elsewhere = ccnp(
        "host",
        json!({"nodeSelector": {"matchLabels": {"zone": "z9"}}, "ingress": [{}]}),
    );
    assert!(Case::of(&[elsewhere]).from(HOST, A_WEB, WEB));
}

#[test]
fn nodes_by_their_labels() {
    let object = cnp(
        "p",
        json!({"endpointSelector": {}, "egress": [{"toNodes": [{"matchLabels": {"zone": "z1"}}]}]}),
    );
    let case = Case::of(&[object]);
    assert!(case.to(A_WEB, 0x0200_0000, WEB) && case.to(A_WEB, HOST, WEB));
    assert!(
        !case.to(A_WEB, 0x0200_0001, WEB)
            && !case.to(A_WEB, REMOTE_NODE, WEB)
            && !case.to(A_WEB, A_DB, WEB)
    );
}

#[test]
fn admin_tiers_come_before_and_after() {
    let admin = |priority: u32, ingress: Value| {
        named(
            "AdminNetworkPolicy",
            &format!("p{priority}"),
            None,
            json!({"priority": priority, "subject": {"namespaces": {}}, "ingress": ingress}),
        )
    };
    let everybody = json!([{"namespaces": {}}]);
    let team = json!([{"namespaces": {"matchLabels": {"team": "blue"}}}]);
    let baseline = named(
        "BaselineAdminNetworkPolicy",
        "default",
        None,
        json!({"subject": {"namespaces": {}}, "ingress": [{"action": "Deny", "from": everybody}]}),
    );
    let case = Case::of(std::slice::from_ref(&baseline));
    assert!(!case.from(A_WEB, A_DB, WEB) && case.from(A_WEB, REMOTE_NODE, WEB));
    let own = cnp(
        "own",
        json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [{}]}]}),
    );
    let case = Case::of(&[baseline.clone(), own.clone()]);
    assert!(
        case.from(A_WEB, A_DB, WEB),
        "the baseline is not asked where policies are"
    );
    assert!(!case.from(A_WEB, B_WEB, WEB));
    let deny = admin(10, json!([{"action": "Deny", "from": everybody}]));
    let case = Case::of(&[deny.clone(), own.clone()]);
    assert!(!case.from(A_WEB, A_DB, WEB), "before policies");
    let allow = admin(
        5,
        json!([{"action": "Allow", "from": team, "ports": [{"portNumber": {"protocol": "TCP", "port": 80}}]}]),
    );
    let case = Case::of(&[deny.clone(), own.clone(), allow]);
    assert!(case.from(A_WEB, B_WEB, WEB) && !case.from(A_WEB, B_WEB, DNS));
    let pass = admin(5, json!([{"action": "Pass", "from": everybody}]));
    let case = Case::of(&[deny, own, pass, baseline]);
    assert!(case.from(A_WEB, A_DB, WEB) && !case.from(A_WEB, B_WEB, WEB));
    assert!(
        !case.from(B_WEB, A_WEB, WEB),
        "passed on to the baseline, where no policy is"
    );
}

#[test]
fn kubernetes_and_cilium_policies_add_up() {
    let kubernetes = named(
        "NetworkPolicy",
        "np",
        Some("a"),
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "db"}}}]}]}),
    );
    let more = cnp(
        "more",
        json!({"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"fromEntities": ["cluster"], "toPorts": port("80", "TCP")}]}),
    );
    let case = Case::of(&[kubernetes.clone(), more]);
    assert!(
        case.from(A_WEB, A_DB, DNS)
            && case.from(A_WEB, B_WEB, WEB)
            && !case.from(A_WEB, B_WEB, DNS)
    );
    assert!(!case.from(A_WEB, OTHER_CLUSTER, WEB), "the local cluster");
    let deny = cnp(
        "deny",
        json!({"endpointSelector": {}, "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"app": "db"}}]}]}),
    );
    assert!(!Case::of(&[kubernetes, deny]).from(A_WEB, A_DB, WEB));
}

#[test]
fn who_decided_is_known() {
    let object = cnp(
        "p",
        json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["host"]}, {"fromEndpoints": [{}], "toPorts": port("80", "TCP")}]}),
    );
    let case = Case::of(&[object]);
    let ask = Ask {
        subject: A_WEB,
        direction: Ingress,
        remote: Remote::Member(A_DB),
        packet: WEB,
    };
    let Ok(Decision::Allowed(rules)) = case.world.compare(&ask) else {
        panic!("not allowed by a rule")
    };
    assert_eq!(
        rules[0].to_string(),
        "CiliumNetworkPolicy a/p: spec.ingress[1]"
    );
}
