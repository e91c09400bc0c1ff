//! What the deployment says of itself.
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};

use super::{Set, View};
use crate::{
    meta,
    replicaset::positive,
    write::{Plan, Write},
};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
/// Reason of a rollout that has come to its end.
const DONE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// A step of a rollout worth telling.
pub(super) struct Progress {
    reason: &'static str,
    message: String,
}

impl Progress {
    pub(super) fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

/// The numbers alone.
fn numbers(view: &View<'_>) -> DeploymentStatus {
    let of = |set: &Set, field: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| {
        set.set.status.as_ref().map_or(0, field)
    };
    let sum = |field: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        view.all().map(|set| of(set, field)).sum()
    };
    let available = sum(|s| s.available_replicas.unwrap_or(0));
    let wanted: i32 = view.all().map(|set| set.wanted).sum();
    let old = view.deployment.status.as_ref();
    DeploymentStatus {
        observed_generation: view.deployment.metadata.generation,
        replicas: positive(sum(|s| s.replicas)),
        updated_replicas: positive(view.new.as_ref().map_or(0, |new| of(new, |s| s.replicas))),
        ready_replicas: positive(sum(|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: positive(available),
        unavailable_replicas: positive((wanted - available).max(0)),
        collision_count: old.and_then(|s| s.collision_count),
        terminating_replicas: None,
        conditions: None,
    }
}

fn is_done(view: &View<'_>, status: &DeploymentStatus) -> bool {
    let all = view.replicas();
    let equal = |number: Option<i32>| number.unwrap_or(0) == all;
    view.new.is_some()
        && equal(status.updated_replicas)
        && equal(status.replicas)
        && equal(status.available_replicas)
}

/// Whether every pod is of the current template and available.
pub(super) fn is_complete(view: &View<'_>) -> bool {
    is_done(view, &numbers(view))
}

/// Writes the status if it has changed.
pub(super) fn write(view: &View<'_>, told: Option<Progress>, plan: &mut Plan) {
    let old = view.deployment.status.clone().unwrap_or_default();
    let mut status = numbers(view);
    let mut conditions = Conditions {
        list: old.conditions.clone().unwrap_or_default(),
        now: view.now.wall,
    };
    available(view, &status, &mut conditions);
    progress(view, &old, &status, told, &mut conditions, plan);
    failure(view, &mut conditions);
    status.conditions = Some(conditions.list).filter(|list| !list.is_empty());
    if view.deployment.status.as_ref() != Some(&status) {
        let before = view.deployment.status.as_ref();
        plan.push(Write::status(view.deployment, before, &status));
    }
}

fn available(view: &View<'_>, status: &DeploymentStatus, conditions: &mut Conditions) {
    let least = view.replicas() - view.max_unavailable();
    if status.available_replicas.unwrap_or(0) >= least {
        let message = "Deployment has minimum availability.";
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }
}

fn progress(
    view: &View<'_>,
    old: &DeploymentStatus,
    status: &DeploymentStatus,
    told: Option<Progress>,
    conditions: &mut Conditions,
    plan: &mut Plan,
) {
    let deadline = view
        .spec
        .progress_deadline_seconds
        .filter(|s| *s != i32::MAX);
    let Some(deadline) = deadline else {
        conditions.drop(PROGRESSING);
        return;
    };
    let reason = conditions.reason(PROGRESSING).map(str::to_owned);
    if view.spec.paused == Some(true) {
        if reason.as_deref() != Some("DeploymentPaused") {
            let message = "Deployment is paused";
            conditions.set(PROGRESSING, "Unknown", "DeploymentPaused", message);
        }
        return;
    }
    if reason.as_deref() == Some("DeploymentPaused") {
        let message = "Deployment is resumed";
        conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", message);
    }
    match told {
        Some(told) if told.reason == "NewReplicaSetCreated" || reason.is_none() => {
            conditions.touch(PROGRESSING, "True", told.reason, &told.message);
        }
        _ => {}
    }
    let set = view.new.as_ref().map(|new| new.name().to_owned());
    let subject = match &set {
        Some(name) => format!("ReplicaSet \"{name}\""),
        None => format!("Deployment \"{}\"", meta::name(&view.deployment.metadata)),
    };
    let ended = conditions.reason(PROGRESSING) == Some(DONE);
    if is_done(view, status) {
        if !ended || !conditions.mentions(PROGRESSING, &subject) {
            let message = format!("{subject} has successfully progressed.");
            conditions.touch(PROGRESSING, "True", DONE, &message);
        }
    } else if ended && status.replicas == status.updated_replicas {
        // Only the number of pods changes: that is no rollout, and knows no deadline.
    } else if advanced(old, status) {
        let message = format!("{subject} is progressing.");
        conditions.touch(PROGRESSING, "True", "ReplicaSetUpdated", &message);
    } else {
        overdue(view, deadline, &subject, conditions, plan);
    }
}

/// Whether the rollout has come further than the last status said.
fn advanced(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let number = |n: Option<i32>| n.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| number(s.replicas) - number(s.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || outdated(new) < outdated(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

fn overdue(
    view: &View<'_>,
    deadline: i32,
    subject: &str,
    conditions: &mut Conditions,
    plan: &mut Plan,
) {
    let Some(condition) = conditions.get(PROGRESSING) else {
        return;
    };
    if matches!(condition.reason.as_deref(), Some(TIMED_OUT | DONE)) {
        return;
    }
    let since = condition
        .last_update_time
        .as_ref()
        .map_or(view.now.wall, |time| time.0);
    let been = Duration::try_from(view.now.wall.duration_since(since)).unwrap_or_default();
    let deadline = Duration::from_secs(u64::try_from(deadline).unwrap_or(0));
    match deadline.checked_sub(been).filter(|left| !left.is_zero()) {
        Some(left) => plan.wake(left),
        None => {
            let message = format!("{subject} has timed out progressing.");
            conditions.touch(PROGRESSING, "False", TIMED_OUT, &message);
        }
    }
}

/// Says when the current set, or an old one, cannot make its pods.
fn failure(view: &View<'_>, conditions: &mut Conditions) {
    let failed = |set: &Set| {
        let list = set.set.status.as_ref()?.conditions.as_ref()?;
        list.iter()
            .find(|c| c.type_.as_deref() == Some(FAILURE))
            .cloned()
    };
    match view.new.iter().chain(&view.old).find_map(failed) {
        Some(c) => {
            let reason = c.reason.unwrap_or_default();
            conditions.set(FAILURE, "True", &reason, &c.message.unwrap_or_default());
        }
        None => conditions.drop(FAILURE),
    }
}

/// Conditions that are being brought up to date.
struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|c| c.type_.as_deref() == Some(kind))
    }

    fn reason(&self, kind: &str) -> Option<&str> {
        self.get(kind)?.reason.as_deref()
    }

    fn mentions(&self, kind: &str, text: &str) -> bool {
        let message = self.get(kind).and_then(|c| c.message.as_deref());
        message.is_some_and(|message| message.contains(text))
    }

    fn drop(&mut self, kind: &str) {
        self.list.retain(|c| c.type_.as_deref() != Some(kind));
    }

    /// Sets a condition; its times stay while status and reason do.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let same = self.get(kind).is_some_and(|c| {
            c.status.as_deref() == Some(status) && c.reason.as_deref() == Some(reason)
        });
        if !same {
            self.touch(kind, status, reason, message);
        }
    }

    /// Sets a condition as of now.
    fn touch(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let now = Some(meta::time(self.now));
        let turned = match self.get(kind) {
            Some(old) if old.status.as_deref() == Some(status) => old.last_transition_time.clone(),
            _ => now.clone(),
        };
        let condition = DeploymentCondition {
            type_: Some(kind.into()),
            status: Some(status.into()),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_update_time: now,
            last_transition_time: turned,
        };
        let same = |c: &&mut DeploymentCondition| c.type_.as_deref() == Some(kind);
        match self.list.iter_mut().find(same) {
            Some(old) => *old = condition,
            None => self.list.push(condition),
        }
    }
}
