//! What makes pods and keeps them.

use serde_json::Value;

use super::Column;
use super::cells::{AGE, NAME, int, joined, labels, list, number, selector, some_text, str_of};

const CONTAINERS: Column = Column::wide("Containers", |o| joined(containers(o), "name"));
const IMAGES: Column = Column::wide("Images", |o| joined(containers(o), "image"));
const SELECTOR: Column = Column::wide("Selector", |o| selector(&o["spec"]["selector"]));

fn containers(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]["containers"]
}

fn wanted(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn of_wanted(object: &Value) -> Value {
    let ready = int(&object["status"]["readyReplicas"]);
    Value::from(format!("{ready}/{}", wanted(object)))
}

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    Column::new("Ready", of_wanted),
    Column::new("Up-to-date", |o| number(&o["status"]["updatedReplicas"])),
    Column::new("Available", |o| number(&o["status"]["availableReplicas"])),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    Column::number("Desired", |o| Value::from(wanted(o))),
    Column::number("Current", |o| number(&o["status"]["replicas"])),
    Column::number("Ready", |o| number(&o["status"]["readyReplicas"])),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    Column::number("Desired", |o| Value::from(wanted(o))),
    Column::number("Current", |o| number(&o["status"]["replicas"])),
    Column::number("Ready", |o| number(&o["status"]["readyReplicas"])),
    AGE,
    CONTAINERS,
    IMAGES,
    Column::wide("Selector", |o| labels(&o["spec"]["selector"])),
];

pub(super) const DAEMON_SET: &[Column] = &[
    NAME,
    Column::number("Desired", |o| {
        number(&o["status"]["desiredNumberScheduled"])
    }),
    Column::number("Current", |o| {
        number(&o["status"]["currentNumberScheduled"])
    }),
    Column::number("Ready", |o| number(&o["status"]["numberReady"])),
    Column::number("Up-to-date", |o| {
        number(&o["status"]["updatedNumberScheduled"])
    }),
    Column::number("Available", |o| number(&o["status"]["numberAvailable"])),
    Column::new("Node Selector", |o| {
        labels(&o["spec"]["template"]["spec"]["nodeSelector"])
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const STATEFUL_SET: &[Column] = &[
    NAME,
    Column::new("Ready", of_wanted),
    AGE,
    CONTAINERS,
    IMAGES,
];

pub(super) const POD_TEMPLATE: &[Column] = &[
    NAME,
    Column::new("Containers", |o| {
        joined(&o["template"]["spec"]["containers"], "name")
    }),
    Column::new("Images", |o| {
        joined(&o["template"]["spec"]["containers"], "image")
    }),
    Column::new("Pod Labels", |o| {
        labels(&o["template"]["metadata"]["labels"])
    }),
];

pub(super) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    Column::new("Controller", controller),
    Column::number("Revision", |o| number(&o["revision"])),
    AGE,
];

/// The owner that controls an object, as `daemonset.apps/x`.
fn controller(object: &Value) -> Value {
    let owner = list(&object["metadata"]["ownerReferences"]).find(|o| o["controller"] == true);
    let shown = owner.map(|owner| {
        let kind = str_of(&owner["kind"]).to_lowercase();
        let name = str_of(&owner["name"]);
        match str_of(&owner["apiVersion"]).split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{name}"),
            None => format!("{kind}/{name}"),
        }
    });
    some_text(shown.unwrap_or_default())
}
