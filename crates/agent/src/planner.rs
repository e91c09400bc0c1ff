//! Input tables to desired tables: the whole once, then only the rows that a change concerns.
//!
//! A desired row follows from the few input rows that speak of its prefix, which indexes find. What a change can concern are the
//! prefixes that the changed row speaks of, as it was when the planner looked last and as it is now. These are planned anew by the
//! same functions, from those of the inputs alone that speak of them; a test compares the outcome with the whole plan.
use model::{
    Endpoint, Identity, LocalNode, Node, PLAN, Prefix, PrefixIdentity, RemoteEndpoint, Route,
    Tables,
};
use routing::{NodesByAddress, Plan, PrefixPlan};
use runtime::health::Component;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use tables::{Change, ChangeKind, ChangeTracker, Row, Snapshot, Table, UniqueViolation};

use ipnet::IpNet;

#[cfg(test)]
mod tests;

/// What could not be planned, by node.
pub type Warnings = BTreeMap<String, Vec<String>>;

/// Desired rows of one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Rows of `cilium_ipcache`.
    pub prefixes: Vec<Prefix>,
    /// Routes of the main table.
    pub routes: Vec<Route>,
    /// What could not be planned.
    pub warnings: Warnings,
    /// The inputs were complete: what is not here should not be in the kernel.
    pub complete: bool,
}

/// What should be in the kernel according to `snapshot`; none before the local node is known.
///
/// Of the cluster nothing is planned before all of it was listed. Half of it would give wrong rows, and after a restart they would
/// take the place of right ones: a pod whose node is missing has no tunnel.
#[must_use]
pub fn desired(tables: &Tables, snapshot: &Snapshot, plan: &Plan) -> Option<Desired> {
    let local = tables.local_node.iter(snapshot).next()?;
    let view = View {
        tables,
        snapshot,
        plan,
        local,
        complete: complete(tables, snapshot),
    };
    let nodes = view.of_cluster(tables.nodes.iter(snapshot));
    let remote = view.of_cluster(tables.cilium_endpoints.iter(snapshot));
    let ranges = view.of_cluster(tables.prefix_identities.iter(snapshot));
    let (routes, warnings) = view.routes(&nodes);
    Some(Desired {
        prefixes: view
            .prefixes(&nodes, remote, ranges, tables.endpoints.iter(snapshot))
            .into_rows()
            .collect(),
        routes: routes.into_values().collect(),
        warnings,
        complete: view.complete,
    })
}

/// True once all of the cluster was listed and the endpoints are restored.
pub(crate) fn complete(tables: &Tables, snapshot: &Snapshot) -> bool {
    tables.nodes.initialized(snapshot)
        && tables.cilium_endpoints.initialized(snapshot)
        && tables.identities.initialized(snapshot)
        && tables.endpoints.initialized(snapshot)
}

/// Writes a whole plan; the initialisers end with the first complete one.
///
/// # Errors
/// The plan does not fit the tables.
pub fn publish(tables: &Tables, desired: Desired) -> Result<(), UniqueViolation> {
    let mut txn = tables.db.write();
    tables.prefixes.replace_all(&mut txn, desired.prefixes)?;
    tables.routes.replace_all(&mut txn, desired.routes)?;
    if desired.complete {
        tables.prefixes.finish_initializer(&mut txn, PLAN);
        tables.routes.finish_initializer(&mut txn, PLAN);
    }
    txn.commit();
    Ok(())
}

/// What rows are planned from.
struct View<'s> {
    tables: &'s Tables,
    snapshot: &'s Snapshot,
    plan: &'s Plan,
    local: &'s LocalNode,
    complete: bool,
}

impl<'s> View<'s> {
    /// The rows, if all of the cluster is known.
    fn of_cluster<T: 's>(&self, rows: impl Iterator<Item = &'s Arc<T>>) -> Vec<&'s T> {
        rows.filter(|_| self.complete).map(AsRef::as_ref).collect()
    }

    /// The rows of the address cache that follow from these nodes, published endpoints, ranges and own endpoints, and from this
    /// node. The nodes behind addresses are looked up.
    fn prefixes(
        &self,
        nodes: &[&Node],
        remote: Vec<&'s RemoteEndpoint>,
        ranges: Vec<&'s PrefixIdentity>,
        endpoints: impl Iterator<Item = &'s Arc<Endpoint>>,
    ) -> PrefixPlan {
        let (plan, local) = (self.plan, self.local);
        let mut behind = NodesByAddress::default();
        let mut views = Vec::with_capacity(remote.len());
        for endpoint in remote {
            let Some(address) = endpoint.node else {
                continue;
            };
            // An identity of which nothing is known must not match more than what is outside of the cluster does.
            let identity = self
                .tables
                .identities
                .get(self.snapshot, &endpoint.identity);
            if local.addresses.contains(&address) || identity.is_none() {
                continue;
            }
            behind
                .entry(address)
                .or_insert_with(|| self.node_at(IpNet::from(address)));
            views.push(endpoint);
        }
        // Of two endpoints that are said to have one address the later one has it.
        let table = &self.tables.cilium_endpoints;
        views.sort_by_cached_key(|one| Reverse(table.revision_of(self.snapshot, &*one.key)));
        let mut out = PrefixPlan::default();
        out.add(routing::world_prefixes(plan));
        out.add(routing::node_prefixes(plan, local, nodes.iter().copied()));
        out.add(routing::remote_prefixes(plan, local, &behind, &views));
        out.add(routing::endpoint_prefixes(endpoints.map(AsRef::as_ref)));
        out.identify(plan, local, ranges, |range| self.node_around(range));
        out
    }

    /// The node that speaks of exactly this prefix: of several the first by name.
    fn node_at(&self, prefix: IpNet) -> Option<&'s Node> {
        let index = &self.tables.nodes_by_prefix;
        index.first(self.snapshot, &prefix).map(AsRef::as_ref)
    }

    /// The node whose pods a range lies among.
    fn node_around(&self, range: IpNet) -> Option<&'s Node> {
        let mut around = Some(range.trunc());
        while let Some(prefix) = around {
            let found = self.node_at(prefix);
            if let Some(node) = found.filter(|node| node.pod_cidrs.contains(&prefix)) {
                return Some(node);
            }
            around = prefix.supernet();
        }
        None
    }

    /// The routes to these nodes' pods, and to the own ones, which come first.
    fn routes(&self, nodes: &[&Node]) -> (BTreeMap<IpNet, Route>, Warnings) {
        let (mut routes, mut warnings) = (BTreeMap::new(), Warnings::new());
        for node in nodes {
            let planned = routing::node_routes(self.plan, self.local, node);
            routes.extend(by_key(planned.routes));
            if !planned.warnings.is_empty() {
                warnings.insert(node.name.clone(), planned.warnings);
            }
        }
        routes.extend(by_key(routing::own_routes(self.plan, self.local)));
        (routes, warnings)
    }
}

fn by_key<T: Row>(rows: Vec<T>) -> impl Iterator<Item = (T::Key, T)> {
    rows.into_iter().map(|row| (row.key(), row))
}

/// Keeps the desired tables in step with the inputs.
pub struct Planner {
    tables: Tables,
    plan: Plan,
    nodes: ChangeTracker<Node>,
    remote: ChangeTracker<RemoteEndpoint>,
    identities: ChangeTracker<Identity>,
    ranges: ChangeTracker<PrefixIdentity>,
    endpoints: ChangeTracker<Endpoint>,
    /// What the desired tables were planned from.
    before: Option<Before>,
    warnings: Warnings,
}

/// The inputs as they were; holding the snapshot costs the rows that have changed since.
struct Before {
    snapshot: Snapshot,
    local: Arc<LocalNode>,
    complete: bool,
}

/// What changes concern.
#[derive(Debug, Default)]
struct Touched {
    prefixes: BTreeSet<IpNet>,
    destinations: BTreeSet<IpNet>,
    nodes: BTreeSet<String>,
}

impl Planner {
    /// A planner for these tables; nothing is planned yet.
    #[must_use]
    pub fn new(tables: &Tables, plan: Plan) -> Self {
        Self {
            nodes: tables.db.track(&tables.nodes),
            remote: tables.db.track(&tables.cilium_endpoints),
            identities: tables.db.track(&tables.identities),
            ranges: tables.db.track(&tables.prefix_identities),
            endpoints: tables.db.track(&tables.endpoints),
            tables: tables.clone(),
            plan,
            before: None,
            warnings: Warnings::new(),
        }
    }

    /// What could not be planned.
    #[must_use]
    pub fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    /// Brings the desired tables in step with `snapshot`, which must not be older than the last one.
    pub fn step(&mut self, snapshot: &Snapshot, health: &Component) {
        let tables = self.tables.clone();
        let Some(local) = tables.local_node.iter(snapshot).next() else {
            return;
        };
        let complete = complete(&tables, snapshot);
        let written = match self.before.take() {
            Some(before) if before.complete == complete && !self.is_new(&before.local, local) => {
                let touched = self.touched(&before, snapshot, local);
                self.replan(snapshot, local, complete, &touched)
            }
            _ => self.whole(snapshot),
        };
        self.before = Some(Before {
            snapshot: snapshot.clone(),
            local: local.clone(),
            complete,
        });
        if let Err(error) = written {
            self.before = None;
            return health.degraded(format!("the plan does not fit the tables: {error}"));
        }
        let now = tables.db.snapshot();
        let (prefixes, routes) = (tables.prefixes.len(&now), tables.routes.len(&now));
        health.ok(format!("{prefixes} prefixes, {routes} routes"));
    }

    fn whole(&mut self, snapshot: &Snapshot) -> Result<(), UniqueViolation> {
        self.nodes.changes(snapshot).for_each(drop);
        self.remote.changes(snapshot).for_each(drop);
        self.identities.changes(snapshot).for_each(drop);
        self.ranges.changes(snapshot).for_each(drop);
        self.endpoints.changes(snapshot).for_each(drop);
        match desired(&self.tables, snapshot, &self.plan) {
            Some(mut desired) => {
                self.warnings = std::mem::take(&mut desired.warnings);
                publish(&self.tables, desired)
            }
            None => Ok(()),
        }
    }

    /// Rows of other nodes may be other ones since this node has changed.
    fn is_new(&self, before: &LocalNode, now: &LocalNode) -> bool {
        let families = [false, true];
        before.node.name != now.node.name
            || before.devices != now.devices
            || before.addresses != now.addresses
            || families
                .iter()
                .any(|v6| before.router(*v6) != now.router(*v6))
            || families
                .iter()
                .any(|v6| before.primary(*v6) != now.primary(*v6))
    }

    fn touched(&mut self, before: &Before, snapshot: &Snapshot, local: &LocalNode) -> Touched {
        let mut touched = Touched::default();
        if *before.local != *local {
            for local in [&before.local, local] {
                let none = std::iter::empty();
                let own = routing::node_prefixes(&self.plan, local, none);
                touched.prefixes.extend(own.iter().map(Row::key));
                let routes = routing::own_routes(&self.plan, local);
                touched.destinations.extend(routes.iter().map(Row::key));
            }
        }
        self.touched_by_nodes(before, snapshot, &mut touched);
        for change in self.remote.changes(snapshot) {
            let (old, new) = both(&self.tables.cilium_endpoints, &before.snapshot, change);
            for endpoint in old.into_iter().chain(new) {
                touched.endpoint(endpoint);
            }
        }
        for change in self.identities.changes(snapshot) {
            let (old, new) = both(&self.tables.identities, &before.snapshot, change);
            if old.is_some() != new.is_some() {
                let index = &self.tables.cilium_endpoints_by_identity;
                for endpoint in index.get(snapshot, &change.row.id) {
                    touched.endpoint(endpoint);
                }
            }
        }
        for change in self.ranges.changes(snapshot) {
            touched.prefixes.insert(change.row.prefix);
        }
        for change in self.endpoints.changes(snapshot) {
            let (old, new) = both(&self.tables.endpoints, &before.snapshot, change);
            let addresses = old.into_iter().chain(new).flat_map(Endpoint::addresses);
            touched.prefixes.extend(addresses.map(IpNet::from));
        }
        touched
    }

    fn touched_by_nodes(&mut self, before: &Before, snapshot: &Snapshot, touched: &mut Touched) {
        let mut moved: BTreeSet<IpAddr> = BTreeSet::new();
        for change in self.nodes.changes(snapshot) {
            let (old, new) = both(&self.tables.nodes, &before.snapshot, change);
            for node in old.into_iter().chain(new) {
                touched.prefixes.extend(node.prefixes());
                touched.destinations.extend(node.pod_cidrs.iter().copied());
            }
            touched.nodes.insert(change.row.name.clone());
            // Its pods lie behind its address, and so do ranges among them.
            let place = |node: Option<&Node>| node.map(|node| node.prefixes().collect::<Vec<_>>());
            if place(old) != place(new) {
                let both = old.into_iter().chain(new);
                moved.extend(both.flat_map(Node::prefixes).map(|prefix| prefix.addr()));
            }
        }
        if moved.is_empty() {
            return;
        }
        let ranges = self.tables.prefix_identities.iter(snapshot);
        touched.prefixes.extend(ranges.map(|range| range.prefix));
        let remote = self.tables.cilium_endpoints.iter(snapshot);
        for endpoint in remote.filter(|one| one.node.is_some_and(|ip| moved.contains(&ip))) {
            touched.endpoint(endpoint);
        }
    }

    /// Plans what was touched, and writes what has become other.
    fn replan(
        &mut self,
        snapshot: &Snapshot,
        local: &LocalNode,
        complete: bool,
        touched: &Touched,
    ) -> Result<(), UniqueViolation> {
        let tables = &self.tables;
        let view = View {
            tables,
            snapshot,
            plan: &self.plan,
            local,
            complete,
        };
        let prefixes = touched.plan_prefixes(&view);
        let (routes, _) = view.routes(&touched.candidates(&view, &touched.destinations));
        for name in &touched.nodes {
            let node = tables.nodes.get(snapshot, name).filter(|_| complete);
            let planned = node.map(|node| routing::node_routes(&self.plan, local, node));
            match planned.map(|planned| planned.warnings) {
                Some(warnings) if !warnings.is_empty() => {
                    self.warnings.insert(name.clone(), warnings);
                }
                _ => drop(self.warnings.remove(name)),
            }
        }
        let mut txn = tables.db.write();
        let changed = write(&tables.prefixes, &mut txn, &touched.prefixes, prefixes)?
            | write(&tables.routes, &mut txn, &touched.destinations, routes)?;
        if changed {
            txn.commit();
        }
        Ok(())
    }
}

/// A row as it was, and as it is now.
fn both<'s, T: Row>(
    table: &Table<T>,
    before: &'s Snapshot,
    change: Change<'s, T>,
) -> (Option<&'s T>, Option<&'s T>) {
    let old = table.get(before, &change.row.key()).map(AsRef::as_ref);
    let new = (change.kind == ChangeKind::Upsert).then_some(change.row.as_ref());
    (old, new)
}

/// Makes the rows of `keys` those that are wanted; whether that changed anything.
fn write<T: Row + PartialEq>(
    table: &Table<T>,
    txn: &mut tables::WriteTxn<'_>,
    keys: &BTreeSet<T::Key>,
    mut wanted: BTreeMap<T::Key, T>,
) -> Result<bool, UniqueViolation> {
    let mut changed = false;
    for key in keys {
        changed |= match wanted.remove(key) {
            Some(row) => table.insert_if_changed(txn, row)?,
            None => table.delete(txn, key).is_some(),
        };
    }
    Ok(changed)
}

impl Touched {
    fn endpoint(&mut self, endpoint: &RemoteEndpoint) {
        let addresses = endpoint.addresses.iter().copied();
        self.prefixes.extend(addresses.map(IpNet::from));
    }

    /// The nodes that speak of any of these prefixes, in the order of their names.
    fn candidates<'s>(&self, view: &View<'s>, prefixes: &BTreeSet<IpNet>) -> Vec<&'s Node> {
        let index = &view.tables.nodes_by_prefix;
        let found = prefixes.iter();
        let found = found.flat_map(|prefix| index.get(view.snapshot, &prefix.trunc()));
        let by_name: BTreeMap<&str, &Arc<Node>> =
            found.map(|node| (node.name.as_str(), node)).collect();
        view.of_cluster(by_name.into_values())
    }

    fn plan_prefixes(&self, view: &View<'_>) -> BTreeMap<IpNet, Prefix> {
        let (tables, snapshot) = (view.tables, view.snapshot);
        let single = |net: &&IpNet| net.prefix_len() == net.max_prefix_len();
        let addresses = || self.prefixes.iter().filter(single).map(IpNet::addr);
        let remote: BTreeMap<_, _> = addresses()
            .flat_map(|ip| tables.cilium_endpoints_by_address.get(snapshot, &ip))
            .map(|endpoint| (&endpoint.key, endpoint))
            .collect();
        let ranges = self.prefixes.iter();
        let ranges = ranges.filter_map(|net| tables.prefix_identities.get(snapshot, net));
        let endpoints: BTreeMap<_, _> = addresses()
            .filter_map(|ip| tables.endpoints_by_address.first(snapshot, &ip))
            .map(|endpoint| (endpoint.id, endpoint))
            .collect();
        let planned = view.prefixes(
            &self.candidates(view, &self.prefixes),
            view.of_cluster(remote.into_values()),
            view.of_cluster(ranges),
            endpoints.into_values(),
        );
        let touched = planned
            .into_rows()
            .filter(|row| self.prefixes.contains(&row.prefix));
        touched.map(|row| (row.prefix, row)).collect()
    }
}
