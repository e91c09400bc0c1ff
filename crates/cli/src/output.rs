//! Output formats, and writing to a standard output that may close early.
use std::io::{self, Write};
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::jsonpath::Path;

/// What `-o` selects.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Indented JSON.
    Json,
    /// YAML.
    Yaml,
    /// The values that a path selects, one line each.
    JsonPath(Path),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            _ => match text.strip_prefix("jsonpath=") {
                Some(path) => path.parse().map(Self::JsonPath),
                None => Err("accepted: json, yaml, jsonpath={.path.to[0].value}".into()),
            },
        }
    }
}

/// `-o`, for commands that print a table without it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct OutputArgs {
    /// Print data in this format: json, yaml or jsonpath={.path}
    #[arg(short = 'o', long = "output", value_name = "FORMAT")]
    pub format: Option<Format>,
}

impl OutputArgs {
    /// Prints `data` in the chosen format, or else the text that `table` makes of it.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn print<T: Serialize>(&self, data: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
        match &self.format {
            None => write_out(&table(data)),
            Some(format) => write_out(&render(format, data)?),
        }
    }
}

/// `data` in `format`, with a line end.
///
/// # Errors
/// If `data` has no such form.
pub fn render<T: Serialize>(format: &Format, data: &T) -> Result<String> {
    match format {
        Format::Json => {
            Ok(serde_json::to_string_pretty(data).context("cannot write as JSON")? + "\n")
        }
        Format::Yaml => {
            // Through a JSON value, so that both forms have the same structure.
            let value = serde_json::to_value(data).context("cannot write as JSON")?;
            serde_saphyr::to_string(&value).context("cannot write as YAML")
        }
        Format::JsonPath(path) => {
            let value = serde_json::to_value(data).context("cannot write as JSON")?;
            Ok(path
                .select(&value)
                .iter()
                .map(|found| plain(found) + "\n")
                .collect())
        }
    }
}

/// A selected value as a script wants it: text without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The reader of our output has gone away; the command ends quietly.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct OutputClosed;

/// Writes `text` to standard output.
///
/// # Errors
/// [`OutputClosed`] if nobody reads any more.
pub fn write_out(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    check(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Turns a closed pipe into [`OutputClosed`].
///
/// # Errors
/// As `result`.
pub fn check(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        other => other.context("cannot write to standard output"),
    }
}

/// Lets `println!` in code that is only mounted here end the command quietly, not with a panic, when nobody reads any more.
pub fn end_quietly_when_closed() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(0);
        }
        usual(panic);
    }));
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn formats() {
        let data = json!({"b": [1, {"c": "text"}], "a": null});
        let path = "jsonpath={.b[1].c}".parse().unwrap();
        assert_eq!(render(&path, &data).unwrap(), "text\n");
        expect![[r#"
            {
              "a": null,
              "b": [
                1,
                {
                  "c": "text"
                }
              ]
            }
        "#]]
        .assert_eq(&render(&Format::Json, &data).unwrap());
        let yaml = render(&Format::Yaml, &data).unwrap();
        assert_eq!(
            serde_saphyr::from_str::<Value>(&yaml).unwrap(),
            data,
            "{yaml}"
        );
    }

    #[test]
    fn an_unknown_format_names_the_known_ones() {
        let error = "xml".parse::<Format>().unwrap_err();
        assert!(error.contains("json, yaml"), "{error}");
    }
}
