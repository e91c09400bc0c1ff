//! Metrics that a file asks for: it is looked at again and again.
//!
//! ```yaml
//! metrics:
//! - name: drop
//!   contextOptions: [{name: sourceContext, values: [namespace, ip]}]
//!   includeFilters: [{source_pod: [shop/]}]
//! ```
use super::{Item, Metrics};
use crate::{export::dynamic::filters, watched::Watched};
use runtime::stop::Stop;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Follows a file with items.
pub struct DynamicItems {
    file: Watched,
    metrics: Metrics,
    /// Exemplars are told.
    exemplars: bool,
}

impl DynamicItems {
    /// From now on `metrics` are those that the file at `path` asks for.
    #[must_use]
    pub fn new(path: PathBuf, metrics: Metrics, exemplars: bool) -> Self {
        Self {
            file: Watched::new(path),
            metrics,
            exemplars,
        }
    }

    /// Does so until `stop`; `told` hears what is wrong with the file whenever it was looked at anew, or that nothing is.
    pub async fn run(mut self, mut told: impl FnMut(Result<(), String>) + Send, stop: Stop) {
        loop {
            if let Some(text) = self.file.look() {
                told(text.and_then(|text| self.take(&text)));
            }
            if stop.or(self.file.pause()).await.is_none() {
                return;
            }
        }
    }

    fn take(&self, text: &str) -> Result<(), String> {
        let mut items = items(text).map_err(|problem| self.file.wrong(&problem))?;
        if !self.exemplars {
            for item in &mut items {
                item.options.remove("exemplars");
            }
        }
        let done = self.metrics.configure(&items);
        done.map_err(|error| self.file.wrong(&error.to_string()))
    }
}

/// The items that a file asks for.
///
/// # Errors
/// What is wrong, and what is accepted.
pub fn items(text: &str) -> Result<Vec<Item>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let file: Map<String, Value> =
        serde_saphyr::from_str(text).map_err(|error| format!("no YAML of an object: {error}"))?;
    let mut items = Vec::new();
    for (key, value) in &file {
        let entries = match value {
            _ if key != "metrics" => return Err(format!("it has {key:?}; accepted is metrics")),
            Value::Null => continue,
            Value::Array(entries) => entries,
            _ => return Err("metrics: no list".to_owned()),
        };
        for (place, entry) in entries.iter().enumerate() {
            items.push(item(entry).map_err(|problem| format!("metrics[{place}]: {problem}"))?);
        }
    }
    Ok(items)
}

fn item(entry: &Value) -> Result<Item, String> {
    let mut item = Item::default();
    for (key, value) in entry.as_object().ok_or("no object")? {
        match key.as_str() {
            "name" => value
                .as_str()
                .ok_or("name: no text")?
                .clone_into(&mut item.name),
            "contextOptions" if value.is_null() => {}
            "contextOptions" => {
                for option in value.as_array().ok_or("contextOptions: no list")? {
                    let (name, value) = context_option(option)?;
                    item.options.insert(name, value);
                }
            }
            "includeFilters" => item.wanted = filters(value, key)?,
            "excludeFilters" => item.unwanted = filters(value, key)?,
            _ => {
                return Err(format!(
                    "it has {key:?}; accepted are name, contextOptions, includeFilters and excludeFilters"
                ));
            }
        }
    }
    if item.name.is_empty() {
        return Err("it has no name".to_owned());
    }
    Ok(item)
}

/// An option with its values as [`Item`] has them.
fn context_option(option: &Value) -> Result<(String, String), String> {
    let wrong = "contextOptions: accepted are {name: …, values: […]}";
    let name = option["name"].as_str().ok_or(wrong)?;
    let values: Vec<&str> = match &option["values"] {
        Value::Null => Vec::new(),
        Value::Array(values) => {
            let values: Option<_> = values.iter().map(Value::as_str).collect();
            values.ok_or(wrong)?
        }
        _ => return Err(wrong.to_owned()),
    };
    let between = if name == "labelsContext" { "," } else { "|" };
    Ok((name.to_owned(), values.join(between)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_whole_or_refused() {
        let text = r#"
metrics:
- name: drop
  contextOptions:
  - {name: sourceContext, values: [namespace, ip]}
  - {name: labelsContext, values: [source_pod, destination_pod]}
  includeFilters: [{source_pod: [shop/]}]
- {name: dns, contextOptions: [{name: query}], excludeFilters: []}
"#;
        let items = items(text).unwrap();
        assert_eq!(items[0].options["sourceContext"], "namespace|ip");
        assert_eq!(
            items[0].options["labelsContext"],
            "source_pod,destination_pod"
        );
        assert_eq!(items[0].wanted.len(), 1);
        assert_eq!(items[1].options["query"], "");
        assert!(Metrics::new(&items).is_ok());
        assert_eq!(super::items("metrics:").unwrap(), []);
        for (text, says) in [
            ("metrics: [{contextOptions: []}]", "no name"),
            ("metrics: [{name: drop, filters: []}]", "filters"),
            (
                "metrics: [{name: drop, contextOptions: [sourceContext]}]",
                "accepted are",
            ),
            (
                "metrics: [{name: drop, includeFilters: [{source: a}]}]",
                "includeFilters",
            ),
            ("metric: []", "accepted is metrics"),
            ("- a", "YAML"),
        ] {
            let error = super::items(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn metrics_that_stay_go_on_counting() {
        let drop = Item::parse("drop");
        let metrics = Metrics::new(&[drop.clone(), Item::parse("tcp")]).unwrap();
        let flow = super::super::tests::dropped();
        metrics.tap().whole(&flow);
        let other = Item::parse("flow:sourceContext=namespace");
        metrics.configure(&[drop.clone(), other]).unwrap();
        metrics.tap().whole(&flow);
        let text = metrics.text().unwrap();
        assert!(
            text.contains(r#"hubble_drop_total{reason="POLICY_DENIED",protocol="TCP"} 2"#),
            "{text}"
        );
        assert!(
            text.contains("hubble_flows_processed_total{") && !text.contains("hubble_tcp"),
            "{text}"
        );
        assert_eq!(text.matches("# EOF").count(), 1);
        // What is refused changes nothing.
        assert!(metrics.configure(&[drop.clone(), drop]).is_err());
        assert!(
            metrics
                .configure(&[Item::parse("http"), Item::parse("httpV2")])
                .is_err()
        );
        assert_eq!(metrics.text().unwrap(), text);
    }
}
