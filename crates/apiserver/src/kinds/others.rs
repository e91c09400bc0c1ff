//! Kinds with a few particulars each: defaults, what may not change, what can be selected by.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::super::kind::Strategy;
use super::super::object::{child_mut, set_default};
use super::super::selector::LabelSelector;
use super::super::signing;
use super::super::validate::{FieldErrors, check_dns_subdomain};

pub(super) fn objects<'a>(
    of: &'a mut Value,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = of.get_mut(list).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// What is marked as immutable stays.
fn immutable_data(new: &Value, old: &Value, fields: &[&str], errors: &mut FieldErrors) {
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        errors.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in fields.iter().filter(|f| new[**f] != old[**f]) {
        errors.forbidden(*field, "field is immutable when `immutable` is set");
    }
}

/// Keys of data are names of files.
fn data_keys(object: &Value, fields: &[&str], errors: &mut FieldErrors) {
    for field in fields {
        for key in object[*field].as_object().into_iter().flat_map(Map::keys) {
            let fits = !key.is_empty() && key.len() <= 253 && key != "." && !key.starts_with("..");
            if !fits
                || !key
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
            {
                let why =
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
                errors.invalid(format!("{field}[{key}]"), &json!(key), why);
            }
        }
    }
}

pub(super) fn field_is_fixed(new: &Value, old: &Value, path: &str, errors: &mut FieldErrors) {
    let at = |object: &Value| {
        path.split('.')
            .fold(object.clone(), |at, step| at[step].clone())
    };
    let (before, after) = (at(old), at(new));
    if before != after {
        errors.invalid(path, &after, "field is immutable");
    }
}

pub(super) struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        data_keys(object, &["data", "binaryData"], errors);
        let binary = object["binaryData"].as_object();
        for key in object["data"].as_object().into_iter().flat_map(Map::keys) {
            if binary.is_some_and(|b| b.contains_key(key)) {
                errors.invalid(
                    format!("data[{key}]"),
                    &json!(key),
                    "duplicate of key present in binaryData",
                );
            }
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        immutable_data(new, old, &["data", "binaryData"], errors);
    }
}

pub(super) struct Secret;

impl Strategy for Secret {
    fn defaults(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else {
            return;
        };
        set_default(map, "type", "Opaque");
        // What is written as text is kept with the rest.
        if let Some(Value::Object(texts)) = map.remove("stringData") {
            let data = child_mut(object, "data");
            for (key, text) in texts {
                let encoded = STANDARD.encode(text.as_str().unwrap_or_default());
                data.insert(key, Value::String(encoded));
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        data_keys(object, &["data"], errors);
        let wanted: &[&str] = match object["type"].as_str().unwrap_or_default() {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            _ => &[],
        };
        for key in wanted.iter().filter(|key| object["data"][**key].is_null()) {
            errors.required(format!("data[{key}]"), "");
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        field_is_fixed(new, old, "type", errors);
        immutable_data(new, old, &["data"], errors);
    }

    fn field_labels(&self) -> &[&str] {
        &["type"]
    }
}

pub(super) struct Claim;

impl Strategy for Claim {
    fn defaults(&self, object: &mut Value) {
        set_default(child_mut(object, "spec"), "volumeMode", "Filesystem");
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({ "phase": "Pending" });
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        if object["spec"]["accessModes"]
            .as_array()
            .is_none_or(Vec::is_empty)
        {
            errors.required("spec.accessModes", "at least 1 access mode is required");
        }
        if object["spec"]["resources"]["requests"]["storage"].is_null() {
            errors.required("spec.resources[storage]", "");
        }
    }
}

pub(super) struct Volume;

impl Strategy for Volume {
    fn defaults(&self, object: &mut Value) {
        let spec = child_mut(object, "spec");
        set_default(spec, "volumeMode", "Filesystem");
        set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({ "phase": "Available" });
    }
}

pub(super) struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn defaults(&self, object: &mut Value) {
        let spec = child_mut(object, "spec");
        let egress = spec
            .get("egress")
            .and_then(Value::as_array)
            .is_some_and(|e| !e.is_empty());
        set_default(
            spec,
            "policyTypes",
            if egress {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            },
        );
        set_default(spec, "podSelector", json!({}));
        for direction in ["ingress", "egress"] {
            for rule in spec
                .get_mut(direction)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                objects(rule, "ports").for_each(|port| set_default(port, "protocol", "TCP"));
            }
        }
    }
}

pub(super) struct Ingress;

impl Strategy for Ingress {
    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({ "loadBalancer": {} });
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let spec = &object["spec"];
        let rules = spec["rules"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        if rules.is_empty() && spec["defaultBackend"].is_null() {
            errors.invalid(
                "spec",
                &json!([]),
                "either `defaultBackend` or `rules` must be specified",
            );
        }
        for (i, rule) in rules.iter().enumerate() {
            for (j, path) in rule["http"]["paths"]
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
            {
                let place = format!("spec.rules[{i}].http.paths[{j}]");
                let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
                match path["pathType"].as_str() {
                    None | Some("") => {
                        errors.required(format!("{place}.pathType"), "pathType must be specified")
                    }
                    Some(kind) if !kinds.contains(&kind) => {
                        errors.unsupported(format!("{place}.pathType"), &path["pathType"], &kinds);
                    }
                    Some("Exact" | "Prefix")
                        if !path["path"].as_str().unwrap_or_default().starts_with('/') =>
                    {
                        errors.invalid(
                            format!("{place}.path"),
                            &path["path"],
                            "must be an absolute path",
                        );
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

pub(super) struct DisruptionBudget;

impl Strategy for DisruptionBudget {
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let spec = &object["spec"];
        if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
            errors.invalid(
                "spec",
                &json!(null),
                "minAvailable and maxUnavailable cannot be both set",
            );
        }
        if spec["selector"].as_object().is_some_and(|s| !s.is_empty())
            && LabelSelector::from_object(&spec["selector"]).is_none()
        {
            errors.invalid("spec.selector", &spec["selector"], "invalid label selector");
        }
    }
}

pub(super) struct Lease;

impl Strategy for Lease {
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        for (field, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
            let value = &object["spec"][field];
            if value.as_i64().is_some_and(|n| n < least) {
                let why = if least == 1 {
                    "must be greater than 0"
                } else {
                    "must be greater than or equal to 0"
                };
                errors.invalid(format!("spec.{field}"), value, why);
            }
        }
    }
}

pub(super) struct StorageClass;

impl Strategy for StorageClass {
    fn defaults(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            set_default(map, "reclaimPolicy", "Delete");
            set_default(map, "volumeBindingMode", "Immediate");
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        for field in [
            "parameters",
            "provisioner",
            "reclaimPolicy",
            "volumeBindingMode",
        ] {
            if new[field] != old[field] {
                errors.forbidden(field, &format!("updates to {field} are forbidden."));
            }
        }
    }
}

pub(super) struct PriorityClass;

impl Strategy for PriorityClass {
    fn defaults(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            set_default(map, "preemptionPolicy", "PreemptLowerPriority");
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if new["value"] != old["value"] {
            errors.forbidden("value", "may not be changed in an update.");
        }
    }
}

/// `RoleBinding` and `ClusterRoleBinding`.
pub(super) struct RoleBinding;

const RBAC: &str = "rbac.authorization.k8s.io";

impl Strategy for RoleBinding {
    fn defaults(&self, object: &mut Value) {
        if let Some(Value::Object(role)) = object.get_mut("roleRef") {
            set_default(role, "apiGroup", RBAC);
        }
        for subject in objects(object, "subjects") {
            if matches!(
                subject.get("kind").and_then(Value::as_str),
                Some("User" | "Group")
            ) {
                set_default(subject, "apiGroup", RBAC);
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        if object["roleRef"]["name"].as_str().is_none_or(str::is_empty) {
            errors.required("roleRef.name", "");
        }
        for (i, subject) in object["subjects"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let place = format!("subjects[{i}]");
            if subject["name"].as_str().is_none_or(str::is_empty) {
                errors.required(format!("{place}.name"), "");
            }
            match subject["kind"].as_str() {
                Some("ServiceAccount")
                    if subject["namespace"].as_str().is_none_or(str::is_empty) =>
                {
                    errors.required(format!("{place}.namespace"), "");
                }
                Some("ServiceAccount" | "User" | "Group") => {}
                _ => errors.unsupported(
                    format!("{place}.kind"),
                    &subject["kind"],
                    &["Group", "ServiceAccount", "User"],
                ),
            }
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if new["roleRef"] != old["roleRef"] {
            errors.invalid("roleRef", &new["roleRef"], "cannot change roleRef");
        }
    }
}

/// `Role` and `ClusterRole`.
pub(super) struct Role;

impl Strategy for Role {
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        for (i, rule) in object["rules"].as_array().into_iter().flatten().enumerate() {
            if rule["verbs"].as_array().is_none_or(Vec::is_empty) {
                errors.required(
                    format!("rules[{i}].verbs"),
                    "verbs must contain at least one value",
                );
            }
        }
    }
}

pub(super) struct Scaler;

impl Strategy for Scaler {
    fn defaults(&self, object: &mut Value) {
        set_default(child_mut(object, "spec"), "minReplicas", 1);
    }
}

pub(super) struct SigningRequest;

impl Strategy for SigningRequest {
    fn field_labels(&self) -> &[&str] {
        &["spec.signerName"]
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        // What was asked for stays.
        new["spec"] = old["spec"].clone();
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        signing::check(object, errors);
    }
}

/// Resource quantities: numbers with a unit.
pub(in super::super) fn is_quantity(text: &str) -> bool {
    const UNITS: [&str; 16] = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    let rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    let number = rest.len()
        - rest
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
            .len();
    let (digits, unit) = rest.split_at(number);
    let exponent = unit.strip_prefix(['e', 'E']).filter(|e| !e.is_empty());
    let exponent = exponent.is_some_and(|e| {
        e.strip_prefix(['+', '-'])
            .unwrap_or(e)
            .bytes()
            .all(|b| b.is_ascii_digit())
    });
    let dots = digits.bytes().filter(|b| *b == b'.').count();
    digits.bytes().any(|b| b.is_ascii_digit()) && dots <= 1 && (exponent || UNITS.contains(&unit))
}

pub(super) struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        for (i, secret) in object["imagePullSecrets"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            if let Some(Err(why)) = secret["name"].as_str().map(check_dns_subdomain) {
                errors.invalid(format!("imagePullSecrets[{i}].name"), &secret["name"], why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for good in [
            "0", "1", "0.5", ".5", "100m", "1Gi", "2e3", "1E-2", "+1k", "-3", "64Mi", "5.",
        ] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "m", "1x", "1.2.3", "1 Gi", "1GiB", "e3", "--1", "1e"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }

    #[test]
    fn texts_of_secrets_become_data() {
        let mut secret = json!({"stringData": {"a": "hello"}, "data": {"b": "eA=="}});
        Secret.defaults(&mut secret);
        assert_eq!(
            secret,
            json!({"type": "Opaque", "data": {"a": "aGVsbG8=", "b": "eA=="}})
        );
    }
}
