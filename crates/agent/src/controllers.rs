//! Input tables to desired tables: computed anew from a snapshot whenever an input changed.
use crate::endpoint::{Manager, identity_of_pod};
use model::{Endpoint, LocalNode, Node, PLAN, Prefix, Tables};
use routing::{Plan, PodView, PrefixPlan, RoutePlan};
use runtime::{health::Component, stop::Stop};
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
#[must_use]
pub fn desired(
    tables: &Tables,
    snapshot: &Snapshot,
    plan: &Plan,
    cluster: &str,
) -> Option<Desired> {
    let local = tables.local_node.iter(snapshot).next()?;
    let nodes: Vec<&Node> = tables.nodes.iter(snapshot).map(AsRef::as_ref).collect();
    let by_name: BTreeMap<&str, &Node> = nodes
        .iter()
        .map(|node| (node.name.as_str(), *node))
        .collect();
    let remote = tables
        .pods
        .iter(snapshot)
        .filter(|pod| pod.node != local.node.name);
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
        complete: complete(tables, snapshot),
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
pub async fn identity_loop(tables: Tables, manager: Arc<Manager>, stop: Stop) {
    let watch = tables
        .pods
        .watch()
        .and(tables.namespaces.watch())
        .and(tables.endpoints.watch());
    loop {
        let snapshot = tables.db.snapshot();
        let seen = revision(&snapshot);
        let ready =
            tables.namespaces.initialized(&snapshot) && tables.endpoints.initialized(&snapshot);
        if ready {
            let manager = manager.clone();
            // Waits for the endpoint lock and writes maps: not on an async worker.
            let _ = tokio::task::spawn_blocking(move || manager.refresh_identities()).await;
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
pub async fn node_loop(tables: Tables, health: Component, stop: Stop) {
    let watch = tables.nodes.watch();
    let mut told = None;
    loop {
        let snapshot = tables.db.snapshot();
        let seen = revision(&snapshot);
        if let Some(local) = tables.local_node.iter(&snapshot).next()
            && let Some(object) = tables.nodes.get(&snapshot, &local.node.name)
        {
            follow_node(&tables, local, object, &health, &mut told);
        }
        if stop.or(watch.changed(seen)).await.is_none() {
            return;
        }
    }
}

fn follow_node(
    tables: &Tables,
    local: &Arc<LocalNode>,
    object: &Arc<Node>,
    health: &Component,
    told: &mut Option<Arc<Node>>,
) {
    if object.pod_cidrs != local.node.pod_cidrs {
        if told.as_ref() != Some(object) {
            tracing::warn!(used = ?local.node.pod_cidrs, object = ?object.pod_cidrs, "the node's pod CIDRs changed; restart the agent to use the new ones");
            *told = Some(object.clone());
        }
        return health
            .degraded("the node object has other pod CIDRs than those in use; restart the agent");
    }
    health.ok(format!("node object of {} followed", object.name));
    if *object.as_ref() != local.node {
        let mut txn = tables.db.write();
        let next = LocalNode {
            node: Node::clone(object),
            ..LocalNode::clone(local)
        };
        if tables.local_node.insert(&mut txn, next).is_ok() {
            txn.commit();
        }
    }
}
