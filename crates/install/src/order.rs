//! In which order objects are applied: what others need comes first.
use serde_json::Value;

/// Kinds in their order; what is not here comes last.
const KINDS: &[&str] = &[
    "Namespace",
    "PriorityClass",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
    "Deployment",
];

/// Sorts objects by kind, those of a kind by name.
pub(crate) fn sort(objects: &mut [Value]) {
    objects.sort_by_key(|object| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&object["kind"]);
        let place = KINDS.iter().position(|one| *one == kind);
        (
            place.unwrap_or(KINDS.len()),
            kind,
            text(&object["metadata"]["name"]),
        )
    });
}
