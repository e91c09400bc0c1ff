//! Checking values against `values.schema.json`: the keywords that it uses, with messages that say what is accepted.
use regex::Regex;
use serde_json::Value;

/// The most mistakes that are named at once.
const MOST: usize = 8;

/// What is wrong with `values`, one line each; nothing if all is well.
#[must_use]
pub fn check(schema: &Value, values: &Value) -> Vec<String> {
    let mut checker = Checker {
        root: schema,
        found: Vec::new(),
    };
    checker.check(schema, values, "");
    checker.found.truncate(MOST);
    checker.found
}

struct Checker<'a> {
    root: &'a Value,
    found: Vec<String>,
}

impl<'a> Checker<'a> {
    fn wrong(&mut self, path: &str, text: &str) {
        let path = if path.is_empty() { "values" } else { path };
        self.found.push(format!("{path}: {text}"));
    }

    /// A schema, or what it refers to.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        match schema["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix('#'))
        {
            Some(pointer) => self.root.pointer(pointer).unwrap_or(schema),
            None => schema,
        }
    }

    fn check(&mut self, schema: &'a Value, value: &Value, path: &str) {
        let schema = self.resolve(schema);
        if let Some(accepted) = schema["enum"].as_array() {
            if !accepted.contains(value) {
                let accepted: Vec<String> = accepted.iter().map(shown).collect();
                let text = format!("{value} is not accepted; accepted: {}", accepted.join(", "));
                self.wrong(path, &text);
            }
            return;
        }
        let types = types(schema);
        if !types.is_empty() && !types.iter().any(|wanted| is(value, wanted)) {
            let hint = match types.as_slice() {
                ["array"] => ", as {a,b} with --set",
                _ => "",
            };
            let text = format!(
                "{value} is not accepted; accepted: {}{hint}",
                accepted(&types)
            );
            return self.wrong(path, &text);
        }
        match value {
            Value::Object(_) => self.object(schema, value, path),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.check(&schema["items"], item, &format!("{path}[{index}]"));
                }
            }
            Value::String(text) => self.text(schema, text, path),
            Value::Number(_) => self.number(schema, value, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn object(&mut self, schema: &'a Value, value: &Value, path: &str) {
        let properties = schema["properties"].as_object();
        for (key, inner) in value.as_object().into_iter().flatten() {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            match (
                properties.and_then(|all| all.get(key)),
                &schema["additionalProperties"],
            ) {
                (Some(known), _) => self.check(known, inner, &path),
                (None, Value::Bool(false)) => {
                    let known = properties
                        .into_iter()
                        .flatten()
                        .map(|(name, _)| name.as_str());
                    let text = match nearest(key, known) {
                        Some(meant) => format!("there is no such value; did you mean {meant}?"),
                        None => "there is no such value".to_owned(),
                    };
                    self.wrong(&path, &text);
                }
                (None, rest @ Value::Object(_)) => self.check(rest, inner, &path),
                (None, _) => {}
            }
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if name.as_str().is_some_and(|name| value.get(name).is_none()) {
                self.wrong(path, &format!("{} is missing", shown(name)));
            }
        }
    }

    fn text(&mut self, schema: &Value, text: &str, path: &str) {
        let Some(pattern) = schema["pattern"].as_str() else {
            return;
        };
        if Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text)) {
            let accepted = schema["x-accepted"].as_str().unwrap_or(pattern);
            self.wrong(
                path,
                &format!("{text:?} is not accepted; accepted: {accepted}"),
            );
        }
    }

    fn number(&mut self, schema: &Value, value: &Value, path: &str) {
        let number = value.as_f64().unwrap_or(0.0);
        let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            let range = match (least, most) {
                (Some(least), Some(most)) => format!("{least} to {most}"),
                (Some(least), None) => format!("{least} and more"),
                (_, most) => format!("up to {}", most.unwrap_or_default()),
            };
            self.wrong(path, &format!("{value} is not accepted; accepted: {range}"));
        }
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn is(value: &Value, wanted: &str) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    }
}

fn accepted(types: &[&str]) -> String {
    let name = |one: &&str| match *one {
        "object" => "a map",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "null" => "nothing",
        _ => "a number",
    };
    types.iter().map(name).collect::<Vec<_>>().join(" or ")
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What was probably meant: the same but for case, or but for two letters.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|one| (distance(&name.to_lowercase(), &one.to_lowercase()), one))
        .filter(|(distance, one)| *distance <= 2 && *distance < one.len())
        .min()
        .map(|(_, one)| one)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
