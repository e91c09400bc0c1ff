//! Pods that no agent has connected: they were there before it, with another network. They are restarted, those of them that the
//! cluster cannot do without (`pod-restart-selector`).
use crate::{
    controller::{Context, Remover, Removes},
    gc::Garbage,
    tables::{Tables, VitalPod},
};
use k8s_openapi::jiff::Timestamp;
use runtime::stop::Stop;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tables::Snapshot;

/// Pods younger than this may be under way.
const YOUNG: i64 = 30;
/// The least time between two restarts of pods of one name.
const AGAIN: Duration = Duration::from_secs(300);

/// The vital pods that run and that no agent has connected, though there is one on their node: their endpoint object is missing.
/// `now` in seconds since 1970.
pub(crate) fn unmanaged(tables: &Tables, snapshot: &Snapshot, now: i64) -> Vec<Arc<VitalPod>> {
    if !tables.vital.initialized(snapshot)
        || !tables.endpoints.initialized(snapshot)
        || !tables.agents.initialized(snapshot)
    {
        return Vec::new();
    }
    let with_agent = |pod: &VitalPod| {
        let mut agents = tables.agents_by_node.get(snapshot, pod.node.as_str());
        agents.any(|agent| agent.ready)
    };
    let waits = |pod: &VitalPod| {
        pod.running
            && !pod.host_network
            && pod.started.is_some_and(|started| now - started >= YOUNG)
            && tables.endpoints.get(snapshot, &pod.key).is_none()
            && with_agent(pod)
    };
    let pods = tables.vital.iter(snapshot);
    pods.filter(|pod| waits(pod)).cloned().collect()
}

/// Restarts such pods again and again until `stop`.
pub(crate) async fn restart(context: Context, stop: Stop) {
    let settings = context.settings.clone();
    let health = context.health.component("controller/unmanaged-pods");
    let seconds = u64::from(settings.unmanaged_pod_watcher_interval);
    if seconds == 0 || settings.disable_endpoint_crd {
        return health.ok("not asked for");
    }
    let remover = Remover::new(&context, Removes::Pods, "controller/unmanaged-pods");
    let mut before: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let pause = tokio::time::sleep(Duration::from_secs(seconds));
        if stop.or(pause).await.is_none() {
            return;
        }
        let snapshot = context.tables.db.snapshot();
        let now = Timestamp::now().as_second();
        let found = unmanaged(&context.tables, &snapshot, now);
        drop(snapshot);
        context.metrics.unmanaged(found.len());
        before.retain(|_, at| at.elapsed() < AGAIN);
        let due = found.iter().filter(|pod| !before.contains_key(&pod.key));
        let due: Vec<Garbage> = due.filter_map(|pod| garbage(pod)).collect();
        for pod in &due {
            before.insert(format!("{}/{}", pod.namespace, pod.name), Instant::now());
        }
        if stop.or(remover.remove(due)).await.is_none() {
            return;
        }
    }
}

fn garbage(pod: &VitalPod) -> Option<Garbage> {
    let (namespace, name) = pod.key.split_once('/')?;
    Some(Garbage {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: pod.uid.clone(),
        version: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{AgentPod, EndpointRow, KUBERNETES};

    #[test]
    fn only_old_running_pods_without_endpoint_on_nodes_with_an_agent() {
        let tables = Tables::new().unwrap();
        let pod = |name: &str| VitalPod {
            key: format!("kube-system/{name}"),
            uid: name.to_owned(),
            running: true,
            host_network: false,
            started: Some(100),
            node: "n1".into(),
        };
        let rows = [
            pod("due"),
            pod("managed"),
            VitalPod {
                started: Some(190),
                ..pod("young")
            },
            VitalPod {
                host_network: true,
                ..pod("host")
            },
            VitalPod {
                running: false,
                ..pod("pending")
            },
            VitalPod {
                node: "n2".into(),
                ..pod("without-agent")
            },
        ];
        let mut txn = tables.db.write();
        for row in rows {
            tables.vital.insert(&mut txn, row).unwrap();
        }
        for (node, ready) in [("n1", true), ("n2", false)] {
            let agent = AgentPod {
                key: format!("kube-system/cilium-{node}"),
                node: node.into(),
                ready,
            };
            tables.agents.insert(&mut txn, agent).unwrap();
        }
        let endpoint = EndpointRow {
            namespace: "kube-system".to_owned(),
            name: "managed".to_owned(),
            uid: String::new(),
            owner: "managed".to_owned(),
            identity: 1,
            entry: Default::default(),
        };
        tables.endpoints.insert(&mut txn, endpoint).unwrap();
        txn.commit();
        let look = || -> Vec<String> {
            let found = unmanaged(&tables, &tables.db.snapshot(), 200);
            found.iter().map(|pod| pod.uid.clone()).collect()
        };
        assert!(look().is_empty(), "before all lists are there");
        let mut txn = tables.db.write();
        tables.vital.finish_initializer(&mut txn, KUBERNETES);
        tables.agents.finish_initializer(&mut txn, KUBERNETES);
        tables.endpoints.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
        assert_eq!(look(), ["due"]);
    }
}
