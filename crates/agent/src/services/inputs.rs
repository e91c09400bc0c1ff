//! What the tables say, as changes for the planner.
use ipnet::IpNet;
use lb::{
    Change,
    frontend::Owner,
    input::{Node, Pod},
    node_addresses::{DeviceAddresses, node_port_addresses},
    parse,
};
use model::{Declared, Endpoint, LocalNode, Service, Tables, Text, service::Slice};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tables::{ChangeKind, ChangeTracker, Snapshot};

/// What cannot be read of each object, and is left out.
#[derive(Debug, Default)]
pub struct Refused {
    services: BTreeMap<Text, Vec<String>>,
    /// Of slices, with the service that they are of.
    slices: BTreeMap<Text, (Text, Vec<String>)>,
    redirects: BTreeMap<Text, String>,
}

impl Refused {
    /// Every complaint, with the object that it is about.
    pub fn all(&self) -> impl Iterator<Item = (Owner, String)> {
        let services = self.services.iter().flat_map(|(key, all)| {
            all.iter()
                .map(|text| (Owner::Service(key.clone()), text.clone()))
        });
        let slices = self.slices.iter().flat_map(|(key, (service, all))| {
            let told = move |text: &String| {
                (
                    Owner::Service(service.clone()),
                    format!("EndpointSlice {key}: {text}"),
                )
            };
            all.iter().map(told)
        });
        let redirects = self.redirects.iter();
        let redirects = redirects.map(|(key, text)| (Owner::Redirect(key.clone()), text.clone()));
        services.chain(slices).chain(redirects)
    }
}

/// How services came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Services that came.
    pub added: u64,
    /// Services that changed, or whose backends did.
    pub updated: u64,
    /// Services that went.
    pub deleted: u64,
}

/// What was heard since the last time.
#[derive(Debug, Default)]
pub struct Heard {
    /// For the planner.
    pub changes: Vec<Change>,
    /// How services came and went.
    pub events: Events,
    /// Something that has to do with namespaces of pods changed.
    pub endpoints: bool,
}

/// Follows the tables.
pub struct Inputs {
    services: ChangeTracker<Service>,
    slices: ChangeTracker<Slice>,
    pods: ChangeTracker<model::Pod>,
    redirects: ChangeTracker<Declared>,
    local: ChangeTracker<LocalNode>,
    endpoints: ChangeTracker<Endpoint>,
    /// Ranges of addresses for node ports.
    ranges: Vec<IpNet>,
    known: BTreeSet<Text>,
    /// Services with a port for health checks.
    pub checked: BTreeSet<Text>,
    /// Paths of the namespaces of pods, each with the endpoint that told it.
    pub namespaces: BTreeMap<Text, (u16, String)>,
    /// What cannot be read.
    pub refused: Refused,
}

impl Inputs {
    /// Follows `tables`; everything that is there is new.
    #[must_use]
    pub fn new(tables: &Tables, ranges: Vec<IpNet>) -> Self {
        Self {
            services: tables.db.track(&tables.services.services),
            slices: tables.db.track(&tables.services.slices),
            pods: tables.db.track(&tables.pods),
            redirects: tables.db.track(&tables.services.redirects),
            local: tables.db.track(&tables.local_node),
            endpoints: tables.db.track(&tables.endpoints),
            ranges,
            known: BTreeSet::new(),
            checked: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            refused: Refused::default(),
        }
    }

    /// What is new in `snapshot`.
    pub fn hear(&mut self, snapshot: &Snapshot) -> Heard {
        let mut heard = Heard::default();
        for change in self.local.changes(snapshot) {
            if change.kind == ChangeKind::Upsert {
                let node = node(change.row, &self.ranges);
                heard.changes.push(Change::Node(node));
            }
        }
        self.hear_services(snapshot, &mut heard);
        for change in self.pods.changes(snapshot) {
            let there = change.kind == ChangeKind::Upsert;
            let pod = there.then(|| Arc::new(Pod::from(&**change.row)));
            heard.changes.push(Change::Pod(change.row.key.clone(), pod));
        }
        self.hear_redirects(snapshot, &mut heard);
        self.hear_endpoints(snapshot, &mut heard);
        heard
    }

    fn hear_services(&mut self, snapshot: &Snapshot, heard: &mut Heard) {
        for change in self.services.changes(snapshot) {
            let (key, row) = (&change.row.key, change.row);
            let there = change.kind == ChangeKind::Upsert;
            note(
                &mut self.refused.services,
                key,
                there && !row.problems.is_empty(),
                || row.problems.clone(),
            );
            if there && row.health_check_port != 0 {
                self.checked.insert(key.clone());
            } else {
                self.checked.remove(key);
            }
            let events = &mut heard.events;
            if !there {
                events.deleted += u64::from(self.known.remove(key));
            } else if self.known.insert(key.clone()) {
                events.added += 1;
            } else {
                events.updated += 1;
            }
            let service = there.then(|| row.clone());
            heard.changes.push(Change::Service(key.clone(), service));
        }
        for change in self.slices.changes(snapshot) {
            let (key, row) = (&change.row.key, change.row);
            let there = change.kind == ChangeKind::Upsert;
            note(
                &mut self.refused.slices,
                key,
                there && !row.problems.is_empty(),
                || (row.service.clone(), row.problems.clone()),
            );
            heard.events.updated += 1;
            let slice = there.then(|| row.clone());
            heard.changes.push(Change::Slice(key.clone(), slice));
        }
    }

    fn hear_redirects(&mut self, snapshot: &Snapshot, heard: &mut Heard) {
        for change in self.redirects.changes(snapshot) {
            let (key, there) = (&change.row.key, change.kind == ChangeKind::Upsert);
            let read = there.then(|| parse::redirect_of(change.row));
            let wrong = read.as_ref().and_then(|read| read.as_ref().err());
            note(&mut self.refused.redirects, key, wrong.is_some(), || {
                wrong.map(ToString::to_string).unwrap_or_default()
            });
            // One that cannot be read redirects nothing: what it did before may be what is to end.
            let redirect = read.and_then(Result::ok).map(Arc::new);
            heard.changes.push(Change::Redirect(key.clone(), redirect));
        }
    }

    fn hear_endpoints(&mut self, snapshot: &Snapshot, heard: &mut Heard) {
        for change in self.endpoints.changes(snapshot) {
            let row = change.row;
            let pod = Text::from(row.pod.to_string());
            if change.kind == ChangeKind::Upsert {
                let known = (row.id, row.netns.clone());
                heard.endpoints |= self.namespaces.insert(pod, known.clone()) != Some(known);
            } else if self
                .namespaces
                .get(&pod)
                .is_some_and(|(id, _)| *id == row.id)
            {
                // A pod of the same name may have its endpoint already.
                self.namespaces.remove(&pod);
                heard.endpoints = true;
            }
        }
    }
}

fn note<V>(all: &mut BTreeMap<Text, V>, key: &Text, wrong: bool, what: impl FnOnce() -> V) {
    if wrong {
        all.insert(key.clone(), what());
    } else {
        all.remove(key);
    }
}

/// The node, with the addresses at which node ports are served.
fn node(local: &LocalNode, ranges: &[IpNet]) -> Node {
    let devices = local.devices.iter().map(|device| DeviceAddresses {
        addresses: device.addresses.iter().map(IpNet::addr).collect(),
    });
    let addresses = node_port_addresses(&devices.collect::<Vec<_>>(), ranges);
    Node::new(&local.node, addresses)
}

/// What is still missing before all inputs are known; none if nothing is.
#[must_use]
pub fn missing(tables: &Tables, snapshot: &Snapshot) -> Option<&'static str> {
    let services = &tables.services;
    [
        (services.services.initialized(snapshot), "services"),
        (services.slices.initialized(snapshot), "EndpointSlices"),
        (
            services.redirects.initialized(snapshot),
            "local redirect policies",
        ),
        (tables.pods.initialized(snapshot), "pods"),
        (tables.endpoints.initialized(snapshot), "endpoints"),
        (!tables.local_node.is_empty(snapshot), "the node"),
    ]
    .into_iter()
    .find_map(|(known, name)| (!known).then_some(name))
}
