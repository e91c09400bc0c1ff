//! StatefulSets: pods with fixed names, made and replaced in order.
mod identity;
mod update;

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus},
    core::v1::Pod,
};

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    history::{self, HASH, History},
    meta,
    pods::{self, Availability},
    replicaset::positive,
    write::{Note, Plan, Write},
};

const SOURCE: &str = "statefulset-controller";

/// The controller.
pub struct StatefulSets;

impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::StatefulSet, Kind::ControllerRevision, Kind::Pod]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        keys.extend(change.key_of::<StatefulSet>());
        for revision in change.each::<ControllerRevision>() {
            let name = meta::controller_named::<StatefulSet>(&revision.metadata);
            keys.extend(name.map(|name| Key::new(meta::namespace(&revision.metadata), name)));
        }
        for pod in change.each::<Pod>() {
            owners_of(pod, world, keys);
        }
    }

    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan {
        match world.get::<StatefulSet>(key) {
            Some(set) if !meta::is_empty_selector(&set.spec.selector) => plan(set, world, now),
            _ => Plan::none(),
        }
    }
}

fn owners_of(pod: &Pod, world: &World, keys: &mut Vec<Key>) {
    let namespace = meta::namespace(&pod.metadata);
    if meta::controller_of(&pod.metadata).is_some() {
        let name = meta::controller_named::<StatefulSet>(&pod.metadata);
        return keys.extend(name.map(|name| Key::new(namespace, name)));
    }
    for set in world.all::<StatefulSet>().in_namespace(namespace) {
        if meta::selects(&set.spec.selector, pod.metadata.labels.as_ref()) {
            keys.push(Key::of(&set.metadata));
        }
    }
}

/// Everything a plan is made from.
struct View<'a> {
    set: &'a StatefulSet,
    /// The set's pods by ordinal.
    pods: Vec<(i32, Arc<Pod>)>,
    history: History,
    /// The version that pods had before the rollout that is under way.
    before: String,
    now: Now,
}

impl View<'_> {
    fn start(&self) -> i32 {
        self.set
            .spec
            .ordinals
            .as_ref()
            .and_then(|o| o.start)
            .unwrap_or(0)
    }

    fn end(&self) -> i32 {
        self.start()
            .saturating_add(self.set.spec.replicas.unwrap_or(1))
    }

    fn pod(&self, ordinal: i32) -> Option<&Arc<Pod>> {
        self.pods
            .iter()
            .find(|(n, _)| *n == ordinal)
            .map(|(_, pod)| pod)
    }

    /// One after the other, each only when those before are well.
    fn is_ordered(&self) -> bool {
        self.set.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn rolls(&self) -> bool {
        let strategy = self.set.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    }

    /// Pods with a lower ordinal keep their version.
    fn partition(&self) -> i32 {
        let strategy = self.set.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        rolling.and_then(|r| r.partition).unwrap_or(0)
    }

    fn availability(&self, pod: &Pod) -> Availability {
        if meta::is_ending(&pod.metadata) {
            return Availability::Unready;
        }
        let seconds = self.set.spec.min_ready_seconds.unwrap_or(0);
        pods::availability(pod, seconds, self.now.wall)
    }

    fn is_well(&self, pod: &Pod) -> bool {
        self.availability(pod) == Availability::Available
    }
}

fn plan(set: &StatefulSet, world: &World, now: Now) -> Plan {
    let mut plan = Plan::none();
    let spec = &set.spec;
    let history = history::sync(set, &spec.selector, &spec.template, world, &mut plan);
    // Only pods with a name of the set's can be its own.
    let (pods, adopting) = pods::claim(world, set, &spec.selector, |pod: &Pod| {
        pods::is_active(pod) && identity::ordinal(set, pod).is_some()
    });
    plan.writes.extend(adopting);
    let by_ordinal = |pod: Arc<Pod>| Some((identity::ordinal(set, &pod)?, pod));
    let mut pods: Vec<(i32, Arc<Pod>)> = pods.into_iter().filter_map(by_ordinal).collect();
    pods.sort_by_key(|(ordinal, _)| *ordinal);
    let before = set.status.as_ref().and_then(|s| s.current_revision.clone());
    let before = before.filter(|name| history.get(name).is_some());
    let view = View {
        set,
        pods,
        before: before.unwrap_or_else(|| history.current.clone()),
        history,
        now,
    };
    if !meta::is_ending(&set.metadata) {
        if spec
            .volume_claim_templates
            .as_ref()
            .is_some_and(|list| !list.is_empty())
        {
            let message = "volumeClaimTemplates are not served here: there are no persistent volumes; use emptyDir";
            plan.push(Write::Note(Note::warning(
                SOURCE,
                set,
                "FailedCreate",
                message,
            )));
        } else {
            update::step(&view, &mut plan);
        }
        let mut live: BTreeSet<String> = view
            .pods
            .iter()
            .filter_map(|(_, pod)| meta::label(&pod.metadata, HASH).map(str::to_owned))
            .collect();
        live.insert(view.before.clone());
        view.history
            .truncate(spec.revision_history_limit, &live, &mut plan);
    }
    tell(&view, &mut plan);
    plan
}

fn tell(view: &View<'_>, plan: &mut Plan) {
    let old = view.set.status.clone().unwrap_or_default();
    let (mut ready, mut available, mut current, mut updated, mut replicas) = (0, 0, 0, 0, 0);
    for (_, pod) in view.pods.iter().filter(|(_, pod)| !pods::is_over(pod)) {
        replicas += 1;
        let state = view.availability(pod);
        if let Availability::After(left) = state {
            plan.wake(left);
        }
        ready += i32::from(state != Availability::Unready);
        available += i32::from(state == Availability::Available);
        if !meta::is_ending(&pod.metadata) {
            let version = meta::label(&pod.metadata, HASH);
            current += i32::from(version == Some(&view.before));
            updated += i32::from(version == Some(&view.history.current));
        }
    }
    let all = view.set.spec.replicas.unwrap_or(1);
    let mut before = view.before.clone();
    // The rollout is over: what was new is what there is.
    let over = updated == replicas && replicas == all && ready == replicas && view.rolls();
    if over {
        before.clone_from(&view.history.current);
        current = updated;
    }
    let status = StatefulSetStatus {
        replicas,
        ready_replicas: positive(ready),
        // Unlike the others this one is never left out: zero is told as zero.
        available_replicas: Some(available),
        current_replicas: positive(current),
        updated_replicas: positive(updated),
        current_revision: Some(before),
        update_revision: Some(view.history.current.clone()),
        observed_generation: view.set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    if view.set.status.as_ref() != Some(&status) {
        plan.push(Write::status(view.set, view.set.status.as_ref(), &status));
    }
}

#[cfg(test)]
mod tests;
