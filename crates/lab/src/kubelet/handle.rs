//! What the kubelet's API needs of the pods that run: found by name, without asking their workers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;

use super::logs::Log;
use super::process::{Inside, Terminal};

/// How input reaches a container's first process.
#[derive(Clone)]
pub(crate) enum Input {
    /// It has a terminal.
    Terminal(Terminal),
    /// It has a pipe.
    Pipe(Arc<tokio::sync::Mutex<OwnedWriteHalf>>),
}

impl Input {
    pub(crate) async fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Input::Terminal(terminal) => terminal.write(bytes).await,
            Input::Pipe(pipe) => pipe.lock().await.write_all(bytes).await,
        }
    }

    /// No more comes.
    pub(crate) async fn close(&self) {
        if let Input::Pipe(pipe) = self {
            let _ = pipe.lock().await.shutdown().await;
        }
    }
}

/// A container, over all its runs.
pub(crate) struct ContainerHandle {
    pub(crate) name: String,
    pub(crate) log: Log,
    /// Its present run.
    pub(crate) inside: watch::Sender<Option<Inside>>,
    pub(crate) input: Mutex<Option<Input>>,
    /// Its input ends with the first client that goes.
    pub(crate) stdin_once: bool,
}

impl ContainerHandle {
    pub(crate) fn input(&self) -> Option<Input> {
        self.input
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_input(&self, input: Option<Input>) {
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = input;
    }
}

/// A pod.
pub(crate) struct PodHandle {
    pub(crate) uid: String,
    /// Its containers, in order: main ones first, so that the first is the default.
    pub(crate) containers: Vec<Arc<ContainerHandle>>,
    /// Its network namespace in the node; `None` before it has one.
    pub(crate) net: watch::Sender<Option<Net>>,
    /// The object.
    pub(crate) object: watch::Sender<Arc<Pod>>,
}

/// Which network a pod has.
#[derive(Clone, Debug)]
pub(crate) enum Net {
    /// The node's.
    Node,
    /// A namespace of its own, by its path in the node.
    Own(PathBuf),
}

impl PodHandle {
    pub(crate) fn container(&self, name: &str) -> Option<&Arc<ContainerHandle>> {
        self.containers
            .iter()
            .find(|c| name.is_empty() || c.name == name)
    }
}

/// All pods of a node, by namespace and name.
#[derive(Default)]
pub(crate) struct Pods(Mutex<BTreeMap<(String, String), Arc<PodHandle>>>);

impl Pods {
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<PodHandle>> {
        let pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<PodHandle>> {
        let pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().cloned().collect()
    }

    pub(crate) fn add(&self, namespace: &str, name: &str, pod: Arc<PodHandle>) {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pods.insert((namespace.to_owned(), name.to_owned()), pod);
    }

    /// Forgets a pod, unless another one has its name by now.
    pub(crate) fn remove(&self, namespace: &str, name: &str, uid: &str) {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        if pods.get(&key).is_some_and(|p| p.uid == uid) {
            pods.remove(&key);
        }
    }
}
