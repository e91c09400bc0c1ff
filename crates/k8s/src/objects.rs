//! Kubernetes objects with only the fields that are read: the rest is skipped while parsing, which is most of a pod.
use crate::crd;
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::Resource;
use model::{HostPort, NamedPort, PoolNames, Protocol, RemoteEndpoint, Text};
use serde::Deserialize;
use serde_json::Value;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

macro_rules! resource {
    ($type:ty, $kind:literal, $group:literal, $version:literal, $scope:ty, $plural:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(Node, "Node", "", "v1", ClusterResourceScope, "nodes");
resource!(Pod, "Pod", "", "v1", NamespaceResourceScope, "pods");
resource!(
    Namespace,
    "Namespace",
    "",
    "v1",
    ClusterResourceScope,
    "namespaces"
);
resource!(
    crd::CiliumNode,
    "CiliumNode",
    "cilium.io",
    "v2",
    ClusterResourceScope,
    "ciliumnodes"
);
resource!(
    crd::CiliumEndpoint,
    "CiliumEndpoint",
    "cilium.io",
    "v2",
    NamespaceResourceScope,
    "ciliumendpoints"
);
resource!(
    crd::CiliumIdentity,
    "CiliumIdentity",
    "cilium.io",
    "v2",
    ClusterResourceScope,
    "ciliumidentities"
);
resource!(
    PublishedEndpoint,
    "CiliumEndpoint",
    "cilium.io",
    "v2",
    NamespaceResourceScope,
    "ciliumendpoints"
);
resource!(
    crd::CiliumEndpointSlice,
    "CiliumEndpointSlice",
    "cilium.io",
    "v2alpha1",
    ClusterResourceScope,
    "ciliumendpointslices"
);
resource!(
    crd::CiliumPodIpPool,
    "CiliumPodIPPool",
    "cilium.io",
    "v2alpha1",
    ClusterResourceScope,
    "ciliumpodippools"
);
resource!(
    crd::CiliumNodeConfig,
    "CiliumNodeConfig",
    "cilium.io",
    "v2",
    NamespaceResourceScope,
    "ciliumnodeconfigs"
);

#[derive(Clone, Debug, Deserialize)]
/// A node, with only what is read.
#[allow(missing_docs)]
pub struct Node {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    taints: Vec<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Vec<NodeAddress>,
    conditions: Vec<Condition>,
}

/// A condition of a node or a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
}

impl Node {
    /// Name and the like.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    /// The taints, as they stand in the object.
    #[must_use]
    pub fn taints(&self) -> &[Value] {
        &self.spec.taints
    }

    /// The reason of a condition that has this status.
    #[must_use]
    pub fn condition(&self, kind: &str, status: &str) -> Option<&str> {
        let mut all = self.status.conditions.iter();
        let found = all.find(|one| one.kind == kind && one.status == status)?;
        Some(&found.reason)
    }
}

#[derive(Clone, Debug, Deserialize)]
struct NodeAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Clone, Debug, Deserialize)]
/// A pod, with only what is read.
pub struct Pod {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
    host_network: bool,
    service_account_name: String,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

/// A container, with only its ports.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: String,
    container_port: u16,
    host_port: u16,
    #[serde(rename = "hostIP")]
    host_ip: String,
    protocol: String,
}

impl PodSpec {
    /// The ports that have names, in the order of these.
    fn named_ports(&self) -> Box<[NamedPort]> {
        let containers = self.init_containers.iter().chain(&self.containers);
        let named = containers
            .flat_map(|one| &one.ports)
            .filter(|port| !port.name.is_empty())
            .filter_map(|port| {
                Some(NamedPort {
                    name: Text::shared(&port.name),
                    protocol: NamedPort::protocol_number(&port.protocol)?,
                    port: port.container_port,
                })
            });
        let all: BTreeSet<NamedPort> = named.collect();
        all.into_iter().collect()
    }
}

impl PodSpec {
    /// Ports on the host. Init containers have none: the others' ports would be taken while they run.
    fn host_ports(&self) -> Box<[HostPort]> {
        let ports = self.containers.iter().flat_map(|one| &one.ports);
        let on_host = ports.filter(|port| port.host_port != 0).filter_map(|port| {
            let address: Option<IpAddr> = port.host_ip.parse().ok();
            Some(HostPort {
                // The unspecified address means every address.
                address: address.filter(|ip| !ip.is_unspecified()),
                host_port: port.host_port,
                port: port.container_port,
                protocol: Protocol::parse(&port.protocol)?,
            })
        });
        on_host.collect()
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    conditions: Vec<Condition>,
    start_time: Option<Time>,
}

impl Pod {
    /// It runs, and its containers say that they are ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let mut all = self.status.conditions.iter();
        self.status.phase == "Running"
            && self.metadata.deletion_timestamp.is_none()
            && all.any(|one| one.kind == "Ready" && one.status == "True")
    }

    /// It runs, ready or not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status.phase == "Running" && self.metadata.deletion_timestamp.is_none()
    }

    /// When its node took it on, in seconds since 1970.
    #[must_use]
    pub fn started(&self) -> Option<i64> {
        self.status
            .start_time
            .as_ref()
            .map(|time| time.0.as_second())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

/// A namespace, with only what is read.
#[derive(Clone, Debug, Deserialize)]
pub struct Namespace {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// A `CiliumEndpoint`, with only what other nodes read.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PublishedEndpoint {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    status: PublishedStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct PublishedStatus {
    identity: Option<PublishedIdentity>,
    networking: Option<crd::EndpointNetworking>,
    named_ports: Option<Vec<crd::EndpointPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PublishedIdentity {
    id: u32,
}

/// The texts that parse; Kubernetes validates them, so one that does not comes from a broken server and is left out.
fn parsed<T: std::str::FromStr + PartialEq>(texts: impl Iterator<Item = String>) -> Vec<T> {
    let mut out: Vec<T> = Vec::new();
    for value in texts.filter_map(|text| text.parse().ok()) {
        if !out.contains(&value) {
            out.push(value);
        }
    }
    out
}

impl From<Node> for model::Node {
    fn from(object: Node) -> Self {
        let addresses = |kind: &str| -> Vec<IpAddr> {
            parsed(
                object
                    .status
                    .addresses
                    .iter()
                    .filter(|a| a.kind == kind)
                    .map(|a| a.address.clone()),
            )
        };
        Self {
            addresses: addresses("InternalIP"),
            external: addresses("ExternalIP"),
            pod_cidrs: parsed(
                object
                    .spec
                    .pod_cidrs
                    .iter()
                    .cloned()
                    .chain(object.spec.pod_cidr.clone()),
            ),
            uid: object.metadata.uid.unwrap_or_default(),
            name: object.metadata.name.unwrap_or_default(),
            labels: object.metadata.labels.unwrap_or_default().into(),
        }
    }
}

/// The pools that annotations name, by family.
fn wanted_pools(annotations: Option<&BTreeMap<String, String>>) -> Option<Box<PoolNames>> {
    let annotations = annotations?;
    let get = |name: &str| annotations.get(name).filter(|pool| !pool.is_empty());
    let both = get("ipam.cilium.io/ip-pool");
    let names = PoolNames {
        ipv4: get("ipam.cilium.io/ipv4-pool").or(both).cloned(),
        ipv6: get("ipam.cilium.io/ipv6-pool").or(both).cloned(),
    };
    // Few pods have any, and all pods of the cluster are held.
    (names != PoolNames::default()).then(|| Box::new(names))
}

impl From<crd::CiliumNode> for model::CiliumNode {
    fn from(object: crd::CiliumNode) -> Self {
        let spec = object.spec;
        let of = |kind: &str| -> Vec<IpAddr> {
            let fits = spec.addresses.iter().filter(|a| a.kind == kind);
            parsed(fits.map(|a| a.ip.clone()))
        };
        let ipam = spec.ipam;
        let ranges = |pool: crd::PoolAllocation| (pool.pool, parsed(pool.cidrs.into_iter()));
        Self {
            addresses: of("InternalIP"),
            external: of("ExternalIP"),
            routers: of("CiliumInternalIP"),
            pod_cidrs: parsed(ipam.pod_cidrs.into_iter()),
            pools: ipam.pools.allocated.into_iter().map(ranges).collect(),
            requested: ipam
                .pools
                .requested
                .into_iter()
                .map(|one| (one.pool, (one.needed.ipv4_addrs, one.needed.ipv6_addrs)))
                .collect(),
            singles: parsed(ipam.pool.into_keys().chain(ipam.ipv6_pool.into_keys())),
            error: object.status.ipam.operator_status.error,
            audit: object.metadata.annotations.as_ref().and_then(|all| {
                let text = all.get(crd::NODE_AUDIT)?;
                text.parse().ok()
            }),
            name: object.metadata.name.unwrap_or_default(),
            uid: object.metadata.uid.unwrap_or_default(),
            version: object.metadata.resource_version.unwrap_or_default(),
        }
    }
}

/// What a pod is a part of, as `Deployment/cart`: what people made, not the objects that were made for it.
fn owner(metadata: &ObjectMeta) -> Text {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let Some(owner) = owners.iter().find(|one| one.controller == Some(true)) else {
        return Text::default();
    };
    let hash = metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("pod-template-hash"));
    let (name, suffix) = owner.name.rsplit_once('-').unwrap_or((&owner.name, ""));
    // A job of a CronJob ends with the minute it is for.
    let is_minute = suffix.len() >= 8 && suffix.bytes().all(|byte| byte.is_ascii_digit());
    let (kind, name) = match owner.kind.as_str() {
        "ReplicaSet" if hash.is_some_and(|hash| hash == suffix) => ("Deployment", name),
        "Job" if is_minute => ("CronJob", name),
        kind => (kind, owner.name.as_str()),
    };
    Text::shared(&format!("{kind}/{name}"))
}

impl From<Pod> for model::Pod {
    fn from(object: Pod) -> Self {
        let ready = object.is_ready();
        let owner = owner(&object.metadata);
        let status = object.status;
        Self {
            owner,
            created: crate::service::created(&object.metadata),
            ready,
            terminating: object.metadata.deletion_timestamp.is_some(),
            host_ports: object.spec.host_ports(),
            finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            addresses: parsed(
                status
                    .pod_ips
                    .into_iter()
                    .map(|ip| ip.ip)
                    .chain(status.pod_ip),
            )
            .into(),
            uid: object.metadata.uid.unwrap_or_default().into(),
            pools: wanted_pools(object.metadata.annotations.as_ref()),
            labels: object.metadata.labels.unwrap_or_default().into(),
            node: Text::shared(&object.spec.node_name),
            host_network: object.spec.host_network,
            ports: object.spec.named_ports(),
            service_account: Text::shared(&object.spec.service_account_name),
            ..Self::named(
                &object.metadata.namespace.unwrap_or_default(),
                &object.metadata.name.unwrap_or_default(),
            )
        }
    }
}

/// An endpoint as it was published.
fn published(
    namespace: &str,
    name: &str,
    identity: u32,
    networking: Option<crd::EndpointNetworking>,
    ports: Vec<crd::EndpointPort>,
) -> RemoteEndpoint {
    let networking = networking.unwrap_or_default();
    let pairs = networking.addressing.into_iter();
    let ports = ports.into_iter().filter_map(|port| {
        Some(NamedPort {
            name: Text::shared(&port.name),
            protocol: NamedPort::protocol_number(&port.protocol)?,
            port: port.port,
        })
    });
    RemoteEndpoint {
        key: format!("{namespace}/{name}").into(),
        addresses: parsed(pairs.flat_map(|pair| [pair.ipv4, pair.ipv6])).into(),
        identity,
        node: networking.node.parse().ok(),
        ports: ports.collect(),
    }
}

impl From<PublishedEndpoint> for RemoteEndpoint {
    fn from(object: PublishedEndpoint) -> Self {
        let status = object.status;
        published(
            &object.metadata.namespace.unwrap_or_default(),
            &object.metadata.name.unwrap_or_default(),
            status.identity.map_or(0, |identity| identity.id),
            status.networking,
            status.named_ports.unwrap_or_default(),
        )
    }
}

impl From<crd::CiliumEndpointSlice> for model::EndpointSlice {
    fn from(object: crd::CiliumEndpointSlice) -> Self {
        let namespace = &object.namespace;
        let rows = object.endpoints.into_iter().map(|one| {
            published(
                namespace,
                &one.name,
                one.id,
                one.networking,
                one.named_ports,
            )
        });
        Self {
            endpoints: rows.collect(),
            name: object.metadata.name.unwrap_or_default(),
        }
    }
}

impl From<crd::CiliumIdentity> for model::ClusterIdentity {
    fn from(object: crd::CiliumIdentity) -> Self {
        let name = object.metadata.name.unwrap_or_default();
        Self {
            id: name.parse().unwrap_or_default(),
            labels: object.security_labels.into_iter().collect(),
        }
    }
}

impl From<Namespace> for model::Namespace {
    fn from(object: Namespace) -> Self {
        Self {
            name: object.metadata.name.unwrap_or_default(),
            pools: wanted_pools(object.metadata.annotations.as_ref()),
            labels: object.metadata.labels.unwrap_or_default().into(),
        }
    }
}

#[cfg(test)]
mod tests;
