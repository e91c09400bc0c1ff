//! The API server as the driver needs it: any kind through one type, so that little is compiled per kind.
use std::sync::Arc;

use kube::{
    Api, Client, Error, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ApiResource, Request},
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    Object,
    raw::Raw,
    scheduler,
    write::{Effect, Failure, Target},
};

/// Requests at once, all controllers together.
const AT_ONCE: usize = 64;

/// A client with a limit of requests at once; cheap to clone.
#[derive(Clone)]
pub(crate) struct Server {
    client: Client,
    limit: Arc<Semaphore>,
}

/// The patch, guarded by the version that the same job has made.
pub(crate) fn rebased(patch: &Value, version: Option<&Option<String>>) -> Value {
    let mut patch = patch.clone();
    if let Some(Some(version)) = version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    patch
}

impl Server {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            limit: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    fn api(&self, resource: &ApiResource, namespace: &str) -> Api<Raw> {
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, resource)
        }
    }

    pub(crate) async fn create(&self, object: &Object) -> Result<Object, Failure> {
        let namespace = object.meta().namespace.clone().unwrap_or_default();
        let kind = object.kind();
        let value = object.json().map_err(unreadable)?;
        let made = self
            .create_json(&kind.resource(), &namespace, value)
            .await?;
        made.typed(kind).map_err(unreadable)
    }

    pub(crate) async fn create_json(
        &self,
        resource: &ApiResource,
        namespace: &str,
        value: Value,
    ) -> Result<Raw, Failure> {
        let _permit = self.limit.acquire().await;
        let object = Raw::from(value);
        let api = self.api(resource, namespace);
        api.create(&PostParams::default(), &object)
            .await
            .map_err(failure)
    }

    pub(crate) async fn patch(
        &self,
        at: &Target,
        status: bool,
        patch: &Value,
    ) -> Result<Object, Failure> {
        let resource = at.kind.resource();
        let made = self
            .patch_json(&resource, &at.key.namespace, &at.key.name, status, patch)
            .await?;
        made.typed(at.kind).map_err(unreadable)
    }

    pub(crate) async fn patch_json(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        status: bool,
        patch: &Value,
    ) -> Result<Raw, Failure> {
        let _permit = self.limit.acquire().await;
        let api = self.api(resource, namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let result = if status {
            api.patch_status(name, &params, &patch).await
        } else {
            api.patch(name, &params, &patch).await
        };
        result.map_err(failure)
    }

    /// What is gone already is no failure.
    pub(crate) async fn delete(&self, at: &Target, grace: Option<u32>) -> Result<Effect, Failure> {
        let _permit = self.limit.acquire().await;
        let api = self.api(&at.kind.resource(), &at.key.namespace);
        let mut params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(at.uid.clone()),
            resource_version: None,
        });
        params.grace_period_seconds = grace;
        match api.delete(&at.key.name, &params).await {
            // It is still there, about to go; what is gone for good the watch tells.
            Ok(answer) => match answer.left().filter(Raw::is_lingering) {
                Some(object) => object.typed(at.kind).map(Effect::Put).map_err(unreadable),
                None => Ok(Effect::Nothing),
            },
            Err(error) => Some(failure(error))
                .filter(|failure| !failure.is_gone())
                .map_or(Ok(Effect::Nothing), Err),
        }
    }

    pub(crate) async fn look(&self, at: &Target) -> Result<Effect, Failure> {
        let _permit = self.limit.acquire().await;
        let api = self.api(&at.kind.resource(), &at.key.namespace);
        match api.get_opt(&at.key.name).await.map_err(failure)? {
            Some(object) if object.meta().uid.as_ref() == Some(&at.uid) => {
                object.typed(at.kind).map(Effect::Put).map_err(unreadable)
            }
            _ => Ok(Effect::Gone(at.clone())),
        }
    }

    pub(crate) async fn bind(&self, at: &Target, node: &str) -> Result<Effect, Failure> {
        let _permit = self.limit.acquire().await;
        let url = format!("/api/v1/namespaces/{}/pods", at.key.namespace);
        let body = scheduler::binding(at, node).to_string().into_bytes();
        let params = PostParams::default();
        let request = Request::new(url)
            .create_subresource("binding", &at.key.name, &params, body)
            .map_err(|error| failure(Error::BuildRequest(error)))?;
        let answered = self.client.request_text(request).await;
        answered.map_err(failure)?;
        Ok(Effect::Bound(at.key.clone()))
    }
}

fn unreadable(error: serde_json::Error) -> Failure {
    Failure {
        code: 0,
        reason: "Unreadable".into(),
        message: format!("the server's answer cannot be read: {error}"),
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Api(status) => Failure {
            code: status.code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        },
        other => Failure {
            code: 0,
            reason: "NoAnswer".into(),
            message: other.to_string(),
        },
    }
}
