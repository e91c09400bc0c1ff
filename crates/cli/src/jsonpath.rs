//! The part of kubectl's JSONPath that scripts use: `{.a.b[0].c[*]['key.with.dots']}`.
use std::str::FromStr;

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(i64),
    All,
}

impl Path {
    /// The values that the path leads to, none if there is no such place.
    #[must_use]
    pub fn select<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| step.apply(value))
                .collect();
        }
        found
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Key(key), Value::Object(map)) => map.get(key).into_iter().collect(),
            (Self::Index(index), Value::Array(list)) => {
                let place = if *index < 0 {
                    index + list.len() as i64
                } else {
                    *index
                };
                usize::try_from(place)
                    .ok()
                    .and_then(|place| list.get(place))
                    .into_iter()
                    .collect()
            }
            (Self::All, Value::Array(list)) => list.iter().collect(),
            (Self::All, Value::Object(map)) => map.values().collect(),
            _ => Vec::new(),
        }
    }
}

impl FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(inner);
        let mut rest = inner.strip_prefix('$').unwrap_or(inner);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = next_step(rest).map_err(|what| {
                format!(
                    "{what} at character {} of `{text}`; accepted: {{.key.key[0][*]['key']}}",
                    text.len() - rest.len()
                )
            })?;
            steps.extend(step);
            rest = after;
        }
        Ok(Self(steps))
    }
}

fn next_step(rest: &str) -> Result<(Option<Step>, &str), &'static str> {
    if let Some(after) = rest.strip_prefix('.') {
        if after.is_empty() {
            return Ok((None, after));
        }
        let end = after.find(['.', '[']).unwrap_or(after.len());
        let (key, tail) = after.split_at(end);
        return match key {
            "" if tail.starts_with('[') => Ok((None, tail)),
            "" => Err("`..` is not supported"),
            "*" => Ok((Some(Step::All), tail)),
            _ => Ok((Some(Step::Key(key.into())), tail)),
        };
    }
    let after = rest.strip_prefix('[').ok_or("expected `.` or `[`")?;
    if let Some(quoted) = after.strip_prefix('\'') {
        let (key, tail) = quoted.split_once("']").ok_or("missing `']`")?;
        return Ok((Some(Step::Key(key.into())), tail));
    }
    let (inside, tail) = after.split_once(']').ok_or("missing `]`")?;
    match inside {
        "*" => Ok((Some(Step::All), tail)),
        number => Ok((
            Some(Step::Index(
                number.parse().map_err(|_| "expected a number or `*`")?,
            )),
            tail,
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn select(path: &str) -> Vec<Value> {
        let data = json!({"items": [{"name": "a", "labels": {"x.y/z": 1}}, {"name": "b"}], "n": 7});
        path.parse::<Path>()
            .unwrap()
            .select(&data)
            .into_iter()
            .cloned()
            .collect()
    }

    #[test]
    fn selects() {
        assert_eq!(select("{.n}"), [json!(7)]);
        assert_eq!(select("{$.items[*].name}"), [json!("a"), json!("b")]);
        assert_eq!(select("{.items[-1].name}"), [json!("b")]);
        assert_eq!(select(".items[0].labels['x.y/z']"), [json!(1)]);
        assert_eq!(select("{.items.*.name}"), [json!("a"), json!("b")]);
        assert!(select("{.items[9].name}").is_empty());
        assert!(select("{.n.deeper}").is_empty());
        assert_eq!(select("{.}").len(), 1);
    }

    #[test]
    fn errors_name_the_place() {
        for (path, what) in [
            ("{.a[x]}", "number"),
            ("{a}", "expected `.`"),
            ("{.a[0}", "missing `]`"),
            ("{.a..b}", "not supported"),
        ] {
            let error = path.parse::<Path>().unwrap_err();
            assert!(
                error.contains(what) && error.contains("at character"),
                "{path}: {error}"
            );
        }
    }
}
