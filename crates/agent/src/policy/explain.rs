//! Why a packet passes or not, and what policies would change that are not in force.
use super::{Policy, core::Core, report::problems};
use abi::identity::{HOST, reserved_name};
use api::{
    ApiError, CheckedPolicy, PolicyCheck, PolicyDiff, PolicyEffect, PolicyProposal, RulePlace,
    VerdictChange, Why, WhyEnd, WhyQuery, WhySide,
};
use model::Labels;
use policy::{
    explain::{self, Miss, PairChange, pair_change},
    identity::Scope,
    kernel::{Question, Verdict, protocol_name},
    labels::{Facts, NAMESPACE, cidr_label},
    parse,
    reference::{Decision, End, Model, Packet, RuleSource},
    resolve::{Change, Enforcement, Engine, Subject},
    rule::{
        CidrGroup, Direction, ICMP, ICMPV6, NamedPorts, PolicyName, Protocol, Service,
        SubjectSelector,
    },
    selector::Selector,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tables::Snapshot;

/// Most pairs of identities that are compared.
const MOST_PAIRS: usize = 4_000_000;
/// First of the numbers for ranges that have none yet.
const UNBORN: u32 = 0x01f0_0000;
/// No reserved identity is greater.
const RESERVED_MAX: u32 = 15;
/// What a question asks about where it does not say.
const USUAL: &str = "80/TCP";

/// One end of a question.
struct Found {
    end: WhyEnd,
    labels: Labels,
    ports: NamedPorts,
    subject: Option<u32>,
}

/// All that decides about verdicts, at one moment.
struct Known {
    policies: Vec<policy::rule::Policy>,
    groups: Vec<CidrGroup>,
    services: Vec<Service>,
    settings: policy::Settings,
}

impl Known {
    fn of(core: &Core) -> Self {
        Self {
            policies: core.engine.policies().cloned().collect(),
            groups: core.engine.groups().cloned().collect(),
            services: core.engine.services().cloned().collect(),
            settings: core.engine.settings().clone(),
        }
    }

    fn changes(&self) -> impl Iterator<Item = Change> {
        let policies = self.policies.iter().cloned().map(Change::Policy);
        let groups = self.groups.iter().cloned().map(Change::Group);
        let services = self.services.iter().cloned().map(Change::Service);
        policies.chain(groups).chain(services)
    }
}

impl Policy {
    /// Why a packet passes or not.
    ///
    /// # Errors
    /// An end or the traffic is not understood.
    pub fn why(&self, query: &WhyQuery) -> Result<Why, ApiError> {
        let snapshot = self.0.tables.db.snapshot();
        let (packet, traffic) = packet(&query.traffic)?;
        let source = self.find(&snapshot, &query.source)?;
        let destination = self.find(&snapshot, &query.destination)?;
        let known = Known::of(&self.core());
        let model = Model {
            settings: &known.settings,
            policies: &known.policies,
            groups: &known.groups,
            services: &known.services,
        };
        let answer = explain::why(&model, &source.as_end(), &destination.as_end(), packet);
        let core = self.core();
        let passes = answer.passes();
        let side = |side: explain::Side, subject: &Found, remote: &Found| {
            let kernel = kernel_says(&core.engine, side.direction, subject, remote, packet);
            shown(side, kernel)
        };
        Ok(Why {
            passes,
            traffic,
            egress: answer.egress.map(|one| side(one, &source, &destination)),
            ingress: answer.ingress.map(|one| side(one, &destination, &source)),
            source: source.end,
            destination: destination.end,
        })
    }

    fn find(&self, snapshot: &Snapshot, text: &str) -> Result<Found, ApiError> {
        let tables = &self.0.tables;
        let unknown = || {
            ApiError::not_found(format!("{text:?} as an end of traffic")).detail(
                "namespace/name of a pod, number of an endpoint of this node, identity:N, an address, a reserved name such as world or host, or labels joined by commas",
            )
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(self.at_address(snapshot, address));
        }
        let endpoint = match text.parse::<u16>() {
            Ok(1) => return self.of_identity(snapshot, HOST, "host").ok_or_else(unknown),
            Ok(number) => tables.endpoints.get(snapshot, &number),
            Err(_) => tables.endpoints_by_pod.first(snapshot, text),
        };
        if let Some(endpoint) = endpoint {
            return Ok(self.of_endpoint(endpoint));
        }
        if let Some(number) = text.strip_prefix("identity:") {
            let id: u32 = number.parse().map_err(|_| unknown())?;
            return self.of_identity(snapshot, id, text).ok_or_else(unknown);
        }
        let plain = text.strip_prefix("reserved:").unwrap_or(text);
        let reserved = (1..=RESERVED_MAX).find(|id| reserved_name(*id) == Some(plain));
        if let Some(id) = reserved {
            return self.of_identity(snapshot, id, text).ok_or_else(unknown);
        }
        if let Some(row) = tables.cilium_endpoints.get(snapshot, text) {
            return self
                .of_identity(snapshot, row.identity, text)
                .ok_or_else(unknown);
        }
        if text.contains('=') || text.contains(':') {
            return Ok(self.of_labels(snapshot, text));
        }
        Err(unknown())
    }

    fn of_endpoint(&self, endpoint: &model::Endpoint) -> Found {
        Found {
            end: WhyEnd {
                name: endpoint.pod.to_string(),
                identity: endpoint.identity,
                labels: endpoint.labels.to_strings(),
                address: None,
                endpoint: Some(endpoint.id),
            },
            labels: endpoint.labels.clone(),
            ports: super::subjects::named_ports(&endpoint.ports),
            subject: (endpoint.subject != 0).then_some(endpoint.subject),
        }
    }

    fn of_identity(&self, snapshot: &Snapshot, id: u32, name: &str) -> Option<Found> {
        let row = self.0.tables.identities.get(snapshot, &id)?;
        let core = self.core();
        let host = id == HOST && core.options.host_firewall;
        // As a subject the host has the labels of its node.
        let own = core
            .engine
            .subjects()
            .find(|(number, _)| host && *number == HOST);
        let labels = own.map_or_else(|| row.labels.clone(), |(_, own)| own.labels.clone());
        Some(Found {
            end: WhyEnd {
                name: name.to_owned(),
                identity: id,
                labels: labels.to_strings(),
                ..WhyEnd::default()
            },
            labels,
            ports: core.inputs.ports_of(id),
            subject: host.then_some(HOST),
        })
    }

    fn at_address(&self, snapshot: &Snapshot, address: IpAddr) -> Found {
        let tables = &self.0.tables;
        if let Some(endpoint) = tables.endpoints_by_address.first(snapshot, &address) {
            return self.of_endpoint(endpoint);
        }
        let net = ipnet::IpNet::from(address);
        let mut prefix = Some(net);
        let mut row = None;
        while let (Some(net), None) = (prefix, row) {
            row = tables.prefixes.get(snapshot, &net.trunc());
            prefix = net.supernet();
        }
        let both = tables
            .identities
            .get(snapshot, &abi::identity::WORLD_IPV4)
            .is_some();
        let id = row.map_or_else(
            || policy::identity::world_of(address, both),
            |row| row.identity,
        );
        let outside = is_outside(id);
        let mut found = self
            .of_identity(snapshot, id, &address.to_string())
            .unwrap_or_else(|| self.of_labels(snapshot, "reserved:world"));
        found.end.name = address.to_string();
        found.end.address = outside.then_some(address);
        found
    }

    fn of_labels(&self, snapshot: &Snapshot, text: &str) -> Found {
        let with_source = |label: &str| match policy::labels::split_source(label) {
            (Some(_), _) => label.to_owned(),
            (None, label) => format!("k8s:{label}"),
        };
        let labels: Labels = text
            .split(',')
            .map(|label| with_source(label.trim()))
            .collect();
        let known = self.0.tables.identities_by_labels.first(snapshot, &labels);
        let id = known.map_or(0, |row| row.id);
        Found {
            end: WhyEnd {
                name: text.to_owned(),
                identity: id,
                labels: labels.to_strings(),
                ..WhyEnd::default()
            },
            ports: self.core().inputs.ports_of(id),
            labels,
            subject: None,
        }
    }
}

impl Found {
    fn as_end(&self) -> End<'_> {
        End {
            labels: &self.labels,
            ports: &self.ports,
            address: self.end.address,
        }
    }
}

/// True for what is outside the cluster, which rules on addresses mean.
fn is_outside(id: u32) -> bool {
    use abi::identity::{WORLD, WORLD_IPV4, WORLD_IPV6};
    [WORLD, WORLD_IPV4, WORLD_IPV6].contains(&id) || Scope::of(id) == Some(Scope::Local)
}

fn kernel_says(
    engine: &Engine,
    direction: Direction,
    subject: &Found,
    remote: &Found,
    packet: Packet,
) -> String {
    let outcome = subject.subject.and_then(|subject| {
        engine.ask(&Question {
            subject,
            direction,
            remote: remote.end.identity,
            protocol: packet.protocol,
            port: Some(packet.port),
        })
    });
    match outcome.map(|outcome| outcome.verdict) {
        None => String::new(),
        Some(Verdict::Allow) => "allow".to_owned(),
        Some(Verdict::Deny | Verdict::Unmatched) => "deny".to_owned(),
    }
}

fn place(source: &RuleSource) -> RulePlace {
    RulePlace {
        policy: source.policy.to_string(),
        path: source.path.clone(),
        miss: String::new(),
    }
}

fn shown(side: explain::Side, kernel: String) -> WhySide {
    let (decision, rules) = match &side.decision {
        Decision::Localhost => ("localhost", &[][..]),
        Decision::Allowed(rules) => ("allowed", &rules[..]),
        Decision::Denied(rules) => ("denied", &rules[..]),
        Decision::NotAllowed => ("not-allowed", &[][..]),
        Decision::NotEnforced => ("not-enforced", &[][..]),
    };
    let near = side.near.iter().map(|near| RulePlace {
        miss: match near.miss {
            Miss::Traffic => "allows this peer, but not this traffic",
            Miss::Peer => "allows this traffic, but not this peer",
        }
        .to_owned(),
        ..place(&near.source)
    });
    WhySide {
        passes: side.decision.passes(),
        decision: decision.to_owned(),
        rules: rules.iter().map(place).collect(),
        near: near.collect(),
        needed: side.needed.unwrap_or_default(),
        kernel,
    }
}

/// Reads `80/TCP`, `TCP`, `8/ICMP` and the like.
fn packet(text: &str) -> Result<(Packet, String), ApiError> {
    let text = if text.is_empty() { USUAL } else { text };
    let wrong = || {
        ApiError::bad_request(format!("traffic {text:?} is not understood")).detail(
            "PORT/TCP, PORT/UDP, PORT/SCTP, TYPE/ICMP, TYPE/ICMPv6, or a protocol by name or number",
        )
    };
    let (number, protocol) = match text.split_once('/') {
        Some((number, protocol)) => (number.parse().map_err(|_| wrong())?, protocol),
        None => (0, text),
    };
    let protocol = match protocol.to_ascii_uppercase().as_str() {
        "ICMP" | "ICMPV4" => ICMP,
        "ICMPV6" => ICMPV6,
        other => match Protocol::ALL.into_iter().find(|one| one.text() == other) {
            Some(known) => known.number(),
            None => other.parse().map_err(|_| wrong())?,
        },
    };
    let name = protocol_name(protocol);
    let words = if text.contains('/') {
        format!("{number}/{name}")
    } else {
        name
    };
    let packet = Packet {
        protocol,
        port: number,
    };
    Ok((packet, words))
}

/// A proposal, read.
struct Proposed {
    objects: Vec<CheckedPolicy>,
    changes: Vec<Change>,
    /// Names of the policies that come, change or go.
    names: BTreeSet<PolicyName>,
}

/// Two engines, before and after a proposal, with the identities that it concerns as their subjects.
struct Compared {
    before: Engine,
    after: Engine,
    concerned: BTreeSet<u32>,
    labels: BTreeMap<u32, Labels>,
}

impl Policy {
    /// Whether policies are right, whom they select, and how much they change.
    ///
    /// # Errors
    /// What is to be removed is not there.
    pub fn check(&self, proposal: &PolicyProposal) -> Result<PolicyCheck, ApiError> {
        let (proposed, compared) = self.compare(proposal)?;
        let effect = match compared {
            Some(mut compared) => {
                let changes = compared.changes()?;
                let count = |opened| changes.iter().filter(|one| one.opened == opened).count();
                let [isolated_ingress, isolated_egress] =
                    Direction::BOTH.map(|direction| compared.isolated(direction));
                Some(PolicyEffect {
                    opened: count(true) as u64,
                    closed: count(false) as u64,
                    isolated_ingress,
                    isolated_egress,
                })
            }
            None => None,
        };
        Ok(PolicyCheck {
            objects: proposed.objects,
            effect,
        })
    }

    /// What policies would change.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn diff(&self, proposal: &PolicyProposal) -> Result<PolicyDiff, ApiError> {
        let (proposed, compared) = self.compare(proposal)?;
        let mut diff = PolicyDiff {
            objects: proposed.objects,
            ..PolicyDiff::default()
        };
        if let Some(mut compared) = compared {
            for change in compared.changes()? {
                for id in [change.source, change.destination] {
                    let labels = compared.labels.get(&id).map(Labels::to_strings);
                    diff.identities.insert(id, labels.unwrap_or_default());
                }
                diff.changes.push(VerdictChange {
                    source: change.source,
                    destination: change.destination,
                    opened: change.opened,
                    traffic: change.traffic.iter().map(ToString::to_string).collect(),
                });
            }
        }
        Ok(diff)
    }

    /// Reads a proposal; where all of it is right, with what is before and after.
    fn compare(&self, proposal: &PolicyProposal) -> Result<(Proposed, Option<Compared>), ApiError> {
        let snapshot = self.0.tables.db.snapshot();
        let rows = self.0.tables.identities.iter(&snapshot);
        let mut labels: BTreeMap<u32, Labels> =
            rows.map(|row| (row.id, row.labels.clone())).collect();
        let (known, mut proposed, ports, with_host) = {
            let core = self.core();
            let proposed = read(&core, proposal)?;
            let ports: BTreeMap<u32, NamedPorts> = labels
                .keys()
                .map(|id| (*id, core.inputs.ports_of(*id)))
                .filter(|(_, ports)| !ports.is_empty())
                .collect();
            let host = core.options.host_firewall.then(|| {
                let mut subjects = core.engine.subjects();
                subjects
                    .find(|(number, _)| *number == HOST)
                    .map(|(_, host)| host.labels.clone())
            });
            (Known::of(&core), proposed, ports, host.flatten())
        };
        if let Some(host) = with_host {
            labels.insert(HOST, host);
        }
        let right = proposed
            .objects
            .iter()
            .all(|object| object.problems.is_empty());
        let old = known.policies.iter();
        let new = proposed.changes.iter().filter_map(|change| match change {
            Change::Policy(policy) => Some(policy),
            _ => None,
        });
        let concerned: BTreeSet<u32> = old
            .filter(|policy| proposed.names.contains(&policy.name))
            .chain(new.clone())
            .flat_map(|policy| selected(policy, &labels))
            .collect();
        for policy in new {
            let identities: Vec<u32> = selected(policy, &labels).into_iter().collect();
            let text = policy.name.to_string();
            let object = proposed.objects.iter_mut().find(|one| one.object == text);
            if let Some(object) = object {
                object.endpoints = endpoints_of(&self.0.tables, &snapshot, &identities);
                object.identities = identities;
            }
        }
        if !right {
            return Ok((proposed, None));
        }
        let mut before = Engine::new(known.settings.clone());
        before.apply(known.changes());
        let unborn: BTreeSet<ipnet::IpNet> = proposed
            .changes
            .iter()
            .flat_map(|change| before.new_prefixes(change))
            .collect();
        for (id, prefix) in (UNBORN..).zip(unborn) {
            let own = [cidr_label(prefix), "reserved:world".to_owned()];
            labels.insert(id, own.into_iter().collect());
        }
        let identity = |(id, labels): (&u32, &Labels)| {
            Change::Identity(
                *id,
                labels.clone(),
                ports.get(id).cloned().unwrap_or_default(),
            )
        };
        before.apply(labels.iter().map(identity));
        let mut compared = Compared {
            after: before.clone(),
            before,
            concerned: BTreeSet::new(),
            labels,
        };
        compared.after.apply(proposed.changes.clone());
        compared.add(&concerned, &ports);
        Ok((proposed, Some(compared)))
    }
}

impl Compared {
    /// Makes identities subjects on both sides.
    fn add(&mut self, identities: &BTreeSet<u32>, ports: &BTreeMap<u32, NamedPorts>) {
        let labels = &self.labels;
        let changes = identities.iter().filter_map(|id| {
            let labels = labels.get(id)?.clone();
            let ports = ports.get(id).cloned().unwrap_or_default();
            Some(Change::Subject(*id, Subject { labels, ports }))
        });
        let changes: Vec<Change> = changes.collect();
        self.before.apply(changes.clone());
        self.after.apply(changes);
        self.concerned.extend(identities);
    }

    /// The pairs whose verdicts change, at both ends.
    fn changes(&mut self) -> Result<Vec<PairChange>, ApiError> {
        let pairs = self.labels.len() * self.concerned.len();
        if pairs > MOST_PAIRS {
            return Err(ApiError::bad_request(format!(
                "the policies select {} identities, which make {pairs} pairs with the others; {MOST_PAIRS} are compared",
                self.concerned.len()
            )));
        }
        let candidates: BTreeSet<(u32, u32)> = self
            .concerned
            .iter()
            .flat_map(|one| {
                self.labels
                    .keys()
                    .flat_map(|other| [(*one, *other), (*other, *one)])
            })
            .filter(|(source, destination)| !self.pair(*source, *destination).is_empty())
            .collect();
        // What these say at their own end counts, too; nobody else's does.
        let others: BTreeSet<u32> = candidates
            .iter()
            .flat_map(|(source, destination)| [*source, *destination])
            .filter(|id| !self.concerned.contains(id) && self.labels.get(id).is_some_and(is_pod))
            .collect();
        self.add(&others, &BTreeMap::new());
        Ok(candidates
            .iter()
            .flat_map(|(source, destination)| self.pair(*source, *destination))
            .collect())
    }

    fn pair(&self, source: u32, destination: u32) -> Vec<PairChange> {
        pair_change(&self.before, &self.after, source, destination)
    }

    /// Who is default-deny in a direction after, and not before.
    fn isolated(&self, direction: Direction) -> Vec<u32> {
        let denied = |engine: &Engine, id: u32| {
            let modes = engine.enforcement(id);
            modes.is_some_and(|modes| modes[direction.index()] == Enforcement::DefaultDeny)
        };
        let all = self.concerned.iter().copied();
        all.filter(|id| denied(&self.after, *id) && !denied(&self.before, *id))
            .collect()
    }
}

fn is_pod(labels: &Labels) -> bool {
    labels.get(&format!("k8s:{NAMESPACE}")).is_some()
}

/// The identities that a policy is about.
fn selected(policy: &policy::rule::Policy, labels: &BTreeMap<u32, Labels>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for rule in &policy.rules {
        let (selector, of_nodes) = match &rule.subject {
            SubjectSelector::Endpoints(selector) => (selector, false),
            SubjectSelector::Nodes(selector) => (selector, true),
        };
        let selector = Selector::new(selector);
        let may = |id: &u32, labels: &Labels| {
            let reserved = ["init", "health", "ingress"];
            let special = || {
                reserved
                    .iter()
                    .any(|name| labels.get(&format!("reserved:{name}")).is_some())
            };
            if of_nodes {
                *id == HOST
            } else {
                is_pod(labels) || special()
            }
        };
        let matching = labels
            .iter()
            .filter(|(id, labels)| may(id, labels) && selector.matches(&Facts::of(labels)));
        found.extend(matching.map(|(id, _)| *id));
    }
    found
}

fn endpoints_of(tables: &model::Tables, snapshot: &Snapshot, identities: &[u32]) -> Vec<u16> {
    let all = tables.endpoints.iter(snapshot);
    all.filter(|endpoint| identities.binary_search(&endpoint.identity).is_ok())
        .map(|endpoint| endpoint.id)
        .collect()
}

fn read(core: &Core, proposal: &PolicyProposal) -> Result<Proposed, ApiError> {
    let in_force: BTreeSet<&PolicyName> =
        core.engine.policies().map(|policy| &policy.name).collect();
    let mut proposed = Proposed {
        objects: Vec::new(),
        changes: Vec::new(),
        names: BTreeSet::new(),
    };
    for object in &proposal.objects {
        let mut checked = CheckedPolicy {
            object: title(object),
            ..CheckedPolicy::default()
        };
        let outcome = if object["kind"] == "CiliumCIDRGroup" {
            parse::cidr_group(object).map(Change::Group)
        } else {
            parse::policy(object, core.options.parse).map(Change::Policy)
        };
        match outcome {
            Ok(change) => {
                if let Change::Policy(policy) = &change {
                    checked.object = policy.name.to_string();
                    checked.replaces = in_force.contains(&policy.name);
                    proposed.names.insert(policy.name.clone());
                }
                proposed.changes.push(change);
            }
            Err(refused) => checked.problems = problems(&refused),
        }
        proposed.objects.push(checked);
    }
    for text in &proposal.removed {
        let found = in_force.iter().find(|name| name.to_string() == *text);
        let Some(name) = found else {
            return Err(ApiError::not_found(format!("policy {text}"))
                .detail("removed: Kind namespace/name, or Kind name, of a policy in force"));
        };
        proposed.names.insert((*name).clone());
        proposed.changes.push(Change::PolicyGone((*name).clone()));
    }
    Ok(proposed)
}

/// What an object says it is.
fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_read_as_people_write_it() {
        let read =
            |text: &str| packet(text).map(|(packet, words)| (packet.protocol, packet.port, words));
        assert_eq!(read("").unwrap(), (6, 80, "80/TCP".to_owned()));
        assert_eq!(read("53/udp").unwrap(), (17, 53, "53/UDP".to_owned()));
        assert_eq!(
            read("128/ICMPv6").unwrap(),
            (58, 128, "128/ICMPv6".to_owned())
        );
        assert_eq!(read("SCTP").unwrap(), (132, 0, "SCTP".to_owned()));
        assert!(read("80/what").is_err() && read("x/TCP").is_err());
    }
}
