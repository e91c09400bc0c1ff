//! The table of built-in kinds.

use super::super::kind::{Kind, Scale, Subresource};
use super::{event, strategy};

/// A kind in one line.
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    /// Short names, by commas.
    short: &'static str,
    /// What is unusual, by spaces: `cluster` scope, no `status` (`plain`), `scale`, in `all`, counted generations
    /// (`gen`), a `review` that is not kept.
    marks: &'static str,
}

const fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    marks: &'static str,
) -> Row {
    Row {
        group,
        version,
        kind,
        plural,
        short,
        marks,
    }
}

const ADMISSION: &str = "admissionregistration.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

const ROWS: &[Row] = &[
    row("", "v1", "Namespace", "namespaces", "ns", "cluster"),
    row("", "v1", "Node", "nodes", "no", "cluster"),
    row("", "v1", "Pod", "pods", "po", "all gen"),
    row("", "v1", "Service", "services", "svc", "all"),
    row("", "v1", "Endpoints", "endpoints", "ep", "plain"),
    row("", "v1", "ConfigMap", "configmaps", "cm", "plain"),
    row("", "v1", "Secret", "secrets", "", "plain"),
    row("", "v1", "ServiceAccount", "serviceaccounts", "sa", "plain"),
    row("", "v1", "Event", "events", "ev", "plain"),
    row(
        "",
        "v1",
        "PersistentVolume",
        "persistentvolumes",
        "pv",
        "cluster",
    ),
    row(
        "",
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        "pvc",
        "",
    ),
    row(
        "",
        "v1",
        "ReplicationController",
        "replicationcontrollers",
        "rc",
        "all scale gen",
    ),
    row("", "v1", "ResourceQuota", "resourcequotas", "quota", ""),
    row("", "v1", "LimitRange", "limitranges", "limits", "plain"),
    row("", "v1", "PodTemplate", "podtemplates", "", "plain gen"),
    row(
        "apps",
        "v1",
        "Deployment",
        "deployments",
        "deploy",
        "all scale gen",
    ),
    row(
        "apps",
        "v1",
        "ReplicaSet",
        "replicasets",
        "rs",
        "all scale gen",
    ),
    row("apps", "v1", "DaemonSet", "daemonsets", "ds", "all gen"),
    row(
        "apps",
        "v1",
        "StatefulSet",
        "statefulsets",
        "sts",
        "all scale gen",
    ),
    row(
        "apps",
        "v1",
        "ControllerRevision",
        "controllerrevisions",
        "",
        "plain",
    ),
    row("batch", "v1", "Job", "jobs", "", "all gen"),
    row("batch", "v1", "CronJob", "cronjobs", "cj", "all gen"),
    row(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "hpa",
        "all",
    ),
    row(
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        "",
        "plain gen",
    ),
    row("events.k8s.io", "v1", "Event", "events", "ev", "plain"),
    row(NETWORKING, "v1", "Ingress", "ingresses", "ing", "gen"),
    row(
        NETWORKING,
        "v1",
        "IngressClass",
        "ingressclasses",
        "",
        "plain cluster gen",
    ),
    row(
        NETWORKING,
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        "netpol",
        "plain gen",
    ),
    row(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "pdb",
        "gen",
    ),
    row("coordination.k8s.io", "v1", "Lease", "leases", "", "plain"),
    row(RBAC, "v1", "Role", "roles", "", "plain"),
    row(RBAC, "v1", "RoleBinding", "rolebindings", "", "plain"),
    row(
        RBAC,
        "v1",
        "ClusterRole",
        "clusterroles",
        "",
        "plain cluster",
    ),
    row(
        RBAC,
        "v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        "",
        "plain cluster",
    ),
    row(
        STORAGE,
        "v1",
        "StorageClass",
        "storageclasses",
        "sc",
        "plain cluster",
    ),
    row(
        STORAGE,
        "v1",
        "CSIDriver",
        "csidrivers",
        "",
        "plain cluster",
    ),
    row(STORAGE, "v1", "CSINode", "csinodes", "", "plain cluster"),
    row(
        STORAGE,
        "v1",
        "VolumeAttachment",
        "volumeattachments",
        "",
        "cluster",
    ),
    row(
        "scheduling.k8s.io",
        "v1",
        "PriorityClass",
        "priorityclasses",
        "pc",
        "plain cluster gen",
    ),
    row(
        "node.k8s.io",
        "v1",
        "RuntimeClass",
        "runtimeclasses",
        "",
        "plain cluster",
    ),
    row(
        "certificates.k8s.io",
        "v1",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        "csr",
        "cluster",
    ),
    row(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "crd,crds",
        "cluster gen",
    ),
    row(
        ADMISSION,
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "",
        "plain cluster gen",
    ),
    row(
        ADMISSION,
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "",
        "plain cluster gen",
    ),
    row(
        ADMISSION,
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "",
        "cluster gen",
    ),
    row(
        ADMISSION,
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "",
        "plain cluster gen",
    ),
    row(
        AUTHENTICATION,
        "v1",
        "TokenReview",
        "tokenreviews",
        "",
        "review cluster",
    ),
    row(
        AUTHENTICATION,
        "v1",
        "SelfSubjectReview",
        "selfsubjectreviews",
        "",
        "review cluster",
    ),
    row(
        AUTHORIZATION,
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "",
        "review cluster",
    ),
    row(
        AUTHORIZATION,
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "",
        "review cluster",
    ),
    row(
        AUTHORIZATION,
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        "",
        "review cluster",
    ),
    row(
        AUTHORIZATION,
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "",
        "review",
    ),
];

/// Every built-in kind.
pub(super) fn all() -> impl Iterator<Item = Kind> {
    ROWS.iter().map(kind)
}

fn kind(row: &Row) -> Kind {
    let has = |mark: &str| row.marks.split(' ').any(|m| m == mark);
    let mut kind = Kind::new(row.group, row.version, row.kind, row.plural);
    kind.built_in = true;
    kind.namespaced = !has("cluster");
    kind.stored = !has("review");
    kind.has_status = !has("plain") && kind.stored;
    kind.counts_generations = has("gen");
    // A lease that is written without looking is a lease that two hold.
    kind.unconditional_update = !matches!(
        row.kind,
        "Lease" | "CustomResourceDefinition" | "PriorityClass"
    );
    kind.returns_deleted = matches!(
        row.kind,
        "Pod" | "Namespace" | "Service" | "PersistentVolumeClaim" | "PersistentVolume"
    );
    kind.short_names = row
        .short
        .split(',')
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect();
    if has("all") {
        kind.categories.push("all".to_owned());
    }
    if row.group == "apiextensions.k8s.io" || row.group == ADMISSION {
        kind.categories.push("api-extensions".to_owned());
    }
    if has("scale") {
        kind.scale = Some(scale());
    }
    kind.subresources = subresources(row.plural);
    kind.strategy = strategy(row.group, row.kind);
    if row.kind == "Event" {
        kind.time_to_live = Some(event::TIME_TO_LIVE);
    }
    if row.group == "events.k8s.io" {
        kind.face = Some(&event::NEW_FACE);
    }
    kind
}

fn scale() -> Scale {
    Scale {
        spec: ".spec.replicas".to_owned(),
        status: ".status.replicas".to_owned(),
        selector: Some(".spec.selector".to_owned()),
    }
}

fn subresources(plural: &str) -> Vec<Subresource> {
    let of = |name: &str, group: &str, version: &str, kind: &str, verbs: &[&str]| Subresource {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
    };
    match plural {
        "pods" => vec![
            of("attach", "", "v1", "PodAttachOptions", &["create", "get"]),
            of("binding", "", "v1", "Binding", &["create"]),
            of(
                "ephemeralcontainers",
                "",
                "v1",
                "Pod",
                &["get", "patch", "update"],
            ),
            of("eviction", "policy", "v1", "Eviction", &["create"]),
            of("exec", "", "v1", "PodExecOptions", &["create", "get"]),
            of("log", "", "v1", "Pod", &["get"]),
            of(
                "portforward",
                "",
                "v1",
                "PodPortForwardOptions",
                &["create", "get"],
            ),
        ],
        "certificatesigningrequests" => {
            vec![of(
                "approval",
                "certificates.k8s.io",
                "v1",
                "CertificateSigningRequest",
                &["get", "patch", "update"],
            )]
        }
        "namespaces" => vec![of("finalize", "", "v1", "Namespace", &["update"])],
        "serviceaccounts" => vec![of(
            "token",
            "authentication.k8s.io",
            "v1",
            "TokenRequest",
            &["create"],
        )],
        _ => Vec::new(),
    }
}
