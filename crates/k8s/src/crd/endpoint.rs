//! `CiliumEndpoint`: a pod as its node's agent serves it.
use super::{
    Column, Crd, Scope,
    schema::{Object, boolean, integer, integer_between, list, text, word},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) const CRD: Crd = Crd {
    kind: "CiliumEndpoint",
    plural: "ciliumendpoints",
    short: &["cep", "ciliumep"],
    scope: Scope::Namespaced,
    versions: &["v2"],
    status: false,
    categories: &[],
    columns: &[
        Column::new("Security Identity", "integer", ".status.identity.id")
            .about("Number of the pod's security identity"),
        Column::text("Ingress Enforcement", ".status.policy.ingress.state")
            .about("Whether policy decides on what the pod receives")
            .wide(),
        Column::text("Egress Enforcement", ".status.policy.egress.state")
            .about("Whether policy decides on what the pod sends")
            .wide(),
        Column::text("Endpoint State", ".status.state").about("Where the endpoint is in its life"),
        Column::text("IPv4", ".status.networking.addressing[0].ipv4").about("IPv4 address"),
        Column::text("IPv6", ".status.networking.addressing[0].ipv6").about("IPv6 address"),
    ],
    schema,
};

/// A pod as its node's agent serves it; it has the name of the pod, and goes with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumEndpoint {
    /// Name, owner and the like.
    pub metadata: ObjectMeta,
    /// All there is to say.
    pub status: EndpointStatus,
}

/// What the agent says of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct EndpointStatus {
    /// Number on its node.
    pub id: u16,
    /// Who it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<EndpointIdentity>,
    /// Its addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networking: Option<EndpointNetworking>,
    /// Encryption of what its node sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EndpointEncryption>,
    /// What others call it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub external_identifiers: BTreeMap<String, String>,
    /// Its named ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub named_ports: Vec<EndpointPort>,
    /// What policy does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<EndpointPolicy>,
    /// Where it is in its life.
    pub state: String,
}

/// Who an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIdentity {
    /// Number of the identity.
    pub id: u32,
    /// Its labels, `source:key=value`, sorted.
    pub labels: Vec<String>,
}

/// Addresses of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointNetworking {
    /// The addresses.
    pub addressing: Vec<AddressPair>,
    /// Address of the node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
}

/// Addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressPair {
    /// IPv4.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// IPv6.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
}

/// A port of a pod that has a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Name.
    pub name: String,
    /// Number.
    pub port: u16,
    /// Name of the protocol.
    pub protocol: String,
}

/// Encryption of what an endpoint's node sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointEncryption {
    /// Number of the key; 0 without encryption.
    pub key: u32,
}

/// What policy does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointPolicy {
    /// On what it receives.
    pub ingress: EndpointPolicyDirection,
    /// On what it sends.
    pub egress: EndpointPolicyDirection,
}

/// What policy does in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointPolicyDirection {
    /// It decides.
    pub enforcing: bool,
    /// `enforcing`, `non-enforcing` or `disabled`.
    pub state: String,
}

/// Every state that an endpoint may be in.
const STATES: [&str; 10] = [
    "creating",
    "waiting-for-identity",
    "not-ready",
    "waiting-to-regenerate",
    "regenerating",
    "restoring",
    "ready",
    "disconnecting",
    "disconnected",
    "invalid",
];

fn schema() -> Value {
    Object::new("A pod as the agent of its node serves it.")
        .optional("status", status(), "What the agent says of it.")
        .root()
}

fn status() -> Value {
    let identity = Object::new("Security identity.")
        .optional("id", integer(), "Number.")
        .optional("labels", list(text()), "Labels, source:key=value.");
    let encryption =
        Object::new("Encryption.").optional("key", integer(), "Number of the key; 0: none.");
    let policy = Object::new("What policy does.")
        .optional("ingress", direction(), "On what it receives.")
        .optional("egress", direction(), "On what it sends.");
    let health = Object::new("Health.")
        .optional("bpf", text(), "Of its programs.")
        .optional("policy", text(), "Of its policy.")
        .optional("connected", boolean(), "It can be reached.")
        .optional("overallHealth", text(), "Of everything.");
    Object::new("What the agent says of it.")
        .optional("id", integer(), "Number on its node.")
        .optional("identity", identity.build(), "Security identity.")
        .optional("networking", networking(), "Addresses.")
        .optional(
            "encryption",
            encryption.build(),
            "Encryption of what its node sends.",
        )
        .optional(
            "external-identifiers",
            identifiers(),
            "What others call it.",
        )
        .optional("named-ports", ports(), "Ports of the pod that have names.")
        .optional("policy", policy.build(), "What policy does.")
        .optional("health", health.build(), "Health.")
        .optional("state", word(&STATES), "Where it is in its life.")
        .optional(
            "controllers",
            list(open()),
            "Work that is done over and over.",
        )
        .optional("log", list(open()), "What happened last.")
        .build()
}

/// Schema of addresses.
pub(super) fn networking() -> Value {
    let pair = Object::new("Addresses of both families.")
        .optional("ipv4", text(), "IPv4 address.")
        .optional("ipv6", text(), "IPv6 address.");
    Object::new("Addresses.")
        .required(
            "addressing",
            list(pair.build()),
            "Addresses of the endpoint.",
        )
        .optional("node", text(), "Address of the node.")
        .build()
}

/// Schema of named ports.
pub(super) fn ports() -> Value {
    let port = Object::new("A named port.")
        .optional("name", text(), "Name.")
        .optional("port", integer_between(0, 65535), "Number.")
        .optional("protocol", text(), "Protocol.");
    list(port.build())
}

fn identifiers() -> Value {
    [
        ("cni-attachment-id", "Attachment, container and interface."),
        ("container-id", "Container."),
        ("container-name", "Name of the container."),
        ("docker-endpoint-id", "Unused."),
        ("docker-network-id", "Unused."),
        ("k8s-namespace", "Namespace of the pod."),
        ("k8s-pod-name", "Name of the pod."),
        ("pod-name", "Namespace and name of the pod."),
    ]
    .into_iter()
    .fold(
        Object::new("What others call it."),
        |object, (name, about)| object.optional(name, text(), about),
    )
    .build()
}

fn direction() -> Value {
    let entry = Object::new("Identities and ports.")
        .optional("identity", integer(), "Number of the identity.")
        .optional(
            "identity-labels",
            super::schema::map(text()),
            "Labels of the identity.",
        )
        .optional("dest-port", integer(), "Port.")
        .optional("protocol", integer(), "Number of the protocol.");
    let entries = || list(json!({}));
    let entry = entry.build();
    let mut object = Object::new("One direction.")
        .required("enforcing", boolean(), "Policy decides.")
        .optional(
            "state",
            word(&["enforcing", "non-enforcing", "disabled", ""]),
            "The same in words.",
        );
    for (name, about) in [
        ("allowed", "Allowed."),
        ("denied", "Denied."),
        ("adding", "About to be allowed."),
        ("removing", "About to be no longer allowed."),
    ] {
        let mut list = entries();
        list["items"] = entry.clone();
        object = object.optional(name, list, about);
    }
    object.build()
}

/// An object of any form.
fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
