//! Names of the pods, and what else makes each one the one it is.
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, PodTemplateSpec},
};

use super::View;
use crate::{
    history::{self, HASH},
    meta, pods,
};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The number in the pod's name, if it is one of the set's names.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = meta::name(&pod.metadata);
    let rest = name.strip_prefix(meta::name(&set.metadata))?;
    let number = rest.strip_prefix('-')?;
    let plain = number.chars().all(|c| c.is_ascii_digit());
    let canonical = number == "0" || !number.starts_with('0');
    (plain && canonical).then(|| number.parse().ok()).flatten()
}

/// The pod of this number, of the version that it should have now.
pub(super) fn pod(view: &View<'_>, ordinal: i32) -> Pod {
    let (version, template) = version(view, ordinal);
    let set = view.set;
    let mut pod = pods::from_template(set, &template);
    let name = format!("{}-{ordinal}", meta::name(&set.metadata));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(HASH.into(), version);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain.clone_from(&set.spec.service_name);
    pod
}

/// The version a new pod gets: during a rollout the lower numbers are still of the one before.
fn version(view: &View<'_>, ordinal: i32) -> (String, PodTemplateSpec) {
    let old = view.history.get(&view.before).and_then(history::template);
    let position = ordinal - view.start();
    let current = view.set.status.as_ref().and_then(|s| s.current_replicas);
    let held_back = if view.partition() > 0 {
        ordinal < view.start() + view.partition()
    } else {
        position < current.unwrap_or(0)
    };
    match old.filter(|_| view.rolls() && held_back) {
        Some(template) => (view.before.clone(), template),
        None => (view.history.current.clone(), view.set.spec.template.clone()),
    }
}
