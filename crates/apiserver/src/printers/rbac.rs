//! Who may do what: bindings and certificate requests.

use serde_json::Value;

use super::Column;
use super::cells::{AGE, NAME, NONE, duration, list, str_of, text};

pub(super) const BINDING: &[Column] = &[
    NAME,
    Column::new("Role", |o| {
        let role = &o["roleRef"];
        Value::from(format!(
            "{}/{}",
            str_of(&role["kind"]),
            str_of(&role["name"])
        ))
    }),
    AGE,
    Column::wide("Users", |o| subjects(o, "User")),
    Column::wide("Groups", |o| subjects(o, "Group")),
    Column::wide("ServiceAccounts", |o| subjects(o, "ServiceAccount")),
];

pub(super) const SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    Column::new("SignerName", |o| text(&o["spec"]["signerName"])),
    Column::new("Requestor", |o| text(&o["spec"]["username"])),
    Column::new(
        "RequestedDuration",
        |o| match o["spec"]["expirationSeconds"].as_i64() {
            Some(seconds) => Value::from(duration(seconds)),
            None => Value::from(NONE),
        },
    ),
    Column::new("Condition", condition),
];

fn subjects(binding: &Value, kind: &str) -> Value {
    let shown: Vec<String> = list(&binding["subjects"])
        .filter(|s| str_of(&s["kind"]) == kind)
        .map(|s| match str_of(&s["namespace"]) {
            "" => str_of(&s["name"]).to_owned(),
            namespace => format!("{namespace}/{}", str_of(&s["name"])),
        })
        .collect();
    Value::from(shown.join(", "))
}

fn condition(request: &Value) -> Value {
    let conditions = || list(&request["status"]["conditions"]);
    let has = |kind: &str| conditions().any(|c| c["type"] == kind);
    let mut shown = match (has("Approved"), has("Denied")) {
        (_, true) => "Denied",
        (true, false) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        shown.push_str(",Failed");
    }
    if !str_of(&request["status"]["certificate"]).is_empty() {
        shown.push_str(",Issued");
    }
    Value::from(shown)
}
