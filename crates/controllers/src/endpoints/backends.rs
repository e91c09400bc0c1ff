//! The pods behind a service, with addresses and ports, for one family.
use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{Key, World, meta, pods};

/// An address family, as services name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn of(address: &str) -> Option<Self> {
        match address.parse().ok()? {
            IpAddr::V4(_) => Some(Self::V4),
            IpAddr::V6(_) => Some(Self::V6),
        }
    }
}

/// A port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) number: i32,
    pub(super) app_protocol: Option<String>,
}

/// A pod behind a service.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) address: String,
    pub(super) ports: Vec<Port>,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    pub(super) hostname: Option<String>,
    pub(super) node: Option<String>,
    pub(super) zone: Option<String>,
    pub(super) pod: ObjectReference,
}

/// The service's selector, if its endpoints are to be found by one.
pub(super) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
}

pub(super) fn selects(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    let has =
        |(key, value): (&String, &String)| meta::label(&pod.metadata, key) == Some(value.as_str());
    selector.iter().all(has)
}

pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// Whether two states of a pod differ in anything that endpoints show.
pub(super) fn differ(old: &Pod, new: &Pod) -> bool {
    let shown = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        (
            pod.metadata.uid.clone(),
            pod.metadata.labels.clone(),
            pods::is_ready(pod),
            pods::is_over(pod),
            meta::is_ending(&pod.metadata),
            addresses(pod),
            pods::node(pod).map(str::to_owned),
            spec.map(|spec| (spec.hostname.clone(), spec.subdomain.clone())),
        )
    };
    shown(old) != shown(new)
}

fn addresses(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone());
    let mut all: Vec<String> = all.collect();
    if let Some(first) = status.pod_ip.clone().filter(|ip| !all.contains(ip)) {
        all.push(first);
    }
    all
}

/// The families that the service's endpoints are wanted for.
pub(super) fn families(spec: &ServiceSpec) -> Vec<Family> {
    let named = spec.ip_families.iter().flatten();
    let named: Vec<Family> = named
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        })
        .collect();
    if !named.is_empty() {
        return named;
    }
    let own = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let own: Vec<Family> = own.filter_map(|ip| Family::of(ip)).take(2).collect();
    if own.is_empty() {
        vec![Family::V4]
    } else {
        own
    }
}

/// The pods behind the service that have an address of the family, by name.
pub(super) fn find(
    service: &Service,
    spec: &ServiceSpec,
    family: Family,
    world: &World,
) -> Vec<Backend> {
    let Some(selector) = selector(service) else {
        return Vec::new();
    };
    let namespace = meta::namespace(&service.metadata);
    let pods = world.all::<Pod>().in_namespace(namespace);
    pods.filter(|pod| !pods::is_over(pod) && selects(selector, pod))
        .filter_map(|pod| backend(pod, service, spec, family, world))
        .collect()
}

fn backend(
    pod: &Pod,
    service: &Service,
    spec: &ServiceSpec,
    family: Family,
    world: &World,
) -> Option<Backend> {
    let of_family = |address: &String| Family::of(address) == Some(family);
    let address = addresses(pod).into_iter().find(of_family)?;
    let node = pods::node(pod).map(str::to_owned);
    let zone = node.as_ref().and_then(|name| {
        let node = world.get::<Node>(&Key::new("", name))?;
        super::hints::zone(node).map(str::to_owned)
    });
    let serving = pods::is_ready(pod);
    let terminating = meta::is_ending(&pod.metadata);
    let always = spec.publish_not_ready_addresses == Some(true);
    Some(Backend {
        ports: ports(pod, spec),
        ready: always || (serving && !terminating),
        serving,
        terminating,
        hostname: hostname(pod, service),
        node,
        zone,
        pod: ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        },
        address,
    })
}

/// The name that the pod has below the service's.
fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let here = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname
        .clone()
        .filter(|name| here && !name.is_empty())
}

fn ports(pod: &Pod, spec: &ServiceSpec) -> Vec<Port> {
    let port = |port: &ServicePort| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        Some(Port {
            number: target(pod, port, &protocol)?,
            name: port.name.clone().unwrap_or_default(),
            protocol,
            app_protocol: port.app_protocol.clone(),
        })
    };
    let mut ports: Vec<Port> = spec.ports.iter().flatten().filter_map(port).collect();
    ports.sort();
    ports
}

/// The port of the pod that a service's port leads to; none if the pod has no port of the name.
fn target(pod: &Pod, port: &ServicePort, protocol: &str) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let found = ports.find(|p| {
        p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    found.map(|port| port.container_port)
}
