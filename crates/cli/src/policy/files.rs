//! Manifests from files, with the line of every part, so that messages can point at it.
use std::fmt;
use std::fs;
use std::io::Read as _;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// One object of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file, as it was named.
    pub file: String,
    /// The object.
    pub value: Value,
    tree: Line<Node>,
}

/// Something, and the line where it begins.
#[derive(Clone, Debug)]
struct Line<T> {
    line: u64,
    of: T,
}

#[derive(Clone, Debug)]
enum Node {
    Scalar(Value),
    List(Vec<Line<Node>>),
    /// The line is that of the key.
    Object(Vec<(String, Line<Node>)>),
}

impl Document {
    /// The line of what stands at `path` (as `spec.ingress[0]`), or of the innermost part of the path that is there.
    #[must_use]
    pub fn line(&self, path: &str) -> u64 {
        let mut at = &self.tree;
        for step in steps(path) {
            let next = match (&at.of, step) {
                (Node::Object(members), Step::Member(name)) => {
                    members.iter().find(|(key, _)| *key == name).map(|m| &m.1)
                }
                (Node::List(items), Step::Item(index)) => items.get(index),
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        at.line
    }

    /// `FILE:LINE` of what stands at `path`.
    #[must_use]
    pub fn place(&self, path: &str) -> String {
        format!("{}:{}", self.file, self.line(path))
    }
}

/// One step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'a> {
    Member(&'a str),
    Item(usize),
}

/// The steps of a path such as `spec.endpointSelector.matchLabels["a.b"]` or `specs[1].ingress[0]`.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut found = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix("[\"") {
            let Some((key, after)) = inside.split_once("\"]") else {
                break;
            };
            found.push(Step::Member(key));
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('[') {
            let Some((index, after)) = inside.split_once(']') else {
                break;
            };
            let Ok(index) = index.parse() else { break };
            found.push(Step::Item(index));
            rest = after;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            found.push(Step::Member(&rest[..end]));
            rest = &rest[end..];
        }
    }
    found
}

/// What stands at `path` in an object.
#[must_use]
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path)
        .into_iter()
        .try_fold(object, |at, step| match step {
            Step::Member(name) => at.get(name),
            Step::Item(index) => at.get(index),
        })
}

/// The objects of files; `-` is standard input. Lists are taken apart.
///
/// # Errors
/// A file cannot be read, or is no YAML or JSON.
pub fn read(files: &[String]) -> Result<Vec<Document>> {
    let mut all = Vec::new();
    for file in files {
        let (name, text) = match file.as_str() {
            "-" => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .context("cannot read standard input")?;
                ("(standard input)", text)
            }
            file => {
                let text =
                    fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
                (file, text)
            }
        };
        all.extend(documents(name, &text)?);
    }
    Ok(all)
}

/// The objects in `text`.
///
/// # Errors
/// It is no YAML or JSON.
pub fn documents(file: &str, text: &str) -> Result<Vec<Document>> {
    let trees: Vec<Spanned<Node>> = serde_saphyr::from_multiple(text).map_err(|error| {
        let said = error.to_string();
        let first = said.lines().next().unwrap_or_default().to_owned();
        match error.location() {
            Some(at) => anyhow!("{file}:{}: {first}", at.line()),
            None => anyhow!("{file}: {first}"),
        }
    })?;
    let mut all = Vec::new();
    for tree in trees {
        add(file, located(tree), &mut all);
    }
    Ok(all)
}

fn add(file: &str, tree: Line<Node>, all: &mut Vec<Document>) {
    let value = tree.of.value();
    if value.is_null() {
        return;
    }
    let is_list = value["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("List"));
    if is_list && let Node::Object(members) = &tree.of {
        let items = members.iter().find(|(key, _)| key == "items");
        if let Some((
            _,
            Line {
                of: Node::List(items),
                ..
            },
        )) = items
        {
            for item in items {
                add(file, item.clone(), all);
            }
            return;
        }
    }
    all.push(Document {
        file: file.to_owned(),
        value,
        tree,
    });
}

fn located(node: Spanned<Node>) -> Line<Node> {
    Line {
        line: node.referenced.line(),
        of: node.value,
    }
}

impl Node {
    fn value(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(items) => items.iter().map(|item| item.of.value()).collect(),
            Self::Object(members) => {
                let members = members
                    .iter()
                    .map(|(key, node)| (key.clone(), node.of.value()));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, a list or a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(
            Number::from_f64(value).map_or(Value::Null, Value::Number),
        ))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Node>>()? {
            all.push(located(item));
        }
        Ok(Node::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(key) = members.next_key::<Spanned<String>>()? {
            let of: Node = members.next_value()?;
            let line = key.referenced.line();
            all.push((key.value, Line { line, of }));
        }
        Ok(Node::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# first
apiVersion: v1
kind: Thing
spec:
  port: "80"
  number: 80
  on: true
  none: null
  list:
  - a: 1

  - {b: 2, c: [x, y]}
  matchLabels:
    app.kubernetes.io/name: web
---
---
kind: ThingList
items:
- kind: One
- kind: Two
  spec: {}
"#;

    #[test]
    fn parts_have_lines() {
        let all = documents("f.yaml", TEXT).unwrap();
        assert_eq!(all.len(), 3, "{all:#?}");
        let first = &all[0];
        assert_eq!(first.value["spec"]["port"], "80");
        assert_eq!(first.value["spec"]["number"], 80);
        assert_eq!(first.value["spec"]["on"], true);
        assert_eq!(first.value["spec"]["none"], Value::Null);
        for (path, line) in [
            ("kind", 3),
            ("spec.port", 5),
            ("spec.list[0]", 10),
            ("spec.list[1]", 12),
            ("spec.list[1].c[1]", 12),
            ("spec.list[1].nothing.here", 12),
            ("spec.matchLabels[\"app.kubernetes.io/name\"]", 14),
        ] {
            assert_eq!(first.line(path), line, "{path}");
        }
        assert_eq!(all[2].value["kind"], "Two");
        assert_eq!(all[2].place("spec"), "f.yaml:21");
        assert_eq!(at(&first.value, "spec.list[1].c[0]"), Some(&"x".into()));
        assert_eq!(at(&first.value, "spec.list[7]"), None);
    }

    #[test]
    fn json_is_read_too() {
        let all = documents("f.json", "{\n \"kind\": \"A\",\n \"spec\": {\"n\": 1}\n}\n").unwrap();
        assert_eq!((all.len(), all[0].line("spec.n")), (1, 3));
    }

    #[test]
    fn what_is_no_yaml_is_placed() {
        let error = documents("f.yaml", "a: 1\nb: [\n").unwrap_err().to_string();
        assert!(error.starts_with("f.yaml:"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}
