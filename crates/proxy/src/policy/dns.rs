//! Rules of DNS names, compiled: whole names in a table, patterns under the part of them that has no star.
use crate::config::DnsRule;
use std::collections::HashMap;

/// A name as rules know it: lower case, without the dot at its end.
#[must_use]
pub fn canonical(name: &str) -> String {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.to_ascii_lowercase()
}

/// Rules of one place, compiled.
#[derive(Debug, Default)]
pub(super) struct DnsRules {
    /// The rule that allows everything.
    all: Option<usize>,
    exact: HashMap<Box<str>, usize>,
    /// By the labels after the last one with a star.
    patterns: HashMap<Box<str>, Vec<Pattern>>,
}

#[derive(Debug)]
struct Pattern {
    rule: usize,
    /// The labels up to the last one with a star.
    labels: Box<[Box<[u8]>]>,
}

impl DnsRules {
    pub(super) fn compile(rules: &[DnsRule]) -> Self {
        let mut compiled = Self::default();
        for (rule, text) in rules.iter().enumerate() {
            match text {
                DnsRule::MatchPattern(star) if star == "*" => {
                    compiled.all.get_or_insert(rule);
                }
                DnsRule::MatchPattern(pattern) if pattern.contains('*') => {
                    compiled.pattern(rule, &canonical(pattern));
                }
                DnsRule::MatchPattern(name) | DnsRule::MatchName(name) => {
                    let name = canonical(name).into_boxed_str();
                    compiled.exact.entry(name).or_insert(rule);
                }
            }
        }
        compiled
    }

    fn pattern(&mut self, rule: usize, pattern: &str) {
        let labels: Vec<&str> = pattern.split('.').collect();
        let after = labels
            .iter()
            .rposition(|label| label.contains('*'))
            .map_or(0, |last| last + 1);
        let (stars, fixed) = labels.split_at(after);
        let pattern = Pattern {
            rule,
            labels: stars.iter().map(|label| label.as_bytes().into()).collect(),
        };
        let key = fixed.join(".").into_boxed_str();
        self.patterns.entry(key).or_default().push(pattern);
    }

    /// The first rule that a canonical name meets.
    pub(super) fn first(&self, name: &str) -> Option<usize> {
        let mut found = self.all;
        let mut meet = |rule: usize| found = Some(found.map_or(rule, |other| other.min(rule)));
        if let Some(rule) = self.exact.get(name) {
            meet(*rule);
        }
        if !self.patterns.is_empty() {
            let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
            let mut rest = Some(name);
            let mut before = 0;
            while let Some(suffix) = rest {
                self.below(suffix, &labels[..before], &mut meet);
                before += 1;
                rest = suffix.split_once('.').map(|(_, rest)| rest);
            }
            // Patterns whose last label has a star.
            self.below("", &labels, &mut meet);
        }
        found
    }

    fn below(&self, suffix: &str, labels: &[&[u8]], meet: &mut impl FnMut(usize)) {
        for pattern in self.patterns.get(suffix).into_iter().flatten() {
            let like = pattern.labels.len() == labels.len()
                && pattern
                    .labels
                    .iter()
                    .zip(labels)
                    .all(|(pattern, label)| glob(pattern, label));
            if like {
                meet(pattern.rule);
            }
        }
    }
}

/// Whether a label is like one with stars. Greedy with one step back to the last star, so never more than the product of both lengths.
fn glob(pattern: &[u8], label: &[u8]) -> bool {
    let (mut p, mut l) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            back = Some((p, l));
            p += 1;
        } else if p < pattern.len() && l < label.len() && pattern[p] == label[l] {
            p += 1;
            l += 1;
        } else if p == pattern.len() && l == label.len() {
            return true;
        } else if let Some((star, from)) = back
            && label.get(from).is_some_and(|byte| stands_for(*byte))
        {
            back = Some((star, from + 1));
            p = star + 1;
            l = from + 1;
        } else {
            return false;
        }
    }
}

fn stands_for(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like(pattern: &str, name: &str) -> bool {
        let rules = DnsRules::compile(&[DnsRule::MatchPattern(pattern.into())]);
        rules.first(&canonical(name)).is_some()
    }

    #[test]
    fn stars_stop_at_dots() {
        for (pattern, name, expected) in [
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "A.Example.ORG.", true),
            ("*.example.org.", "a.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "a.b.example.org", false),
            ("*.*.svc.cluster.local", "web.shop.svc.cluster.local", true),
            ("*.*.svc.cluster.local", "web.svc.cluster.local", false),
            ("a*c.example.org", "ac.example.org", true),
            ("a*c.example.org", "abbc.example.org", true),
            ("a*b*c.org", "axbyc.org", true),
            ("a*b*c.org", "axbybc.org", true),
            ("a*b*c.org", "axyc.org", false),
            ("**.org", "a.org", true),
            ("**.org", "a.b.org", false),
            ("**", "a", true),
            ("**", "a.b", false),
            ("*", "a.b.c", true),
            ("*", ".", true),
            ("www.*", "www.org", true),
            ("www.*", "www.example.org", false),
            ("www.*.org", "www.a.org", true),
            ("*.org", "a b.org", false),
            ("plain.org", "PLAIN.org.", true),
        ] {
            assert_eq!(like(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_first_rule_is_named() {
        let name = |text: &str| DnsRule::MatchName(text.into());
        let pattern = |text: &str| DnsRule::MatchPattern(text.into());
        let rules =
            DnsRules::compile(&[name("a.org"), pattern("*.org"), name("b.org"), pattern("*")]);
        assert_eq!(rules.first("a.org"), Some(0));
        assert_eq!(rules.first("b.org"), Some(1));
        assert_eq!(rules.first("a.b.net"), Some(3));
    }
}
