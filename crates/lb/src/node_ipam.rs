//! Addresses of nodes as addresses of a load balancer (class `io.cilium/node`).
use crate::annotations::NODE_IPAM_NODES;
use crate::lbipam::{DefaultIpam, NODE_CLASS};
use crate::selector::Selector;
use crate::{
    Problem,
    input::{Endpoint, Service, ServiceType, TrafficPolicy},
};
use model::{LabelMap, Text};
use std::{collections::BTreeSet, net::IpAddr};

/// Label of nodes that load balancers leave out.
pub const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A node, as far as load balancers are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Name.
    pub name: Text,
    /// Labels.
    pub labels: LabelMap,
    /// Addresses of the type `InternalIP`.
    pub internal: Vec<IpAddr>,
    /// Addresses of the type `ExternalIP`.
    pub external: Vec<IpAddr>,
    /// It is about to be removed.
    pub leaving: bool,
}

/// Whether a service gets its addresses from nodes.
#[must_use]
pub fn manages(service: &Service, default: DefaultIpam) -> bool {
    service.kind == ServiceType::LoadBalancer
        && match &*service.class {
            "" => default == DefaultIpam::Nodes,
            class => class == NODE_CLASS,
        }
}

/// The addresses of a service: those of its nodes, the outer ones where any node has some. With `externalTrafficPolicy: Local`
/// only nodes count that have a ready endpoint. `families` says for IPv4 and IPv6 whether the service has it.
///
/// # Errors
/// The annotation that selects nodes cannot be read: no node is selected then.
pub fn addresses<'a>(
    service: &Service,
    families: [bool; 2],
    nodes: impl IntoIterator<Item = &'a NodeFacts>,
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
) -> Result<Vec<IpAddr>, Problem> {
    let selector = service.annotations.get(NODE_IPAM_NODES).unwrap_or_default();
    let selector = Selector::parse(selector).map_err(|what| Problem::Field {
        name: NODE_IPAM_NODES,
        what,
        accepted: "a selector such as a=b,c in (d,e)",
    })?;
    let with_endpoints: BTreeSet<&Text> = endpoints
        .into_iter()
        .filter(|endpoint| endpoint.ready || service.publish_not_ready)
        .map(|endpoint| &endpoint.node)
        .collect();
    let local = service.external_policy == TrafficPolicy::Local;
    let chosen: Vec<&NodeFacts> = nodes
        .into_iter()
        .filter(|node| !node.leaving && node.labels.get(EXCLUDED).is_none())
        .filter(|node| selector.matches(|label| node.labels.get(label)))
        .filter(|node| !local || with_endpoints.contains(&node.name))
        .collect();
    let of = |list: fn(&NodeFacts) -> &Vec<IpAddr>| {
        let all = chosen.iter().flat_map(|node| list(node)).copied();
        all.filter(|ip| families[usize::from(ip.is_ipv6())])
            .collect::<BTreeSet<_>>()
    };
    let external = of(|node| &node.external);
    let all = if external.is_empty() {
        of(|node| &node.internal)
    } else {
        external
    };
    Ok(all.into_iter().collect())
}
