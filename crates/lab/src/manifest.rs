//! Manifests: YAML or JSON files with any number of objects, and errors that say where.

use std::fmt;

use serde_json::Value;

/// An object out of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Where it begins: `file:line`.
    pub place: String,
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: Option<String>,
    /// All of it.
    pub value: Value,
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct ManifestError {
    /// The file as it was named.
    pub file: String,
    /// From 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    /// What.
    pub message: String,
}

/// The documents of a YAML stream, each with the number of lines before it.
fn documents(text: &str) -> Vec<(u64, String)> {
    let mut all = vec![(0, String::new())];
    for (number, line) in text.lines().enumerate() {
        let marker =
            line.trim_end() == "---" || line.starts_with("--- ") || line.trim_end() == "...";
        if marker {
            all.push((number as u64 + 1, String::new()));
        } else if let Some((_, document)) = all.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let blank = |d: &str| {
        d.lines()
            .all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'))
    };
    all.retain(|(_, document)| !blank(document));
    all
}

/// The line within a document where its first key stands.
fn first_line(document: &str) -> u64 {
    let nothing = |l: &&str| l.trim().is_empty() || l.trim_start().starts_with('#');
    document.lines().take_while(nothing).count() as u64 + 1
}

/// Reads all objects of a file.
pub fn parse(file: &str, text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let mut all = Vec::new();
    for (before, document) in documents(text) {
        let value: Value =
            serde_saphyr::from_str(&document).map_err(|e| yaml_error(file, before, &e))?;
        let line = before + first_line(&document);
        for item in flatten(value) {
            all.push(object(item).map_err(|message| ManifestError {
                file: file.to_owned(),
                line,
                column: 1,
                message,
            })?);
        }
        for made in all
            .iter_mut()
            .filter(|m: &&mut Manifest| m.place.is_empty())
        {
            made.place = format!("{file}:{line}");
        }
    }
    Ok(all)
}

fn yaml_error(file: &str, before: u64, error: &serde_saphyr::Error) -> ManifestError {
    let (line, column) = error
        .location()
        .map_or((1, 1), |l| (l.line().max(1), l.column().max(1)));
    let text = error.without_snippet().to_string();
    let message = text.lines().next().unwrap_or_default();
    // The place stands in front already.
    let message = message
        .split(" at line ")
        .next()
        .unwrap_or(message)
        .to_owned();
    ManifestError {
        file: file.to_owned(),
        line: before + line,
        column,
        message,
    }
}

/// A `List` counts as its items.
fn flatten(value: Value) -> Vec<Value> {
    match (value["kind"].as_str(), value["items"].as_array()) {
        (Some("List"), Some(items)) => items.clone(),
        _ => vec![value],
    }
}

fn object(value: Value) -> Result<Manifest, String> {
    let text = |path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_str)
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
    };
    let need = |path: &str, name: &str| match value.pointer(path) {
        Some(found) if !found.is_string() => Err(format!("{name} is no text but {found}")),
        _ => text(path).ok_or_else(|| format!("the object has no {name}")),
    };
    if !value.is_object() {
        return Err(format!("an object was expected, not {}", Brief(&value)));
    }
    Ok(Manifest {
        place: String::new(),
        api_version: need("/apiVersion", "apiVersion")?,
        kind: need("/kind", "kind")?,
        name: need("/metadata/name", "metadata.name")?,
        namespace: text("/metadata/namespace"),
        value,
    })
}

/// A value, cut short.
struct Brief<'a>(&'a Value);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.0.to_string().chars().take(40).collect();
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "# a comment\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n# nothing\n---\n\napiVersion: v1\nkind: Pod\nmetadata:\n  name: b\n  namespace: a\n";

    #[test]
    fn several_objects_with_their_places() {
        let all = parse("f.yaml", TWO).unwrap();
        let short: Vec<_> = all
            .iter()
            .map(|m| (m.place.as_str(), m.kind.as_str(), m.name.as_str()))
            .collect();
        assert_eq!(
            short,
            [("f.yaml:2", "Namespace", "a"), ("f.yaml:9", "Pod", "b")]
        );
        assert_eq!(all[1].namespace.as_deref(), Some("a"));
    }

    #[test]
    fn json_and_lists() {
        let text = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}]}"#;
        assert_eq!(parse("f.json", text).unwrap()[0].name, "x");
    }

    #[test]
    fn errors_say_where() {
        let bad = format!("{TWO}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: [}}\n");
        let error = parse("f.yaml", &bad).unwrap_err();
        assert_eq!(error.line, 17, "{error}");
        assert!(error.to_string().starts_with("f.yaml:17:"), "{error}");
        assert!(!error.to_string().contains('\n'), "one line: {error}");
        let cases = [
            ("kind: Pod\nmetadata: {name: a}\n", "apiVersion"),
            ("apiVersion: v1\nmetadata: {name: a}\n", "kind"),
            ("apiVersion: v1\nkind: Pod\n", "metadata.name"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n",
                "no text but 7",
            ),
            ("- a\n", "an object was expected"),
        ];
        for (text, part) in cases {
            let error = parse("f", text).unwrap_err().to_string();
            assert!(
                error.starts_with("f:1:1: ") && error.contains(part),
                "{error}"
            );
        }
    }

    #[test]
    fn tabs_and_garbage_never_panic() {
        for text in [
            "\tkind: Pod",
            "a: b: c",
            "{",
            "\u{0}",
            "&a *a",
            "---\n---\n",
            "a:\n - b\n c: d",
        ] {
            let _ = parse("f", text);
        }
    }
}
