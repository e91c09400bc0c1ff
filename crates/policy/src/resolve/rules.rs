//! Policies come and go: their rules are compiled, attached to the subjects they are about, and taken off again.
use super::RuleRef;
use super::compile::{self, Names, Term};
use super::engine::{Change, Compiled, Dirty, Engine, RuleId};
use super::subjects::{Side, TermId};
use crate::kernel::ANYBODY;
use crate::rule::{
    Action, Direction, NamedPorts, Peer, Policy, PolicyName, Require, Rule, Service,
    SubjectSelector,
};
use crate::selector::{Selector, SelectorId, SelectorTable};
use ipnet::IpNet;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

impl Engine {
    pub(super) fn set_policy(&mut self, policy: Policy) {
        let number = match self.numbers.get(&policy.name) {
            Some(number) => *number,
            None => {
                self.last_policy += 1;
                self.numbers.insert(policy.name.clone(), self.last_policy);
                self.last_policy
            }
        };
        let before = self.policies.insert(number, policy.clone());
        let before = before.map(|policy| policy.rules).unwrap_or_default();
        let count = before.len().max(policy.rules.len());
        for (index, place) in (0..=u16::MAX).zip(0..count) {
            let (old, new) = (before.get(place), policy.rules.get(place));
            // Rules that stay as they are keep their place, so nothing that came from them changes.
            if old != new {
                self.set_rule((number, index), new);
            }
        }
    }

    pub(super) fn remove_policy(&mut self, name: &PolicyName) {
        let Some(number) = self.numbers.remove(name) else {
            return;
        };
        let Some(policy) = self.policies.remove(&number) else {
            return;
        };
        for (index, _) in (0..=u16::MAX).zip(&policy.rules) {
            self.set_rule((number, index), None);
        }
    }

    /// Compiles rules anew whose groups or services changed.
    pub(super) fn recompile(&mut self, rules: &BTreeSet<RuleId>) {
        for id in rules {
            let rule = self
                .policies
                .get(&id.0)
                .and_then(|policy| policy.rules.get(usize::from(id.1)))
                .cloned();
            self.set_rule(*id, rule.as_ref());
        }
    }

    /// The rules that name a service.
    pub(super) fn naming(&self, service: &Service) -> BTreeSet<RuleId> {
        let names = |id: &&RuleId| {
            let policy = self.policies.get(&id.0);
            let rule = policy.and_then(|policy| policy.rules.get(usize::from(id.1)));
            rule.is_some_and(|rule| {
                compile::all_peers(rule).any(|peer| match peer {
                    Peer::Service(which) => compile::service_matches(which, service),
                    _ => false,
                })
            })
        };
        self.refer_services.iter().filter(names).copied().collect()
    }

    /// The prefixes that rules would name after a change, and do not name now: they need identities first, so that
    /// what is said of them holds from the moment on when the rest does.
    #[must_use]
    pub fn new_prefixes(&self, change: &Change) -> BTreeSet<IpNet> {
        let (mut groups, mut services) =
            (Cow::Borrowed(&self.groups), Cow::Borrowed(&self.services));
        let mut rules: Vec<&Rule> = Vec::new();
        let kept = |id: &RuleId| self.policies.get(&id.0)?.rules.get(usize::from(id.1));
        match change {
            Change::Policy(policy) => rules.extend(&policy.rules),
            Change::Group(group) => {
                groups.to_mut().insert(group.name.clone(), group.clone());
                rules.extend(self.refer_groups.iter().filter_map(kept));
            }
            Change::Service(service) => {
                let key = (service.namespace.clone(), service.name.clone());
                services.to_mut().insert(key, service.clone());
                rules.extend(self.naming(service).iter().filter_map(kept));
            }
            _ => {}
        }
        let names = Names {
            cluster: &self.settings.cluster,
            groups: &groups,
            services: &services,
        };
        let prefixes = rules
            .into_iter()
            .map(|rule| compile::prefixes_of(&names, rule));
        let mut used: BTreeSet<IpNet> = prefixes.flatten().collect();
        used.retain(|prefix| prefix.prefix_len() > 0 && !self.prefixes.contains_key(prefix));
        used
    }

    /// Puts a rule in its place, or takes it away.
    fn set_rule(&mut self, id: RuleId, rule: Option<&Rule>) {
        let added = rule.map(|rule| self.compile(id, rule));
        if let Some(removed) = self.rules.get(&id).cloned() {
            for subject in self.subjects_of(&removed) {
                self.detach(id, subject);
            }
            self.forget(id, &removed);
        }
        let Some(added) = added else {
            return;
        };
        let subjects = self.subjects_of(&added);
        self.rules_about
            .entry(added.subject)
            .or_default()
            .insert(id);
        let refers = rule.map(compile::refers).unwrap_or_default();
        if refers.groups {
            self.refer_groups.insert(id);
        }
        if refers.services {
            self.refer_services.insert(id);
        }
        if refers.names {
            self.refer_names.insert(id);
        }
        self.rules.insert(id, added);
        for subject in subjects {
            self.attach(id, subject);
        }
    }

    fn compile(&mut self, id: RuleId, rule: &Rule) -> Compiled {
        let mut prefixes = BTreeSet::new();
        let names = Names {
            cluster: &self.settings.cluster,
            groups: &self.groups,
            services: &self.services,
        };
        let terms = Direction::BOTH.map(|direction| {
            let place = |entry| RuleRef {
                policy: id.0,
                rule: id.1,
                direction,
                entry,
            };
            compile::section(&names, rule, direction, place, &mut prefixes)
        });
        // Everything of a family is the world, which has an identity.
        prefixes.retain(|prefix| prefix.prefix_len() > 0);
        for prefix in &prefixes {
            self.count_prefix(*prefix, true);
        }
        let (selector, of_nodes) = match &rule.subject {
            SubjectSelector::Endpoints(selector) => (selector, false),
            SubjectSelector::Nodes(selector) => (selector, true),
        };
        let subject = self.about.acquire(Selector::new(selector));
        let requires = Direction::BOTH.map(|direction| {
            let all = rule.section(direction).requires.iter();
            let intern = |require: &Require| {
                let selector = Selector::new(&require.selector);
                (require.action, self.peers.acquire(selector))
            };
            all.map(intern).collect::<Vec<_>>()
        });
        let terms = terms.map(|terms| {
            let terms = terms.into_iter().map(|term| self.intern(term));
            terms.collect::<Vec<_>>()
        });
        Compiled {
            subject,
            of_nodes,
            default_deny: Direction::BOTH.map(|direction| rule.section(direction).default_deny),
            terms,
            requires,
            prefixes,
        }
    }

    fn intern(&mut self, term: Term<Selector>) -> Term<SelectorId> {
        let peers = term.peers.map(|peers| {
            let ids = peers
                .into_iter()
                .map(|selector| self.peers.acquire(selector));
            ids.collect()
        });
        Term {
            peers,
            guarded: term.guarded,
            l4: term.l4,
            named: term.named,
            l7: term.l7,
            precedence: term.precedence,
            action: term.action,
            source: term.source,
        }
    }

    fn forget(&mut self, id: RuleId, rule: &Compiled) {
        self.rules.remove(&id);
        self.refer_groups.remove(&id);
        self.refer_services.remove(&id);
        self.refer_names.remove(&id);
        if let Some(rules) = self.rules_about.get_mut(&rule.subject) {
            rules.remove(&id);
            if rules.is_empty() {
                self.rules_about.remove(&rule.subject);
            }
        }
        for prefix in &rule.prefixes {
            self.count_prefix(*prefix, false);
        }
        for term in rule.terms.iter().flatten() {
            for selector in term.peers.iter().flatten() {
                self.peers.release(*selector);
            }
        }
        for (_, selector) in rule.requires.iter().flatten() {
            self.peers.release(*selector);
        }
        self.about.release(rule.subject);
    }

    fn count_prefix(&mut self, prefix: IpNet, more: bool) {
        let users = self.prefixes.entry(prefix).or_default();
        self.prefixes_before.entry(prefix).or_insert(*users > 0);
        if more {
            *users += 1;
        } else {
            *users -= 1;
        }
        if *users == 0 {
            self.prefixes.remove(&prefix);
        }
    }

    fn subjects_of(&self, rule: &Compiled) -> Vec<u32> {
        let is_right_kind = |number: &u32| {
            self.subjects
                .get(number)
                .is_some_and(|state| state.is_host == rule.of_nodes)
        };
        self.about
            .matched(rule.subject)
            .filter(is_right_kind)
            .collect()
    }

    /// Lets a rule count for a subject.
    pub(super) fn attach(&mut self, id: RuleId, number: u32) {
        self.change(id, number, true);
    }

    /// Lets a rule count no longer for a subject.
    pub(super) fn detach(&mut self, id: RuleId, number: u32) {
        self.change(id, number, false);
    }

    fn change(&mut self, id: RuleId, number: u32, attach: bool) {
        let (Some(rule), Some(state)) = (self.rules.get(&id), self.subjects.get_mut(&number))
        else {
            return;
        };
        if state.is_host != rule.of_nodes {
            return;
        }
        let changed = if attach {
            state.rules.insert(id)
        } else {
            state.rules.remove(&id)
        };
        if !changed {
            return;
        }
        for direction in Direction::BOTH {
            let at = direction.index();
            let before = state.enforcement(&self.settings, direction);
            let side = &mut state.sides[at];
            let mut edit = Edit {
                peers: &self.peers,
                ports: &self.ports,
                users: &mut self.users,
                dirty: self.dirty.entry((number, direction)).or_default(),
                side,
                key: (number, direction),
                attach,
            };
            edit.default_deny(rule.default_deny[at]);
            for (index, term) in (0_u16..).zip(&rule.terms[at]) {
                edit.term((id, index), term);
            }
            for required in &rule.requires[at] {
                edit.require(*required);
            }
            if direction == Direction::Egress {
                if side.any_named.is_empty() {
                    self.any_named.remove(&number);
                } else {
                    self.any_named.insert(number);
                }
            }
            if state.enforcement(&self.settings, direction) != before {
                // What is said of anybody changes, and whether the baseline is asked.
                let dirty = self.dirty.entry((number, direction)).or_default();
                dirty.remotes.insert(ANYBODY);
                dirty.all |= has_baseline(&state.rules, &self.rules, direction);
            }
        }
    }
}

/// A rule that starts or ends to count for one side of a subject.
struct Edit<'a> {
    peers: &'a SelectorTable,
    ports: &'a BTreeMap<u32, NamedPorts>,
    users: &'a mut BTreeMap<SelectorId, BTreeSet<(u32, Direction)>>,
    dirty: &'a mut Dirty,
    side: &'a mut Side,
    key: (u32, Direction),
    attach: bool,
}

impl Edit<'_> {
    fn default_deny(&mut self, wanted: bool) {
        if wanted && self.attach {
            self.side.default_deny += 1;
        } else if wanted {
            self.side.default_deny = self.side.default_deny.saturating_sub(1);
        }
    }

    fn term(&mut self, place: TermId, term: &Term<SelectorId>) {
        if term.l7.is_some() && self.attach {
            self.side.l7 += 1;
        } else if term.l7.is_some() {
            self.side.l7 = self.side.l7.saturating_sub(1);
        }
        let Some(peers) = &term.peers else {
            edit(&mut self.side.any, place, self.attach);
            self.dirty.remotes.insert(ANYBODY);
            if self.key.1 == Direction::Egress && !term.named.is_empty() {
                edit(&mut self.side.any_named, place, self.attach);
                self.dirty.remotes.extend(self.ports.keys());
            }
            return;
        };
        for selector in peers {
            self.dirty.remotes.extend(self.peers.matched(*selector));
            let terms = self.side.by_selector.entry(*selector).or_default();
            edit(terms, place, self.attach);
            if terms.is_empty() {
                self.side.by_selector.remove(selector);
            }
            self.note_use(*selector);
        }
    }

    /// What is required of the peers of all guarded terms.
    fn require(&mut self, required: (Action, SelectorId)) {
        let count = self.side.requires.entry(required).or_default();
        if self.attach {
            *count += 1;
        } else {
            *count = count.saturating_sub(1);
        }
        if *count == 0 {
            self.side.requires.remove(&required);
        }
        self.dirty.all = true;
        self.note_use(required.1);
    }

    /// Notes whether the side depends on whom a selector matches.
    fn note_use(&mut self, selector: SelectorId) {
        let mut required = self.side.requires.keys();
        let is_used = self.side.by_selector.contains_key(&selector)
            || required.any(|(_, own)| *own == selector);
        let users = self.users.entry(selector).or_default();
        if is_used {
            users.insert(self.key);
        } else {
            users.remove(&self.key);
        }
        if users.is_empty() {
            self.users.remove(&selector);
        }
    }
}

/// True if some of the rules are of the baseline tier.
pub(super) fn has_baseline(
    rules: &BTreeSet<RuleId>,
    compiled: &BTreeMap<RuleId, Compiled>,
    direction: Direction,
) -> bool {
    let rules = rules.iter().filter_map(|rule| compiled.get(rule));
    let mut terms = rules.flat_map(|rule| &rule.terms[direction.index()]);
    terms.any(|term| term.precedence.is_baseline())
}

fn edit(terms: &mut Vec<TermId>, place: TermId, attach: bool) {
    if attach {
        terms.push(place);
    } else {
        terms.retain(|other| *other != place);
    }
}
