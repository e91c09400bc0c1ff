//! The shape of built-in kinds: field types and names, taken from the published Kubernetes types.

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

use super::error::ApiError;
use super::kind::{Kind, ShapeReport};

/// Checks an object against a type: the first field of a wrong type, and all fields that the type does not have.
pub(super) fn shape<T: DeserializeOwned>(object: &Value) -> ShapeReport {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(object, &mut track);
    let result =
        serde_ignored::deserialize::<_, _, T>(deserializer, |path| unknown.push(segments(&path)));
    let mismatch = result
        .err()
        .map(|error| format!("{}: {error}", track.path()));
    ShapeReport { mismatch, unknown }
}

fn segments(path: &Path<'_>) -> Vec<String> {
    let with = |parent: &Path<'_>, last: String| {
        let mut all = segments(parent);
        all.push(last);
        all
    };
    match path {
        Path::Root => Vec::new(),
        Path::Map { parent, key } => with(parent, key.clone()),
        Path::Seq { parent, index } => with(parent, index.to_string()),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => segments(parent),
    }
}

/// Brings an object that came from outside into the shape of its kind, or says where it does not fit.
pub(super) fn admit(kind: &Kind, object: &mut Value, refuse_unknown: bool) -> Result<(), ApiError> {
    if !kind.built_in {
        return Ok(());
    }
    drop_nulls(object);
    let report = kind.strategy.shape(object);
    if let Some(place) = report.mismatch {
        return Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {place}",
            kind.kind, kind.version, kind.kind
        )));
    }
    if refuse_unknown && !report.unknown.is_empty() {
        let list: Vec<String> = report
            .unknown
            .iter()
            .map(|path| format!("unknown field \"{}\"", dotted(path)))
            .collect();
        return Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.version,
            kind.kind,
            list.join(", ")
        )));
    }
    for path in &report.unknown {
        remove_path(object, path);
    }
    Ok(())
}

/// `spec.containers[0].image` for the segments of a path.
fn dotted(path: &[String]) -> String {
    let mut out = String::new();
    for segment in path {
        if segment.bytes().all(|b| b.is_ascii_digit()) {
            out.push_str(&format!("[{segment}]"));
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(segment);
        }
    }
    out
}

/// A field that is null is a field that is not there.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn remove_path(value: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    match value {
        Value::Object(map) if rest.is_empty() => {
            map.remove(first);
        }
        Value::Object(map) => {
            if let Some(child) = map.get_mut(first) {
                remove_path(child, rest);
            }
        }
        Value::Array(list) => {
            if let Some(child) = first.parse::<usize>().ok().and_then(|i| list.get_mut(i)) {
                remove_path(child, rest);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds;
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_types_are_named_with_their_place() {
        let mut pod =
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": 3}]}});
        let error = admit(&kinds::pod(), &mut pod, false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("spec.containers[0].name"), "{error}");
    }

    #[test]
    fn unknown_fields_are_dropped_or_refused() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": null},
            "spec": {"colour": 1, "containers": [{"name": "c", "imagee": {"a": [1]}}]}});
        let mut dropped = pod.clone();
        admit(&kinds::pod(), &mut dropped, false).unwrap();
        assert_eq!(dropped["spec"], json!({"containers": [{"name": "c"}]}));
        assert_eq!(dropped["metadata"], json!({}));
        let error = admit(&kinds::pod(), &mut pod.clone(), true)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("spec.colour") && error.contains("spec.containers[0].imagee"),
            "{error}"
        );
    }
}
