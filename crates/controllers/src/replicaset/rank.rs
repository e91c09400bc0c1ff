//! Which pods go first when there are too many.
use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};

use crate::{World, meta, pods};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The pods, those that are missed least first: without a node, not running, not ready, cheap to delete, beside many of the
/// same on one node, ready for a short time, restarted often, young.
pub(super) fn first_to_go<'a>(
    set: &ReplicaSet,
    active: &'a [Arc<Pod>],
    world: &World,
) -> Vec<&'a Arc<Pod>> {
    let crowd = crowd(set, world);
    let mut pods: Vec<&Arc<Pod>> = active.iter().collect();
    pods.sort_by_cached_key(|pod| {
        let phase = match pods::phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let node = pods::node(pod);
        let cost = meta::annotation(&pod.metadata, DELETION_COST);
        let cost: i32 = cost.and_then(|text| text.parse().ok()).unwrap_or(0);
        let beside = node.and_then(|node| crowd.get(node)).copied();
        (
            (node.is_some(), phase, pods::is_ready(pod), cost),
            Reverse(beside.unwrap_or(0)),
            Reverse(pods::ready_since(pod)),
            Reverse(pods::restarts(pod)),
            Reverse(meta::created(&pod.metadata)),
            meta::name(&pod.metadata).to_owned(),
        )
    });
    pods
}

/// How many active pods of the set and its siblings (the sets of the same owner) are on each node.
fn crowd(set: &ReplicaSet, world: &World) -> BTreeMap<String, usize> {
    let namespace = meta::namespace(&set.metadata);
    let own = meta::uid(&set.metadata);
    let siblings = meta::controller_of(&set.metadata).map(|owner| owner.uid.as_str());
    let siblings = siblings
        .into_iter()
        .flat_map(|owner| world.all::<ReplicaSet>().owned(namespace, owner))
        .map(|sibling| meta::uid(&sibling.metadata))
        .filter(|uid| *uid != own);
    let mut crowd = BTreeMap::new();
    for uid in siblings.chain([own]) {
        let pods = world.all::<Pod>().owned(namespace, uid);
        for node in pods
            .filter(|p| pods::is_active(p))
            .filter_map(|p| pods::node(p))
        {
            *crowd.entry(node.to_owned()).or_default() += 1;
        }
    }
    crowd
}
