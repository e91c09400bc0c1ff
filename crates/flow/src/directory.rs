//! Who was behind an address when a packet was seen.
//!
//! Answers are kept, so that a packet costs two look-ups; whoever is met again is the same [`Party`], however many records of the
//! ring name it. When the tables change, an answer is worked out anew at its next use.
//!
//! Addresses are given to other pods in time. The tables are looked at whenever the event ring is read, so an event is at most that much
//! older than what they say now, and younger than what they said at the last look. Where both say the same, that is true
//! of the event; where they do not, the identity that the kernel saw, or the endpoint that reported, has to tell which of them it was.
//! Else the flow names no pod.
use crate::{
    frontends::Frontends,
    namespaces::{Namespaces, Sighting},
};
use abi::identity;
use api::hubble::flow::{Endpoint, Policy, Service, Workload};
use ipnet::IpNet;
use model::{RemoteEndpoint, Tables};
use prost::Message as _;
use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, OnceLock},
};
use tables::{Revision, Snapshot};

/// Answers that are kept before those that no record uses are forgotten.
const KEPT: usize = 16_384;
/// Devices whose names are kept.
const DEVICES: usize = 4096;

const NAMESPACE: &str = "k8s:io.kubernetes.pod.namespace";
const CLUSTER: &str = "k8s:io.cilium.k8s.policy.cluster";

/// Whoever is at one end of a flow.
#[derive(Clone, Debug, Default)]
pub struct Party {
    /// As messages show it.
    pub endpoint: Endpoint,
    /// Names that pods of this node were told for its address, where it is no pod.
    pub names: Box<[String]>,
    /// Where it is noted that its namespace was met.
    pub(crate) sighting: Option<Arc<Sighting>>,
    /// The endpoint's bytes, once somebody has asked for them.
    encoded: OnceLock<Box<[u8]>>,
}

impl Party {
    /// The endpoint as bytes of its message.
    pub(crate) fn encoded(&self) -> &[u8] {
        self.encoded
            .get_or_init(|| self.endpoint.encode_to_vec().into())
    }
}

/// What no table tells.
pub trait Facts: Send + Sync {
    /// Grows whenever [`Facts::policies`] may answer otherwise.
    fn policy_revision(&self) -> u64;
    /// The policies behind an origin of rows; none for those that no policy made.
    fn policies(&self, origin: u32) -> Vec<Policy>;
    /// The pod in whose network namespace (by its cookie) a socket is; none for the node's own.
    fn socket_owner(&self, netns: u64) -> Option<Arc<model::Endpoint>>;
    /// The names that pods of this node were told for an address.
    fn names(&self, _address: IpAddr) -> Vec<String> {
        Vec::new()
    }
}

/// Nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFacts;

impl Facts for NoFacts {
    fn policy_revision(&self) -> u64 {
        0
    }

    fn policies(&self, _: u32) -> Vec<Policy> {
        Vec::new()
    }

    fn socket_owner(&self, _: u64) -> Option<Arc<model::Endpoint>> {
        None
    }
}

/// A pod as a table has it.
#[derive(Clone, Debug, PartialEq)]
enum Owner {
    /// Of this node.
    Local(Arc<model::Endpoint>),
    /// As another agent published it.
    Published(Arc<RemoteEndpoint>),
}

impl Owner {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Local(one), Self::Local(other)) => {
                Arc::ptr_eq(one, other) || (one.id == other.id && one.pod == other.pod)
            }
            (Self::Published(one), Self::Published(other)) => {
                Arc::ptr_eq(one, other) || one.key == other.key
            }
            (Self::Local(local), Self::Published(published))
            | (Self::Published(published), Self::Local(local)) => {
                let (namespace, name) = model::service::names(&published.key);
                namespace == local.pod.namespace && name == local.pod.name
            }
        }
    }

    fn identity(&self) -> u32 {
        match self {
            Self::Local(endpoint) => endpoint.identity,
            Self::Published(endpoint) => endpoint.identity,
        }
    }

    fn id(&self) -> u16 {
        match self {
            Self::Local(endpoint) => endpoint.id,
            Self::Published(_) => 0,
        }
    }

    fn names(&self) -> (&str, &str) {
        match self {
            Self::Local(endpoint) => (&endpoint.pod.namespace, &endpoint.pod.name),
            Self::Published(endpoint) => model::service::names(&endpoint.key),
        }
    }
}

/// What an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Question {
    address: IpAddr,
    identity: u32,
    /// Which of the tables' answers is meant.
    whom: Whom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whom {
    /// The one there is now.
    Now,
    /// The one there was at the last look.
    Before,
    /// No pod.
    Nobody,
}

/// The pods that an address had at the last look and has now.
struct Move {
    old: Option<Owner>,
    new: Option<Owner>,
}

/// Policies of a revision.
struct Origin {
    revision: u64,
    policies: Option<Arc<[Policy]>>,
}

struct Answer {
    /// Number of the look at the tables that it is of.
    look: u64,
    party: Arc<Party>,
}

/// Who is behind an address, for events in the order in which they happened.
pub struct Directory {
    tables: Tables,
    cluster: String,
    facts: Arc<dyn Facts>,
    /// What the tables say.
    now: Snapshot,
    /// What they said at the last look, if that was something else.
    before: Option<Snapshot>,
    revision: Revision,
    look: u64,
    /// Events before this time happened when nobody looked.
    began: u64,
    answers: HashMap<Question, Answer>,
    /// Whoever is no pod, by identity.
    others: HashMap<u32, Arc<Party>>,
    /// Whether an address is somebody else's than at the last look: pods before and now.
    moved: HashMap<IpAddr, Option<Move>>,
    frontends: Frontends,
    devices: HashMap<u32, Option<Arc<str>>>,
    policies: HashMap<u32, Origin>,
    namespaces: Namespaces,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("answers", &self.answers.len())
            .finish_non_exhaustive()
    }
}

impl Directory {
    /// A directory that knows what `tables` say from now on; `began` is now, by the events' clock.
    #[must_use]
    pub fn new(
        tables: Tables,
        cluster: &str,
        facts: Arc<dyn Facts>,
        namespaces: Namespaces,
        began: u64,
    ) -> Self {
        let now = tables.db.snapshot();
        let mut frontends = Frontends::new(&tables);
        frontends.follow(&tables, &now);
        Self {
            revision: revision(&tables, &now),
            tables,
            cluster: cluster.to_owned(),
            facts,
            now,
            before: None,
            look: 0,
            began,
            answers: HashMap::new(),
            others: HashMap::new(),
            moved: HashMap::new(),
            frontends,
            devices: HashMap::new(),
            policies: HashMap::new(),
            namespaces,
        }
    }

    /// Looks at the tables: to be called whenever the event ring is about to be read, also when nothing is in it.
    pub fn look(&mut self) {
        let now = self.tables.db.snapshot();
        let revision = revision(&self.tables, &now);
        self.moved.clear();
        if revision == self.revision {
            self.before = None;
            self.now = now;
            return;
        }
        self.revision = revision;
        self.look += 1;
        self.before = Some(std::mem::replace(&mut self.now, now));
        self.frontends.follow(&self.tables, &self.now);
    }

    /// Whoever is behind an address with the identity that the kernel saw, at the time of an event that the endpoint `reporter`
    /// told of.
    pub fn party(
        &mut self,
        address: IpAddr,
        identity: u32,
        reporter: u16,
        time: u64,
    ) -> Arc<Party> {
        let whom = self.whom(address, identity, reporter, time);
        let party = self.answer(Question {
            address,
            identity,
            whom,
        });
        if let Some(sighting) = &party.sighting {
            sighting.note(time);
        }
        party
    }

    fn whom(&mut self, address: IpAddr, identity: u32, reporter: u16, time: u64) -> Whom {
        if time < self.began {
            return Whom::Nobody;
        }
        let Some(before) = &self.before else {
            return Whom::Now;
        };
        let (tables, now) = (&self.tables, &self.now);
        let moved = self.moved.entry(address).or_insert_with(|| {
            let old = owner(tables, before, address, identity);
            let new = owner(tables, now, address, identity);
            match (&old, &new) {
                (Some(old), Some(new)) if old.is(new) => None,
                (None, _) => None,
                _ => Some(Move { old, new }),
            }
        });
        match moved {
            None => Whom::Now,
            Some(Move { old, new }) => which(old.as_ref(), new.as_ref(), identity, reporter),
        }
    }

    fn answer(&mut self, question: Question) -> Arc<Party> {
        let look = self.look;
        let known = self.answers.get(&question);
        if let Some(known) = known.filter(|known| known.look == look) {
            return known.party.clone();
        }
        let fresh = self.work_out(&question);
        let known = known.map(|known| &known.party);
        // Whoever is no pod is the same at any address: a scan of all addresses takes no memory of its own.
        let known = known.or_else(|| self.others.get(&fresh.endpoint.identity));
        let is_same =
            |known: &&Arc<Party>| known.endpoint == fresh.endpoint && known.names == fresh.names;
        let same = known.filter(is_same);
        let party = same.cloned().unwrap_or_else(|| Arc::new(fresh));
        if party.endpoint.pod_name.is_empty() {
            self.others.insert(party.endpoint.identity, party.clone());
        }
        if self.answers.len() >= KEPT {
            self.forget();
        }
        let answer = Answer {
            look,
            party: party.clone(),
        };
        self.answers.insert(question, answer);
        party
    }

    /// Makes room: pods that the ring names stay, since the same pod again is to be the same memory.
    fn forget(&mut self) {
        self.answers.retain(|_, answer| {
            !answer.party.endpoint.pod_name.is_empty() && Arc::strong_count(&answer.party) > 1
        });
        if self.answers.len() >= KEPT {
            self.answers.clear();
        }
        if self.others.len() >= KEPT {
            self.others.clear();
        }
    }

    fn work_out(&self, question: &Question) -> Party {
        let snapshot = match (&self.before, question.whom) {
            (Some(before), Whom::Before) => before,
            _ => &self.now,
        };
        let owner = match question.whom {
            Whom::Nobody => None,
            _ => owner(&self.tables, snapshot, question.address, question.identity),
        };
        let identity = self.identity(snapshot, question);
        let labels = self.labels(snapshot, identity, owner.as_ref());
        let of_label = |key: &str| {
            let prefix = labels.iter().filter_map(|label| label.strip_prefix(key));
            prefix
                .filter_map(|rest| rest.strip_prefix('='))
                .next()
                .map(str::to_owned)
        };
        let cluster = of_label(CLUSTER);
        let endpoint = match &owner {
            Some(owner) => {
                let (namespace, name) = owner.names();
                Endpoint {
                    id: owner.id().into(),
                    identity,
                    cluster_name: cluster.unwrap_or_else(|| self.cluster.clone()),
                    namespace: namespace.to_owned(),
                    pod_name: name.to_owned(),
                    workloads: self.workloads(snapshot, namespace, name),
                    labels,
                }
            }
            None => Endpoint {
                identity,
                cluster_name: cluster.unwrap_or_default(),
                namespace: of_label(NAMESPACE).unwrap_or_default(),
                labels,
                ..Endpoint::default()
            },
        };
        let sighting = (!endpoint.namespace.is_empty()).then(|| {
            self.namespaces
                .get(&endpoint.cluster_name, &endpoint.namespace)
        });
        let names = match &owner {
            Some(_) => Vec::new(),
            None => self.facts.names(question.address),
        };
        Party {
            endpoint,
            names: names.into(),
            sighting,
            encoded: OnceLock::new(),
        }
    }

    /// What the kernel says, unless that is only that the address is somewhere outside.
    fn identity(&self, snapshot: &Snapshot, question: &Question) -> u32 {
        use identity::{REMOTE_NODE, UNKNOWN, WORLD, WORLD_IPV4, WORLD_IPV6};
        let said = question.identity;
        if !matches!(
            said,
            UNKNOWN | WORLD | WORLD_IPV4 | WORLD_IPV6 | REMOTE_NODE
        ) || question.address.is_unspecified()
        {
            return said;
        }
        let host = IpNet::from(question.address);
        let found = (0..=host.prefix_len()).rev().find_map(|length| {
            let net = IpNet::new(question.address, length).ok()?.trunc();
            self.tables.prefixes.get(snapshot, &net)
        });
        match found.map(|row| row.identity) {
            Some(known) if known != UNKNOWN => known,
            _ => said,
        }
    }

    fn labels(&self, snapshot: &Snapshot, identity: u32, owner: Option<&Owner>) -> Vec<String> {
        let row = self.tables.identities.get(snapshot, &identity);
        let labels = match (row, owner) {
            (Some(row), _) => &row.labels,
            (None, Some(Owner::Local(endpoint))) if endpoint.identity == identity => {
                &endpoint.labels
            }
            _ => {
                let name = identity::reserved_name(identity);
                return name
                    .map(|name| format!("reserved:{name}"))
                    .into_iter()
                    .collect();
            }
        };
        let mut texts = labels.to_strings();
        if identity::is_range(identity) {
            keep_longest_range(&mut texts);
        }
        texts
    }

    fn workloads(&self, snapshot: &Snapshot, namespace: &str, name: &str) -> Vec<Workload> {
        let key = format!("{namespace}/{name}");
        let pod = self.tables.pods.get(snapshot, key.as_str());
        let owner = pod.and_then(|pod| pod.owner.split_once('/'));
        let workload = owner.map(|(kind, name)| Workload {
            name: name.to_owned(),
            kind: kind.to_owned(),
        });
        workload.into_iter().collect()
    }

    /// Whoever opened a socket, and their address of the family: a pod, or the node.
    pub fn caller(&mut self, netns: u64, is_v6: bool, time: u64) -> (Option<IpAddr>, Arc<Party>) {
        let pod = self.facts.socket_owner(netns);
        let (address, identity) = match &pod {
            Some(pod) => (
                pod.addresses().find(|ip| ip.is_ipv6() == is_v6),
                pod.identity,
            ),
            None => (self.node_address(is_v6), identity::HOST),
        };
        let asked = address.unwrap_or(IpAddr::from([0; 4]));
        let reporter = pod.map_or(0, |pod| pod.id);
        (address, self.party(asked, identity, reporter, time))
    }

    /// Address of the node.
    fn node_address(&self, is_v6: bool) -> Option<IpAddr> {
        let mut rows = self.tables.local_node.iter(&self.now);
        rows.next().and_then(|node| node.primary(is_v6))
    }

    /// The service that serves at an address and port.
    #[must_use]
    pub fn service(&self, address: IpAddr, port: u16) -> Option<Arc<Service>> {
        self.frontends.get(address, port)
    }

    /// Name of a device by its number.
    pub fn device(&mut self, index: u32) -> Option<Arc<str>> {
        if index == 0 {
            return None;
        }
        if let Some(known) = self.devices.get(&index) {
            return known.clone();
        }
        let name = nix::net::if_::if_indextoname(index).ok();
        let name: Option<Arc<str>> = name.and_then(|name| name.to_str().ok().map(Arc::from));
        if self.devices.len() >= DEVICES {
            self.devices.clear();
        }
        // Numbers are not given again for a long time, so that what is gone needs no second look.
        self.devices.insert(index, name.clone());
        name
    }

    /// The policies behind the rows of an origin.
    pub fn policies(&mut self, origin: u32) -> Option<Arc<[Policy]>> {
        if origin == 0 {
            return None;
        }
        let revision = self.facts.policy_revision();
        let known = self.policies.get(&origin);
        if let Some(known) = known.filter(|known| known.revision == revision) {
            return known.policies.clone();
        }
        let fresh = self.facts.policies(origin);
        let same = known
            .and_then(|known| known.policies.as_ref())
            .filter(|known| ***known == *fresh)
            .cloned();
        let policies = same.or_else(|| (!fresh.is_empty()).then(|| fresh.into()));
        if self.policies.len() >= KEPT {
            self.policies.clear();
        }
        self.policies.insert(
            origin,
            Origin {
                revision,
                policies: policies.clone(),
            },
        );
        policies
    }
}

/// The revision of what answers are made from.
fn revision(tables: &Tables, snapshot: &Snapshot) -> Revision {
    // All tables count by one counter.
    [
        tables.endpoints.revision(snapshot),
        tables.cilium_endpoints.revision(snapshot),
        tables.identities.revision(snapshot),
        tables.local_node.revision(snapshot),
        tables.pods.revision(snapshot),
        tables.prefixes.revision(snapshot),
        tables.services.services.revision(snapshot),
    ]
    .into_iter()
    .fold(Revision::ZERO, Revision::max)
}

/// The pod that has an address. Of several that claim it, the one with the identity that the kernel saw.
fn owner(tables: &Tables, snapshot: &Snapshot, address: IpAddr, identity: u32) -> Option<Owner> {
    if let Some(local) = tables.endpoints_by_address.first(snapshot, &address) {
        return Some(Owner::Local(local.clone()));
    }
    let mut rows = tables.cilium_endpoints_by_address.get(snapshot, &address);
    let first = rows.next()?;
    let Some(second) = rows.next() else {
        return Some(Owner::Published(first.clone()));
    };
    let mut fitting = [first, second]
        .into_iter()
        .chain(rows)
        .filter(|row| row.identity == identity);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Some(Owner::Published(one.clone())),
        _ => None,
    }
}

/// Which of two pods an event is about, of an address that the first had and the second may have.
fn which(old: Option<&Owner>, new: Option<&Owner>, identity: u32, reporter: u16) -> Whom {
    let (Some(old), Some(new)) = (old, new) else {
        return if old.is_some() {
            Whom::Before
        } else {
            Whom::Now
        };
    };
    let by_number = |owner: &Owner| reporter != 0 && owner.id() == reporter;
    match (by_number(old), by_number(new)) {
        (true, false) => return Whom::Before,
        (false, true) => return Whom::Now,
        _ => {}
    }
    match (old.identity() == identity, new.identity() == identity) {
        (true, false) => Whom::Before,
        (false, true) => Whom::Now,
        _ => Whom::Nobody,
    }
}

/// Of the ranges that an address is in, labels keep the narrowest.
fn keep_longest_range(labels: &mut Vec<String>) {
    let bits = |label: &str| -> Option<u8> {
        let range = label.strip_prefix("cidr:")?;
        range.rsplit_once('/')?.1.parse().ok()
    };
    let longest = labels.iter().filter_map(|label| bits(label)).max();
    labels.retain(|label| bits(label).is_none() || bits(label) == longest);
}
