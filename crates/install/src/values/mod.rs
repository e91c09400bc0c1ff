//! Values: files and `--set` over each other, and over the chart's own.
mod set;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use set::Kind;

/// A value that cannot be used, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// A file cannot be read.
    #[error("values file {path}: {why}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
    /// `--set` or one of its kind.
    #[error("--{flag} {text}: {why}")]
    Set {
        /// The flag.
        flag: &'static str,
        /// What was given to it.
        text: String,
        /// What is wrong.
        why: String,
    },
}

/// What people give, in the order of flags that Helm keeps: files, then `--set`, `--set-string` and `--set-file`.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// `-f`: YAML files, later ones above earlier ones.
    pub files: Vec<PathBuf>,
    /// `--set a.b=c,d[0]=e,f={g,h}`
    pub set: Vec<String>,
    /// `--set-string`: as `--set`, but every value is a text.
    pub set_string: Vec<String>,
    /// `--set-file a.b=PATH`: the value is what the file holds.
    pub set_file: Vec<String>,
}

impl Given {
    /// All of them as one map, over `base`.
    ///
    /// # Errors
    /// A file cannot be read or is no YAML map; the syntax of a `--set` is wrong.
    pub fn merged(&self, base: Value) -> Result<Value, ValuesError> {
        let mut values = base;
        for path in &self.files {
            merge(&mut values, from_file(path)?);
        }
        for (flag, texts, kind) in [
            ("set", &self.set, Kind::Typed),
            ("set-string", &self.set_string, Kind::Text),
            ("set-file", &self.set_file, Kind::File),
        ] {
            for text in texts {
                set::apply(&mut values, text, kind).map_err(|why| ValuesError::Set {
                    flag,
                    text: text.clone(),
                    why,
                })?;
            }
        }
        Ok(values)
    }
}

fn from_file(path: &Path) -> Result<Value, ValuesError> {
    let fail = |why: String| ValuesError::File {
        path: path.display().to_string(),
        why: why.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match serde_saphyr::from_str(&text).map_err(|error| fail(error.to_string()))? {
        Value::Null => Ok(Value::Object(Map::new())),
        map @ Value::Object(_) => Ok(map),
        _ => Err(fail("values are a map of names to values".to_owned())),
    }
}

/// Puts `above` over `below`: maps are merged, everything else is replaced.
pub fn merge(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                match below.get_mut(&key) {
                    Some(under) => merge(under, value),
                    None => {
                        below.insert(key, value);
                    }
                }
            }
        }
        (below, above) => *below = above,
    }
}

/// The user's values over the chart's: a null takes a value of the chart away.
#[must_use]
pub fn over_defaults(defaults: Value, user: Value) -> Value {
    let mut values = defaults;
    merge(&mut values, user.clone());
    remove_nulls(&mut values, &user);
    values
}

fn remove_nulls(values: &mut Value, user: &Value) {
    let (Value::Object(values), Value::Object(user)) = (values, user) else {
        return;
    };
    for (key, value) in user {
        if value.is_null() {
            values.remove(key);
        } else if let Some(under) = values.get_mut(key) {
            remove_nulls(under, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn later_ones_stand_above_and_nulls_take_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "a: {b: 1, c: [1, 2]}\nd: x\n").unwrap();
        let given = Given {
            files: vec![path.clone()],
            set: vec!["a.c={3},d=null".into()],
            set_string: vec!["e=7".into()],
            set_file: vec![format!("f.g={}", path.display())],
        };
        let merged = given
            .merged(json!({"a": {"z": true}, "e": {"f": 1}}))
            .unwrap();
        assert_eq!(
            merged,
            json!({"a": {"b": 1, "c": [3], "z": true}, "d": null, "e": "7",
                "f": {"g": "a: {b: 1, c: [1, 2]}\nd: x\n"}})
        );
        let over = over_defaults(json!({"d": {"k": 1}, "q": 1, "a": {"y": 2}}), merged);
        assert_eq!(over["a"]["y"], 2);
        assert_eq!(over.get("d"), None);
    }

    #[test]
    fn files_that_are_none_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        let error = |text: Option<&str>| {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let given = Given {
                files: vec![path.clone()],
                ..Given::default()
            };
            given
                .merged(json!({}))
                .map(|_| String::new())
                .unwrap_or_else(|e| e.to_string())
        };
        assert!(error(None).contains("No such file"));
        for bad in ["- a", "7", "a: [", "a: b: c"] {
            let text = error(Some(bad));
            assert!(
                text.starts_with("values file /") && text.lines().count() == 1,
                "{text}"
            );
        }
        assert_eq!(error(Some("# nothing\n")), "");
        assert_eq!(error(Some("")), "");
    }
}
