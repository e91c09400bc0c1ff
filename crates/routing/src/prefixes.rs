//! Rows of the address cache.
use crate::Plan;
use abi::identity::{HOST, REMOTE_NODE, WORLD, WORLD_IPV4, WORLD_IPV6};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{
    Endpoint, LocalNode, Node, Prefix, PrefixIdentity, PrefixSource, RemoteEndpoint, Text,
};
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

    /// Gives ranges the identities that all that is known of them comes to. What endpoints and this node say of themselves stays.
    pub fn identify<'a>(
        &mut self,
        plan: &Plan,
        local: &LocalNode,
        ranges: impl IntoIterator<Item = &'a PrefixIdentity>,
        node_around: impl Fn(IpNet) -> Option<&'a Node>,
    ) {
        for range in ranges {
            let ipv6 = range.prefix.addr().is_ipv6();
            if !plan.has(ipv6) {
                continue;
            }
            match self.0.entry(range.prefix) {
                Entry::Vacant(entry) => {
                    let node =
                        node_around(range.prefix).filter(|node| node.name != local.node.name);
                    entry.insert(Prefix {
                        prefix: range.prefix,
                        identity: range.identity,
                        tunnel: node.and_then(|node| tunnel_to(plan, local, node)),
                        source: PrefixSource::Generated,
                        owner: Text::default(),
                    });
                }
                Entry::Occupied(mut entry) => match entry.get().source {
                    PrefixSource::Generated | PrefixSource::Kubernetes => {
                        entry.get_mut().identity = range.identity;
                    }
                    PrefixSource::CustomResource | PrefixSource::Endpoint | PrefixSource::Local => {
                    }
                },
            }
        }
    }

    /// The rows, in the order of the prefixes.
    pub fn into_rows(self) -> impl Iterator<Item = Prefix> {
        self.0.into_values()
    }
}

/// Nodes by the addresses that endpoints are said to be behind; none where no node has the address.
pub type NodesByAddress<'a> = BTreeMap<IpAddr, Option<&'a Node>>;

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
                        PrefixSource::Generated,
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
pub fn remote_prefixes(
    plan: &Plan,
    local: &LocalNode,
    nodes: &NodesByAddress<'_>,
    endpoints: &[&RemoteEndpoint],
) -> Vec<Prefix> {
    let tunnels: BTreeMap<IpAddr, Option<IpAddr>> = nodes
        .iter()
        .map(|(address, node)| match node {
            Some(node) => (*address, tunnel_to(plan, local, node)),
            // Its node is not known, but its address is.
            None => (*address, plan.tunnel.map(|_| *address)),
        })
        .collect();
    let mut rows = Vec::new();
    for endpoint in endpoints {
        let node = endpoint.node.as_ref();
        let tunnel = node.and_then(|node| tunnels.get(node).copied().flatten());
        let addresses = endpoint.addresses.iter();
        rows.extend(
            addresses
                .filter(|ip| plan.has(ip.is_ipv6()))
                .map(|ip| Prefix {
                    tunnel,
                    ..row(
                        IpNet::from(*ip),
                        endpoint.identity,
                        PrefixSource::CustomResource,
                        &endpoint.key,
                    )
                }),
        );
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
