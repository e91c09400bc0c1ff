use k8s_openapi::api::{
    batch::v1::{CronJob, Job, JobStatus},
    core::v1::Pod,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

use super::index;
use crate::{Kind, meta, sim::Sim};

fn job(extra: Value) -> Value {
    let mut job = json!({
        "metadata": {"name": "work"},
        "spec": {"completions": 1, "parallelism": 1, "backoffLimit": 2,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}},
    });
    for (key, value) in extra.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    job
}

fn started(extra: Value) -> Sim {
    let mut sim = Sim::new();
    sim.nodes(1);
    sim.apply(Kind::Job, job(extra));
    sim.run_all();
    sim
}

fn status(sim: &Sim) -> JobStatus {
    sim.get::<Job>("work").unwrap().status.unwrap()
}

fn condition(sim: &Sim) -> Option<String> {
    let conditions = status(sim).conditions?;
    let last = conditions.into_iter().rev().find(|c| c.status == "True")?;
    Some(format!("{} {}", last.type_, last.reason.unwrap()))
}

/// Ends one active pod.
fn end(sim: &mut Sim, phase: &str) {
    let pod = sim
        .all::<Pod>()
        .into_iter()
        .find(crate::pods::is_active)
        .expect("a pod runs");
    let now = meta::time(sim.now.wall);
    sim.edit(Kind::Pod, meta::name(&pod.metadata), |p| {
        p["status"]["phase"] = json!(phase);
        p["status"]["containerStatuses"] = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "finishedAt": now}}}]);
    });
    sim.settle();
}

fn active(sim: &Sim) -> usize {
    sim.all::<Pod>()
        .iter()
        .filter(|p| crate::pods::is_active(p))
        .count()
}

#[test]
fn a_job_runs_to_its_end() {
    let mut sim = started(json!({"completions": 3, "parallelism": 2}));
    assert_eq!(
        (active(&sim), status(&sim).active, status(&sim).ready),
        (2, Some(2), Some(2))
    );
    end(&mut sim, "Succeeded");
    assert_eq!(active(&sim), 2);
    end(&mut sim, "Succeeded");
    assert_eq!(active(&sim), 1, "no more than are still needed");
    end(&mut sim, "Succeeded");
    assert_eq!(condition(&sim).unwrap(), "Complete CompletionsReached");
    let status = status(&sim);
    assert_eq!((status.succeeded, status.active), (Some(3), None));
    assert!(status.completion_time.is_some());
    assert_eq!(sim.messages("Completed"), ["Job completed"]);
}

#[test]
fn failures_are_tried_again_with_pauses_up_to_the_limit() {
    let mut sim = started(json!({}));
    for pause in [10, 20] {
        end(&mut sim, "Failed");
        assert_eq!(active(&sim), 0, "not at once");
        sim.pass(Duration::from_secs(pause - 2));
        sim.settle();
        assert_eq!(active(&sim), 0, "not before {pause} s");
        sim.pass(Duration::from_secs(3));
        sim.run_all();
        assert_eq!(active(&sim), 1);
    }
    end(&mut sim, "Failed");
    assert_eq!(condition(&sim).unwrap(), "Failed BackoffLimitExceeded");
    assert_eq!(status(&sim).failed, Some(3));
}

#[test]
fn a_deadline_ends_it() {
    let mut sim = started(json!({"activeDeadlineSeconds": 30}));
    sim.pass(Duration::from_secs(31));
    sim.run_all();
    assert_eq!(condition(&sim).unwrap(), "Failed DeadlineExceeded");
    assert_eq!(active(&sim), 0);
}

#[test]
fn every_number_of_an_indexed_job_succeeds_once() {
    let mut sim = started(json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"}));
    for _ in 0..4 {
        sim.run_all();
        end(&mut sim, "Succeeded");
    }
    let numbers: Vec<_> = sim.all::<Pod>().iter().filter_map(index::of).collect();
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 4);
    assert_eq!(status(&sim).completed_indexes.as_deref(), Some("0-3"));
    assert_eq!(condition(&sim).unwrap(), "Complete CompletionsReached");
}

#[test]
fn a_suspended_job_has_no_pods() {
    let mut sim = started(json!({"suspend": true}));
    assert_eq!(
        (active(&sim), condition(&sim).unwrap().as_str()),
        (0, "Suspended JobSuspended")
    );
    sim.edit(Kind::Job, "work", |j| j["spec"]["suspend"] = json!(false));
    sim.run_all();
    assert_eq!(active(&sim), 1);
}

#[test]
fn a_finished_job_goes_when_its_time_is_over() {
    let mut sim = started(json!({"ttlSecondsAfterFinished": 60}));
    end(&mut sim, "Succeeded");
    sim.pass(Duration::from_secs(50));
    sim.settle();
    assert!(sim.get::<Job>("work").is_some());
    sim.pass(Duration::from_secs(11));
    sim.settle();
    assert!(sim.get::<Job>("work").is_none());
}

#[test]
fn numbers_as_text() {
    let numbers: BTreeSet<i32> = [0, 1, 2, 5, 7, 8].into();
    assert_eq!(index::text(&numbers), "0-2,5,7,8");
    assert_eq!(index::parse("0-2,5,7,8"), numbers);
    assert!(index::parse("").is_empty() && index::parse("x-y").is_empty());
}

fn cron(policy: &str) -> Sim {
    let mut sim = Sim::new();
    sim.nodes(1);
    sim.apply(Kind::CronJob, json!({
        "metadata": {"name": "tick"},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 1,
            "jobTemplate": job(json!({}))},
    }));
    sim.settle();
    sim
}

fn minute(sim: &mut Sim) {
    sim.pass(Duration::from_secs(60));
    sim.run_all();
}

#[test]
fn a_job_every_minute_and_old_ones_go() {
    let mut sim = cron("Allow");
    for _ in 0..4 {
        minute(&mut sim);
        end(&mut sim, "Succeeded");
    }
    assert_eq!(
        sim.messages("SuccessfulCreate")
            .iter()
            .filter(|m| m.starts_with("Created job tick-"))
            .count(),
        4
    );
    assert_eq!(sim.all::<Job>().len(), 1, "as many as are kept");
    let status = sim.get::<CronJob>("tick").unwrap().status.unwrap();
    assert!(status.last_schedule_time.is_some() && status.last_successful_time.is_some());
    assert_eq!(status.active, None);
}

#[test]
fn what_still_runs_is_left_or_replaced() {
    let mut sim = cron("Forbid");
    (0..3).for_each(|_| minute(&mut sim));
    assert_eq!(sim.all::<Job>().len(), 1);
    let mut sim = cron("Replace");
    minute(&mut sim);
    let first = sim.all::<Job>()[0].metadata.name.clone();
    minute(&mut sim);
    assert_eq!(sim.all::<Job>().len(), 1);
    assert_ne!(sim.all::<Job>()[0].metadata.name, first);
}
