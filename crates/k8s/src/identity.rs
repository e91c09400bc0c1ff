//! `CiliumIdentity` objects, as agents and operator make them.
use crate::{
    Client,
    crd::{self, Crd},
    error::{is_conflict, says},
    write::Objects,
};
use model::Labels;
use serde_json::{Value, json};

/// Creates the object of a number; the labels that it has if it is there already.
///
/// # Errors
/// The API server refuses or does not answer, as a line for people.
pub async fn create(client: &Client, id: u32, labels: &Labels) -> Result<Option<Labels>, String> {
    let objects = Objects::of(client, &kind());
    match objects.create(object(id, labels)).await {
        Ok(_) => Ok(None),
        Err(error) if is_conflict(&error) => {
            let present = objects.get(&id.to_string()).await;
            let present = present.map_err(|error| says(&error))?;
            let present = present.ok_or("it went while it was looked at")?;
            let theirs = present.data["security-labels"].as_object();
            let pairs = theirs.into_iter().flatten();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            Ok(Some(
                pairs
                    .map(|(key, value)| (key.clone(), text(value)))
                    .collect(),
            ))
        }
        Err(error) => Err(says(&error)),
    }
}

/// The kind.
fn kind() -> Crd {
    let found = crd::ALL.iter().find(|crd| crd.kind == "CiliumIdentity");
    *found.unwrap_or(&crd::ALL[0])
}

/// The object of a number. The labels from Kubernetes are its own labels as well, so that people can select by them.
fn object(id: u32, labels: &Labels) -> Value {
    let all: serde_json::Map<String, Value> = labels
        .iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let own: serde_json::Map<String, Value> = labels
        .iter()
        .filter_map(|(key, value)| Some((key.split_once(':')?, value)))
        .filter(|((source, _), _)| *source == "k8s")
        .map(|((_, key), value)| (key.to_owned(), value.into()))
        .filter(|(key, value)| is_label(key, value))
        .collect();
    json!({"metadata": {"name": id.to_string(), "labels": own}, "security-labels": all})
}

/// Whether the API server would take it as a label of an object: derived keys may be too long.
fn is_label(key: &str, value: &Value) -> bool {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    // A key with two slashes is that of a namespace's label that has a prefix of its own.
    let slashes = key.matches('/').count();
    name.len() <= 63
        && slashes <= 1
        && key.len() - name.len() <= 254
        && value.as_str().is_some_and(|value| value.len() <= 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_labels_twice_where_it_can() {
        let labels: Labels = [
            "k8s:app=cart",
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
            "k8s:io.kubernetes.pod.namespace=shop",
            "other:x=y",
        ]
        .map(str::to_owned)
        .into_iter()
        .collect();
        let made = object(300, &labels);
        assert_eq!(made["security-labels"].as_object().unwrap().len(), 4);
        assert_eq!(
            made["metadata"]["labels"]["io.kubernetes.pod.namespace"],
            "shop"
        );
        assert!(made["metadata"]["labels"]["x"].is_null());
        assert!(!is_label(&"a".repeat(64), &"b".into()));
        assert!(!is_label("a", &"b".repeat(64).into()));
    }
}
