//! From all that is said about one remote identity to the rows for it.
use super::{RuleRef, precedence::Precedence};
use crate::kernel::{L4, Verdict};
use crate::rule::{Action, L7Kind};

/// One thing that is said of some traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) l4: L4,
    pub(super) precedence: Precedence,
    pub(super) action: Action,
    /// What the proxy has to see of it; what is allowed without may be part of the same traffic.
    pub(super) l7: Option<L7Kind>,
    /// None where no rule says so.
    pub(super) source: Option<RuleRef>,
}

/// A row before its origin has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) l4: L4,
    pub(super) verdict: Verdict,
    /// It passes by way of the proxy.
    pub(super) l7: Option<L7Kind>,
    pub(super) precedence: Precedence,
    /// Precedence of what is said, which a row that is worked out does not show.
    pub(super) decided_by: Precedence,
    /// The rules that say so, sorted; empty where none does.
    pub(super) sources: Vec<RuleRef>,
}

fn verdict(action: Action) -> Verdict {
    match action {
        Action::Allow => Verdict::Allow,
        Action::Deny => Verdict::Deny,
        Action::Pass => Verdict::Unmatched,
    }
}

/// The rows for what is `said` of one remote: one for each prefix, without those that a shorter prefix of greater
/// precedence overrules. So the longest match has the greatest precedence of all that matches.
pub(super) fn rows(mut said: Vec<Said>) -> Vec<Row> {
    said.sort_unstable_by_key(|one| (one.l4, std::cmp::Reverse(one.precedence), one.source));
    let mut rows = Vec::new();
    // Prefixes that cover the current one, with the greatest precedence up to each.
    let mut above: Vec<(L4, Precedence)> = Vec::new();
    for group in said.chunk_by(|a, b| a.l4 == b.l4) {
        let first = group[0];
        while above.last().is_some_and(|(l4, _)| !l4.covers(first.l4)) {
            above.pop();
        }
        let greatest = above.last().map(|(_, precedence)| *precedence);
        if greatest.is_some_and(|greatest| greatest > first.precedence) {
            continue;
        }
        above.push((first.l4, first.precedence));
        rows.push(Row {
            l4: first.l4,
            verdict: verdict(first.action),
            l7: first.l7,
            precedence: first.precedence,
            decided_by: first.precedence,
            sources: sources(group, first.precedence),
        });
    }
    rows
}

fn sources<'a>(said: impl IntoIterator<Item = &'a Said>, precedence: Precedence) -> Vec<RuleRef> {
    let mut sources: Vec<RuleRef> = said
        .into_iter()
        .filter(|one| one.precedence == precedence)
        .filter_map(|one| one.source)
        .collect();
    sources.sort_unstable();
    sources.dedup();
    sources
}

/// The rows for a remote of whom an admin rule passes the question on. What follows then differs from prefix to prefix,
/// so every prefix that anything is said of gets its answer, with what is said of `anybody` worked in: these rows
/// need no second look-up.
pub(super) fn worked_out(said: &[Said], anybody: &[Said]) -> Vec<Row> {
    let all: Vec<Said> = said.iter().chain(anybody).copied().collect();
    let mut prefixes: Vec<L4> = all.iter().map(|one| one.l4).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
        .into_iter()
        .map(|l4| {
            let mut about: Vec<Said> = all
                .iter()
                .filter(|one| one.l4.covers(l4))
                .copied()
                .collect();
            if greatest(&about).is_some_and(|one| one.action == Action::Pass) {
                about.retain(|one| !one.precedence.is_admin());
            }
            let counts = greatest(&about);
            let decided_by = counts.map_or(Precedence::DEFAULT, |one| one.precedence);
            Row {
                l4,
                verdict: counts.map_or(Verdict::Unmatched, |one| verdict(one.action)),
                l7: counts.and_then(|one| one.l7),
                precedence: Precedence::FINAL,
                decided_by,
                sources: sources(&about, decided_by),
            }
        })
        .collect()
}

fn greatest(said: &[Said]) -> Option<Said> {
    said.iter().copied().max_by_key(|one| one.precedence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Tier;

    fn said(l4: L4, action: Action) -> Said {
        Said {
            l4,
            precedence: Precedence::of(Tier::Normal, action, None),
            action,
            l7: None,
            source: None,
        }
    }

    #[test]
    fn a_broad_deny_removes_the_narrower_allows_it_covers() {
        let web = L4::port(6, 80);
        let got = rows(vec![
            said(web, Action::Allow),
            said(L4::port(17, 53), Action::Allow),
            said(L4::protocol(6), Action::Deny),
        ]);
        let got: Vec<_> = got.iter().map(|row| (row.l4, row.verdict)).collect();
        assert_eq!(
            got,
            [
                (L4::protocol(6), Verdict::Deny),
                (L4::port(17, 53), Verdict::Allow)
            ]
        );
    }

    #[test]
    fn a_narrow_deny_stays_below_a_broad_allow() {
        let got = rows(vec![
            said(L4::ALL, Action::Allow),
            said(L4::port(6, 80), Action::Deny),
            said(L4::port(6, 80), Action::Allow),
        ]);
        assert_eq!(got.len(), 2);
        assert_eq!(got[1].verdict, Verdict::Deny);
    }

    #[test]
    fn a_passed_question_is_answered_for_every_prefix() {
        let tier = |index| Tier::Admin { priority: 1, index };
        let admin = |l4, index, action| Said {
            l4,
            precedence: Precedence::of(tier(index), action, None),
            action,
            l7: None,
            source: None,
        };
        let exact = [
            admin(L4::port(6, 80), 0, Action::Pass),
            admin(L4::protocol(6), 1, Action::Allow),
        ];
        let anybody = [said(L4::range(6, 64, 127)[0], Action::Deny)];
        let got: Vec<_> = worked_out(&exact, &anybody)
            .iter()
            .map(|row| (row.l4.to_string(), row.verdict))
            .collect();
        assert_eq!(
            got,
            [
                ("TCP".to_owned(), Verdict::Allow),
                ("64-127/TCP".to_owned(), Verdict::Allow),
                ("80/TCP".to_owned(), Verdict::Deny),
            ]
        );
        let got = worked_out(&exact, &[]);
        assert_eq!(got[1].verdict, Verdict::Unmatched);
    }
}
