//! What the proxy has to know of a subject: the rules above the transport, and what is allowed besides at their ports.
//!
//! Allows add up. Where a rule without anything above the transport lets a peer reach a port that another rule has the proxy see,
//! be it for this port alone, for a range, or for all traffic, that peer may ask for everything there: by the row of the greater
//! precedence it passes by way of the proxy all the same. So rows say who is seen by the proxy, and these rules who may do what.
use super::compile::{Named, Term};
use super::engine::Engine;
use super::rules::has_baseline;
use super::settle::Ask;
use super::subjects::{Enforcement, Side, TermId};
use crate::kernel::L4;
use crate::rule::{Action, Direction, L7Kind, L7Rules, NamedPort, PolicyName, Protocol};
use crate::selector::SelectorId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What peers may ask for at some ports. All that cover a peer and a port add up; whoever none covers may ask for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRules {
    /// Seen from the subject.
    pub direction: Direction,
    /// TCP or UDP.
    pub transport: Protocol,
    /// First port of the range.
    pub first: u16,
    /// Last port of the range, which is part of it.
    pub last: u16,
    /// Identities of the peers; none: anybody.
    pub peers: Option<Arc<BTreeSet<u32>>>,
    /// What they may ask for; none: everything.
    pub rules: Option<Arc<L7Rules>>,
    /// The policy that says so; none where no policy denies what none allows.
    pub policy: Option<PolicyName>,
    /// The policy and the place in it, as people are shown it.
    pub origin: Arc<str>,
}

impl ProxyRules {
    /// True if this is about such a connection to this port, or from a peer to it.
    #[must_use]
    pub fn covers(&self, direction: Direction, transport: u8, port: u16, peer: u32) -> bool {
        self.direction == direction
            && self.transport.number() == transport
            && (self.first..=self.last).contains(&port)
            && self
                .peers
                .as_ref()
                .is_none_or(|peers| peers.contains(&peer))
    }

    /// Of what kind its rules are; none where everything may be asked for.
    #[must_use]
    pub fn kind(&self) -> Option<L7Kind> {
        self.rules.as_ref().map(|rules| rules.kind())
    }

    /// True if some connection is covered by both.
    fn overlaps(&self, other: &Self) -> bool {
        let share = match (&self.peers, &other.peers) {
            (Some(own), Some(others)) => !own.is_disjoint(others),
            (Some(some), None) | (None, Some(some)) => !some.is_empty(),
            (None, None) => true,
        };
        share
            && self.direction == other.direction
            && self.meets(other.transport, other.first, other.last)
    }

    /// True if both decrypt connections to some server by different certificates.
    fn has_other_certificates(&self, other: &Self) -> bool {
        let (Some(L7Rules::Inspect(own)), Some(L7Rules::Inspect(others))) =
            (self.rules.as_deref(), other.rules.as_deref())
        else {
            return false;
        };
        let any = own.server_names.is_empty() || others.server_names.is_empty();
        let shared = |name| others.server_names.contains(name);
        (any || own.server_names.iter().any(shared))
            && (&own.terminating, &own.originating) != (&others.terminating, &others.originating)
    }

    fn meets(&self, transport: Protocol, first: u16, last: u16) -> bool {
        self.transport == transport && self.first <= last && first <= self.last
    }
}

/// Ports of a transport.
type Ports = (Protocol, u16, u16);

impl Engine {
    /// What the proxy has to know of a subject; nothing where no rule above the transport is about it.
    #[must_use]
    pub fn proxy_rules(&self, subject: u32) -> Arc<[ProxyRules]> {
        let state = self.subjects.get(&subject);
        let sides = state.into_iter().flat_map(|state| &state.proxy);
        sides.flat_map(|rules| rules.iter().cloned()).collect()
    }

    /// As [`Self::proxy_rules`], of one direction.
    #[must_use]
    pub fn proxy_rules_of(&self, subject: u32, direction: Direction) -> &[ProxyRules] {
        let state = self.subjects.get(&subject);
        state.map_or(&[], |state| &state.proxy[direction.index()])
    }

    /// Policies whose rules of different kinds meet at one port of one peer: those of the other kind allow nothing there. And those that
    /// decrypt the same connections by different certificates.
    #[must_use]
    pub fn proxy_conflicts(&self) -> BTreeMap<PolicyName, String> {
        let mut found = BTreeMap::new();
        let sides = self.subjects.values().flat_map(|state| &state.proxy);
        for rules in sides {
            for one in rules.iter().filter(|one| one.kind().is_some()) {
                let certificates = rules
                    .iter()
                    .find(|other| one.has_other_certificates(other) && one.overlaps(other));
                if let (Some(policy), Some(other)) = (&one.policy, certificates) {
                    let text = format!(
                        "{} and {} have different certificates for the same traffic; one of them counts",
                        one.origin, other.origin
                    );
                    found.entry(policy.clone()).or_insert(text);
                }
                let other = rules.iter().find(|other| {
                    other.kind().is_some_and(|kind| Some(kind) != one.kind()) && one.overlaps(other)
                });
                if let (Some(policy), Some(other), Some(kind)) = (
                    &one.policy,
                    other,
                    one.kind().max(other.and_then(ProxyRules::kind)),
                ) {
                    let text = format!(
                        "{} and {} have rules of different kinds for the same traffic; the connections are taken for {kind}, and other rules allow nothing there",
                        one.origin, other.origin
                    );
                    found.entry(policy.clone()).or_insert(text);
                }
            }
        }
        found
    }

    /// Works out what the proxy has to know of one side.
    pub(super) fn proxy_side(&self, ask: &Ask<'_>) -> Vec<ProxyRules> {
        let side = &ask.state.sides[ask.direction.index()];
        if side.l7 == 0 || ask.enforcement == Enforcement::Off {
            return Vec::new();
        }
        let ids: BTreeSet<TermId> = side
            .any
            .iter()
            .chain(side.by_selector.values().flatten())
            .copied()
            .collect();
        let terms = ids
            .into_iter()
            .filter_map(|id| self.term(id, ask.direction));
        let (seen, plain): (Vec<_>, Vec<_>) = terms
            .filter(|term| term.precedence.is_normal_allow())
            .partition(|term| term.l7.is_some());
        let mut rules = Vec::new();
        for term in seen {
            self.proxy_term(ask, term, |_| true, &mut rules);
        }
        let ports: Vec<Ports> = rules
            .iter()
            .map(|one| (one.transport, one.first, one.last))
            .collect();
        for term in plain {
            let is_seen = |own: &ProxyRules| {
                ports
                    .iter()
                    .any(|(transport, first, last)| own.meets(*transport, *first, *last))
            };
            self.proxy_term(ask, term, is_seen, &mut rules);
        }
        if ask.enforcement == Enforcement::Rules
            && !has_baseline(&ask.state.rules, &self.rules, ask.direction)
        {
            let open = [Protocol::Tcp, Protocol::Udp].map(|transport| ProxyRules {
                direction: ask.direction,
                transport,
                first: 0,
                last: u16::MAX,
                peers: None,
                rules: None,
                policy: None,
                origin: "no policy denies what none allows".into(),
            });
            let is_seen = |own: &ProxyRules| {
                ports
                    .iter()
                    .any(|(transport, ..)| own.transport == *transport)
            };
            rules.extend(open.into_iter().filter(is_seen));
        }
        rules
    }

    fn proxy_term(
        &self,
        ask: &Ask<'_>,
        term: &Term<SelectorId>,
        wanted: impl Fn(&ProxyRules) -> bool,
        rules: &mut Vec<ProxyRules>,
    ) {
        let side = &ask.state.sides[ask.direction.index()];
        let peers = term
            .peers
            .as_deref()
            .map(|selectors| Arc::new(self.peers_of(side, term, selectors)));
        if peers.as_ref().is_some_and(|peers| peers.is_empty()) {
            return;
        }
        let Some(source) = self.source(term.source) else {
            return;
        };
        let path = term.l7.as_ref().map_or(&source.path, |l7| &l7.path);
        let origin: Arc<str> = format!("{}: {path}", source.policy).into();
        let mut push = |(transport, first, last): Ports, peers: Option<Arc<BTreeSet<u32>>>| {
            let one = ProxyRules {
                direction: ask.direction,
                transport,
                first,
                last,
                peers,
                rules: term.l7.as_ref().map(|l7| l7.rules.clone()),
                policy: Some(source.policy.clone()),
                origin: origin.clone(),
            };
            if wanted(&one) {
                rules.push(one);
            }
        };
        for ports in ranges(&term.l4) {
            push(ports, peers.clone());
        }
        match ask.direction {
            Direction::Ingress => {
                for port in named(&term.named, &ask.state.subject.ports) {
                    push(port, peers.clone());
                }
            }
            Direction::Egress => {
                for (port, peers) in self.named_of_peers(&term.named, peers.as_deref()) {
                    push(port, Some(Arc::new(peers)));
                }
            }
        }
    }

    /// Whom a term means.
    fn peers_of(
        &self,
        side: &Side,
        term: &Term<SelectorId>,
        selectors: &[SelectorId],
    ) -> BTreeSet<u32> {
        let all = selectors
            .iter()
            .flat_map(|selector| self.peers.matched(*selector));
        all.filter(|peer| !self.lacks(side, term, *peer)).collect()
    }

    /// True if the peer does not have what rules require of the term's peers.
    pub(super) fn lacks(&self, side: &Side, term: &Term<SelectorId>, peer: u32) -> bool {
        let matching = self.peers.matching(peer);
        let is_lacking = |(action, selector): &(Action, SelectorId)| {
            *action == term.action && !matching.contains(selector)
        };
        term.guarded && side.requires.keys().any(is_lacking)
    }

    /// The ports that the peers, or all who have ports with names, give these names, and who does.
    fn named_of_peers(
        &self,
        names: &[Named],
        peers: Option<&BTreeSet<u32>>,
    ) -> BTreeMap<Ports, BTreeSet<u32>> {
        let mut found: BTreeMap<Ports, BTreeSet<u32>> = BTreeMap::new();
        if names.is_empty() {
            return found;
        }
        for (peer, ports) in &self.ports {
            if peers.is_none_or(|peers| peers.contains(peer)) {
                for port in named(names, ports) {
                    found.entry(port).or_default().insert(*peer);
                }
            }
        }
        found
    }
}

/// The ports of these names.
fn named<'a>(
    names: &'a [Named],
    ports: impl IntoIterator<Item = &'a NamedPort> + 'a,
) -> impl Iterator<Item = Ports> + 'a {
    let is_meant = |port: &&NamedPort| {
        names.iter().any(|(name, protocol)| {
            *name == port.name && protocol.is_none_or(|want| want == port.protocol)
        })
    };
    let ports = ports.into_iter().filter(is_meant);
    ports
        .map(|port| (port.protocol, port.port, port.port))
        .filter(|(transport, ..)| is_transport(*transport))
}

fn is_transport(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Tcp | Protocol::Udp)
}

/// Prefixes of TCP and UDP as ranges of ports. They are sorted; neighbours become one.
fn ranges(prefixes: &[L4]) -> Vec<Ports> {
    let mut ranges: Vec<Ports> = Vec::new();
    for transport in [Protocol::Tcp, Protocol::Udp] {
        for l4 in prefixes {
            if l4
                .protocol_number()
                .is_some_and(|number| number != transport.number())
            {
                continue;
            }
            let (first, last) = (*l4.ports().start(), *l4.ports().end());
            match ranges.last_mut() {
                Some((before, _, end))
                    if *before == transport && end.checked_add(1) == Some(first) =>
                {
                    *end = last
                }
                _ => ranges.push((transport, first, last)),
            }
        }
    }
    ranges
}
