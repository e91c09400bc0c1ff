//! Statuses as they stand in objects.
use super::ServiceRow;
use k8s_openapi::jiff::Timestamp;
use lb::lbipam::{SATISFIED, Unsatisfied};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Type, status, reason and message.
pub type Condition = (&'static str, &'static str, &'static str, String);

/// The condition of a pool that cannot be read.
pub fn refused(why: &str) -> [Condition; 1] {
    let kind = "cilium.io/PoolConflict";
    [(kind, "True", "invalid", why.to_owned())]
}

/// Whether conditions, as JSON, say what is wanted, and nothing else.
pub fn said(conditions: &str, wanted: &[Condition]) -> bool {
    let present = list(conditions);
    present.len() == wanted.len()
        && wanted
            .iter()
            .all(|one| present.iter().any(|there| same(there, one)))
}

/// The status of a pool.
pub fn pool(conditions: &str, wanted: &[Condition]) -> Value {
    let present = list(conditions);
    let all: Vec<Value> = wanted.iter().map(|one| condition(&present, one)).collect();
    json!({"conditions": all})
}

/// What the status of a service should say beside what it says; none where it says all of it. No `ingress` leaves the addresses
/// alone, no `outcome` takes the condition away.
pub fn service(
    row: &ServiceRow,
    ingress: Option<&[IpAddr]>,
    outcome: Option<&Result<(), Unsatisfied>>,
) -> Option<Value> {
    let mut wanted = json!({});
    if let Some(ingress) = ingress {
        let mut shown: Vec<IpAddr> = row.service.ingress.iter().map(|one| one.address).collect();
        shown.sort_unstable();
        let mut sorted = ingress.to_vec();
        sorted.sort_unstable();
        if shown != sorted {
            let points: Vec<Value> = ingress.iter().map(|ip| json!({"ip": ip})).collect();
            let points = if points.is_empty() {
                Value::Null
            } else {
                points.into()
            };
            wanted["loadBalancer"] = json!({"ingress": points});
        }
    }
    let present = row.conditions.iter().find(|one| one["type"] == SATISFIED);
    match (outcome, present) {
        (None, None) => {}
        (None, Some(_)) => {
            wanted["conditions"] = json!([{"$patch": "delete", "type": SATISFIED}]);
        }
        (Some(outcome), present) => {
            let one: Condition = match outcome {
                Ok(()) => (SATISFIED, "True", "satisfied", String::new()),
                Err(why) => (SATISFIED, "False", why.reason, why.message.clone()),
            };
            if !present.is_some_and(|there| same(there, &one)) {
                wanted["conditions"] = json!([condition(&row.conditions, &one)]);
            }
        }
    }
    (wanted != json!({})).then_some(wanted)
}

fn list(conditions: &str) -> Vec<Value> {
    serde_json::from_str(conditions).unwrap_or_default()
}

fn same(there: &Value, (kind, status, reason, message): &Condition) -> bool {
    there["type"] == *kind
        && there["status"] == *status
        && there["reason"] == *reason
        && there["message"].as_str().unwrap_or_default() == message
}

/// A condition as it is written. One that says the same as before about its matter keeps its time.
fn condition(present: &[Value], (kind, status, reason, message): &Condition) -> Value {
    let before = present
        .iter()
        .find(|there| there["type"] == *kind && there["status"] == *status);
    let since = before.and_then(|there| there["lastTransitionTime"].as_str());
    let now = || Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since.map_or_else(now, str::to_owned),
    })
}
