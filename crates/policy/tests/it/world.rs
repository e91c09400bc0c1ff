//! A small cluster: who is in it, what is known of it, and the engine that is told.
use hypha_policy::identity::{Info, Metadata, Resolved, Source, world_labels, world_of};
use hypha_policy::kernel::{Map, Question, Verdict};
use hypha_policy::reference::{Decision, End, Model, Packet, RuleSource, Via};
use hypha_policy::resolve::{Change, Diff, Engine, Origin, Subject};
use hypha_policy::rule::{
    CidrGroup, Direction, DnsRule, L7Kind, NamedPort, NamedPorts, Policy, PolicyName, Protocol,
    Service,
};
use hypha_policy::{Settings, parse};
use ipnet::IpNet;
use model::Labels;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How many random cases a test has: `ordinary`, or what `POLICY_CASES` asks for.
pub fn cases(ordinary: u32) -> u32 {
    std::env::var("POLICY_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ordinary)
}

pub const FIRST_LOCAL: u32 = 0x0100_0001;
/// An address outside the cluster where the API server is.
pub const API_SERVER: &str = "203.0.113.1";

pub fn labels(texts: &[&str]) -> Labels {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Someone with an identity of the cluster.
#[derive(Clone, Debug)]
pub struct Member {
    pub id: u32,
    pub labels: Labels,
    pub ports: NamedPorts,
    /// Policy is enforced for it here.
    pub is_subject: bool,
}

fn pod(id: u32, namespace: &str, app: &str, tier: Option<&str>, cluster: &str) -> Member {
    let team = if namespace == "a" { "red" } else { "blue" };
    let mut texts = vec![
        format!("k8s:app={app}"),
        format!("k8s:io.kubernetes.pod.namespace={namespace}"),
        format!("k8s:io.cilium.k8s.namespace.labels.team={team}"),
        format!("k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name={namespace}"),
        format!("k8s:io.cilium.k8s.policy.cluster={cluster}"),
    ];
    texts.extend(tier.map(|tier| format!("k8s:tier={tier}")));
    let port = |name: &str, protocol, port| NamedPort {
        name: name.to_owned(),
        protocol,
        port,
    };
    let ports = match id % 3 {
        0 => vec![
            port("http", Protocol::Tcp, 80),
            port("dns", Protocol::Udp, 53),
        ],
        1 => vec![
            port("http", Protocol::Tcp, 8080),
            port("http", Protocol::Udp, 8081),
        ],
        _ => vec![],
    };
    Member {
        id,
        labels: texts.into_iter().collect(),
        ports: ports.into_iter().collect(),
        is_subject: cluster == "default",
    }
}

pub fn members() -> Vec<Member> {
    let mut all = Vec::new();
    let mut id = 1000;
    for namespace in ["a", "b"] {
        for app in ["web", "db"] {
            for tier in [None, Some("x")] {
                all.push(pod(id, namespace, app, tier, "default"));
                id += 1;
            }
        }
    }
    all.push(pod(70_000, "a", "web", None, "other"));
    let reserved: [(u32, &[&str], bool); 9] = [
        (1, &["reserved:host", "k8s:zone=z1", "node:zone=z1"], true),
        (3, &["reserved:unmanaged"], false),
        (4, &["reserved:health"], true),
        (5, &["reserved:init"], true),
        (6, &["reserved:remote-node"], false),
        (
            7,
            &["reserved:kube-apiserver", "reserved:remote-node"],
            false,
        ),
        (8, &["reserved:ingress"], true),
        (
            0x0200_0000,
            &["reserved:remote-node", "node:zone=z1"],
            false,
        ),
        (
            0x0200_0001,
            &["reserved:remote-node", "node:zone=z2"],
            false,
        ),
    ];
    for (id, texts, is_subject) in reserved {
        all.push(Member {
            id,
            labels: labels(texts),
            ports: NamedPorts::new(),
            is_subject,
        });
    }
    all
}

pub const ADDRESSES: [&str; 12] = [
    "10.0.0.1",
    "10.1.0.1",
    "10.1.2.3",
    "10.1.2.4",
    "10.200.0.1",
    "192.168.1.1",
    "8.8.8.8",
    API_SERVER,
    "fd00::1",
    "fd00:1::5",
    "fd00:1::6",
    "2001:db8::1",
];

/// What pods were told of names.
pub const NAMES: [(&str, &[&str]); 4] = [
    ("a.example.org", &["10.1.2.3", "8.8.8.8"]),
    ("b.example.org", &["10.1.2.4", "8.8.8.8", "fd00:1::5"]),
    ("x.y", &["2001:db8::1", API_SERVER]),
    ("a.b.example.org", &["192.168.1.1"]),
];

/// The names of an address.
fn names_of(address: IpAddr) -> impl Iterator<Item = &'static str> {
    let text = address.to_string();
    let has = move |list: &[&str]| list.contains(&text.as_str());
    let names = NAMES.into_iter().filter(move |(_, list)| has(list));
    names.map(|(name, _)| name)
}

/// The labels of the rules by name that policies of the tests have, for a name; spelled out, so that matching is tested, too.
fn labels_by_hand(name: &str) -> Vec<String> {
    let rules: &[&str] = match name {
        "a.example.org" => &["a.example.org", "*.example.org", "*", "a.*.org"],
        "b.example.org" => &["*.example.org", "*", "b*.example.org"],
        "x.y" => &["*", "x.y"],
        _ => &["*"],
    };
    rules.iter().map(|rule| format!("fqdn:{rule}")).collect()
}

/// What the cluster holds now.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub settings: Settings,
    pub policies: BTreeMap<PolicyName, Policy>,
    pub groups: BTreeMap<String, CidrGroup>,
    pub services: BTreeMap<(String, String), Service>,
    pub identities: BTreeMap<u32, (Labels, NamedPorts)>,
    pub subjects: BTreeMap<u32, Subject>,
}

impl Known {
    pub fn take(&mut self, change: &Change) {
        match change.clone() {
            Change::Policy(policy) => drop(self.policies.insert(policy.name.clone(), policy)),
            Change::PolicyGone(name) => drop(self.policies.remove(&name)),
            Change::Identity(id, labels, ports) => {
                self.identities.insert(id, (labels, ports));
            }
            Change::IdentityGone(id) => drop(self.identities.remove(&id)),
            Change::Subject(id, subject) => drop(self.subjects.insert(id, subject)),
            Change::SubjectGone(id) => drop(self.subjects.remove(&id)),
            Change::Group(group) => drop(self.groups.insert(group.name.clone(), group)),
            Change::GroupGone(name) => drop(self.groups.remove(&name)),
            Change::Service(service) => {
                let key = (service.namespace.clone(), service.name.clone());
                self.services.insert(key, service);
            }
            Change::ServiceGone(namespace, name) => {
                drop(self.services.remove(&(namespace, name)));
            }
            Change::Settings(settings) => self.settings = settings,
        }
    }

    fn all(&self) -> Vec<Change> {
        let policies = self.policies.values().cloned().map(Change::Policy);
        let groups = self.groups.values().cloned().map(Change::Group);
        let services = self.services.values().cloned().map(Change::Service);
        let identities = self
            .identities
            .iter()
            .map(|(id, (labels, ports))| Change::Identity(*id, labels.clone(), ports.clone()));
        let subjects = self
            .subjects
            .iter()
            .map(|(id, subject)| Change::Subject(*id, subject.clone()));
        policies
            .chain(subjects)
            .chain(groups)
            .chain(identities)
            .chain(services)
            .collect()
    }

    /// An engine that was told everything at once.
    pub fn fresh(&self) -> Engine {
        let mut engine = Engine::new(self.settings.clone());
        engine.apply(self.all());
        engine
    }
}

/// An engine, the kernel's map that its diffs wrote, and all that is around them.
pub struct World {
    pub known: Known,
    pub engine: Engine,
    pub map: Map,
    pub metadata: Metadata,
    pub prefixes: BTreeMap<IpNet, u32>,
    pub both_families: bool,
    next: u32,
    /// Subjects of which the last changes said that the proxy has to know something else.
    pub told: BTreeSet<u32>,
}

impl World {
    /// A cluster with its members, but for policies.
    pub fn new(settings: Settings, both_families: bool) -> Self {
        let mut world = Self::empty(settings, both_families);
        let mut changes = Vec::new();
        for member in members() {
            changes.push(Change::Identity(
                member.id,
                member.labels.clone(),
                member.ports.clone(),
            ));
            if member.is_subject {
                changes.push(Change::Subject(
                    member.id,
                    Subject {
                        labels: member.labels,
                        ports: member.ports,
                    },
                ));
            }
        }
        world.apply(changes);
        world
    }

    /// Nobody but the world.
    pub fn empty(settings: Settings, both_families: bool) -> Self {
        let known = Known {
            settings: settings.clone(),
            ..Known::default()
        };
        let mut world = Self {
            known,
            engine: Engine::new(settings),
            map: Map::default(),
            metadata: Metadata::new(false),
            prefixes: BTreeMap::new(),
            both_families,
            next: FIRST_LOCAL,
            told: BTreeSet::new(),
        };
        let of_world = world_labels(true, both_families);
        let changes = of_world
            .into_iter()
            .map(|(id, labels)| Change::Identity(id, labels, NamedPorts::new()));
        world.apply(changes.collect());
        let api: IpNet = format!("{API_SERVER}/32").parse().unwrap();
        let label = Info::Labels(labels(&["reserved:kube-apiserver"]));
        world
            .metadata
            .upsert(api, "api-server", Source::KubeApiserver, label);
        let (id, labels) = world.number(api);
        world.apply(vec![Change::Identity(id, labels, NamedPorts::new())]);
        world
    }

    fn number(&mut self, prefix: IpNet) -> (u32, Labels) {
        let id = *self.prefixes.entry(prefix).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        match self.metadata.resolve(prefix) {
            Some(Resolved::Labels { labels, .. }) => (id, labels),
            other => panic!("{prefix}: {other:?}"),
        }
    }

    /// Applies changes, and gives prefixes that rules name their identities.
    pub fn apply(&mut self, changes: Vec<Change>) -> Diff {
        self.told.clear();
        self.step(changes)
    }

    fn step(&mut self, changes: Vec<Change>) -> Diff {
        for change in &changes {
            self.known.take(change);
        }
        let diff = self.engine.apply(changes);
        diff.write(&mut self.map);
        self.told.extend(&diff.proxy_rules);
        let mut touched: BTreeSet<IpNet> = BTreeSet::new();
        for prefix in &diff.prefixes_added {
            let none = Info::Labels(Labels::default());
            let around = self
                .metadata
                .upsert(*prefix, "rules", Source::Generated, none);
            touched.extend(around);
        }
        for prefix in &diff.prefixes_removed {
            touched.extend(self.metadata.remove(*prefix, "rules"));
        }
        touched.extend(self.name_addresses());
        let mut more = Vec::new();
        for prefix in touched {
            if self.metadata.resolve(prefix).is_some() {
                let (id, labels) = self.number(prefix);
                more.push(Change::Identity(id, labels, NamedPorts::new()));
            } else if let Some(id) = self.prefixes.remove(&prefix) {
                more.push(Change::IdentityGone(id));
            }
        }
        more.retain(|change| match change {
            Change::Identity(id, labels, _) => {
                let known = self.known.identities.get(id);
                known.is_none_or(|(known, _)| known != labels)
            }
            _ => true,
        });
        if !more.is_empty() {
            self.step(more);
        }
        diff
    }

    /// Gives addresses the labels of the names that rules have for them; what that touches.
    fn name_addresses(&mut self) -> BTreeSet<IpNet> {
        let rules = self.engine.names();
        let mut touched = BTreeSet::new();
        for address in ADDRESSES.map(|text| text.parse::<IpAddr>().unwrap()) {
            let prefix = IpNet::from(address);
            let met = rules
                .iter()
                .filter(|rule| names_of(address).any(|name| rule.is_met_by(name)));
            let labels: Labels = met.map(DnsRule::label).collect();
            let metadata = &mut self.metadata;
            touched.extend(if labels == Labels::default() {
                metadata.remove(prefix, "names")
            } else {
                let info = Info::Labels(labels);
                metadata.upsert(prefix, "names", Source::Generated, info)
            });
        }
        touched
    }

    pub fn identity_of(&self, address: IpAddr) -> u32 {
        self.prefixes
            .iter()
            .filter(|(prefix, _)| prefix.contains(&address))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map_or(world_of(address, self.both_families), |(_, id)| *id)
    }

    /// Asks the map and the reference model, and compares what they say.
    pub fn compare(&self, ask: &Ask) -> Result<Decision, String> {
        let Some(subject) = self.known.subjects.get(&ask.subject) else {
            return Ok(Decision::NotEnforced);
        };
        let no_ports = NamedPorts::new();
        let (remote_id, remote_labels, remote_ports, address) = match ask.remote {
            Remote::Member(id) => match self.known.identities.get(&id) {
                Some((labels, ports)) => (id, labels.clone(), ports, None),
                None => return Ok(Decision::NotEnforced),
            },
            // In a cluster of one family nobody has an address of the other.
            Remote::Address(address) if address.is_ipv6() && !self.both_families => {
                return Ok(Decision::NotEnforced);
            }
            Remote::Address(address) => {
                let mut texts = vec!["reserved:world"];
                texts.extend(
                    (address.to_string() == API_SERVER).then_some("reserved:kube-apiserver"),
                );
                let mut own: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
                own.extend(names_of(address).flat_map(labels_by_hand));
                (
                    self.identity_of(address),
                    own.into_iter().collect(),
                    &no_ports,
                    Some(address),
                )
            }
        };
        let policies: Vec<Policy> = self.known.policies.values().cloned().collect();
        let groups: Vec<CidrGroup> = self.known.groups.values().cloned().collect();
        let services: Vec<Service> = self.known.services.values().cloned().collect();
        let model = Model {
            settings: &self.known.settings,
            policies: &policies,
            groups: &groups,
            services: &services,
        };
        let end = |labels, ports, address| End {
            labels,
            ports,
            address,
        };
        let decision = model.decide(
            ask.direction,
            &end(&subject.labels, &subject.ports, None),
            &end(&remote_labels, remote_ports, address),
            ask.packet,
        );
        let question = Question {
            subject: ask.subject,
            direction: ask.direction,
            remote: remote_id,
            protocol: ask.packet.protocol,
            port: Some(ask.packet.port),
        };
        let outcome = self.map.ask(&question);
        let verdict = match &decision {
            Decision::Denied(_) => Verdict::Deny,
            Decision::NotAllowed => Verdict::Unmatched,
            _ => Verdict::Allow,
        };
        let origin = self.engine.origin(outcome.origin);
        let agree = match (&decision, &origin) {
            (Decision::Localhost, Origin::Localhost)
            | (Decision::NotAllowed, Origin::Nothing)
            | (Decision::NotEnforced, Origin::DefaultAllow) => true,
            (
                Decision::Allowed(rules)
                | Decision::Denied(rules)
                | Decision::AllowedVia(Via { sources: rules, .. }),
                Origin::Rules(refs),
            ) => refs.iter().all(|place| {
                self.engine
                    .source(*place)
                    .is_some_and(|rule| rules.contains(&rule))
            }),
            _ => false,
        };
        let via = match &decision {
            Decision::AllowedVia(via) => Some(via),
            _ => None,
        };
        let said = via.map(|via| (via.all, allowed(via)));
        let known = via.map(|via| self.proxy_allows(&question, via.kind));
        if outcome.verdict == verdict
            && outcome.l7 == via.map(|via| via.kind)
            && said == known
            && agree
            && self.engine.ask(&question) == Some(outcome)
        {
            return Ok(decision);
        }
        Err(format!(
            "{ask:?} (identity {remote_id}): the model says {decision:?}, the map {outcome:?} by {:?}, the proxy {known:?}",
            rules(&self.engine, outcome.origin)
        ))
    }

    /// What the proxy lets a peer ask for: whether everything, and the rules of a kind.
    fn proxy_allows(&self, question: &Question, kind: L7Kind) -> (bool, BTreeSet<String>) {
        let port = question.port.unwrap_or_default();
        let all = self.engine.proxy_rules(question.subject);
        let covering = || {
            all.iter().filter(|rules| {
                rules.covers(question.direction, question.protocol, port, question.remote)
            })
        };
        let of_kind = covering().filter_map(|one| {
            let rules = one.rules.as_ref().filter(|rules| rules.kind() == kind)?;
            Some(format!("{} {rules:?}", one.origin))
        });
        (covering().any(|one| one.rules.is_none()), of_kind.collect())
    }
}

/// The rules of which one must be met, as the proxy names them.
fn allowed(via: &Via) -> BTreeSet<String> {
    let rules = via.rules.iter();
    rules
        .map(|(policy, l7)| format!("{policy}: {} {:?}", l7.path, l7.rules))
        .collect()
}

/// What the proxy has to know, whatever the order in which policies came.
pub fn proxy_rules(engine: &Engine) -> BTreeSet<String> {
    let subjects = engine.subjects().map(|(number, _)| number);
    let all = subjects.flat_map(|subject| {
        let rules = engine.proxy_rules(subject);
        let rules = rules.iter().map(|one| format!("{subject} {one:?}"));
        rules.collect::<Vec<_>>()
    });
    all.collect()
}

/// The rules behind an origin, for comparison and people.
pub fn rules(engine: &Engine, origin: u32) -> Vec<RuleSource> {
    match engine.origin(origin) {
        Origin::Rules(refs) => refs
            .iter()
            .filter_map(|place| engine.source(*place))
            .collect(),
        _ => Vec::new(),
    }
}

/// Rows with their rules instead of numbers, which depend on who came first.
pub fn plain(engine: &Engine) -> BTreeSet<String> {
    engine
        .rows()
        .map(|(key, value)| {
            let mut rules = rules(engine, value.origin);
            rules.sort();
            let (verdict, l7, precedence) = (value.verdict, value.l7, value.precedence);
            format!("{key:?} {verdict:?} {l7:?} {precedence:x} {rules:?}")
        })
        .collect()
}

#[derive(Clone, Copy, Debug)]
pub enum Remote {
    Member(u32),
    Address(IpAddr),
}

#[derive(Clone, Debug)]
pub struct Ask {
    pub subject: u32,
    pub direction: Direction,
    pub remote: Remote,
    pub packet: Packet,
}

/// Reads a policy that must be right.
pub fn policy(object: &Value) -> Policy {
    let options = parse::Options {
        node_selector_labels: true,
        always_default_deny: false,
        l7: true,
    };
    match parse::policy(object, options) {
        Ok(policy) => policy,
        Err(error) => panic!("{error}\n{object:#}"),
    }
}
