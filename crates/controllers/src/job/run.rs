//! A job that is not over yet.
use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::{
    batch::v1::{Job, JobCondition, JobSpec, JobStatus},
    core::v1::Pod,
};

use super::{SOURCE, count, finished, index, is, pods_of, since};
use crate::{
    Now, World, meta, pods,
    replicaset::{positive, told_created, told_deleted},
    write::{Note, Plan, Write},
};

/// The pause after a first failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
const LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];

/// What has happened so far.
struct Tally {
    pods: Vec<Arc<Pod>>,
    active: Vec<Arc<Pod>>,
    succeeded: i32,
    failed: i32,
    /// Numbers that have succeeded, in an indexed job.
    indexes: BTreeSet<i32>,
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn tally(job: &Job, spec: &JobSpec, world: &World) -> Tally {
    let pods = pods_of(job, world);
    let active = pods
        .iter()
        .filter(|pod| pods::is_active(pod))
        .cloned()
        .collect();
    let old = job.status.clone().unwrap_or_default();
    let mut indexes = index::parse(old.completed_indexes.as_deref().unwrap_or_default());
    let done = pods.iter().filter(|pod| pods::phase(pod) == "Succeeded");
    indexes.extend(done.filter_map(|pod| index::of(pod)));
    let all = spec.completions.unwrap_or(i32::MAX);
    indexes.retain(|number| *number < all);
    let succeeded = if is_indexed(spec) {
        crate::replicaset::count(indexes.len())
    } else {
        count(&pods, is("Succeeded")).max(old.succeeded.unwrap_or(0))
    };
    Tally {
        failed: count(&pods, is("Failed")).max(old.failed.unwrap_or(0)),
        pods,
        active,
        succeeded,
        indexes,
    }
}

pub(super) fn plan(job: &Job, spec: &JobSpec, world: &World, now: Now) -> Plan {
    let tally = tally(job, spec, world);
    let mut plan = Plan::none();
    let suspended = spec.suspend == Some(true);
    let start = job.status.as_ref().and_then(|s| s.start_time.clone());
    let start = start.or_else(|| (!suspended).then(|| meta::time(now.wall)));
    let mut status = JobStatus {
        start_time: start.clone().filter(|_| !suspended),
        ..job.status.clone().unwrap_or_default()
    };
    let deadline = spec
        .active_deadline_seconds
        .zip(start)
        .map(|(seconds, start)| {
            let allowed = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            allowed.saturating_sub(since(start.0, now))
        });
    let end = if suspended {
        None
    } else {
        end(job, spec, &tally, deadline)
    };
    match &end {
        Some(end) => finish(job, end, &tally, &mut status, now, &mut plan),
        None if suspended => tally
            .active
            .iter()
            .for_each(|pod| delete(job, pod, &mut plan)),
        None => {
            deadline.into_iter().for_each(|left| plan.wake(left));
            keep_going(job, spec, &tally, now, &mut plan);
        }
    }
    suspend(job, suspended, &mut status, now, &mut plan);
    numbers(spec, &tally, end.is_some(), &mut status);
    if job.status.as_ref() != Some(&status) {
        plan.push(Write::status(job, job.status.as_ref(), &status));
    }
    plan
}

/// How a job ends.
struct End {
    complete: bool,
    reason: &'static str,
    message: &'static str,
}

fn end(job: &Job, spec: &JobSpec, tally: &Tally, deadline: Option<Duration>) -> Option<End> {
    let failed = |reason, message| {
        Some(End {
            complete: false,
            reason,
            message,
        })
    };
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts: i32 = tally.active.iter().map(|pod| pods::restarts(pod)).sum();
    let in_place = spec
        .template
        .spec
        .as_ref()
        .and_then(|s| s.restart_policy.as_deref());
    let restarts = if in_place == Some("OnFailure") {
        restarts
    } else {
        0
    };
    if tally.failed > limit || (restarts > 0 && tally.failed + restarts > limit) {
        return failed(
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        );
    }
    if deadline.is_some_and(|left| left.is_zero()) {
        return failed(
            "DeadlineExceeded",
            "Job was active longer than specified deadline",
        );
    }
    let complete = match spec.completions {
        Some(all) => tally.succeeded >= all,
        None => tally.succeeded > 0 && tally.active.is_empty() && job.status.is_some(),
    };
    complete.then_some(End {
        complete: true,
        reason: "CompletionsReached",
        message: "Reached expected number of succeeded pods",
    })
}

fn finish(job: &Job, end: &End, tally: &Tally, status: &mut JobStatus, now: Now, plan: &mut Plan) {
    tally.active.iter().for_each(|pod| delete(job, pod, plan));
    let kinds = if end.complete {
        ["SuccessCriteriaMet", "Complete"]
    } else {
        ["FailureTarget", "Failed"]
    };
    for kind in kinds {
        set(status, kind, "True", end.reason, end.message, now);
    }
    if end.complete {
        status.completion_time = Some(meta::time(now.wall));
        let note = Note::normal(SOURCE, job, "Completed", "Job completed");
        plan.push(Write::Note(note));
    } else {
        plan.push(Write::Note(Note::warning(
            SOURCE,
            job,
            end.reason,
            end.message,
        )));
    }
}

/// Makes pods until as many work as should, with a pause after failures.
fn keep_going(job: &Job, spec: &JobSpec, tally: &Tally, now: Now, plan: &mut Plan) {
    let parallel = spec.parallelism.unwrap_or(1).max(0);
    let wanted = match spec.completions {
        Some(all) => parallel.min((all - tally.succeeded).max(0)),
        None if tally.succeeded > 0 => 0,
        None => parallel,
    };
    let active = crate::replicaset::count(tally.active.len());
    if active > wanted && spec.completions.is_some() {
        let surplus = usize::try_from(active - wanted).unwrap_or(0);
        let mut youngest = tally.active.clone();
        youngest.sort_by_key(|pod| std::cmp::Reverse(meta::created(&pod.metadata)));
        youngest
            .iter()
            .take(surplus)
            .for_each(|pod| delete(job, pod, plan));
    }
    let missing = (wanted - active).max(0);
    if missing == 0 {
        return;
    }
    let left = pause(tally, now);
    if !left.is_zero() {
        return plan.wake(left);
    }
    let busy: BTreeSet<i32> = tally
        .active
        .iter()
        .filter_map(|pod| index::of(pod))
        .collect();
    let mut free = (0..spec.completions.unwrap_or(0))
        .filter(|number| !busy.contains(number) && !tally.indexes.contains(number));
    for _ in 0..missing {
        let mut pod = new_pod(job, spec);
        if is_indexed(spec) {
            let Some(number) = free.next() else {
                return;
            };
            index::mark(&mut pod, meta::name(&job.metadata), number);
        }
        plan.push(Write::create(pod, told_created(job, SOURCE)));
    }
}

/// How long to wait after the last failure.
fn pause(tally: &Tally, now: Now) -> Duration {
    let failed = tally.pods.iter().filter(|pod| pods::phase(pod) == "Failed");
    let Some(last) = failed.map(|pod| finished(pod)).max() else {
        return Duration::ZERO;
    };
    let doublings = u32::try_from(tally.failed - 1).unwrap_or(0).min(10);
    let pause = FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE);
    pause.saturating_sub(since(last, now))
}

fn new_pod(job: &Job, spec: &JobSpec) -> Pod {
    let mut pod = pods::from_template(job, &spec.template);
    let labels = pod.metadata.labels.get_or_insert_default();
    for label in LABELS {
        labels.insert(label.into(), meta::name(&job.metadata).into());
    }
    for label in UID_LABELS {
        labels.insert(label.into(), meta::uid(&job.metadata).into());
    }
    pod
}

fn delete(job: &Job, pod: &Arc<Pod>, plan: &mut Plan) {
    let tell = told_deleted(job, &pod.metadata, SOURCE);
    plan.push(Write::delete(&**pod, tell));
}

fn suspend(job: &Job, suspended: bool, status: &mut JobStatus, now: Now, plan: &mut Plan) {
    let before = super::condition(job, "Suspended").is_some();
    if suspended == before {
        return;
    }
    let (state, reason, message) = if suspended {
        ("True", "JobSuspended", "Job suspended")
    } else {
        ("False", "JobResumed", "Job resumed")
    };
    set(status, "Suspended", state, reason, message, now);
    let reason = if suspended { "Suspended" } else { "Resumed" };
    plan.push(Write::Note(Note::normal(SOURCE, job, reason, message)));
}

fn numbers(spec: &JobSpec, tally: &Tally, over: bool, status: &mut JobStatus) {
    let ready = count(&tally.active, pods::is_ready);
    let active = crate::replicaset::count(tally.active.len());
    status.active = positive(if over { 0 } else { active });
    status.ready = Some(if over { 0 } else { ready });
    status.succeeded = positive(tally.succeeded);
    status.failed = positive(tally.failed);
    status.terminating = Some(count(&tally.pods, |pod| {
        meta::is_ending(&pod.metadata) && !pods::is_over(pod)
    }));
    if is_indexed(spec) {
        status.completed_indexes = Some(index::text(&tally.indexes));
    }
}

fn set(status: &mut JobStatus, kind: &str, state: &str, reason: &str, message: &str, now: Now) {
    let all = status.conditions.get_or_insert_default();
    all.retain(|condition| condition.type_ != kind);
    all.push(JobCondition {
        type_: kind.into(),
        status: state.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(meta::time(now.wall)),
        last_transition_time: Some(meta::time(now.wall)),
    });
}
