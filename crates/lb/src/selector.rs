//! Label selectors of Kubernetes.
use std::fmt;

/// Key that means the namespace of a service.
pub const NAMESPACE: &str = "io.kubernetes.service.namespace";
/// Key that means the name of a service.
pub const NAME: &str = "io.kubernetes.service.name";

/// What is asked of the value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// It is one of these.
    In(Vec<String>),
    /// There is none, or it is none of these.
    NotIn(Vec<String>),
    /// There is one.
    Exists,
    /// There is none.
    Absent,
}

/// A conjunction of requirements; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Keys, and what is asked of them.
    pub requirements: Vec<(String, Test)>,
}

impl Selector {
    /// Whether all requirements hold, where `get` gives the value of a label.
    #[must_use]
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|(key, test)| {
            let value = get(key);
            match test {
                Test::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
                Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| v != value)),
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
            }
        })
    }

    /// Whether it selects a service: two keys mean its namespace and its name.
    #[must_use]
    pub fn matches_service(&self, key: &str, labels: &model::LabelMap) -> bool {
        let (namespace, name) = crate::input::names(key);
        self.matches(|wanted| match wanted {
            NAMESPACE => Some(namespace),
            NAME => Some(name),
            _ => labels.get(wanted),
        })
    }

    /// Reads the one-line form: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// What is wrong with which part.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for part in parts(text)? {
            requirements.push(requirement(part.trim())?);
        }
        Ok(Self { requirements })
    }
}

/// The pieces between commas that stand in no brackets.
fn parts(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    if text.trim().is_empty() {
        return Ok(parts);
    }
    for (index, c) in text.char_indices() {
        match c {
            '(' if inside => return Err(format!("{text:?}: brackets in brackets")),
            '(' => inside = true,
            ')' if !inside => return Err(format!("{text:?}: a bracket that was not opened")),
            ')' => inside = false,
            ',' if !inside => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(format!("{text:?}: a bracket that is not closed"));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn requirement(part: &str) -> Result<(String, Test), String> {
    if let Some((head, values)) = part.split_once('(') {
        let values = values.strip_suffix(')');
        let values = values.ok_or_else(|| format!("{part:?}: something follows the bracket"))?;
        let values: Vec<_> = values.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok((key_of(key)?, Test::In(values))),
            (Some(key), Some("notin"), None) => Ok((key_of(key)?, Test::NotIn(values))),
            _ => Err(format!(
                "{part:?}: accepted before brackets: key in, key notin"
            )),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok((
            key_of(key.trim())?,
            Test::NotIn(vec![value.trim().to_owned()]),
        ));
    }
    if let Some((key, value)) = part.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value).trim();
        return Ok((key_of(key.trim())?, Test::In(vec![value.to_owned()])));
    }
    match part.strip_prefix('!') {
        Some(key) => Ok((key_of(key.trim())?, Test::Absent)),
        None => Ok((key_of(part)?, Test::Exists)),
    }
}

fn key_of(text: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if text.is_empty() || !text.chars().all(known) {
        return Err(format!("{text:?} is no key of a label"));
    }
    Ok(text.to_owned())
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, test)) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match test {
                Test::In(values) => write!(f, "{comma}{key} in ({})", values.join(","))?,
                Test::NotIn(values) => write!(f, "{comma}{key} notin ({})", values.join(","))?,
                Test::Exists => write!(f, "{comma}{key}")?,
                Test::Absent => write!(f, "{comma}!{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_line_form() {
        let selector = Selector::parse("a=1, b==2,c!=3,d in (4, 5),e notin (6),f,!g").unwrap();
        let printed = "a in (1),b in (2),c notin (3),d in (4,5),e notin (6),f,!g";
        assert_eq!(selector.to_string(), printed);
        assert_eq!(Selector::parse(printed).unwrap(), selector);
        let labels = |key: &str| match key {
            "a" => Some("1"),
            "b" => Some("2"),
            "d" => Some("5"),
            "f" => Some(""),
            _ => None,
        };
        assert!(selector.matches(labels));
        assert!(!Selector::parse("g").unwrap().matches(labels));
        assert!(Selector::parse(" ").unwrap().requirements.is_empty());
    }

    #[test]
    fn what_is_no_selector() {
        for text in [
            "=1",
            "a in (b",
            "a in b)",
            "a (b)",
            "a in (b) c",
            ",",
            "a b",
            "a in ((b))",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
