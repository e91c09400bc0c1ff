//! `Pod`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::kind::Strategy;
use super::super::object::{child_mut, set_default};
use super::super::validate::{FieldErrors, check_dns_label, check_dns_subdomain};

const DEFAULT_GRACE: i64 = 30;
const CONTAINER_LISTS: [&str; 2] = ["initContainers", "containers"];

pub(super) struct PodStrategy;

impl Strategy for PodStrategy {
    fn defaults(&self, object: &mut Value) {
        let spec = child_mut(object, "spec");
        set_default(spec, "restartPolicy", "Always");
        set_default(spec, "dnsPolicy", "ClusterFirst");
        set_default(spec, "schedulerName", "default-scheduler");
        set_default(spec, "terminationGracePeriodSeconds", DEFAULT_GRACE);
        set_default(spec, "enableServiceLinks", true);
        set_default(spec, "securityContext", json!({}));
        for list in CONTAINER_LISTS {
            let containers = spec
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten();
            containers
                .filter_map(Value::as_object_mut)
                .for_each(container_defaults);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        let qos = qos_class(&object["spec"]);
        object["status"] = json!({ "phase": "Pending", "qosClass": qos });
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let spec = &object["spec"];
        if spec["containers"].as_array().is_none_or(Vec::is_empty) {
            errors.required("spec.containers", "a pod needs at least one container");
        }
        let mut names = BTreeSet::new();
        for list in CONTAINER_LISTS {
            for (i, container) in spec[list].as_array().into_iter().flatten().enumerate() {
                validate_container(container, &format!("spec.{list}[{i}]"), &mut names, errors);
            }
        }
        one_of(
            spec,
            "restartPolicy",
            &["Always", "OnFailure", "Never"],
            errors,
        );
        one_of(
            spec,
            "dnsPolicy",
            &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
            errors,
        );
        if let Some(Err(why)) = spec["nodeName"].as_str().map(check_dns_subdomain) {
            errors.invalid("spec.nodeName", &spec["nodeName"], why);
        }
        for field in ["terminationGracePeriodSeconds", "activeDeadlineSeconds"] {
            if spec[field].as_i64().is_some_and(|n| n < 0) {
                errors.invalid(
                    format!("spec.{field}"),
                    &spec[field],
                    "must be greater than or equal to 0",
                );
            }
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if fixed_part(&new["spec"]) != fixed_part(&old["spec"]) {
            errors.forbidden(
                "spec",
                "of a pod, only the images of containers, activeDeadlineSeconds, terminationGracePeriodSeconds \
                 and tolerations may be changed after it is made",
            );
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

fn container_defaults(container: &mut Map<String, Value>) {
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let pinned = last.contains('@') || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    set_default(
        container,
        "imagePullPolicy",
        if pinned { "IfNotPresent" } else { "Always" },
    );
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    let ports = container
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    ports
        .filter_map(Value::as_object_mut)
        .for_each(|port| set_default(port, "protocol", "TCP"));
}

fn validate_container(
    container: &Value,
    place: &str,
    names: &mut BTreeSet<String>,
    errors: &mut FieldErrors,
) {
    match container["name"].as_str().filter(|n| !n.is_empty()) {
        None => errors.required(format!("{place}.name"), ""),
        Some(name) => {
            if let Err(why) = check_dns_label(name) {
                errors.invalid(format!("{place}.name"), &container["name"], why);
            }
            if !names.insert(name.to_owned()) {
                errors.duplicate(format!("{place}.name"), &container["name"]);
            }
        }
    }
    if container["image"]
        .as_str()
        .is_none_or(|i| i.trim().is_empty())
    {
        errors.required(format!("{place}.image"), "");
    }
    validate_ports(container, place, errors);
    for (i, env) in container["env"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        if env["name"].as_str().is_none_or(str::is_empty) {
            errors.required(format!("{place}.env[{i}].name"), "");
        }
    }
}

fn validate_ports(container: &Value, place: &str, errors: &mut FieldErrors) {
    for (i, port) in container["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let field = format!("{place}.ports[{i}]");
        if !port["containerPort"]
            .as_i64()
            .is_some_and(|n| (1..=65535).contains(&n))
        {
            errors.invalid(
                format!("{field}.containerPort"),
                &port["containerPort"],
                "must be between 1 and 65535",
            );
        }
        if !matches!(port["protocol"].as_str(), Some("TCP" | "UDP" | "SCTP")) {
            errors.unsupported(
                format!("{field}.protocol"),
                &port["protocol"],
                &["SCTP", "TCP", "UDP"],
            );
        }
    }
}

fn one_of(spec: &Value, field: &str, allowed: &[&str], errors: &mut FieldErrors) {
    if !spec[field]
        .as_str()
        .is_some_and(|value| allowed.contains(&value))
    {
        errors.unsupported(format!("spec.{field}"), &spec[field], allowed);
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
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("r:5000/nginx", "Always"),
            ("r:5000/nginx:1", "IfNotPresent"),
        ] {
            let mut container = Map::from_iter([("image".to_owned(), json!(image))]);
            container_defaults(&mut container);
            assert_eq!(container["imagePullPolicy"], policy, "{image}");
        }
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
