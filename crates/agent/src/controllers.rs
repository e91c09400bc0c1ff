//! The loops that follow tables: plan, identities, own node.
use crate::{
    endpoint::{Concerned, Manager},
    planner::{Planner, Warnings},
};
use model::{LocalNode, Node, Tables};
use routing::Plan;
use runtime::{health::Component, settings::IpamMode, stop::Stop};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tables::Read;

/// Pause after a computation, as a multiple of the time it took: at most a fifth of a CPU goes into planning.
const REST: u32 = 4;
/// Until an identity that could not be set is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps the desired tables in step with the inputs until `stop`.
pub async fn plan_loop(tables: Tables, plan: Plan, cluster: String, health: Component, stop: Stop) {
    let mut warned = BTreeSet::new();
    let mut planner = Planner::new(&tables, plan, cluster);
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
        planner.step(&snapshot, &health);
        warn_once(&mut warned, planner.warnings());
        let seen = snapshot.revision();
        drop(snapshot);
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

fn warn_once(seen: &mut BTreeSet<String>, warnings: &Warnings) {
    for warning in warnings.values().flatten() {
        if seen.insert(warning.clone()) {
            tracing::warn!("{warning}");
        }
    }
    seen.retain(|warning| warnings.values().flatten().any(|other| other == warning));
}

/// Keeps the endpoints' identities in step with pods and namespaces until `stop`.
pub async fn identity_loop(tables: Tables, manager: Arc<Manager>, health: Component, stop: Stop) {
    health.ok("waiting for the API server's lists");
    let watch = tables
        .pods
        .watch()
        .and(tables.namespaces.watch())
        .and(tables.endpoints.watch());
    let mut concerned = Concerned::new(&tables);
    let mut open = BTreeSet::new();
    loop {
        let snapshot = tables.db.snapshot();
        let seen = snapshot.revision();
        let ready =
            tables.namespaces.initialized(&snapshot) && tables.endpoints.initialized(&snapshot);
        if ready {
            open.extend(concerned.endpoints(&tables, &snapshot));
        }
        drop(snapshot);
        if !open.is_empty() {
            let (manager, endpoints) = (manager.clone(), std::mem::take(&mut open));
            // Waits for the endpoint lock and writes maps: not on an async worker.
            let work = move || manager.refresh_identities(&endpoints);
            open = tokio::task::spawn_blocking(work).await.unwrap_or_default();
        }
        match open.len() {
            _ if !ready => {}
            0 => health.ok("identities as the pods' labels say"),
            count => health.degraded(format!("{count} identities could not be set")),
        }
        let next = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            tokio::select! {
                () = watch.changed(seen) => {}
                () = tokio::time::sleep(AGAIN), if !open.is_empty() => {}
            }
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
        let seen = snapshot.revision();
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
    use runtime::health::Health;

    fn node(n: u8) -> Node {
        Node {
            name: format!("node{n}"),
            addresses: vec![format!("192.168.10.{n}").parse().unwrap()],
            pod_cidrs: vec![format!("10.244.{n}.0/24").parse().unwrap()],
            ..Node::default()
        }
    }

    #[test]
    fn the_own_node_is_followed_but_not_to_other_pod_ranges() {
        let tables = Tables::new().unwrap();
        let mut txn = tables.db.write();
        let own = LocalNode {
            node: node(1),
            ..LocalNode::default()
        };
        tables.local_node.insert(&mut txn, own).unwrap();
        txn.commit();
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
