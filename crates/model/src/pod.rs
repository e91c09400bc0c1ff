//! What Kubernetes says about pods and namespaces; only the fields that something reads.
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// Names of address pools, as far as annotations give any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolNames {
    /// For the IPv4 address.
    pub ipv4: Option<String>,
    /// For the IPv6 address.
    pub ipv6: Option<String>,
}

/// A pod object of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique number of this incarnation.
    pub uid: String,
    /// Node the pod is bound to; empty before it is scheduled.
    pub node: String,
    /// The pod uses the node's own network: it has no endpoint and no address of its own.
    pub host_network: bool,
    /// Service account; empty means `default`.
    pub service_account: String,
    /// Labels of the object.
    pub labels: BTreeMap<String, String>,
    /// Pools that its annotations ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pools: Option<Box<PoolNames>>,
    /// Addresses from the status.
    pub addresses: Vec<IpAddr>,
    /// The pod ran to its end (`Succeeded`, `Failed`): its addresses may belong to another pod by now.
    pub finished: bool,
}

impl Pod {
    /// The key in the pod table, `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A namespace object of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// Labels of the object.
    pub labels: BTreeMap<String, String>,
    /// Pools that its annotations ask for, for its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pools: Option<Box<PoolNames>>,
}
