//! From a rule to terms that can be resolved: peers to selectors, ports to prefixes.
use super::{RuleRef, precedence::Precedence};
use crate::kernel::{L4, prefixes};
use crate::labels::{FQDN, RESERVED};
use crate::rule::{
    Action, CidrGroup, Direction, Entity, Entry, L7, LabelSelector, Peer, Peers, Port, Protocol,
    Range, Requirement, Rule, Service, ServicePeer, Traffic,
};
use crate::selector::Selector;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A port by name, of one protocol or any.
pub(super) type Named = (String, Option<Protocol>);

/// What one entry says of traffic without rules above the transport, or with the same ones, with peers of type `S`.
#[derive(Clone, Debug)]
pub(super) struct Term<S> {
    /// None for anybody.
    pub(super) peers: Option<Box<[S]>>,
    /// Peers must have besides what rules about the subject require.
    pub(super) guarded: bool,
    pub(super) l4: Box<[L4]>,
    pub(super) named: Box<[Named]>,
    /// What peers may ask for; none for everything.
    pub(super) l7: Option<Arc<L7>>,
    pub(super) precedence: Precedence,
    pub(super) action: Action,
    pub(super) source: RuleRef,
}

/// What compilation asks about names in rules.
pub(super) struct Names<'a> {
    pub(super) cluster: &'a str,
    pub(super) groups: &'a BTreeMap<String, CidrGroup>,
    pub(super) services: &'a BTreeMap<(String, String), Service>,
}

/// What rules refer to that changes by itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refers {
    pub(super) groups: bool,
    pub(super) services: bool,
    pub(super) names: bool,
}

/// The terms of one direction, and the prefixes that need identities.
pub(super) fn section(
    names: &Names<'_>,
    rule: &Rule,
    direction: Direction,
    place: impl Fn(u16) -> RuleRef,
    used: &mut BTreeSet<IpNet>,
) -> Vec<Term<Selector>> {
    let section = rule.section(direction);
    for require in &section.requires {
        note_ranges(&require.selector, used);
    }
    (0_u16..)
        .zip(&section.entries)
        .flat_map(|(index, entry)| terms(names, entry, place(index), used))
        .collect()
}

/// The terms of an entry: one for peers of whom more may be required, one for others; of all traffic with the same rules above
/// the transport.
fn terms(
    names: &Names<'_>,
    entry: &Entry,
    source: RuleRef,
    used: &mut BTreeSet<IpNet>,
) -> Vec<Term<Selector>> {
    let parts = traffic(&entry.traffic);
    let of_peers = |peers: Option<Box<[Selector]>>, guarded| -> Vec<Term<Selector>> {
        let term = |part: &Part| Term {
            peers: peers.clone(),
            guarded,
            l4: part.l4.clone().into(),
            named: part.named.clone().into(),
            l7: part.l7.clone(),
            precedence: Precedence::of(
                entry.tier,
                entry.action,
                part.l7.as_ref().map(|l7| l7.rules.kind()),
            ),
            action: entry.action,
            source,
        };
        parts.iter().map(term).collect()
    };
    let Peers::Of(list) = &entry.peers else {
        return of_peers(None, false);
    };
    let (guarded, free): (Vec<&Peer>, Vec<&Peer>) =
        list.iter().partition(|peer| entry.is_required_of(peer));
    let mut selected = |peers: &[&Peer]| -> Box<[Selector]> {
        let all = peers.iter().flat_map(|peer| selectors(names, peer, used));
        let mut all: Vec<Selector> = all.map(|selector| Selector::new(&selector)).collect();
        all.sort_unstable();
        all.dedup();
        all.into()
    };
    let mut terms = Vec::new();
    if !guarded.is_empty() {
        terms.extend(of_peers(Some(selected(&guarded)), true));
    }
    if !free.is_empty() || guarded.is_empty() {
        terms.extend(of_peers(Some(selected(&free)), false));
    }
    terms
}

/// The prefixes that a rule's peers need identities for.
pub(super) fn prefixes_of(names: &Names<'_>, rule: &Rule) -> BTreeSet<IpNet> {
    let mut used = BTreeSet::new();
    for peer in all_peers(rule) {
        selectors(names, peer, &mut used);
    }
    for require in rule.sections.iter().flat_map(|section| &section.requires) {
        note_ranges(&require.selector, &mut used);
    }
    used
}

/// Traffic with the same rules above the transport.
#[derive(Default)]
struct Part {
    l4: Vec<L4>,
    named: Vec<Named>,
    l7: Option<Arc<L7>>,
}

fn traffic(traffic: &Traffic) -> Vec<Part> {
    let mut parts = vec![Part::default()];
    match traffic {
        Traffic::All => parts[0].l4.push(L4::ALL),
        Traffic::Icmp(list) => {
            let all = list.iter().map(|icmp| L4::icmp(icmp.v6, icmp.kind));
            parts[0].l4.extend(all);
        }
        Traffic::Ports(list) => {
            parts.clear();
            for port in list {
                let same = parts.iter().position(|part| part.l7 == port.l7);
                let at = same.unwrap_or(parts.len());
                if same.is_none() {
                    let l7 = port.l7.clone();
                    parts.push(Part {
                        l7,
                        ..Part::default()
                    });
                }
                parts[at].l4.extend(prefixes(port));
                if let Port::Named(name) = &port.port {
                    parts[at].named.push((name.clone(), port.protocol));
                }
            }
        }
    }
    for part in &mut parts {
        part.l4.sort_unstable();
        part.l4.dedup();
    }
    parts
}

/// The selectors of which one must match.
fn selectors(names: &Names<'_>, peer: &Peer, used: &mut BTreeSet<IpNet>) -> Vec<LabelSelector> {
    match peer {
        Peer::Labels(selector) => {
            note_ranges(selector, used);
            vec![selector.clone()]
        }
        Peer::Nodes(selector) => ["host", "remote-node"]
            .map(|kind| {
                let mut selector = selector.clone();
                selector
                    .requirements
                    .push(Requirement::exists(RESERVED, kind));
                selector
            })
            .into(),
        Peer::Entity(entity) => {
            let mut all: Vec<_> = entity
                .reserved()
                .iter()
                .map(|key| LabelSelector::reserved(key))
                .collect();
            if *entity == Entity::Cluster {
                all.push(LabelSelector::cluster(names.cluster));
            }
            all
        }
        Peer::Cidr(range) => vec![of_range(range, used)],
        Peer::Group { name, except } => names
            .groups
            .get(name)
            .map(|group| of_group(group, except, used))
            .unwrap_or_default(),
        Peer::Groups { selector, except } => names
            .groups
            .values()
            .filter(|group| plain_matches(selector, &group.labels))
            .flat_map(|group| of_group(group, except, used))
            .collect(),
        Peer::Service(which) => names
            .services
            .values()
            .filter(|service| service_matches(which, service))
            .flat_map(|service| of_service(service, used))
            .collect(),
        Peer::Name(name) => {
            let named = Requirement::exists(FQDN, &name.key());
            vec![LabelSelector::one(named)]
        }
    }
}

/// Ranges that stand in a selector by label.
fn note_ranges(selector: &LabelSelector, used: &mut BTreeSet<IpNet>) {
    for requirement in &selector.requirements {
        if let Requirement::Cidr { net, .. } = requirement {
            used.insert(*net);
        }
    }
}

fn of_range(range: &Range, used: &mut BTreeSet<IpNet>) -> LabelSelector {
    let outside = range.except.iter().map(|net| Requirement::Cidr {
        net: *net,
        inside: false,
    });
    let inside = Requirement::Cidr {
        net: range.cidr,
        inside: true,
    };
    let selector = LabelSelector {
        requirements: outside.chain([inside]).collect(),
    };
    note_ranges(&selector, used);
    selector
}

fn of_group(group: &CidrGroup, except: &[IpNet], used: &mut BTreeSet<IpNet>) -> Vec<LabelSelector> {
    let ranges = group.cidrs.iter().map(|cidr| Range {
        cidr: *cidr,
        except: except
            .iter()
            .filter(|part| cidr.contains(*part) || part.contains(cidr))
            .copied()
            .collect(),
    });
    ranges.map(|range| of_range(&range, used)).collect()
}

fn of_service(service: &Service, used: &mut BTreeSet<IpNet>) -> Vec<LabelSelector> {
    if service.selector.is_empty() {
        let ranges = service.addresses.iter().map(|address| Range {
            cidr: IpNet::from(*address),
            except: Vec::new(),
        });
        return ranges.map(|range| of_range(&range, used)).collect();
    }
    let requirements = service
        .selector
        .iter()
        .map(|(key, value)| Requirement::equals(crate::labels::K8S, key, value))
        .collect();
    vec![LabelSelector { requirements }.in_namespace(&service.namespace)]
}

/// True if the rule's peers name this service.
pub(super) fn service_matches(which: &ServicePeer, service: &Service) -> bool {
    match which {
        ServicePeer::Named { namespace, name } => {
            service.namespace == *namespace && service.name == *name
        }
        ServicePeer::Labelled {
            namespace,
            selector,
        } => {
            let right_place = namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == service.namespace);
            right_place && plain_matches(selector, &service.labels)
        }
    }
}

/// Matches the labels of an object, which have no source.
fn plain_matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let labels = labels
        .iter()
        .map(|(key, value)| format!("{}:{key}={value}", crate::labels::K8S));
    Selector::new(selector).matches(&crate::labels::Facts::of(&labels.collect()))
}

/// Which changing things the rule refers to.
pub(super) fn refers(rule: &Rule) -> Refers {
    let mut refers = Refers::default();
    for peer in all_peers(rule) {
        match peer {
            Peer::Group { .. } | Peer::Groups { .. } => refers.groups = true,
            Peer::Service(_) => refers.services = true,
            Peer::Name(_) => refers.names = true,
            _ => {}
        }
    }
    refers
}

/// Every peer of the rule.
pub(super) fn all_peers(rule: &Rule) -> impl Iterator<Item = &Peer> {
    let entries = rule.sections.iter().flat_map(|section| &section.entries);
    entries.flat_map(|entry| match &entry.peers {
        Peers::Any => [].as_slice(),
        Peers::Of(list) => list,
    })
}
