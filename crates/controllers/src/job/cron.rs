//! CronJobs: a Job whenever the schedule says so.
use std::{sync::Arc, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::{
    Resource,
    api::{
        batch::v1::{CronJob, CronJobStatus, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{ended, is_complete, schedule::Schedule, since};
use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta,
    write::{Note, Plan, Tell, Write},
};

const SOURCE: &str = "cronjob-controller";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// The controller of CronJobs.
pub struct CronJobs;

impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::CronJob, Kind::Job]
    }

    fn affected(&self, change: &Change, _: &World, keys: &mut Vec<Key>) {
        keys.extend(change.key_of::<CronJob>());
        for job in change.each::<Job>() {
            let name = meta::controller_named::<CronJob>(&job.metadata);
            keys.extend(name.map(|name| Key::new(meta::namespace(&job.metadata), name)));
        }
    }

    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan {
        match world.get::<CronJob>(key) {
            Some(cron) if !meta::is_ending(&cron.metadata) => plan(cron, world, now),
            _ => Plan::none(),
        }
    }
}

fn plan(cron: &CronJob, world: &World, now: Now) -> Plan {
    let mut plan = Plan::none();
    let (namespace, uid) = (meta::namespace(&cron.metadata), meta::uid(&cron.metadata));
    let jobs: Vec<Arc<Job>> = world.all::<Job>().owned(namespace, uid).cloned().collect();
    let mut status = cron.status.clone().unwrap_or_default();
    if cron.spec.suspend != Some(true) {
        match clock(cron) {
            Ok((schedule, zone)) => due(cron, &jobs, &schedule, &zone, now, &mut status, &mut plan),
            Err(message) => {
                let note = Note::warning(SOURCE, cron, "InvalidSchedule", message);
                plan.push(Write::Note(note));
            }
        }
    }
    drop_history(cron, &jobs, &mut plan);
    tell(cron, &jobs, status, &mut plan);
    plan
}

fn clock(cron: &CronJob) -> Result<(Schedule, TimeZone), String> {
    let schedule = Schedule::parse(&cron.spec.schedule)?;
    let zone = match &cron.spec.time_zone {
        None => TimeZone::UTC,
        Some(name) => TimeZone::get(name).map_err(|e| format!("time zone {name:?}: {e}"))?,
    };
    Ok((schedule, zone))
}

/// Makes the job that is due, and wakes for the next one.
fn due(
    cron: &CronJob,
    jobs: &[Arc<Job>],
    schedule: &Schedule,
    zone: &TimeZone,
    now: Now,
    status: &mut CronJobStatus,
    plan: &mut Plan,
) {
    if let Some(next) = schedule.next(now.wall, zone) {
        let wait = Duration::try_from(next.duration_since(now.wall)).unwrap_or_default();
        plan.wake(wait.max(Duration::from_secs(1)));
    }
    let done = status.last_schedule_time.as_ref().map(|time| time.0);
    let begun = done.unwrap_or_else(|| meta::created(&cron.metadata));
    let Some(at) = schedule.last(now.wall, zone).filter(|at| *at > begun) else {
        return;
    };
    let deadline = cron.spec.starting_deadline_seconds;
    let deadline = deadline.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0)));
    if deadline.is_some_and(|limit| since(at, now) > limit) {
        let message = format!("Missed scheduled time to start a job: {at}");
        return plan.push(Write::Note(Note::warning(
            SOURCE,
            cron,
            "MissSchedule",
            message,
        )));
    }
    let job = job(cron, at);
    if jobs
        .iter()
        .any(|one| one.metadata.name == job.metadata.name)
    {
        status.last_schedule_time = Some(meta::time(at));
        return;
    }
    let active: Vec<_> = jobs.iter().filter(|job| ended(job).is_none()).collect();
    match cron.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.push(Write::Note(Note::normal(
                SOURCE,
                cron,
                "JobAlreadyActive",
                message,
            )));
        }
        Some("Replace") => {
            for job in active.iter().filter(|job| !meta::is_ending(&job.metadata)) {
                let deleted = format!("Deleted job {}", meta::name(&job.metadata));
                let tell = Tell::done(Note::normal(SOURCE, cron, "SuccessfulDelete", deleted));
                plan.push(Write::delete(&***job, tell));
            }
        }
        _ => {}
    }
    // That it was begun is noted once the job is seen.
    let tell = Tell::done(Note::normal(
        SOURCE,
        cron,
        "SuccessfulCreate",
        "Created job {}",
    ))
    .or(Note::warning(
        SOURCE,
        cron,
        "FailedCreate",
        "Error creating job: {}",
    ));
    plan.push(Write::create(job, tell));
}

fn job(cron: &CronJob, at: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let wanted = template.metadata.unwrap_or_default();
    let mut annotations = wanted.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.into(), at.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}-{}",
                meta::name(&cron.metadata),
                at.as_second() / 60
            )),
            namespace: cron.metadata.namespace.clone(),
            labels: wanted.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![meta::owner_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// Removes the oldest jobs that are over, beyond the limits.
fn drop_history(cron: &CronJob, jobs: &[Arc<Job>], plan: &mut Plan) {
    let limits = [
        (true, cron.spec.successful_jobs_history_limit.unwrap_or(3)),
        (false, cron.spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (good, limit) in limits {
        let over = jobs.iter().filter(|job| {
            ended(job).is_some() && is_complete(job) == good && !meta::is_ending(&job.metadata)
        });
        let mut over: Vec<_> = over.collect();
        over.sort_by_key(|job| ended(job));
        let surplus = over
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in over.into_iter().take(surplus) {
            plan.push(Write::delete(&**job, Tell::nothing()));
        }
    }
}

fn tell(cron: &CronJob, jobs: &[Arc<Job>], mut status: CronJobStatus, plan: &mut Plan) {
    let active = jobs.iter().filter(|job| ended(job).is_none());
    let reference = |job: &Arc<Job>| ObjectReference {
        api_version: Some(Job::API_VERSION.into()),
        kind: Some(<Job as Resource>::KIND.into()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    let active: Vec<_> = active.map(reference).collect();
    status.active = (!active.is_empty()).then_some(active);
    let good = jobs
        .iter()
        .filter(|job| is_complete(job))
        .filter_map(|job| ended(job));
    let before = status.last_successful_time.as_ref().map(|time| time.0);
    status.last_successful_time = good.chain(before).max().map(meta::time);
    if cron.status.as_ref() != Some(&status) {
        plan.push(Write::status(cron, cron.status.as_ref(), &status));
    }
}
