//! Which cells the matrix has. Pure: from a description of the lab to a list of probes.
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// A protocol that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP connection to an echo server.
    Tcp,
    /// UDP datagram to an echo server.
    Udp,
    /// ICMP echo.
    Icmp,
}

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// Far less than a packet may hold.
    Small,
    /// One packet of exactly the path's MTU that must not be fragmented; for TCP a full segment.
    Full,
    /// More than one packet: fragments; for TCP many segments.
    Large,
}

impl Family {
    /// Both, in the order of the matrix.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of `address`.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }

    /// As users write it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl Protocol {
    /// All, in the order of the matrix.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// As users write it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

impl Size {
    /// All, in the order of the matrix.
    pub const ALL: [Self; 3] = [Self::Small, Self::Full, Self::Large];

    /// As users write it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Full => "full",
            Self::Large => "large",
        }
    }
}

/// A network namespace with addresses: a pod, a node or the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As users call it.
    pub name: String,
    /// File of its network namespace.
    pub netns: PathBuf,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A node and its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlace {
    /// The node itself, with the addresses by which others reach it.
    pub place: Place,
    /// Number of the L2 network it is on.
    pub segment: usize,
    /// Pods that serve, by name.
    pub pods: Vec<Place>,
}

/// The outside host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterPlace {
    /// The host, with every address of it that is probed.
    pub place: Place,
    /// Its addresses on the L2 networks, by number of the network.
    pub on_segment: Vec<Vec<IpAddr>>,
    /// Its addresses in the networks behind it.
    pub behind: Vec<IpAddr>,
}

/// Everything the matrix needs to know of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Pods' packets to other nodes are encapsulated.
    pub tunnel: bool,
    /// The way between L2 networks is known: by the tunnel, or because the router has routes to pods.
    pub pods_routed: bool,
    /// Families in which pods are translated to their node's address when they leave the cluster.
    pub masquerade: Vec<Family>,
    /// The nodes, by number.
    pub nodes: Vec<NodePlace>,
    /// The outside host, if there is one.
    pub router: Option<RouterPlace>,
}

/// The source address that the server must see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The one the client sent from.
    Untranslated,
    /// The address of the client's node.
    Node(Vec<IpAddr>),
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Row of the matrix.
    pub path: String,
    /// Name of the client's place.
    pub from: String,
    /// Network namespace of the client.
    pub netns: PathBuf,
    /// Name of the server's place.
    pub to: String,
    /// Address of the server.
    pub target: IpAddr,
    /// What is sent.
    pub protocol: Protocol,
    /// How much.
    pub size: Size,
    /// The source that the server must see.
    pub source: Source,
}

/// The probes of `scene` from its node `from`, path by path.
#[must_use]
pub fn cases(scene: &Scene, from: usize) -> Vec<Case> {
    let mut out = Vec::new();
    for route in routes(scene, from) {
        for target in &route.targets {
            for protocol in Protocol::ALL {
                for size in Size::ALL {
                    out.push(case(scene, &route, *target, protocol, size));
                }
            }
        }
    }
    out
}

fn case(scene: &Scene, route: &Route<'_>, target: IpAddr, protocol: Protocol, size: Size) -> Case {
    let family = Family::of(target);
    let source = match &route.masquerade {
        Some(node) if scene.masquerade.contains(&family) => Source::Node(
            node.iter()
                .copied()
                .filter(|ip| Family::of(*ip) == family)
                .collect(),
        ),
        _ => Source::Untranslated,
    };
    Case {
        path: route.path.clone(),
        from: route.from.name.clone(),
        netns: route.from.netns.clone(),
        to: route.to.to_owned(),
        target,
        protocol,
        size,
        source,
    }
}

/// One row of the matrix before families, protocols and sizes.
struct Route<'a> {
    path: String,
    from: &'a Place,
    to: &'a str,
    targets: Vec<IpAddr>,
    masquerade: Option<&'a [IpAddr]>,
}

impl<'a> Route<'a> {
    fn to(path: &str, from: &'a Place, to: &'a Place) -> Self {
        Self {
            path: path.into(),
            from,
            to: &to.name,
            targets: to.addresses.clone(),
            masquerade: None,
        }
    }
}

fn routes(scene: &Scene, from: usize) -> Vec<Route<'_>> {
    let Some(home) = scene.nodes.get(from) else {
        return Vec::new();
    };
    let near = neighbour(scene, from);
    let far = far_node(scene, from);
    let mut out = Vec::new();
    if let Some(client) = home.pods.first() {
        let to = |path, pod| Route::to(path, client, pod);
        out.extend(home.pods.get(1).map(|pod| to("pod → pod, same node", pod)));
        out.extend(first_pod(near).map(|pod| to("pod → pod, other node", pod)));
        out.extend(first_pod(far).map(|pod| to("pod → pod, node behind the router", pod)));
        out.push(Route::to("host → pod, local", &home.place, client));
    }
    let to = |path, pod| Route::to(path, &home.place, pod);
    out.extend(first_pod(near).map(|pod| to("host → pod, other node", pod)));
    out.extend(first_pod(far).map(|pod| to("host → pod, node behind the router", pod)));
    if let Some(client) = home.pods.first() {
        out.push(Route::to("pod → own host", client, &home.place));
        out.extend(near.map(|node| to_host(scene, "pod → other node's host", home, node)));
        out.extend(far.map(|node| to_host(scene, "pod → host behind the router", home, node)));
        outside(scene, home, client, &mut out);
    }
    out
}

/// Another node on the same L2 network.
fn neighbour(scene: &Scene, from: usize) -> Option<&NodePlace> {
    let home = scene.nodes.get(from)?;
    let mut others = scene.nodes.iter().enumerate();
    others
        .find(|(i, node)| *i != from && node.segment == home.segment)
        .map(|(_, node)| node)
}

/// A node on another L2 network, if pods can be reached there.
fn far_node(scene: &Scene, from: usize) -> Option<&NodePlace> {
    let home = scene.nodes.get(from)?;
    let mut far = scene
        .nodes
        .iter()
        .filter(|node| node.segment != home.segment);
    far.next().filter(|_| scene.pods_routed)
}

/// To another node. Outside the tunnel the network need not know pods' addresses, so with a tunnel they are translated.
fn to_host<'a>(scene: &Scene, path: &str, home: &'a NodePlace, node: &'a NodePlace) -> Route<'a> {
    let mut route = Route::to(path, home.pods.first().unwrap_or(&home.place), &node.place);
    route.masquerade = scene.tunnel.then_some(&home.place.addresses);
    route
}

fn first_pod(node: Option<&NodePlace>) -> Option<&Place> {
    node?.pods.first()
}

/// Paths that leave the cluster: the source must be the node's address.
fn outside<'a>(scene: &'a Scene, home: &'a NodePlace, client: &'a Place, out: &mut Vec<Route<'a>>) {
    let Some(router) = &scene.router else { return };
    let route = |path: String, targets: Vec<IpAddr>| Route {
        path,
        from: client,
        to: &router.place.name,
        targets,
        masquerade: Some(&home.place.addresses),
    };
    if let Some(near) = router.on_segment.get(home.segment) {
        out.push(route("pod → outside host".into(), near.clone()));
    }
    for network in networks(&router.behind) {
        let name = network.iter().find(|ip| ip.is_ipv4()).or(network.first());
        out.push(route(
            format!(
                "pod → outside network {}",
                name.map(ToString::to_string).unwrap_or_default()
            ),
            network,
        ));
    }
}

/// The addresses behind the router by network: the first of each family, the second of each, …
fn networks(addresses: &[IpAddr]) -> Vec<Vec<IpAddr>> {
    let of = |family| {
        addresses
            .iter()
            .copied()
            .filter(move |ip| Family::of(*ip) == family)
    };
    let count = Family::ALL
        .into_iter()
        .map(|family| of(family).count())
        .max()
        .unwrap_or(0);
    (0..count)
        .map(|n| {
            Family::ALL
                .into_iter()
                .filter_map(|family| of(family).nth(n))
                .collect()
        })
        .collect()
}

#[cfg(test)]
pub mod tests;
