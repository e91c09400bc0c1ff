//! Selectors of labels, as Kubernetes writes them, with the labels' sources: `k8s:app in (a,b), !reserved:host`. A key without a
//! source means any.

/// All of its requirements have to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    /// Empty: any.
    source: String,
    key: String,
    is: Is,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Is {
    There,
    NotThere,
    OneOf(Vec<String>),
    NoneOf(Vec<String>),
    Above(i64),
    Below(i64),
}

const ACCEPTED: &str = "accepted are key, !key, key=value, key!=value, key in (a,b), key notin (a,b), key>1 and key<1, with commas between them";

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// The text is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = split(text).ok_or_else(|| {
            format!("{text:?} has parentheses that do not fit each other; {ACCEPTED}")
        })?;
        let requirements: Result<Vec<_>, String> = parts
            .into_iter()
            .map(|part| {
                Requirement::parse(part)
                    .ok_or_else(|| format!("{part:?} is no requirement of labels; {ACCEPTED}"))
            })
            .collect();
        requirements.map(Self)
    }

    /// Whether labels, written as `source:key=value`, are selected.
    #[must_use]
    pub fn matches(&self, labels: &[String]) -> bool {
        self.0.iter().all(|one| one.holds(labels))
    }
}

/// The parts between commas outside of parentheses; none if these do not fit.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        if !(0..=1).contains(&depth) {
            return None;
        }
    }
    parts.push(text[start..].trim());
    (depth == 0).then_some(parts)
}

/// Key and value of a label, and its source, which is empty where none is written.
fn label(text: &str) -> (&str, &str, &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let (source, key) = key.split_once(':').unwrap_or(("", key));
    (source, key, value)
}

impl Requirement {
    fn parse(text: &str) -> Option<Self> {
        if let Some(key) = text.strip_prefix('!') {
            return Self::of(key, Is::NotThere);
        }
        if let Some((head, values)) = text.split_once('(') {
            let values = values.strip_suffix(')')?;
            let values: Vec<String> = values.split(',').map(|one| one.trim().to_owned()).collect();
            let (key, word) = head.trim_end().rsplit_once(char::is_whitespace)?;
            return match word {
                "in" => Self::of(key, Is::OneOf(values)),
                "notin" => Self::of(key, Is::NoneOf(values)),
                _ => None,
            };
        }
        if let Some((key, value)) = text.split_once("!=") {
            return Self::of(key, Is::NoneOf(vec![value.trim().to_owned()]));
        }
        if let Some((key, value)) = text.split_once('=') {
            let value = value.strip_prefix('=').unwrap_or(value).trim();
            return Self::of(key, Is::OneOf(vec![value.to_owned()]));
        }
        if let Some((key, value)) = text.split_once('>') {
            return Self::of(key, Is::Above(value.trim().parse().ok()?));
        }
        if let Some((key, value)) = text.split_once('<') {
            return Self::of(key, Is::Below(value.trim().parse().ok()?));
        }
        Self::of(text, Is::There)
    }

    fn of(key: &str, is: Is) -> Option<Self> {
        let key = key.trim();
        let (source, key) = key.split_once(':').unwrap_or(("", key));
        let source = if source == "any" { "" } else { source };
        // Ranges of addresses are keys, too.
        let is_key = |c: char| c.is_ascii_alphanumeric() || "-._/:".contains(c);
        let fits = !key.is_empty() && key.chars().all(is_key) && source.chars().all(is_key);
        fits.then(|| Self {
            source: source.to_owned(),
            key: key.to_owned(),
            is,
        })
    }

    fn holds(&self, labels: &[String]) -> bool {
        let mut values = labels.iter().filter_map(|text| {
            let (source, key, value) = label(text);
            let is_it = key == self.key && (self.source.is_empty() || source == self.source);
            is_it.then_some(value)
        });
        let number = |value: &str| value.parse::<i64>().ok();
        match &self.is {
            Is::There => values.next().is_some(),
            Is::NotThere => values.next().is_none(),
            Is::OneOf(wanted) => values.any(|value| wanted.iter().any(|one| one == value)),
            Is::NoneOf(unwanted) => !values.any(|value| unwanted.iter().any(|one| one == value)),
            Is::Above(limit) => values.any(|value| number(value).is_some_and(|n| n > *limit)),
            Is::Below(limit) => values.any(|value| number(value).is_some_and(|n| n < *limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<String> {
        [
            "k8s:app=cart",
            "k8s:io.kubernetes.pod.namespace=shop",
            "k8s:tier=3",
            "reserved:health",
            "cidr:10.0.0.0/8",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    #[test]
    fn selectors_select() {
        for text in [
            "app=cart",
            "k8s:app=cart",
            "any:app == cart",
            "app in (x, cart),tier",
            "app notin (x,y)",
            "app!=x",
            "other!=x",
            "!other",
            "!other, app",
            "reserved:health",
            "tier>2,tier<4",
            "cidr:10.0.0.0/8",
            "io.kubernetes.pod.namespace=shop",
        ] {
            let selector = Selector::parse(text).unwrap();
            assert!(selector.matches(&labels()), "{text}");
        }
        for text in [
            "app=x",
            "container:app=cart",
            "app in (x)",
            "app notin (cart)",
            "!app",
            "reserved:host",
            "tier>3",
            "app,other",
        ] {
            let selector = Selector::parse(text).unwrap();
            assert!(!selector.matches(&labels()), "{text}");
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for text in [
            "",
            "a,",
            "in (a)",
            "a in a",
            "a within (b)",
            "a(",
            "a in (b",
            "a)",
            "a in ((b))",
            "a>x",
            "=a",
            "a b",
        ] {
            let error = Selector::parse(text).unwrap_err();
            assert!(error.contains("accepted are"), "{text}: {error}");
        }
    }
}
