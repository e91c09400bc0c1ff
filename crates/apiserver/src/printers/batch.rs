//! Jobs.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use super::cells::{
    AGE, NAME, NONE, age, boolean, duration, int, joined, list, or_none, selector, text, time,
};

pub(super) const JOB: &[Column] = &[
    NAME,
    Column::new("Status", status),
    Column::new("Completions", completions),
    Column::new("Duration", took),
    AGE,
    Column::wide("Containers", |o| {
        joined(&o["spec"]["template"]["spec"]["containers"], "name")
    }),
    Column::wide("Images", |o| {
        joined(&o["spec"]["template"]["spec"]["containers"], "image")
    }),
    Column::wide("Selector", |o| selector(&o["spec"]["selector"])),
];

pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    Column::new("Schedule", |o| text(&o["spec"]["schedule"])),
    Column::new("Timezone", |o| or_none(&o["spec"]["timeZone"])),
    Column::new("Suspend", |o| boolean(&o["spec"]["suspend"])),
    Column::number("Active", |o| {
        Value::from(list(&o["status"]["active"]).len())
    }),
    Column::new(
        "Last Schedule",
        |o| match &o["status"]["lastScheduleTime"] {
            Value::Null => Value::from(NONE),
            last => age(last),
        },
    ),
    AGE,
    Column::wide("Containers", |o| joined(cron_containers(o), "name")),
    Column::wide("Images", |o| joined(cron_containers(o), "image")),
    Column::wide("Selector", |o| {
        selector(&o["spec"]["jobTemplate"]["spec"]["selector"])
    }),
];

fn cron_containers(object: &Value) -> &Value {
    &object["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
}

fn status(job: &Value) -> Value {
    let has = |kind: &str| {
        list(&job["status"]["conditions"]).any(|c| c["type"] == kind && c["status"] == "True")
    };
    let states = [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ];
    let going = job["metadata"]["deletionTimestamp"].is_string();
    let found = states
        .iter()
        .find(|(kind, _)| has(kind))
        .map(|(_, shown)| *shown);
    Value::from(found.unwrap_or(if going { "Terminating" } else { "Running" }))
}

fn completions(job: &Value) -> Value {
    let succeeded = int(&job["status"]["succeeded"]);
    let parallel = job["spec"]["parallelism"].as_i64().unwrap_or(0);
    Value::from(match job["spec"]["completions"].as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        None => format!("{succeeded}/1"),
    })
}

fn took(job: &Value) -> Value {
    let status = &job["status"];
    let Some(start) = time(&status["startTime"]) else {
        return text(&Value::Null);
    };
    let end = time(&status["completionTime"]).unwrap_or_else(Timestamp::now);
    Value::from(duration(end.as_second() - start.as_second()))
}
