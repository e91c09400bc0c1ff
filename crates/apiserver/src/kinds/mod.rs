//! The built-in kinds: a table of their names, and what is particular to each.

mod access;
mod allocate;
mod endpoints;
mod event;
mod inert;
mod namespace;
mod node;
mod others;
mod pod;
mod podspec;
mod roles;
mod service;
mod table;
mod workload;

use std::sync::Arc;

use super::kind::{Kind, Plain, Registry, Strategy};
use workload::Workload;

pub(crate) use others::is_quantity;
pub(crate) use roles::initial as initial_roles;

/// Every built-in kind.
pub fn builtin() -> Registry {
    let mut registry = Registry::new();
    for kind in table::all() {
        registry.register(kind);
    }
    registry
}

/// A built-in kind by group and name; a plain custom kind of that name if there is none.
pub fn named(group: &str, kind: &str) -> Kind {
    table::all()
        .find(|k| k.group == group && k.kind == kind)
        .unwrap_or_else(|| Kind::new(group, "v1", kind, &format!("{}s", kind.to_lowercase())))
}

/// `Namespace`.
pub fn namespace() -> Kind {
    named("", "Namespace")
}

/// `Pod`.
pub fn pod() -> Kind {
    named("", "Pod")
}

/// `Scale`, the form in which every kind shows how many it wants.
pub fn scale() -> Kind {
    let mut kind = Kind::new("autoscaling", "v1", "Scale", "scales");
    kind.built_in = true;
    kind
}

/// What is particular to a kind.
fn strategy(group: &str, kind: &str) -> Arc<dyn Strategy> {
    match (group, kind) {
        ("", "Namespace") => Arc::new(namespace::NamespaceStrategy),
        ("", "Node") => Arc::new(node::NodeStrategy),
        ("", "Pod") => Arc::new(pod::PodStrategy),
        ("", "Service") => Arc::new(service::ServiceStrategy),
        ("" | "events.k8s.io", "Event") => Arc::new(event::EventStrategy),
        ("apiextensions.k8s.io", _) => Arc::new(super::crd::DefinitionStrategy),
        _ => workload(kind).map_or_else(|| other(kind), |w| Arc::new(w)),
    }
}

fn workload(kind: &str) -> Option<Workload> {
    Some(match kind {
        "Deployment" => Workload::Deployment,
        "ReplicaSet" => Workload::ReplicaSet,
        "DaemonSet" => Workload::DaemonSet,
        "StatefulSet" => Workload::StatefulSet,
        "ReplicationController" => Workload::ReplicationController,
        "Job" => Workload::Job,
        "CronJob" => Workload::CronJob,
        "PodTemplate" => Workload::PodTemplate,
        _ => return None,
    })
}

fn other(kind: &str) -> Arc<dyn Strategy> {
    match kind {
        "ConfigMap" => Arc::new(others::ConfigMap),
        "Secret" => Arc::new(others::Secret),
        "ServiceAccount" => Arc::new(others::ServiceAccount),
        "Endpoints" => Arc::new(endpoints::Endpoints),
        "EndpointSlice" => Arc::new(endpoints::EndpointSlice),
        "PersistentVolumeClaim" => Arc::new(others::Claim),
        "PersistentVolume" => Arc::new(others::Volume),
        "NetworkPolicy" => Arc::new(others::NetworkPolicy),
        "Ingress" => Arc::new(others::Ingress),
        "PodDisruptionBudget" => Arc::new(others::DisruptionBudget),
        "Lease" => Arc::new(others::Lease),
        "StorageClass" => Arc::new(others::StorageClass),
        "PriorityClass" => Arc::new(others::PriorityClass),
        "RoleBinding" | "ClusterRoleBinding" => Arc::new(others::RoleBinding),
        "Role" | "ClusterRole" => Arc::new(others::Role),
        "HorizontalPodAutoscaler" => Arc::new(others::Scaler),
        "CertificateSigningRequest" => Arc::new(others::SigningRequest),
        _ => Arc::new(Plain),
    }
}
