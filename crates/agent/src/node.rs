//! The own node: waiting for its object, and what follows from it.
use crate::{boot::node_name, machine::Machine};
use anyhow::{Result, bail};
use ipnet::IpNet;
use model::{LocalNode, Node, Tables};
use routing::Plan;
use runtime::{health::Health, settings::Settings, stop::Stop};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

/// How often the log says what is waited for.
const REMIND: Duration = Duration::from_secs(5);

/// The node's object once it has the pod ranges that the settings ask for. After a restart it is the saved one, without
/// waiting for the API server. None if asked to stop before.
///
/// # Errors
/// The node has no name.
pub async fn wait(
    settings: &Settings,
    tables: &Tables,
    saved: Option<Node>,
    health: &Health,
    stop: &Stop,
) -> Result<Option<Node>> {
    let name = node_name(settings)?;
    if let Some(node) = saved.filter(|node| node.name == name && missing(settings, node).is_none())
    {
        tracing::info!(node = name, pod_cidrs = ?node.pod_cidrs, "node as before the restart");
        return Ok(Some(node));
    }
    let component = health.component("node");
    let began = Instant::now();
    let watch = tables.nodes.watch();
    loop {
        let snapshot = tables.db.snapshot();
        let object: Option<&Arc<Node>> = tables.nodes.get(&snapshot, &name);
        let lacking = match object {
            Some(node) => match missing(settings, node) {
                None => {
                    component.ok("node object found");
                    let waited_ms = began.elapsed().as_millis() as u64;
                    tracing::info!(node = name, pod_cidrs = ?node.pod_cidrs, addresses = ?node.addresses, waited_ms, "node object found");
                    return Ok(Some(Node::clone(node)));
                }
                Some(what) => format!(
                    "node {name} has no {what} yet (spec.podCIDRs is {:?})",
                    node.pod_cidrs
                ),
            },
            None if tables.nodes.initialized(&snapshot) => {
                format!("there is no node object {name} yet")
            }
            None => "the API server has not answered yet".to_owned(),
        };
        component.degraded(lacking.clone());
        let seen = tables.nodes.revision(&snapshot);
        tokio::select! {
            () = stop.stopped() => return Ok(None),
            () = watch.changed(seen) => {}
            () = tokio::time::sleep(REMIND) => {
                tracing::warn!(seconds = began.elapsed().as_secs(), "waiting: {lacking}");
            }
        }
    }
}

/// What the node lacks: a pod CIDR that is required, or one of any family in use.
fn missing(settings: &Settings, node: &Node) -> Option<&'static str> {
    let (v4, v6) = (
        node.cidrs(false).next().is_some(),
        node.cidrs(true).next().is_some(),
    );
    if settings.k8s_require_ipv4_pod_cidr && !v4 {
        return Some("IPv4 pod CIDR");
    }
    if settings.k8s_require_ipv6_pod_cidr && !v6 {
        return Some("IPv6 pod CIDR");
    }
    let any = settings.enable_ipv4 && v4 || settings.enable_ipv6 && v6;
    (!any).then_some("pod CIDR of an enabled family")
}

/// The node with what the machine has; the routers are the first usable addresses of the pod ranges.
///
/// # Errors
/// A pod range has no room for a router and a pod.
pub fn local(plan: &Plan, node: Node, machine: Machine) -> Result<LocalNode> {
    let used = |ipv6: bool| node.cidrs(ipv6).next().filter(|_| plan.has(ipv6));
    for net in [used(false), used(true)].into_iter().flatten() {
        if net.max_prefix_len() - net.prefix_len() < 2 {
            bail!(
                "pod CIDR {net} of node {} is too small: a router and at least one pod must fit",
                node.name
            );
        }
    }
    let router4 = used(false).and_then(|net| match net {
        IpNet::V4(net) => Some(Ipv4Addr::from_bits(net.network().to_bits() + 1)),
        IpNet::V6(_) => None,
    });
    let router6 = used(true).and_then(|net| match net {
        IpNet::V6(net) => Some(Ipv6Addr::from_bits(net.network().to_bits() + 1)),
        IpNet::V4(_) => None,
    });
    Ok(LocalNode {
        node,
        router4,
        router6,
        devices: machine.devices,
        addresses: machine.addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(cidrs: &[&str]) -> Node {
        Node {
            name: "n".to_owned(),
            pod_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
            ..Node::default()
        }
    }

    #[test]
    fn required_ranges_are_waited_for() {
        let mut settings = Settings::default();
        assert_eq!(
            missing(&settings, &node(&[])),
            Some("pod CIDR of an enabled family")
        );
        assert_eq!(missing(&settings, &node(&["fd00::/112"])), None);
        settings.k8s_require_ipv4_pod_cidr = true;
        assert_eq!(
            missing(&settings, &node(&["fd00::/112"])),
            Some("IPv4 pod CIDR")
        );
        assert_eq!(
            missing(&settings, &node(&["10.0.0.0/24", "fd00::/112"])),
            None
        );
    }

    #[test]
    fn routers_are_the_first_usable_addresses() {
        let plan = crate::plan::routing_plan(&Settings::default());
        let got = local(
            &plan,
            node(&["10.244.1.0/24", "fd00:244:1::/112"]),
            Machine::default(),
        )
        .unwrap();
        assert_eq!(got.router4, Some("10.244.1.1".parse().unwrap()));
        assert_eq!(got.router6, Some("fd00:244:1::1".parse().unwrap()));
        assert!(
            local(&plan, node(&["10.244.1.0/31"]), Machine::default())
                .unwrap_err()
                .to_string()
                .contains("too small")
        );
        let only4 = Plan {
            ipv6: false,
            ..plan
        };
        assert_eq!(
            local(
                &only4,
                node(&["10.244.1.0/24", "fd00::/112"]),
                Machine::default()
            )
            .unwrap()
            .router6,
            None
        );
    }
}
