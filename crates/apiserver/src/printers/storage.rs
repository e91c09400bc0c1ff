//! Volumes and their classes.

use serde_json::Value;

use super::Column;
use super::cells::{AGE, NAME, boolean, list, or_unset, str_of, text};

pub(super) const VOLUME: &[Column] = &[
    NAME,
    Column::new("Capacity", |o| text(&o["spec"]["capacity"]["storage"])),
    Column::new("Access Modes", |o| modes(&o["spec"]["accessModes"])),
    Column::new("Reclaim Policy", |o| {
        text(&o["spec"]["persistentVolumeReclaimPolicy"])
    }),
    Column::new("Status", |o| phase(o, &o["status"]["phase"])),
    Column::new("Claim", claim),
    Column::new("StorageClass", |o| text(&o["spec"]["storageClassName"])),
    Column::new("VolumeAttributesClass", |o| {
        or_unset(&o["spec"]["volumeAttributesClassName"])
    }),
    Column::new("Reason", |o| text(&o["status"]["reason"])),
    AGE,
    Column::wide("VolumeMode", |o| or_unset(&o["spec"]["volumeMode"])),
];

pub(super) const CLAIM: &[Column] = &[
    NAME,
    Column::new("Status", |o| phase(o, &o["status"]["phase"])),
    Column::new("Volume", |o| text(&o["spec"]["volumeName"])),
    Column::new("Capacity", |o| text(&o["status"]["capacity"]["storage"])),
    Column::new("Access Modes", |o| modes(&o["status"]["accessModes"])),
    Column::new("StorageClass", |o| text(&o["spec"]["storageClassName"])),
    Column::new("VolumeAttributesClass", |o| {
        or_unset(&o["spec"]["volumeAttributesClassName"])
    }),
    AGE,
    Column::wide("VolumeMode", |o| or_unset(&o["spec"]["volumeMode"])),
];

pub(super) const CLASS: &[Column] = &[
    Column::new("Name", |o| {
        let name = str_of(&o["metadata"]["name"]);
        let default =
            o["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
        Value::from(if default {
            format!("{name} (default)")
        } else {
            name.to_owned()
        })
    }),
    Column::new("Provisioner", |o| text(&o["provisioner"])),
    Column::new("ReclaimPolicy", |o| {
        Value::from(o["reclaimPolicy"].as_str().unwrap_or("Delete"))
    }),
    Column::new("VolumeBindingMode", |o| or_unset(&o["volumeBindingMode"])),
    Column::new("AllowVolumeExpansion", |o| {
        Value::from(if o["allowVolumeExpansion"] == true {
            "true"
        } else {
            "false"
        })
    }),
    AGE,
];

pub(super) const CSI_NODE: &[Column] = &[
    NAME,
    Column::number("Drivers", |o| {
        Value::from(list(&o["spec"]["drivers"]).len())
    }),
    AGE,
];

pub(super) const CSI_DRIVER: &[Column] = &[
    NAME,
    Column::new("AttachRequired", |o| boolean(&o["spec"]["attachRequired"])),
    Column::new("PodInfoOnMount", |o| boolean(&o["spec"]["podInfoOnMount"])),
    Column::new("StorageCapacity", |o| {
        boolean(&o["spec"]["storageCapacity"])
    }),
    Column::new("Modes", |o| {
        let modes: Vec<&str> = list(&o["spec"]["volumeLifecycleModes"])
            .map(str_of)
            .collect();
        Value::from(modes.join(","))
    }),
    AGE,
];

pub(super) const ATTACHMENT: &[Column] = &[
    NAME,
    Column::new("Attacher", |o| text(&o["spec"]["attacher"])),
    Column::new("PV", |o| text(&o["spec"]["source"]["persistentVolumeName"])),
    Column::new("Node", |o| text(&o["spec"]["nodeName"])),
    Column::new("Attached", |o| Value::from(o["status"]["attached"] == true)),
    AGE,
];

fn phase(object: &Value, phase: &Value) -> Value {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return Value::from("Terminating");
    }
    text(phase)
}

fn claim(volume: &Value) -> Value {
    let claim = &volume["spec"]["claimRef"];
    if !claim.is_object() {
        return text(&Value::Null);
    }
    Value::from(format!(
        "{}/{}",
        str_of(&claim["namespace"]),
        str_of(&claim["name"])
    ))
}

/// Access modes by their short names.
fn modes(modes: &Value) -> Value {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| list(modes).any(|m| m == mode);
    let shown: Vec<&str> = known
        .iter()
        .filter(|(mode, _)| has(mode))
        .map(|(_, s)| *s)
        .collect();
    Value::from(shown.join(","))
}
