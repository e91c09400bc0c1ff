//! Nodes that fall silent count as lost, and taints say what state a node is in.
use std::time::Duration;

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, NodeCondition, Pod, Taint},
};
use serde_json::json;

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta, nodematch, pods,
    world::NODE_LEASES,
    write::{Note, Plan, Tell, Write},
};

const SOURCE: &str = "node-controller";
/// What a silent node can say nothing about.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that close a node to new pods while they are true, and their taints.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// The controller.
pub struct Lifecycle {
    /// How long a node may be silent.
    pub grace: Duration,
}

impl Controller for Lifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Lease, Kind::Pod]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        keys.extend(change.key_of::<Node>());
        let lease = change.key_of::<Lease>();
        let lease = lease.filter(|key| key.namespace == NODE_LEASES);
        // A node that counts as lost and is heard of again says so itself; a lease only puts the next look off.
        let node = lease.map(|key| Key::new("", key.name));
        keys.extend(node.filter(|key| world.get::<Node>(key).is_some_and(|n| is_unknown(n))));
    }

    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan {
        let Some(node) = world.get::<Node>(key) else {
            return Plan::none();
        };
        let mut plan = Plan::none();
        let heard = world.heartbeat(&key.name).unwrap_or(world.started);
        let silent = now.steady.saturating_sub(heard);
        match self.grace.checked_sub(silent) {
            Some(left) if !left.is_zero() => plan.wake(left),
            _ => lost(node, now, &mut plan),
        }
        taint(node, now, &mut plan);
        if is_unknown(node) {
            unready(node, world, now, &mut plan);
        }
        plan
    }
}

fn is_unknown(node: &Node) -> bool {
    meta::node_condition(node, "Ready").is_some_and(|c| c.status == "Unknown")
}

/// Says that nothing is known of the node.
fn lost(node: &Node, now: Now, plan: &mut Plan) {
    if is_unknown(node) {
        return;
    }
    let mut status = node.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    for kind in CONDITIONS {
        let unknown = |before: Option<&NodeCondition>| NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some("NodeStatusUnknown".into()),
            message: Some("Kubelet stopped posting node status.".into()),
            last_heartbeat_time: before.and_then(|c| c.last_heartbeat_time.clone()),
            last_transition_time: Some(meta::time(now.wall)),
        };
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(condition) => *condition = unknown(Some(condition)),
            None => conditions.push(unknown(None)),
        }
    }
    plan.push(Write::status(node, node.status.as_ref(), &status));
    let message = format!(
        "Node {} status is now: NodeNotReady",
        meta::name(&node.metadata)
    );
    plan.push(Write::Note(Note::normal(
        SOURCE,
        node,
        "NodeNotReady",
        message,
    )));
}

/// The taints that the node's state calls for, as key and effect.
fn called_for(node: &Node) -> Vec<(&'static str, &'static str)> {
    let status = |kind: &str| meta::node_condition(node, kind).map(|c| c.status.as_str());
    let mut wanted = match status("Ready") {
        Some("True") => Vec::new(),
        Some("Unknown") => vec![
            (nodematch::UNREACHABLE, "NoSchedule"),
            (nodematch::UNREACHABLE, "NoExecute"),
        ],
        Some(_) => vec![
            (nodematch::NOT_READY, "NoSchedule"),
            (nodematch::NOT_READY, "NoExecute"),
        ],
        // It has not said anything yet.
        None => vec![(nodematch::NOT_READY, "NoSchedule")],
    };
    let pressed = PRESSURES
        .iter()
        .filter(|(kind, _)| status(kind) == Some("True"));
    wanted.extend(pressed.map(|(_, taint)| (*taint, "NoSchedule")));
    if nodematch::is_cordoned(node) {
        wanted.push((nodematch::UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// Whether a taint is one that this controller sets and removes.
fn is_ours(taint: &Taint) -> bool {
    let simple = [
        nodematch::NOT_READY,
        nodematch::UNREACHABLE,
        nodematch::UNSCHEDULABLE,
    ];
    let mut keys = simple
        .into_iter()
        .chain(PRESSURES.iter().map(|(_, key)| *key));
    taint.effect != "PreferNoSchedule" && keys.any(|key| key == taint.key)
}

fn taint(node: &Node, now: Now, plan: &mut Plan) {
    let wanted = called_for(node);
    let is_wanted = |taint: &Taint| {
        wanted
            .iter()
            .any(|(key, effect)| taint.key == *key && taint.effect == *effect)
    };
    let before = nodematch::taints(node);
    let kept = before
        .iter()
        .filter(|taint| !is_ours(taint) || is_wanted(taint));
    let mut taints: Vec<Taint> = kept.cloned().collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|t| t.key == *key && t.effect == *effect) {
            taints.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added: Some(meta::time(now.wall)),
                value: None,
            });
        }
    }
    if taints != before {
        let taints = (!taints.is_empty()).then_some(taints);
        let patch = json!({"spec": {"taints": taints}});
        plan.push(Write::patch(node, patch, Tell::nothing()));
    }
}

/// The pods of a node that is lost are not ready, as far as anybody can know.
fn unready(node: &Node, world: &World, now: Now, plan: &mut Plan) {
    let on_node = world.all::<Pod>().group(meta::name(&node.metadata));
    for pod in on_node.filter(|pod| pods::is_ready(pod)) {
        let mut status = pod.status.clone().unwrap_or_default();
        for condition in status.conditions.iter_mut().flatten() {
            if condition.type_ == "Ready" {
                condition.status = "False".into();
                condition.last_transition_time = Some(meta::time(now.wall));
            }
        }
        plan.push(Write::status(&**pod, pod.status.as_ref(), &status));
    }
}
