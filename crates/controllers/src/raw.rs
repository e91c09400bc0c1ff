//! An object of any kind as the client gives it: its JSON, with so much of the metadata read as the client needs. Nothing is
//! read twice, and little is compiled per kind.
use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource,
    core::{ApiResource, DynamicResourceScope},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{Kind, Object};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    meta: ObjectMeta,
    value: Value,
}

impl From<Value> for Raw {
    fn from(mut value: Value) -> Self {
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let mut meta = ObjectMeta::default();
        if let Some(fields) = metadata {
            // The largest part, and nobody here reads it.
            fields.remove("managedFields");
            let text = |name: &str| fields.get(name)?.as_str().map(str::to_owned);
            meta.name = text("name");
            meta.namespace = text("namespace");
            meta.uid = text("uid");
            meta.resource_version = text("resourceVersion");
        }
        Self { meta, value }
    }
}

impl Raw {
    /// The object by its kind's type.
    pub(crate) fn typed(self, kind: Kind) -> Result<Object, serde_json::Error> {
        kind.parse(self.value)
    }

    /// Whether a deleted object is still there: it has finalizers, or time to end.
    pub(crate) fn is_lingering(&self) -> bool {
        let meta = &self.value["metadata"];
        let finalizers = meta["finalizers"]
            .as_array()
            .is_some_and(|list| !list.is_empty());
        let grace = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        !meta["deletionTimestamp"].is_null() && (finalizers || grace > 0)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_client_needs_is_read() {
        let raw: Raw = serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "n", "resourceVersion": "7", "managedFields": [{"manager": "x"}]},
            "spec": {"containers": []},
        }))
        .unwrap();
        assert_eq!(raw.meta().resource_version.as_deref(), Some("7"));
        assert!(raw.meta().name.is_some() && !raw.is_lingering());
        let object = raw.typed(Kind::Pod).unwrap();
        assert_eq!(object.meta().namespace.as_deref(), Some("n"));
        assert!(Raw::from(json!(null)).meta().name.is_none());
    }

    #[test]
    fn deleted_objects_linger_for_a_reason() {
        let deleted = |more: Value| {
            let mut meta = json!({"deletionTimestamp": "2026-11-20T00:00:00Z"});
            for (key, value) in more.as_object().unwrap() {
                meta[key] = value.clone();
            }
            Raw::from(json!({"metadata": meta})).is_lingering()
        };
        assert!(deleted(json!({"deletionGracePeriodSeconds": 30})));
        assert!(deleted(
            json!({"finalizers": ["x"], "deletionGracePeriodSeconds": 0})
        ));
        assert!(!deleted(json!({"deletionGracePeriodSeconds": 0})));
    }
}
