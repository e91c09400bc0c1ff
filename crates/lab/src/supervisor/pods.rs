//! Hands every pod to the kubelet of its node, and tells all of them where the pods of cluster DNS are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};

use crate::kubelet::{Kubelet, Objects};

/// Runs for the life of the lab.
pub(super) async fn run(
    client: Client,
    kubelets: BTreeMap<String, Kubelet>,
    objects: Option<Arc<Objects>>,
) {
    let mut router = Router {
        kubelets,
        objects,
        known: BTreeMap::new(),
        listed: BTreeSet::new(),
    };
    let pods: Api<Pod> = Api::all(client);
    let mut events = watcher(pods, watcher::Config::default())
        .default_backoff()
        .boxed();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => router.handle(event),
            Ok(None) => return,
            Err(e) => tracing::warn!("watching pods: {e}"),
        }
    }
}

struct Router {
    kubelets: BTreeMap<String, Kubelet>,
    /// Where the servers of cluster DNS are told, if pods shall ask them directly.
    objects: Option<Arc<Objects>>,
    known: BTreeMap<String, Arc<Pod>>,
    listed: BTreeSet<String>,
}

impl Router {
    fn handle(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(pod.uid().unwrap_or_default());
                self.seen(pod);
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
                self.tell_dns();
            }
            Event::Apply(pod) => self.seen(pod),
            Event::Delete(pod) => {
                self.known.remove(&pod.uid().unwrap_or_default());
                let dns = is_dns(&pod);
                self.give(Arc::new(pod), true);
                if dns {
                    self.tell_dns();
                }
            }
        }
    }

    fn seen(&mut self, pod: Pod) {
        if node_of(&pod).is_none() {
            return;
        }
        let dns = is_dns(&pod);
        let pod = Arc::new(pod);
        self.known
            .insert(pod.uid().unwrap_or_default(), pod.clone());
        self.give(pod, false);
        if dns {
            self.tell_dns();
        }
    }

    fn tell_dns(&self) {
        let Some(objects) = &self.objects else { return };
        let pods = self.known.values().filter(|p| is_dns(p) && is_ready(p));
        let mut servers: Vec<IpAddr> = pods.flat_map(|p| ips(p)).collect();
        servers.sort();
        objects.set_dns(servers);
    }

    fn give(&mut self, pod: Arc<Pod>, gone: bool) {
        let Some(node) = node_of(&pod) else { return };
        match self.kubelets.get_mut(node) {
            Some(kubelet) => kubelet.observe(pod, gone),
            // In another cluster there are others.
            None => tracing::debug!(
                pod = pod.name_any(),
                node,
                "a pod is bound to a node that the lab does not have"
            ),
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|n| !n.is_empty())
}

/// A pod of the cluster's name servers, by the label that they have everywhere.
fn is_dns(pod: &Pod) -> bool {
    pod.metadata.namespace.as_deref() == Some("kube-system")
        && pod.labels().get("k8s-app").map(String::as_str) == Some("kube-dns")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.filter(|c| c.type_ == "Ready" && c.status == "True");
    pod.metadata.deletion_timestamp.is_none() && ready.count() > 0
}

fn ips(pod: &Pod) -> Vec<IpAddr> {
    let ips = pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten());
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}
