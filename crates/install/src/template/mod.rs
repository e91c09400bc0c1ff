//! Templates in the language that Helm charts are written in: the part of it that our chart uses.
//!
//! Values are those of JSON and never change: there is no `set`. What the chart's authors get wrong is an error, also where the
//! original prints something odd: a field of nothing, a map that is printed.
mod certs;
mod eval;
mod functions;
mod lex;
mod parse;
mod yaml;

use std::collections::BTreeMap;

use serde_json::Value;

pub(crate) use functions::at_least;
pub use yaml::to_yaml;

/// What is wrong in a template, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {text}")]
pub struct TemplateError {
    /// The template's file.
    pub file: String,
    /// The line of the action.
    pub line: u32,
    /// What is wrong.
    pub text: String,
}

impl TemplateError {
    fn new(file: &str, line: u32, text: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            text: text.into(),
        }
    }
}

/// Parsed templates that know each other.
#[derive(Debug, Default)]
pub struct Templates {
    /// Bodies of files, by path.
    files: BTreeMap<String, Vec<parse::Node>>,
    /// What files define, with the path of the file for messages.
    named: BTreeMap<String, (String, Vec<parse::Node>)>,
    /// Objects of the cluster that `lookup` finds.
    pub there: Vec<Value>,
}

impl Templates {
    /// Adds a file.
    ///
    /// # Errors
    /// It is no template of the known part of the language.
    pub fn add(&mut self, path: &str, text: &str) -> Result<(), TemplateError> {
        let parsed = parse::parse(path, text)?;
        for (name, body) in parsed.defined {
            self.named.insert(name, (path.to_owned(), body));
        }
        self.files.insert(path.to_owned(), parsed.body);
        Ok(())
    }

    /// Paths of the files, sorted.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Executes a file with `dot`.
    ///
    /// # Errors
    /// There is no such file, or an action fails.
    pub fn render(&self, path: &str, dot: &Value) -> Result<String, TemplateError> {
        let body = self.files.get(path);
        let body = body.ok_or_else(|| TemplateError::new(path, 0, "there is no such template"))?;
        eval::run(self, path, body, dot, 0)
    }
}
