//! PodDisruptionBudgets: how many pods may be evicted at the moment. The eviction itself is the API server's.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    Resource,
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta, pods,
    replicaset::count,
    write::{Plan, Write},
};

const ALLOWED: &str = "DisruptionAllowed";
/// A pod that was to be evicted this long ago and is still there was spared.
const FORGET: Duration = Duration::from_secs(120);

/// The controller.
pub struct Budgets;

impl Controller for Budgets {
    fn name(&self) -> &'static str {
        "disruption"
    }

    fn needs(&self) -> &'static [Kind] {
        &[
            Kind::PodDisruptionBudget,
            Kind::Pod,
            Kind::ReplicaSet,
            Kind::Deployment,
            Kind::StatefulSet,
        ]
    }

    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>) {
        keys.extend(change.key_of::<PodDisruptionBudget>());
        for pod in change.each::<Pod>() {
            let budgets = in_namespace(world, meta::namespace(&pod.metadata));
            let budgets = budgets.filter(|budget| selects(budget, pod));
            keys.extend(budgets.map(|budget| Key::of(&budget.metadata)));
        }
        let scaled = [Kind::ReplicaSet, Kind::Deployment, Kind::StatefulSet];
        if change.kind().is_some_and(|kind| scaled.contains(&kind))
            && let Some(object) = change.new.as_ref().or(change.old.as_ref())
        {
            let budgets = in_namespace(world, meta::namespace(object.meta()));
            keys.extend(budgets.map(|budget| Key::of(&budget.metadata)));
        }
    }

    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan {
        let budget = world.get::<PodDisruptionBudget>(key);
        let Some((budget, spec)) = budget.and_then(|b| Some((b, b.spec.as_ref()?))) else {
            return Plan::none();
        };
        let mut plan = Plan::none();
        let status = status(budget, spec, world, now, &mut plan);
        if budget.status.as_ref() != Some(&status) {
            plan.push(Write::status(&**budget, budget.status.as_ref(), &status));
        }
        plan
    }
}

fn in_namespace<'a>(
    world: &'a World,
    namespace: &'a str,
) -> impl Iterator<Item = &'a Arc<PodDisruptionBudget>> {
    world.all::<PodDisruptionBudget>().in_namespace(namespace)
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| meta::selects(selector, pod.metadata.labels.as_ref()))
}

fn status(
    budget: &PodDisruptionBudget,
    spec: &PodDisruptionBudgetSpec,
    world: &World,
    now: Now,
    plan: &mut Plan,
) -> PodDisruptionBudgetStatus {
    let all = world
        .all::<Pod>()
        .in_namespace(meta::namespace(&budget.metadata));
    let pods: Vec<&Arc<Pod>> = all
        .filter(|p| !pods::is_over(p) && selects(budget, p))
        .collect();
    let old = budget.status.clone().unwrap_or_default();
    let disrupted = disrupted(old.disrupted_pods, &pods, now, plan);
    let healthy = pods.iter().filter(|pod| {
        pods::is_ready(pod)
            && !meta::is_ending(&pod.metadata)
            && !disrupted.contains_key(meta::name(&pod.metadata))
    });
    let healthy = count(healthy.count());
    let (expected, desired) = wanted(spec, &pods, world);
    let allowed = if expected > 0 {
        (healthy - desired).max(0)
    } else {
        0
    };
    PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: Some(conditions(old.conditions, allowed, budget, now)),
    }
}

/// The pods whose eviction was granted and has not begun yet.
fn disrupted(
    before: Option<BTreeMap<String, Time>>,
    pods: &[&Arc<Pod>],
    now: Now,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut kept = before.unwrap_or_default();
    kept.retain(|name, since| {
        let alive = pods
            .iter()
            .any(|pod| meta::name(&pod.metadata) == name && !meta::is_ending(&pod.metadata));
        let been = Duration::try_from(now.wall.duration_since(since.0)).unwrap_or_default();
        let left = FORGET.saturating_sub(been);
        if alive && !left.is_zero() {
            plan.wake(left);
        }
        alive && !left.is_zero()
    });
    kept
}

/// How many pods there should be, and how many of them must stay healthy.
fn wanted(spec: &PodDisruptionBudgetSpec, pods: &[&Arc<Pod>], world: &World) -> (i32, i32) {
    if let Some(missing) = &spec.max_unavailable {
        let expected = expected(pods, world);
        let missing = meta::scaled(Some(missing), expected, true);
        return (expected, (expected - missing).max(0));
    }
    match &spec.min_available {
        Some(IntOrString::Int(least)) => (count(pods.len()), *least),
        Some(percent) => {
            let expected = expected(pods, world);
            (expected, meta::scaled(Some(percent), expected, true))
        }
        None => (count(pods.len()), 1),
    }
}

/// How many pods their owners want; a pod without an owner that counts its pods stands for itself.
fn expected(pods: &[&Arc<Pod>], world: &World) -> i32 {
    let (mut owners, mut total) = (BTreeSet::new(), 0_i32);
    for pod in pods {
        match scale(pod, world) {
            Some((uid, replicas)) => {
                if owners.insert(uid) {
                    total = total.saturating_add(replicas);
                }
            }
            None => total = total.saturating_add(1),
        }
    }
    total
}

/// Who decides how many pods of this sort there are, and how many that is.
fn scale(pod: &Pod, world: &World) -> Option<(String, i32)> {
    let namespace = meta::namespace(&pod.metadata);
    let owner = meta::controller_of(&pod.metadata)?;
    let key = Key::new(namespace, &owner.name);
    if owner.kind == StatefulSet::KIND {
        let set = world.get::<StatefulSet>(&key)?;
        return Some((owner.uid.clone(), set.spec.replicas.unwrap_or(1)));
    }
    if owner.kind != ReplicaSet::KIND {
        return None;
    }
    let set = world.get::<ReplicaSet>(&key)?;
    let deployment = meta::controller_named::<Deployment>(&set.metadata)
        .and_then(|name| world.get::<Deployment>(&Key::new(namespace, name)));
    Some(match deployment {
        Some(one) => (
            meta::uid(&one.metadata).into(),
            one.spec.replicas.unwrap_or(1),
        ),
        None => (owner.uid.clone(), set.spec.replicas.unwrap_or(1)),
    })
}

fn conditions(
    before: Option<Vec<Condition>>,
    allowed: i32,
    budget: &PodDisruptionBudget,
    now: Now,
) -> Vec<Condition> {
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let mut all = before.unwrap_or_default();
    let since = all
        .iter()
        .find(|c| c.type_ == ALLOWED && c.status == status)
        .map(|c| c.last_transition_time.clone());
    all.retain(|c| c.type_ != ALLOWED);
    all.push(Condition {
        type_: ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| meta::time(now.wall)),
    });
    all
}

#[cfg(test)]
mod tests;
