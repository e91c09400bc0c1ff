//! Routes of the node's main table.
use crate::{HOST_DEVICE, Plan, mtus};
use ipnet::IpNet;
use model::{LocalNode, Node, Route, RouteOrigin};
use std::net::IpAddr;

/// Desired routes, and what could not be planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePlan {
    /// The routes.
    pub routes: Vec<Route>,
    /// One line per node and family that cannot be reached.
    pub warnings: Vec<String>,
}

/// The routes to this node's own pods.
#[must_use]
pub fn own_routes(plan: &Plan, local: &LocalNode) -> Vec<Route> {
    let mut routes = Vec::new();
    for ipv6 in plan.families() {
        if let Some(router) = local.router(ipv6) {
            routes.push(to_router(router));
            routes.extend(
                local
                    .node
                    .cidrs(ipv6)
                    .map(|net| by_host_device(net, router, None, RouteOrigin::LocalPods)),
            );
        }
    }
    routes
}

/// The routes to the pods of another node; none to those of this one.
#[must_use]
pub fn node_routes(plan: &Plan, local: &LocalNode, node: &Node) -> RoutePlan {
    let mut out = RoutePlan::default();
    if node.name == local.node.name {
        return out;
    }
    for ipv6 in plan.families() {
        let wanted: Vec<IpNet> = node.cidrs(ipv6).collect();
        if plan.routes_by_tunnel() {
            let routes = through_tunnel(plan, local, &wanted, ipv6);
            out.routes.extend(routes);
        } else if plan.direct_node_routes && !wanted.is_empty() {
            direct(plan, local, node, &wanted, &mut out);
        }
    }
    out
}

fn to_router(router: IpAddr) -> Route {
    Route {
        destination: IpNet::from(router),
        gateway: None,
        device: HOST_DEVICE.to_owned(),
        source: None,
        mtu: None,
        origin: RouteOrigin::Router,
    }
}

/// A route that hands packets to `cil_from_host`. IPv6 refuses one of the node's own addresses as a next hop, so there
/// the destination is on the link of `cilium_host`, which resolves no neighbours.
fn by_host_device(
    destination: IpNet,
    router: IpAddr,
    mtu: Option<u32>,
    origin: RouteOrigin,
) -> Route {
    Route {
        destination,
        gateway: router.is_ipv4().then_some(router),
        device: HOST_DEVICE.to_owned(),
        source: Some(router),
        mtu,
        origin,
    }
}

fn through_tunnel(plan: &Plan, local: &LocalNode, wanted: &[IpNet], ipv6: bool) -> Vec<Route> {
    let mtu = mtus(plan, local).route;
    let Some(router) = local.router(ipv6) else {
        return Vec::new();
    };
    wanted
        .iter()
        .map(|net| by_host_device(*net, router, Some(mtu), RouteOrigin::TunnelPods))
        .collect()
}

fn direct(plan: &Plan, local: &LocalNode, node: &Node, wanted: &[IpNet], out: &mut RoutePlan) {
    let ipv6 = wanted[0].addr().is_ipv6();
    let Some(address) = node.address(ipv6) else {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        out.warnings.push(format!(
            "node {}: no route to its {family} pods: its object has no {family} address",
            node.name
        ));
        return;
    };
    let Some(device) = local
        .devices
        .iter()
        .find(|device| device.subnet_of(address).is_some())
    else {
        if !plan.skip_unreachable {
            out.warnings.push(format!(
                "node {}: no direct route to its pods: {address} is not in a subnet of this node's devices; \
                 the network has to carry {} (or use routing-mode=tunnel)",
                node.name,
                wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            ));
        }
        return;
    };
    out.routes.extend(wanted.iter().map(|net| Route {
        destination: *net,
        gateway: Some(address),
        device: device.name.clone(),
        source: None,
        mtu: None,
        origin: RouteOrigin::DirectNode,
    }));
}
