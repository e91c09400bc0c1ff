//! Tables for people: what `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::http::{RowObject, metadata_only};
use super::kind::Kind;

/// A column: name, whether it is for wide output only, and how its cell is made.
struct Column(&'static str, bool, fn(&Value) -> Value);

const NAME: Column = Column("Name", false, |o| text(&o["metadata"]["name"]));
const AGE: Column = Column("Age", false, |o| age(&o["metadata"]["creationTimestamp"]));

const PLAIN: &[Column] = &[NAME, AGE];
const NAMESPACE: &[Column] = &[
    NAME,
    Column("Status", false, |o| text(&o["status"]["phase"])),
    AGE,
];
const LEASE: &[Column] = &[
    NAME,
    Column("Holder", false, |o| text(&o["spec"]["holderIdentity"])),
    AGE,
];
const POD: &[Column] = &[
    NAME,
    Column("Ready", false, pod_ready),
    Column("Status", false, pod_status),
    Column("Restarts", false, pod_restarts),
    AGE,
    Column("IP", true, |o| or_none(&o["status"]["podIP"])),
    Column("Node", true, |o| or_none(&o["spec"]["nodeName"])),
    Column("Nominated Node", true, |o| {
        or_none(&o["status"]["nominatedNodeName"])
    }),
    Column("Readiness Gates", true, |_| json!("<none>")),
];
const NODE: &[Column] = &[
    NAME,
    Column("Status", false, node_status),
    Column("Roles", false, node_roles),
    AGE,
    Column("Version", false, |o| {
        text(&o["status"]["nodeInfo"]["kubeletVersion"])
    }),
    Column("Internal-IP", true, |o| node_address(o, "InternalIP")),
    Column("External-IP", true, |o| node_address(o, "ExternalIP")),
    Column("OS-Image", true, |o| {
        or_unknown(&o["status"]["nodeInfo"]["osImage"])
    }),
    Column("Kernel-Version", true, |o| {
        or_unknown(&o["status"]["nodeInfo"]["kernelVersion"])
    }),
    Column("Container-Runtime", true, |o| {
        or_unknown(&o["status"]["nodeInfo"]["containerRuntimeVersion"])
    }),
];
const EVENT: &[Column] = &[
    Column("Last Seen", false, |o| {
        age(first_time(
            o,
            &["lastTimestamp", "eventTime", "firstTimestamp"],
        ))
    }),
    Column("Type", false, |o| text(&o["type"])),
    Column("Reason", false, |o| text(&o["reason"])),
    Column("Object", false, event_object),
    Column("Subobject", true, |o| {
        text(&o["involvedObject"]["fieldPath"])
    }),
    Column("Source", true, |o| text(&o["source"]["component"])),
    Column("Message", false, |o| text(&o["message"])),
    Column("First Seen", true, |o| {
        age(first_time(o, &["firstTimestamp", "eventTime"]))
    }),
    Column("Count", true, |o| o["count"].as_i64().unwrap_or(1).into()),
    Column("Name", true, |o| text(&o["metadata"]["name"])),
];

fn columns(kind: &Kind) -> &'static [Column] {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => POD,
        ("", "Node") => NODE,
        ("", "Namespace") => NAMESPACE,
        ("" | "events.k8s.io", "Event") => EVENT,
        ("coordination.k8s.io", "Lease") => LEASE,
        _ => PLAIN,
    }
}

/// A `Table` of objects.
pub(super) fn table<'a>(
    kind: &Kind,
    objects: impl Iterator<Item = &'a Value>,
    metadata: Value,
    row_object: RowObject,
    with_columns: bool,
) -> Value {
    let columns = columns(kind);
    let rows: Vec<Value> = objects
        .map(|object| row(columns, object, row_object))
        .collect();
    let shown = if with_columns { columns } else { &[] };
    let definitions: Vec<Value> = shown.iter().map(definition).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn definition(column: &Column) -> Value {
    let format = if column.0 == "Name" && !column.1 {
        "name"
    } else {
        ""
    };
    json!({ "name": column.0, "type": "string", "format": format, "description": "", "priority": i32::from(column.1) })
}

fn row(columns: &[Column], object: &Value, row_object: RowObject) -> Value {
    let cells: Vec<Value> = columns.iter().map(|column| column.2(object)).collect();
    match row_object {
        RowObject::None => json!({ "cells": cells }),
        RowObject::Metadata => json!({ "cells": cells, "object": metadata_only(object) }),
        RowObject::Object => json!({ "cells": cells, "object": object }),
    }
}

fn text(value: &Value) -> Value {
    Value::from(value.as_str().unwrap_or_default())
}

fn text_or(value: &Value, other: &str) -> Value {
    Value::from(value.as_str().filter(|t| !t.is_empty()).unwrap_or(other))
}

fn or_none(value: &Value) -> Value {
    text_or(value, "<none>")
}

fn or_unknown(value: &Value) -> Value {
    text_or(value, "<unknown>")
}

fn first_time<'a>(object: &'a Value, fields: &[&str]) -> &'a Value {
    fields
        .iter()
        .map(|field| &object[*field])
        .find(|time| time.is_string())
        .unwrap_or(&Value::Null)
}

fn age(since: &Value) -> Value {
    let since: Option<Timestamp> = since.as_str().and_then(|t| t.parse().ok());
    match since {
        Some(since) => Value::from(duration(Timestamp::now().as_second() - since.as_second())),
        None => Value::from("<unknown>"),
    }
}

/// A time span in at most two units, finer while it is short.
fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
}

fn pod_ready(pod: &Value) -> Value {
    let ready = containers(pod).filter(|c| c["ready"] == true).count();
    let all = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    Value::from(format!("{ready}/{all}"))
}

fn pod_restarts(pod: &Value) -> Value {
    let restarts: i64 = containers(pod)
        .filter_map(|c| c["restartCount"].as_i64())
        .fold(0, i64::saturating_add);
    Value::from(restarts.to_string())
}

/// The phase, or what keeps a container from running.
fn pod_status(pod: &Value) -> Value {
    let status = &pod["status"];
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return Value::from("Terminating");
    }
    let reason = containers(pod).find_map(|c| {
        let (waiting, terminated) = (&c["state"]["waiting"], &c["state"]["terminated"]);
        waiting["reason"]
            .as_str()
            .or(terminated["reason"].as_str())
            .filter(|r| !r.is_empty())
    });
    let phase = status["phase"].as_str().unwrap_or("Unknown");
    Value::from(reason.or(status["reason"].as_str()).unwrap_or(phase))
}

fn node_status(node: &Value) -> Value {
    let conditions = node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let ready = conditions
        .filter(|c| c["type"] == "Ready")
        .map(|c| c["status"] == "True")
        .next();
    let mut shown = match ready {
        Some(true) => "Ready".to_owned(),
        Some(false) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        shown.push_str(",SchedulingDisabled");
    }
    Value::from(shown)
}

fn node_roles(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> = labels
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    Value::from(if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    })
}

fn node_address(node: &Value, kind: &str) -> Value {
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let found = addresses
        .filter(|a| a["type"] == kind)
        .map(|a| &a["address"])
        .next();
    or_none(found.unwrap_or(&Value::Null))
}

fn event_object(event: &Value) -> Value {
    let about = &event["involvedObject"];
    let kind = about["kind"].as_str().unwrap_or_default().to_lowercase();
    Value::from(format!(
        "{kind}/{}",
        about["name"].as_str().unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_usual() {
        for (seconds, shown) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (700, "11m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (100_000, "27h"),
            (180_000, "2d2h"),
            (900_000, "10d"),
            (70_000_000, "2y80d"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
    }
}
