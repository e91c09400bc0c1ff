//! `Event` of the core group.

use serde_json::Value;

use super::super::face::Face;
use super::super::kind::Strategy;
use super::super::object::meta_str;
use super::super::validate::FieldErrors;

/// Seconds that an event is kept.
pub(super) const TIME_TO_LIVE: i64 = 3600;

/// The words of `events.k8s.io/v1` for the fields of core events.
pub(super) static NEW_FACE: Face = Face {
    of: "events",
    api_version: "v1",
    fields: &[
        ("regarding", "involvedObject"),
        ("note", "message"),
        ("reportingController", "reportingComponent"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
    ],
};

pub(super) struct EventStrategy;

impl Strategy for EventStrategy {
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let about = &object["involvedObject"];
        let expected = about["namespace"]
            .as_str()
            .filter(|n| !n.is_empty())
            .unwrap_or("default");
        if meta_str(object, "namespace") != expected {
            errors.invalid(
                "involvedObject.namespace",
                &about["namespace"],
                "does not match metadata.namespace",
            );
        }
    }

    fn field_labels(&self) -> &[&str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }
}
