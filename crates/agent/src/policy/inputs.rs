//! What the tables say, as changes for the engine.
use super::subjects::{HOST, HOST_ENDPOINT, named_ports, of_row};
use model::{
    Endpoint, Identity, LocalNode, ManualEndpoints, PolicyObject, RemoteEndpoint, Tables, Text,
};
use policy::{
    parse::{self, Refused},
    resolve::{Change, Subject},
    rule::{NamedPort, NamedPorts, PolicyKind, PolicyName, Service},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tables::{ChangeKind, ChangeTracker, Snapshot, Table};

/// What is known by its name and may have to wait for identities before it counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A policy.
    Policy(PolicyName),
    /// A group of address ranges.
    Group(String),
    /// A service, by namespace and name.
    Service(String, String),
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Policy(name) => name.fmt(f),
            Self::Group(name) => write!(f, "CiliumCIDRGroup {name}"),
            Self::Service(namespace, name) => write!(f, "Service {namespace}/{name}"),
        }
    }
}

/// What became of a policy object, or of a group.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// How the engine knows what is in force of it; none if nothing is.
    pub name: Option<Name>,
    /// What is in force of it: the object as it stands, or, where that is refused, its last version that was not.
    pub version: Option<Arc<PolicyObject>>,
    /// Why the object as it stands is refused.
    pub refused: Option<Refused>,
}

impl Taken {
    /// The version that is in force although the object says something else by now.
    #[must_use]
    pub fn former(&self) -> Option<&Arc<PolicyObject>> {
        self.version.as_ref().filter(|_| self.refused.is_some())
    }
}

/// What was heard since the last time.
#[derive(Debug, Default)]
pub struct Heard {
    /// Changes of identities.
    pub identities: Vec<Change>,
    /// Policies, groups and services: what is new or changed, or none for what is gone.
    pub named: Vec<(Name, Option<Change>)>,
    /// Endpoints and the subjects that they have; none for those that are gone.
    pub endpoints: Vec<(u16, Option<u32>)>,
    /// Policy objects taken, refused.
    pub objects: [u64; 2],
    /// Policies that came, changed or went.
    pub revisions: u64,
    /// The host as a subject.
    pub host: Option<Subject>,
}

/// A version of an object that is in force although the object says something else by now, which is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// The table that the object stands in.
    pub table: String,
    /// The version.
    pub object: PolicyObject,
}

/// Which table an object stands in: policies in the order of [`model::PolicyTables::policies`], then groups.
pub type Place = (usize, Text);

/// Follows the tables.
pub struct Inputs {
    policies: Vec<ChangeTracker<PolicyObject>>,
    services: ChangeTracker<model::Service>,
    manual: ChangeTracker<ManualEndpoints>,
    identities: ChangeTracker<Identity>,
    endpoints: ChangeTracker<Endpoint>,
    remote: ChangeTracker<RemoteEndpoint>,
    local: ChangeTracker<LocalNode>,
    ports: Ports,
    /// What became of each object.
    pub taken: BTreeMap<Place, Taken>,
    /// Versions that were in force before a restart although their objects said something else.
    remembered: BTreeMap<Place, Arc<PolicyObject>>,
    /// Which former versions are in force is not as it was told last.
    former_changed: bool,
    options: parse::Options,
    with_host: bool,
}

impl Inputs {
    /// Follows `tables`; everything that is there is new.
    #[must_use]
    pub fn new(tables: &Tables, options: parse::Options, with_host: bool) -> Self {
        Self {
            policies: sources(tables)
                .into_iter()
                .map(|table| tables.db.track(table))
                .collect(),
            services: tables.db.track(&tables.policies.services),
            manual: tables.db.track(&tables.policies.manual_endpoints),
            identities: tables.db.track(&tables.identities),
            endpoints: tables.db.track(&tables.endpoints),
            remote: tables.db.track(&tables.cilium_endpoints),
            local: tables.db.track(&tables.local_node),
            ports: Ports::default(),
            taken: BTreeMap::new(),
            remembered: BTreeMap::new(),
            former_changed: false,
            options,
            with_host,
        }
    }

    /// Takes over what [`Self::take_former`] told before a restart: who was refused then with a former version in force, and
    /// still is, keeps that.
    pub fn remember(&mut self, tables: &Tables, former: Vec<Former>) {
        let sources = sources(tables);
        for Former { table, object } in former {
            let index = sources.iter().position(|source| source.name() == table);
            if let Some(index) = index {
                let place = (index, object.key.clone());
                self.remembered.insert(place, Arc::new(object));
            }
            self.former_changed = true;
        }
    }

    /// The former versions that are in force, if they are others than at the last call.
    pub fn take_former(&mut self, tables: &Tables) -> Option<Vec<Former>> {
        if !std::mem::take(&mut self.former_changed) {
            return None;
        }
        let sources = sources(tables);
        let former = self.taken.iter().filter_map(|((index, _), taken)| {
            Some(Former {
                table: sources.get(*index)?.name().to_owned(),
                object: PolicyObject::clone(taken.former()?),
            })
        });
        Some(former.collect())
    }

    /// The named ports of those who have an identity.
    #[must_use]
    pub fn ports_of(&self, identity: u32) -> NamedPorts {
        self.ports.of(identity)
    }

    /// What is new in `snapshot`.
    pub fn hear(&mut self, tables: &Tables, snapshot: &Snapshot) -> Heard {
        let mut heard = Heard::default();
        self.hear_objects(snapshot, &mut heard);
        self.hear_services(tables, snapshot, &mut heard);
        self.hear_identities(tables, snapshot, &mut heard);
        for change in self.local.changes(snapshot) {
            if self.with_host && change.kind == ChangeKind::Upsert {
                heard.host = Some(host_subject(change.row));
            }
        }
        heard
    }

    fn hear_objects(&mut self, snapshot: &Snapshot, heard: &mut Heard) {
        let mut changed = Vec::new();
        for (index, tracker) in self.policies.iter_mut().enumerate() {
            for change in tracker.changes(snapshot) {
                let row = (change.kind == ChangeKind::Upsert).then(|| change.row.clone());
                changed.push(((index, change.row.key.clone()), row));
            }
        }
        for (place, row) in changed {
            heard.revisions += 1;
            let before = self.taken.remove(&place).unwrap_or_default();
            self.former_changed |= before.former().is_some();
            let Some(row) = row else {
                self.remembered.remove(&place);
                heard.named.extend(before.name.map(|name| (name, None)));
                continue;
            };
            let taken = match read(&row, self.options) {
                Ok((name, change)) => {
                    heard.objects[0] += 1;
                    self.remembered.remove(&place);
                    let other = before.name.filter(|before| *before != name);
                    heard.named.extend(other.map(|before| (before, None)));
                    heard.named.push((name.clone(), Some(change)));
                    Taken {
                        name: Some(name),
                        version: Some(row),
                        refused: None,
                    }
                }
                Err(refused) => {
                    heard.objects[1] += 1;
                    let kept = self.keep(&place, &row, before, heard);
                    let in_force = match kept.version {
                        Some(_) => "its last version that was not stays in force",
                        None => "nothing of it is in force",
                    };
                    tracing::warn!(kind = %row.kind, object = %row.key, "policy refused, {in_force}: {refused}");
                    Taken {
                        refused: Some(refused),
                        ..kept
                    }
                }
            };
            self.former_changed |= taken.former().is_some();
            self.taken.insert(place, taken);
        }
    }

    /// What stays in force of an object that is refused as it stands: what was `before`, in this life of the agent or the last.
    fn keep(
        &mut self,
        place: &Place,
        row: &PolicyObject,
        before: Taken,
        heard: &mut Heard,
    ) -> Taken {
        let remembered = self.remembered.remove(place);
        if let Some(version) = &before.version {
            if is_same(version, row) {
                return before;
            }
            // Another object has taken the name: what that one said is over.
            heard.named.extend(before.name.map(|name| (name, None)));
            return Taken::default();
        }
        let Some(version) = remembered.filter(|version| is_same(version, row)) else {
            return Taken::default();
        };
        match read(&version, self.options) {
            Ok((name, change)) => {
                heard.named.push((name.clone(), Some(change)));
                Taken {
                    name: Some(name),
                    version: Some(version),
                    refused: None,
                }
            }
            // Under other settings.
            Err(_) => Taken::default(),
        }
    }

    fn hear_services(&mut self, tables: &Tables, snapshot: &Snapshot, heard: &mut Heard) {
        let mut changed: BTreeSet<Text> = BTreeSet::new();
        changed.extend(
            self.services
                .changes(snapshot)
                .map(|change| change.row.key.clone()),
        );
        for change in self.manual.changes(snapshot) {
            changed.insert(change.row.service.clone());
        }
        for key in changed {
            let Some((namespace, name)) = key.split_once('/') else {
                continue;
            };
            let row = tables.policies.services.get(snapshot, &*key);
            let change = row.map(|row| {
                let map = |labels: &model::LabelMap| {
                    labels
                        .iter()
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .collect()
                };
                let slices = tables.policies.manual_endpoints.iter(snapshot);
                let own = slices.filter(|slice| slice.service == key);
                let addresses: BTreeSet<_> =
                    own.flat_map(|slice| slice.addresses.to_vec()).collect();
                Change::Service(Service {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    labels: map(&row.labels),
                    selector: map(&row.selector),
                    addresses: addresses.into_iter().collect(),
                })
            });
            let name = Name::Service(namespace.to_owned(), name.to_owned());
            heard.named.push((name, change));
        }
    }

    fn hear_identities(&mut self, tables: &Tables, snapshot: &Snapshot, heard: &mut Heard) {
        let mut changed = BTreeSet::new();
        let mut gone = BTreeSet::new();
        for change in self.identities.changes(snapshot) {
            match change.kind {
                ChangeKind::Upsert => changed.insert(change.row.id),
                ChangeKind::Delete => gone.insert(change.row.id),
            };
        }
        for change in self.remote.changes(snapshot) {
            let row = change.row;
            let there = change.kind == ChangeKind::Upsert;
            let ports = there.then(|| (row.identity, named_ports(&row.ports)));
            changed.extend(self.ports.set(Owner::Pod(row.key.clone()), ports));
        }
        for change in self.endpoints.changes(snapshot) {
            let row = change.row;
            let there = change.kind == ChangeKind::Upsert;
            let ports = there.then(|| (row.identity, named_ports(&row.ports)));
            changed.extend(self.ports.set(Owner::Endpoint(row.id), ports));
            heard
                .endpoints
                .push((row.id, of_row(row).filter(|_| there)));
        }
        for id in gone {
            if tables.identities.get(snapshot, &id).is_none() {
                heard.identities.push(Change::IdentityGone(id));
            }
        }
        for id in changed {
            if let Some(row) = tables.identities.get(snapshot, &id) {
                let ports = self.ports.of(id);
                heard
                    .identities
                    .push(Change::Identity(id, row.labels.clone(), ports));
            }
        }
    }
}

/// What is still missing before all inputs are known; none if nothing is.
#[must_use]
pub fn missing(tables: &Tables, snapshot: &Snapshot) -> Option<&'static str> {
    let open = |done: bool, name| (!done).then_some(name);
    let policies = sources(tables)
        .into_iter()
        .find(|table| !table.initialized(snapshot))
        .map(Table::name);
    policies
        .or_else(|| {
            let services = &tables.policies.services;
            open(services.initialized(snapshot), services.name())
        })
        .or_else(|| {
            let manual = &tables.policies.manual_endpoints;
            open(manual.initialized(snapshot), manual.name())
        })
        .or_else(|| open(tables.identities.initialized(snapshot), "identities"))
        .or_else(|| {
            open(
                tables.cilium_endpoints.initialized(snapshot),
                "cilium-endpoints",
            )
        })
        .or_else(|| open(tables.endpoints.initialized(snapshot), "endpoints"))
        .or_else(|| open(!tables.local_node.is_empty(snapshot), "local-node"))
}

/// The tables with objects that are read: policies, then groups.
#[must_use]
pub fn sources(tables: &Tables) -> Vec<&Table<PolicyObject>> {
    let policies = &tables.policies;
    policies.policies().chain([&policies.groups]).collect()
}

/// Reads an object.
///
/// # Errors
/// It cannot be taken as it is.
pub fn read(row: &PolicyObject, options: parse::Options) -> Result<(Name, Change), Refused> {
    let object: Value = serde_json::from_str(&row.json).unwrap_or_default();
    if &*row.kind == "CiliumCIDRGroup" {
        let group = parse::cidr_group(&object)?;
        return Ok((Name::Group(group.name.clone()), Change::Group(group)));
    }
    let mut policy = parse::policy_of_kind(kind(&row.kind), &object, options)?;
    if let Some((file, _)) = row.key.rsplit_once('#') {
        // An object of the API server has no such name: the two do not take each other's place.
        policy.name.name = format!("{} (file {file})", policy.name.name);
    }
    Ok((Name::Policy(policy.name.clone()), Change::Policy(policy)))
}

/// True for two versions of one object, and not for one object and another that has its name now.
fn is_same(one: &PolicyObject, other: &PolicyObject) -> bool {
    let about = |row: &PolicyObject| {
        let object: Value = serde_json::from_str(&row.json).unwrap_or_default();
        ["namespace", "name", "uid"].map(|field| object["metadata"][field].clone())
    };
    one.kind == other.kind && about(one) == about(other)
}

/// The kind of a row that a watch or a file made.
#[must_use]
pub fn kind(text: &str) -> PolicyKind {
    match text {
        "AdminNetworkPolicy" => PolicyKind::AdminNetworkPolicy,
        "BaselineAdminNetworkPolicy" => PolicyKind::BaselineAdminNetworkPolicy,
        "CiliumClusterwideNetworkPolicy" => PolicyKind::CiliumClusterwideNetworkPolicy,
        "NetworkPolicy" => PolicyKind::NetworkPolicy,
        _ => PolicyKind::CiliumNetworkPolicy,
    }
}

/// The node as policies select it.
fn host_subject(local: &Arc<LocalNode>) -> Subject {
    let labels = local.node.labels.iter();
    let labels = labels.map(|(key, value)| format!("k8s:{key}={value}"));
    Subject {
        labels: labels.chain(["reserved:host".to_owned()]).collect(),
        ports: NamedPorts::new(),
    }
}

/// The host's endpoint and subject.
pub const HOST_USE: (u16, u32) = (HOST_ENDPOINT, HOST);

/// Who says that an identity has ports with names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Pod(Text),
    Endpoint(u16),
}

/// The named ports of identities: those of all who have one. Who names none takes no room.
#[derive(Debug, Default)]
struct Ports {
    owners: BTreeMap<Owner, (u32, NamedPorts)>,
    of: BTreeMap<u32, BTreeMap<NamedPort, u32>>,
}

impl Ports {
    fn of(&self, identity: u32) -> NamedPorts {
        let ports = self.of.get(&identity);
        ports
            .map(|ports| ports.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// The owner has these ports now; the identities that it concerns.
    fn set(&mut self, owner: Owner, ports: Option<(u32, NamedPorts)>) -> BTreeSet<u32> {
        let ports = ports.filter(|(_, ports)| !ports.is_empty());
        if self.owners.get(&owner) == ports.as_ref() {
            return BTreeSet::new();
        }
        let mut concerned = BTreeSet::new();
        let before = match ports.clone() {
            Some(ports) => self.owners.insert(owner, ports),
            None => self.owners.remove(&owner),
        };
        if let Some((identity, ports)) = before {
            concerned.insert(identity);
            let all = self.of.entry(identity).or_default();
            for port in ports {
                if let Some(count) = all.get_mut(&port) {
                    *count -= 1;
                    if *count == 0 {
                        all.remove(&port);
                    }
                }
            }
            if all.is_empty() {
                self.of.remove(&identity);
            }
        }
        if let Some((identity, ports)) = ports {
            concerned.insert(identity);
            let all = self.of.entry(identity).or_default();
            for port in ports {
                *all.entry(port).or_default() += 1;
            }
        }
        concerned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_an_identity_are_those_of_all_who_have_it() {
        let mut ports = Ports::default();
        let web = |number| {
            let port = model::NamedPort {
                name: "web".into(),
                protocol: 6,
                port: number,
            };
            Some((300, named_ports(&[port])))
        };
        assert_eq!(ports.set(Owner::Endpoint(2), web(80)).len(), 1);
        assert!(ports.set(Owner::Endpoint(2), web(80)).is_empty());
        ports.set(Owner::Pod("shop/a".into()), web(81));
        assert_eq!(ports.of(300).len(), 2);
        ports.set(Owner::Endpoint(2), None);
        assert_eq!(ports.of(300).len(), 1);
        ports.set(Owner::Pod("shop/a".into()), None);
        assert!(ports.of.is_empty() && ports.owners.is_empty());
    }
}
