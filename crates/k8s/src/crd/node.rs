//! `CiliumNode`: what a node's agent and the operator tell each other.
use super::{
    AGE, Column, Crd, Scope,
    schema::{Object, cidr, integer, list, map, text, word},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) const CRD: Crd = Crd {
    kind: "CiliumNode",
    plural: "ciliumnodes",
    short: &["cn", "ciliumn"],
    scope: Scope::Cluster,
    versions: &["v2"],
    status: true,
    categories: &[],
    columns: &[
        Column::text(
            "CiliumInternalIP",
            r#".spec.addresses[?(@.type=="CiliumInternalIP")].ip"#,
        )
        .about("Address of the node's router, the gateway of its pods"),
        Column::text(
            "InternalIP",
            r#".spec.addresses[?(@.type=="InternalIP")].ip"#,
        )
        .about("Address of the node"),
        AGE.about("Time since the object was made"),
    ],
    schema,
};

/// Annotation of a node whose own traffic policies are about: whether it passes what they deny (`true`), or does not (`false`).
pub const NODE_AUDIT: &str = "network.cilium.io/policy-audit-mode";

/// A node as the agents see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumNode {
    /// Name and the like; the name is the node's.
    pub metadata: ObjectMeta,
    /// What the node is and wants.
    pub spec: CiliumNodeSpec,
    /// What became of it.
    pub status: CiliumNodeStatus,
}

/// What the node is and wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumNodeSpec {
    /// Addresses of the node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    /// Encryption of what the node sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Identity of this start of the machine.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bootid: String,
    /// Address management.
    pub ipam: IpamSpec,
}

/// One address of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `CiliumInternalIP` or `Hostname`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub ip: String,
}

/// Encryption of what a node sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Encryption {
    /// Number of the key; 0 without encryption.
    pub key: u32,
}

/// What is asked for and given of address space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamSpec {
    /// Ranges of the node's pods.
    #[serde(rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
    /// Ranges by pool.
    #[serde(skip_serializing_if = "Pools::is_empty")]
    pub pools: Pools,
    /// Single IPv4 addresses that the node may give to pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pool: BTreeMap<String, IpUse>,
    /// Single IPv6 addresses that the node may give to pods.
    #[serde(rename = "ipv6-pool", skip_serializing_if = "BTreeMap::is_empty")]
    pub ipv6_pool: BTreeMap<String, IpUse>,
}

/// Ranges by pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pools {
    /// What the agent needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requested: Vec<PoolRequest>,
    /// What the operator gave, less what the agent gave back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allocated: Vec<PoolAllocation>,
}

impl Pools {
    /// Nothing asked for and nothing given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requested.is_empty() && self.allocated.is_empty()
    }
}

/// Addresses that a node needs of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolRequest {
    /// Name of the pool.
    pub pool: String,
    /// How many, in use and in reserve.
    pub needed: NeededIps,
}

/// Numbers of addresses by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct NeededIps {
    /// IPv4 addresses.
    pub ipv4_addrs: u32,
    /// IPv6 addresses.
    pub ipv6_addrs: u32,
}

/// Ranges that a node has of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolAllocation {
    /// Name of the pool.
    pub pool: String,
    /// The ranges.
    pub cidrs: Vec<String>,
}

/// Who uses an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpUse {
    /// `namespace/name` of the pod, `router`, or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// What the address belongs to at its provider.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
}

/// What became of the node's wishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumNodeStatus {
    /// Address management.
    pub ipam: IpamStatus,
}

/// Address management.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct IpamStatus {
    /// Single addresses in use.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, IpUse>,
    /// Single IPv6 addresses in use.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ipv6_used: BTreeMap<String, IpUse>,
    /// What the operator has to say.
    pub operator_status: OperatorStatus,
}

/// What the operator has to say about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperatorStatus {
    /// Why the node does not have what it asks for; empty if it has.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

fn schema() -> Value {
    Object::new("A node of the cluster as its agent and the operator see it.")
        .required("spec", spec(), "What the node is and wants.")
        .optional("status", status(), "What became of it.")
        .root()
}

fn spec() -> Value {
    let address = Object::new("An address of the node.")
        .optional(
            "type",
            text(),
            "Kind of the address: InternalIP, ExternalIP, CiliumInternalIP or Hostname.",
        )
        .optional("ip", text(), "The address.");
    let pair = |about: &'static str| {
        Object::new(about)
            .optional("ipv4", text(), "IPv4 address.")
            .optional("ipv6", text(), "IPv6 address.")
            .build()
    };
    let key = Object::new("Encryption.").optional("key", integer(), "Number of the key; 0: none.");
    Object::new("What the node is and wants.")
        .optional("addresses", list(address.build()), "Addresses of the node.")
        .optional(
            "health",
            pair("Addresses."),
            "Addresses of the health endpoint.",
        )
        .optional(
            "ingress",
            pair("Addresses."),
            "Addresses of the ingress listeners.",
        )
        .optional(
            "encryption",
            key.build(),
            "Encryption of what the node sends.",
        )
        .optional("bootid", text(), "Identity of this start of the machine.")
        .optional("nodeidentity", integer(), "Security identity of the node.")
        .optional(
            "instance-id",
            text(),
            "Name of the machine at its provider.",
        )
        .optional("ipam", ipam(), "Address management.")
        .build()
}

fn uses(about: &str) -> Value {
    let mut uses = map(Object::new("Who uses the address.")
        .optional("owner", text(), "Pod, router or the like; nothing: free.")
        .optional(
            "resource",
            text(),
            "What the address belongs to at its provider.",
        )
        .build());
    uses["description"] = about.into();
    uses
}

fn ipam() -> Value {
    let needed = Object::new("Numbers of addresses.")
        .optional("ipv4-addrs", integer(), "IPv4 addresses.")
        .optional("ipv6-addrs", integer(), "IPv6 addresses.");
    let request = Object::new("What the node needs of a pool.")
        .required("pool", pool_name(), "Name of the pool.")
        .optional(
            "needed",
            needed.build(),
            "How many addresses, in use and in reserve.",
        );
    let allocation = Object::new("What the node has of a pool.")
        .required("pool", pool_name(), "Name of the pool.")
        .optional("cidrs", list(cidr()), "Ranges.");
    let pools = Object::new("Ranges by pool.")
        .optional("requested", list(request.build()), "What the agent needs.")
        .optional(
            "allocated",
            list(allocation.build()),
            "What the operator gave, less what the agent gave back.",
        );
    let count = || super::schema::integer_between(0, i64::from(i32::MAX));
    Object::new("Address management.")
        .optional("podCIDRs", list(cidr()), "Ranges of the node's pods.")
        .optional("pools", pools.build(), "Ranges by pool.")
        .optional(
            "pool",
            uses(""),
            "Single IPv4 addresses that the node may give to pods.",
        )
        .optional(
            "ipv6-pool",
            uses(""),
            "Single IPv6 addresses that the node may give to pods.",
        )
        .optional(
            "min-allocate",
            count(),
            "Least number of addresses at the start.",
        )
        .optional("max-allocate", count(), "Greatest number of addresses.")
        .optional("pre-allocate", count(), "Addresses in reserve.")
        .optional(
            "max-above-watermark",
            count(),
            "Addresses in reserve beyond that at most.",
        )
        .optional(
            "static-ip-tags",
            map(text()),
            "Tags of the fixed address to take.",
        )
        .build()
}

fn pool_name() -> Value {
    let mut name = text();
    name["minLength"] = 1.into();
    name
}

fn status() -> Value {
    let operator = Object::new("What the operator has to say.").optional(
        "error",
        text(),
        "Why the node does not have what it asks for.",
    );
    let range = Object::new("A range.").optional(
        "status",
        word(&["released", "depleted", "in-use"]),
        "How the range is used.",
    );
    let release = word(&[
        "marked-for-release",
        "ready-for-release",
        "do-not-release",
        "released",
    ]);
    let ipam = Object::new("Address management.")
        .optional("used", uses(""), "Single addresses in use.")
        .optional("ipv6-used", uses(""), "Single IPv6 addresses in use.")
        .optional("pod-cidrs", map(range.build()), "Use of the pod ranges.")
        .optional("release-ips", map(release), "Addresses on their way back.")
        .optional(
            "release-ipv6s",
            map(text()),
            "IPv6 addresses on their way back.",
        )
        .optional(
            "assigned-static-ip",
            text(),
            "Fixed address that the node has.",
        )
        .optional(
            "operator-status",
            operator.build(),
            "What the operator has to say.",
        );
    Object::new("What became of it.")
        .optional("ipam", ipam.build(), "Address management.")
        .build()
}
