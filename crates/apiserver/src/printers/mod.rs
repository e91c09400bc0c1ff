//! The columns of every kind, as users of a real cluster know them.

mod batch;
mod cells;
mod custom;
mod events;
mod jsonpath;
mod network;
mod nodes;
mod others;
mod pods;
mod rbac;
mod storage;
mod workloads;

use serde_json::{Value, json};

use super::kind::Kind;
use cells::{AGE, NAME};

/// A column: name, type, whether it is for wide output only, and how its cell is made from an object.
#[derive(Clone, Copy)]
pub(super) struct Column {
    name: &'static str,
    kind: &'static str,
    wide: bool,
    cell: fn(&Value) -> Value,
}

impl Column {
    /// A column that is always shown.
    const fn new(name: &'static str, cell: fn(&Value) -> Value) -> Self {
        Self {
            name,
            kind: "string",
            wide: false,
            cell,
        }
    }

    /// A column of numbers that is always shown.
    const fn number(name: &'static str, cell: fn(&Value) -> Value) -> Self {
        Self {
            name,
            kind: "integer",
            wide: false,
            cell,
        }
    }

    /// A column of wide output.
    const fn wide(name: &'static str, cell: fn(&Value) -> Value) -> Self {
        Self {
            name,
            kind: "string",
            wide: true,
            cell,
        }
    }

    fn definition(&self) -> Value {
        let format = if self.name == "Name" { "name" } else { "" };
        definition(self.name, self.kind, format, "", i64::from(self.wide))
    }
}

fn definition(name: &str, kind: &str, format: &str, description: &str, priority: i64) -> Value {
    json!({ "name": name, "type": kind, "format": format, "description": description, "priority": priority })
}

/// The columns of a kind.
pub(super) enum Columns {
    /// Of a kind that is known here.
    Known(&'static [Column]),
    /// As the definition of a custom kind has them.
    Custom(custom::Custom),
}

impl Columns {
    /// What the columns are, for the head of a table.
    pub(super) fn definitions(&self) -> Vec<Value> {
        match self {
            Self::Known(columns) => columns.iter().map(Column::definition).collect(),
            Self::Custom(custom) => custom.definitions(),
        }
    }

    /// The cells of an object's row.
    pub(super) fn cells(&self, object: &Value) -> Vec<Value> {
        match self {
            Self::Known(columns) => columns.iter().map(|c| (c.cell)(object)).collect(),
            Self::Custom(custom) => custom.cells(object),
        }
    }
}

const PLAIN: &[Column] = &[NAME, AGE];

/// The columns of a kind.
pub(super) fn columns(kind: &Kind) -> Columns {
    if !kind.columns.is_empty() {
        return Columns::Custom(custom::Custom::new(&kind.columns));
    }
    Columns::Known(known(&kind.group, &kind.kind))
}

/// The cells of an object's row, one for each column of its kind.
pub fn row(kind: &Kind, object: &Value) -> Vec<Value> {
    columns(kind).cells(object)
}

fn known(group: &str, kind: &str) -> &'static [Column] {
    match (group, kind) {
        ("", "Pod") => pods::POD,
        ("", "PodTemplate") => workloads::POD_TEMPLATE,
        ("", "Node") => nodes::NODE,
        ("", "Namespace") => others::NAMESPACE,
        ("", "Service") => network::SERVICE,
        ("", "Endpoints") => network::ENDPOINTS,
        ("", "ConfigMap") => others::CONFIG_MAP,
        ("", "Secret") => others::SECRET,
        ("", "ServiceAccount") => others::SERVICE_ACCOUNT,
        ("", "ReplicationController") => workloads::REPLICATION_CONTROLLER,
        ("", "PersistentVolume") => storage::VOLUME,
        ("", "PersistentVolumeClaim") => storage::CLAIM,
        ("", "ResourceQuota") => others::RESOURCE_QUOTA,
        ("", "LimitRange")
        | ("rbac.authorization.k8s.io", "Role" | "ClusterRole")
        | ("apiextensions.k8s.io", "CustomResourceDefinition") => others::CREATED,
        ("" | "events.k8s.io", "Event") => events::EVENT,
        ("apps", "Deployment") => workloads::DEPLOYMENT,
        ("apps", "ReplicaSet") => workloads::REPLICA_SET,
        ("apps", "DaemonSet") => workloads::DAEMON_SET,
        ("apps", "StatefulSet") => workloads::STATEFUL_SET,
        ("apps", "ControllerRevision") => workloads::CONTROLLER_REVISION,
        ("batch", "Job") => batch::JOB,
        ("batch", "CronJob") => batch::CRON_JOB,
        ("autoscaling", "HorizontalPodAutoscaler") => others::AUTOSCALER,
        ("discovery.k8s.io", "EndpointSlice") => network::ENDPOINT_SLICE,
        ("networking.k8s.io", "Ingress") => network::INGRESS,
        ("networking.k8s.io", "IngressClass") => network::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => network::NETWORK_POLICY,
        ("policy", "PodDisruptionBudget") => others::DISRUPTION_BUDGET,
        ("coordination.k8s.io", "Lease") => others::LEASE,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => rbac::BINDING,
        ("scheduling.k8s.io", "PriorityClass") => others::PRIORITY_CLASS,
        ("node.k8s.io", "RuntimeClass") => others::RUNTIME_CLASS,
        ("storage.k8s.io", "StorageClass") => storage::CLASS,
        ("storage.k8s.io", "CSINode") => storage::CSI_NODE,
        ("storage.k8s.io", "CSIDriver") => storage::CSI_DRIVER,
        ("storage.k8s.io", "VolumeAttachment") => storage::ATTACHMENT,
        ("certificates.k8s.io", "CertificateSigningRequest") => rbac::SIGNING_REQUEST,
        (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration",
        ) => others::WEBHOOKS,
        ("apiregistration.k8s.io", "APIService") => others::API_SERVICE,
        _ => PLAIN,
    }
}
