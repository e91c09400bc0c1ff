//! Columns that the definition of a custom kind adds.

use serde_json::{Number, Value};

use super::cells::{AGE, NAME, ago, str_of, time};
use super::definition;
use super::jsonpath::Path;

/// The columns of a custom kind.
pub(in super::super) struct Custom {
    columns: Vec<Added>,
}

struct Added {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: Option<Path>,
}

impl Custom {
    /// From `additionalPrinterColumns`. A path that is none gives empty cells.
    pub(super) fn new(columns: &[Value]) -> Self {
        let added = |column: &Value| {
            let text = |field: &str| str_of(&column[field]).to_owned();
            Added {
                name: text("name"),
                kind: text("type"),
                format: text("format"),
                description: text("description"),
                priority: column["priority"].as_i64().unwrap_or(0),
                path: Path::parse(str_of(&column["jsonPath"])),
            }
        };
        Self {
            columns: columns.iter().map(added).collect(),
        }
    }

    pub(super) fn definitions(&self) -> Vec<Value> {
        let added = |c: &Added| definition(&c.name, &c.kind, &c.format, &c.description, c.priority);
        [NAME.definition()]
            .into_iter()
            .chain(self.columns.iter().map(added))
            .collect()
    }

    pub(super) fn cells(&self, object: &Value) -> Vec<Value> {
        [(NAME.cell)(object)]
            .into_iter()
            .chain(self.columns.iter().map(|c| c.cell(object)))
            .collect()
    }
}

impl Added {
    fn cell(&self, object: &Value) -> Value {
        let Some(path) = &self.path else {
            return Value::Null;
        };
        // What most definitions end with is like the column of the built-in kinds.
        if self.kind == "date" && path.is_creation_time() {
            return (AGE.cell)(object);
        }
        let found = path.find(object);
        // Of several results the first is shown, as everywhere.
        let Some(first) = found.first() else {
            return Value::Null;
        };
        match self.kind.as_str() {
            "string" => Value::from(plain(first)),
            "integer" => whole(first),
            "number" if first.is_number() => (*first).clone(),
            "boolean" if first.is_boolean() => (*first).clone(),
            "date" => match (first, time(first)) {
                (_, Some(at)) => Value::from(ago(at)),
                (Value::String(_), None) => Value::from("<invalid>"),
                _ => Value::Null,
            },
            _ => Value::Null,
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "columns of integers show integers"
)]
fn whole(value: &Value) -> Value {
    match value {
        Value::Number(n) if n.is_f64() => n
            .as_f64()
            .map_or(Value::Null, |f| Value::Number(Number::from(f as i64))),
        Value::Number(_) => value.clone(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_have_the_type_that_was_said() {
        let columns = json!([
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "N", "type": "integer", "jsonPath": ".spec.n"},
            {"name": "All", "type": "string", "jsonPath": ".spec.list[*].x", "priority": 1},
            {"name": "Whole", "type": "string", "jsonPath": ".spec.list"},
            {"name": "Missing", "type": "string", "jsonPath": ".spec.nothing"},
            {"name": "Wrong", "type": "boolean", "jsonPath": ".spec.n"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ]);
        let custom = Custom::new(columns.as_array().unwrap());
        let object = json!({"metadata": {"name": "x"}, "spec": {"n": 3, "list": [{"x": "a"}, {"x": "b"}]},
            "status": {"conditions": [{"type": "Other", "status": "Unknown"}, {"type": "Ready", "status": "True"}]}});
        assert_eq!(
            custom.cells(&object),
            json!([
                "x",
                "True",
                3,
                "a",
                "[{\"x\":\"a\"},{\"x\":\"b\"}]",
                null,
                null,
                "<unknown>"
            ])
            .as_array()
            .unwrap()
            .clone()
        );
        assert_eq!(custom.definitions()[3]["priority"], 1);
        assert_eq!(custom.definitions()[0]["format"], "name");
    }
}
