//! Nodes and their agents: once a node's agent is ready, pods may come; and the `CiliumNode` has the labels of the node.
use crate::{
    controller::Context,
    rounds::Rounds,
    tables::{AGENT_IS_UP, AgentPod, NETWORK_UNAVAILABLE, NodeObject, NodeRow, Tables, Wanted},
};
use futures::{StreamExt, stream};
use k8s::{
    crd,
    error::{is_conflict, is_not_found, says},
    write::Objects,
};
use k8s_openapi::jiff::Timestamp;
use model::LabelMap;
use runtime::{
    settings::{IpamMode, OperatorSettings},
    stop::Stop,
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tables::{ChangeTracker, Read, Snapshot};

/// How long one write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// What to write about a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Work {
    pub name: String,
    /// The taints that stay, and the version of the node that had them.
    pub taints: Option<(Vec<Value>, String)>,
    /// The condition that says that the node's network is there is missing.
    pub network: bool,
    /// What to merge into the labels of the `CiliumNode`.
    pub labels: Option<Value>,
}

/// What there is to write about the node `name`; none if there is nothing.
pub(crate) fn work(
    tables: &Tables,
    snapshot: &Snapshot,
    settings: &OperatorSettings,
    name: &str,
) -> Option<Work> {
    let node = tables.nodes.get(snapshot, name)?;
    let mut agents = tables.agents_by_node.get(snapshot, name);
    let up = agents.any(|pod| pod.ready);
    let said = tables.cilium_nodes.get(snapshot, name);
    let work = Work {
        name: name.to_owned(),
        taints: (up && settings.remove_cilium_node_taints)
            .then(|| without_taint(node, &settings.agent_not_ready_taint_key))
            .flatten(),
        network: up && settings.set_cilium_is_up_condition && !node.network_up,
        labels: said.and_then(|said| labels(node, said, settings.ipam)),
    };
    let idle = work.taints.is_none() && !work.network && work.labels.is_none();
    (!idle).then_some(work)
}

fn without_taint(node: &NodeObject, key: &str) -> Option<(Vec<Value>, String)> {
    let rest = node.taints.iter().filter(|taint| taint["key"] != key);
    let rest: Vec<Value> = rest.cloned().collect();
    (rest.len() < node.taints.len()).then(|| (rest, node.version.clone()))
}

/// A node that waits for its ranges gets them first: they are written on top of a version.
fn labels(node: &NodeObject, said: &NodeRow, mode: IpamMode) -> Option<Value> {
    let waits = matches!(mode, IpamMode::ClusterPool | IpamMode::MultiPool)
        && said.said.ranges().next().is_none()
        && said.said.error.is_empty();
    if said.labels == node.labels || said.deleted || waits {
        return None;
    }
    Some(difference(&said.labels, &node.labels))
}

/// A merge that leaves exactly `wanted`.
fn difference(present: &LabelMap, wanted: &LabelMap) -> Value {
    let gone = present
        .iter()
        .filter(|(key, _)| wanted.get(key).is_none())
        .map(|(key, _)| (key.to_owned(), Value::Null));
    let new = wanted
        .iter()
        .filter(|(key, value)| present.get(key) != Some(*value))
        .map(|(key, value)| (key.to_owned(), Value::from(value)));
    Value::Object(gone.chain(new).collect::<Map<_, _>>())
}

/// Which nodes have news.
struct News {
    nodes: ChangeTracker<NodeObject>,
    said: ChangeTracker<NodeRow>,
    agents: ChangeTracker<AgentPod>,
}

impl News {
    fn names(&mut self, snapshot: &Snapshot) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        names.extend(self.nodes.changes(snapshot).map(|one| one.row.name.clone()));
        names.extend(
            self.said
                .changes(snapshot)
                .map(|one| one.row.said.name.clone()),
        );
        names.extend(
            self.agents
                .changes(snapshot)
                .map(|one| one.row.node.to_string()),
        );
        names
    }
}

/// Follows nodes and agents until `stop`.
pub(crate) async fn nodes(context: Context, stop: Stop) {
    let health = context.health.component("controller/nodes");
    let tables = &context.tables;
    let watch = tables
        .nodes
        .watch()
        .and(tables.cilium_nodes.watch())
        .and(tables.agents.watch());
    let mut news = News {
        nodes: tables.db.track(&tables.nodes),
        said: tables.db.track(&tables.cilium_nodes),
        agents: tables.db.track(&tables.agents),
    };
    let mut open = BTreeSet::new();
    let mut rounds = Rounds::new();
    loop {
        let began = Instant::now();
        let snapshot = tables.db.snapshot();
        let seen = snapshot.revision();
        open.extend(news.names(&snapshot));
        let known = tables.nodes.initialized(&snapshot)
            && tables.cilium_nodes.initialized(&snapshot)
            && (tables.agents.initialized(&snapshot)
                || Wanted::by(&context.settings).agents.is_none());
        let failed = if known {
            let total = tables.nodes.len(&snapshot);
            let names = std::mem::take(&mut open);
            let settings = &context.settings;
            let works = names
                .iter()
                .filter_map(|name| work(tables, &snapshot, settings, name));
            let works: Vec<Work> = works.collect();
            drop(snapshot);
            let Some(failed) = stop.or(carry_out(&context, works, &mut open)).await else {
                return;
            };
            context.metrics.ran("nodes", failed.is_none());
            match &failed {
                Some(error) => health.degraded(error.clone()),
                None => health.ok(format!("{total} nodes followed")),
            }
            failed
        } else {
            health.degraded("waiting for the API server's lists");
            None
        };
        let rest = (began.elapsed() * 4).clamp(Duration::from_millis(1), Duration::from_secs(1));
        let news = async {
            tokio::time::sleep(rest).await;
            watch.changed(seen).await;
        };
        if !rounds.next(&stop, failed.is_some(), news).await {
            return;
        }
    }
}

/// Writes, several nodes at a time; what failed stays open.
async fn carry_out(
    context: &Context,
    works: Vec<Work>,
    open: &mut BTreeSet<String>,
) -> Option<String> {
    let workers = context.settings.parallel_alloc_workers.max(1) as usize;
    let nodes = Objects::core(&context.client, "Node", "nodes", None);
    let said = crd::ALL.iter().find(|crd| crd.kind == "CiliumNode");
    let said = Objects::of(&context.client, said.unwrap_or(&crd::ALL[0]));
    let (nodes, said) = (&nodes, &said);
    let mut running = stream::iter(works)
        .map(|work| async move {
            let limited = tokio::time::timeout(WRITE_LIMIT, perform(nodes, said, &work)).await;
            let outcome = match limited {
                Ok(outcome) => {
                    outcome.map_err(|error| format!("node {}: {}", work.name, says(&error)))
                }
                Err(_) => Err(format!(
                    "node {}: the API server did not answer in time",
                    work.name
                )),
            };
            (work.name, outcome)
        })
        .buffer_unordered(workers);
    let mut failed = None;
    while let Some((name, outcome)) = running.next().await {
        if let Err(error) = outcome {
            open.insert(name);
            failed = failed.or(Some(error));
        }
    }
    failed
}

/// Carries one work out. What changed meanwhile, or is gone, comes back by the watch.
async fn perform(nodes: &Objects, said: &Objects, work: &Work) -> Result<(), kube::Error> {
    let name = work.name.as_str();
    let meanwhile = |error: &kube::Error| is_conflict(error) || is_not_found(error);
    // The condition makes a new version, which brings the node here again: then the taint goes, and pods come.
    if work.network {
        match nodes
            .patch_status(name, network_is_up(Timestamp::now()))
            .await
        {
            Ok(_) => tracing::info!(node = name, "agent ready: the node's network is available"),
            Err(error) if meanwhile(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if !work.network
        && let Some((taints, version)) = &work.taints
    {
        // A list as a whole: only on top of the version that had it.
        let patch = json!({"spec": {"taints": taints}});
        match nodes.merge(name, patch, Some(version)).await {
            Ok(_) => tracing::info!(node = name, "agent ready: taint removed"),
            Err(error) if meanwhile(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if let Some(labels) = &work.labels {
        let patch = json!({"metadata": {"labels": labels}});
        match said.merge(name, patch, None).await {
            Ok(_) => {}
            Err(error) if meanwhile(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn network_is_up(now: Timestamp) -> Value {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({"conditions": [{
        "type": NETWORK_UNAVAILABLE, "status": "False", "reason": AGENT_IS_UP,
        "message": "The agent of this node is ready to connect pods",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::KUBERNETES;

    fn map(pairs: &[(&str, &str)]) -> LabelMap {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    fn world(ready: bool) -> (Tables, OperatorSettings) {
        let settings = OperatorSettings {
            ipam: IpamMode::Kubernetes,
            ..OperatorSettings::default()
        };
        let tables = Tables::new().unwrap();
        let mut txn = tables.db.write();
        let taint = |key: &str| json!({"key": key, "effect": "NoExecute"});
        let node = NodeObject {
            name: "n".to_owned(),
            version: "7".to_owned(),
            labels: map(&[("zone", "a"), ("new", "1")]),
            taints: vec![taint("node.cilium.io/agent-not-ready"), taint("other")],
            network_up: false,
        };
        tables.nodes.insert(&mut txn, node).unwrap();
        let agent = AgentPod {
            key: "kube-system/cilium-x".to_owned(),
            node: "n".into(),
            ready,
        };
        tables.agents.insert(&mut txn, agent).unwrap();
        let said = NodeRow {
            said: model::CiliumNode {
                name: "n".to_owned(),
                ..model::CiliumNode::default()
            },
            labels: map(&[("zone", "b"), ("old", "1")]),
            created: 0,
            keep: false,
            deleted: false,
        };
        tables.cilium_nodes.insert(&mut txn, said).unwrap();
        tables.nodes.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
        (tables, settings)
    }

    #[test]
    fn a_ready_agent_opens_its_node() {
        let (tables, mut settings) = world(true);
        let look = |settings: &OperatorSettings| {
            work(&tables, &tables.db.snapshot(), settings, "n").unwrap()
        };
        let all = look(&settings);
        assert!(all.network);
        assert_eq!(
            all.taints,
            Some((
                vec![json!({"key": "other", "effect": "NoExecute"})],
                "7".to_owned()
            ))
        );
        settings.set_cilium_is_up_condition = false;
        settings.remove_cilium_node_taints = false;
        let none = look(&settings);
        assert!(!none.network && none.taints.is_none());
    }

    #[test]
    fn until_then_only_labels_are_written() {
        let (tables, mut settings) = world(false);
        let look =
            |settings: &OperatorSettings| work(&tables, &tables.db.snapshot(), settings, "n");
        let found = look(&settings).unwrap();
        assert!(!found.network && found.taints.is_none());
        assert_eq!(
            found.labels,
            Some(json!({"zone": "a", "new": "1", "old": null}))
        );
        settings.ipam = IpamMode::ClusterPool;
        assert_eq!(look(&settings), None, "ranges come first");
    }
}
