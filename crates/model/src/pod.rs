//! What Kubernetes says about pods and namespaces; only the fields that something reads.
use crate::{HostPort, LabelMap, NamedPort, Text};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Names of address pools, as far as annotations give any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolNames {
    /// For the IPv4 address.
    pub ipv4: Option<String>,
    /// For the IPv6 address.
    pub ipv6: Option<String>,
}

/// A pod object of the API server. Every agent holds those of the whole cluster: texts are shared wherever pods have them in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// The key in the pod table, `namespace/name`.
    pub key: Text,
    /// Unique number of this incarnation.
    pub uid: Box<str>,
    /// Node the pod is bound to; empty before it is scheduled.
    pub node: Text,
    /// The pod uses the node's own network: it has no endpoint and no address of its own.
    pub host_network: bool,
    /// Service account; empty means `default`.
    pub service_account: Text,
    /// What it is a part of, as `Deployment/cart`; empty for a pod of its own.
    pub owner: Text,
    /// Labels of the object.
    pub labels: LabelMap,
    /// When it was created, in seconds.
    pub created: i64,
    /// Pools that its annotations ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools: Option<Box<PoolNames>>,
    /// Addresses from the status.
    pub addresses: Box<[IpAddr]>,
    /// Ports of its containers that have names.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub ports: Box<[NamedPort]>,
    /// Ports of its containers on the host.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub host_ports: Box<[HostPort]>,
    /// Condition `Ready`.
    pub ready: bool,
    /// It was asked to end.
    pub terminating: bool,
    /// The pod ran to its end (`Succeeded`, `Failed`): its addresses may belong to another pod by now.
    pub finished: bool,
}

impl Pod {
    /// The pod `name` in `namespace`, of which nothing else is known.
    #[must_use]
    pub fn named(namespace: &str, name: &str) -> Self {
        Self {
            key: format!("{namespace}/{name}").into(),
            ..Self::default()
        }
    }

    /// Namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.key
            .split_once('/')
            .map_or("", |(namespace, _)| namespace)
    }

    /// It has addresses of its own, on a node: packets may come from there and go there.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        !self.host_network && !self.finished && !self.node.is_empty()
    }
}

/// A namespace object of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// Labels of the object.
    pub labels: LabelMap,
    /// Pools that its annotations ask for, for its pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools: Option<Box<PoolNames>>,
}
