//! ReplicaSets: as many pods as wanted.
mod rank;

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
    core::v1::Pod,
};

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta,
    pods::{self, Availability},
    write::{Note, Plan, Tell, Write},
};

const SOURCE: &str = "replicaset-controller";
const NAME: &str = "replicaset";
/// The most pods made or removed at once.
const BURST: usize = 500;

/// The controller.
pub struct ReplicaSets;

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::ReplicaSet, Kind::Pod]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        keys.extend(change.key_of::<ReplicaSet>());
        for pod in change.each::<Pod>() {
            owners_of(pod, world, keys);
        }
    }

    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan {
        match world.get::<ReplicaSet>(key) {
            Some(set) => plan(set, key, world, now),
            None => Plan::none(),
        }
    }
}

/// The set that controls the pod, or those that might adopt it.
fn owners_of(pod: &Pod, world: &World, keys: &mut Vec<Key>) {
    let namespace = meta::namespace(&pod.metadata);
    if meta::controller_of(&pod.metadata).is_some() {
        let name = meta::controller_named::<ReplicaSet>(&pod.metadata);
        return keys.extend(name.map(|name| Key::new(namespace, name)));
    }
    let labels = pod.metadata.labels.as_ref();
    for set in world.all::<ReplicaSet>().in_namespace(namespace) {
        let selector = &set.spec.selector;
        if !meta::is_empty_selector(selector) && meta::selects(selector, labels) {
            keys.push(Key::of(&set.metadata));
        }
    }
}

fn plan(set: &ReplicaSet, key: &Key, world: &World, now: Now) -> Plan {
    let spec = &set.spec;
    if meta::is_empty_selector(&spec.selector) {
        return Plan::none();
    }
    let (all, adopting) = pods::claim(world, set, &spec.selector, pods::is_active);
    let active: Vec<Arc<Pod>> = all.into_iter().filter(|p| pods::is_active(p)).collect();
    let mut plan = Plan::from(adopting);
    if !meta::is_ending(&set.metadata) {
        scale(set, spec, &active, world, &mut plan);
    }
    let status = status(set, spec, &active, key, world, now, &mut plan);
    if set.status.as_ref() != Some(&status) {
        plan.push(Write::status(set, set.status.as_ref(), &status));
    }
    plan
}

fn scale(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    active: &[Arc<Pod>],
    world: &World,
    plan: &mut Plan,
) {
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        let Some(template) = &spec.template else {
            return;
        };
        let pod = pods::from_template(set, template);
        for _ in 0..(wanted - active.len()).min(BURST) {
            plan.push(Write::create(pod.clone(), told_created(set, SOURCE)));
        }
    }
    let surplus = active.len().saturating_sub(wanted).min(BURST);
    for pod in rank::first_to_go(set, active, world)
        .into_iter()
        .take(surplus)
    {
        plan.push(Write::delete(
            &**pod,
            told_deleted(set, &pod.metadata, SOURCE),
        ));
    }
}

/// The events about a pod that is made for `owner`.
pub(crate) fn told_created<K: crate::kinds::Kept>(owner: &K, source: &'static str) -> Tell {
    Tell::done(Note::normal(
        source,
        owner,
        "SuccessfulCreate",
        "Created pod: {}",
    ))
    .or(Note::warning(
        source,
        owner,
        "FailedCreate",
        "Error creating: {}",
    ))
}

/// The events about a pod of `owner` that is removed.
pub(crate) fn told_deleted<K: crate::kinds::Kept>(
    owner: &K,
    pod: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    source: &'static str,
) -> Tell {
    let done = format!("Deleted pod: {}", meta::name(pod));
    Tell::done(Note::normal(source, owner, "SuccessfulDelete", done)).or(Note::warning(
        source,
        owner,
        "FailedDelete",
        "Error deleting: {}",
    ))
}

fn status(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    active: &[Arc<Pod>],
    key: &Key,
    world: &World,
    now: Now,
    plan: &mut Plan,
) -> ReplicaSetStatus {
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let labels = spec
        .template
        .as_ref()
        .and_then(|t| t.metadata.as_ref()?.labels.as_ref());
    let (mut labelled, mut ready, mut available) = (0, 0, 0);
    for pod in active {
        let has = |(key, value): (&String, &String)| meta::label(&pod.metadata, key) == Some(value);
        labelled += i32::from(labels.into_iter().flatten().all(has));
        match pods::availability(pod, min_ready, now.wall) {
            Availability::Unready => {}
            Availability::After(left) => {
                ready += 1;
                plan.wake(left);
            }
            Availability::Available => {
                ready += 1;
                available += 1;
            }
        }
    }
    let old = set.status.clone().unwrap_or_default();
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: positive(labelled),
        ready_replicas: positive(ready),
        available_replicas: positive(available),
        observed_generation: set.metadata.generation,
        conditions: conditions(old.conditions, key, world, now),
        terminating_replicas: None,
    }
}

/// The one condition: that pods could not be made or removed.
fn conditions(
    old: Option<Vec<ReplicaSetCondition>>,
    key: &Key,
    world: &World,
    now: Now,
) -> Option<Vec<ReplicaSetCondition>> {
    const FAILURE: &str = "ReplicaFailure";
    let mut others = old.unwrap_or_default();
    let before = others
        .iter()
        .find(|c| c.type_.as_deref() == Some(FAILURE))
        .cloned();
    others.retain(|c| c.type_.as_deref() != Some(FAILURE));
    if let Some(failure) = world.failure(NAME, key) {
        let same = before.filter(|c| c.message.as_deref() == Some(&failure.message));
        others.push(same.unwrap_or_else(|| ReplicaSetCondition {
            type_: Some(FAILURE.into()),
            status: Some("True".into()),
            reason: Some("FailedCreate".into()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(meta::time(now.wall)),
        }));
    }
    (!others.is_empty()).then_some(others)
}

/// A number of objects as the API has it.
pub(crate) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The API leaves zeros out.
pub(crate) fn positive(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

#[cfg(test)]
mod tests;
