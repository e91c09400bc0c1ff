//! Kinds with a column or two of their own.

use serde_json::Value;

use super::Column;
use super::cells::{AGE, NAME, int, list, number, or_none, some_text, str_of, text, text_or};

pub(super) const NAMESPACE: &[Column] = &[
    NAME,
    Column::new("Status", |o| text(&o["status"]["phase"])),
    AGE,
];

pub(super) const CONFIG_MAP: &[Column] = &[
    NAME,
    Column::new("Data", |o| {
        Value::from(size(&o["data"]) + size(&o["binaryData"]))
    }),
    AGE,
];

pub(super) const SECRET: &[Column] = &[
    NAME,
    Column::new("Type", |o| text(&o["type"])),
    Column::new("Data", |o| Value::from(size(&o["data"]))),
    AGE,
];

pub(super) const SERVICE_ACCOUNT: &[Column] = &[
    NAME,
    Column::new("Secrets", |o| Value::from(list(&o["secrets"]).len())),
    AGE,
];

/// Kinds that say when they were made instead of their age.
pub(super) const CREATED: &[Column] = &[
    NAME,
    Column::new("Created At", |o| text(&o["metadata"]["creationTimestamp"])),
];

pub(super) const LEASE: &[Column] = &[
    NAME,
    Column::new("Holder", |o| text(&o["spec"]["holderIdentity"])),
    AGE,
];

pub(super) const RUNTIME_CLASS: &[Column] =
    &[NAME, Column::new("Handler", |o| text(&o["handler"])), AGE];

pub(super) const WEBHOOKS: &[Column] = &[
    NAME,
    Column::number("Webhooks", |o| Value::from(list(&o["webhooks"]).len())),
    AGE,
];

pub(super) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    Column::number("Value", |o| number(&o["value"])),
    Column::new("Global-Default", |o| {
        Value::from(o["globalDefault"] == true)
    }),
    AGE,
    Column::new("PreemptionPolicy", |o| {
        text_or(&o["preemptionPolicy"], "PreemptLowerPriority")
    }),
];

pub(super) const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    Column::new("Min Available", |o| int_or_text(&o["spec"]["minAvailable"])),
    Column::new("Max Unavailable", |o| {
        int_or_text(&o["spec"]["maxUnavailable"])
    }),
    Column::number("Allowed Disruptions", |o| {
        number(&o["status"]["disruptionsAllowed"])
    }),
    AGE,
];

pub(super) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    Column::new("Request", |o| quota(o, false)),
    Column::new("Limit", |o| quota(o, true)),
    AGE,
];

pub(super) const AUTOSCALER: &[Column] = &[
    NAME,
    Column::new("Reference", |o| {
        let target = &o["spec"]["scaleTargetRef"];
        Value::from(format!(
            "{}/{}",
            str_of(&target["kind"]),
            str_of(&target["name"])
        ))
    }),
    Column::new("Targets", targets),
    Column::new("MinPods", |o| match o["spec"]["minReplicas"].as_i64() {
        Some(min) => Value::from(min.to_string()),
        None => Value::from("<unset>"),
    }),
    Column::number("MaxPods", |o| number(&o["spec"]["maxReplicas"])),
    Column::number("Replicas", |o| number(&o["status"]["currentReplicas"])),
    AGE,
];

pub(super) const API_SERVICE: &[Column] = &[
    NAME,
    Column::new("Service", |o| match &o["spec"]["service"] {
        Value::Null => Value::from("Local"),
        service => Value::from(format!(
            "{}/{}",
            str_of(&service["namespace"]),
            str_of(&service["name"])
        )),
    }),
    Column::new("Available", |o| {
        let available = list(&o["status"]["conditions"]).find(|c| c["type"] == "Available");
        text_or(available.map_or(&Value::Null, |c| &c["status"]), "Unknown")
    }),
    AGE,
];

fn size(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

fn int_or_text(value: &Value) -> Value {
    match value {
        Value::Number(n) => Value::from(n.to_string()),
        Value::String(_) => or_none(value),
        _ => Value::from("N/A"),
    }
}

/// What is used of what may be, for limits or for all else.
fn quota(quota: &Value, limits: bool) -> Value {
    let status = &quota["status"];
    let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let hard = status["hard"].as_object().into_iter().flatten();
    let shown: Vec<String> = hard
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let used = &status["used"][name];
            let used = if used.is_null() {
                "0".to_owned()
            } else {
                plain(used)
            };
            format!("{name}: {used}/{}", plain(hard))
        })
        .collect();
    Value::from(shown.join(", "))
}

/// What an autoscaler aims at. Nothing measures here, so that what is now is not known.
fn targets(scaler: &Value) -> Value {
    let spec = &scaler["spec"];
    let percent = int(&spec["targetCPUUtilizationPercentage"]);
    if percent > 0 {
        return Value::from(format!("cpu: <unknown>/{percent}%"));
    }
    let metric = |m: &Value| {
        let resource = &m["resource"];
        let (name, target) = (str_of(&resource["name"]), &resource["target"]);
        let aim = match target["averageUtilization"].as_i64() {
            Some(percent) => format!("{percent}%"),
            None => str_of(&target["averageValue"]).to_owned(),
        };
        match name {
            "" => "<unknown>".to_owned(),
            name => format!("{name}: <unknown>/{aim}"),
        }
    };
    let shown: Vec<String> = list(&spec["metrics"]).map(metric).collect();
    some_text(shown.join(", "))
}
