//! Rows of the address cache.
use crate::Plan;
use abi::identity::{HOST, REMOTE_NODE, WORLD, WORLD_IPV4, WORLD_IPV6};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{Endpoint, LocalNode, Node, Pod, Prefix, PrefixSource, Text};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Rows of several sources, one per prefix: of two the one whose source is greater stays.
#[derive(Clone, Debug, Default)]
pub struct PrefixPlan(BTreeMap<IpNet, Prefix>);

impl PrefixPlan {
    /// Adds rows.
    pub fn add(&mut self, rows: impl IntoIterator<Item = Prefix>) {
        for row in rows {
            match self.0.entry(row.prefix) {
                Entry::Vacant(entry) => {
                    entry.insert(row);
                }
                Entry::Occupied(mut entry) if row.source > entry.get().source => {
                    entry.insert(row);
                }
                Entry::Occupied(_) => {}
            }
        }
    }

    /// The rows, in the order of the prefixes.
    pub fn into_rows(self) -> impl Iterator<Item = Prefix> {
        self.0.into_values()
    }
}

/// A pod with the identity of its labels.
#[derive(Clone, Copy, Debug)]
pub struct PodView<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its identity.
    pub identity: u32,
}

/// Everything outside the cluster: one identity per family where both are on.
#[must_use]
pub fn world_prefixes(plan: &Plan) -> Vec<Prefix> {
    let both = plan.ipv4 && plan.ipv6;
    let row = |prefix: IpNet, identity: u32| Prefix {
        prefix,
        identity: if both { identity } else { WORLD },
        tunnel: None,
        source: PrefixSource::Generated,
        owner: Text::default(),
    };
    let all = |ipv6: bool| match ipv6 {
        false => row(
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
            WORLD_IPV4,
        ),
        true => row(
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
            WORLD_IPV6,
        ),
    };
    plan.families().map(all).collect()
}

/// The addresses of nodes, and behind which node each pod range lies.
#[must_use]
pub fn node_prefixes<'a>(
    plan: &Plan,
    local: &LocalNode,
    nodes: impl Iterator<Item = &'a Node>,
) -> Vec<Prefix> {
    let mut rows = own(plan, local);
    for node in nodes.filter(|node| node.name != local.node.name) {
        rows.extend(other(plan, local, node));
    }
    rows
}

fn own(plan: &Plan, local: &LocalNode) -> Vec<Prefix> {
    let routers = [local.router(false), local.router(true)]
        .into_iter()
        .flatten();
    let addresses = local
        .addresses
        .iter()
        .copied()
        .chain(local.node.addresses.iter().copied())
        .chain(routers);
    let owner = Text::shared(&local.node.name);
    let mut rows: Vec<Prefix> = addresses
        .filter(|ip| plan.has(ip.is_ipv6()) && !ip.is_loopback())
        .map(|ip| row(IpNet::from(ip), HOST, PrefixSource::Local, &owner))
        .collect();
    rows.sort_by_key(|row| row.prefix);
    rows.dedup_by_key(|row| row.prefix);
    rows
}

fn other(plan: &Plan, local: &LocalNode, node: &Node) -> Vec<Prefix> {
    let addresses = node
        .addresses
        .iter()
        .chain(&node.external)
        .copied()
        .filter(|ip| plan.has(ip.is_ipv6()));
    let owner = Text::shared(&node.name);
    let mut rows: Vec<Prefix> = addresses
        .map(|ip| {
            row(
                IpNet::from(ip),
                REMOTE_NODE,
                PrefixSource::Kubernetes,
                &owner,
            )
        })
        .collect();
    // An address of the range that no pod row covers yet: the pod is new, or its object is not seen yet. The packet must
    // find its way all the same; its identity is known only by family to be of the outside until then.
    if let Some(tunnel) = tunnel_to(plan, local, node) {
        rows.extend(
            node.pod_cidrs
                .iter()
                .filter(|net| plan.has(net.addr().is_ipv6()))
                .map(|net| Prefix {
                    tunnel: Some(tunnel),
                    ..row(
                        net.trunc(),
                        world(plan, net.addr().is_ipv6()),
                        PrefixSource::Kubernetes,
                        &owner,
                    )
                }),
        );
    }
    rows
}

/// The address to encapsulate to. The underlay is IPv4 where both nodes have such an address.
fn tunnel_to(plan: &Plan, local: &LocalNode, node: &Node) -> Option<IpAddr> {
    plan.tunnel?;
    let underlay = |ipv6: bool| local.primary(ipv6).and_then(|_| node.address(ipv6));
    underlay(false).or_else(|| underlay(true))
}

fn world(plan: &Plan, ipv6: bool) -> u32 {
    match (plan.ipv4 && plan.ipv6, ipv6) {
        (false, _) => WORLD,
        (true, false) => WORLD_IPV4,
        (true, true) => WORLD_IPV6,
    }
}

/// The addresses of other nodes' pods.
#[must_use]
pub fn pod_prefixes<'a>(
    plan: &Plan,
    local: &LocalNode,
    nodes: &BTreeMap<&str, &Node>,
    pods: impl Iterator<Item = PodView<'a>>,
) -> Vec<Prefix> {
    let tunnels: BTreeMap<&str, IpAddr> = nodes
        .iter()
        .filter_map(|(name, node)| Some((*name, tunnel_to(plan, local, node)?)))
        .collect();
    let remote = |view: &PodView<'_>| {
        let pod = view.pod;
        pod.is_reachable() && pod.node != local.node.name
    };
    let mut rows = Vec::new();
    for PodView { pod, identity } in pods.filter(remote) {
        let tunnel = tunnels.get(pod.node.as_str()).copied();
        let addresses = pod.addresses.iter().filter(|ip| plan.has(ip.is_ipv6()));
        rows.extend(addresses.map(|ip| Prefix {
            tunnel,
            ..row(
                IpNet::from(*ip),
                identity,
                PrefixSource::Kubernetes,
                &pod.key,
            )
        }));
    }
    rows
}

/// The addresses of this node's pods.
#[must_use]
pub fn endpoint_prefixes<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<Prefix> {
    let mut rows = Vec::new();
    for endpoint in endpoints {
        let owner = Text::from(endpoint.pod.to_string());
        rows.extend(endpoint.addresses().map(|ip| {
            row(
                IpNet::from(ip),
                endpoint.identity,
                PrefixSource::Endpoint,
                &owner,
            )
        }));
    }
    rows
}

fn row(prefix: IpNet, identity: u32, source: PrefixSource, owner: &Text) -> Prefix {
    Prefix {
        prefix,
        identity,
        tunnel: None,
        source,
        owner: owner.clone(),
    }
}
