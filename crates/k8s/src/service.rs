//! Services and what is behind them: slim objects, read with patience, and the watches of them.
//!
//! One malformed object must not harm the others: what of it cannot be read is left out and told in its row (`problems`).
mod slices;

use crate::lenient::{List, Reader, Record, Scalar};
use crate::policy::{Kind, Object, key, resource};
use crate::watch::{Presence, Watcher};
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource;
use model::service::{Families, Ingress, ServicePort, ServiceType, TrafficPolicy};
use model::{LabelMap, Protocol, ServiceTables, Text};
use serde::Deserialize;
use serde_json::Value;
use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

pub use slices::EndpointSlice;

/// Label of an endpoint slice: its service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Seconds for which a client keeps its backend where a service does not say for how long.
const AFFINITY: u32 = 10_800;
const PORT: &str = "a port from 1 to 65535";
const PROTOCOL: &str = "TCP, UDP, SCTP";
const ADDRESS: &str = "an IPv4 or IPv6 address";

/// Which of the kinds that a cluster need not use are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Local redirect policies.
    pub redirects: bool,
    /// Policies of announcements.
    pub l2: bool,
}

/// Starts the watches of what is behind services, and of what else says how they are served. The services themselves are
/// watched with what policies refer to, see [`crate::policy::follow`].
pub fn follow(watcher: &Watcher, tables: &ServiceTables, wanted: Wanted) {
    watcher.follow_either::<EndpointSlice, EndpointSlice<true>, _>(&tables.slices, "");
    if wanted.redirects {
        watcher.follow::<Object<crate::policy::Redirect>, _>(&tables.redirects, Presence::Optional);
    } else {
        watcher.leave_empty(&tables.redirects);
    }
    if wanted.l2 {
        let policies = &tables.l2_policies;
        watcher.follow::<Object<crate::policy::L2Announcement>, _>(policies, Presence::Optional);
    } else {
        watcher.leave_empty(&tables.l2_policies);
    }
}

/// A service, with only what is read.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Record<ServiceSpec>,
    #[serde(default)]
    status: Record<ServiceStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: Scalar,
    selector: Record<BTreeMap<String, Scalar>>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Scalar,
    #[serde(rename = "clusterIPs")]
    cluster_ips: List<Scalar>,
    #[serde(rename = "externalIPs")]
    external_ips: List<Scalar>,
    ports: List<Record<Port>>,
    external_traffic_policy: Scalar,
    internal_traffic_policy: Scalar,
    session_affinity: Scalar,
    session_affinity_config: Record<AffinityConfig>,
    load_balancer_source_ranges: List<Scalar>,
    publish_not_ready_addresses: Scalar,
    health_check_node_port: Scalar,
    load_balancer_class: Scalar,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: Scalar,
    ip_family_policy: Scalar,
    ip_families: List<Scalar>,
}

/// A port of a service or of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Scalar,
    protocol: Scalar,
    port: Scalar,
    node_port: Scalar,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Record<AffinityTimeout>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityTimeout {
    timeout_seconds: Scalar,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: Record<LoadBalancer>,
    conditions: List<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: List<Record<IngressPoint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct IngressPoint {
    ip: Scalar,
    ip_mode: Scalar,
}

impl Service {
    /// The conditions of its status, as they stand in the object.
    #[must_use]
    pub fn conditions(&self) -> &[Value] {
        match &self.status {
            Record::Given(status) => status.conditions.items(),
            Record::Absent | Record::Odd => &[],
        }
    }

    /// Its unique number.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
}

resource!(Service, "Service", "", "services");
pub(crate) fn created(metadata: &ObjectMeta) -> i64 {
    let time = metadata.creation_timestamp.as_ref();
    time.map_or(0, |time| time.0.as_second())
}

/// The annotations that somebody of ours reads: most objects have large ones of others.
fn annotations(metadata: &mut ObjectMeta) -> LabelMap {
    let mut all = metadata.annotations.take().unwrap_or_default();
    all.retain(|key, _| key.contains("cilium.io/") || key.starts_with("io.cilium"));
    all.into()
}

impl From<Service> for model::Service {
    fn from(object: Service) -> Self {
        let Service {
            mut metadata,
            spec,
            status,
        } = object;
        let mut read = Reader::default();
        let spec = read.record(spec, format_args!("spec"));
        let status = read.record(status, format_args!("status"));
        let kind = read.said(
            &spec.r#type,
            format_args!("spec.type"),
            "ClusterIP, NodePort, LoadBalancer, ExternalName",
            ServiceType::parse,
        );
        Self {
            key: key(&metadata),
            created: created(&metadata),
            annotations: annotations(&mut metadata),
            labels: metadata.labels.unwrap_or_default().into(),
            kind: kind.unwrap_or_default(),
            selector: selector(&mut read, spec.selector),
            cluster_ips: cluster_ips(&mut read, &spec.cluster_ip, spec.cluster_ips),
            external_ips: addresses(&mut read, spec.external_ips, "spec.externalIPs"),
            ingress: ingress(&mut read, status),
            ports: service_ports(&mut read, spec.ports),
            external_policy: traffic_policy(
                &mut read,
                &spec.external_traffic_policy,
                "spec.externalTrafficPolicy",
            ),
            internal_policy: traffic_policy(
                &mut read,
                &spec.internal_traffic_policy,
                "spec.internalTrafficPolicy",
            ),
            affinity: affinity(
                &mut read,
                &spec.session_affinity,
                spec.session_affinity_config,
            ),
            source_ranges: texts(
                &mut read,
                spec.load_balancer_source_ranges,
                "spec.loadBalancerSourceRanges",
            ),
            publish_not_ready: read
                .flag(
                    &spec.publish_not_ready_addresses,
                    format_args!("spec.publishNotReadyAddresses"),
                )
                .unwrap_or_default(),
            health_check_port: read
                .number(
                    &spec.health_check_node_port,
                    format_args!("spec.healthCheckNodePort"),
                    PORT,
                )
                .unwrap_or_default(),
            class: Text::shared(read.text(
                &spec.load_balancer_class,
                format_args!("spec.loadBalancerClass"),
            )),
            wanted_address: Text::shared(
                read.text(&spec.load_balancer_ip, format_args!("spec.loadBalancerIP")),
            ),
            families: families(&mut read, &spec.ip_family_policy),
            ipv6: ipv6(&mut read, spec.ip_families),
            problems: read.problems,
        }
    }
}

fn selector(read: &mut Reader, value: Record<BTreeMap<String, Scalar>>) -> LabelMap {
    let labels = read.record(value, format_args!("spec.selector"));
    let pair = |(key, value): (String, Scalar)| {
        let text = read.text(&value, format_args!("spec.selector.{key}"));
        (key, text.to_owned())
    };
    labels.into_iter().map(pair).collect()
}

fn addresses(read: &mut Reader, list: List<Scalar>, name: &str) -> Vec<IpAddr> {
    let items = read.list(list, format_args!("{name}"));
    let one = |(index, item): (usize, &Scalar)| {
        read.parsed(item, format_args!("{name}[{index}]"), ADDRESS)
    };
    let mut found: Vec<IpAddr> = items.iter().enumerate().filter_map(one).collect();
    found.shrink_to_fit();
    found
}

fn texts(read: &mut Reader, list: List<Scalar>, name: &str) -> Vec<Text> {
    let items = read.list(list, format_args!("{name}"));
    let one = |(index, item): (usize, &Scalar)| {
        Text::shared(read.text(item, format_args!("{name}[{index}]")))
    };
    items.iter().enumerate().map(one).collect()
}

/// A headless service says `None` in the place of an address.
fn cluster_ips(read: &mut Reader, first: &Scalar, all: List<Scalar>) -> Vec<IpAddr> {
    let none = |value: &Scalar| matches!(value, Scalar::Text(text) if &**text == "None");
    if none(first) || all.items().iter().any(none) {
        return Vec::new();
    }
    let all = addresses(read, all, "spec.clusterIPs");
    if all.is_empty() {
        let first = read.parsed(first, format_args!("spec.clusterIP"), ADDRESS);
        return first.into_iter().collect();
    }
    all
}

fn ingress(read: &mut Reader, status: ServiceStatus) -> Vec<Ingress> {
    let balancer = read.record(status.load_balancer, format_args!("status.loadBalancer"));
    let list = read.list(
        balancer.ingress,
        format_args!("status.loadBalancer.ingress"),
    );
    let mut found = Vec::new();
    for (index, point) in list.into_iter().enumerate() {
        let at = format_args!("status.loadBalancer.ingress[{index}]");
        let point = read.record(point, at);
        let mode = read.text(&point.ip_mode, at);
        // A name in the place of an address is nothing that could be served.
        if let Some(address) = read.parsed(&point.ip, at, ADDRESS) {
            found.push(Ingress {
                address,
                proxy: mode == "Proxy",
            });
        }
    }
    found
}

fn service_ports(read: &mut Reader, list: List<Record<Port>>) -> Vec<ServicePort> {
    let list = read.list(list, format_args!("spec.ports"));
    let mut ports = Vec::with_capacity(list.len());
    for (index, port) in list.into_iter().enumerate() {
        let at = format_args!("spec.ports[{index}]");
        let port = read.record(port, at);
        let Some((name, protocol)) = named(read, &port, at) else {
            continue;
        };
        let number = read.number(&port.port, at, PORT).filter(|port| *port != 0);
        let Some(number) = number else {
            if matches!(port.port, Scalar::Absent | Scalar::Number(0)) {
                read.odd(at, "no port", PORT);
            }
            continue;
        };
        ports.push(ServicePort {
            name,
            protocol,
            port: number,
            node_port: read.number(&port.node_port, at, PORT).unwrap_or_default(),
        });
    }
    ports
}

/// Name and protocol of a port; none where it has another protocol.
fn named(read: &mut Reader, port: &Port, at: std::fmt::Arguments<'_>) -> Option<(Text, Protocol)> {
    let protocol = match &port.protocol {
        Scalar::Absent => Protocol::Tcp,
        value => {
            let known = read.said(value, at, PROTOCOL, Protocol::parse);
            match (known, value) {
                (Some(known), _) => known,
                (None, Scalar::Text(text)) if text.is_empty() => Protocol::Tcp,
                (None, _) => return None,
            }
        }
    };
    Some((Text::shared(read.text(&port.name, at)), protocol))
}

fn traffic_policy(read: &mut Reader, value: &Scalar, at: &str) -> TrafficPolicy {
    let known = |text: &str| match text {
        "Cluster" => Some(TrafficPolicy::Cluster),
        "Local" => Some(TrafficPolicy::Local),
        _ => None,
    };
    read.said(value, format_args!("{at}"), "Cluster, Local", known)
        .unwrap_or_default()
}

fn affinity(read: &mut Reader, value: &Scalar, config: Record<AffinityConfig>) -> Option<u32> {
    let at = format_args!("spec.sessionAffinity");
    let known = |text: &str| match text {
        "None" => Some(false),
        "ClientIP" => Some(true),
        _ => None,
    };
    if !read.said(value, at, "None, ClientIP", known)? {
        return None;
    }
    let at = format_args!("spec.sessionAffinityConfig.clientIP.timeoutSeconds");
    let config = read.record(config, at);
    let timeout = read.record(config.client_ip, at).timeout_seconds;
    let seconds = read.number(&timeout, at, "seconds, from 1 to 86400");
    Some(seconds.filter(|seconds| *seconds != 0).unwrap_or(AFFINITY))
}

fn families(read: &mut Reader, value: &Scalar) -> Families {
    let known = |text: &str| match text {
        "SingleStack" => Some(Families::Single),
        "PreferDualStack" => Some(Families::PreferDual),
        "RequireDualStack" => Some(Families::RequireDual),
        _ => None,
    };
    let accepted = "SingleStack, PreferDualStack, RequireDualStack";
    read.said(value, format_args!("spec.ipFamilyPolicy"), accepted, known)
        .unwrap_or_default()
}

fn ipv6(read: &mut Reader, list: List<Scalar>) -> Vec<bool> {
    let known = |text: &str| match text {
        "IPv4" => Some(false),
        "IPv6" => Some(true),
        _ => None,
    };
    let at = format_args!("spec.ipFamilies");
    let items = read.list(list, at);
    let one = |item| read.said(item, at, "IPv4, IPv6", known);
    items.iter().filter_map(one).collect()
}

impl<K: Kind> From<Object<K>> for model::Declared {
    fn from(object: Object<K>) -> Self {
        let (metadata, mut says) = object.into_parts();
        let status = says.remove("status");
        let status = status.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
        let conditions = status.as_ref().and_then(|status| status.get("conditions"));
        let spec = says.remove("spec");
        Self {
            key: key(&metadata),
            created: created(&metadata),
            spec: spec.as_ref().map_or("null", |raw| raw.get()).into(),
            conditions: conditions.map(Value::to_string).unwrap_or_default().into(),
            uid: metadata.uid.unwrap_or_default().into(),
        }
    }
}

#[cfg(test)]
mod tests;
