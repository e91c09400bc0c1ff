//! The scheduler: gives pods to nodes. One round places all waiting pods, each seeing where the ones before it went.
mod cluster;
mod filter;
mod resources;
mod score;

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, PodCondition, PodSpec};
use serde_json::json;

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta, nodematch, pods,
    write::{Note, Plan, Target, Tell, Write},
};
use cluster::Cluster;
use filter::Filter;
pub(crate) use resources::milli;

const SOURCE: &str = "default-scheduler";
const NAME: &str = "default-scheduler";
const SCHEDULED: &str = "PodScheduled";

/// The controller.
pub struct Scheduler;

impl Controller for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Node, Kind::Namespace]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        if let Some(pod) = change.after::<Pod>().filter(|pod| waits(pod)) {
            if change
                .before::<Pod>()
                .is_none_or(|old| asks_otherwise(old, pod))
            {
                keys.push(Key::of(&pod.metadata));
            }
        } else if may_help(change) {
            let waiting = world.all::<Pod>().group("").filter(|pod| waits(pod));
            keys.extend(waiting.map(|pod| Key::of(&pod.metadata)));
        }
    }

    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan {
        let plans = self.plan_all(vec![key.clone()], world, now);
        plans
            .into_iter()
            .next()
            .map(|(_, plan)| plan)
            .unwrap_or_default()
    }

    fn plan_all(&self, keys: Vec<Key>, world: &World, now: Now) -> Vec<(Key, Plan)> {
        let (mut waiting, mut plans) = (Vec::new(), Vec::new());
        for key in keys {
            match world.get::<Pod>(&key).filter(|pod| waits(pod)) {
                Some(pod) => waiting.push((key, pod.clone())),
                None => plans.push((key, Plan::none())),
            }
        }
        if waiting.is_empty() {
            return plans;
        }
        waiting.sort_by_cached_key(|(key, pod)| {
            let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
            (
                Reverse(priority.unwrap_or(0)),
                meta::created(&pod.metadata),
                key.clone(),
            )
        });
        let mut cluster = Cluster::new(world);
        for (key, pod) in waiting {
            let plan = place(&mut cluster, &pod, now);
            plans.push((key, plan));
        }
        plans
    }
}

/// Whether the pod is to be scheduled, and by us.
fn waits(pod: &Pod) -> bool {
    let ours = |spec: &PodSpec| {
        let scheduler = spec.scheduler_name.as_deref().unwrap_or_default();
        (scheduler.is_empty() || scheduler == NAME)
            && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
    };
    pods::node(pod).is_none() && pods::is_active(pod) && pod.spec.as_ref().is_some_and(ours)
}

/// Whether the pod itself has changed, and not only what was said of it.
fn asks_otherwise(old: &Pod, new: &Pod) -> bool {
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || old.metadata.uid != new.metadata.uid
}

/// Whether a pod that found no place might find one after the change.
fn may_help(change: &Change) -> bool {
    if change.kind() == Some(Kind::Namespace) {
        let labels = |n: &Arc<Namespace>| n.metadata.labels.clone();
        return change.before::<Namespace>().map(labels) != change.after::<Namespace>().map(labels);
    }
    if let Some(new) = change.after::<Node>() {
        return change
            .before::<Node>()
            .is_none_or(|old| node_differs(old, new));
    }
    let state = |pod: &Arc<Pod>| {
        (
            pods::node(pod).map(str::to_owned),
            pods::is_over(pod),
            meta::is_ending(&pod.metadata),
            pod.metadata.labels.clone(),
        )
    };
    let (old, new) = (change.before::<Pod>(), change.after::<Pod>());
    old.map(state) != new.map(state)
}

fn node_differs(old: &Node, new: &Node) -> bool {
    let limits = |node: &Node| {
        let status = node.status.as_ref();
        status.map(|s| (s.allocatable.clone(), s.capacity.clone()))
    };
    nodematch::differ(old, new) || limits(old) != limits(new)
}

/// Gives the pod the best of the nodes where it may be, or says why there is none.
fn place(cluster: &mut Cluster<'_>, pod: &Arc<Pod>, now: Now) -> Plan {
    let Some(spec) = &pod.spec else {
        return Plan::none();
    };
    match best(cluster, pod, spec) {
        Ok(index) => {
            let node = cluster.nodes[index].name().to_owned();
            cluster.place(index, pod.clone());
            vec![bind(pod, node)].into()
        }
        Err(message) => refuse(pod, &message, now),
    }
}

fn best(cluster: &Cluster<'_>, pod: &Pod, spec: &PodSpec) -> Result<usize, String> {
    let filter = Filter::new(cluster, pod, spec);
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let mut candidates = Vec::new();
    for (index, view) in cluster.nodes.iter().enumerate() {
        let reasons = filter.reasons(view);
        if reasons.is_empty() {
            candidates.push(index);
        }
        for reason in reasons {
            *refused.entry(reason).or_default() += 1;
        }
    }
    let scores = score::scores(cluster, &filter, spec, &candidates);
    let ranked = candidates.into_iter().zip(scores).map(|(index, score)| {
        let view = &cluster.nodes[index];
        (Reverse(score), view.pods.len(), view.name(), index)
    });
    match ranked.min() {
        Some((_, _, _, index)) => Ok(index),
        None => Err(refusal(cluster.nodes.len(), &refused)),
    }
}

/// Why no node of `all` will do, as people know it.
fn refusal(all: usize, reasons: &BTreeMap<String, usize>) -> String {
    if all == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut texts: Vec<String> = reasons
        .iter()
        .map(|(reason, n)| format!("{n} {reason}"))
        .collect();
    texts.sort();
    format!("0/{all} nodes are available: {}.", texts.join(", "))
}

fn bind(pod: &Pod, node: String) -> Write {
    let done = format!("Successfully assigned {} to {node}", Key::of(&pod.metadata));
    let failed = format!("Binding to {node} rejected: {{}}");
    Write::Bind {
        at: Target::of(pod),
        node,
        tell: Tell::done(Note::normal(SOURCE, pod, "Scheduled", done)).or(Note::warning(
            SOURCE,
            pod,
            "FailedScheduling",
            failed,
        )),
    }
}

/// The condition and the event, if they say something new.
fn refuse(pod: &Pod, message: &str, now: Now) -> Plan {
    let before = pods::condition(pod, SCHEDULED);
    if before.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(message)) {
        return Plan::none();
    }
    let since = before
        .filter(|c| c.status == "False")
        .and_then(|c| c.last_transition_time.clone());
    let condition = PodCondition {
        type_: SCHEDULED.into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message.into()),
        last_transition_time: since.or_else(|| Some(meta::time(now.wall))),
        ..PodCondition::default()
    };
    let mut status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != SCHEDULED);
    conditions.push(condition);
    let note = Note::warning(SOURCE, pod, "FailedScheduling", message);
    vec![
        Write::status(pod, pod.status.as_ref(), &status),
        Write::Note(note),
    ]
    .into()
}

/// The JSON of a binding.
pub(crate) fn binding(at: &Target, node: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": at.key.name, "namespace": at.key.namespace, "uid": at.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    })
}

#[cfg(test)]
mod tests;
