//! Input tables to desired tables: computed anew from a snapshot whenever an input changed.
use crate::endpoint::{Manager, identity_of_pod};
use model::{Endpoint, LocalNode, Node, PLAN, Prefix, Tables};
use routing::{Plan, PodView, PrefixPlan, RoutePlan};
use runtime::{health::Component, settings::IpamMode, stop::Stop};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tables::Snapshot;

/// Pause after a computation, as a multiple of the time it took: at most a fifth of a CPU goes into planning.
const REST: u32 = 4;

/// Desired rows of one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Rows of `cilium_ipcache`.
    pub prefixes: Vec<Prefix>,
    /// Routes, and what could not be planned.
    pub routes: RoutePlan,
    /// The inputs were complete: what is not here should not be in the kernel.
    pub complete: bool,
}

/// What should be in the kernel according to `snapshot`; none before the local node is known.
///
/// Of the cluster nothing is planned before all of it was listed. Half of it would give wrong rows, and after a restart they would
/// take the place of right ones: a pod whose node is missing has no tunnel, one whose namespace is missing has another identity.
#[must_use]
pub fn desired(
    tables: &Tables,
    snapshot: &Snapshot,
    plan: &Plan,
    cluster: &str,
) -> Option<Desired> {
    let local = tables.local_node.iter(snapshot).next()?;
    let complete = complete(tables, snapshot);
    let nodes = tables.nodes.iter(snapshot).filter(|_| complete);
    let nodes: Vec<&Node> = nodes.map(AsRef::as_ref).collect();
    let by_name: BTreeMap<&str, &Node> = nodes
        .iter()
        .map(|node| (node.name.as_str(), *node))
        .collect();
    let remote = tables
        .pods
        .iter(snapshot)
        .filter(|pod| complete && pod.node != local.node.name);
    let views: Vec<PodView<'_>> = remote
        .map(|pod| PodView {
            pod,
            identity: identity_of_pod(tables, snapshot, cluster, pod).1,
        })
        .collect();
    let endpoints = tables
        .endpoints
        .iter(snapshot)
        .map(|row| -> &Endpoint { row });
    let mut prefixes = PrefixPlan::default();
    prefixes.add(routing::world_prefixes(plan));
    prefixes.add(routing::node_prefixes(plan, local, nodes.iter().copied()));
    prefixes.add(routing::pod_prefixes(
        plan,
        local,
        &by_name,
        views.into_iter(),
    ));
    prefixes.add(routing::endpoint_prefixes(endpoints));
    Some(Desired {
        prefixes: prefixes.into_rows().collect(),
        routes: routing::routes(plan, local, nodes.into_iter()),
        complete,
    })
}

fn complete(tables: &Tables, snapshot: &Snapshot) -> bool {
    tables.nodes.initialized(snapshot)
        && tables.pods.initialized(snapshot)
        && tables.namespaces.initialized(snapshot)
        && tables.endpoints.initialized(snapshot)
}

/// Keeps the desired tables in step with the inputs until `stop`.
pub async fn plan_loop(tables: Tables, plan: Plan, cluster: String, health: Component, stop: Stop) {
    let mut warned = BTreeSet::new();
    let watch = tables
        .nodes
        .watch()
        .and(tables.pods.watch())
        .and(tables.namespaces.watch())
        .and(tables.endpoints.watch())
        .and(tables.local_node.watch());
    loop {
        let started = Instant::now();
        let snapshot = tables.db.snapshot();
        let seen = revision(&snapshot);
        if let Some(desired) = desired(&tables, &snapshot, &plan, &cluster) {
            warn_once(&mut warned, &desired.routes.warnings);
            health.ok(format!(
                "{} prefixes, {} routes",
                desired.prefixes.len(),
                desired.routes.routes.len()
            ));
            publish(&tables, desired, &health);
        }
        let rest = (started.elapsed() * REST).max(Duration::from_millis(1));
        let next = async {
            tokio::time::sleep(rest).await;
            watch.changed(seen).await;
        };
        if stop.or(next).await.is_none() {
            return;
        }
    }
}

fn revision(snapshot: &Snapshot) -> tables::Revision {
    tables::Read::revision(snapshot)
}

/// Writes the desired rows; the initialisers end with the first complete plan.
pub fn publish(tables: &Tables, desired: Desired, health: &Component) {
    let mut txn = tables.db.write();
    let prefixes = tables.prefixes.replace_all(&mut txn, desired.prefixes);
    let routes = tables.routes.replace_all(&mut txn, desired.routes.routes);
    if let (Err(error), _) | (_, Err(error)) = (&prefixes, &routes) {
        return health.degraded(format!("the plan does not fit the tables: {error}"));
    }
    if desired.complete {
        tables.prefixes.finish_initializer(&mut txn, PLAN);
        tables.routes.finish_initializer(&mut txn, PLAN);
    }
    txn.commit();
}

fn warn_once(seen: &mut BTreeSet<String>, warnings: &[String]) {
    for warning in warnings {
        if seen.insert(warning.clone()) {
            tracing::warn!("{warning}");
        }
    }
    seen.retain(|warning| warnings.contains(warning));
}

/// Keeps the endpoints' identities in step with pods and namespaces until `stop`.
pub async fn identity_loop(tables: Tables, manager: Arc<Manager>, health: Component, stop: Stop) {
    health.ok("waiting for the API server's lists");
    let watch = tables
        .pods
        .watch()
        .and(tables.namespaces.watch())
        .and(tables.endpoints.watch());
    let mut health_is_new = true;
    loop {
        let snapshot = tables.db.snapshot();
        let seen = revision(&snapshot);
        let ready =
            tables.namespaces.initialized(&snapshot) && tables.endpoints.initialized(&snapshot);
        if ready {
            let manager = manager.clone();
            // Waits for the endpoint lock and writes maps: not on an async worker.
            let changed = tokio::task::spawn_blocking(move || manager.refresh_identities()).await;
            if changed.is_ok_and(|changed| changed > 0) || health_is_new {
                health.ok("identities as the pods' labels say");
                health_is_new = false;
            }
        }
        let next = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            watch.changed(seen).await;
        };
        if stop.or(next).await.is_none() {
            return;
        }
    }
}

/// Follows the own node's object until `stop`: addresses are taken over, other pod ranges need a restart.
pub async fn node_loop(tables: Tables, mode: IpamMode, health: Component, stop: Stop) {
    let watch = tables.nodes.watch();
    let mut told = None;
    health.ok("node as at the last start; its object has not been seen since");
    loop {
        let snapshot = tables.db.snapshot();
        let seen = revision(&snapshot);
        if let Some(local) = tables.local_node.iter(&snapshot).next()
            && let Some(object) = tables.nodes.get(&snapshot, &local.node.name)
        {
            follow_node(&tables, mode, local, object, &health, &mut told);
        }
        if stop.or(watch.changed(seen)).await.is_none() {
            return;
        }
    }
}

fn follow_node(
    tables: &Tables,
    mode: IpamMode,
    local: &Arc<LocalNode>,
    object: &Arc<Node>,
    health: &Component,
    told: &mut Option<Node>,
) {
    // The ranges of pools are followed by whoever asks for them.
    let fixed = matches!(mode, IpamMode::Kubernetes | IpamMode::ClusterPool);
    let object = &Node {
        pod_cidrs: if fixed {
            object.pod_cidrs.clone()
        } else {
            local.node.pod_cidrs.clone()
        },
        ..Node::clone(object)
    };
    if object.pod_cidrs != local.node.pod_cidrs {
        if told.as_ref() != Some(object) {
            tracing::warn!(used = ?local.node.pod_cidrs, object = ?object.pod_cidrs, "the node's pod CIDRs changed; restart the agent to use the new ones");
            *told = Some(object.clone());
        }
        return health.degraded(
            "the node has other pod CIDRs by now than those in use; restart the agent to use them",
        );
    }
    health.ok(format!("node object of {} followed", object.name));
    if *object != local.node {
        let mut txn = tables.db.write();
        let next = LocalNode {
            node: object.clone(),
            ..LocalNode::clone(local)
        };
        if tables.local_node.insert(&mut txn, next).is_ok() {
            txn.commit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::routing_plan;
    use abi::identity::{HOST, REMOTE_NODE, WORLD_IPV4};
    use model::{Attachment, EndpointState, KUBERNETES, Labels, Mac, Pod, PodRef, RESTORE};
    use runtime::{health::Health, settings::Settings};

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
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            node: format!("node{node}"),
            labels: [("app".to_owned(), "cart".to_owned())].into(),
            addresses: vec![ip.parse().unwrap()],
            ..Pod::default()
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
        }
    }

    fn filled() -> Tables {
        let tables = Tables::new().unwrap();
        let local = LocalNode {
            node: node(1),
            router4: Some("10.244.1.1".parse().unwrap()),
            addresses: vec!["192.168.10.1".parse().unwrap()],
            ..LocalNode::default()
        };
        let mut txn = tables.db.write();
        tables.local_node.insert(&mut txn, local).unwrap();
        for n in [1, 2] {
            tables.nodes.insert(&mut txn, node(n)).unwrap();
        }
        tables
            .pods
            .insert(&mut txn, pod("mine", 1, "10.244.1.5"))
            .unwrap();
        tables
            .pods
            .insert(&mut txn, pod("theirs", 2, "10.244.2.5"))
            .unwrap();
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
        tables.pods.finish_initializer(&mut txn, KUBERNETES);
        tables.namespaces.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
    }

    fn finish_restore(tables: &Tables) {
        let mut txn = tables.db.write();
        tables.endpoints.finish_initializer(&mut txn, RESTORE);
        txn.commit();
    }

    fn plan_of(tables: &Tables) -> Desired {
        let settings = Settings {
            enable_ipv6: false,
            ..Settings::default()
        };
        desired(
            tables,
            &tables.db.snapshot(),
            &routing_plan(&settings),
            "default",
        )
        .unwrap()
    }

    fn identity(desired: &Desired, prefix: &str) -> Option<u32> {
        desired
            .prefixes
            .iter()
            .find(|row| row.prefix == prefix.parse().unwrap())
            .map(|row| row.identity)
    }

    #[test]
    fn all_nodes_agree_on_the_identity_of_a_pod() {
        let tables = filled();
        finish_kubernetes(&tables);
        finish_restore(&tables);
        let changed = crate::endpoint::relabel(&tables, &tables.db.snapshot(), "default");
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].state, EndpointState::Ready);
        let plan = plan_of(&tables);
        assert_eq!(
            identity(&plan, "10.244.2.5/32"),
            Some(changed[0].identity),
            "same labels, other node"
        );
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
        let component = Health::default().component("plan");
        publish(&tables, plan_of(&tables), &component);
        let initialised = || tables.prefixes.initialized(&tables.db.snapshot());
        assert!(!initialised(), "Kubernetes has not been listed");
        finish_kubernetes(&tables);
        publish(&tables, plan_of(&tables), &component);
        assert!(!initialised(), "endpoints have not been restored");
        finish_restore(&tables);
        publish(&tables, plan_of(&tables), &component);
        assert!(initialised());
    }

    #[test]
    fn the_own_node_is_followed_but_not_to_other_pod_ranges() {
        let tables = filled();
        let health = Health::default();
        let component = health.component("node");
        let mut told = None;
        let local = || {
            tables
                .local_node
                .iter(&tables.db.snapshot())
                .next()
                .cloned()
                .unwrap()
        };
        let moved = Arc::new(Node {
            external: vec!["203.0.113.1".parse().unwrap()],
            ..node(1)
        });
        follow_node(
            &tables,
            IpamMode::Kubernetes,
            &local(),
            &moved,
            &component,
            &mut told,
        );
        assert_eq!(local().node.external.len(), 1);
        let other = Arc::new(Node {
            pod_cidrs: vec!["10.9.0.0/24".parse().unwrap()],
            ..node(1)
        });
        follow_node(
            &tables,
            IpamMode::Kubernetes,
            &local(),
            &other,
            &component,
            &mut told,
        );
        assert_eq!(local().node.pod_cidrs, node(1).pod_cidrs);
        assert!(health.reports()[0].message.contains("restart"));
    }
}
