//! The loops that follow tables: plan, identities, own node.
use crate::{
    endpoint::{Concerned, Manager},
    planner::{self, Planner, Warnings},
};
use futures::future::BoxFuture;
use model::{LocalNode, Node, Tables};
use routing::Plan;
use runtime::{health::Component, settings::IpamMode, stop::Stop};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tables::{Read, Revision};

/// Pause after a computation, as a multiple of the time it took: at most a fifth of a CPU goes into planning.
const REST: u32 = 4;
/// How long policy may take to know new identities before that is worth a word.
const GATE_PATIENCE: Duration = if cfg!(test) {
    Duration::from_millis(20)
} else {
    Duration::from_secs(5)
};
/// Until an identity that could not be set is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Ends when policy has rows for all identities that were known at a revision.
pub type Gate = Box<dyn Fn(Revision) -> BoxFuture<'static, ()> + Send + Sync>;

/// Keeps the desired tables in step with the inputs until `stop`. An address gets an identity only after `gate` says that policy
/// knows it, however long that takes: where everybody is allowed but some are denied, an identity without rows is not denied.
pub async fn plan_loop(
    tables: Tables,
    plan: Plan,
    gate: Option<Gate>,
    health: Component,
    stop: Stop,
) {
    let mut warned = BTreeSet::new();
    let mut planner = Planner::new(&tables, plan);
    let watch = tables
        .nodes
        .watch()
        .and(tables.cilium_endpoints.watch())
        .and(tables.identities.watch())
        .and(tables.prefix_identities.watch())
        .and(tables.endpoints.watch())
        .and(tables.local_node.watch());
    loop {
        let snapshot = tables.db.snapshot();
        if let Some(gate) = &gate
            && planner::complete(&tables, &snapshot)
        {
            let mut known = gate(tables.identities.revision(&snapshot));
            let in_time = tokio::time::timeout(GATE_PATIENCE, &mut known);
            let late = match stop.or(in_time).await {
                None => return,
                Some(in_time) => in_time.is_err(),
            };
            if late {
                let text = "addresses keep their identities until policy has rows for new ones";
                tracing::warn!("{text}");
                health.degraded(text);
                if stop.or(known).await.is_none() {
                    return;
                }
            }
        }
        let started = Instant::now();
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
        .and(tables.identities.watch())
        .and(tables.endpoints.watch());
    let mut concerned = Concerned::new(&tables);
    let mut open = BTreeSet::new();
    loop {
        let snapshot = tables.db.snapshot();
        let seen = snapshot.revision();
        // Without its namespace a pod has other labels; without the API server those that it had.
        let ready = tables.endpoints.initialized(&snapshot)
            && (tables.namespaces.initialized(&snapshot) || tables.pods.is_empty(&snapshot));
        if ready {
            open.extend(concerned.endpoints(&tables, &snapshot));
        }
        drop(snapshot);
        if !open.is_empty() {
            let (manager, endpoints) = (manager.clone(), std::mem::take(&mut open));
            // Waits for the endpoint lock and writes maps: not on an async worker.
            let work = move || manager.refresh(&endpoints);
            open = tokio::task::spawn_blocking(work).await.unwrap_or_default();
        }
        match open.len() {
            _ if !ready => {}
            0 => health.ok("identities as the pods' labels say"),
            count => health.degraded(format!("{count} endpoints wait for their identity")),
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
    use model::{KUBERNETES, RESTORE};
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

    #[tokio::test]
    async fn an_address_gets_no_identity_before_policy_knows_it() {
        let tables = Tables::new().unwrap();
        let pod: ipnet::IpNet = "10.244.2.9/32".parse().unwrap();
        let remote = model::RemoteEndpoint {
            key: "shop/a".into(),
            addresses: [pod.addr()].into(),
            identity: 300,
            node: node(2).address(false),
            ports: [].into(),
        };
        let known = model::Identity {
            id: 300,
            labels: ["k8s:app=a".to_owned()].into_iter().collect(),
            kind: model::IdentityKind::Cluster,
        };
        let mut txn = tables.db.write();
        let own = LocalNode {
            node: node(1),
            addresses: node(1).addresses,
            router4: "10.244.1.1".parse().ok(),
            ..LocalNode::default()
        };
        tables.local_node.insert(&mut txn, own).unwrap();
        tables
            .nodes
            .replace_all(&mut txn, [node(1), node(2)])
            .unwrap();
        tables.identities.insert(&mut txn, known).unwrap();
        tables.cilium_endpoints.insert(&mut txn, remote).unwrap();
        tables.nodes.finish_initializer(&mut txn, KUBERNETES);
        tables.identities.finish_initializer(&mut txn, KUBERNETES);
        tables
            .cilium_endpoints
            .finish_initializer(&mut txn, KUBERNETES);
        tables.endpoints.finish_initializer(&mut txn, RESTORE);
        txn.commit();
        let (knows, receiver) = tokio::sync::watch::channel(false);
        let gate: Gate = Box::new(move |_| {
            let mut knows = receiver.clone();
            Box::pin(async move { drop(knows.wait_for(|knows| *knows).await) })
        });
        let (health, (stopper, stop)) = (Health::default(), runtime::stop::channel());
        let plan = crate::plan::routing_plan(&runtime::settings::Settings::default());
        let component = health.component("plan");
        let planning = tokio::spawn(plan_loop(tables.clone(), plan, Some(gate), component, stop));
        let said = |text: &str| health.reports()[0].message.contains(text);
        while !said("until policy has rows") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let row = || tables.prefixes.get(&tables.db.snapshot(), &pod).cloned();
        assert_eq!(row(), None);
        knows.send_replace(true);
        while row().is_none_or(|row| row.identity != 300) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!said("until policy has rows"));
        stopper.stop();
        planning.await.unwrap();
    }
}
