//! `Pod`.

use serde_json::{Map, Value, json};

use super::super::kind::{Others, Strategy};
use super::super::object::{child_mut, meta_str, set_default};
use super::super::validate::FieldErrors;
use super::access;
use super::podspec::{self, CONTAINER_LISTS, DEFAULT_GRACE};

pub(super) struct PodStrategy;

impl Strategy for PodStrategy {
    fn defaults(&self, object: &mut Value) {
        let spec = child_mut(object, "spec");
        set_default(spec, "enableServiceLinks", true);
        podspec::defaults(spec);
        set_default(spec, "serviceAccountName", "default");
        set_default(spec, "serviceAccount", "default");
        set_default(spec, "preemptionPolicy", "PreemptLowerPriority");
        tolerate_short_outages(spec);
    }

    fn prepare_create(&self, object: &mut Value) {
        let qos = qos_class(&object["spec"]);
        object["status"] = json!({ "phase": "Pending", "qosClass": qos });
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        podspec::validate(&object["spec"], "spec", errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if fixed_part(&new["spec"]) != fixed_part(&old["spec"]) {
            errors.forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`, \
                 `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions) \
                 and `spec.terminationGracePeriodSeconds`",
            );
        }
    }

    /// The number behind the name of a priority; a new pod's way to the API server.
    fn settle(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        others: &dyn Others,
        errors: &mut FieldErrors,
    ) {
        if old.is_none() {
            access::mount(new, others);
        }
        let spec = child_mut(new, "spec");
        let name = spec
            .get("priorityClassName")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let mut found = None;
        if !spec.contains_key("priority") {
            others.each("priorityclasses.scheduling.k8s.io", &mut |class| {
                let wanted = if name.is_empty() {
                    class["globalDefault"] == true
                } else {
                    meta_str(class, "name") == name
                };
                if wanted {
                    found = Some(class["value"].clone());
                }
            });
            if !name.is_empty() && found.is_none() {
                errors.not_found("spec.priorityClassName", &json!(name));
            }
            spec.insert("priority".to_owned(), found.unwrap_or(json!(0)));
        }
    }

    fn field_labels(&self) -> &[&str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ]
    }

    fn absent_field(&self, label: &str) -> &str {
        if label == "spec.hostNetwork" {
            "false"
        } else {
            ""
        }
    }

    /// A pod that no node runs goes at once.
    fn grace_period(&self, object: &Value, asked: Option<i64>) -> Option<i64> {
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        let unscheduled = object["spec"]["nodeName"]
            .as_str()
            .is_none_or(str::is_empty);
        if unscheduled || matches!(phase, "Succeeded" | "Failed") {
            return Some(0);
        }
        let seconds = asked
            .or(object["spec"]["terminationGracePeriodSeconds"].as_i64())
            .unwrap_or(DEFAULT_GRACE);
        Some(if seconds < 0 { 1 } else { seconds })
    }
}

/// A pod stays for five minutes on a node that is not ready or cannot be reached.
fn tolerate_short_outages(spec: &mut Map<String, Value>) {
    set_default(spec, "tolerations", json!([]));
    let Some(Value::Array(list)) = spec.get_mut("tolerations") else {
        return;
    };
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let covers = |toleration: &Value| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            (text("key").is_empty() || text("key") == key)
                && matches!(text("effect"), "" | "NoExecute")
        };
        if !list.iter().any(covers) {
            list.push(json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 }));
        }
    }
}

/// What of a spec has to stay as it was made.
fn fixed_part(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let Some(map) = spec.as_object_mut() else {
        return spec;
    };
    for field in [
        "activeDeadlineSeconds",
        "terminationGracePeriodSeconds",
        "tolerations",
        "schedulingGates",
    ] {
        map.remove(field);
    }
    for list in CONTAINER_LISTS {
        let containers = map
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten();
        for container in containers.filter_map(Value::as_object_mut) {
            container.remove("image");
        }
    }
    // Containers for debugging come later, through a subresource of their own.
    map.remove("ephemeralContainers");
    spec
}

/// The quality-of-service class that the containers' requests and limits make.
fn qos_class(spec: &Value) -> &'static str {
    let mut any = false;
    let mut all_limited = true;
    for list in CONTAINER_LISTS {
        for container in spec[list].as_array().into_iter().flatten() {
            let (requests, limits) = (
                &container["resources"]["requests"],
                &container["resources"]["limits"],
            );
            for resource in ["cpu", "memory"] {
                any |= !requests[resource].is_null() || !limits[resource].is_null();
                let limited = !limits[resource].is_null();
                all_limited &= limited
                    && (requests[resource].is_null() || requests[resource] == limits[resource]);
            }
        }
    }
    match (any, all_limited) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_service() {
        let class =
            |resources: Value| qos_class(&json!({"containers": [{"resources": resources}]}));
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(
            class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})),
            "Guaranteed"
        );
    }

    #[test]
    fn grace_of_pods() {
        let grace = |spec: Value, phase: &str, asked| {
            PodStrategy.grace_period(&json!({"spec": spec, "status": {"phase": phase}}), asked)
        };
        assert_eq!(grace(json!({}), "Pending", None), Some(0));
        assert_eq!(grace(json!({"nodeName": "n"}), "Running", None), Some(30));
        assert_eq!(grace(json!({"nodeName": "n"}), "Running", Some(0)), Some(0));
        assert_eq!(
            grace(json!({"nodeName": "n"}), "Running", Some(-1)),
            Some(1)
        );
        assert_eq!(grace(json!({"nodeName": "n"}), "Failed", None), Some(0));
    }
}
