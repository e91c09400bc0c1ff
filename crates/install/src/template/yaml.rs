//! Values as YAML in block style, which can follow other lines of a template.
use std::fmt::Write as _;

use serde_json::Value;

/// YAML without a line end at its end.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out.truncate(out.trim_end_matches('\n').len());
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let _ = write!(out, "{:indent$}{}:", "", text(key));
                nested(value, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                // What the item holds begins on the line of its dash.
                let mut inner = String::new();
                block(item, indent + 2, &mut inner);
                let _ = write!(out, "{:indent$}- ", "");
                out.push_str(inner.trim_start_matches(' '));
            }
        }
        other => {
            let _ = writeln!(out, "{:indent$}{}", "", scalar(other));
        }
    }
}

fn nested(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, indent + 2, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        other => {
            let _ = writeln!(out, " {}", scalar(other));
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        other => other.to_string(),
    }
}

/// Plain where no reader of any YAML version takes it for something else.
fn text(string: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let begins = string.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let taken = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let lower = string.to_ascii_lowercase();
    if begins && string.chars().all(plain) && !taken.contains(&lower.as_str()) {
        string.to_owned()
    } else {
        Value::from(string).to_string()
    }
}
