//! Jobs: pods that come to an end, and Jobs by the clock.
//!
//! Finished pods are counted as long as they are there; numbers in the status never go back. Pod failure policies, limits per
//! index and success policies are not served.
mod cron;
mod index;
mod run;
mod schedule;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta, pods,
    write::{Plan, Tell, Write},
};

pub use cron::CronJobs;

const SOURCE: &str = "job-controller";

/// The controller of Jobs.
pub struct Jobs;

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Job, Kind::Pod]
    }

    fn affected(&self, change: &Change, _: &World, keys: &mut Vec<Key>) {
        keys.extend(change.key_of::<Job>());
        for pod in change.each::<Pod>() {
            let name = meta::controller_named::<Job>(&pod.metadata);
            keys.extend(name.map(|name| Key::new(meta::namespace(&pod.metadata), name)));
        }
    }

    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan {
        let job = world
            .get::<Job>(key)
            .filter(|job| !meta::is_ending(&job.metadata));
        let Some((job, spec)) = job.and_then(|job| Some((job, job.spec.as_ref()?))) else {
            return Plan::none();
        };
        if spec
            .managed_by
            .as_deref()
            .is_some_and(|by| by != "kubernetes.io/job-controller")
        {
            return Plan::none();
        }
        match ended(job) {
            Some(at) => after_end(job, spec, at, now),
            None => run::plan(job, spec, world, now),
        }
    }
}

fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|c| c.type_ == kind && c.status == "True")
}

/// Whether the job came to a good end.
fn is_complete(job: &Job) -> bool {
    condition(job, "Complete").is_some()
}

/// When the job ended, well or not.
fn ended(job: &Job) -> Option<Timestamp> {
    let end = condition(job, "Complete").or_else(|| condition(job, "Failed"))?;
    let at = end.last_transition_time.as_ref().map(|time| time.0);
    Some(at.unwrap_or_else(|| meta::created(&job.metadata)))
}

fn since(from: Timestamp, now: Now) -> Duration {
    Duration::try_from(now.wall.duration_since(from)).unwrap_or_default()
}

/// A job that is over goes when its time has come.
fn after_end(job: &Job, spec: &JobSpec, at: Timestamp, now: Now) -> Plan {
    let mut plan = Plan::none();
    if let Some(seconds) = spec.ttl_seconds_after_finished {
        let stay = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        match stay.checked_sub(since(at, now)) {
            Some(left) if !left.is_zero() => plan.wake(left),
            _ => plan.push(Write::delete(job, Tell::nothing())),
        }
    }
    plan
}

/// The job's pods.
fn pods_of(job: &Job, world: &World) -> Vec<Arc<Pod>> {
    let (namespace, uid) = (meta::namespace(&job.metadata), meta::uid(&job.metadata));
    world.all::<Pod>().owned(namespace, uid).cloned().collect()
}

/// When a pod ended.
fn finished(pod: &Pod) -> Timestamp {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let states = statuses
        .into_iter()
        .flatten()
        .filter_map(|s| s.state.as_ref());
    let ends = states.filter_map(|s| s.terminated.as_ref()?.finished_at.as_ref());
    let last = ends.map(|Time(at)| *at).max();
    last.unwrap_or_else(|| meta::created(&pod.metadata))
}

fn count(pods: &[Arc<Pod>], test: impl Fn(&Pod) -> bool) -> i32 {
    crate::replicaset::count(pods.iter().filter(|pod| test(pod)).count())
}

fn is(phase: &'static str) -> impl Fn(&Pod) -> bool {
    move |pod| pods::phase(pod) == phase
}

#[cfg(test)]
mod tests;
