//! One object at a time: what the API server has, what is to become of it.
use std::collections::BTreeMap;

use k8s::Client;
use k8s::error::{is_not_found, says};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PropagationPolicy,
    ValidationDirective,
};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, oneshot};
use serde_json::{Map, Value, json};

use super::ApplyError;

/// Under which name fields are owned.
pub const MANAGER: &str = "hypha";
/// Whose fields a release may take: its own, those that it changed otherwise, those of the tool that shares its records.
const OURS: [&str; 3] = [MANAGER, "helm", "hypha-config"];
const RELEASE_NAME: &str = "meta.helm.sh/release-name";
const RELEASE_NAMESPACE: &str = "meta.helm.sh/release-namespace";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was there, and another.
    Configured,
    /// It was there as it is wanted.
    Unchanged,
}

/// How objects are applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Nothing is stored: the API server says what it would do.
    pub dry_run: bool,
    /// Fields that others own are taken over.
    pub force: bool,
}

/// The name by which an object is spoken of: `DaemonSet kube-system/cilium`.
#[must_use]
pub fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// What makes two objects the same one.
#[must_use]
pub fn identity(object: &Value) -> String {
    let group = object["apiVersion"].as_str().unwrap_or_default();
    let group = group.split_once('/').map_or("", |(group, _)| group);
    format!("{group} {}", title(object))
}

/// The API server's kinds, each looked up once.
pub struct Objects {
    client: Client,
    kinds: BTreeMap<(String, String), (ApiResource, Scope)>,
}

impl Objects {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            kinds: BTreeMap::new(),
        }
    }

    async fn api(&mut self, object: &Value) -> Result<(Api<DynamicObject>, String), ApplyError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = (text(&object["apiVersion"]), text(&object["kind"]));
        if !self.kinds.contains_key(&key) {
            let (group, version) = key.0.rsplit_once('/').unwrap_or(("", &key.0));
            let kind = GroupVersionKind::gvk(group, version, &key.1);
            let found = oneshot::pinned_kind(&self.client, &kind).await;
            let (resource, capabilities) = found.map_err(|error| {
                let text = match &error {
                    kube::Error::Api(status) if status.code != 404 => says(&error),
                    kube::Error::Api(_) | kube::Error::Discovery(_) => {
                        format!("the cluster has no kind {} of {}", key.1, key.0)
                    }
                    _ => says(&error),
                };
                ApplyError::refused(object, text)
            })?;
            self.kinds
                .insert(key.clone(), (resource, capabilities.scope));
        }
        let (resource, scope) = &self.kinds[&key];
        let name = text(&object["metadata"]["name"]);
        let api = match (scope, object["metadata"]["namespace"].as_str()) {
            (Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(self.client.clone(), namespace, resource)
            }
            (Scope::Namespaced, None) => {
                Api::default_namespaced_with(self.client.clone(), resource)
            }
            (Scope::Cluster, _) => Api::all_with(self.client.clone(), resource),
        };
        Ok((api, name))
    }

    /// The object as the API server has it.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn get(&mut self, object: &Value) -> Result<Option<DynamicObject>, ApplyError> {
        let (api, name) = self.api(object).await?;
        api.get_opt(&name)
            .await
            .map_err(|error| ApplyError::of(object, &error))
    }

    /// Makes the object as it is wanted, or brings it there.
    ///
    /// # Errors
    /// The API server does not answer or refuses; somebody else owns a field.
    pub async fn apply(
        &mut self,
        object: &Value,
        before: Option<&Value>,
        how: How,
    ) -> Result<Outcome, ApplyError> {
        let there = self.get(object).await?;
        let (api, name) = self.api(object).await?;
        if there.is_some()
            && let Some(removal) = before.and_then(|before| removal(before, object))
        {
            let params = PatchParams {
                dry_run: how.dry_run,
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let removed = api.patch(&name, &params, &Patch::Merge(removal)).await;
            removed.map_err(|error| ApplyError::of(object, &error))?;
        }
        let mut params = PatchParams {
            dry_run: how.dry_run,
            force: how.force,
            field_manager: Some(MANAGER.to_owned()),
            field_validation: Some(ValidationDirective::Strict),
        };
        let mut applied = api.patch(&name, &params, &Patch::Apply(object)).await;
        if !how.force && applied.as_ref().is_err_and(only_ours) {
            params.force = true;
            applied = api.patch(&name, &params, &Patch::Apply(object)).await;
        }
        let applied = applied.map_err(|error| ApplyError::of(object, &error))?;
        Ok(match there {
            None => Outcome::Created,
            Some(there) if same(&there, &applied) => Outcome::Unchanged,
            Some(_) => Outcome::Configured,
        })
    }

    /// Deletes an object; whether it was there.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn delete(&mut self, object: &Value) -> Result<bool, ApplyError> {
        let (api, name) = match self.api(object).await {
            Ok(api) => api,
            // A kind that went took its objects with it.
            Err(ApplyError::Refused { text, .. })
                if text.starts_with("the cluster has no kind") =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match api.delete(&name, &params).await {
            Ok(_) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(ApplyError::of(object, &error)),
        }
    }
}

/// Marks an object as Helm does, so that either tool knows whose it is.
pub(super) fn mark(object: &mut Value, release: &str, namespace: &str) {
    object["metadata"]["labels"][MANAGED_BY] = "Helm".into();
    object["metadata"]["annotations"][RELEASE_NAME] = release.into();
    object["metadata"]["annotations"][RELEASE_NAMESPACE] = namespace.into();
}

/// Whose an object is: `namespace/release`; nothing if it is of no release.
pub(super) fn owner(object: &DynamicObject) -> Option<String> {
    let annotations = object.metadata.annotations.as_ref()?;
    let (name, namespace) = (
        annotations.get(RELEASE_NAME)?,
        annotations.get(RELEASE_NAMESPACE)?,
    );
    Some(format!("{namespace}/{name}"))
}

/// A conflict with nobody but ourselves.
fn only_ours(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status
        .details
        .as_ref()
        .map(|details| details.causes.as_slice())
        .unwrap_or_default();
    let ours = |message: &str| {
        let manager = message.split('"').nth(1).unwrap_or_default();
        OURS.contains(&manager)
    };
    status.code == 409 && !causes.is_empty() && causes.iter().all(|cause| ours(&cause.message))
}

/// The same but for what the API server keeps for itself.
fn same(a: &DynamicObject, b: &DynamicObject) -> bool {
    let rest = |object: &DynamicObject| {
        let mut metadata = object.metadata.clone();
        metadata.managed_fields = None;
        metadata.resource_version = None;
        metadata.generation = None;
        let mut data = object.data.clone();
        if let Some(map) = data.as_object_mut() {
            map.remove("status");
        }
        (metadata, data)
    };
    rest(a) == rest(b)
}

/// A merge that takes away what an object had and shall not have any more, whoever owns it by now; nothing if there is nothing.
fn removal(before: &Value, now: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(now)) = (before, now) else {
        return None;
    };
    let mut out = Map::new();
    for (key, old) in before {
        match now.get(key) {
            None => {
                out.insert(key.clone(), Value::Null);
            }
            Some(new) => {
                if let Some(inner) = removal(old, new) {
                    out.insert(key.clone(), inner);
                }
            }
        }
    }
    (!out.is_empty()).then_some(json!(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_went_is_taken_away() {
        let before = json!({"data": {"a": "1", "b": "2"}, "spec": {"x": {"y": 1}, "l": [1]}});
        let now = json!({"data": {"a": "9"}, "spec": {"x": {"y": 2}, "l": []}, "new": 1});
        assert_eq!(removal(&before, &now), Some(json!({"data": {"b": null}})));
        assert_eq!(removal(&now, &now), None);
    }

    #[test]
    fn objects_are_the_same_across_versions() {
        let object = |api: &str| json!({"apiVersion": api, "kind": "A", "metadata": {"name": "n", "namespace": "s"}});
        assert_eq!(identity(&object("g/v1")), identity(&object("g/v2")));
        assert_ne!(identity(&object("g/v1")), identity(&object("v1")));
        assert_eq!(title(&object("v1")), "A s/n");
    }
}
