//! Ranges of nodes: from what the nodes' objects and the settings say to what is written.
use crate::tables::{NodeRow, PoolRow, Tables};
use ipam::{NodeClaim, NodePlan, Space, Want};
use ipnet::IpNet;
use k8s::crd::CiliumPodIpPool;
use runtime::settings::{IpamMode, OperatorSettings};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use tables::Snapshot;

/// Name under which the ranges of the cluster-pool mode are planned.
pub(crate) const CLUSTER: &str = "cluster-pool";

/// Spaces by pool and family (`true`: IPv6), and what is wrong with those that are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spaces {
    pub all: BTreeMap<(String, bool), Space>,
    /// By pool.
    pub errors: BTreeMap<String, String>,
}

/// The spaces that the settings name, in the cluster-pool mode.
///
/// # Errors
/// They make no sense.
pub(crate) fn cluster_spaces(settings: &OperatorSettings) -> Result<Spaces, String> {
    let mut all = BTreeMap::new();
    for (ipv6, on, key, ranges, mask) in [
        (
            false,
            settings.enable_ipv4,
            "cluster-pool-ipv4-cidr",
            &settings.cluster_pool_ipv4_cidr,
            settings.cluster_pool_ipv4_mask_size,
        ),
        (
            true,
            settings.enable_ipv6,
            "cluster-pool-ipv6-cidr",
            &settings.cluster_pool_ipv6_cidr,
            settings.cluster_pool_ipv6_mask_size,
        ),
    ] {
        if on && !ranges.is_empty() {
            let space =
                Space::new(ranges.clone(), mask).map_err(|error| format!("{key}: {error}"))?;
            all.insert((CLUSTER.to_owned(), ipv6), space);
        }
    }
    if all.is_empty() {
        return Err(
            "ipam is cluster-pool, but there is no range: give cluster-pool-ipv4-cidr or cluster-pool-ipv6-cidr of an enabled family"
                .to_owned(),
        );
    }
    Ok(Spaces {
        all,
        errors: BTreeMap::new(),
    })
}

/// The spaces of the pool objects, in the multi-pool mode. A pool that makes no sense, or overlaps one before it in the order of
/// the names, is left out.
pub(crate) fn pool_spaces(pools: &[Arc<PoolRow>]) -> Spaces {
    let mut spaces = Spaces::default();
    for pool in pools {
        for (ipv6, range) in [(false, &pool.ipv4), (true, &pool.ipv6)] {
            let Some(range) = range else { continue };
            let name = &pool.name;
            let space = parse(&range.cidrs)
                .and_then(|nets| Space::new(nets, range.mask_size).map_err(|e| e.to_string()))
                .and_then(|space| family(space, ipv6))
                .and_then(|space| apart(space, &spaces.all));
            match space {
                Ok(space) => drop(spaces.all.insert((name.clone(), ipv6), space)),
                Err(error) => {
                    let text = format!("CiliumPodIPPool {name} is not used: {error}");
                    spaces.errors.insert(name.clone(), text);
                }
            }
        }
    }
    spaces
}

/// What is wrong with pools that the operator does not use, one line each.
#[must_use]
pub fn pool_errors(pools: Vec<CiliumPodIpPool>) -> Vec<String> {
    let mut rows: Vec<Arc<PoolRow>> = pools
        .into_iter()
        .map(|pool| Arc::new(pool.into()))
        .collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    pool_spaces(&rows).errors.into_values().collect()
}

fn parse(texts: &[String]) -> Result<Vec<IpNet>, String> {
    texts
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|_| format!("{text:?} is not a range as 10.0.0.0/8"))
        })
        .collect()
}

fn family(space: Space, ipv6: bool) -> Result<Space, String> {
    if space.is_ipv6() == ipv6 {
        Ok(space)
    } else {
        Err("its ranges are of the other family".to_owned())
    }
}

fn apart(space: Space, others: &BTreeMap<(String, bool), Space>) -> Result<Space, String> {
    for ((name, _), other) in others {
        for net in space.ranges() {
            if let Some(theirs) = other
                .ranges()
                .iter()
                .find(|theirs| ipam::overlap(theirs, net))
            {
                return Err(format!("{net} overlaps {theirs} of pool {name}"));
            }
        }
    }
    Ok(space)
}

/// What nodes have and want, in the terms of the planner.
pub(crate) fn claims(
    tables: &Tables,
    snapshot: &Snapshot,
    mode: IpamMode,
    spaces: &BTreeMap<(String, bool), Space>,
) -> Vec<NodeClaim> {
    tables
        .cilium_nodes
        .iter(snapshot)
        .map(|row| claim(row, mode, spaces))
        .collect()
}

fn claim(row: &NodeRow, mode: IpamMode, spaces: &BTreeMap<(String, bool), Space>) -> NodeClaim {
    let said = &row.said;
    let own = said.pod_cidrs.iter().map(|net| (CLUSTER.to_owned(), *net));
    let pools = said
        .pools
        .iter()
        .flat_map(|(pool, nets)| nets.iter().map(move |net| (pool.clone(), *net)));
    let wants = match mode {
        // Nothing new for a node that is going.
        _ if row.deleted => Vec::new(),
        IpamMode::ClusterPool => spaces
            .keys()
            .map(|(pool, ipv6)| Want {
                pool: pool.clone(),
                ipv6: *ipv6,
                addresses: 1,
            })
            .collect(),
        IpamMode::MultiPool => requests(said),
        IpamMode::Kubernetes | IpamMode::Crd => Vec::new(),
    };
    NodeClaim {
        name: said.name.clone(),
        version: version(&said.version),
        created: row.created,
        has: own.chain(pools).collect(),
        wants,
    }
}

fn requests(said: &model::CiliumNode) -> Vec<Want> {
    let want = |pool: &str, ipv6: bool, addresses: u32| Want {
        pool: pool.to_owned(),
        ipv6,
        addresses: u128::from(addresses),
    };
    said.requested
        .iter()
        .flat_map(|(pool, (v4, v6))| [want(pool, false, *v4), want(pool, true, *v6)])
        .filter(|want| want.addresses > 0)
        .collect()
}

/// Versions grow; those that are no numbers count as never seen.
pub(crate) fn version(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// What to write to a node's object: its `spec`, and the error of its `status`, as far as they are to change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeWrite {
    pub plan: NodePlan,
    /// Merged into the object, on top of `version`.
    pub spec: Option<Value>,
    pub version: String,
    /// Merged into the status: the new error.
    pub error: Option<Value>,
}

/// The writes that carry plans out.
pub(crate) fn writes(tables: &Tables, snapshot: &Snapshot, plans: Vec<NodePlan>) -> Vec<NodeWrite> {
    plans
        .into_iter()
        .filter_map(|plan| {
            let row = tables.cilium_nodes.get(snapshot, &plan.name)?;
            let spec = (!plan.give.is_empty()).then(|| spec(&row.said, &plan.give));
            let error = (plan.error != row.said.error).then(|| error(&plan.error));
            (spec.is_some() || error.is_some()).then(|| NodeWrite {
                version: row.said.version.clone(),
                plan,
                spec,
                error,
            })
        })
        .collect()
}

fn error(text: &str) -> Value {
    // A merge takes a field out by null.
    let text = if text.is_empty() {
        Value::Null
    } else {
        text.into()
    };
    json!({"ipam": {"operator-status": {"error": text}}})
}

fn spec(said: &model::CiliumNode, give: &[(String, IpNet)]) -> Value {
    let mut own = said.pod_cidrs.clone();
    let mut pools = said.pools.clone();
    for (pool, net) in give {
        if pool == CLUSTER {
            own.push(*net);
        } else {
            pools.entry(pool.clone()).or_default().push(*net);
        }
    }
    let mut ipam = json!({});
    if own != said.pod_cidrs {
        // IPv4 first, as users read it.
        own.sort_by_key(|net| net.addr().is_ipv6());
        ipam["podCIDRs"] = json!(own);
    }
    if pools != said.pools {
        let allocated: Vec<Value> = pools
            .iter()
            .map(|(pool, nets)| json!({"pool": pool, "cidrs": nets}))
            .collect();
        ipam["pools"] = json!({"allocated": allocated});
    }
    json!({"spec": {"ipam": ipam}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cidrs: &[&str], mask_size: u8) -> k8s::crd::PoolRange {
        k8s::crd::PoolRange {
            cidrs: cidrs.iter().map(|c| (*c).to_owned()).collect(),
            mask_size,
        }
    }

    fn pool(name: &str, ipv4: k8s::crd::PoolRange) -> Arc<PoolRow> {
        Arc::new(PoolRow {
            name: name.to_owned(),
            uid: String::new(),
            ipv4: Some(ipv4),
            ipv6: None,
        })
    }

    #[test]
    fn bad_pools_are_left_out_with_the_reason() {
        let spaces = pool_spaces(&[
            pool("a", range(&["10.0.0.0/16"], 24)),
            pool("b", range(&["10.0.8.0/24"], 27)),
            pool("c", range(&["10.1.0.0/24"], 16)),
            pool("d", range(&["fd00::/64"], 120)),
            pool("e", range(&["10.2"], 24)),
        ]);
        assert_eq!(spaces.all.len(), 1);
        assert_eq!(
            spaces.errors.into_values().collect::<Vec<_>>(),
            [
                "CiliumPodIPPool b is not used: 10.0.8.0/24 overlaps 10.0.0.0/16 of pool a",
                "CiliumPodIPPool c is not used: mask size 16 does not fit 10.1.0.0/24; accepted: 24 to 32",
                "CiliumPodIPPool d is not used: its ranges are of the other family",
                "CiliumPodIPPool e is not used: \"10.2\" is not a range as 10.0.0.0/8",
            ]
        );
    }

    #[test]
    fn settings_without_a_range_are_refused() {
        let mut settings = OperatorSettings::default();
        assert!(cluster_spaces(&settings).unwrap_err().contains("no range"));
        settings.cluster_pool_ipv4_cidr = vec!["10.0.0.0/25".parse().unwrap()];
        assert_eq!(
            cluster_spaces(&settings).unwrap_err(),
            "cluster-pool-ipv4-cidr: mask size 24 does not fit 10.0.0.0/25; accepted: 25 to 32"
        );
        settings.cluster_pool_ipv4_mask_size = 26;
        assert_eq!(cluster_spaces(&settings).unwrap().all.len(), 1);
    }

    #[test]
    fn ranges_are_added_to_what_the_object_has() {
        let said = model::CiliumNode {
            pools: [("a".to_owned(), vec!["10.0.0.0/28".parse().unwrap()])].into(),
            ..model::CiliumNode::default()
        };
        let give = |pool: &str, net: &str| (pool.to_owned(), net.parse().unwrap());
        assert_eq!(
            spec(
                &said,
                &[give(CLUSTER, "fd00::/112"), give(CLUSTER, "10.1.0.0/24")]
            ),
            json!({"spec": {"ipam": {"podCIDRs": ["10.1.0.0/24", "fd00::/112"]}}})
        );
        assert_eq!(
            spec(
                &said,
                &[give("a", "10.0.0.16/28"), give("b", "10.2.0.0/28")]
            ),
            json!({"spec": {"ipam": {"pools": {"allocated": [
                {"pool": "a", "cidrs": ["10.0.0.0/28", "10.0.0.16/28"]}, {"pool": "b", "cidrs": ["10.2.0.0/28"]},
            ]}}}})
        );
    }
}
