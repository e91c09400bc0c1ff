//! Pods go from nodes with taints that they cannot live with, or not for longer than they said.
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, PodSpec, Taint, Toleration};

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta, nodematch, pods,
    write::{Note, Plan, Tell, Write},
};

const SOURCE: &str = "taint-eviction-controller";
/// How long pods that say nothing of it live on a node that is not ready: what admission gives every pod elsewhere.
const DEFAULT: Duration = Duration::from_secs(300);

/// The controller.
pub struct Evictions;

impl Controller for Evictions {
    fn name(&self) -> &'static str {
        "taint-eviction"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Pod]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        if let Some(pod) = change.after::<Pod>() {
            let node = pods::node(pod).and_then(|name| world.get::<Node>(&Key::new("", name)));
            if node.is_some_and(|node| evicting(node).next().is_some()) {
                keys.push(Key::of(&pod.metadata));
            }
        }
        if let Some(node) = change.after::<Node>() {
            let old = change.before::<Node>();
            if old.is_none_or(|old| nodematch::taints(old) != nodematch::taints(node)) {
                let on_node = world.all::<Pod>().group(meta::name(&node.metadata));
                keys.extend(on_node.map(|pod| Key::of(&pod.metadata)));
            }
        }
    }

    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan {
        let pod = world.get::<Pod>(key).filter(|pod| pods::is_active(pod));
        let Some((pod, spec)) = pod.and_then(|pod| Some((pod, pod.spec.as_ref()?))) else {
            return Plan::none();
        };
        let node = pods::node(pod).and_then(|name| world.get::<Node>(&Key::new("", name)));
        let times = node.into_iter().flat_map(|node| evicting(node));
        let left = times.filter_map(|taint| time_left(spec, taint, now)).min();
        match left {
            None => Plan::none(),
            Some(left) if left.is_zero() => evict(pod, now),
            Some(left) => {
                let mut plan = Plan::none();
                plan.wake(left);
                plan
            }
        }
    }
}

fn evicting(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = nodematch::taints(node).iter();
    taints.filter(|taint| taint.effect == "NoExecute")
}

/// How long the pod may live with the taint; none if for ever.
fn time_left(spec: &PodSpec, taint: &Taint, now: Now) -> Option<Duration> {
    let tolerations = nodematch::tolerations(spec).iter();
    let matching: Vec<&Toleration> = tolerations
        .filter(|toleration| nodematch::tolerates(toleration, taint))
        .collect();
    let usual = [nodematch::NOT_READY, nodematch::UNREACHABLE].contains(&taint.key.as_str());
    let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let allowed = if !matching.is_empty() {
        let limits = matching.iter().filter_map(|t| t.toleration_seconds);
        limits.map(seconds).min()?
    } else if usual {
        DEFAULT
    } else {
        Duration::ZERO
    };
    let added = taint.time_added.as_ref().map_or(now.wall, |time| time.0);
    let been = Duration::try_from(now.wall.duration_since(added)).unwrap_or_default();
    Some(allowed.saturating_sub(been))
}

fn evict(pod: &Pod, now: Now) -> Plan {
    let mut status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("DeletionByTaintManager".into()),
        message: Some("Taint manager: deleting due to NoExecute taint".into()),
        last_transition_time: Some(meta::time(now.wall)),
        ..PodCondition::default()
    });
    let message = format!("Marking for deletion Pod {}", Key::of(&pod.metadata));
    let note = Note::normal(SOURCE, pod, "TaintManagerEviction", message);
    vec![
        Write::status(pod, pod.status.as_ref(), &status),
        Write::delete(pod, Tell::done(note)),
    ]
    .into()
}
