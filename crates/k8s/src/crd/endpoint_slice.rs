//! `CiliumEndpointSlice`: endpoints of a namespace, many in one object, so that agents need not follow each.
use super::{
    AGE, Crd, Scope,
    endpoint::{EndpointEncryption, EndpointNetworking, EndpointPort, networking, ports},
    schema::{Object, integer, list, text},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) const CRD: Crd = Crd {
    kind: "CiliumEndpointSlice",
    plural: "ciliumendpointslices",
    short: &["ces"],
    scope: Scope::Cluster,
    versions: &["v2alpha1"],
    status: false,
    categories: &[],
    columns: &[AGE],
    schema,
};

/// Endpoints of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumEndpointSlice {
    /// Name and the like.
    pub metadata: ObjectMeta,
    /// Their namespace.
    pub namespace: String,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint in a slice: what other nodes need to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct SliceEndpoint {
    /// Name of the pod.
    pub name: String,
    /// Number of its identity.
    pub id: u32,
    /// Its addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networking: Option<EndpointNetworking>,
    /// Encryption of what its node sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EndpointEncryption>,
    /// Its named ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub named_ports: Vec<EndpointPort>,
}

fn schema() -> Value {
    let encryption =
        Object::new("Encryption.").optional("key", integer(), "Number of the key; 0: none.");
    let endpoint = Object::new("An endpoint.")
        .optional("name", text(), "Name of the pod.")
        .optional("id", integer(), "Number of its identity.")
        .optional("networking", networking(), "Addresses.")
        .optional(
            "encryption",
            encryption.build(),
            "Encryption of what its node sends.",
        )
        .optional("named-ports", ports(), "Ports of the pod that have names.");
    Object::new("Endpoints of a namespace.")
        .optional("namespace", text(), "The namespace.")
        .required("endpoints", list(endpoint.build()), "The endpoints.")
        .root()
}
