//! Hands every pod to the kubelet of its node, and pods without a node to one in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PostParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::kubelet::Kubelet;

/// Runs for the life of the lab.
pub(super) async fn run(client: Client, kubelets: BTreeMap<String, Kubelet>) {
    let mut router = Router {
        client: client.clone(),
        kubelets,
        next: 0,
        known: BTreeMap::new(),
        listed: BTreeSet::new(),
    };
    let pods: Api<Pod> = Api::all(client);
    let mut events = watcher(pods, watcher::Config::default())
        .default_backoff()
        .boxed();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => router.handle(event).await,
            Ok(None) => return,
            Err(e) => tracing::warn!("watching pods: {e}"),
        }
    }
}

struct Router {
    client: Client,
    kubelets: BTreeMap<String, Kubelet>,
    next: usize,
    known: BTreeMap<String, Arc<Pod>>,
    listed: BTreeSet<String>,
}

impl Router {
    async fn handle(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(pod.uid().unwrap_or_default());
                self.seen(pod).await;
            }
            Event::InitDone => {
                // Whatever went while nobody watched.
                let gone: Vec<_> = self
                    .known
                    .keys()
                    .filter(|uid| !self.listed.contains(*uid))
                    .cloned()
                    .collect();
                for uid in gone {
                    if let Some(pod) = self.known.remove(&uid) {
                        self.give(pod, true);
                    }
                }
            }
            Event::Apply(pod) => self.seen(pod).await,
            Event::Delete(pod) => {
                self.known.remove(&pod.uid().unwrap_or_default());
                self.give(Arc::new(pod), true);
            }
        }
    }

    async fn seen(&mut self, pod: Pod) {
        if node_of(&pod).is_none() {
            if pod.metadata.deletion_timestamp.is_none() {
                self.schedule(&pod).await;
            }
            return;
        }
        let pod = Arc::new(pod);
        self.known
            .insert(pod.uid().unwrap_or_default(), pod.clone());
        self.give(pod, false);
    }

    fn give(&mut self, pod: Arc<Pod>, gone: bool) {
        let Some(node) = node_of(&pod) else { return };
        match self.kubelets.get_mut(node) {
            Some(kubelet) => kubelet.observe(pod, gone),
            None => tracing::warn!(
                pod = pod.name_any(),
                node,
                "a pod is bound to a node that the lab does not have"
            ),
        }
    }

    /// Binds a pod to the next node that its node selector allows.
    async fn schedule(&mut self, pod: &Pod) {
        let allowed = self.allowed(pod).await;
        let namespace = pod.namespace().unwrap_or_default();
        let name = pod.name_any();
        if allowed.is_empty() {
            tracing::warn!(pod = name, "no node has the labels that the pod asks for");
            return;
        }
        let node = &allowed[self.next % allowed.len()];
        self.next += 1;
        let binding = json!({
            "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let bound: kube::Result<serde_json::Value> = pods
            .create_subresource("binding", &name, &PostParams::default(), &binding)
            .await;
        if let Err(e) = bound {
            tracing::warn!(pod = name, node, "cannot bind a pod: {e}");
        }
    }

    async fn allowed(&self, pod: &Pod) -> Vec<String> {
        let wanted = pod
            .spec
            .as_ref()
            .and_then(|s| s.node_selector.clone())
            .unwrap_or_default();
        if wanted.is_empty() {
            return self.kubelets.keys().cloned().collect();
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes
            .list(&Default::default())
            .await
            .map(|l| l.items)
            .unwrap_or_default();
        let fits = |n: &Node| wanted.iter().all(|(k, v)| n.labels().get(k) == Some(v));
        nodes
            .iter()
            .filter(|n| fits(n))
            .map(ResourceExt::name_any)
            .collect()
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|n| !n.is_empty())
}
