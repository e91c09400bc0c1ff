//! What goes wrong with objects, as events that `kubectl describe` and `kubectl get events` show.
use crate::{
    Client,
    error::{is_conflict, says},
    write::Objects,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Where events about objects without a namespace are.
const NAMESPACE: &str = "default";
/// How long one write may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How many events are counted; of the others, repetitions begin anew.
const COUNTED: usize = 10_000;

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its kind.
    pub kind: &'static str,
    /// Group and version of its kind.
    pub api_version: String,
    /// Empty for objects that belong to none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique number.
    pub uid: String,
}

impl About {
    /// Namespace of the event.
    fn place(&self) -> &str {
        match self.namespace.as_str() {
            "" => NAMESPACE,
            namespace => namespace,
        }
    }
}

/// Writes events; cheap to clone.
#[derive(Clone)]
pub struct Events {
    client: Client,
    /// Who says so.
    component: &'static str,
    counts: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Events {
    /// Writes as `component`.
    #[must_use]
    pub fn new(client: &Client, component: &'static str) -> Self {
        Self {
            client: client.clone(),
            component,
            counts: Arc::default(),
        }
    }

    /// Says that something is wrong with an object; whether the event is written. One that is not is lost, unless the caller says
    /// it again: what matters stands in the objects.
    pub async fn warn(&self, about: &About, reason: &str, message: &str) -> bool {
        let name = name(about, reason, message);
        let count = self.count(&name);
        let told = Told {
            component: self.component,
            reason,
            message,
            count,
        };
        let value = event(about, &name, &told, Timestamp::now());
        let again = json!({"count": count.max(2), "lastTimestamp": value["lastTimestamp"]});
        let objects = Objects::core(&self.client, "Event", "events", Some(about.place()));
        let work = async {
            match objects.create(value).await {
                Err(error) if is_conflict(&error) => {
                    objects.merge(&name, again, None).await.map(drop)
                }
                other => other.map(drop),
            }
        };
        match tokio::time::timeout(LIMIT, work).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::debug!(event = name, error = says(&error), "event lost"),
            Err(_) => tracing::debug!(event = name, "event lost: no answer in time"),
        }
        false
    }

    fn count(&self, name: &str) -> u32 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTED {
            counts.clear();
        }
        let count = counts.entry(name.to_owned()).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }
}

/// The same for the same thing said of the same object, in this process and the next.
fn name(about: &About, reason: &str, message: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for text in [about.kind, &about.uid, reason, message] {
        for byte in text.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{}.{hash:016x}", about.name)
}

/// What an event says.
struct Told<'a> {
    component: &'static str,
    reason: &'a str,
    message: &'a str,
    count: u32,
}

fn event(about: &About, name: &str, told: &Told<'_>, now: Timestamp) -> Value {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut object = json!({"kind": about.kind, "apiVersion": about.api_version, "name": about.name, "uid": about.uid});
    if !about.namespace.is_empty() {
        object["namespace"] = about.namespace.clone().into();
    }
    json!({
        "metadata": {"name": name, "namespace": about.place()},
        "involvedObject": object,
        "type": "Warning", "reason": told.reason, "message": told.message,
        "source": {"component": told.component}, "reportingComponent": told.component, "reportingInstance": told.component,
        "count": told.count, "firstTimestamp": now, "lastTimestamp": now,
    })
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_event_has_the_same_name() {
        let about = |uid: &str| About {
            kind: "CiliumNode",
            api_version: "cilium.io/v2".to_owned(),
            namespace: String::new(),
            name: "n1".to_owned(),
            uid: uid.to_owned(),
        };
        let one = name(&about("a"), "R", "m");
        assert!(one.starts_with("n1.") && one.len() == 3 + 16);
        assert_eq!(one, name(&about("a"), "R", "m"));
        assert!(one != name(&about("b"), "R", "m") && one != name(&about("a"), "R", "n"));
    }
}
