//! Events of pods, written in the background: what repeats counts up one event.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::status::time;

/// How many different events are remembered to be counted up.
const MEMORY: usize = 4096;

/// Pods that start say much, and start sooner if it is written afterwards: when nothing was said for this long, or the first that
/// waits has waited for that long. A warning waits for nothing.
const QUIET: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(3);

/// What an event is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

#[derive(Debug)]
struct Said {
    about: About,
    container: Option<String>,
    warning: bool,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// What makes events the same: object, container, reason, message.
type Key = (String, Option<String>, String, String);

/// Writes events for one node.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(mpsc::UnboundedSender<Said>);

impl Recorder {
    pub(crate) fn new(client: Client, node: String) -> Recorder {
        let (tell, hear) = mpsc::unbounded_channel();
        tokio::spawn(write(client, node, hear));
        Recorder(tell)
    }

    pub(crate) fn normal(
        &self,
        about: &About,
        container: Option<&str>,
        reason: &'static str,
        message: String,
    ) {
        self.say(about, container, false, reason, message);
    }

    pub(crate) fn warning(
        &self,
        about: &About,
        container: Option<&str>,
        reason: &'static str,
        message: String,
    ) {
        self.say(about, container, true, reason, message);
    }

    fn say(
        &self,
        about: &About,
        container: Option<&str>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        // Nobody listens any more only when the supervisor stops.
        let _ = self.0.send(Said {
            about: about.clone(),
            container: container.map(str::to_owned),
            warning,
            reason,
            message,
            at: Timestamp::now(),
        });
    }
}

/// What has been said, once nothing more comes for a moment; none at the end.
async fn gather(hear: &mut mpsc::UnboundedReceiver<Said>) -> Vec<Said> {
    let mut all: Vec<Said> = hear.recv().await.into_iter().collect();
    let late = Instant::now() + PATIENCE;
    while all.last().is_some_and(|said| !said.warning) {
        let next = late.min(Instant::now() + QUIET);
        match tokio::time::timeout_at(next, hear.recv()).await {
            Ok(Some(said)) => all.push(said),
            Ok(None) | Err(_) => break,
        }
    }
    all
}

async fn write(client: Client, node: String, mut hear: mpsc::UnboundedReceiver<Said>) {
    let mut known: BTreeMap<Key, (String, u32)> = BTreeMap::new();
    let mut number = 0_u32;
    let start = Timestamp::now().as_nanosecond() as u64;
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            waiting.extend(gather(&mut hear).await);
        }
        let Some(said) = waiting.pop_front() else {
            return;
        };
        let key = (
            said.about.uid.clone(),
            said.container.clone(),
            said.reason.to_owned(),
            said.message.clone(),
        );
        let namespace = if said.about.namespace.is_empty() {
            "default"
        } else {
            &said.about.namespace
        };
        if let Some((name, count)) = known.get_mut(&key) {
            *count += 1;
            let api: Api<Event> = Api::namespaced(client.clone(), namespace);
            let patch = Patch::Merge(json!({"count": *count, "lastTimestamp": time(said.at)}));
            if api
                .patch(name, &PatchParams::default(), &patch)
                .await
                .is_ok()
            {
                continue;
            }
        }
        number += 1;
        let name = format!(
            "{}.{:x}",
            said.about.name,
            start.wrapping_add(u64::from(number))
        );
        if create(&client, namespace, &name, &said, &node).await {
            if known.len() >= MEMORY {
                known.clear();
            }
            known.insert(key, (name, 1));
        }
    }
}

async fn create(client: &Client, namespace: &str, name: &str, said: &Said, node: &str) -> bool {
    let about = &said.about;
    let mut involved =
        json!({"apiVersion": "v1", "kind": about.kind, "name": about.name, "uid": about.uid});
    if !about.namespace.is_empty() {
        involved["namespace"] = json!(about.namespace);
    }
    if let Some(container) = &said.container {
        involved["fieldPath"] = json!(format!("spec.containers{{{container}}}"));
    }
    let at = time(said.at);
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace}, "involvedObject": involved,
        "type": if said.warning { "Warning" } else { "Normal" }, "reason": said.reason, "message": said.message, "count": 1,
        "firstTimestamp": at, "lastTimestamp": at, "source": {"component": "kubelet", "host": node},
        "reportingComponent": "kubelet", "reportingInstance": node,
    });
    // As text to text: nobody looks at the answer, and there are three of them for every pod.
    let request = Request::new(Event::url_path(&(), Some(namespace)))
        .create(&Default::default(), event.to_string().into_bytes())
        .map_err(kube::Error::BuildRequest);
    let created = match request {
        Ok(request) => client.request_text(request).await,
        Err(e) => Err(e),
    };
    match created {
        Ok(_) => true,
        // The namespace is on its way out, and the pod with it.
        Err(kube::Error::Api(e)) if e.code == 403 || e.code == 404 => false,
        Err(e) => {
            tracing::warn!(
                object = about.name,
                "cannot write an event ({}: {}): {e}",
                said.reason,
                said.message
            );
            false
        }
    }
}
