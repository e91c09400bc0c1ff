//! What is wanted: from tables to statuses that are not right yet.
use super::{Known, NodeRow, ServiceRow, status};
use lb::{
    lbipam::{
        Change, DefaultIpam, Manager, Pool, PoolStatus, Request, Setup, Totals, Unsatisfied, Write,
    },
    node_ipam::{self, NodeFacts},
};
use model::{Declared, Text, service::Slice};
use runtime::settings::{LbServiceIpam, OperatorSettings};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tables::{ChangeKind, ChangeTracker, Snapshot};

/// Whose status it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A pool's.
    Pool,
    /// A service's.
    Service,
}

/// A status that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Open {
    Service {
        uid: Box<str>,
        status: Value,
        complaint: Option<String>,
    },
    Pool {
        uid: Box<str>,
        status: Value,
        complaint: Option<String>,
    },
}

impl Open {
    /// What people should hear of it: a reason in one word, and why.
    pub fn complaint(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Service { complaint, .. } => Some(("NoAddress", complaint.as_deref()?)),
            Self::Pool { complaint, .. } => Some(("PoolNotUsed", complaint.as_deref()?)),
        }
    }
}

/// Feeds the manager of addresses, and keeps what is to be written.
pub struct Keeper {
    manager: Manager,
    default: DefaultIpam,
    /// Whether IPv4 and IPv6 are on.
    on: [bool; 2],
    node_ipam: bool,
    services: ChangeTracker<ServiceRow>,
    pools: ChangeTracker<Declared>,
    nodes: ChangeTracker<NodeRow>,
    slices: ChangeTracker<Slice>,
    /// Pools of which some version could be read.
    read: BTreeSet<Text>,
    /// What pools came to.
    statuses: BTreeMap<Text, PoolStatus>,
    /// Services that may have other addresses of nodes by now.
    dirty: BTreeSet<Text>,
    /// What is not written yet.
    pub open: BTreeMap<(Kind, Text), Open>,
}

impl Keeper {
    pub fn new(known: &Known, settings: &OperatorSettings) -> Self {
        let default = match settings.default_lb_service_ipam {
            LbServiceIpam::Pools => DefaultIpam::Pools,
            LbServiceIpam::Nodes => DefaultIpam::Nodes,
            LbServiceIpam::Nobody => DefaultIpam::Nobody,
        };
        let (ipv4, ipv6) = (settings.enable_ipv4, settings.enable_ipv6);
        Self {
            manager: Manager::new(Setup {
                ipv4,
                ipv6,
                default,
            }),
            default,
            on: [ipv4, ipv6],
            node_ipam: settings.enable_node_ipam,
            services: known.db.track(&known.services),
            pools: known.db.track(&known.pools),
            nodes: known.db.track(&known.nodes),
            slices: known.db.track(&known.slices),
            read: BTreeSet::new(),
            statuses: BTreeMap::new(),
            dirty: BTreeSet::new(),
            open: BTreeMap::new(),
        }
    }

    /// Figures of all services and pools.
    pub fn totals(&self) -> Totals {
        self.manager.totals()
    }

    /// What pools came to, by name.
    pub fn pools(&self) -> &BTreeMap<Text, PoolStatus> {
        &self.statuses
    }

    /// Hears what is new, and works out what should be written; false while some list is not complete: what services have must
    /// be known before anything is given.
    pub fn look(&mut self, known: &Known, snapshot: &Snapshot) -> bool {
        self.hear_services(snapshot);
        self.hear_pools(snapshot);
        self.hear_nodes(known, snapshot);
        let complete = known.services.initialized(snapshot)
            && known.pools.initialized(snapshot)
            && known.nodes.initialized(snapshot)
            && known.slices.initialized(snapshot);
        if !complete {
            return false;
        }
        for write in self.manager.flush() {
            match write {
                Write::Service {
                    key,
                    ingress,
                    outcome,
                } => self.want_service(known, snapshot, &key, ingress, outcome),
                Write::Pool(name, status) => self.want_pool(known, snapshot, name, status),
            }
        }
        for key in std::mem::take(&mut self.dirty) {
            self.want_of_nodes(known, snapshot, &key);
        }
        true
    }

    fn by_nodes(&self, service: &model::Service) -> bool {
        self.node_ipam && node_ipam::manages(service, self.default)
    }

    fn hear_services(&mut self, snapshot: &Snapshot) {
        let mut changes = Vec::new();
        for change in self.services.changes(snapshot) {
            let there = change.kind == ChangeKind::Upsert;
            changes.push((change.row.clone(), there));
        }
        for (row, there) in changes {
            let key = row.service.key.clone();
            if !there {
                self.open.remove(&(Kind::Service, key.clone()));
            } else if self.by_nodes(&row.service) {
                self.dirty.insert(key.clone());
            }
            let request = there.then(|| Request::from(&row.service));
            self.manager.apply(Change::Service(key, request));
        }
    }

    fn hear_pools(&mut self, snapshot: &Snapshot) {
        for change in self.pools.changes(snapshot) {
            let key = change.row.key.clone();
            let place = (Kind::Pool, key.clone());
            self.open.remove(&place);
            if change.kind == ChangeKind::Delete {
                self.statuses.remove(&key);
                self.read.remove(&key);
                self.manager.apply(Change::Pool(key, None));
                continue;
            }
            match lb::parse::pool_of(change.row) {
                Ok(pool) => {
                    self.read.insert(key.clone());
                    self.manager.apply(Change::Pool(key, Some(pool)));
                }
                // What it said before stays in force: services would lose addresses that they have.
                Err(wrong) => {
                    if !self.read.contains(&key) {
                        let pool = Pool::unreadable(&key);
                        self.manager.apply(Change::Pool(key, Some(pool)));
                    }
                    let why = wrong.to_string();
                    let wanted = status::refused(&why);
                    if !status::said(&change.row.conditions, &wanted) {
                        let open = Open::Pool {
                            uid: change.row.uid.clone(),
                            status: status::pool(&change.row.conditions, &wanted),
                            complaint: Some(why),
                        };
                        self.open.insert(place, open);
                    }
                }
            }
        }
    }

    fn hear_nodes(&mut self, known: &Known, snapshot: &Snapshot) {
        let moved = self.nodes.changes(snapshot).count() > 0;
        let mut keys: BTreeSet<Text> = BTreeSet::new();
        for change in self.slices.changes(snapshot) {
            keys.insert(change.row.service.clone());
        }
        if !self.node_ipam {
            return;
        }
        if moved {
            keys.extend(
                known
                    .services
                    .iter(snapshot)
                    .map(|row| row.service.key.clone()),
            );
        }
        let managed = |key: &Text| {
            let row = known.services.get(snapshot, key.as_str());
            row.is_some_and(|row| self.by_nodes(&row.service))
        };
        let found: Vec<Text> = keys.into_iter().filter(managed).collect();
        self.dirty.extend(found);
    }

    fn want_service(
        &mut self,
        known: &Known,
        snapshot: &Snapshot,
        key: &Text,
        ingress: Vec<IpAddr>,
        outcome: Option<Result<(), Unsatisfied>>,
    ) {
        let Some(row) = known.services.get(snapshot, key.as_str()) else {
            return;
        };
        let place = (Kind::Service, key.clone());
        // Addresses of nodes come from somewhere else.
        let ingress = (!self.by_nodes(&row.service)).then_some(ingress);
        match status::service(row, ingress.as_deref(), outcome.as_ref()) {
            None => self.open.remove(&place),
            Some(status) => {
                let open = Open::Service {
                    uid: row.uid.clone(),
                    status,
                    complaint: outcome.and_then(Result::err).map(|why| why.message),
                };
                self.open.insert(place, open)
            }
        };
    }

    fn want_pool(&mut self, known: &Known, snapshot: &Snapshot, name: Text, found: PoolStatus) {
        let place = (Kind::Pool, name.clone());
        if let Some(row) = known.pools.get(snapshot, name.as_str())
            && lb::parse::pool_of(row).is_ok()
        {
            let wanted = found.conditions();
            if status::said(&row.conditions, &wanted) {
                self.open.remove(&place);
            } else {
                let open = Open::Pool {
                    uid: row.uid.clone(),
                    status: status::pool(&row.conditions, &wanted),
                    complaint: found.conflict.clone(),
                };
                self.open.insert(place, open);
            }
            self.statuses.insert(name, found);
        }
    }

    fn want_of_nodes(&mut self, known: &Known, snapshot: &Snapshot, key: &Text) {
        let Some(row) = known.services.get(snapshot, key.as_str()) else {
            return;
        };
        let facts = |row: &NodeRow| NodeFacts {
            name: Text::shared(&row.node.name),
            labels: row.node.labels.clone(),
            internal: row.node.addresses.clone(),
            external: row.node.external.clone(),
            leaving: row.leaving,
        };
        let nodes: Vec<NodeFacts> = known.nodes.iter(snapshot).map(|row| facts(row)).collect();
        let slices: Vec<_> = known
            .slices_by_service
            .get(snapshot, key.as_str())
            .collect();
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        let families = if row.service.ipv6.is_empty() {
            self.on
        } else {
            [false, true].map(|ipv6| row.service.ipv6.contains(&ipv6))
        };
        let found = node_ipam::addresses(&row.service, families, &nodes, endpoints);
        let (ingress, complaint) = match found {
            Ok(ingress) => (ingress, None),
            Err(problem) => (Vec::new(), Some(problem.to_string())),
        };
        let place = (Kind::Service, key.clone());
        match status::service(row, Some(&ingress), None) {
            None => self.open.remove(&place),
            Some(status) => {
                let open = Open::Service {
                    uid: row.uid.clone(),
                    status,
                    complaint,
                };
                self.open.insert(place, open)
            }
        };
    }
}
