//! Ranges of pod addresses for nodes that have none: the first free one of each family.
use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::{
    Change, Key, Kind, Now, World,
    engine::Controller,
    meta,
    write::{Note, Plan, Tell, Write},
};

const SOURCE: &str = "cidrAllocator";

/// The controller.
pub struct Cidrs {
    /// Where ranges are taken from, one per family.
    pub from: Vec<IpNet>,
    /// Prefix length of a node's IPv4 range.
    pub mask_v4: u8,
    /// Prefix length of a node's IPv6 range.
    pub mask_v6: u8,
}

impl Controller for Cidrs {
    fn name(&self) -> &'static str {
        "node-ipam"
    }

    fn needs(&self) -> &'static [Kind] {
        &[Kind::Node]
    }

    // One key for all: two nodes must not be given the same range.
    fn affected(&self, change: &Change, _: &World, keys: &mut Vec<Key>) {
        let lacks = change
            .after::<Node>()
            .is_some_and(|node| ranges(node).is_empty());
        if lacks || change.new.is_none() {
            keys.push(Key::default());
        }
    }

    fn plan(&self, _: &Key, world: &World, _: Now) -> Plan {
        let nodes = world.all::<Node>();
        let mut used: BTreeSet<IpNet> = nodes.iter().flat_map(|node| ranges(node)).collect();
        let mut plan = Plan::none();
        for node in nodes.iter().filter(|node| ranges(node).is_empty()) {
            let found: Option<Vec<IpNet>> = self
                .from
                .iter()
                .map(|pool| self.first_free(pool, &used))
                .collect();
            match found {
                Some(found) => {
                    used.extend(&found);
                    let patch = json!({"spec": {"podCIDR": found.first(), "podCIDRs": found}});
                    plan.push(Write::patch(&**node, patch, Tell::nothing()));
                }
                None => {
                    let message = format!(
                        "Node {} has no pod address range: none of {:?} has a free one",
                        meta::name(&node.metadata),
                        self.from
                    );
                    let note = Note::warning(SOURCE, &**node, "CIDRNotAvailable", message);
                    plan.push(Write::Note(note));
                }
            }
        }
        plan
    }
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let all = spec.into_iter().flat_map(|spec| {
        let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
        all.filter_map(|text| text.parse().ok())
    });
    all.collect()
}

impl Cidrs {
    fn first_free(&self, pool: &IpNet, used: &BTreeSet<IpNet>) -> Option<IpNet> {
        let mask = match pool.network() {
            IpAddr::V4(_) => self.mask_v4,
            IpAddr::V6(_) => self.mask_v6,
        };
        let overlaps = |one: &IpNet| {
            used.iter()
                .any(|other| one.contains(other) || other.contains(one))
        };
        pool.subnets(mask).ok()?.find(|one| !overlaps(one))
    }
}
