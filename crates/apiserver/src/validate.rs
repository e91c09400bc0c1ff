//! Rules that hold for every kind: names, labels, metadata. Errors name the field.

use serde_json::Value;

use super::error::{ApiError, Cause};
use super::kind::Kind;
use super::object::meta_str;

/// Collects what is wrong with an object, with the place of each fault.
#[derive(Debug, Default)]
pub struct FieldErrors {
    causes: Vec<Cause>,
}

impl FieldErrors {
    /// A value must be there.
    pub fn required(&mut self, field: impl Into<String>, why: &str) {
        let message = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        self.push("FieldValueRequired", field, message);
    }

    /// A value is not acceptable.
    pub fn invalid(&mut self, field: impl Into<String>, value: &Value, why: &str) {
        self.push(
            "FieldValueInvalid",
            field,
            format!("Invalid value: {value}: {why}"),
        );
    }

    /// A value is none of those allowed.
    pub fn unsupported(&mut self, field: impl Into<String>, value: &Value, allowed: &[&str]) {
        let allowed: Vec<String> = allowed.iter().map(|a| format!("\"{a}\"")).collect();
        let message = format!(
            "Unsupported value: {value}: supported values: {}",
            allowed.join(", ")
        );
        self.push("FieldValueNotSupported", field, message);
    }

    /// A value appears twice.
    pub fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.push(
            "FieldValueDuplicate",
            field,
            format!("Duplicate value: {value}"),
        );
    }

    /// A list or map is too long.
    pub fn too_many(&mut self, field: impl Into<String>, count: usize, max: usize) {
        let message = format!("Too many: {count}: must have at most {max} items");
        self.push("FieldValueTooMany", field, message);
    }

    /// Something that is named is not there.
    pub fn not_found(&mut self, field: impl Into<String>, value: &Value) {
        self.push("FieldValueNotFound", field, format!("Not found: {value}"));
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    /// What was found.
    pub fn take(self) -> Vec<Cause> {
        self.causes
    }

    /// A change is not allowed.
    pub fn forbidden(&mut self, field: impl Into<String>, why: &str) {
        self.push("FieldValueForbidden", field, format!("Forbidden: {why}"));
    }

    fn push(&mut self, reason: &'static str, field: impl Into<String>, message: String) {
        self.causes.push(Cause {
            reason,
            field: field.into(),
            message,
        });
    }

    /// An error if anything was found.
    pub fn into_result(self, kind: &Kind, name: &str) -> Result<(), ApiError> {
        if self.causes.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid(kind, name, self.causes))
        }
    }
}

fn is_alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Whether `name` is a DNS label (RFC 1123): at most 63 of `a-z0-9-`, beginning and ending with a letter or digit.
pub fn check_dns_label(name: &str) -> Result<(), &'static str> {
    let ends_well = name.starts_with(is_alphanumeric) && name.ends_with(is_alphanumeric);
    if name.len() <= 63 && ends_well && name.chars().all(|c| is_alphanumeric(c) || c == '-') {
        return Ok(());
    }
    Err(
        "a lowercase RFC 1123 label must have at most 63 characters, lowercase letters, digits or '-', \
         and start and end with a letter or digit (e.g. 'my-name' or '123-abc')",
    )
}

/// Whether `name` is a DNS subdomain (RFC 1123): labels joined by dots, at most 253 characters.
pub fn check_dns_subdomain(name: &str) -> Result<(), &'static str> {
    let label_ok = |label: &str| {
        label.starts_with(is_alphanumeric)
            && label.ends_with(is_alphanumeric)
            && label.chars().all(|c| is_alphanumeric(c) || c == '-')
    };
    if name.len() <= 253 && name.split('.').all(label_ok) {
        return Ok(());
    }
    Err(
        "a lowercase RFC 1123 subdomain must have at most 253 characters, lowercase letters, digits, '-' or '.', \
         and start and end with a letter or digit (e.g. 'example.com')",
    )
}

fn check_qualified_part(part: &str) -> Result<(), &'static str> {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| edge(c) || matches!(c, '-' | '_' | '.');
    if part.len() <= 63 && part.starts_with(edge) && part.ends_with(edge) && part.chars().all(inner)
    {
        return Ok(());
    }
    Err(
        "must have 1 to 63 letters, digits, '-', '_' or '.', and start and end with a letter or digit",
    )
}

/// Whether `key` may be a label's or annotation's key: a name with an optional DNS prefix and a slash.
pub fn check_label_key(key: &str) -> Result<(), &'static str> {
    match key.split_once('/') {
        Some((prefix, name)) => {
            check_dns_subdomain(prefix).and_then(|()| check_qualified_part(name))
        }
        None => check_qualified_part(key),
    }
}

/// Whether `value` may be a label's value.
pub fn check_label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() {
        Ok(())
    } else {
        check_qualified_part(value)
    }
}

/// Checks the metadata of an object.
pub fn metadata(kind: &Kind, object: &Value, errors: &mut FieldErrors) {
    let meta = &object["metadata"];
    let name = meta_str(object, "name");
    if let Err(why) = check_name(kind, name) {
        errors.invalid("metadata.name", &meta["name"], why);
    }
    if let Some(labels) = string_map(meta, "labels", errors) {
        for (key, value) in labels {
            if let Err(why) = check_label_key(key) {
                errors.invalid("metadata.labels", &Value::from(key.as_str()), why);
            }
            if let Some(Err(why)) = value.as_str().map(check_label_value) {
                errors.invalid("metadata.labels", value, why);
            }
        }
    }
    if let Some(annotations) = string_map(meta, "annotations", errors) {
        for key in annotations.keys() {
            if let Err(why) = check_label_key(&key.to_lowercase()) {
                errors.invalid("metadata.annotations", &Value::from(key.as_str()), why);
            }
        }
    }
    finalizers(meta, errors);
}

fn finalizers(meta: &Value, errors: &mut FieldErrors) {
    let Some(list) = meta.get("finalizers").filter(|v| !v.is_null()) else {
        return;
    };
    let Some(list) = list.as_array() else {
        errors.invalid("metadata.finalizers", list, "must be a list of strings");
        return;
    };
    for (i, finalizer) in list.iter().enumerate() {
        if finalizer
            .as_str()
            .is_none_or(|f| check_label_key(f).is_err())
        {
            errors.invalid(
                format!("metadata.finalizers[{i}]"),
                finalizer,
                "must be a qualified name (e.g. 'example.com/name')",
            );
        }
    }
}

fn string_map<'a>(
    meta: &'a Value,
    field: &str,
    errors: &mut FieldErrors,
) -> Option<&'a serde_json::Map<String, Value>> {
    let value = meta.get(field).filter(|v| !v.is_null())?;
    let Some(map) = value.as_object() else {
        errors.invalid(
            format!("metadata.{field}"),
            value,
            "must be a map of strings",
        );
        return None;
    };
    for (key, value) in map.iter().filter(|(_, v)| !v.is_string()) {
        errors.invalid(
            format!("metadata.{field}.{key}"),
            value,
            "must be a string (quote it)",
        );
    }
    Some(map)
}

/// Whether `name` may name an object of the kind.
pub fn check_name(kind: &Kind, name: &str) -> Result<(), &'static str> {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "namespaces" | "services") => check_dns_label(name),
        ("rbac.authorization.k8s.io", _) => check_path_segment(name),
        _ => check_dns_subdomain(name),
    }
}

fn check_path_segment(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '%']) {
        return Err("may not be empty, '.' or '..', nor contain '/' or '%'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::kinds;
    use super::*;
    use serde_json::json;

    #[test]
    fn names() {
        let (pod, namespace) = (kinds::pod(), kinds::namespace());
        for good in ["a", "web-1", "a.b", "1", &"x".repeat(253)] {
            assert!(check_name(&pod, good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "-a",
            "a-",
            "a..b",
            "a_b",
            "a/b",
            "ä",
            &"x".repeat(254),
        ] {
            assert!(check_name(&pod, bad).is_err(), "{bad}");
        }
        assert!(check_name(&namespace, "a.b").is_err());
        assert!(check_name(&namespace, &"x".repeat(64)).is_err());
    }

    #[test]
    fn metadata_faults_name_their_fields() {
        let object = json!({"metadata": {
            "name": "Bad", "labels": {"a b": "x", "n": 3, "v": "-"}, "annotations": [], "finalizers": ["a b"]}});
        let mut errors = FieldErrors::default();
        metadata(&kinds::pod(), &object, &mut errors);
        let text = errors
            .into_result(&kinds::pod(), "Bad")
            .unwrap_err()
            .to_string();
        for field in [
            "metadata.name:",
            "metadata.labels:",
            "metadata.labels.n:",
            "metadata.annotations:",
            "metadata.finalizers[0]:",
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }
}
