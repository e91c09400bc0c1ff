//! Everything on this node that has a number, in one table; and the numbers of ranges of addresses, which this node gives itself.
use super::{Identities, Numbers, ranges::follow_used};
use abi::identity::{
    HEALTH, HOST, INGRESS, INIT, KUBE_APISERVER, REMOTE_NODE, UNMANAGED, reserved_name,
};
use ipnet::IpNet;
use model::{
    CiliumNode, ClusterIdentity, Endpoint, Identity, IdentityKind, KUBERNETES, Labels, LocalNode,
    Node, PrefixIdentity, Tables, UsedPrefix,
};
use policy::identity::{Allocator, Info, Metadata, Order, Resolved, Scope, Source, world_labels};
use runtime::{health::Component, stop::Stop};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tables::{ChangeKind, ChangeTracker, Read, Snapshot, UniqueViolation, WriteTxn};

/// The service of the API server.
const API_SERVER: &str = "default/kubernetes";
/// The least time between two writes of the file.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Pause after a computation: what changes together is taken together.
const REST: Duration = Duration::from_millis(1);

/// What the keeper is told once.
#[derive(Clone, Debug)]
pub struct KeeperOptions {
    /// Pods have IPv4 addresses.
    pub ipv4: bool,
    /// Pods have IPv6 addresses.
    pub ipv6: bool,
    /// Rules on ranges mean nodes as well (`policy-cidr-match-mode`).
    pub nodes_by_cidr: bool,
    /// How long numbers of ranges are kept that nobody uses.
    pub grace: Duration,
    /// Directory of the file of numbers; none: they are not kept over a restart.
    pub directory: Option<PathBuf>,
}

/// Writes `identities` and `prefix_identities`.
pub struct Keeper {
    tables: Tables,
    identities: Identities,
    options: KeeperOptions,
    started: Instant,
    /// What is known of ranges and addresses.
    metadata: Metadata,
    /// Addresses of the API server.
    api_servers: BTreeSet<IpAddr>,
    /// Numbers of ranges.
    local: Allocator,
    /// Numbers of nodes.
    remote: Allocator,
    /// The number of each range that has one of its own.
    given: BTreeMap<IpNet, u32>,
    /// Numbers of the cluster from before a restart, until the API server has said which there are.
    restored: BTreeMap<u32, Labels>,
    /// The identity of each endpoint.
    users: BTreeMap<u16, u32>,
    /// Numbers made by this agent that were in the table at the last look.
    made: BTreeSet<u32>,
    listed: bool,
    changed: Trackers,
    /// What the file should say has changed.
    unsaved: bool,
    /// Names have got a number: the file is not to wait.
    urgent: bool,
}

/// Followers of the inputs.
struct Trackers {
    cluster: ChangeTracker<ClusterIdentity>,
    endpoints: ChangeTracker<Endpoint>,
    used: ChangeTracker<UsedPrefix>,
    named: ChangeTracker<UsedPrefix>,
    nodes: ChangeTracker<Node>,
    routers: ChangeTracker<CiliumNode>,
    /// Addresses that each node, or this one, was known by.
    said: BTreeMap<String, (BTreeSet<IpAddr>, Labels)>,
}

impl Keeper {
    /// A keeper that knows what the file of numbers says.
    #[must_use]
    pub fn new(tables: &Tables, identities: Identities, options: KeeperOptions) -> Self {
        let mut local = Allocator::new(Scope::Local, Order::Around);
        let mut remote = Allocator::new(Scope::RemoteNode, Order::Around);
        let directory = options.directory.as_deref();
        let numbers = directory.map(Numbers::read).unwrap_or_default();
        for row in numbers.local {
            let of = match Scope::of(row.id) {
                Some(Scope::RemoteNode) => &mut remote,
                _ => &mut local,
            };
            // A damaged file is worth less than numbers that are right.
            let _ = of.adopt(row.id, row.labels, Duration::ZERO);
        }
        let restored = numbers.cluster.into_iter().map(|row| (row.id, row.labels));
        let keeper = Self {
            metadata: Metadata::new(options.nodes_by_cidr),
            api_servers: BTreeSet::new(),
            local,
            remote,
            given: BTreeMap::new(),
            restored: restored.collect(),
            users: BTreeMap::new(),
            made: BTreeSet::new(),
            listed: false,
            changed: Trackers {
                cluster: tables.db.track(&tables.cilium_identities),
                endpoints: tables.db.track(&tables.endpoints),
                used: tables.db.track(&tables.used_prefixes),
                named: tables.db.track(&tables.named_prefixes),
                nodes: tables.db.track(&tables.nodes),
                routers: tables.db.track(&tables.cilium_nodes),
                said: BTreeMap::new(),
            },
            unsaved: false,
            urgent: false,
            started: Instant::now(),
            tables: tables.clone(),
            identities,
            options,
        };
        keeper.begin();
        keeper
    }

    /// Writes what is known without asking anybody.
    fn begin(&self) {
        let mut rows = reserved(&self.options);
        let fixed = self.identities.labeller().fixed();
        rows.extend(fixed.map(|(id, labels)| row(id, labels, IdentityKind::Fixed)));
        let restored = self.restored.iter();
        rows.extend(restored.map(|(id, labels)| row(*id, labels.clone(), IdentityKind::Cluster)));
        for (allocator, kind) in self.allocators() {
            rows.extend(
                allocator
                    .iter()
                    .map(|(id, labels)| row(id, labels.clone(), kind)),
            );
        }
        let mut txn = self.tables.db.write();
        for row in rows {
            // The table has no unique index that could refuse.
            let _ = self.tables.identities.insert(&mut txn, row);
        }
        txn.commit();
    }

    fn allocators(&self) -> [(&Allocator, IdentityKind); 2] {
        [
            (&self.local, IdentityKind::Local),
            (&self.remote, IdentityKind::RemoteNode),
        ]
    }

    /// Follows the inputs until `stop`.
    pub async fn run(mut self, health: Component, stop: Stop) {
        let tables = self.tables.clone();
        let watch = tables
            .cilium_identities
            .watch()
            .and(tables.endpoints.watch())
            .and(tables.used_prefixes.watch())
            .and(tables.named_prefixes.watch())
            .and(tables.nodes.watch())
            .and(tables.cilium_nodes.watch())
            .and(tables.local_node.watch())
            .and(tables.policies.manual_endpoints.watch());
        let mut written = Instant::now();
        loop {
            let snapshot = tables.db.snapshot();
            let seen = snapshot.revision();
            match self.step(&snapshot) {
                Ok(()) => health.ok(self.summary()),
                Err(error) => health.degraded(error.to_string()),
            }
            drop(snapshot);
            self.identities.tell();
            // An address with a name may be connected to at once: after a restart it must have the number that it has now.
            let urgent = std::mem::take(&mut self.urgent);
            if self.unsaved && (urgent || written.elapsed() >= WRITE_EVERY) {
                self.save().await;
                written = Instant::now();
            }
            let pause = if self.unsaved {
                WRITE_EVERY
            } else {
                self.options.grace.max(WRITE_EVERY)
            };
            let next = async {
                tokio::time::sleep(REST).await;
                tokio::select! {
                    () = watch.changed(seen) => {}
                    () = self.identities.0.made.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            };
            if stop.or(next).await.is_none() {
                // What was given a moment ago must be the same after a restart.
                if self.unsaved {
                    self.save().await;
                }
                return;
            }
        }
    }

    fn summary(&self) -> String {
        let now = self.tables.db.snapshot();
        format!(
            "{} identities, {} of address ranges",
            self.tables.identities.len(&now),
            self.local.len()
        )
    }

    /// Brings the tables in step with a snapshot, which must not be older than the last one.
    ///
    /// # Errors
    /// The rows do not fit, or there are no more numbers for ranges; what fits is written.
    pub fn step(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let cluster = self.follow_cluster(snapshot);
        let ranges = self.follow_ranges(snapshot);
        let tables = self.tables.clone();
        let mut txn = tables.db.write();
        let mut problem = None;
        let mut changed = false;
        let mut note = |outcome: Result<bool, UniqueViolation>| match outcome {
            Ok(written) => changed |= written,
            Err(error) => problem = Some(error.to_string()),
        };
        for id in cluster {
            note(self.write_cluster(snapshot, &mut txn, id));
        }
        note(self.write_reserved(snapshot, &mut txn));
        let mut exhausted = None;
        let numbers = self.local.len();
        for prefix in ranges {
            match self.number(prefix) {
                Ok(number) => note(self.write_range(&mut txn, prefix, number)),
                Err(error) => exhausted = Some(format!("{prefix}: {error}")),
            }
        }
        self.urgent |= self.local.len() > numbers && !tables.named_prefixes.is_empty(snapshot);
        for id in self.expire() {
            note(Ok(tables.identities.delete(&mut txn, &id).is_some()));
        }
        if self.listed && !tables.identities.initialized(&txn) {
            tables.identities.finish_initializer(&mut txn, KUBERNETES);
            note(Ok(true));
        }
        if changed {
            self.unsaved = true;
            txn.commit();
        }
        match problem.or(exhausted) {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    /// The numbers of the cluster of which something may have changed.
    fn follow_cluster(&mut self, snapshot: &Snapshot) -> BTreeSet<u32> {
        let tables = &self.tables;
        let mut touched = BTreeSet::new();
        let mut state = self.identities.state();
        for change in self.changed.cluster.changes(snapshot) {
            let id = change.row.id;
            touched.insert(id);
            state.made.remove(&id);
            if change.kind == ChangeKind::Upsert && self.listed {
                state.fresh.entry(id).or_insert_with(Instant::now);
            }
        }
        let grace = self.identities.0.grace;
        state.fresh.retain(|_, since| since.elapsed() < grace);
        let made: BTreeSet<u32> = state.made.keys().copied().collect();
        drop(state);
        touched.extend(self.made.symmetric_difference(&made));
        self.made = made;
        for change in self.changed.endpoints.changes(snapshot) {
            let endpoint = change.row;
            let before = match change.kind {
                ChangeKind::Upsert => self.users.insert(endpoint.id, endpoint.identity),
                ChangeKind::Delete => self.users.remove(&endpoint.id),
            };
            touched.extend(before);
            touched.insert(endpoint.identity);
        }
        if !self.listed && tables.cilium_identities.initialized(snapshot) {
            self.listed = true;
            touched.extend(std::mem::take(&mut self.restored).into_keys());
        }
        touched.retain(|id| Scope::of(*id) == Some(Scope::Cluster));
        touched
    }

    /// Writes the row of a number of the cluster: the labels that the API server knows, else those that this agent does.
    fn write_cluster(
        &self,
        snapshot: &Snapshot,
        txn: &mut WriteTxn<'_>,
        id: u32,
    ) -> Result<bool, UniqueViolation> {
        let tables = &self.tables;
        let known = tables.cilium_identities.get(snapshot, &id);
        let labels = known
            .map(|known| known.labels.clone())
            .or_else(|| {
                let state = self.identities.state();
                state.made.get(&id).map(|(labels, _)| labels.clone())
            })
            .or_else(|| self.restored.get(&id).cloned())
            .or_else(|| {
                let mut users = self.users.iter().filter(|(_, used)| **used == id);
                let endpoint = users.find_map(|(user, _)| tables.endpoints.get(snapshot, user))?;
                Some(endpoint.labels.clone())
            });
        match labels {
            Some(labels) => {
                let row = row(id, labels, IdentityKind::Cluster);
                tables.identities.insert_if_changed(txn, row)
            }
            None => Ok(tables.identities.delete(txn, &id).is_some()),
        }
    }

    /// The host has a label more where the API server runs on it.
    fn write_reserved(
        &self,
        snapshot: &Snapshot,
        txn: &mut WriteTxn<'_>,
    ) -> Result<bool, UniqueViolation> {
        let local = self.tables.local_node.iter(snapshot).next();
        let serves = local.is_some_and(|local| {
            let mut own = addresses_of(local).into_iter();
            own.any(|ip| self.api_servers.contains(&ip))
        });
        let mut names = vec!["reserved:host".to_owned()];
        if serves {
            names.push("reserved:kube-apiserver".to_owned());
        }
        let row = row(HOST, names.into_iter().collect(), IdentityKind::Reserved);
        self.tables.identities.insert_if_changed(txn, row)
    }

    /// The ranges and addresses of which something may have changed.
    fn follow_ranges(&mut self, snapshot: &Snapshot) -> BTreeSet<IpNet> {
        let mut touched = self.follow_nodes(snapshot);
        let metadata = &mut self.metadata;
        let used = self.changed.used.changes(snapshot);
        touched.extend(follow_used(metadata, "policy", used));
        let named = self.changed.named.changes(snapshot);
        touched.extend(follow_used(metadata, "names", named));
        let services = self.tables.policies.manual_endpoints.iter(snapshot);
        let slices = services.filter(|row| *row.service == *API_SERVER);
        let servers: BTreeSet<IpAddr> = slices
            .flat_map(|row| row.addresses.iter().copied())
            .collect();
        for ip in self.api_servers.symmetric_difference(&servers) {
            let prefix = IpNet::from(*ip);
            touched.insert(prefix);
            touched.extend(if servers.contains(ip) {
                let info = Info::Labels(Labels::reserved("kube-apiserver"));
                metadata.upsert(prefix, "api-server", Source::KubeApiserver, info)
            } else {
                metadata.remove(prefix, "api-server")
            });
        }
        self.api_servers = servers;
        touched
    }

    /// Nodes' addresses and labels.
    fn follow_nodes(&mut self, snapshot: &Snapshot) -> BTreeSet<IpNet> {
        let tables = self.tables.clone();
        let local = tables.local_node.iter(snapshot).next();
        let mut names: BTreeSet<String> = self
            .changed
            .nodes
            .changes(snapshot)
            .map(|change| change.row.name.clone())
            .collect();
        let routers = self.changed.routers.changes(snapshot);
        names.extend(routers.map(|change| change.row.name.clone()));
        names.extend(local.map(|local| local.node.name.clone()));
        let mut touched = BTreeSet::new();
        for name in names {
            let own = local.filter(|local| local.node.name == name);
            let now = match own {
                Some(local) => Some((addresses_of(local), Labels::reserved("host"))),
                None => tables
                    .nodes
                    .get(snapshot, &name)
                    .map(|node| self.says(snapshot, node)),
            };
            let before = self.changed.said.remove(&name);
            if before != now {
                let resource = format!("node/{name}");
                for ip in before.iter().flat_map(|(addresses, _)| addresses) {
                    touched.extend(self.metadata.remove(IpNet::from(*ip), &resource));
                }
                for (ip, labels) in now
                    .iter()
                    .flat_map(|(addresses, labels)| addresses.iter().map(move |ip| (ip, labels)))
                {
                    let source = if own.is_some() {
                        Source::Local
                    } else {
                        Source::CustomResource
                    };
                    let info = Info::Labels(labels.clone());
                    let prefix = IpNet::from(*ip);
                    touched.extend(self.metadata.upsert(prefix, &resource, source, info));
                }
            }
            if let Some(now) = now {
                self.changed.said.insert(name, now);
            }
        }
        touched
    }

    fn says(&self, snapshot: &Snapshot, node: &Node) -> (BTreeSet<IpAddr>, Labels) {
        let own = self.identities.labeller().of_node(&node.labels);
        // What comes by a tunnel has the router's address. All nodes are one there, unless they have numbers of their own.
        let distinct = self.options.nodes_by_cidr || !own.is_empty();
        let said = self.tables.cilium_nodes.get(snapshot, &node.name);
        let routers = said
            .filter(|_| distinct)
            .into_iter()
            .flat_map(|said| &said.routers);
        let addresses = node.addresses.iter().chain(&node.external).chain(routers);
        let labels = std::iter::once("reserved:remote-node".to_owned()).chain(own);
        (addresses.copied().collect(), labels.collect())
    }

    /// The number of a range; none where it has the one that its addresses have anyway.
    fn number(&mut self, prefix: IpNet) -> Result<Option<u32>, String> {
        let wanted = match self.metadata.resolve(prefix) {
            Some(Resolved::Labels { labels, scope, .. }) => Some((labels, scope)),
            Some(Resolved::Identity { id, .. }) => return Ok(Some(id)),
            None => None,
        };
        let before = self.given.get(&prefix).copied();
        let (number, own) = match wanted {
            Some((labels, Scope::Local)) => {
                (Some(acquire(&mut self.local, &labels, before)?), true)
            }
            Some((labels, Scope::RemoteNode)) => {
                (Some(acquire(&mut self.remote, &labels, before)?), true)
            }
            Some((labels, _)) => {
                let serves = labels.get("reserved:kube-apiserver").is_some();
                let other = labels.get("reserved:host").is_none();
                ((serves && other).then_some(KUBE_APISERVER), false)
            }
            None => (None, false),
        };
        let now = number.filter(|_| own);
        if before != now {
            let elapsed = self.started.elapsed();
            if let Some(before) = before {
                self.local.release(before, elapsed);
                self.remote.release(before, elapsed);
            }
            match now {
                Some(now) => drop(self.given.insert(prefix, now)),
                None => drop(self.given.remove(&prefix)),
            }
        }
        Ok(number)
    }

    fn write_range(
        &self,
        txn: &mut WriteTxn<'_>,
        prefix: IpNet,
        number: Option<u32>,
    ) -> Result<bool, UniqueViolation> {
        let tables = &self.tables;
        let Some(identity) = number else {
            return Ok(tables.prefix_identities.delete(txn, &prefix).is_some());
        };
        let mut changed = false;
        for (allocator, kind) in self.allocators() {
            if let Some(labels) = allocator.labels(identity) {
                let row = row(identity, labels.clone(), kind);
                changed |= tables.identities.insert_if_changed(txn, row)?;
            }
        }
        let row = PrefixIdentity { prefix, identity };
        Ok(changed | tables.prefix_identities.insert_if_changed(txn, row)?)
    }

    /// The numbers that nobody has used for long enough.
    fn expire(&mut self) -> Vec<u32> {
        let (now, grace) = (self.started.elapsed(), self.options.grace);
        let mut gone = self.local.expire(now, grace);
        gone.extend(self.remote.expire(now, grace));
        gone.into_iter().map(|(id, _)| id).collect()
    }

    /// Writes the file.
    async fn save(&mut self) {
        self.unsaved = false;
        let Some(directory) = self.options.directory.clone() else {
            return;
        };
        let snapshot = self.tables.db.snapshot();
        let of = |wanted: fn(IdentityKind) -> bool| -> Vec<ClusterIdentity> {
            let rows = self.tables.identities.iter(&snapshot);
            let rows = rows.filter(|row| wanted(row.kind));
            let saved = rows.map(|row: &Arc<Identity>| ClusterIdentity {
                id: row.id,
                labels: row.labels.clone(),
            });
            saved.collect()
        };
        let numbers = Numbers::new(
            of(|kind| kind == IdentityKind::Cluster),
            of(|kind| matches!(kind, IdentityKind::Local | IdentityKind::RemoteNode)),
        );
        let write = move || numbers.write(&directory);
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the file of identities cannot be written");
                self.unsaved = true;
            }
        }
    }
}

/// The number of labels for a range that has the number `before`, for one more user if it is another one.
fn acquire(allocator: &mut Allocator, labels: &Labels, before: Option<u32>) -> Result<u32, String> {
    if let Some(before) = before
        && allocator.labels(before) == Some(labels)
    {
        return Ok(before);
    }
    let acquired = allocator
        .acquire(labels)
        .map_err(|error| error.to_string())?;
    Ok(acquired.id)
}

fn row(id: u32, labels: Labels, kind: IdentityKind) -> Identity {
    Identity { id, labels, kind }
}

/// Numbers that are the same everywhere.
fn reserved(options: &KeeperOptions) -> Vec<Identity> {
    let named = [HOST, UNMANAGED, HEALTH, INIT, REMOTE_NODE, INGRESS];
    let mut rows: Vec<Identity> = named
        .into_iter()
        .filter_map(|id| {
            Some(row(
                id,
                Labels::reserved(reserved_name(id)?),
                IdentityKind::Reserved,
            ))
        })
        .collect();
    let both = ["reserved:kube-apiserver", "reserved:remote-node"];
    let both = both.map(str::to_owned).into_iter().collect();
    rows.push(row(KUBE_APISERVER, both, IdentityKind::Reserved));
    let worlds = world_labels(options.ipv4, options.ipv6).into_iter();
    rows.extend(worlds.map(|(id, labels)| row(id, labels, IdentityKind::Reserved)));
    rows
}

/// Every address by which this node is known.
fn addresses_of(local: &LocalNode) -> BTreeSet<IpAddr> {
    let routers = [local.router(false), local.router(true)];
    let all = local.addresses.iter().chain(&local.node.addresses).copied();
    all.chain(routers.into_iter().flatten())
        .filter(|ip| !ip.is_loopback())
        .collect()
}
