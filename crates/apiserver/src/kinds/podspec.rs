//! Specifications of pods, alone or in templates: defaults and validation.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::object::set_default;
use super::super::validate::{
    FieldErrors, check_dns_label, check_dns_subdomain, check_label_key, check_label_value,
};

/// The lists of containers.
pub(super) const CONTAINER_LISTS: [&str; 2] = ["initContainers", "containers"];
/// Seconds that a pod gets to end.
pub(super) const DEFAULT_GRACE: i64 = 30;

/// The objects in a list.
fn each<'a>(
    map: &'a mut Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = map.get_mut(list).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn inner<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(field).and_then(Value::as_object_mut)
}

/// Fills in what a specification leaves out.
pub(super) fn defaults(spec: &mut Map<String, Value>) {
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "schedulerName", "default-scheduler");
    set_default(spec, "terminationGracePeriodSeconds", DEFAULT_GRACE);
    set_default(spec, "securityContext", json!({}));
    // The two names of one field.
    for (from, to) in [
        ("serviceAccountName", "serviceAccount"),
        ("serviceAccount", "serviceAccountName"),
    ] {
        if let Some(name) = spec
            .get(from)
            .filter(|n| n.as_str().is_some_and(|n| !n.is_empty()))
            .cloned()
        {
            set_default(spec, to, name);
        }
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in CONTAINER_LISTS {
        each(spec, list).for_each(|container| container_defaults(container, host_network));
    }
    each(spec, "volumes").for_each(volume_defaults);
    for constraint in each(spec, "topologySpreadConstraints") {
        set_default(constraint, "whenUnsatisfiable", "DoNotSchedule");
    }
}

fn container_defaults(container: &mut Map<String, Value>, host_network: bool) {
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
    if let Some(resources) = inner(container, "resources") {
        // What is limited and not requested is requested as limited.
        let limits = resources
            .get("limits")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        if !limits.is_empty() {
            set_default(resources, "requests", json!({}));
        }
        if let Some(requests) = inner(resources, "requests") {
            limits
                .into_iter()
                .for_each(|(name, value)| set_default(requests, &name, value));
        }
    }
    for port in each(container, "ports") {
        set_default(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            set_default(port, "hostPort", number);
        }
    }
    for env in each(container, "env") {
        if let Some(reference) = inner(env, "valueFrom").and_then(|from| inner(from, "fieldRef")) {
            set_default(reference, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = inner(container, probe) {
            probe_defaults(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) = inner(container, "lifecycle")
            .and_then(|l| inner(l, hook))
            .and_then(|h| inner(h, "httpGet"))
        {
            http_defaults(get);
        }
    }
}

fn http_defaults(get: &mut Map<String, Value>) {
    set_default(get, "path", "/");
    set_default(get, "scheme", "HTTP");
}

fn probe_defaults(probe: &mut Map<String, Value>) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        set_default(probe, field, value);
    }
    if let Some(get) = inner(probe, "httpGet") {
        http_defaults(get);
    }
    if let Some(grpc) = inner(probe, "grpc") {
        set_default(grpc, "service", "");
    }
}

fn volume_defaults(volume: &mut Map<String, Value>) {
    if volume.len() == 1 {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = inner(volume, source) {
            set_default(source, "defaultMode", 0o644);
        }
    }
    if let Some(path) = inner(volume, "hostPath") {
        set_default(path, "type", "");
    }
    if let Some(projected) = inner(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(token) = inner(source, "serviceAccountToken") {
                set_default(token, "expirationSeconds", 3600);
            }
        }
    }
    // References to fields name the version of the fields.
    for item in inner(volume, "downwardAPI")
        .into_iter()
        .flat_map(|source| each(source, "items"))
    {
        if let Some(reference) = inner(item, "fieldRef") {
            set_default(reference, "apiVersion", "v1");
        }
    }
}

/// Adds what is wrong with a specification at `place` (`spec` or `spec.template.spec`).
pub(super) fn validate(spec: &Value, place: &str, errors: &mut FieldErrors) {
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        errors.required(format!("{place}.containers"), "");
    }
    let volumes = validate_volumes(spec, place, errors);
    let mut names = BTreeSet::new();
    for list in CONTAINER_LISTS {
        for (i, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            let place = format!("{place}.{list}[{i}]");
            validate_container(container, &place, &mut names, errors);
            validate_mounts(container, &place, &volumes, errors);
        }
    }
    one_of(
        spec,
        place,
        "restartPolicy",
        &["Always", "OnFailure", "Never"],
        errors,
    );
    one_of(
        spec,
        place,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        errors,
    );
    for field in ["nodeName", "serviceAccountName"] {
        if let Some(Err(why)) = spec[field]
            .as_str()
            .filter(|n| !n.is_empty())
            .map(check_dns_subdomain)
        {
            errors.invalid(format!("{place}.{field}"), &spec[field], why);
        }
    }
    for field in ["hostname", "subdomain"] {
        if let Some(Err(why)) = spec[field]
            .as_str()
            .filter(|n| !n.is_empty())
            .map(check_dns_label)
        {
            errors.invalid(format!("{place}.{field}"), &spec[field], why);
        }
    }
    labels(
        &spec["nodeSelector"],
        &format!("{place}.nodeSelector"),
        errors,
    );
    for field in ["terminationGracePeriodSeconds", "activeDeadlineSeconds"] {
        if spec[field].as_i64().is_some_and(|n| n < 0) {
            errors.invalid(
                format!("{place}.{field}"),
                &spec[field],
                "must be greater than or equal to 0",
            );
        }
    }
    for (i, toleration) in spec["tolerations"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        validate_toleration(toleration, &format!("{place}.tolerations[{i}]"), errors);
    }
}

/// Checks a map of labels.
pub(super) fn labels(map: &Value, place: &str, errors: &mut FieldErrors) {
    for (key, value) in map.as_object().into_iter().flatten() {
        if let Err(why) = check_label_key(key) {
            errors.invalid(place, &Value::from(key.as_str()), why);
        }
        if let Some(Err(why)) = value.as_str().map(check_label_value) {
            errors.invalid(format!("{place}.{key}"), value, why);
        }
    }
}

fn validate_toleration(toleration: &Value, place: &str, errors: &mut FieldErrors) {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    if !matches!(text("operator"), "" | "Equal" | "Exists") {
        errors.unsupported(
            format!("{place}.operator"),
            &toleration["operator"],
            &["Equal", "Exists"],
        );
    }
    if text("key").is_empty() && text("operator") != "Exists" {
        errors.invalid(
            format!("{place}.operator"),
            &toleration["operator"],
            "operator must be Exists when `key` is empty",
        );
    }
    if !matches!(
        text("effect"),
        "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute"
    ) {
        let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
        errors.unsupported(format!("{place}.effect"), &toleration["effect"], &effects);
    }
}

fn validate_volumes(spec: &Value, place: &str, errors: &mut FieldErrors) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (i, volume) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
        let field = format!("{place}.volumes[{i}].name");
        match volume["name"].as_str().filter(|n| !n.is_empty()) {
            None => errors.required(field, ""),
            Some(name) => {
                if let Err(why) = check_dns_label(name) {
                    errors.invalid(&field, &volume["name"], why);
                }
                if !names.insert(name.to_owned()) {
                    errors.duplicate(field, &volume["name"]);
                }
            }
        }
        let sources = volume
            .as_object()
            .map_or(0, |v| v.len() - usize::from(v.contains_key("name")));
        if sources > 1 {
            errors.forbidden(
                format!("{place}.volumes[{i}]"),
                "may not specify more than 1 volume type",
            );
        }
    }
    names
}

fn validate_mounts(
    container: &Value,
    place: &str,
    volumes: &BTreeSet<String>,
    errors: &mut FieldErrors,
) {
    let mut paths = BTreeSet::new();
    for (i, mount) in container["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let field = format!("{place}.volumeMounts[{i}]");
        match mount["name"].as_str().filter(|n| !n.is_empty()) {
            None => errors.required(format!("{field}.name"), ""),
            Some(name) if !volumes.contains(name) => {
                errors.not_found(format!("{field}.name"), &mount["name"])
            }
            Some(_) => {}
        }
        match mount["mountPath"].as_str().filter(|p| !p.is_empty()) {
            None => errors.required(format!("{field}.mountPath"), ""),
            Some(path) if !paths.insert(path) => {
                errors.invalid(
                    format!("{field}.mountPath"),
                    &mount["mountPath"],
                    "must be unique",
                );
            }
            Some(_) => {}
        }
    }
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
    one_of(
        container,
        place,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
        errors,
    );
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
        if env["value"].as_str().is_some_and(|v| !v.is_empty()) && !env["valueFrom"].is_null() {
            let why = "may not be specified when `value` is not empty";
            errors.invalid(
                format!("{place}.env[{i}].valueFrom"),
                &env["valueFrom"],
                why,
            );
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
        match container[probe].as_object() {
            Some(given) if !handlers.iter().any(|h| given.contains_key(*h)) => {
                errors.required(format!("{place}.{probe}"), "must specify a handler type");
            }
            _ => {}
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
        match &port["containerPort"] {
            Value::Null => errors.required(format!("{field}.containerPort"), ""),
            number if !number.as_i64().is_some_and(|n| (1..=65535).contains(&n)) => {
                errors.invalid(
                    format!("{field}.containerPort"),
                    number,
                    "must be between 1 and 65535, inclusive",
                );
            }
            _ => {}
        }
        one_of(port, &field, "protocol", &["SCTP", "TCP", "UDP"], errors);
    }
}

fn one_of(of: &Value, place: &str, field: &str, allowed: &[&str], errors: &mut FieldErrors) {
    if !of[field]
        .as_str()
        .is_some_and(|value| allowed.contains(&value))
    {
        errors.unsupported(format!("{place}.{field}"), &of[field], allowed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("r:5000/nginx", "Always"),
            ("r:5000/nginx:1", "IfNotPresent"),
        ] {
            let mut container = Map::from_iter([("image".to_owned(), json!(image))]);
            container_defaults(&mut container, false);
            assert_eq!(container["imagePullPolicy"], policy, "{image}");
        }
    }

    #[test]
    fn faults_are_named_as_people_know_them() {
        let spec = json!({"restartPolicy": "Sometimes", "dnsPolicy": "Default", "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"image": "x", "imagePullPolicy": "Never", "volumeMounts": [{"name": "w", "mountPath": "/w"}]}]});
        let mut errors = FieldErrors::default();
        validate(&spec, "spec", &mut errors);
        let shown: Vec<String> = errors
            .take()
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let expected = [
            "spec.containers[0].name: Required value",
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_limited_is_requested() {
        let mut container =
            Map::from_iter([("resources".to_owned(), json!({"limits": {"cpu": "1"}}))]);
        container_defaults(&mut container, false);
        assert_eq!(container["resources"]["requests"], json!({"cpu": "1"}));
    }
}
