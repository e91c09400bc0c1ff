//! Small questions about pods, and pods made from templates.
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde_json::json;

use std::sync::Arc;

use crate::{
    World,
    kinds::Kept,
    meta,
    write::{Tell, Write},
};

/// The pod's phase; a new pod is pending.
pub fn phase(pod: &Pod) -> &str {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    phase.filter(|p| !p.is_empty()).unwrap_or("Pending")
}

/// Whether all its containers have ended for good.
pub fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it counts: neither over nor about to go.
pub fn is_active(pod: &Pod) -> bool {
    !is_over(pod) && !meta::is_ending(&pod.metadata)
}

/// The node it is on.
pub fn node(pod: &Pod) -> Option<&str> {
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    (!node.is_empty()).then_some(node)
}

/// One of its conditions.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether it is ready.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when it is ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready").filter(|c| c.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether it has been ready for the time wanted; else how long that takes if it stays ready.
pub fn availability(pod: &Pod, min_ready: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::Unready;
    }
    let wanted = Duration::from_secs(u64::try_from(min_ready).unwrap_or(0));
    let since = ready_since(pod).unwrap_or(now);
    let been = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    match wanted.checked_sub(been).filter(|left| !left.is_zero()) {
        None => Availability::Available,
        Some(left) => Availability::After(left),
    }
}

/// See [`availability`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Not ready.
    Unready,
    /// Ready, but not for long enough: available after this time.
    After(Duration),
    /// Ready for long enough.
    Available,
}

/// Restarts of its containers, all together.
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .map(|s| s.restart_count)
        .sum()
}

/// A pod of a template, controlled by `owner`. It has no name yet, only the owner's as a start.
pub fn from_template<K: Kept>(owner: &K, template: &PodTemplateSpec) -> Pod {
    let wanted = template.metadata.clone().unwrap_or_default();
    let parent = owner.metadata();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", meta::name(parent))),
            namespace: parent.namespace.clone(),
            labels: wanted.labels,
            annotations: wanted.annotations,
            finalizers: wanted.finalizers,
            owner_references: Some(vec![meta::owner_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The objects that belong to an owner by its selector, and the writes that make it so: orphans that fit are adopted,
/// owned ones that do not fit any more are let go.
pub fn claim<O: Kept, T: Kept>(
    world: &World,
    owner: &O,
    selector: &LabelSelector,
    adoptable: impl Fn(&T) -> bool,
) -> (Vec<Arc<T>>, Vec<Write>) {
    let (meta, mut mine, mut writes) = (owner.metadata(), Vec::new(), Vec::new());
    let (namespace, uid, ending) = (
        meta::namespace(meta),
        meta::uid(meta),
        meta::is_ending(meta),
    );
    let fits = |object: &T| meta::selects(selector, object.metadata().labels.as_ref());
    for object in world.all::<T>().owned(namespace, uid) {
        if fits(object) {
            mine.push(object.clone());
        } else if !ending && !meta::is_ending(object.metadata()) {
            writes.push(release(owner, &**object));
        }
    }
    if ending {
        return (mine, writes);
    }
    for object in world.all::<T>().owned(namespace, "") {
        if fits(object) && !meta::is_ending(object.metadata()) && adoptable(object) {
            writes.push(adopt(owner, &**object));
            mine.push(object.clone());
        }
    }
    (mine, writes)
}

fn adopt<O: Kept, T: Kept>(owner: &O, object: &T) -> Write {
    let mut owners = object
        .metadata()
        .owner_references
        .clone()
        .unwrap_or_default();
    owners.push(meta::owner_reference(owner));
    let patch = json!({"metadata": {"ownerReferences": owners}});
    Write::patch(object, patch, Tell::nothing())
}

fn release<O: Kept, T: Kept>(owner: &O, object: &T) -> Write {
    let uid = meta::uid(owner.metadata());
    let mut owners = object
        .metadata()
        .owner_references
        .clone()
        .unwrap_or_default();
    owners.retain(|reference| reference.uid != uid);
    let owners = (!owners.is_empty()).then_some(owners);
    let patch = json!({"metadata": {"ownerReferences": owners}});
    Write::patch(object, patch, Tell::nothing())
}
