//! Writing our objects: plain values in, what the API server made of them out.
use crate::crd::Crd;
use kube::{
    Api, Client, Error,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
        Preconditions,
    },
};
use serde_json::{Value, json};

/// Objects of one kind, of one namespace or without.
#[derive(Clone, Debug)]
pub struct Objects {
    api: Api<DynamicObject>,
    kind: &'static str,
    api_version: String,
}

/// Which incarnation of an object is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meant {
    /// Its unique number, if only that one is.
    pub uid: Option<String>,
    /// Its version, if it must not have changed.
    pub version: Option<String>,
}

impl Objects {
    /// Objects of a cluster-wide kind.
    #[must_use]
    pub fn of(client: &Client, crd: &Crd) -> Self {
        Self::new(crd, Api::all_with(client.clone(), &crd.resource()))
    }

    /// Objects of a kind in a namespace.
    #[must_use]
    pub fn within(client: &Client, crd: &Crd, namespace: &str) -> Self {
        let api = Api::namespaced_with(client.clone(), namespace, &crd.resource());
        Self::new(crd, api)
    }

    /// Objects of a kind of the core group, of a namespace if the kind has any.
    #[must_use]
    pub fn core(
        client: &Client,
        kind: &'static str,
        plural: &str,
        namespace: Option<&str>,
    ) -> Self {
        let resource = ApiResource {
            group: String::new(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        Self {
            api,
            kind,
            api_version: resource.api_version,
        }
    }

    fn new(crd: &Crd, api: Api<DynamicObject>) -> Self {
        Self {
            api,
            kind: crd.kind,
            api_version: crd.resource().api_version,
        }
    }

    /// Creates an object; `value` needs no `apiVersion` and `kind`.
    ///
    /// # Errors
    /// The API server refuses, for example because the object is there.
    pub async fn create(&self, mut value: Value) -> Result<DynamicObject, Error> {
        value["apiVersion"] = self.api_version.clone().into();
        value["kind"] = self.kind.into();
        let object = serde_json::from_value(value).map_err(Error::SerdeError)?;
        self.api.create(&PostParams::default(), &object).await
    }

    /// Merges `value` into an object. With a version, only if it is still that one.
    ///
    /// # Errors
    /// The API server refuses, for example because there is no such object.
    pub async fn merge(
        &self,
        name: &str,
        mut value: Value,
        version: Option<&str>,
    ) -> Result<DynamicObject, Error> {
        if let Some(version) = version {
            value["metadata"]["resourceVersion"] = version.into();
        }
        self.api
            .patch(name, &PatchParams::default(), &Patch::Merge(value))
            .await
    }

    /// Merges `value`, which is the `status`, into an object's status.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn merge_status(&self, name: &str, value: Value) -> Result<DynamicObject, Error> {
        let patch = Patch::Merge(json!({"status": value}));
        self.api
            .patch_status(name, &PatchParams::default(), &patch)
            .await
    }

    /// Merges `value`, which is the `status`, into the status of an object of a kind that Kubernetes defines: rows of its lists
    /// by their keys.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn patch_status(&self, name: &str, value: Value) -> Result<DynamicObject, Error> {
        let patch = Patch::Strategic(json!({"status": value}));
        self.api
            .patch_status(name, &PatchParams::default(), &patch)
            .await
    }

    /// An object, if it is there.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn get(&self, name: &str) -> Result<Option<DynamicObject>, Error> {
        self.api.get_opt(name).await
    }

    /// All objects.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn list(&self) -> Result<Vec<DynamicObject>, Error> {
        Ok(self.api.list(&ListParams::default()).await?.items)
    }

    /// Deletes an object if it is the one that is meant; whether it was there.
    ///
    /// # Errors
    /// It is another one (a conflict), or the API server does not answer or refuses.
    pub async fn delete(&self, name: &str, meant: Meant) -> Result<bool, Error> {
        let params = DeleteParams {
            preconditions: (meant != Meant::default()).then_some(Preconditions {
                uid: meant.uid,
                resource_version: meant.version,
            }),
            ..DeleteParams::default()
        };
        match self.api.delete(name, &params).await {
            Ok(_) => Ok(true),
            Err(error) if crate::error::is_not_found(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
