//! Validation of custom objects: everything their schema demands.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::civil::Date;
use regex::Regex;
use serde_json::Value;

use super::super::types::ListKind;
use super::super::validate::{FieldErrors, check_dns_subdomain};
use super::{Path, Schema, Type};

/// What a value has to meet besides its type.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the words of JSON schema")]
pub struct Rules {
    pub choices: Vec<Value>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub above: bool,
    pub below: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<usize>,
    pub max_length: Option<usize>,
    pub min_items: Option<usize>,
    pub max_items: Option<usize>,
    pub min_properties: Option<usize>,
    pub max_properties: Option<usize>,
    pub unique: bool,
    pub pattern: Option<Regex>,
    pub format: Option<Format>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

impl Rules {
    /// Whether every value meets them.
    pub fn is_empty(&self) -> bool {
        let numbers = [self.minimum, self.maximum, self.multiple_of]
            .iter()
            .any(Option::is_some);
        let counts = [
            self.min_length,
            self.max_length,
            self.min_items,
            self.max_items,
            self.min_properties,
            self.max_properties,
        ];
        let branches = [&self.all_of, &self.any_of, &self.one_of]
            .iter()
            .any(|b| !b.is_empty());
        let texts = self.pattern.is_some() || self.format.is_some() || !self.choices.is_empty();
        !(numbers
            || counts.iter().any(Option::is_some)
            || branches
            || texts
            || self.unique
            || self.not.is_some())
    }
}

/// A format of text or numbers that is checked; others are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of JSON schema")]
pub enum Format {
    Int32,
    Ipv4,
    Ipv6,
    Ip,
    Cidr,
    DateTime,
    Date,
    Duration,
    Byte,
    Uuid,
    Hostname,
}

impl Format {
    /// A format by its name; `None` if it is not checked.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "int32" => Self::Int32,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "ip" => Self::Ip,
            "cidr" => Self::Cidr,
            "date-time" => Self::DateTime,
            "date" => Self::Date,
            "duration" => Self::Duration,
            "byte" => Self::Byte,
            "uuid" | "uuid4" => Self::Uuid,
            "hostname" => Self::Hostname,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Int32 => "int32",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Ip => "ip",
            Self::Cidr => "cidr",
            Self::DateTime => "date-time",
            Self::Date => "date",
            Self::Duration => "duration",
            Self::Byte => "byte",
            Self::Uuid => "uuid",
            Self::Hostname => "hostname",
        }
    }

    fn accepts(self, value: &Value) -> bool {
        if self == Self::Int32 {
            return value.as_i64().is_none_or(|n| i32::try_from(n).is_ok());
        }
        let Some(text) = value.as_str() else {
            return true;
        };
        let address = || text.parse::<IpAddr>().ok();
        match self {
            Self::Int32 => true,
            Self::Ipv4 => address().is_some_and(|a| a.is_ipv4()),
            Self::Ipv6 => address().is_some_and(|a| a.is_ipv6()),
            Self::Ip => address().is_some(),
            Self::Cidr => text.parse::<ipnet::IpNet>().is_ok(),
            Self::DateTime => text.parse::<Timestamp>().is_ok(),
            Self::Date => text.parse::<Date>().is_ok(),
            Self::Duration => is_duration(text),
            Self::Byte => text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c)),
            Self::Uuid => {
                text.len() >= 32 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
            }
            Self::Hostname => check_dns_subdomain(&text.to_lowercase()).is_ok(),
        }
    }
}

/// Durations such as `1h30m`, `-1.5s`, `300ms`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['-', '+']);
    let mut parts = 0;
    while !rest.is_empty() && rest != "0" {
        let digits = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
                .len();
        let units = ["ns", "us", "µs", "ms", "s", "m", "h", "d", "w"];
        let unit = units
            .iter()
            .filter_map(|unit| rest[digits..].strip_prefix(unit))
            .min_by_key(|r| r.len());
        match unit {
            Some(left) if digits > 0 => rest = left,
            _ => return false,
        }
        parts += 1;
    }
    parts > 0 || rest == "0"
}

/// Adds everything that is wrong with a value.
pub fn check(value: &Value, schema: &Schema, path: &Path<'_>, errors: &mut FieldErrors) {
    if value.is_null() && (schema.nullable || schema.of.is_none()) {
        return;
    }
    if !has_type(value, schema) {
        let expected = match schema.of {
            Some(Type::Object) => "object",
            Some(Type::Array) => "array",
            Some(Type::Integer { .. }) => "integer",
            Some(Type::Number) => "number",
            Some(Type::Boolean) => "boolean",
            Some(Type::IntOrString) => "integer,string",
            _ => "string",
        };
        let (got, shown) = type_name(value);
        let why = format!("{path} in body must be of type {expected}: \"{got}\"");
        errors.invalid(path.to_string(), &shown, &why);
        return;
    }
    match value {
        Value::Object(map) => {
            for name in schema
                .required
                .iter()
                .filter(|name| !map.contains_key(*name))
            {
                errors.required(path.field(name).to_string(), "");
            }
            for (name, value) in map {
                if let Some(field) = schema.field(name) {
                    check(value, field, &path.key(name), errors);
                }
            }
        }
        Value::Array(list) => {
            for (i, element) in list.iter().enumerate() {
                check(element, schema.element(), &path.index(i), errors);
            }
            check_unique(list, schema, path, errors);
        }
        _ => {}
    }
    if let Some(rules) = &schema.rules {
        check_rules(value, rules, path, errors);
    }
}

fn has_type(value: &Value, schema: &Schema) -> bool {
    match (schema.of, value) {
        (None, _)
        | (Some(Type::Object), Value::Object(_))
        | (Some(Type::Array), Value::Array(_))
        | (
            Some(Type::String | Type::IntOrString | Type::Quantity | Type::Time | Type::Bytes),
            Value::String(_),
        )
        | (Some(Type::Number | Type::Quantity), Value::Number(_))
        | (Some(Type::Boolean), Value::Bool(_)) => true,
        (Some(Type::Integer { .. } | Type::IntOrString), Value::Number(n)) => {
            n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        _ => false,
    }
}

/// What a value is, and how an error shows it.
fn type_name(value: &Value) -> (&'static str, Value) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    (kind, Value::from(kind))
}

/// How long a list may be for its elements to be compared; longer ones are taken as they are.
const MAX_COMPARED: usize = 10_000;

fn check_unique(list: &[Value], schema: &Schema, path: &Path<'_>, errors: &mut FieldErrors) {
    let identity = |element: &Value| match &schema.list {
        ListKind::Map(keys) => {
            let key = |name: &String| {
                let default = || schema.element().field(name).and_then(|f| f.default.clone());
                element
                    .get(name)
                    .cloned()
                    .or_else(default)
                    .unwrap_or(Value::Null)
            };
            Some(Value::Array(keys.iter().map(key).collect()).to_string())
        }
        ListKind::Set => Some(element.to_string()),
        _ => schema
            .rules
            .as_ref()
            .filter(|r| r.unique)
            .map(|_| element.to_string()),
    };
    let mut seen = BTreeSet::new();
    for (i, element) in list.iter().enumerate().take(MAX_COMPARED) {
        if identity(element).is_some_and(|id| !seen.insert(id)) {
            errors.duplicate(path.index(i).to_string(), element);
        }
    }
}

fn check_rules(value: &Value, rules: &Rules, path: &Path<'_>, errors: &mut FieldErrors) {
    if !rules.choices.is_empty() && !rules.choices.contains(value) {
        let choices: Vec<String> = rules
            .choices
            .iter()
            .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
            .collect();
        let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
        errors.unsupported(path.to_string(), value, &choices);
    }
    let mut wrong =
        |why: String| errors.invalid(path.to_string(), value, &format!("{path} in body {why}"));
    if let Some(number) = value.as_f64() {
        check_number(number, rules, &mut wrong);
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count();
        if rules.min_length.is_some_and(|min| length < min) {
            wrong(format!(
                "should be at least {} chars long",
                rules.min_length.unwrap_or(0)
            ));
        }
        if rules.max_length.is_some_and(|max| length > max) {
            wrong(format!(
                "should be at most {} chars long",
                rules.max_length.unwrap_or(0)
            ));
        }
        if let Some(pattern) = rules.pattern.as_ref().filter(|p| !p.is_match(text)) {
            wrong(format!("should match '{pattern}'"));
        }
    }
    if let Some(format) = rules.format.filter(|f| !f.accepts(value)) {
        wrong(format!("must be of type {}: {value}", format.name()));
    }
    check_counts(value, rules, path, errors);
    check_branches(value, rules, path, errors);
}

fn check_number(number: f64, rules: &Rules, wrong: &mut impl FnMut(String)) {
    if let Some(min) = rules.minimum {
        if rules.above && number <= min {
            wrong(format!("should be greater than {min}"));
        } else if number < min {
            wrong(format!("should be greater than or equal to {min}"));
        }
    }
    if let Some(max) = rules.maximum {
        if rules.below && number >= max {
            wrong(format!("should be less than {max}"));
        } else if number > max {
            wrong(format!("should be less than or equal to {max}"));
        }
    }
    if let Some(of) = rules
        .multiple_of
        .filter(|of| *of > 0.0 && (number / of).fract() != 0.0)
    {
        wrong(format!("should be a multiple of {of}"));
    }
}

fn check_counts(value: &Value, rules: &Rules, path: &Path<'_>, errors: &mut FieldErrors) {
    let (count, min, max, what) = match value {
        Value::Array(list) => (list.len(), rules.min_items, rules.max_items, "items"),
        Value::Object(map) => (
            map.len(),
            rules.min_properties,
            rules.max_properties,
            "properties",
        ),
        _ => return,
    };
    if let Some(max) = max.filter(|max| count > *max) {
        errors.too_many(path.to_string(), count, max);
    }
    if let Some(min) = min.filter(|min| count < *min) {
        errors.invalid(
            path.to_string(),
            &Value::from(count),
            &format!("{path} in body should have at least {min} {what}"),
        );
    }
}

fn check_branches(value: &Value, rules: &Rules, path: &Path<'_>, errors: &mut FieldErrors) {
    let meets = |schema: &Schema| {
        let mut inner = FieldErrors::default();
        check(value, schema, path, &mut inner);
        inner.is_empty()
    };
    // A path is written down only where something is wrong: large objects are walked through with every write.
    let mut wrong =
        |why: &str| errors.invalid(path.to_string(), value, &format!("\"{path}\" must {why}"));
    if !rules.any_of.is_empty() && !rules.any_of.iter().any(meets) {
        wrong("validate at least one schema (anyOf)");
    }
    if !rules.one_of.is_empty() {
        match rules.one_of.iter().filter(|schema| meets(schema)).count() {
            1 => {}
            0 => wrong("validate one and only one schema (oneOf). Found none valid"),
            n => wrong(&format!(
                "validate one and only one schema (oneOf). Found {n} valid alternatives"
            )),
        }
    }
    if rules.not.as_ref().is_some_and(|schema| meets(schema)) {
        wrong("not validate the schema (not)");
    }
    for schema in &rules.all_of {
        check(value, schema, path, errors);
    }
}
