//! A pod's network namespace, and CNI on it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::Context;
use super::cni::{Attachment, CniError, addresses};

/// Where a node keeps the network namespaces of its pods.
const DIR: &str = "/run/netns";

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub(super) enum SandboxError {
    #[error("no network namespace: {0}")]
    Namespace(String),
    #[error(transparent)]
    Cni(#[from] CniError),
    #[error("the network gave the pod no address")]
    NoAddress,
}

impl SandboxError {
    /// The node's network is not configured yet.
    pub(super) fn no_config(&self) -> bool {
        matches!(self, SandboxError::Cni(CniError::NoConfig))
    }
}

/// A network namespace that is part of the pod network.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) netns: PathBuf,
    pub(super) ips: Vec<IpAddr>,
    attachment: Attachment,
    result: Value,
}

/// A growing pause between attempts.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff(Duration::from_millis(50))
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(5));
        pause
    }
}

impl Sandbox {
    /// Makes the namespace and attaches it; on failure nothing stays. Every attempt has an id of its own.
    pub(super) async fn create(
        context: &Context,
        namespace: &str,
        name: &str,
        uid: &str,
        attempt: u32,
    ) -> Result<Sandbox, SandboxError> {
        let id = format!("{}{attempt:08x}", uid.replace('-', ""));
        let netns = Path::new(DIR).join(format!("cni-{uid}-{attempt}"));
        let list = context.cni.config()?;
        let made = context.starter.network(netns.clone()).await;
        made.map_err(|e| SandboxError::Namespace(e.to_string()))?;
        let attachment = Attachment::new(&id, &netns, namespace, name, uid);
        let added = context.cni.add(&list, &attachment).await;
        let mut sandbox = Sandbox {
            netns,
            ips: Vec::new(),
            attachment,
            result: Value::Null,
        };
        let error = match added {
            Ok(result) => {
                sandbox.ips = addresses(&result);
                sandbox.result = result;
                if !sandbox.ips.is_empty() {
                    return Ok(sandbox);
                }
                SandboxError::NoAddress
            }
            Err(e) => e.into(),
        };
        // The plugin cleans up after itself when it fails; this is for those further up the list.
        let _ = context.cni.del(&sandbox.attachment, None).await;
        sandbox.forget(context).await;
        Err(error)
    }

    /// Detaches it, again and again until that succeeds, and removes the namespace.
    pub(super) async fn destroy(self, context: &Context) {
        let mut backoff = Backoff::new();
        while let Err(e) = context.cni.del(&self.attachment, Some(&self.result)).await {
            tracing::warn!(
                node = context.node.name,
                id = self.attachment.container_id,
                "detaching a pod failed: {e}"
            );
            tokio::time::sleep(backoff.next()).await;
        }
        self.forget(context).await;
    }

    async fn forget(&self, context: &Context) {
        let at = self.netns.clone();
        let removed = context
            .node
            .run_async(move || netlink::netns::delete_at(&at))
            .await;
        if let Ok(Err(e)) = removed {
            tracing::warn!(
                node = context.node.name,
                "a pod's network namespace stays: {e}"
            );
        }
    }
}
