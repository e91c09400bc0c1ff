//! Names, and names like them: what may be asked of DNS, and to which names' addresses one may connect.
use crate::labels::FQDN;
use std::fmt;

/// A name, or names like it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DnsRule {
    /// This name, in any case, with or without the dot at its end.
    MatchName(String),
    /// Names like this one: `*` stands for letters, digits, `-` and `_`, but not for dots; `*` alone for every name.
    MatchPattern(String),
}

/// A name as it is compared: lower case, without the dot at its end.
#[must_use]
pub fn canonical(name: &str) -> String {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.to_ascii_lowercase()
}

impl DnsRule {
    /// Key of the label of addresses with such names. A pattern without a star and a name that is equal to it have the same one.
    #[must_use]
    pub fn key(&self) -> String {
        canonical(self.text())
    }

    /// The label of addresses with such names, as `fqdn:*.example.org`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{FQDN}:{}", self.key())
    }

    /// What the policy says.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::MatchName(text) | Self::MatchPattern(text) => text,
        }
    }

    /// Whether a [`canonical`] name is meant.
    #[must_use]
    pub fn is_met_by(&self, name: &str) -> bool {
        match self {
            Self::MatchName(own) => canonical(own) == name,
            Self::MatchPattern(pattern) if pattern == "*" => true,
            Self::MatchPattern(pattern) => {
                let pattern = canonical(pattern);
                let (mut ours, mut theirs) = (pattern.split('.'), name.split('.'));
                loop {
                    match (ours.next(), theirs.next()) {
                        (None, None) => return true,
                        (Some(like), Some(label)) if is_like(like.as_bytes(), label.as_bytes()) => {
                        }
                        _ => return false,
                    }
                }
            }
        }
    }

    /// The regular expression that says the same, for people who know it so: of names with the dot at their end.
    #[must_use]
    pub fn expression(&self) -> String {
        let is_pattern = matches!(self, Self::MatchPattern(_));
        if is_pattern && self.text() == "*" {
            return "(^([-a-zA-Z0-9_]+[.])+$)|(^[.]$)".to_owned();
        }
        let key = self.key().replace('.', "[.]");
        if is_pattern {
            format!("^{}[.]$", key.replace('*', "[-a-zA-Z0-9_]*"))
        } else {
            format!("^{key}[.]$")
        }
    }
}

impl fmt::Display for DnsRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MatchName(text) => write!(f, "MatchName: {text}, MatchPattern: "),
            Self::MatchPattern(text) => write!(f, "MatchName: , MatchPattern: {text}"),
        }
    }
}

/// Whether a label is like one with stars: what stands before the first star begins it, what stands behind the last ends it, and
/// the parts between are found in their order, with nothing between them but what a star stands for.
fn is_like(like: &[u8], label: &[u8]) -> bool {
    let mut parts = like.split(|byte| *byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = label.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&[u8]> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        let Some(at) = find(rest, part).filter(|at| is_star(&rest[..*at])) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.strip_suffix(*last).is_some_and(is_star)
}

fn find(label: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    label.windows(part.len()).position(|window| window == part)
}

/// Whether one star may stand for all of it.
fn is_star(bytes: &[u8]) -> bool {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    bytes.iter().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stop_at_dots() {
        let pattern = |text: &str| DnsRule::MatchPattern(text.into());
        for (rule, name, expected) in [
            (pattern("*.example.org"), "a.example.org", true),
            (pattern("*.Example.org."), "a.example.org", true),
            (pattern("*.example.org"), "example.org", false),
            (pattern("*.example.org"), ".example.org", true),
            (pattern("*.example.org"), "a.b.example.org", false),
            (pattern("a*b*c.org"), "axbybc.org", true),
            (pattern("a*b*c.org"), "axyc.org", false),
            (pattern("a*c"), "ac", true),
            (pattern("*a*"), "b", false),
            (pattern("**"), "a", true),
            (pattern("**"), "a.b", false),
            (pattern("*"), "a.b.c", true),
            (pattern("*.org"), "a b.org", false),
            (pattern("plain.org"), "plain.org", true),
            (DnsRule::MatchName("A.org.".into()), "a.org", true),
            (DnsRule::MatchName("a.org".into()), "b.org", false),
        ] {
            assert_eq!(rule.is_met_by(name), expected, "{rule} {name}");
        }
        assert_eq!(pattern("*.Example.org").label(), "fqdn:*.example.org");
        assert_eq!(
            pattern("*.a.org").expression(),
            "^[-a-zA-Z0-9_]*[.]a[.]org[.]$"
        );
    }
}
