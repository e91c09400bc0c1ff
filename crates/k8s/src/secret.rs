//! Secrets: what is in them goes into rows that show it to nobody.
use crate::{
    error::causes,
    policy::{key, resource},
    watch::{LONGEST_PAUSE, Pauses},
};
use futures::{Stream, StreamExt};
use k8s_openapi::{
    ByteString, NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use model::Contents;
use serde::Deserialize;
use std::{borrow::Cow, collections::BTreeMap, fmt};

/// A Secret, with only what is read.
#[derive(Clone, Deserialize)]
pub struct Secret {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    data: Option<BTreeMap<String, ByteString>>,
}

resource!(Secret, "Secret", "", "secrets");

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}", key(&self.metadata))
    }
}

impl Secret {
    /// True if it has this label.
    #[must_use]
    pub fn has_label(&self, key: &str, value: &str) -> bool {
        let labels = self.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(key))
            .map(String::as_str)
            == Some(value)
    }
}

impl From<Secret> for Contents {
    fn from(object: Secret) -> Self {
        let entries = object.data.into_iter().flatten();
        entries
            .map(|(name, bytes)| (name, bytes.0.into_boxed_slice()))
            .collect()
    }
}

impl From<Secret> for model::Secret {
    fn from(object: Secret) -> Self {
        Self {
            key: key(&object.metadata),
            contents: object.into(),
        }
    }
}

/// What one Secret is, whenever it is another: none while there is none. It is asked for again and again; an error says why that
/// failed.
pub fn follow(
    client: &Client,
    namespace: &str,
    name: &str,
) -> impl Stream<Item = Result<Option<Secret>, String>> + Send + use<> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let stream = watch_object(api, name).backoff(Pauses::new(LONGEST_PAUSE));
    stream.map(|seen| seen.map_err(|error| causes(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_in_a_secret_is_read_and_not_shown() {
        let object: Secret = serde_json::from_value(json!({
            "metadata": {"name": "tls", "namespace": "shop", "labels": {"a": "b"}},
            "type": "kubernetes.io/tls", "data": {"tls.key": "czNjcmV0"}
        }))
        .unwrap();
        assert!(object.has_label("a", "b") && !object.has_label("a", "c"));
        let row = model::Secret::from(object.clone());
        assert_eq!(row.key.as_str(), "shop/tls");
        assert_eq!(row.contents.get("tls.key"), Some(&b"s3cret"[..]));
        let shown = format!("{object:?} {row:?} {}", json!(row));
        assert!(
            !shown.contains("s3cret") && !shown.contains("czNjcmV0") && shown.contains("tls.key"),
            "{shown}"
        );
        let bare: Secret = serde_json::from_value(json!({"metadata": {"name": "x"}})).unwrap();
        assert_eq!(Contents::from(bare).names().count(), 0);
    }
}
