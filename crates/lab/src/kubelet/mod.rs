//! A small kubelet: for every pod of its node a sandbox made through CNI, and the containers' processes in it.

pub mod cni;
pub mod node;
pub mod plan;
pub mod runner;
mod sandbox;
pub mod status;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use tokio::sync::watch;

pub use plan::DEFAULT_PATH;

use cni::Cni;
use node::Node;
use worker::{Seen, Worker};

/// What all workers of a node share.
pub(crate) struct Context {
    node: Arc<Node>,
    cni: Cni,
    client: Client,
}

/// The kubelet of one node.
pub struct Kubelet {
    context: Arc<Context>,
    workers: BTreeMap<String, watch::Sender<Seen>>,
}

impl Kubelet {
    /// A kubelet that takes CNI plugins from these directories.
    pub fn new(node: Arc<Node>, client: Client, cni_path: Vec<PathBuf>) -> Kubelet {
        let cni = Cni::new(node.clone(), cni_path);
        Kubelet {
            context: Arc::new(Context { node, cni, client }),
            workers: BTreeMap::new(),
        }
    }

    /// Takes note of a pod of this node as the API shows it now; `gone` when it was removed there.
    pub fn observe(&mut self, pod: Arc<Pod>, gone: bool) {
        self.workers.retain(|_, worker| !worker.is_closed());
        let uid = pod.uid().unwrap_or_default();
        let seen = Seen { pod, gone };
        match self.workers.get(&uid) {
            Some(worker) => drop(worker.send(seen)),
            None if gone => {}
            None => {
                let (tell, hear) = watch::channel(seen);
                tokio::spawn(Worker::new(self.context.clone(), hear).run());
                self.workers.insert(uid, tell);
            }
        }
    }

    /// To ask whether the node's network takes pods.
    pub fn network(&self) -> Network {
        Network(self.context.clone())
    }
}

/// The network of a node, as CNI answers for it.
pub struct Network(Arc<Context>);

impl Network {
    /// Whether it takes pods.
    pub async fn check(&self) -> Result<(), cni::CniError> {
        self.0.cni.status().await
    }
}
