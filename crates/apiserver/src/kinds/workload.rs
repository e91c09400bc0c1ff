//! Workloads: `Deployment`, `ReplicaSet`, `DaemonSet`, `StatefulSet`, `ReplicationController`, `Job`, `CronJob`, `PodTemplate`.

use serde_json::{Map, Value, json};

use super::super::kind::Strategy;
use super::super::object::{child_mut, set_default};
use super::super::selector::LabelSelector;
use super::super::validate::FieldErrors;
use super::podspec;

/// Which workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    Deployment,
    ReplicaSet,
    DaemonSet,
    StatefulSet,
    ReplicationController,
    Job,
    CronJob,
    PodTemplate,
}

use Workload::{
    CronJob, DaemonSet, Deployment, Job, PodTemplate, ReplicaSet, ReplicationController,
    StatefulSet,
};

impl Strategy for Workload {
    fn defaults(&self, object: &mut Value) {
        if *self == PodTemplate {
            template_defaults(object.get_mut("template"));
            return;
        }
        let spec = child_mut(object, "spec");
        match self {
            Deployment => deployment_defaults(spec),
            DaemonSet => daemon_set_defaults(spec),
            StatefulSet => stateful_set_defaults(spec),
            ReplicaSet => set_default(spec, "replicas", 1),
            ReplicationController => {
                set_default(spec, "replicas", 1);
                let labels = spec
                    .get("template")
                    .map(|t| t["metadata"]["labels"].clone())
                    .unwrap_or_default();
                if labels.is_object() {
                    set_default(spec, "selector", labels);
                }
            }
            Job => job_defaults(spec),
            CronJob => {
                set_default(spec, "concurrencyPolicy", "Allow");
                set_default(spec, "suspend", false);
                set_default(spec, "successfulJobsHistoryLimit", 3);
                set_default(spec, "failedJobsHistoryLimit", 1);
                let job = spec.get_mut("jobTemplate").and_then(|t| t.get_mut("spec"));
                if let Some(Value::Object(job)) = job {
                    job_defaults(job);
                    template_defaults(job.get_mut("template"));
                }
            }
            PodTemplate => {}
        }
        template_defaults(spec.get_mut("template"));
    }

    /// A job that has no selector selects the pods that it makes itself.
    fn prepare_create(&self, object: &mut Value) {
        if *self != Job || !object["spec"]["selector"].is_null() {
            return;
        }
        let (uid, name) = (
            object["metadata"]["uid"].clone(),
            object["metadata"]["name"].clone(),
        );
        object["spec"]["selector"] =
            json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } });
        let labels = &mut object["spec"]["template"]["metadata"]["labels"];
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            if labels.is_null() || labels.is_object() {
                labels[key] = value.clone();
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let spec = &object["spec"];
        match self {
            PodTemplate => {
                return podspec::validate(&object["template"]["spec"], "template.spec", errors);
            }
            CronJob => {
                if spec["schedule"].as_str().is_none_or(str::is_empty) {
                    errors.required("spec.schedule", "");
                }
                let place = "spec.jobTemplate.spec.template.spec";
                return podspec::validate(
                    &spec["jobTemplate"]["spec"]["template"]["spec"],
                    place,
                    errors,
                );
            }
            _ => {}
        }
        for field in [
            "replicas",
            "minReadySeconds",
            "revisionHistoryLimit",
            "parallelism",
            "completions",
            "backoffLimit",
        ] {
            if spec[field].as_i64().is_some_and(|n| n < 0) {
                errors.invalid(
                    format!("spec.{field}"),
                    &spec[field],
                    "must be greater than or equal to 0",
                );
            }
        }
        validate_selector(*self, spec, errors);
        let template = &spec["template"];
        podspec::labels(
            &template["metadata"]["labels"],
            "spec.template.metadata.labels",
            errors,
        );
        podspec::validate(&template["spec"], "spec.template.spec", errors);
        validate_restarts(*self, &template["spec"], errors);
        validate_strategy(*self, spec, errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if !matches!(self, ReplicationController | CronJob | PodTemplate)
            && new["spec"]["selector"] != old["spec"]["selector"]
        {
            errors.invalid(
                "spec.selector",
                &new["spec"]["selector"],
                "field is immutable",
            );
        }
        if *self == Job && new["spec"]["template"] != old["spec"]["template"] {
            errors.invalid(
                "spec.template",
                &new["spec"]["template"],
                "field is immutable",
            );
        }
        if *self == StatefulSet && fixed(&new["spec"]) != fixed(&old["spec"]) {
            errors.forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }

    fn field_labels(&self) -> &[&str] {
        match self {
            ReplicaSet | ReplicationController => &["status.replicas"],
            Job => &["status.successful"],
            _ => &[],
        }
    }

    fn absent_field(&self, _label: &str) -> &str {
        "0"
    }
}

fn fixed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(map) = spec.as_object_mut() {
        let free = [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        map.retain(|name, _| !free.contains(&name.as_str()) && name != "selector");
    }
    spec
}

fn template_defaults(template: Option<&mut Value>) {
    if let Some(Value::Object(spec)) = template.and_then(|t| t.get_mut("spec")) {
        podspec::defaults(spec);
    }
}

fn deployment_defaults(spec: &mut Map<String, Value>) {
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    set_default(spec, "strategy", json!({}));
    if let Some(Value::Object(strategy)) = spec.get_mut("strategy") {
        set_default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
        }
        if let Some(Value::Object(rolling)) = strategy.get_mut("rollingUpdate") {
            set_default(rolling, "maxUnavailable", "25%");
            set_default(rolling, "maxSurge", "25%");
        }
    }
}

fn daemon_set_defaults(spec: &mut Map<String, Value>) {
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "updateStrategy", json!({}));
    if let Some(Value::Object(strategy)) = spec.get_mut("updateStrategy") {
        set_default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
        }
        if let Some(Value::Object(rolling)) = strategy.get_mut("rollingUpdate") {
            set_default(rolling, "maxUnavailable", 1);
            set_default(rolling, "maxSurge", 0);
        }
    }
}

fn stateful_set_defaults(spec: &mut Map<String, Value>) {
    set_default(spec, "replicas", 1);
    set_default(spec, "podManagementPolicy", "OrderedReady");
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "serviceName", "");
    let retention = json!({ "whenDeleted": "Retain", "whenScaled": "Retain" });
    set_default(spec, "persistentVolumeClaimRetentionPolicy", retention);
    set_default(spec, "updateStrategy", json!({}));
    if let Some(Value::Object(strategy)) = spec.get_mut("updateStrategy") {
        set_default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
        }
        if let Some(Value::Object(rolling)) = strategy.get_mut("rollingUpdate") {
            set_default(rolling, "partition", 0);
        }
    }
}

fn job_defaults(spec: &mut Map<String, Value>) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    set_default(spec, "backoffLimit", 6);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "podReplacementPolicy", "TerminatingOrFailed");
}

fn validate_selector(workload: Workload, spec: &Value, errors: &mut FieldErrors) {
    let selector = &spec["selector"];
    let empty = selector.is_null() || selector.as_object().is_some_and(Map::is_empty);
    if empty {
        errors.required("spec.selector", "");
        return;
    }
    let template = &spec["template"];
    match LabelSelector::from_object(selector) {
        None => errors.invalid("spec.selector", selector, "invalid label selector"),
        Some(parsed) if !parsed.matches(template) && workload != Job => {
            let labels = &template["metadata"]["labels"];
            let labels = if labels.is_null() { &json!({}) } else { labels };
            errors.invalid(
                "spec.template.metadata.labels",
                labels,
                "`selector` does not match template `labels`",
            );
        }
        Some(_) => {}
    }
}

fn validate_restarts(workload: Workload, spec: &Value, errors: &mut FieldErrors) {
    let policy = &spec["restartPolicy"];
    let (fits, allowed): (bool, &[&str]) = match workload {
        Job => (
            policy == "OnFailure" || policy == "Never",
            &["OnFailure", "Never"],
        ),
        _ => (policy == "Always", &["Always"]),
    };
    if !fits {
        errors.unsupported("spec.template.spec.restartPolicy", policy, allowed);
    }
}

fn validate_strategy(workload: Workload, spec: &Value, errors: &mut FieldErrors) {
    let (field, allowed): (&str, &[&str]) = match workload {
        Deployment => ("strategy", &["Recreate", "RollingUpdate"]),
        DaemonSet | StatefulSet => ("updateStrategy", &["OnDelete", "RollingUpdate"]),
        _ => return,
    };
    let strategy = &spec[field];
    if !strategy["type"]
        .as_str()
        .is_some_and(|t| allowed.contains(&t))
    {
        errors.unsupported(format!("spec.{field}.type"), &strategy["type"], allowed);
        return;
    }
    let rolling = &strategy["rollingUpdate"];
    if strategy["type"] != "RollingUpdate" {
        if !rolling.is_null() {
            let why = "may not be specified when strategy `type` is not 'RollingUpdate'";
            errors.forbidden(format!("spec.{field}.rollingUpdate"), why);
        }
        return;
    }
    for limit in ["maxUnavailable", "maxSurge"] {
        let value = &rolling[limit];
        let percent = value
            .as_str()
            .and_then(|v| v.strip_suffix('%'))
            .and_then(|v| v.parse::<u32>().ok());
        let fits = value.is_null() || value.as_i64().is_some_and(|n| n >= 0) || percent.is_some();
        if !fits {
            let why = "must be a non-negative number or a percentage (e.g. '1' or '25%')";
            errors.invalid(format!("spec.{field}.rollingUpdate.{limit}"), value, why);
        }
    }
    let zero = |value: &Value| *value == json!(0) || *value == json!("0%");
    if workload == Deployment && zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.invalid(
            "spec.strategy.rollingUpdate.maxUnavailable",
            &rolling["maxUnavailable"],
            why,
        );
    }
}
