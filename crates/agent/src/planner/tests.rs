use super::*;
use crate::{
    kube::identity::{Identities, Labeller},
    plan::routing_plan,
};
use abi::identity::{HOST, REMOTE_NODE, WORLD_IPV4};
use model::{
    Attachment, ClusterIdentity, Device, EndpointState, IdentityKind, KUBERNETES, Labels, Mac,
    Namespace, Pod, PodRef, RESTORE,
};
use proptest::prelude::*;
use runtime::{
    health::Health,
    settings::{RoutingMode, Settings},
};
use std::time::Duration;

fn node(n: u8) -> Node {
    Node {
        name: format!("node{n}"),
        addresses: vec![format!("192.168.10.{n}").parse().unwrap()],
        pod_cidrs: vec![format!("10.244.{n}.0/24").parse().unwrap()],
        ..Node::default()
    }
}

fn pod(name: &str, node: u8, ip: &str) -> Pod {
    Pod {
        node: format!("node{node}").into(),
        labels: [("app".to_owned(), "cart".to_owned())].into(),
        addresses: [ip.parse().unwrap()].into(),
        ..Pod::named("shop", name)
    }
}

/// A pod as the agent of its node publishes it.
fn remote(name: &str, node: u8, ip: &str, identity: u32) -> RemoteEndpoint {
    RemoteEndpoint {
        key: format!("shop/{name}").into(),
        addresses: [ip.parse().unwrap()].into(),
        identity,
        node: Some(format!("192.168.10.{node}").parse().unwrap()),
        ..RemoteEndpoint::default()
    }
}

fn number(id: u32) -> Identity {
    Identity {
        id,
        labels: [format!("k8s:n={id}")].into_iter().collect(),
        kind: IdentityKind::Cluster,
    }
}

fn endpoint(id: u16, pod: &str, ip: &str) -> Endpoint {
    Endpoint {
        id,
        state: EndpointState::WaitingForIdentity,
        attachment: Attachment {
            container: format!("c{id}"),
            interface: "eth0".to_owned(),
        },
        pod: PodRef {
            namespace: "shop".to_owned(),
            name: pod.to_owned(),
            uid: String::new(),
        },
        labels: Labels::default(),
        identity: abi::identity::INIT,
        ipv4: Some(ip.parse().unwrap()),
        ipv6: None,
        ifname: format!("lxc{id}"),
        ifindex: u32::from(id),
        host_mac: Mac::default(),
        container_mac: Mac::default(),
        netns: String::new(),
        device: Default::default(),
        ports: Vec::new(),
        subject: 0,
        flags: 0,
        policy_audit: None,
        enforcing: [false; 2],
    }
}

fn local() -> LocalNode {
    LocalNode {
        node: node(1),
        router4: Some("10.244.1.1".parse().unwrap()),
        addresses: vec!["192.168.10.1".parse().unwrap()],
        ..LocalNode::default()
    }
}

fn filled() -> Tables {
    let tables = Tables::new().unwrap();
    let mut txn = tables.db.write();
    tables.local_node.insert(&mut txn, local()).unwrap();
    for n in [1, 2] {
        tables.nodes.insert(&mut txn, node(n)).unwrap();
    }
    let mine = pod("mine", 1, "10.244.1.5");
    tables.pods.insert(&mut txn, mine).unwrap();
    let namespace = Namespace {
        name: "shop".to_owned(),
        ..Namespace::default()
    };
    tables.namespaces.insert(&mut txn, namespace).unwrap();
    let theirs = remote("theirs", 2, "10.244.2.5", 300);
    tables.cilium_endpoints.insert(&mut txn, theirs).unwrap();
    tables.identities.insert(&mut txn, number(300)).unwrap();
    tables
        .endpoints
        .insert(&mut txn, endpoint(7, "mine", "10.244.1.5"))
        .unwrap();
    txn.commit();
    tables
}

fn finish_kubernetes(tables: &Tables) {
    let mut txn = tables.db.write();
    tables.nodes.finish_initializer(&mut txn, KUBERNETES);
    tables
        .cilium_endpoints
        .finish_initializer(&mut txn, KUBERNETES);
    tables.identities.finish_initializer(&mut txn, KUBERNETES);
    txn.commit();
}

fn finish_restore(tables: &Tables) {
    let mut txn = tables.db.write();
    tables.endpoints.finish_initializer(&mut txn, RESTORE);
    txn.commit();
}

fn only_ipv4() -> Plan {
    routing_plan(&Settings {
        enable_ipv6: false,
        ..Settings::default()
    })
}

fn plan_of(tables: &Tables) -> Desired {
    desired(tables, &tables.db.snapshot(), &only_ipv4()).unwrap()
}

fn identity(desired: &Desired, prefix: &str) -> Option<u32> {
    desired
        .prefixes
        .iter()
        .find(|row| row.prefix == prefix.parse().unwrap())
        .map(|row| row.identity)
}

#[test]
fn rows_have_the_identities_that_agents_publish() {
    let tables = filled();
    finish_kubernetes(&tables);
    finish_restore(&tables);
    let plan = plan_of(&tables);
    assert_eq!(identity(&plan, "10.244.2.5/32"), Some(300));
    assert_eq!(
        identity(&plan, "10.244.1.5/32"),
        Some(abi::identity::INIT),
        "until the endpoint has its labels"
    );
    assert_eq!(identity(&plan, "192.168.10.1/32"), Some(HOST));
    assert_eq!(identity(&plan, "192.168.10.2/32"), Some(REMOTE_NODE));
    assert_ne!(
        identity(&plan, "0.0.0.0/0"),
        Some(WORLD_IPV4),
        "one family has one world"
    );
    let mut txn = tables.db.write();
    tables.identities.delete(&mut txn, &300);
    txn.commit();
    assert_eq!(
        identity(&plan_of(&tables), "10.244.2.5/32"),
        None,
        "of which nothing is known: it lies in the range of its node's pods"
    );
}

fn identities(tables: &Tables) -> Identities {
    Identities::new(tables, Labeller::default(), Duration::from_secs(3600))
}

fn relabelled(tables: &Tables, identities: &Identities) -> (Endpoint, bool) {
    let snapshot = tables.db.snapshot();
    let mut found = crate::endpoint::relabel(tables, &snapshot, identities, &[7].into());
    assert_eq!(found.rows.len(), 1);
    (found.rows.remove(0), found.open.contains(&7))
}

#[test]
fn an_endpoint_gets_the_number_of_its_labels_when_there_is_one() {
    let tables = filled();
    let identities = identities(&tables);
    let (waiting, open) = relabelled(&tables, &identities);
    assert!(open, "the labels have no number yet");
    assert_eq!(
        (waiting.state, waiting.identity),
        (EndpointState::WaitingForIdentity, abi::identity::INIT)
    );
    let snapshot = tables.db.snapshot();
    let labels = identities.labels(&snapshot, tables.pods.get(&snapshot, "shop/mine").unwrap());
    let put = |ids: &[u32]| {
        let mut txn = tables.db.write();
        for id in ids {
            let (id, labels) = (*id, labels.clone());
            let kind = IdentityKind::Cluster;
            tables
                .identities
                .insert(
                    &mut txn,
                    Identity {
                        id,
                        labels: labels.clone(),
                        kind,
                    },
                )
                .unwrap();
            tables
                .cilium_identities
                .insert(&mut txn, ClusterIdentity { id, labels })
                .unwrap();
        }
        txn.commit();
    };
    put(&[4000]);
    let (ready, open) = relabelled(&tables, &identities);
    assert!(!open);
    assert_eq!(
        (ready.state, ready.identity, &ready.labels),
        (EndpointState::Ready, 4000, &labels)
    );
    // A second number for the same labels, from an agent that did not know of the first, changes nothing.
    let mut txn = tables.db.write();
    tables.endpoints.insert(&mut txn, ready).unwrap();
    txn.commit();
    put(&[300]);
    assert_eq!(relabelled(&tables, &identities).0.identity, 4000);
    // The object is gone: the other one is what the other nodes know.
    let mut txn = tables.db.write();
    tables.cilium_identities.delete(&mut txn, &4000);
    txn.commit();
    assert_eq!(relabelled(&tables, &identities).0.identity, 300);
}

#[test]
fn half_of_the_cluster_changes_nothing() {
    let tables = filled();
    finish_restore(&tables);
    let plan = plan_of(&tables);
    assert_eq!(
        identity(&plan, "10.244.2.5/32"),
        None,
        "its node or namespace may be missing yet"
    );
    assert_eq!(identity(&plan, "192.168.10.2/32"), None);
    assert_eq!(
        identity(&plan, "192.168.10.1/32"),
        Some(HOST),
        "the own node is known"
    );
    assert!(
        identity(&plan, "10.244.1.5/32").is_some(),
        "and its pods are"
    );
    finish_kubernetes(&tables);
    assert!(identity(&plan_of(&tables), "10.244.2.5/32").is_some());
}

#[test]
fn the_first_complete_plan_ends_the_initialisers() {
    let tables = filled();
    let health = Health::default().component("plan");
    let mut planner = Planner::new(&tables, only_ipv4());
    let mut initialised = || {
        planner.step(&tables.db.snapshot(), &health);
        tables.prefixes.initialized(&tables.db.snapshot())
    };
    assert!(!initialised(), "Kubernetes has not been listed");
    finish_kubernetes(&tables);
    assert!(!initialised(), "endpoints have not been restored");
    finish_restore(&tables);
    assert!(initialised());
}

#[test]
fn a_change_writes_only_the_rows_that_it_concerns() {
    let tables = filled();
    finish_kubernetes(&tables);
    finish_restore(&tables);
    let health = Health::default().component("plan");
    let mut planner = Planner::new(&tables, only_ipv4());
    planner.step(&tables.db.snapshot(), &health);
    let mut written = tables.db.track(&tables.prefixes);
    let mut changes = || {
        planner.step(&tables.db.snapshot(), &health);
        let snapshot = tables.db.snapshot();
        let rows = written.changes(&snapshot);
        rows.map(|change| (change.kind, change.row.prefix.to_string()))
            .collect::<Vec<_>>()
    };
    changes();
    let put = |endpoint: RemoteEndpoint| {
        let mut txn = tables.db.write();
        tables.cilium_endpoints.insert(&mut txn, endpoint).unwrap();
        txn.commit();
    };
    put(remote("theirs", 2, "10.244.2.9", 300));
    assert_eq!(
        changes(),
        [
            (ChangeKind::Delete, "10.244.2.5/32".to_owned()),
            (ChangeKind::Upsert, "10.244.2.9/32".to_owned())
        ]
    );
    let web = model::NamedPort {
        name: "web".into(),
        protocol: 6,
        port: 80,
    };
    put(RemoteEndpoint {
        ports: [web].into(),
        ..remote("theirs", 2, "10.244.2.9", 300)
    });
    assert_eq!(changes(), [], "nothing that matters");
}

/// One change of the inputs, of a world small enough for addresses and ranges to meet.
#[derive(Clone, Debug)]
enum Op {
    Node(u8, u8, u8),
    NoNode(u8),
    Remote(u8, u8, u8, u8),
    NoRemote(u8),
    Identity(u8),
    NoIdentity(u8),
    Range(u8, u8),
    NoRange(u8),
    Endpoint(u8, u8),
    NoEndpoint(u8),
    Local(u8, u8),
    Listed,
    Restored,
}

fn op() -> impl Strategy<Value = Op> {
    let small = 0..4u8;
    prop_oneof![
        2 => (small.clone(), small.clone(), small.clone()).prop_map(|(n, a, r)| Op::Node(n, a, r)),
        1 => small.clone().prop_map(Op::NoNode),
        6 => (0..8u8, small.clone(), 0..6u8, 0..8u8).prop_map(|(p, n, ip, how)| Op::Remote(p, n, ip, how)),
        2 => (0..8u8).prop_map(Op::NoRemote),
        2 => small.clone().prop_map(Op::Identity),
        1 => small.clone().prop_map(Op::NoIdentity),
        2 => (0..8u8, small.clone()).prop_map(|(r, i)| Op::Range(r, i)),
        1 => (0..8u8).prop_map(Op::NoRange),
        2 => (small.clone(), 0..6u8).prop_map(|(e, ip)| Op::Endpoint(e, ip)),
        1 => small.clone().prop_map(Op::NoEndpoint),
        1 => (small.clone(), small).prop_map(|(a, r)| Op::Local(a, r)),
        1 => Just(Op::Listed),
        1 => Just(Op::Restored),
    ]
}

/// A range that rules name: a pod's, a node's, one of pods, one of others.
fn range(r: u8) -> IpNet {
    let text = match r {
        6 => "10.244.2.0/24".to_owned(),
        7 => "198.51.100.0/24".to_owned(),
        r => format!("{}/32", pod_address(r)),
    };
    text.parse().unwrap()
}

/// Addresses of pods, one of them a node's.
fn pod_address(ip: u8) -> String {
    match ip {
        5 => "192.168.10.2".to_owned(),
        ip => format!("10.244.{}.5", ip + 1),
    }
}

fn gone<T>(_: Option<T>) -> Result<(), UniqueViolation> {
    Ok(())
}

fn apply(tables: &Tables, txn: &mut tables::WriteTxn<'_>, op: &Op) {
    // A unique index may refuse an endpoint: then there is none.
    let _ = match op.clone() {
        Op::Node(n, a, r) => {
            let node = Node {
                addresses: (a < 3)
                    .then(|| format!("192.168.10.{}", a + 1).parse().unwrap())
                    .into_iter()
                    .collect(),
                external: vec![format!("203.0.113.{a}").parse().unwrap()],
                pod_cidrs: vec![format!("10.244.{}.0/24", r + 1).parse().unwrap()],
                ..node(n + 1)
            };
            tables.nodes.insert(txn, node).map(drop)
        }
        Op::NoNode(n) => gone(tables.nodes.delete(txn, format!("node{}", n + 1).as_str())),
        Op::Remote(p, n, ip, how) => {
            let mut row = remote(
                &format!("p{p}"),
                n + 1,
                &pod_address(ip),
                300 + u32::from(how % 4),
            );
            if how == 5 {
                row.addresses = [].into();
            }
            if how == 6 {
                row.node = None;
            }
            tables.cilium_endpoints.insert(txn, row).map(drop)
        }
        Op::NoRemote(p) => {
            let key = format!("shop/p{p}");
            gone(tables.cilium_endpoints.delete(txn, key.as_str()))
        }
        Op::Identity(i) => tables
            .identities
            .insert(txn, number(300 + u32::from(i)))
            .map(drop),
        Op::NoIdentity(i) => gone(tables.identities.delete(txn, &(300 + u32::from(i)))),
        Op::Range(r, i) => {
            let (prefix, identity) = (range(r), 0x0100_0001 + u32::from(i));
            tables
                .prefix_identities
                .insert(txn, PrefixIdentity { prefix, identity })
                .map(drop)
        }
        Op::NoRange(r) => gone(tables.prefix_identities.delete(txn, &range(r))),
        Op::Endpoint(e, ip) => {
            let endpoint = endpoint(u16::from(e) + 1, &format!("p{e}"), &pod_address(ip));
            tables.endpoints.insert(txn, endpoint).map(drop)
        }
        Op::NoEndpoint(e) => gone(tables.endpoints.delete(txn, &(u16::from(e) + 1))),
        Op::Local(a, r) => {
            let mut next = local();
            next.addresses
                .push(format!("192.168.10.{}", a + 1).parse().unwrap());
            next.node.pod_cidrs = vec![format!("10.244.{}.0/24", r + 1).parse().unwrap()];
            if a == 3 {
                next.devices = vec![Device {
                    name: "eth0".to_owned(),
                    mtu: 1400,
                    addresses: vec!["192.168.10.1/24".parse().unwrap()],
                    ..Device::default()
                }];
            }
            tables.local_node.insert(txn, next).map(drop)
        }
        Op::Listed => {
            for finish in [
                |t: &Tables, txn: &mut _| t.nodes.finish_initializer(txn, KUBERNETES),
                |t: &Tables, txn: &mut _| t.cilium_endpoints.finish_initializer(txn, KUBERNETES),
                |t: &Tables, txn: &mut _| t.identities.finish_initializer(txn, KUBERNETES),
            ] {
                finish(tables, txn);
            }
            Ok(())
        }
        Op::Restored => {
            tables.endpoints.finish_initializer(txn, RESTORE);
            Ok(())
        }
    };
}

fn plans() -> [Plan; 3] {
    let native = Settings {
        routing_mode: RoutingMode::Native,
        auto_direct_node_routes: true,
        enable_ipv6: false,
        ..Settings::default()
    };
    [
        only_ipv4(),
        routing_plan(&Settings::default()),
        routing_plan(&native),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens, and however many changes come together: the tables are what the whole plan says.
    #[test]
    fn steps_lead_to_the_whole_plan(
        which in 0..3usize,
        rounds in proptest::collection::vec(proptest::collection::vec(op(), 0..4), 1..30),
    ) {
        let plan = plans()[which].clone();
        let tables = filled();
        let health = Health::default().component("plan");
        let mut planner = Planner::new(&tables, plan.clone());
        for ops in rounds {
            let mut txn = tables.db.write();
            ops.iter().for_each(|op| apply(&tables, &mut txn, op));
            txn.commit();
            let snapshot = tables.db.snapshot();
            planner.step(&snapshot, &health);
            let whole = desired(&tables, &snapshot, &plan).unwrap();
            let now = tables.db.snapshot();
            let prefixes: Vec<Prefix> = tables.prefixes.iter(&now).map(|row| Prefix::clone(row)).collect();
            let routes: Vec<Route> = tables.routes.iter(&now).map(|row| Route::clone(row)).collect();
            prop_assert_eq!(prefixes, whole.prefixes, "after {:?}", &ops);
            prop_assert_eq!(routes, whole.routes, "after {:?}", &ops);
            prop_assert_eq!(planner.warnings(), &whole.warnings, "after {:?}", &ops);
            prop_assert_eq!(tables.prefixes.initialized(&now), whole.complete);
        }
    }
}
