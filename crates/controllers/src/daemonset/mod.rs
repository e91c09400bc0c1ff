//! DaemonSets: a pod on every node that suits.
mod fit;
mod update;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus},
    core::v1::{Node, Pod},
};

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    history::{self, HASH, History},
    meta, nodematch,
    pods::{self, Availability},
    replicaset::{count, positive, told_created, told_deleted},
    write::{Note, Plan, Tell, Write},
};

const SOURCE: &str = "daemonset-controller";
/// The most pods made at once.
const BURST: usize = 250;
/// A pod that fails at once is not replaced more often than this.
const FAILED_AGE: Duration = Duration::from_secs(5);

/// The controller.
pub struct DaemonSets;

impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset"
    }

    fn needs(&self) -> &'static [Kind] {
        &[
            Kind::DaemonSet,
            Kind::ControllerRevision,
            Kind::Pod,
            Kind::Node,
        ]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        keys.extend(change.key_of::<DaemonSet>());
        for revision in change.each::<ControllerRevision>() {
            let name = meta::controller_named::<DaemonSet>(&revision.metadata);
            keys.extend(name.map(|name| Key::new(meta::namespace(&revision.metadata), name)));
        }
        for pod in change.each::<Pod>() {
            owners_of(pod, world, keys);
        }
        if change.kind() == Some(Kind::Node) && concerns(change) {
            let all = world.all::<DaemonSet>().iter();
            keys.extend(all.map(|set| Key::of(&set.metadata)));
        }
    }

    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan {
        match world.get::<DaemonSet>(key) {
            Some(set) if !meta::is_empty_selector(&set.spec.selector) => plan(set, world, now),
            _ => Plan::none(),
        }
    }
}

fn concerns(change: &Change) -> bool {
    let (old, new) = (change.before::<Node>(), change.after::<Node>());
    old.zip(new)
        .is_none_or(|(old, new)| nodematch::differ(old, new))
}

fn owners_of(pod: &Pod, world: &World, keys: &mut Vec<Key>) {
    let namespace = meta::namespace(&pod.metadata);
    if meta::controller_of(&pod.metadata).is_some() {
        let name = meta::controller_named::<DaemonSet>(&pod.metadata);
        return keys.extend(name.map(|name| Key::new(namespace, name)));
    }
    for set in world.all::<DaemonSet>().in_namespace(namespace) {
        if meta::selects(&set.spec.selector, pod.metadata.labels.as_ref()) {
            keys.push(Key::of(&set.metadata));
        }
    }
}

/// A node as one set sees it.
struct Place<'a> {
    node: &'a Node,
    /// The set wants a pod here.
    wanted: bool,
    /// A pod that is here may stay.
    tolerated: bool,
    /// The set's pods here, oldest first.
    pods: Vec<Arc<Pod>>,
}

/// Everything a plan is made from.
struct View<'a> {
    set: &'a DaemonSet,
    places: Vec<Place<'a>>,
    /// The fingerprint of the current template.
    hash: String,
    now: Now,
}

impl View<'_> {
    fn desired(&self) -> usize {
        self.places.iter().filter(|place| place.wanted).count()
    }

    fn is_current(&self, pod: &Pod) -> bool {
        meta::label(&pod.metadata, HASH) == Some(&self.hash)
    }

    fn availability(&self, pod: &Pod) -> Availability {
        if meta::is_ending(&pod.metadata) {
            return Availability::Unready;
        }
        let seconds = self.set.spec.min_ready_seconds.unwrap_or(0);
        pods::availability(pod, seconds, self.now.wall)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        self.availability(pod) == Availability::Available
    }
}

fn plan(set: &DaemonSet, world: &World, now: Now) -> Plan {
    let mut plan = Plan::none();
    let spec = &set.spec;
    let history = history::sync(set, &spec.selector, &spec.template, world, &mut plan);
    let (pods, adopting) = pods::claim(world, set, &spec.selector, pods::is_active);
    plan.writes.extend(adopting);
    let live: BTreeSet<String> = pods
        .iter()
        .filter_map(|pod| meta::label(&pod.metadata, HASH).map(str::to_owned))
        .collect();
    let view = view(set, pods, &history, world, now);
    if !meta::is_ending(&set.metadata) {
        let before = plan.writes.len();
        manage(&view, &mut plan);
        // What is missing comes first; then the next pods are replaced.
        if plan.writes.len() == before {
            update::step(&view, &mut plan);
        }
        history.truncate(spec.revision_history_limit, &live, &mut plan);
    }
    tell(&view, &mut plan);
    plan
}

fn view<'a>(
    set: &'a DaemonSet,
    pods: Vec<Arc<Pod>>,
    history: &History,
    world: &'a World,
    now: Now,
) -> View<'a> {
    let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = fit::node_of(&pod) {
            by_node.entry(node.to_owned()).or_default().push(pod);
        }
    }
    let place = |node: &'a Arc<Node>| {
        let (wanted, tolerated) = fit::suits(set, node);
        let pods = by_node.remove(meta::name(&node.metadata));
        let mut pods = pods.unwrap_or_default();
        pods.sort_by_key(|pod| (meta::created(&pod.metadata), Key::of(&pod.metadata)));
        Place {
            node,
            wanted,
            tolerated,
            pods,
        }
    };
    View {
        set,
        places: world.all::<Node>().iter().map(place).collect(),
        hash: history.hash.clone(),
        now,
    }
}

/// A pod where one is missing, none where none should be.
fn manage(view: &View<'_>, plan: &mut Plan) {
    let mut made = 0;
    for place in &view.places {
        if place.wanted && place.pods.is_empty() && made < BURST {
            create(view, place, plan);
            made += 1;
        }
        if place.tolerated {
            tidy(view, place, plan);
        } else {
            for pod in place.pods.iter().filter(|p| !meta::is_ending(&p.metadata)) {
                delete(view, pod, plan);
            }
        }
    }
}

fn create(view: &View<'_>, place: &Place<'_>, plan: &mut Plan) {
    let pod = fit::pod_for(view.set, &view.hash, meta::name(&place.node.metadata));
    plan.push(Write::create(pod, told_created(view.set, SOURCE)));
}

fn delete(view: &View<'_>, pod: &Pod, plan: &mut Plan) {
    let tell = told_deleted(view.set, &pod.metadata, SOURCE);
    plan.push(Write::delete(pod, tell));
}

/// Pods that are over make room; of several only the oldest stays (with a surge: the oldest of each version).
fn tidy(view: &View<'_>, place: &Place<'_>, plan: &mut Plan) {
    let living = place.pods.iter().filter(|p| !meta::is_ending(&p.metadata));
    let (over, running): (Vec<_>, Vec<_>) = living.partition(|pod| pods::is_over(pod));
    for pod in over {
        let age = view.now.wall.duration_since(meta::created(&pod.metadata));
        let age = Duration::try_from(age).unwrap_or_default();
        match FAILED_AGE.checked_sub(age) {
            Some(left) if !left.is_zero() => plan.wake(left),
            _ => replace_over(view, place, pod, plan),
        }
    }
    let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| view.is_current(pod));
    let surge = update::max_surge(view) > 0;
    let keep = if surge {
        1
    } else {
        usize::from(old.is_empty())
    };
    for pod in old.iter().skip(1).chain(new.iter().skip(keep)) {
        delete(view, pod, plan);
    }
}

fn replace_over(view: &View<'_>, place: &Place<'_>, pod: &Pod, plan: &mut Plan) {
    let (phase, reason) = match pods::phase(pod) {
        "Failed" => ("failed", "FailedDaemonPod"),
        _ => ("succeeded", "SucceededDaemonPod"),
    };
    let message = format!(
        "Found {phase} daemon pod {} on node {}, will try to delete it",
        Key::of(&pod.metadata),
        meta::name(&place.node.metadata)
    );
    plan.push(Write::Note(Note::warning(
        SOURCE, view.set, reason, message,
    )));
    plan.push(Write::delete(pod, Tell::nothing()));
}

fn tell(view: &View<'_>, plan: &mut Plan) {
    let old = view.set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: view.set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    for place in &view.places {
        if place.pods.is_empty() {
            status.desired_number_scheduled += i32::from(place.wanted);
            continue;
        }
        if !place.wanted {
            status.number_misscheduled += 1;
            continue;
        }
        status.desired_number_scheduled += 1;
        status.current_number_scheduled += 1;
        updated += i32::from(place.pods.iter().any(|pod| view.is_current(pod)));
        let states: Vec<_> = place
            .pods
            .iter()
            .map(|pod| view.availability(pod))
            .collect();
        for state in &states {
            if let Availability::After(left) = state {
                plan.wake(*left);
            }
        }
        let ready = states.iter().any(|state| *state != Availability::Unready);
        status.number_ready += i32::from(ready);
        available += i32::from(states.contains(&Availability::Available));
    }
    status.number_available = positive(available);
    status.number_unavailable = positive(status.desired_number_scheduled - available);
    status.updated_number_scheduled = positive(updated);
    if view.set.status.as_ref() != Some(&status) {
        plan.push(Write::status(view.set, view.set.status.as_ref(), &status));
    }
}

/// The number of nodes as the API has it.
fn desired(view: &View<'_>) -> i32 {
    count(view.desired())
}

#[cfg(test)]
mod tests;
