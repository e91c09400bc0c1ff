//! Events.

use serde_json::Value;

use super::Column;
use super::cells::{age, first_time, int, str_of, text};

pub(super) const EVENT: &[Column] = &[
    Column::new("Last Seen", |o| {
        let series = &o["series"]["lastObservedTime"];
        let single = first_time(o, &["lastTimestamp", "firstTimestamp", "eventTime"]);
        age(if series.is_string() { series } else { single })
    }),
    Column::new("Type", |o| text(&o["type"])),
    Column::new("Reason", |o| text(&o["reason"])),
    Column::new("Object", object),
    Column::wide("Subobject", |o| text(&o["involvedObject"]["fieldPath"])),
    Column::wide("Source", source),
    Column::new("Message", |o| Value::from(str_of(&o["message"]).trim())),
    Column::wide("First Seen", |o| {
        age(first_time(o, &["firstTimestamp", "eventTime"]))
    }),
    Column::wide("Count", |o| {
        let series = int(&o["series"]["count"]);
        Value::from(if series > 0 {
            series
        } else {
            int(&o["count"]).max(1)
        })
    }),
    Column::wide("Name", |o| text(&o["metadata"]["name"])),
];

fn object(event: &Value) -> Value {
    let about = &event["involvedObject"];
    let kind = str_of(&about["kind"]).to_lowercase();
    match str_of(&about["name"]) {
        "" => Value::from(kind),
        name => Value::from(format!("{kind}/{name}")),
    }
}

fn source(event: &Value) -> Value {
    let source = &event["source"];
    let component = match str_of(&source["component"]) {
        "" => str_of(&event["reportingComponent"]),
        component => component,
    };
    let host = match str_of(&source["host"]) {
        "" => str_of(&event["reportingInstance"]),
        host => host,
    };
    Value::from(match host {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    })
}
