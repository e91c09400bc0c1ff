//! The own node: waiting for its object, and what follows from it.
use crate::{
    boot::node_name,
    kube::{
        own::{self, Answer},
        ranges::{self, Ranges},
    },
    machine::Machine,
    remote::{Heard, Known},
    state::SavedNode,
};
use anyhow::{Result, bail};
use ipam::addresses;
use ipnet::IpNet;
use k8s::Client;
use model::{CiliumNode, LocalNode, Node, Tables};
use routing::Plan;
use runtime::{
    health::Health,
    settings::{IpamMode, Settings},
    stop::Stop,
};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often the log says what is waited for.
const REMIND: Duration = Duration::from_secs(5);
/// How long the API server may take to say that things have changed since the last start: pods wait meanwhile. Where the operator
/// gives the ranges, it may have given them to somebody else.
const QUICK: Duration = Duration::from_millis(100);
const PATIENT: Duration = Duration::from_secs(1);

/// The own node's object and its ranges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Own {
    /// The object, with all ranges.
    pub node: Node,
    /// The ranges by pool.
    pub pools: Ranges,
    /// The routers' addresses before a restart.
    pub routers: Vec<IpAddr>,
}

impl Own {
    fn new(settings: &Settings, mut node: Node, row: Option<&CiliumNode>) -> Self {
        let pools = ranges::at_start(settings, &node.pod_cidrs, row);
        if settings.ipam != IpamMode::Kubernetes {
            node.pod_cidrs = ranges::flat(&pools, &settings.ipam_default_ip_pool);
        }
        Self {
            node,
            pools,
            routers: Vec::new(),
        }
    }
}

/// The node as before a restart, unless the API server says at once that things have changed: then the addresses that its routers
/// had. What it said before the start is not asked again.
///
/// # Errors
/// The node has no name.
pub async fn resume(
    settings: &Settings,
    client: &Client,
    saved: SavedNode,
    heard: Heard,
) -> Result<Result<Own, Vec<IpAddr>>> {
    let name = node_name(settings)?;
    let routers = saved.routers.clone();
    if !is_usable(settings, &name, &saved) {
        return Ok(Err(routers));
    }
    let known = match heard {
        Heard::Now(known) => known,
        Heard::NotAsked | Heard::Before(_) => ask(settings, client, &name).await,
    };
    let own = as_before(settings, known, saved);
    if let Some(own) = &own {
        tracing::info!(node = name, pod_cidrs = ?own.node.pod_cidrs, "node as before the restart");
    }
    Ok(own.ok_or(routers))
}

/// What the mode needs to know.
async fn ask(settings: &Settings, client: &Client, name: &str) -> Known {
    if settings.ipam == IpamMode::Kubernetes {
        return Known {
            node: own::ask_node(client, name, QUICK).await,
            said: Answer::Away,
        };
    }
    Known {
        node: None,
        said: own::ask(client, name, PATIENT).await,
    }
}

/// The node's object once it has the pod ranges that the settings ask for; `routers` as they were. None if asked to stop before.
///
/// # Errors
/// The node has no name.
pub async fn find(
    settings: &Settings,
    tables: &Tables,
    routers: Vec<IpAddr>,
    health: &Health,
    stop: &Stop,
) -> Result<Option<Own>> {
    let name = node_name(settings)?;
    let found = wait_for_object(settings, tables, &name, health, stop).await;
    Ok(found.map(|own| Own { routers, ..own }))
}

/// Whether the last start's node is this one, with ranges that still come from where the settings say.
fn is_usable(settings: &Settings, name: &str, saved: &SavedNode) -> bool {
    let before = if saved.ipam.is_empty() {
        "kubernetes"
    } else {
        &saved.ipam
    };
    saved.node.name == name
        && settings.get("ipam").as_deref() == Some(before)
        && missing(settings, &saved.node).is_none()
}

/// The node of the last start, brought up to date by what the API server has of it; none if its ranges are no longer its own.
fn as_before(settings: &Settings, known: Known, saved: SavedNode) -> Option<Own> {
    let before = Own {
        pools: match settings.ipam {
            IpamMode::Kubernetes | IpamMode::ClusterPool => {
                ranges::at_start(settings, &saved.node.pod_cidrs, None)
            }
            IpamMode::MultiPool | IpamMode::Crd => saved.pools,
        },
        routers: saved.routers,
        node: saved.node,
    };
    if settings.ipam == IpamMode::Kubernetes {
        let changed = known.node.filter(|node| {
            missing(settings, node).is_none() && node.pod_cidrs != before.node.pod_cidrs
        });
        return Some(match changed {
            Some(node) => {
                tracing::info!(before = ?before.node.pod_cidrs, now = ?node.pod_cidrs, "the node has other pod CIDRs than before");
                let routers = before.routers;
                Own {
                    routers,
                    ..Own::new(settings, node, None)
                }
            }
            None => before,
        });
    }
    match known.said {
        Answer::NoKind | Answer::Away => Some(before),
        Answer::Gone => {
            tracing::info!(
                "the CiliumNode is gone: new pod ranges are asked for; pods that run keep their addresses"
            );
            None
        }
        Answer::There(row) => {
            let mut node = before.node.clone();
            node.pod_cidrs = row.ranges().collect();
            if missing(settings, &node).is_some() {
                return None;
            }
            let routers = before.routers;
            Some(Own {
                routers,
                ..Own::new(settings, node, Some(&row))
            })
        }
    }
}

async fn wait_for_object(
    settings: &Settings,
    tables: &Tables,
    name: &str,
    health: &Health,
    stop: &Stop,
) -> Option<Own> {
    let component = health.component("node");
    let began = Instant::now();
    let watch = tables.nodes.watch();
    loop {
        let snapshot = tables.db.snapshot();
        let object: Option<&Arc<Node>> = tables.nodes.get(&snapshot, name);
        let row = tables.cilium_nodes.get(&snapshot, name);
        let lacking = match object {
            Some(node) => match missing(settings, node) {
                None => {
                    component.ok("node object found");
                    let waited_ms = began.elapsed().as_millis() as u64;
                    tracing::info!(node = name, pod_cidrs = ?node.pod_cidrs, addresses = ?node.addresses, waited_ms, "node object found");
                    let row = row.map(AsRef::as_ref);
                    return Some(Own::new(settings, Node::clone(node), row));
                }
                Some(what) => lacks(settings, node, row.map(AsRef::as_ref), what),
            },
            None if tables.nodes.initialized(&snapshot) => {
                format!("there is no node object {name} yet")
            }
            None => "the API server has not answered yet".to_owned(),
        };
        component.degraded(lacking.clone());
        let seen = tables.nodes.revision(&snapshot);
        tokio::select! {
            () = stop.stopped() => return None,
            () = watch.changed(seen) => {}
            () = tokio::time::sleep(REMIND) => {
                tracing::warn!(seconds = began.elapsed().as_secs(), "waiting: {lacking}");
            }
        }
    }
}

/// Who has to do something about what is missing, in one line.
fn lacks(settings: &Settings, node: &Node, row: Option<&CiliumNode>, what: &str) -> String {
    let name = &node.name;
    match (settings.ipam, row) {
        (IpamMode::Kubernetes, _) => format!(
            "node {name} has no {what} yet (spec.podCIDRs is {:?})",
            node.pod_cidrs
        ),
        (_, None) => format!("node {name} has no CiliumNode yet"),
        (_, Some(row)) if !row.error.is_empty() => {
            format!(
                "the operator gives CiliumNode {name} no {what}: {}",
                row.error
            )
        }
        (IpamMode::Crd, Some(_)) => {
            format!("CiliumNode {name} lists no addresses yet (spec.ipam.pool)")
        }
        (_, Some(_)) => format!("CiliumNode {name} has no {what} yet; the operator gives it"),
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

/// The node with what the machine has; the routers are the first usable addresses of the pod ranges, or those from before a
/// restart.
///
/// # Errors
/// A pod range has no room for a router and a pod.
pub fn local(plan: &Plan, own: Own, machine: Machine) -> Result<LocalNode> {
    let Own {
        mut node,
        mut pools,
        routers,
    } = own;
    for nets in pools.values_mut() {
        nets.retain(|net| plan.has(net.addr().is_ipv6()));
    }
    let all = ranges::flat(&pools, ipam::DEFAULT_POOL);
    let router = |ipv6: bool| -> Result<Option<IpAddr>> {
        let nets: Vec<IpNet> = all
            .iter()
            .copied()
            .filter(|net| net.addr().is_ipv6() == ipv6)
            .collect();
        let room: u128 = nets.iter().map(addresses).fold(0, u128::saturating_add);
        if let Some(net) = nets.first()
            && (room < 2 || nets.len() == 1 && net.max_prefix_len() - net.prefix_len() < 2)
        {
            bail!(
                "pod CIDR {net} of node {} is too small: a router and at least one pod must fit",
                node.name
            );
        }
        let before = routers.iter().copied().find(|ip| ip.is_ipv6() == ipv6);
        Ok(ranges::router(&nets, ipv6, before))
    };
    let (router4, router6) = (router(false)?, router(true)?);
    // A range that is the router's address alone has a route already.
    node.pod_cidrs.retain(|net| {
        let single = net.prefix_len() == net.max_prefix_len();
        !single || ![router4, router6].contains(&Some(net.addr()))
    });
    Ok(LocalNode {
        node,
        pools,
        router4: router4.and_then(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }),
        router6: router6.and_then(|ip| match ip {
            IpAddr::V6(ip) => Some(ip),
            IpAddr::V4(_) => None,
        }),
        devices: machine.devices,
        addresses: machine.addresses,
        policy_audit: None,
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

    fn own(cidrs: &[&str]) -> Own {
        Own::new(&Settings::default(), node(cidrs), None)
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
    fn what_was_before_counts_only_in_the_same_mode() {
        let mut settings = Settings::default();
        let mut saved = SavedNode {
            node: node(&["10.244.1.0/24"]),
            ..SavedNode::default()
        };
        assert!(
            is_usable(&settings, "n", &saved),
            "a file of the first version"
        );
        assert!(!is_usable(&settings, "m", &saved));
        saved.ipam = "cluster-pool".to_owned();
        assert!(!is_usable(&settings, "n", &saved));
        settings.ipam = IpamMode::ClusterPool;
        assert!(is_usable(&settings, "n", &saved));
    }

    #[test]
    fn people_are_told_whom_to_wait_for() {
        let mut settings = Settings::default();
        let tell = |settings: &Settings, row: Option<&CiliumNode>| {
            lacks(settings, &node(&[]), row, "pod CIDR")
        };
        assert!(tell(&settings, None).contains("spec.podCIDRs is []"));
        settings.ipam = IpamMode::ClusterPool;
        assert_eq!(tell(&settings, None), "node n has no CiliumNode yet");
        let row = CiliumNode {
            error: "pool cluster-pool: no /24 is left in 10.0.0.0/16".to_owned(),
            ..CiliumNode::default()
        };
        assert_eq!(
            tell(&settings, Some(&row)),
            "the operator gives CiliumNode n no pod CIDR: pool cluster-pool: no /24 is left in 10.0.0.0/16"
        );
    }

    #[test]
    fn routers_are_the_first_usable_addresses() {
        let plan = crate::plan::routing_plan(&Settings::default());
        let both = own(&["10.244.1.0/24", "fd00:244:1::/112"]);
        let got = local(&plan, both.clone(), Machine::default()).unwrap();
        assert_eq!(got.router4, Some("10.244.1.1".parse().unwrap()));
        assert_eq!(got.router6, Some("fd00:244:1::1".parse().unwrap()));
        assert!(
            local(&plan, own(&["10.244.1.0/31"]), Machine::default())
                .unwrap_err()
                .to_string()
                .contains("too small")
        );
        let only4 = Plan {
            ipv6: false,
            ..plan
        };
        let got = local(&only4, both, Machine::default()).unwrap();
        assert_eq!(got.router6, None);
    }

    #[test]
    fn single_addresses_are_ranges_too() {
        let settings = Settings {
            ipam: IpamMode::Crd,
            ..Settings::default()
        };
        let row = CiliumNode {
            singles: ["10.0.0.7", "10.0.0.9"]
                .map(|ip| ip.parse().unwrap())
                .into(),
            ..CiliumNode::default()
        };
        let plan = crate::plan::routing_plan(&settings);
        let own = Own::new(&settings, node(&[]), Some(&row));
        let got = local(&plan, own, Machine::default()).unwrap();
        assert_eq!(got.router4, Some("10.0.0.7".parse().unwrap()));
        assert_eq!(
            got.node.pod_cidrs,
            ["10.0.0.9/32".parse::<IpNet>().unwrap()]
        );
        assert_eq!(got.pools["default"].len(), 2);
    }
}
