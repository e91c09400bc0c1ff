//! Pods that nobody will ever end: those of nodes that are gone, those that end before they had a node, and old ones that
//! are over.
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta, pods,
    write::{Plan, Tell, Write},
};

/// So many pods that are over may stay.
const OVER: usize = 12_500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The controller.
pub struct Collector {
    /// How long the pods of a node that is gone are left alone: it may come back.
    pub grace: Duration,
}

impl Controller for Collector {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Pod]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        let node = change.kind() == Some(Kind::Node);
        let lost = |pod: &Pod| match pods::node(pod) {
            None => meta::is_ending(&pod.metadata),
            Some(node) => world.get::<Node>(&Key::new("", node)).is_none(),
        };
        let pod = change
            .after::<Pod>()
            .is_some_and(|p| lost(p) || pods::is_over(p));
        if node || pod {
            keys.push(Key::default());
        }
    }

    fn plan(&self, _: &Key, world: &World, now: Now) -> Plan {
        let mut plan = Plan::none();
        for node in world.all::<Pod>().groups().filter(|node| !node.is_empty()) {
            if let Some(since) = world.gone_since(node) {
                let gone = now.steady.saturating_sub(since);
                match self.grace.checked_sub(gone) {
                    Some(left) if !left.is_zero() => plan.wake(left),
                    _ => remove(world.all::<Pod>().group(node), &mut plan),
                }
            } else if is_out_of_service(node, world) {
                let ending = world.all::<Pod>().group(node);
                remove(ending.filter(|p| meta::is_ending(&p.metadata)), &mut plan);
            }
        }
        let homeless = world.all::<Pod>().group("");
        remove(homeless.filter(|p| meta::is_ending(&p.metadata)), &mut plan);
        drop_old(world, &mut plan);
        plan
    }
}

fn remove<'a>(pods: impl Iterator<Item = &'a std::sync::Arc<Pod>>, plan: &mut Plan) {
    plan.writes
        .extend(pods.map(|pod| Write::delete_now(&**pod, Tell::nothing())));
}

/// Somebody has said that the node is down for sure.
fn is_out_of_service(node: &str, world: &World) -> bool {
    let node = world.get::<Node>(&Key::new("", node));
    node.is_some_and(|node| {
        let mut taints = crate::nodematch::taints(node).iter();
        let ready = meta::node_condition(node, "Ready").is_some_and(|c| c.status == "True");
        !ready && taints.any(|taint| taint.key == OUT_OF_SERVICE)
    })
}

fn drop_old(world: &World, plan: &mut Plan) {
    if world.all::<Pod>().len() <= OVER {
        return;
    }
    let over = world
        .all::<Pod>()
        .iter()
        .filter(|p| pods::is_over(p) && !meta::is_ending(&p.metadata));
    let mut over: Vec<_> = over.collect();
    over.sort_by_key(|pod| meta::created(&pod.metadata));
    let surplus = over.len().saturating_sub(OVER);
    remove(over.into_iter().take(surplus), plan);
}
