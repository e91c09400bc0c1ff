//! Which node gets which ranges: the operator's decision, from what the nodes' objects say.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::{BlockError, Held, Pool, Space};

/// A node as its object says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeClaim {
    /// Name.
    pub name: String,
    /// Version of the object: a number that grows with every change.
    pub version: u64,
    /// When the object was made, in any unit: where two nodes have the same range, it is the older one's.
    pub created: i64,
    /// Ranges that it has, with their pool.
    pub has: Vec<(String, IpNet)>,
    /// What it wants.
    pub wants: Vec<Want>,
}

/// So many addresses of a pool and family, in ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Pool.
    pub pool: String,
    /// Family.
    pub ipv6: bool,
    /// Addresses that can be given to pods and routers.
    pub addresses: u128,
}

/// What is to be done about a node. It must be written on top of `version`, and be refused if the object has another one by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// Name.
    pub name: String,
    /// Version of the object that this was decided from.
    pub version: u64,
    /// Ranges to give to it, with their pool.
    pub give: Vec<(String, IpNet)>,
    /// Why it does not have what it wants; empty if it has, or has with `give`.
    pub error: String,
}

/// How carrying out a [`NodePlan`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The object has the ranges as of this version.
    Done(u64),
    /// Nothing was changed, for sure.
    Refused,
    /// It may or may not have been changed.
    Unknown,
}

/// Decides. It remembers what was given and is not seen in the nodes' objects yet, so that an object that is seen late never
/// makes a range look free.
#[derive(Debug, Clone, Default)]
pub struct Planner {
    spaces: BTreeMap<(String, bool), Space>,
    held: Held,
    /// By node: given ranges with their pool, and the version from which on the object must have shown them.
    given: BTreeMap<String, Vec<Given>>,
}

#[derive(Debug, Clone)]
struct Given {
    pool: String,
    net: IpNet,
    /// It was written: from this version on the object shows it, or it was given back.
    visible_from: Option<u64>,
    /// It was perhaps written, on top of this version. An object of a later version without it never had it, or gave it back.
    perhaps_after: Option<u64>,
}

impl Planner {
    /// No spaces, nothing given.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the spaces, which are found by pool and family. What nodes have stays theirs.
    pub fn set_spaces(&mut self, spaces: BTreeMap<(String, bool), Space>) {
        self.spaces = spaces;
    }

    /// The spaces by pool and family (`true`: IPv6).
    pub fn spaces(&self) -> &BTreeMap<(String, bool), Space> {
        &self.spaces
    }

    /// Who has what, as of the last plan.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// What is to be done about each node; the nodes must be all there are. A node for which there is nothing to do has a plan,
    /// too, which says so.
    pub fn plan(&mut self, nodes: &[NodeClaim]) -> Vec<NodePlan> {
        let names: BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        self.given.retain(|name, _| names.contains(name.as_str()));
        let mut errors = self.take_up(nodes);
        nodes
            .iter()
            .map(|node| {
                let error = errors.remove(node.name.as_str()).unwrap_or_default();
                self.serve(node, error)
            })
            .collect()
    }

    /// Tells how giving ranges to a node ended.
    pub fn written(&mut self, plan: &NodePlan, outcome: Written) {
        let Some(given) = self.given.get_mut(&plan.name) else {
            return;
        };
        let concerned = |given: &Given| plan.give.contains(&(given.pool.clone(), given.net));
        match outcome {
            Written::Done(version) => given
                .iter_mut()
                .filter(|one| concerned(one))
                .for_each(|one| one.visible_from = Some(version)),
            // An earlier try may have been successful all the same.
            Written::Refused => given.retain(|one| !concerned(one) || one.perhaps_after.is_some()),
            // It stays the node's, and is written again.
            Written::Unknown => given
                .iter_mut()
                .filter(|one| concerned(one))
                .for_each(|one| one.perhaps_after = Some(plan.version)),
        }
    }

    /// Works out anew who has what; complaints by node. Older nodes come first.
    fn take_up<'n>(&mut self, nodes: &'n [NodeClaim]) -> BTreeMap<&'n str, String> {
        self.held = self.held.emptied();
        let mut errors = BTreeMap::new();
        let mut by_age: Vec<&NodeClaim> = nodes.iter().collect();
        by_age.sort_by_key(|node| (node.created, node.name.as_str()));
        for node in &by_age {
            for (_, net) in &node.has {
                match self.held.occupy(*net, &node.name) {
                    Err(BlockError::Held { other, by, .. }) if by != node.name => {
                        errors.entry(node.name.as_str()).or_insert_with(|| {
                            format!("{net} overlaps {other} of node {by}; delete the CiliumNode of one of the two and restart its agent")
                        });
                    }
                    _ => {}
                }
            }
        }
        for node in by_age {
            let Some(given) = self.given.get_mut(&node.name) else {
                continue;
            };
            let held = &mut self.held;
            given.retain(|one| {
                let seen = node.has.iter().any(|(_, net)| *net == one.net);
                let past = one.visible_from.is_some_and(|from| node.version >= from)
                    || one.perhaps_after.is_some_and(|base| node.version > base);
                !seen && !past && held.occupy(one.net, &node.name).is_ok()
            });
        }
        errors
    }

    fn serve(&mut self, node: &NodeClaim, mut error: String) -> NodePlan {
        // Nothing new for a node whose ranges are disputed: people must decide first.
        if error.is_empty() {
            for want in &node.wants {
                if let Err(text) = self.fulfil(node, want) {
                    error = text;
                }
            }
        }
        let again = self.given.get(&node.name).into_iter().flatten();
        let give = again
            .filter(|one| one.visible_from.is_none())
            .map(|one| (one.pool.clone(), one.net))
            .collect();
        NodePlan {
            name: node.name.clone(),
            version: node.version,
            give,
            error,
        }
    }

    fn fulfil(&mut self, node: &NodeClaim, want: &Want) -> Result<(), String> {
        let fits = |pool: &str, net: &IpNet| pool == want.pool && net.addr().is_ipv6() == want.ipv6;
        let own = node.has.iter().filter(|(pool, net)| fits(pool, net));
        let mut have: u128 = own.map(|(_, net)| addresses(net)).sum();
        let given = self.given.get(&node.name).into_iter().flatten();
        have += given
            .filter(|one| fits(&one.pool, &one.net))
            .map(|one| addresses(&one.net))
            .sum::<u128>();
        if have >= want.addresses {
            return Ok(());
        }
        let family = if want.ipv6 { "IPv6" } else { "IPv4" };
        let Some(space) = self.spaces.get(&(want.pool.clone(), want.ipv6)) else {
            return Err(format!(
                "there is no pool {} with {family} ranges",
                want.pool
            ));
        };
        while have < want.addresses {
            let net = self
                .held
                .allocate(space, &node.name)
                .map_err(|error| format!("pool {}: {error}", want.pool))?;
            have += addresses(&net);
            self.given
                .entry(node.name.clone())
                .or_default()
                .push(Given {
                    pool: want.pool.clone(),
                    net,
                    visible_from: None,
                    perhaps_after: None,
                });
        }
        Ok(())
    }
}

/// Addresses of a range that can be given.
pub fn addresses(net: &IpNet) -> u128 {
    Pool::new(*net).capacity()
}
