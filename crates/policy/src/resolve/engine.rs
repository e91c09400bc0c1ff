//! The engine: what is known, and what each change comes to.
use super::RuleRef;
use super::compile::Term;
use super::diff::{Cost, Diff, Op, Phase};
use super::origin::{Origin, Origins};
use super::subjects::{State, Subject};
use super::writes;
use crate::Settings;
use crate::kernel::{Key, Verdict};
use crate::labels::Facts;
use crate::rule::{Action, CidrGroup, Direction, NamedPorts, Policy, PolicyName, Service};
use crate::selector::{SelectorId, SelectorTable};
use ipnet::IpNet;
use model::Labels;
use std::collections::{BTreeMap, BTreeSet};

/// A rule: number of its policy, and its place in it.
pub(super) type RuleId = (u32, u16);

/// Something that changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// A policy is there, new or changed.
    Policy(Policy),
    /// A policy is gone.
    PolicyGone(PolicyName),
    /// An identity is known, with its labels and the named ports of those who have it.
    Identity(u32, Labels, NamedPorts),
    /// An identity is gone.
    IdentityGone(u32),
    /// A subject is there, new or changed; the number is the first part of its rows' keys.
    Subject(u32, Subject),
    /// A subject is gone, and its rows with it.
    SubjectGone(u32),
    /// A group of address ranges is there, new or changed.
    Group(CidrGroup),
    /// The group of this name is gone.
    GroupGone(String),
    /// A service is there, new or changed.
    Service(Service),
    /// The service of this namespace and name is gone.
    ServiceGone(String, String),
    /// The settings are these now. The name of the cluster does not change while an engine lives.
    Settings(Settings),
}

/// A rule, ready to be resolved.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub(super) subject: SelectorId,
    pub(super) of_nodes: bool,
    pub(super) default_deny: [bool; 2],
    pub(super) terms: [Vec<Term<SelectorId>>; 2],
    /// What peers must have besides, of entries that allow or deny.
    pub(super) requires: [Vec<(Action, SelectorId)>; 2],
    pub(super) prefixes: BTreeSet<IpNet>,
}

/// What must be worked out anew of one direction of a subject.
#[derive(Clone, Debug, Default)]
pub(super) struct Dirty {
    pub(super) all: bool,
    pub(super) remotes: BTreeSet<u32>,
}

/// Policies, identities, subjects, and the rows that follow.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    pub(super) settings: Settings,
    /// Selectors of peers, and the identities they match.
    pub(super) peers: SelectorTable,
    /// Selectors of subjects, and the subjects they match.
    pub(super) about: SelectorTable,
    pub(super) numbers: BTreeMap<PolicyName, u32>,
    pub(super) policies: BTreeMap<u32, Policy>,
    pub(super) last_policy: u32,
    pub(super) rules: BTreeMap<RuleId, Compiled>,
    /// Rules by the selector of their subject.
    pub(super) rules_about: BTreeMap<SelectorId, BTreeSet<RuleId>>,
    pub(super) refer_groups: BTreeSet<RuleId>,
    pub(super) refer_services: BTreeSet<RuleId>,
    pub(super) refer_names: BTreeSet<RuleId>,
    pub(super) groups: BTreeMap<String, CidrGroup>,
    pub(super) services: BTreeMap<(String, String), Service>,
    pub(super) subjects: BTreeMap<u32, State>,
    /// Sides of subjects whose rules use a selector of peers.
    pub(super) users: BTreeMap<SelectorId, BTreeSet<(u32, Direction)>>,
    /// Subjects with egress rules for anybody's ports by name.
    pub(super) any_named: BTreeSet<u32>,
    /// Identities with named ports.
    pub(super) ports: BTreeMap<u32, NamedPorts>,
    pub(super) origins: Origins,
    pub(super) prefixes: BTreeMap<IpNet, u32>,
    /// Prefixes that changed in this step, and whether they were used before.
    pub(super) prefixes_before: BTreeMap<IpNet, bool>,
    pub(super) dirty: BTreeMap<(u32, Direction), Dirty>,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Takes changes over and says what is to be done. The changes count as one: nothing in between is seen.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Diff {
        let tried = self.peers.tried() + self.about.tried();
        let mut work = Work::default();
        for change in changes {
            self.take(change, &mut work);
        }
        self.settle(&mut work);
        work.cost.tried = self.peers.tried() + self.about.tried() - tried;
        let mut diff = Diff {
            ops: writes::in_order(work.ops),
            subjects: work.subjects,
            proxy_rules: work.proxy_rules,
            cost: work.cost,
            ..Diff::default()
        };
        for (prefix, before) in std::mem::take(&mut self.prefixes_before) {
            match (before, self.prefixes.contains_key(&prefix)) {
                (false, true) => diff.prefixes_added.push(prefix),
                (true, false) => diff.prefixes_removed.push(prefix),
                _ => {}
            }
        }
        diff
    }

    fn take(&mut self, change: Change, work: &mut Work) {
        match change {
            Change::Policy(policy) => self.set_policy(policy),
            Change::PolicyGone(name) => self.remove_policy(&name),
            Change::Identity(id, labels, ports) => self.set_identity(id, &labels, ports),
            Change::IdentityGone(id) => self.remove_identity(id),
            Change::Subject(number, subject) => self.set_subject(number, subject),
            Change::SubjectGone(number) => self.remove_subject(number, work),
            Change::Group(group) => {
                let name = group.name.clone();
                if self.groups.get(&name) != Some(&group) {
                    self.groups.insert(name, group);
                    self.recompile(&self.refer_groups.clone());
                }
            }
            Change::GroupGone(name) => {
                if self.groups.remove(&name).is_some() {
                    self.recompile(&self.refer_groups.clone());
                }
            }
            Change::Service(service) => self.set_service(service),
            Change::ServiceGone(namespace, name) => {
                if let Some(service) = self.services.remove(&(namespace, name)) {
                    self.recompile(&self.naming(&service));
                }
            }
            Change::Settings(settings) => {
                if self.settings != settings {
                    self.settings = settings;
                    let all: Vec<u32> = self.subjects.keys().copied().collect();
                    for subject in all {
                        self.mark_all(subject);
                    }
                }
            }
        }
    }

    fn set_service(&mut self, service: Service) {
        let key = (service.namespace.clone(), service.name.clone());
        let mut rules = self.naming(&service);
        if let Some(before) = self.services.get(&key) {
            if *before == service {
                return;
            }
            rules.extend(self.naming(before));
        }
        self.services.insert(key, service);
        self.recompile(&rules);
    }

    fn set_identity(&mut self, id: u32, labels: &Labels, ports: NamedPorts) {
        let facts = Facts::of(labels);
        let same_ports = match self.ports.get(&id) {
            Some(known) => *known == ports,
            None => ports.is_empty(),
        };
        if same_ports && self.peers.facts(id) == Some(&facts) {
            return;
        }
        self.mark_identity(id);
        self.peers.insert(id, facts);
        if ports.is_empty() {
            self.ports.remove(&id);
        } else {
            self.ports.insert(id, ports);
        }
        self.mark_identity(id);
    }

    fn remove_identity(&mut self, id: u32) {
        self.mark_identity(id);
        self.peers.remove(id);
        self.ports.remove(&id);
    }

    /// Marks what depends on an identity as it is known now.
    fn mark_identity(&mut self, id: u32) {
        let mut sides = BTreeSet::new();
        for selector in self.peers.matching(id) {
            sides.extend(self.users.get(selector).into_iter().flatten().copied());
        }
        if self.ports.contains_key(&id) {
            sides.extend(
                self.any_named
                    .iter()
                    .map(|subject| (*subject, Direction::Egress)),
            );
        }
        for side in sides {
            self.dirty.entry(side).or_default().remotes.insert(id);
        }
    }

    pub(super) fn mark_all(&mut self, subject: u32) {
        for direction in Direction::BOTH {
            self.dirty.entry((subject, direction)).or_default().all = true;
        }
    }

    fn set_subject(&mut self, number: u32, subject: Subject) {
        let before = match self.subjects.get(&number) {
            Some(known) if known.subject == subject => return,
            Some(_) => self.detach_subject(number),
            None => None,
        };
        let (mut state, facts) = State::new(subject);
        if let Some(before) = before {
            for (side, old) in state.sides.iter_mut().zip(before.sides) {
                side.rows = old.rows;
            }
            state.proxy = before.proxy;
        }
        self.about.insert(number, facts);
        self.subjects.insert(number, state);
        let rules: Vec<RuleId> = self
            .about
            .matching(number)
            .iter()
            .filter_map(|selector| self.rules_about.get(selector))
            .flatten()
            .copied()
            .collect();
        for rule in rules {
            self.attach(rule, number);
        }
        self.mark_all(number);
    }

    /// Takes a subject away; its rows and what the proxy knows of it are to be seen to.
    fn detach_subject(&mut self, number: u32) -> Option<State> {
        let rules = self
            .subjects
            .get(&number)
            .map(|state| state.rules.clone())
            .unwrap_or_default();
        for rule in rules {
            self.detach(rule, number);
        }
        self.about.remove(number);
        self.subjects.remove(&number)
    }

    fn remove_subject(&mut self, number: u32, work: &mut Work) {
        let Some(state) = self.detach_subject(number) else {
            return;
        };
        if state.proxy.iter().any(|rules| !rules.is_empty()) {
            work.proxy_rules.insert(number);
        }
        for (direction, side) in Direction::BOTH.into_iter().zip(state.sides) {
            self.dirty.remove(&(number, direction));
            for (remote, kept) in side.rows {
                work.subjects.insert(number);
                for row in kept {
                    self.origins.release(row.origin);
                    let key = Key {
                        subject: number,
                        direction,
                        remote,
                        l4: row.l4,
                    };
                    let phase = match row.verdict {
                        Verdict::Allow => Phase::DeleteAllow,
                        _ => Phase::DeleteDeny,
                    };
                    work.ops.push((phase, Op::Delete(key)));
                }
            }
        }
    }

    /// Where rows with this origin came from.
    #[must_use]
    pub fn origin(&self, number: u32) -> Origin {
        self.origins.get(number)
    }

    /// How many different origins the rows have.
    #[must_use]
    pub fn origins(&self) -> usize {
        self.origins.len()
    }

    /// The place of an entry, for people: policy and path; none once the policy is gone or shorter.
    #[must_use]
    pub fn source(&self, place: RuleRef) -> Option<crate::reference::RuleSource> {
        let policy = self.policies.get(&place.policy)?;
        let rule = policy.rules.get(usize::from(place.rule))?;
        let entry = rule
            .section(place.direction)
            .entries
            .get(usize::from(place.entry))?;
        Some(crate::reference::RuleSource {
            policy: policy.name.clone(),
            path: entry.path.clone(),
            action: entry.action,
        })
    }
}

/// What one step came to so far.
#[derive(Default)]
pub(super) struct Work {
    ops: Vec<(Phase, Op)>,
    subjects: BTreeSet<u32>,
    pub(super) proxy_rules: BTreeSet<u32>,
    pub(super) cost: Cost,
}

impl Work {
    pub(super) fn write(&mut self, phase: Phase, op: Op, subject: u32) {
        self.ops.push((phase, op));
        self.subjects.insert(subject);
    }
}
