//! The meaning of policies, spelled out: one packet, every rule, no index, no cache, no map.
//!
//! Slow on purpose. It shares the parsed rules with the resolution and nothing else; the tests hold the two against each
//! other, and `explain` asks it why.
use crate::rule::{
    Action, CidrGroup, Direction, Entity, Entry, ICMP, ICMPV6, L7, L7Kind, LabelSelector,
    NamedPorts, Peer, Peers, Policy, PolicyName, Port, PortMatch, Range, Requirement, Rule,
    Service, ServicePeer, SubjectSelector, Test, Tier, Traffic,
};
use crate::{Mode, Settings};
use model::Labels;
use std::net::IpAddr;
use std::sync::Arc;

/// Everything that decides about verdicts.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// Settings of the subject's node.
    pub settings: &'a Settings,
    /// All policies.
    pub policies: &'a [Policy],
    /// All groups of address ranges.
    pub groups: &'a [CidrGroup],
    /// All services.
    pub services: &'a [Service],
}

/// One end of the traffic.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its labels; of the world's addresses `reserved:world`.
    pub labels: &'a Labels,
    /// Ports of it that have names.
    pub ports: &'a NamedPorts,
    /// Its address, where rules by address can mean it: outside the cluster, or a node if nodes are matched by address.
    pub address: Option<IpAddr>,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Number of the protocol.
    pub protocol: u8,
    /// Destination port, or type of the ICMP message.
    pub port: u16,
}

/// Where an entry stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleSource {
    /// In which object.
    pub policy: PolicyName,
    /// Where in it: `spec.ingress[0]`.
    pub path: String,
    /// What it says.
    pub action: Action,
}

/// Why a packet passes or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It comes from the host, which may always.
    Localhost,
    /// These entries allow it.
    Allowed(Vec<RuleSource>),
    /// It passes by way of the proxy, which decides on what is asked for.
    AllowedVia(Via),
    /// These entries deny it.
    Denied(Vec<RuleSource>),
    /// No entry says anything, and something is needed.
    NotAllowed,
    /// No entry says anything, and nothing is needed.
    NotEnforced,
}

/// What may be asked for on a connection that passes by way of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// For what the connection is taken.
    pub kind: L7Kind,
    /// The entries that allow the connection.
    pub sources: Vec<RuleSource>,
    /// The rules of this kind of which one must be met, with their policies.
    pub rules: Vec<(PolicyName, Arc<L7>)>,
    /// Everything may be asked for: an entry without such rules allows the connection, too, or nothing need allow it.
    pub all: bool,
    /// Entries with rules of another kind for the same traffic, which allow nothing.
    pub conflicts: Vec<(PolicyName, Arc<L7>)>,
}

impl Decision {
    /// True if the packet passes.
    #[must_use]
    pub fn passes(&self) -> bool {
        !matches!(self, Self::Denied(_) | Self::NotAllowed)
    }
}

impl<'a> Model<'a> {
    /// What becomes of a packet on the side of one of its ends.
    #[must_use]
    pub fn decide(
        &self,
        direction: Direction,
        subject: &End<'_>,
        remote: &End<'_>,
        packet: Packet,
    ) -> Decision {
        if self.settings.mode == Mode::Never {
            return Decision::NotEnforced;
        }
        let from_host = direction == Direction::Ingress && has(remote.labels, "reserved:host");
        if from_host && self.settings.allow_localhost && !is_host(subject) {
            return Decision::Localhost;
        }
        let matching: Vec<(RuleSource, &Entry)> = self
            .entries(direction, subject)
            .filter(|(_, entry)| self.entry_matches(entry, direction, subject, remote, packet))
            .collect();
        let default_deny = self.is_default_deny(direction, subject);
        let decision = decide_among(&matching, default_deny);
        let Decision::Allowed(sources) = decision else {
            return decision;
        };
        let has_baseline = || {
            let mut all = self.entries(direction, subject);
            all.any(|(_, entry)| matches!(entry.tier, Tier::Baseline { .. }))
        };
        let receiver = match direction {
            Direction::Ingress => subject,
            Direction::Egress => remote,
        };
        // Only entries of policies have rules above the transport.
        let deciding = matching
            .iter()
            .filter(|(source, entry)| entry.tier == Tier::Normal && sources.contains(source));
        let parts: Vec<_> = deciding
            .flat_map(|(source, entry)| {
                let parts = l7_of(&entry.traffic, receiver, packet).into_iter();
                parts.map(|l7| (source.policy.clone(), l7))
            })
            .collect();
        let kind = parts
            .iter()
            .filter_map(|(_, l7)| Some(l7.as_ref()?.rules.kind()));
        match kind.max() {
            None => Decision::Allowed(sources),
            Some(kind) => {
                let open = !default_deny && !has_baseline();
                Decision::AllowedVia(via(kind, sources, parts, open))
            }
        }
    }

    /// True if what no rule allows is dropped.
    #[must_use]
    pub fn is_default_deny(&self, direction: Direction, subject: &End<'_>) -> bool {
        match self.settings.mode {
            Mode::Never => return false,
            Mode::Always if !has(subject.labels, "reserved:health") => return true,
            _ => {}
        }
        has(subject.labels, "reserved:init")
            || self
                .rules(subject)
                .any(|(_, rule)| rule.section(direction).default_deny)
    }

    /// The rules that are about `subject`.
    pub fn rules<'s>(
        &self,
        subject: &'s End<'_>,
    ) -> impl Iterator<Item = (&'a Policy, &'a Rule)> + use<'s, 'a> {
        self.policies
            .iter()
            .flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)))
            .filter(|(_, rule)| match &rule.subject {
                SubjectSelector::Endpoints(selector) => {
                    !is_host(subject) && selects(selector, subject)
                }
                SubjectSelector::Nodes(selector) => is_host(subject) && selects(selector, subject),
            })
    }

    /// The entries that are about one direction of `subject`.
    pub fn entries<'s>(
        &self,
        direction: Direction,
        subject: &'s End<'_>,
    ) -> impl Iterator<Item = (RuleSource, &'a Entry)> + use<'s, 'a> {
        self.rules(subject).flat_map(move |(policy, rule)| {
            rule.section(direction).entries.iter().map(move |entry| {
                let source = RuleSource {
                    policy: policy.name.clone(),
                    path: entry.path.clone(),
                    action: entry.action,
                };
                (source, entry)
            })
        })
    }

    /// True if the entry is about this traffic.
    #[must_use]
    pub fn entry_matches(
        &self,
        entry: &Entry,
        direction: Direction,
        subject: &End<'_>,
        remote: &End<'_>,
        packet: Packet,
    ) -> bool {
        let receiver = match direction {
            Direction::Ingress => subject,
            Direction::Egress => remote,
        };
        self.peers_match(entry, direction, subject, remote)
            && traffic_matches(&entry.traffic, receiver, packet)
    }

    /// True if one of the entry's peers is `remote`, and that has what it must have besides.
    #[must_use]
    pub fn peers_match(
        &self,
        entry: &Entry,
        direction: Direction,
        subject: &End<'_>,
        remote: &End<'_>,
    ) -> bool {
        match &entry.peers {
            Peers::Any => true,
            Peers::Of(list) => list.iter().any(|peer| {
                self.peer_matches(peer, remote)
                    && (!entry.is_required_of(peer)
                        || self.has_required(entry.action, direction, subject, remote))
            }),
        }
    }

    /// True if one of the peers is `remote`, whatever that must have besides.
    #[must_use]
    pub fn is_named(&self, peers: &Peers, remote: &End<'_>) -> bool {
        match peers {
            Peers::Any => true,
            Peers::Of(list) => list.iter().any(|peer| self.peer_matches(peer, remote)),
        }
    }

    fn has_required(
        &self,
        action: Action,
        direction: Direction,
        subject: &End<'_>,
        remote: &End<'_>,
    ) -> bool {
        self.rules(subject)
            .flat_map(|(_, rule)| &rule.section(direction).requires)
            .filter(|require| require.action == action)
            .all(|require| selects(&require.selector, remote))
    }

    fn peer_matches(&self, peer: &Peer, remote: &End<'_>) -> bool {
        match peer {
            Peer::Labels(selector) => selects(selector, remote),
            Peer::Nodes(selector) => {
                let is_node = is_host(remote) || has(remote.labels, "reserved:remote-node");
                is_node && selects(selector, remote)
            }
            Peer::Entity(entity) => self.is_entity(*entity, remote),
            Peer::Cidr(range) => in_range(range, remote),
            Peer::Group { name, except } => self
                .groups
                .iter()
                .filter(|group| group.name == *name)
                .any(|group| in_group(group, except, remote)),
            Peer::Groups { selector, except } => self
                .groups
                .iter()
                .filter(|group| selects_plain(selector, &group.labels))
                .any(|group| in_group(group, except, remote)),
            Peer::Service(which) => self
                .services
                .iter()
                .filter(|service| is_service(which, service))
                .any(|service| behind(service, remote)),
            Peer::Name(name) => has(remote.labels, &name.label()),
        }
    }

    fn is_entity(&self, entity: Entity, remote: &End<'_>) -> bool {
        let reserved = |name: &str| has(remote.labels, &format!("reserved:{name}"));
        match entity {
            Entity::All => true,
            Entity::Nobody => false,
            Entity::World => reserved("world") || reserved("world-ipv4") || reserved("world-ipv6"),
            Entity::Cluster => {
                let cluster = remote.labels.get("k8s:io.cilium.k8s.policy.cluster");
                cluster == Some(self.settings.cluster.as_str())
                    || [
                        "host",
                        "remote-node",
                        "init",
                        "ingress",
                        "health",
                        "unmanaged",
                        "kube-apiserver",
                    ]
                    .into_iter()
                    .any(reserved)
            }
            other => reserved(other.text()),
        }
    }
}

/// What entries that are about the packet come to.
fn decide_among(matching: &[(RuleSource, &Entry)], default_deny: bool) -> Decision {
    // First tier: the first rank that has a match; within it deny, pass, allow.
    let admin_rank = |entry: &Entry| match entry.tier {
        Tier::Admin { priority, index } => Some((priority, index)),
        _ => None,
    };
    if let Some(decision) = first_rank(matching, admin_rank) {
        return decision;
    }
    // Second tier: any deny, then any allow.
    let is_normal = |entry: &Entry| (entry.tier == Tier::Normal).then_some((0, 0));
    if let Some(decision) = first_rank(matching, is_normal) {
        return decision;
    }
    if default_deny {
        return Decision::NotAllowed;
    }
    // Third tier.
    let baseline_rank = |entry: &Entry| match entry.tier {
        Tier::Baseline { index } => Some((0, index)),
        _ => None,
    };
    first_rank(matching, baseline_rank).unwrap_or(Decision::NotEnforced)
}

fn via(
    kind: L7Kind,
    sources: Vec<RuleSource>,
    parts: Vec<(PolicyName, Option<Arc<L7>>)>,
    open: bool,
) -> Via {
    let all = open || parts.iter().any(|(_, l7)| l7.is_none());
    let of_rules = parts
        .into_iter()
        .filter_map(|(policy, l7)| Some((policy, l7?)));
    let (rules, conflicts) = of_rules.partition(|(_, l7)| l7.rules.kind() == kind);
    Via {
        kind,
        sources,
        rules,
        all,
        conflicts,
    }
}

/// What is said above the transport of a packet that the traffic includes: none for a part without rules.
fn l7_of(traffic: &Traffic, receiver: &End<'_>, packet: Packet) -> Vec<Option<Arc<L7>>> {
    let Traffic::Ports(list) = traffic else {
        return vec![None];
    };
    let matching = list
        .iter()
        .filter(|port| port_matches(port, receiver, packet));
    matching.map(|port| port.l7.clone()).collect()
}

/// What the entries of the least rank say; none where none has a rank, or where they pass the question on.
fn first_rank(
    matching: &[(RuleSource, &Entry)],
    rank: impl Fn(&Entry) -> Option<(u16, u16)>,
) -> Option<Decision> {
    let least = matching.iter().filter_map(|(_, entry)| rank(entry)).min()?;
    let of = |action: Action| -> Vec<RuleSource> {
        matching
            .iter()
            .filter(|(_, entry)| rank(entry) == Some(least) && entry.action == action)
            .map(|(source, _)| source.clone())
            .collect()
    };
    match (of(Action::Deny), of(Action::Pass), of(Action::Allow)) {
        (deny, _, _) if !deny.is_empty() => Some(Decision::Denied(deny)),
        (_, pass, _) if !pass.is_empty() => None,
        (_, _, allow) => Some(Decision::Allowed(allow)),
    }
}

fn has(labels: &Labels, key: &str) -> bool {
    labels.get(key).is_some()
}

fn is_host(end: &End<'_>) -> bool {
    has(end.labels, "reserved:host")
}

fn selects(selector: &LabelSelector, end: &End<'_>) -> bool {
    selector
        .requirements
        .iter()
        .all(|requirement| match requirement {
            Requirement::Cidr { net, inside } => {
                end.address.is_some_and(|address| net.contains(&address)) == *inside
            }
            Requirement::Label { source, key, test } => {
                let values: Vec<&str> = end
                    .labels
                    .iter()
                    .filter(|(name, _)| match (name.split_once(':'), source) {
                        (Some((_, k)), None) => k == key,
                        (Some((s, k)), Some(source)) => s == source && k == key,
                        (None, _) => false,
                    })
                    .map(|(_, value)| value)
                    .collect();
                passes_test(test, &values)
            }
        })
}

/// Of labels without sources.
fn selects_plain(
    selector: &LabelSelector,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    selector
        .requirements
        .iter()
        .all(|requirement| match requirement {
            Requirement::Cidr { .. } => false,
            Requirement::Label { key, test, .. } => {
                let values: Vec<&str> = labels.get(key).map(String::as_str).into_iter().collect();
                passes_test(test, &values)
            }
        })
}

fn passes_test(test: &Test, values: &[&str]) -> bool {
    let one_of = |wanted: &[String]| wanted.iter().any(|want| values.contains(&want.as_str()));
    match test {
        Test::In(wanted) => one_of(wanted),
        Test::NotIn(unwanted) => !one_of(unwanted),
        Test::Exists => !values.is_empty(),
        Test::Absent => values.is_empty(),
    }
}

fn in_range(range: &Range, remote: &End<'_>) -> bool {
    remote.address.is_some_and(|address| {
        range.cidr.contains(&address) && !range.except.iter().any(|part| part.contains(&address))
    })
}

fn in_group(group: &CidrGroup, except: &[ipnet::IpNet], remote: &End<'_>) -> bool {
    group.cidrs.iter().any(|cidr| {
        let range = Range {
            cidr: *cidr,
            except: except.to_vec(),
        };
        in_range(&range, remote)
    })
}

fn is_service(which: &ServicePeer, service: &Service) -> bool {
    match which {
        ServicePeer::Named { namespace, name } => {
            service.namespace == *namespace && service.name == *name
        }
        ServicePeer::Labelled {
            namespace,
            selector,
        } => {
            namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == service.namespace)
                && selects_plain(selector, &service.labels)
        }
    }
}

fn behind(service: &Service, remote: &End<'_>) -> bool {
    if service.selector.is_empty() {
        return remote
            .address
            .is_some_and(|address| service.addresses.contains(&address));
    }
    remote.labels.get("k8s:io.kubernetes.pod.namespace") == Some(service.namespace.as_str())
        && service
            .selector
            .iter()
            .all(|(key, value)| remote.labels.get(&format!("k8s:{key}")) == Some(value.as_str()))
}

/// True if the packet is of these protocols and ports, where `receiver` gives ports their names.
#[must_use]
pub fn traffic_matches(traffic: &Traffic, receiver: &End<'_>, packet: Packet) -> bool {
    match traffic {
        Traffic::All => true,
        Traffic::Ports(list) => list.iter().any(|port| port_matches(port, receiver, packet)),
        Traffic::Icmp(list) => list.iter().any(|icmp| {
            let protocol = if icmp.v6 { ICMPV6 } else { ICMP };
            packet.protocol == protocol && packet.port == u16::from(icmp.kind)
        }),
    }
}

fn port_matches(port: &PortMatch, receiver: &End<'_>, packet: Packet) -> bool {
    let of_protocol = match port.protocol {
        Some(protocol) => packet.protocol == protocol.number(),
        None => [6, 17, 132].contains(&packet.protocol),
    };
    of_protocol
        && match &port.port {
            Port::Range(first, last) => (*first..=*last).contains(&packet.port),
            Port::Named(name) => receiver.ports.iter().any(|known| {
                known.name == *name
                    && known.protocol.number() == packet.protocol
                    && known.port == packet.port
            }),
        }
}
