//! Whom policy is enforced for: endpoints of one identity together, since they share their rows.
use super::engine::RuleId;
use super::proxy::ProxyRules;
use crate::kernel::{L4, Value, Verdict};
use crate::labels::{Facts, RESERVED};
use crate::rule::{Action, Direction, L7Kind, NamedPorts};
use crate::selector::SelectorId;
use crate::{Mode, Settings};
use model::Labels;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A subject: what endpoints need to have in common to share rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Their labels. The host has `reserved:host` and the labels of its node.
    pub labels: Labels,
    /// Their named ports.
    pub ports: NamedPorts,
}

/// Whether policy is enforced in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Nothing is asked: every packet passes.
    Off,
    /// Rules are asked, and what none speaks of passes.
    Rules,
    /// What no rule allows is dropped.
    DefaultDeny,
}

impl Enforcement {
    /// The word of `endpoint list`. With `audit` the node forwards what the rows deny and says so: rows and verdicts are
    /// the same, so that what audit shows is what would be dropped.
    #[must_use]
    pub const fn text(self, audit: bool) -> &'static str {
        match (self, audit) {
            (Self::Off, _) => "Disabled",
            (_, true) => "Disabled (Audit)",
            (_, false) => "Enabled",
        }
    }
}

/// A row as the engine keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) l4: L4,
    pub(super) verdict: Verdict,
    pub(super) l7: Option<L7Kind>,
    pub(super) precedence: u32,
    pub(super) origin: u32,
}

impl Kept {
    pub(super) const fn of(l4: L4, value: Value) -> Self {
        Self {
            l4,
            verdict: value.verdict,
            l7: value.l7,
            precedence: value.precedence,
            origin: value.origin,
        }
    }

    pub(super) const fn value(&self) -> Value {
        Value {
            verdict: self.verdict,
            l7: self.l7,
            precedence: self.precedence,
            origin: self.origin,
        }
    }
}

/// A term of a rule: the rule, and its place in the compiled section.
pub(super) type TermId = (RuleId, u16);

/// One direction of a subject.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    /// How many rules ask for default deny.
    pub(super) default_deny: u32,
    /// Terms by the selector of their peers.
    pub(super) by_selector: BTreeMap<SelectorId, Vec<TermId>>,
    /// What peers of guarded terms must have, and how often that is asked for.
    pub(super) requires: BTreeMap<(Action, SelectorId), u32>,
    /// Terms that speak of anybody.
    pub(super) any: Vec<TermId>,
    /// Those of them with ports that the peer names.
    pub(super) any_named: Vec<TermId>,
    /// How many terms have rules above the transport.
    pub(super) l7: u32,
    /// Rows by remote.
    pub(super) rows: BTreeMap<u32, Box<[Kept]>>,
    /// Remotes whose rows hold what is said of anybody, too.
    pub(super) worked_out: BTreeSet<u32>,
}

/// A subject and its rows.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) subject: Subject,
    pub(super) is_host: bool,
    is_init: bool,
    is_health: bool,
    pub(super) rules: BTreeSet<RuleId>,
    pub(super) sides: [Side; 2],
    /// What the proxy has to know of the subject, by direction.
    pub(super) proxy: [Arc<[ProxyRules]>; 2],
}

impl State {
    pub(super) fn new(subject: Subject) -> (Self, Facts) {
        let facts = Facts::of(&subject.labels);
        let state = Self {
            subject,
            is_host: facts.has(RESERVED, "host"),
            is_init: facts.has(RESERVED, "init"),
            is_health: facts.has(RESERVED, "health"),
            rules: BTreeSet::new(),
            sides: [Side::default(), Side::default()],
            proxy: Default::default(),
        };
        (state, facts)
    }

    pub(super) fn enforcement(&self, settings: &Settings, direction: Direction) -> Enforcement {
        let side = &self.sides[direction.index()];
        match settings.mode {
            Mode::Never => Enforcement::Off,
            Mode::Always if !self.is_health => Enforcement::DefaultDeny,
            _ if self.is_init || side.default_deny > 0 => Enforcement::DefaultDeny,
            _ if side.by_selector.is_empty() && side.any.is_empty() => Enforcement::Off,
            _ => Enforcement::Rules,
        }
    }
}
