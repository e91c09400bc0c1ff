//! What is marked is worked out anew, and what differs from before is written.
use super::compile::{Named, Term};
use super::diff::Cost;
use super::engine::{Dirty, Engine, Work};
use super::origin::{DEFAULT_ALLOW, LOCALHOST};
use super::precedence::Precedence;
use super::reduce::{self, Row, Said};
use super::subjects::{Enforcement, Kept, Side, State, TermId};
use super::writes;
use crate::kernel::{ANYBODY, Key, L4, Value, Verdict};
use crate::rule::{Action, Direction};
use crate::selector::SelectorId;
use abi::identity::HOST;
use std::collections::BTreeSet;

/// The row by which the host reaches the pods of a subject whatever rules say: it may stand before any rule is known.
#[must_use]
pub fn localhost_row(subject: u32) -> (Key, Value) {
    let key = Key {
        subject,
        direction: Direction::Ingress,
        remote: HOST,
        l4: L4::ALL,
    };
    let value = Value {
        verdict: Verdict::Allow,
        l7: None,
        precedence: Precedence::LOCALHOST.0,
        origin: LOCALHOST,
    };
    (key, value)
}

impl Engine {
    /// Works out anew what is marked.
    pub(super) fn settle(&mut self, work: &mut Work) {
        for ((number, direction), dirty) in std::mem::take(&mut self.dirty) {
            let Some(mut state) = self.subjects.remove(&number) else {
                continue;
            };
            self.settle_side(number, &mut state, direction, dirty, work);
            self.subjects.insert(number, state);
        }
    }

    fn settle_side(
        &mut self,
        number: u32,
        state: &mut State,
        direction: Direction,
        dirty: Dirty,
        work: &mut Work,
    ) {
        let enforcement = state.enforcement(&self.settings, direction);
        let mut remotes = dirty.remotes;
        let side = &state.sides[direction.index()];
        if dirty.all {
            remotes.extend(self.everybody(side));
            remotes.extend([ANYBODY, HOST]);
        }
        if remotes.contains(&ANYBODY) {
            remotes.extend(&side.worked_out);
        }
        let ask = Ask {
            state,
            direction,
            enforcement,
        };
        let mut found = Vec::new();
        for remote in remotes {
            work.cost.visited += 1;
            let said = self.said(&ask, remote, &mut work.cost);
            let passes = said.iter().any(|one| one.action == Action::Pass);
            let rows = if passes {
                let anybody = self.said(&ask, ANYBODY, &mut work.cost);
                reduce::worked_out(&said, &anybody)
            } else {
                reduce::rows(said)
            };
            found.push((remote, rows, passes));
        }
        let proxy = self.proxy_side(&ask);
        if *state.proxy[direction.index()] != *proxy {
            state.proxy[direction.index()] = proxy.into();
            work.proxy_rules.insert(number);
        }
        let side = &mut state.sides[direction.index()];
        for (remote, rows, passes) in found {
            if passes {
                side.worked_out.insert(remote);
            } else {
                side.worked_out.remove(&remote);
            }
            let place = Key {
                subject: number,
                direction,
                remote,
                l4: L4::ALL,
            };
            self.replace(side, place, rows, work);
        }
    }

    /// Every remote that this side's rows are or may be about.
    fn everybody(&self, side: &Side) -> BTreeSet<u32> {
        let selected = side
            .by_selector
            .keys()
            .flat_map(|selector| self.peers.matched(*selector));
        let mut all: BTreeSet<u32> = side.rows.keys().copied().chain(selected).collect();
        if !side.any_named.is_empty() {
            all.extend(self.ports.keys());
        }
        all
    }

    /// All that is said to a subject of one remote alone.
    fn said(&self, ask: &Ask<'_>, remote: u32, cost: &mut Cost) -> Vec<Said> {
        let mut said = Vec::new();
        let built_in = |precedence| Said {
            l4: L4::ALL,
            precedence,
            action: Action::Allow,
            l7: None,
            source: None,
        };
        if ask.enforcement != Enforcement::DefaultDeny && remote == ANYBODY {
            said.push(built_in(Precedence::DEFAULT));
        }
        if self.settings.mode == crate::Mode::Never {
            return said;
        }
        let is_localhost = remote == HOST
            && ask.direction == Direction::Ingress
            && self.settings.allow_localhost
            && !ask.state.is_host;
        if is_localhost {
            said.push(built_in(Precedence::LOCALHOST));
        }
        let side = &ask.state.sides[ask.direction.index()];
        let matching = self.peers.matching(remote);
        let mut add = |term: &TermId, with_l4: bool| {
            cost.terms += 1;
            if let Some(term) = self.term(*term, ask.direction) {
                let before_baseline = ask.enforcement == Enforcement::DefaultDeny;
                if !(before_baseline && term.precedence.is_baseline()
                    || self.lacks(side, term, remote))
                {
                    self.add_term(ask, term, remote, with_l4, &mut said);
                }
            }
        };
        if remote == ANYBODY {
            side.any.iter().for_each(|term| add(term, true));
            return said;
        }
        for selector in matching {
            if let Some(terms) = side.by_selector.get(selector) {
                terms.iter().for_each(|term| add(term, true));
            }
        }
        if self.ports.contains_key(&remote) {
            side.any_named.iter().for_each(|term| add(term, false));
        }
        said
    }

    pub(super) fn term(
        &self,
        (rule, index): TermId,
        direction: Direction,
    ) -> Option<&Term<SelectorId>> {
        self.rules.get(&rule)?.terms[direction.index()].get(usize::from(index))
    }

    fn add_term(
        &self,
        ask: &Ask<'_>,
        term: &Term<SelectorId>,
        remote: u32,
        with_l4: bool,
        said: &mut Vec<Said>,
    ) {
        let mut push = |l4| {
            said.push(Said {
                l4,
                precedence: term.precedence,
                action: term.action,
                l7: term.l7.as_ref().map(|l7| l7.rules.kind()),
                source: Some(term.source),
            });
        };
        if with_l4 {
            term.l4.iter().copied().for_each(&mut push);
        }
        // A port has the name that the receiver gives it.
        let ports = match ask.direction {
            Direction::Ingress => Some(&ask.state.subject.ports),
            Direction::Egress => self.ports.get(&remote),
        };
        for port in ports.into_iter().flatten() {
            let is_meant = |(name, protocol): &Named| {
                *name == port.name && protocol.is_none_or(|want| want == port.protocol)
            };
            if term.named.iter().any(is_meant) {
                push(L4::port(port.protocol.number(), port.port));
            }
        }
    }

    /// Puts the rows of one remote in the place of those before, and notes the writes.
    fn replace(&mut self, side: &mut Side, place: Key, rows: Vec<Row>, work: &mut Work) {
        let kept: Box<[Kept]> = rows.iter().map(|row| self.keep(row)).collect();
        let before = side.rows.remove(&place.remote).unwrap_or_default();
        for row in &before {
            self.origins.release(row.origin);
        }
        writes::of_place(place, &before, &kept, |phase, op| {
            work.write(phase, op, place.subject);
        });
        if !kept.is_empty() {
            side.rows.insert(place.remote, kept);
        }
    }

    fn keep(&mut self, row: &Row) -> Kept {
        let origin = if !row.sources.is_empty() {
            let policies = &self.policies;
            self.origins
                .acquire(&row.sources, |rule| rule.hash(policies.get(&rule.policy)))
        } else if row.verdict == Verdict::Unmatched {
            0
        } else if row.decided_by == Precedence::LOCALHOST {
            LOCALHOST
        } else {
            DEFAULT_ALLOW
        };
        Kept {
            l4: row.l4,
            verdict: row.verdict,
            l7: row.l7,
            precedence: row.precedence.0,
            origin,
        }
    }
}

/// For whom and in which direction something is asked.
pub(super) struct Ask<'a> {
    pub(super) state: &'a State,
    pub(super) direction: Direction,
    pub(super) enforcement: Enforcement,
}
