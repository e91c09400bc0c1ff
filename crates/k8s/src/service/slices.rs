//! What is behind services: endpoint slices, of both versions.
use super::{ADDRESS, PORT, Port, SERVICE_NAME, annotations, named};
use crate::lenient::{List, Reader, Record, Scalar};
use crate::policy::{key, resource};
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource;
use model::Text;
use model::service::{Endpoint, SlicePort};
use serde::Deserialize;
use std::{borrow::Cow, net::IpAddr};

/// An endpoint slice, with only what is read. `BETA`: as servers before Kubernetes 1.21 have it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice<const BETA: bool = false> {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    address_type: Scalar,
    #[serde(default)]
    ports: List<Record<Port>>,
    #[serde(default)]
    endpoints: List<Record<SliceEndpoint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SliceEndpoint {
    addresses: List<Scalar>,
    conditions: Record<Conditions>,
    node_name: Scalar,
    zone: Scalar,
    hints: Record<Hints>,
    /// Where the beta version has node and zone.
    topology: Record<Topology>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Topology {
    #[serde(rename = "kubernetes.io/hostname")]
    node: Scalar,
    #[serde(rename = "topology.kubernetes.io/zone")]
    zone: Scalar,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Scalar,
    serving: Scalar,
    terminating: Scalar,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    for_zones: List<Record<Named>>,
    for_nodes: List<Record<Named>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: Scalar,
}

resource!(
    EndpointSlice,
    "EndpointSlice",
    "discovery.k8s.io",
    "endpointslices"
);
resource!(
    EndpointSlice<true>,
    "EndpointSlice",
    "discovery.k8s.io",
    "v1beta1",
    "endpointslices"
);

impl<const BETA: bool> From<EndpointSlice<BETA>> for model::service::Slice {
    fn from(object: EndpointSlice<BETA>) -> Self {
        let mut metadata = object.metadata;
        let mut read = Reader::default();
        let labels = metadata.labels.as_ref();
        let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let service = service.map(|service| format!("{namespace}/{service}"));
        let ports = slice_ports(&mut read, object.ports);
        let endpoints = read.list(object.endpoints, format_args!("endpoints"));
        let family = match &object.address_type {
            Scalar::Text(text) if &**text == "IPv4" => Some(false),
            Scalar::Text(text) if &**text == "IPv6" => Some(true),
            // Names of hosts are not served.
            Scalar::Text(text) if &**text == "FQDN" => None,
            other => {
                let at = format_args!("addressType");
                read.odd(
                    at,
                    format_args!("{other} is not understood"),
                    "IPv4, IPv6, FQDN",
                );
                None
            }
        };
        let mut found = Vec::with_capacity(endpoints.len());
        if let Some(ipv6) = family {
            for (index, endpoint) in endpoints.into_iter().enumerate() {
                let endpoint = read.record(endpoint, format_args!("endpoints[{index}]"));
                found.extend(slice_endpoint(&mut read, endpoint, index, ipv6));
            }
        }
        found.shrink_to_fit();
        Self {
            key: key(&metadata),
            service: Text::shared(&service.unwrap_or_default()),
            annotations: annotations(&mut metadata),
            ports,
            endpoints: found,
            problems: read.problems,
        }
    }
}

fn slice_ports(read: &mut Reader, list: List<Record<Port>>) -> Vec<SlicePort> {
    let list = read.list(list, format_args!("ports"));
    let mut ports = Vec::with_capacity(list.len());
    for (index, port) in list.into_iter().enumerate() {
        let at = format_args!("ports[{index}]");
        let port = read.record(port, at);
        // A port that is not there means all of them, which no service asks for.
        let number = read.number(&port.port, at, PORT);
        if let (Some((name, protocol)), Some(number)) = (named(read, &port, at), number) {
            ports.push(SlicePort {
                name,
                protocol,
                port: number,
            });
        }
    }
    ports
}

fn slice_endpoint(
    read: &mut Reader,
    endpoint: SliceEndpoint,
    index: usize,
    ipv6: bool,
) -> Option<Endpoint> {
    let at = format_args!("endpoints[{index}].addresses");
    let addresses = read.list(endpoint.addresses, at);
    let address: Option<IpAddr> = read.parsed(addresses.first()?, at, ADDRESS);
    let address = address?;
    if address.is_ipv6() != ipv6 {
        let family = if ipv6 {
            "an IPv6 address"
        } else {
            "an IPv4 address"
        };
        read.odd(at, format_args!("{address} is of the other family"), family);
        return None;
    }
    if is_special(address) {
        let wanted = "an address that another machine can have";
        read.odd(at, format_args!("{address} is no backend's"), wanted);
        return None;
    }
    let at = format_args!("endpoints[{index}].conditions");
    let conditions = read.record(endpoint.conditions, at);
    let ready = read.flag(&conditions.ready, at).unwrap_or(true);
    let hints = read.record(endpoint.hints, format_args!("endpoints[{index}].hints"));
    let at = format_args!("endpoints[{index}].topology");
    let topology = read.record(endpoint.topology, at);
    let mut place = |own: &Scalar, name: &str, beta: &Scalar| {
        let own = read.text(own, format_args!("endpoints[{index}].{name}"));
        match own {
            "" => Text::shared(read.text(beta, at)),
            own => Text::shared(own),
        }
    };
    let node = place(&endpoint.node_name, "nodeName", &topology.node);
    let zone = place(&endpoint.zone, "zone", &topology.zone);
    Some(Endpoint {
        address,
        ready,
        serving: read.flag(&conditions.serving, at).unwrap_or(ready),
        terminating: read.flag(&conditions.terminating, at).unwrap_or_default(),
        node,
        zone,
        zones: names(read, hints.for_zones, index),
        nodes: names(read, hints.for_nodes, index),
    })
}

/// An address that means whoever sends to it, or many: sent there, a client's packets would meet the node itself.
fn is_special(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    is_link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

fn names(read: &mut Reader, list: List<Record<Named>>, index: usize) -> Box<[Text]> {
    let at = format_args!("endpoints[{index}].hints");
    let items = read.list(list, at);
    let one = |item| {
        let named: Named = read.record(item, at);
        Text::shared(read.text(&named.name, at))
    };
    items.into_iter().map(one).collect()
}
