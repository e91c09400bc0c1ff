//! `Namespace`.

use serde_json::{Value, json};

use super::super::kind::Strategy;
use super::super::object::{child_mut, meta_str, set_default};

pub(super) struct NamespaceStrategy;

impl Strategy for NamespaceStrategy {
    /// Every namespace is selectable by its name through a label of its own.
    fn defaults(&self, object: &mut Value) {
        let name = meta_str(object, "name").to_owned();
        if name.is_empty() {
            return;
        }
        let labels = &mut object["metadata"]["labels"];
        if labels.is_null() || labels.is_object() {
            labels["kubernetes.io/metadata.name"] = json!(name);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        set_default(
            child_mut(object, "spec"),
            "finalizers",
            json!(["kubernetes"]),
        );
        object["status"] = json!({ "phase": "Active" });
    }

    fn field_labels(&self) -> &[&str] {
        &["status.phase"]
    }
}
