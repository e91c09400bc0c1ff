//! Writes a pod's status in the background: the newest one, so that a busy pod writes no more often than the API answers.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use kube::{Client, Resource};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::sandbox::Backoff;

/// A pod that starts soon is written down once it runs, not also as one that waits: a write costs about as much as a start, and
/// where many start they wait for each other.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the last status of a pod may keep its end waiting.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The status that is wanted, and the one that is written.
pub(super) struct StatusWriter {
    wanted: watch::Sender<Value>,
    written: watch::Receiver<Value>,
}

/// The answer, which is the whole pod, is not looked at: the watch tells what became of it.
async fn write(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: &Patch<Value>,
) -> kube::Result<()> {
    let request = Request::new(Pod::url_path(&(), Some(namespace)))
        .patch_subresource("status", name, &PatchParams::default(), patch)
        .map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await.map(drop)
}

/// Whether a first status says more than that the pod is about to start.
fn is_news(status: &Value) -> bool {
    const NO_NEWS: [&str; 2] = ["ContainerCreating", "PodInitializing"];
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut containers = lists
        .iter()
        .flat_map(|list| status[list].as_array().into_iter().flatten());
    let told = |container: &Value| {
        let reason = container["state"]["waiting"]["reason"].as_str();
        reason.is_none_or(|reason| !NO_NEWS.contains(&reason))
    };
    !status.is_null() && (status["phase"] != "Pending" || containers.any(told))
}

impl StatusWriter {
    pub(super) fn start(
        client: Client,
        namespace: String,
        name: String,
        uid: String,
    ) -> StatusWriter {
        let (wanted, mut hear) = watch::channel(Value::Null);
        let (tell, written) = watch::channel(Value::Null);
        tokio::spawn(async move {
            let (mut backoff, mut first) = (Backoff::new(), true);
            while hear.changed().await.is_ok() {
                if std::mem::take(&mut first) {
                    let settled = hear.wait_for(is_news);
                    let _ = tokio::time::timeout(SETTLE, settled).await;
                }
                let status = hear.borrow_and_update().clone();
                let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "status": status}));
                match write(&client, &namespace, &name, &patch).await {
                    Ok(()) => backoff = Backoff::new(),
                    // Gone, or another pod has the name by now: nothing is left to tell.
                    Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => {}
                    Err(e) => {
                        tracing::warn!(pod = name, "cannot write the status of a pod: {e}");
                        hear.mark_changed();
                        tokio::time::sleep(backoff.next()).await;
                        continue;
                    }
                }
                tell.send_replace(status);
            }
        });
        StatusWriter { wanted, written }
    }

    /// The last one given.
    pub(super) fn last(&self) -> Option<Value> {
        Some(self.wanted.borrow().clone()).filter(|v| !v.is_null())
    }

    pub(super) fn write(&self, status: Value) {
        self.wanted.send_if_modified(|now| {
            let changed = *now != status;
            *now = status;
            changed
        });
    }

    /// Waits, not for ever, until the last one is written.
    pub(super) async fn flush(&mut self) {
        let wanted = self.wanted.borrow().clone();
        let written = self.written.wait_for(|w| *w == wanted);
        let _ = tokio::time::timeout(FLUSH_LIMIT, written).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_at_once() {
        let pod = |phase: &str, state: Value| json!({"phase": phase, "containerStatuses": [{"state": state}]});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        assert!(!is_news(&Value::Null));
        assert!(!is_news(&pod("Pending", waiting("ContainerCreating"))));
        assert!(is_news(&pod("Pending", waiting("ErrImagePull"))));
        assert!(is_news(&pod("Running", json!({"running": {}}))));
        let mut init = pod("Pending", waiting("PodInitializing"));
        assert!(!is_news(&init));
        init["initContainerStatuses"] = json!([{"state": {"running": {}}}]);
        assert!(is_news(&init));
    }
}
