//! Nodes.

use serde_json::Value;

use super::Column;
use super::cells::{AGE, NAME, list, or_none, or_unknown, some_text, str_of, text};

pub(super) const NODE: &[Column] = &[
    NAME,
    Column::new("Status", status),
    Column::new("Roles", roles),
    AGE,
    Column::new("Version", |o| {
        text(&o["status"]["nodeInfo"]["kubeletVersion"])
    }),
    Column::wide("Internal-IP", |o| address(o, "InternalIP")),
    Column::wide("External-IP", |o| address(o, "ExternalIP")),
    Column::wide("OS-Image", |o| {
        or_unknown(&o["status"]["nodeInfo"]["osImage"])
    }),
    Column::wide("Kernel-Version", |o| {
        or_unknown(&o["status"]["nodeInfo"]["kernelVersion"])
    }),
    Column::wide("Container-Runtime", |o| {
        or_unknown(&o["status"]["nodeInfo"]["containerRuntimeVersion"])
    }),
];

fn status(node: &Value) -> Value {
    let ready = list(&node["status"]["conditions"]).find(|c| c["type"] == "Ready");
    let mut shown = match ready {
        Some(ready) if ready["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        shown.push_str(",SchedulingDisabled");
    }
    Value::from(shown)
}

fn roles(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    some_text(roles.join(","))
}

fn address(node: &Value, kind: &str) -> Value {
    let found = list(&node["status"]["addresses"]).find(|a| str_of(&a["type"]) == kind);
    or_none(found.map_or(&Value::Null, |a| &a["address"]))
}
