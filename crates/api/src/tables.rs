//! What the agent knows and what is in the kernel, as rows.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A node of the cluster (`GET /v1/cluster/nodes`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Name.
    pub name: String,
    /// Whether it is the agent's own node.
    #[serde(default)]
    pub local: bool,
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Ranges of its pods' addresses.
    #[serde(default)]
    pub pod_cidrs: Vec<IpNet>,
    /// The router address of its pods, where it is known.
    #[serde(default)]
    pub router: Vec<IpAddr>,
    /// Where it was learnt: `local`, `kubernetes`.
    #[serde(default)]
    pub source: String,
}

/// A kernel map (`GET /v1/map`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapInfo {
    /// Name, as pinned.
    pub name: String,
    /// The kernel's number.
    #[serde(default)]
    pub id: u32,
    /// Type, for example `lru_hash`.
    #[serde(default)]
    pub kind: String,
    /// Bytes of a key.
    #[serde(default)]
    pub key_size: u32,
    /// Bytes of a value.
    #[serde(default)]
    pub value_size: u32,
    /// Entries that fit.
    #[serde(default)]
    pub max_entries: u32,
    /// Entries that are in; absent when it was not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Memory it takes in bytes, where the kernel tells.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Failed updates since the agent started.
    #[serde(default)]
    pub errors: u64,
}

/// An entry of a map, decoded (`GET /v1/map/{name}`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapRow {
    /// Key as text.
    pub key: String,
    /// Value as text.
    pub value: String,
    /// Parts of key and value by name, for the commands that print columns of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Value>,
}

/// What is known about an address or a prefix (`GET /v1/ip`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpEntry {
    /// Address or prefix.
    pub prefix: IpNet,
    /// Security identity.
    pub identity: u32,
    /// Labels of the identity.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Node behind which it is, as the tunnel's other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_endpoint: Option<IpAddr>,
    /// Where it was learnt: `k8s`, `local`, `generated`.
    #[serde(default)]
    pub source: String,
    /// What it is, for example `shop/cart-0` or a node's name.
    #[serde(default)]
    pub owner: String,
}

/// A table of the agent's state (`GET /v1/statedb`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableInfo {
    /// Name.
    pub name: String,
    /// Rows in it.
    pub rows: u64,
    /// Number of the last change.
    #[serde(default)]
    pub revision: u64,
    /// Whether everything that fills it has reported once.
    #[serde(default)]
    pub initialized: bool,
}

/// The rows of a table (`GET /v1/statedb/{table}`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableDump {
    /// Name.
    pub name: String,
    /// Number of the last change.
    #[serde(default)]
    pub revision: u64,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// One list of cells per row, in key order.
    pub rows: Vec<Vec<String>>,
}
