//! Deployments: a ReplicaSet per version of the template, and the way from one to the next.
//!
//! Numbers of pods are taken from the sets' specs and from the pods that are there, whichever is more: so that a set that
//! was just made smaller does not make room before its pods are gone.
mod revision;
mod rolling;
mod scale;
mod status;

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentSpec, ReplicaSet},
    core::v1::Pod,
};
use serde_json::json;

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta, pods,
    replicaset::count,
    write::{Note, Plan, Tell, Write},
};

const SOURCE: &str = "deployment-controller";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// The controller.
pub struct Deployments;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Deployment, Kind::ReplicaSet, Kind::Pod]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        keys.extend(change.key_of::<Deployment>());
        for set in change.each::<ReplicaSet>() {
            owners_of(set, world, keys);
        }
        // Whether old pods are there still matters to the strategy that waits for their end.
        let gone = change.new.is_none() || change.after::<Pod>().is_some_and(|p| pods::is_over(p));
        if gone && let Some(pod) = change.each::<Pod>().last() {
            let namespace = meta::namespace(&pod.metadata);
            let set = meta::controller_named::<ReplicaSet>(&pod.metadata)
                .and_then(|name| world.get::<ReplicaSet>(&Key::new(namespace, name)));
            keys.extend(set.and_then(|set| deployment_of(set)));
        }
    }

    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan {
        let Some(deployment) = world.get::<Deployment>(key) else {
            return Plan::none();
        };
        if meta::is_empty_selector(&deployment.spec.selector) {
            return Plan::none();
        }
        plan(deployment, &deployment.spec, world, now)
    }
}

fn deployment_of(set: &ReplicaSet) -> Option<Key> {
    let name = meta::controller_named::<Deployment>(&set.metadata)?;
    Some(Key::new(meta::namespace(&set.metadata), name))
}

fn owners_of(set: &ReplicaSet, world: &World, keys: &mut Vec<Key>) {
    if meta::controller_of(&set.metadata).is_some() {
        return keys.extend(deployment_of(set));
    }
    let namespace = meta::namespace(&set.metadata);
    for deployment in world.all::<Deployment>().in_namespace(namespace) {
        if meta::selects(&deployment.spec.selector, set.metadata.labels.as_ref()) {
            keys.push(Key::of(&deployment.metadata));
        }
    }
}

/// One of the deployment's sets, with what is known of its pods.
#[derive(Clone)]
struct Set {
    set: Arc<ReplicaSet>,
    /// Pods wanted.
    wanted: i32,
    /// Pods that are there or on their way: never fewer than wanted.
    present: i32,
    /// Pods available, at most as many as wanted: of more, some are about to go; nor more than are ready now: the set's status
    /// may be older than its pods.
    available: i32,
}

impl Set {
    fn new(set: Arc<ReplicaSet>, world: &World) -> Self {
        let wanted = set.spec.replicas.unwrap_or(1);
        let available = set.status.as_ref().and_then(|s| s.available_replicas);
        let (namespace, uid) = (meta::namespace(&set.metadata), meta::uid(&set.metadata));
        let pods = world.all::<Pod>().owned(namespace, uid);
        let active: Vec<_> = pods.filter(|pod| pods::is_active(pod)).collect();
        let ready = count(active.iter().filter(|pod| pods::is_ready(pod)).count());
        Self {
            wanted,
            present: wanted.max(count(active.len())),
            available: available.unwrap_or(0).min(wanted).min(ready),
            set,
        }
    }

    fn name(&self) -> &str {
        meta::name(&self.set.metadata)
    }

    fn number(&self, annotation: &str) -> Option<i32> {
        meta::annotation(&self.set.metadata, annotation)?
            .parse()
            .ok()
    }

    /// Whether its controller has done what it was told last. Before that nobody knows how many pods it makes.
    fn is_settled(&self) -> bool {
        let status = self.set.status.as_ref();
        let seen = status.and_then(|status| status.observed_generation);
        seen.unwrap_or(0) >= self.set.metadata.generation.unwrap_or(0)
    }

    /// The order in which they were made.
    fn age(&self) -> (jiff::Timestamp, &str) {
        (meta::created(&self.set.metadata), self.name())
    }
}

/// Everything a plan is made from.
struct View<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    /// The set of the current template, if it has been made.
    new: Option<Set>,
    /// The others, oldest first.
    old: Vec<Set>,
    world: &'a World,
    now: Now,
}

impl View<'_> {
    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn recreates(&self) -> bool {
        let strategy = self.spec.strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
    }

    /// How many pods more than wanted there may be.
    fn max_surge(&self) -> i32 {
        self.bounds().0
    }

    /// How many pods fewer than wanted may be available.
    fn max_unavailable(&self) -> i32 {
        self.bounds().1.min(self.replicas())
    }

    fn bounds(&self) -> (i32, i32) {
        if self.recreates() {
            return (0, 0);
        }
        let rolling = self
            .spec
            .strategy
            .as_ref()
            .and_then(|s| s.rolling_update.as_ref());
        let quarter =
            k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String("25%".into());
        let surge = rolling
            .and_then(|r| r.max_surge.as_ref())
            .unwrap_or(&quarter);
        let missing = rolling
            .and_then(|r| r.max_unavailable.as_ref())
            .unwrap_or(&quarter);
        let surge = meta::scaled(Some(surge), self.replicas(), true);
        let missing = meta::scaled(Some(missing), self.replicas(), false);
        // Both zero would never get anywhere.
        (surge, if surge == 0 { missing.max(1) } else { missing })
    }

    fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    /// How many more pods there may be than every set's together, including those about to go.
    fn room(&self) -> i32 {
        if !self.old.iter().all(Set::is_settled) {
            return 0;
        }
        let present: i32 = self.all().map(|set| set.present).sum();
        (self.replicas() + self.max_surge() - present).max(0)
    }
}

fn plan(deployment: &Deployment, spec: &DeploymentSpec, world: &World, now: Now) -> Plan {
    let (sets, adopting) = pods::claim(world, deployment, &spec.selector, |_: &ReplicaSet| true);
    let mut plan = Plan::from(adopting);
    let mut sets: Vec<Set> = sets.into_iter().map(|set| Set::new(set, world)).collect();
    sets.sort_by(|a, b| a.age().cmp(&b.age()));
    let current = sets.iter().position(|set| revision::is_of(&set.set, spec));
    let new = current.map(|index| sets.remove(index));
    let view = View {
        deployment,
        spec,
        new,
        old: sets,
        world,
        now,
    };
    if meta::is_ending(&deployment.metadata) {
        status::write(&view, None, &mut plan);
        return plan;
    }
    let paused = spec.paused == Some(true);
    let told = if paused || scale::is_wanted(&view) {
        revision::keep_current(&view, false, &mut plan);
        scale::proportionally(&view, &mut plan);
        None
    } else if view.recreates() {
        recreate(&view, &mut plan)
    } else {
        let told = revision::keep_current(&view, true, &mut plan);
        rolling::step(&view, &mut plan);
        told
    };
    status::write(&view, told, &mut plan);
    if paused || status::is_complete(&view) {
        revision::drop_history(&view, &mut plan);
    }
    plan
}

/// First the old pods end, then the new ones begin.
fn recreate(view: &View<'_>, plan: &mut Plan) -> Option<status::Progress> {
    let mut running = false;
    for old in &view.old {
        if old.wanted > 0 {
            scale::set(view, old, 0, plan);
            running = true;
        }
        let (namespace, uid) = (
            meta::namespace(&old.set.metadata),
            meta::uid(&old.set.metadata),
        );
        running |= view
            .world
            .all::<Pod>()
            .owned(namespace, uid)
            .any(|pod| !pods::is_over(pod));
    }
    if running {
        revision::keep_current(view, false, plan);
        return None;
    }
    let told = revision::keep_current(view, true, plan);
    if let Some(new) = view
        .new
        .as_ref()
        .filter(|new| new.wanted != view.replicas())
    {
        scale::set(view, new, view.replicas(), plan);
    }
    told
}

/// The event about a set that is made larger or smaller.
fn told_scaled(view: &View<'_>, name: &str, from: i32, to: i32) -> Tell {
    let way = if to > from { "up" } else { "down" };
    let message = format!("Scaled {way} replica set {name} from {from} to {to}");
    Tell::done(Note::normal(
        SOURCE,
        view.deployment,
        "ScalingReplicaSet",
        message,
    ))
}

/// A change of the set's number of pods, with the annotations that say what it was meant for.
fn resize(view: &View<'_>, set: &Set, to: i32, plan: &mut Plan) {
    let patch = json!({
        "metadata": {"annotations": {
            DESIRED: view.replicas().to_string(),
            MAX: (view.replicas() + view.max_surge()).to_string(),
        }},
        "spec": {"replicas": to},
    });
    let tell = if to == set.wanted {
        Tell::nothing()
    } else {
        told_scaled(view, set.name(), set.wanted, to)
    };
    plan.push(Write::patch(&*set.set, patch, tell));
}

#[cfg(test)]
mod tests;
