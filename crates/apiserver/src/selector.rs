//! Label and field selectors: parsed once per request, matched against plain objects.

use std::collections::BTreeSet;

use serde_json::Value;

use super::error::ApiError;
use super::kind::Kind;
use super::object::meta_str;
use super::validate::{check_label_key, check_label_value};

/// How one label is tested.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

impl Requirement {
    fn matches(&self, labels: &Value) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(set) => value.is_some_and(|v| set.contains(v)),
            Test::NotIn(set) => value.is_none_or(|v| !set.contains(v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(than) => number().is_some_and(|n| n > *than),
            Test::Less(than) => number().is_some_and(|n| n < *than),
        }
    }
}

/// A label selector; the empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses the text of a `labelSelector` option, equality and set expressions.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut parser = Parser {
            rest: text,
            whole: text,
        };
        let mut requirements = Vec::new();
        parser.skip_space();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement()?);
            parser.skip_space();
            if parser.rest.is_empty() {
                break;
            }
            parser.expect(',')?;
            parser.skip_space();
            if parser.rest.is_empty() {
                return Err(parser.fail("a requirement is missing after the last ','"));
            }
        }
        Ok(Self { requirements })
    }

    /// A selector as objects write it: `matchLabels` and `matchExpressions`, or (older kinds) a plain map. `None`: it is
    /// malformed, or there is none.
    pub fn from_object(selector: &Value) -> Option<Self> {
        let text = selector_text(selector);
        let nothing = selector
            .as_object()?
            .values()
            .all(|v| v.as_object().is_some_and(serde_json::Map::is_empty));
        if text.is_empty() && !nothing {
            return None;
        }
        Self::parse(&text).ok()
    }

    /// Whether an object's labels meet every requirement.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.requirements.iter().all(|r| r.matches(labels))
    }
}

/// A selector of an object (`matchLabels` and `matchExpressions`, or a plain map) as text.
pub fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let Some(map) = selector.as_object() else {
        return String::new();
    };
    let structured = map.contains_key("matchLabels") || map.contains_key("matchExpressions");
    let labels = if structured {
        selector["matchLabels"].as_object()
    } else {
        Some(map)
    };
    let mut terms: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = expression["values"].as_array().into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Value::as_str).collect();
        let values = values.join(",");
        terms.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

struct Parser<'a> {
    rest: &'a str,
    whole: &'a str,
}

impl<'a> Parser<'a> {
    fn fail(&self, why: &str) -> ApiError {
        let at = self.whole.len() - self.rest.len();
        ApiError::bad_request(format!(
            "unable to parse labelSelector \"{}\" at byte {at}: {why}",
            self.whole
        ))
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, c: char) -> Result<(), ApiError> {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.fail(&format!("expected '{c}'"))),
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || "=!<>(),".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn key(&mut self) -> Result<String, ApiError> {
        self.skip_space();
        let key = self.word();
        check_label_key(key).map_err(|why| self.fail(&format!("key \"{key}\": {why}")))?;
        Ok(key.to_owned())
    }

    fn value(&mut self) -> Result<String, ApiError> {
        self.skip_space();
        let value = self.word();
        check_label_value(value).map_err(|why| self.fail(&format!("value \"{value}\": {why}")))?;
        Ok(value.to_owned())
    }

    fn requirement(&mut self) -> Result<Requirement, ApiError> {
        if self.take("!") {
            return Ok(Requirement {
                key: self.key()?,
                test: Test::Absent,
            });
        }
        let key = self.key()?;
        self.skip_space();
        let test = self.test()?;
        Ok(Requirement { key, test })
    }

    fn test(&mut self) -> Result<Test, ApiError> {
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Ok(Test::Exists);
        }
        if self.take("!=") {
            return Ok(Test::NotIn(BTreeSet::from([self.value()?])));
        }
        if self.take("==") || self.take("=") {
            return Ok(Test::In(BTreeSet::from([self.value()?])));
        }
        if self.take(">") {
            return Ok(Test::Greater(self.number()?));
        }
        if self.take("<") {
            return Ok(Test::Less(self.number()?));
        }
        match self.word() {
            "in" => Ok(Test::In(self.set()?)),
            "notin" => Ok(Test::NotIn(self.set()?)),
            _ => Err(self.fail("expected one of =, ==, !=, <, >, in, notin")),
        }
    }

    fn number(&mut self) -> Result<i64, ApiError> {
        let text = self.value()?;
        text.parse()
            .map_err(|_| self.fail(&format!("\"{text}\" is not a whole number")))
    }

    fn set(&mut self) -> Result<BTreeSet<String>, ApiError> {
        self.skip_space();
        self.expect('(')?;
        let mut set = BTreeSet::new();
        loop {
            set.insert(self.value()?);
            self.skip_space();
            if self.take(")") {
                return Ok(set);
            }
            self.expect(',')?;
        }
    }
}

/// A field selector; the empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    label: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses the text of a `fieldSelector` option for one kind; unknown fields are refused.
    pub fn parse(kind: &Kind, text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if !part.is_empty() {
                terms.push(parse_term(kind, &part)?);
            }
        }
        Ok(Self { terms })
    }

    /// Whether the object's fields meet every term.
    pub fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.terms
            .iter()
            .all(|t| (field_text(kind, object, &t.label) == t.value) == t.equal)
    }

    /// The one name that the selector allows, if it names one.
    pub fn name(&self) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.equal && t.label == "metadata.name")
            .map(|t| t.value.as_str())
    }
}

fn parse_term(kind: &Kind, part: &str) -> Result<FieldTerm, ApiError> {
    let invalid = || {
        ApiError::bad_request(format!(
            "invalid field selector: '{part}'; expected field=value"
        ))
    };
    let at = part.find(['=', '!']).ok_or_else(invalid)?;
    let (label, operator) = part.split_at(at);
    let (equal, value) = ["!=", "==", "="]
        .iter()
        .find_map(|op| operator.strip_prefix(op).map(|value| (*op != "!=", value)))
        .ok_or_else(invalid)?;
    let label = label.trim();
    let known = matches!(label, "metadata.name" | "metadata.namespace");
    let further = || kind.fields.iter().any(|f| f == label);
    if !known && !kind.strategy.field_labels().contains(&label) && !further() {
        return Err(ApiError::bad_request(format!(
            "field label not supported: {label}"
        )));
    }
    Ok(FieldTerm {
        label: label.to_owned(),
        equal,
        value: unescape(value),
    })
}

/// Splits at commas that no backslash precedes.
fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(c);
            escaped = false;
        }
    }
    out
}

fn field_text(kind: &Kind, object: &Value, label: &str) -> String {
    match label {
        "metadata.name" => return meta_str(object, "name").to_owned(),
        "metadata.namespace" => return meta_str(object, "namespace").to_owned(),
        _ => {}
    }
    let found = label.split('.').try_fold(object, |at, field| at.get(field));
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        _ => kind.strategy.absent_field(label).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn matches(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector)
            .unwrap()
            .matches(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn equality_and_sets() {
        let web = json!({"app": "web", "tier": "front", "rank": "3", "k8s.io/role": ""});
        for selector in [
            "",
            " ",
            "app=web",
            "app==web",
            "app = web , tier != back",
            "app in (web, db),tier notin (back)",
            "app",
            "!gone",
            "gone!=x",
            "gone notin (x)",
            "rank>2",
            "rank < 4",
            "k8s.io/role",
            "k8s.io/role=",
        ] {
            assert!(matches(selector, web.clone()), "{selector}");
        }
        for selector in [
            "app=db",
            "gone",
            "!app",
            "app in (db)",
            "app notin (web,db)",
            "rank>3",
            "app>1",
            "gone in ()",
        ] {
            assert!(!matches(selector, web.clone()), "{selector}");
        }
    }

    #[test]
    fn malformed_label_selectors_are_refused_with_the_place() {
        for selector in [
            "=",
            "app=web,",
            "app in web",
            "app in (web",
            "a b",
            "-x=1",
            "app=a b",
            "x>y",
            "app=in=x",
            "!",
        ] {
            let error = LabelSelector::parse(selector).unwrap_err();
            assert_eq!(error.code(), 400, "{selector}");
            assert!(error.to_string().contains("byte"), "{error}");
        }
    }

    #[test]
    fn fields() {
        let pod = kinds::pod();
        let object =
            json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {"nodeName": "n1"}});
        let matches = |text: &str| {
            FieldSelector::parse(&pod, text)
                .unwrap()
                .matches(&pod, &object)
        };
        assert!(matches("spec.nodeName=n1,metadata.name==a"));
        assert!(matches("status.phase!=Running,status.phase="));
        assert!(!matches("metadata.namespace!=d"));
        assert!(FieldSelector::parse(&pod, "spec.color=red").is_err());
        assert!(FieldSelector::parse(&pod, "metadata.name").is_err());
        assert_eq!(
            FieldSelector::parse(&pod, "metadata.name=a\\,b")
                .unwrap()
                .name(),
            Some("a,b")
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,40}", odd in "[a-z=!<>(), \\\\.]{0,30}") {
            let pod = kinds::pod();
            for text in [&text, &odd] {
                let _ = LabelSelector::parse(text);
                let _ = FieldSelector::parse(&pod, text);
            }
        }
    }
}
