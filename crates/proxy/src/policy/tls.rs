//! Rules of servers' names, compiled: as those of DNS, and `**.` before a name for all names below it.
use super::dns::{DnsRules, canonical};
use crate::config::{DnsRule, TlsRule};

/// Rules of one place, compiled.
#[derive(Debug)]
pub(super) struct TlsRules {
    names: DnsRules,
    /// Names of which those below are meant, each with the dot before it.
    below: Box<[(Box<str>, usize)]>,
}

impl TlsRules {
    pub(super) fn compile(rules: &[TlsRule]) -> Self {
        let mut below = Vec::new();
        let mut names = Vec::new();
        for (index, TlsRule { server_name }) in rules.iter().enumerate() {
            let text = canonical(server_name);
            let pattern = match text.strip_prefix("**") {
                Some("") => "*",
                Some(rest) if rest.starts_with('.') => {
                    below.push((rest.into(), index));
                    // Nothing is called that: the place of the rule is kept.
                    ""
                }
                _ => &text,
            };
            names.push(DnsRule::MatchPattern(pattern.to_owned()));
        }
        Self {
            names: DnsRules::compile(&names),
            below: below.into(),
        }
    }

    /// The first rule that a canonical name meets.
    pub(super) fn first(&self, name: &str) -> Option<usize> {
        let is_below = |end: &str| name.strip_suffix(end).is_some_and(|rest| !rest.is_empty());
        let below = self.below.iter().find(|(end, _)| is_below(end));
        let own = self.names.first(name).into_iter();
        own.chain(below.map(|(_, index)| *index)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_those_like_them() {
        for (pattern, name, expected) in [
            ("a.org", "a.org", true),
            ("A.org.", "a.org", true),
            ("a.org", "b.a.org", false),
            ("*.a.org", "b.a.org", true),
            ("*.a.org", "c.b.a.org", false),
            ("*.a.org", "a.org", false),
            ("**.a.org", "b.a.org", true),
            ("**.a.org", "c.b.a.org", true),
            ("**.a.org", "a.org", false),
            ("**.a.org", ".a.org", false),
            ("**.a.org", "ba.org", false),
            ("shop-*.a.org", "shop-1.a.org", true),
            ("*", "c.b.a.org", true),
            ("**", "c.b.a.org", true),
        ] {
            let rules = TlsRules::compile(&[TlsRule {
                server_name: pattern.to_owned(),
            }]);
            assert_eq!(rules.first(name).is_some(), expected, "{pattern} {name}");
        }
    }
}
