//! What the engine knows, for people and for tests.
use super::compile::all_peers;
use super::engine::Engine;
use super::subjects::{Enforcement, State, Subject};
use crate::Settings;
use crate::kernel::{ANYBODY, Key, L4, Map, Outcome, Question, Value, decide};
use crate::rule::{CidrGroup, Direction, DnsRule, Peer, Policy, PolicyName, Service};
use crate::selector::Selector;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

impl Engine {
    /// Every row, in the order of the keys.
    pub fn rows(&self) -> impl Iterator<Item = (Key, Value)> {
        self.subjects
            .keys()
            .flat_map(|subject| self.rows_of(*subject))
    }

    /// The rows of one subject, in the order of the keys.
    pub fn rows_of(&self, subject: u32) -> impl Iterator<Item = (Key, Value)> {
        let sides = self
            .subjects
            .get(&subject)
            .into_iter()
            .flat_map(|state| Direction::BOTH.into_iter().zip(&state.sides));
        sides.flat_map(move |(direction, side)| {
            side.rows.iter().flat_map(move |(remote, rows)| {
                rows.iter().map(move |row| {
                    let key = Key {
                        subject,
                        direction,
                        remote: *remote,
                        l4: row.l4,
                    };
                    (key, row.value())
                })
            })
        })
    }

    /// How many rows a subject has.
    #[must_use]
    pub fn row_count(&self, subject: u32) -> usize {
        let sides = self.subjects.get(&subject).map(|state| &state.sides);
        sides
            .into_iter()
            .flatten()
            .flat_map(|side| side.rows.values())
            .map(|rows| rows.len())
            .sum()
    }

    /// The rows of one side of a subject about one remote, or about anybody.
    pub fn rows_about(
        &self,
        subject: u32,
        direction: Direction,
        remote: u32,
    ) -> impl DoubleEndedIterator<Item = (L4, Value)> {
        let rows = self
            .subjects
            .get(&subject)
            .and_then(|state| state.sides[direction.index()].rows.get(&remote));
        rows.into_iter()
            .flat_map(|rows| rows.iter())
            .map(|row| (row.l4, row.value()))
    }

    /// What the kernel answers; none where the subject is not known.
    #[must_use]
    pub fn ask(&self, question: &Question) -> Option<Outcome> {
        self.subjects.get(&question.subject)?;
        let asked = match question.port {
            Some(port) => L4::port(question.protocol, port),
            None => L4::protocol(question.protocol),
        };
        // Rows stand in the order in which longer prefixes come later.
        let longest = |remote| {
            self.rows_about(question.subject, question.direction, remote)
                .rfind(|(l4, _)| l4.covers(asked))
        };
        Some(decide(longest(question.remote), longest(ANYBODY)))
    }

    /// The rows as the kernel has them.
    #[must_use]
    pub fn map(&self) -> Map {
        let mut map = Map::default();
        for (key, value) in self.rows() {
            map.put(key, value);
        }
        map
    }

    /// How policy is enforced for a subject, by [`Direction::index`].
    #[must_use]
    pub fn enforcement(&self, subject: u32) -> Option<[Enforcement; 2]> {
        let state = self.subjects.get(&subject)?;
        Some(Direction::BOTH.map(|direction| state.enforcement(&self.settings, direction)))
    }

    /// Every subject by its number.
    pub fn subjects(&self) -> impl Iterator<Item = (u32, &Subject)> {
        self.subjects
            .iter()
            .map(|(number, state)| (*number, &state.subject))
    }

    /// The subjects that a policy is about.
    #[must_use]
    pub fn selected(&self, policy: &PolicyName) -> BTreeSet<u32> {
        let Some(number) = self.numbers.get(policy) else {
            return BTreeSet::new();
        };
        let is_about = |state: &State| state.rules.iter().any(|(policy, _)| policy == number);
        self.subjects
            .iter()
            .filter(|(_, state)| is_about(state))
            .map(|(subject, _)| *subject)
            .collect()
    }

    /// Every policy, in the order in which they came.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    /// Every group of address ranges.
    pub fn groups(&self) -> impl Iterator<Item = &CidrGroup> {
        self.groups.values()
    }

    /// Every service.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// Every prefix that rules name; each needs an identity.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.prefixes.keys().copied()
    }

    /// Every name and pattern of names that rules allow connections to; addresses with such names need their labels.
    #[must_use]
    pub fn names(&self) -> BTreeSet<DnsRule> {
        let rule = |(policy, place): &(u32, u16)| {
            let policy = self.policies.get(policy)?;
            policy.rules.get(usize::from(*place))
        };
        let peers = self.refer_names.iter().filter_map(rule);
        let names = peers.flat_map(all_peers).filter_map(|peer| match peer {
            Peer::Name(name) => Some(name.clone()),
            _ => None,
        });
        names.collect()
    }

    /// Every selector of peers, with the number of its users and the identities it matches.
    pub fn selectors(&self) -> impl Iterator<Item = (&Selector, u32, &BTreeSet<u32>)> {
        self.peers.iter()
    }

    /// The policies whose rules use each selector of peers.
    #[must_use]
    pub fn selector_users(&self) -> BTreeMap<&Selector, BTreeSet<&PolicyName>> {
        let mut users: BTreeMap<&Selector, BTreeSet<&PolicyName>> = BTreeMap::new();
        for ((policy, _), rule) in &self.rules {
            let Some(policy) = self.policies.get(policy) else {
                continue;
            };
            let terms = rule.terms.iter().flatten();
            let peers = terms.flat_map(|term| term.peers.iter().flatten());
            let required = rule.requires.iter().flatten().map(|(_, selector)| selector);
            for id in peers.chain(required) {
                if let Some(selector) = self.peers.get(*id) {
                    users.entry(selector).or_default().insert(&policy.name);
                }
            }
        }
        users
    }

    /// True if the identity is known.
    #[must_use]
    pub fn knows(&self, identity: u32) -> bool {
        self.peers.facts(identity).is_some()
    }

    /// Every identity.
    pub fn identities(&self) -> impl Iterator<Item = u32> {
        self.peers.members()
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
