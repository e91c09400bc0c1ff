//! Putting the definitions into an API server.
use super::{Crd, SCHEMA_LABEL, SCHEMA_VERSION};
use crate::error::{is_conflict, is_not_found, says};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::Value;
use std::time::Duration;

/// Name under which the definitions are applied.
const MANAGER: &str = "cilium-operator";
/// How long the API server may take to serve a new kind, and how often it is asked.
const ESTABLISH_LIMIT: Duration = Duration::from_secs(30);
const ESTABLISH_LOOK: Duration = Duration::from_millis(50);

/// What became of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// It was not there.
    Created,
    /// It was older.
    Updated,
    /// It was there as it is here.
    Current,
    /// It is of a later version, which stays.
    Newer(String),
}

/// A definition could not be put in.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The API server refused.
    #[error("custom resource {name}: {text}")]
    Refused {
        /// Name of the definition.
        name: String,
        /// What it said.
        text: String,
    },
    /// It took the definition but does not serve the kind.
    #[error("custom resource {name} is not served after {} s: {conditions}", ESTABLISH_LIMIT.as_secs())]
    NotServed {
        /// Name of the definition.
        name: String,
        /// What its conditions say.
        conditions: String,
    },
}

/// Puts one definition in, or brings it up to date; returns once objects of the kind can be stored.
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn install(client: &Client, crd: &Crd) -> Result<Installed, InstallError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource());
    let name = crd.name();
    let refused = |error: kube::Error| InstallError::Refused {
        name: name.clone(),
        text: says(&error),
    };
    let present = api.get_opt(&name).await.map_err(refused)?;
    let outcome = decide(present.as_ref());
    match &outcome {
        Installed::Current | Installed::Newer(_) => {}
        Installed::Created => create(&api, crd).await.map_err(refused)?,
        Installed::Updated => update(&api, crd).await.map_err(refused)?,
    }
    established(&api, &name).await?;
    Ok(outcome)
}

fn resource() -> ApiResource {
    ApiResource {
        group: "apiextensions.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
        plural: "customresourcedefinitions".to_owned(),
    }
}

/// What is to be done about a definition that is there as `present`.
fn decide(present: Option<&DynamicObject>) -> Installed {
    let Some(present) = present else {
        return Installed::Created;
    };
    let version = present
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SCHEMA_LABEL));
    match version.map(|text| (parts(text), text)) {
        Some((there, _)) if there == parts(SCHEMA_VERSION) => Installed::Current,
        Some((there, text)) if there > parts(SCHEMA_VERSION) => Installed::Newer(text.clone()),
        _ => Installed::Updated,
    }
}

/// `1.31.10` as numbers; what is no number counts as 0, so that nonsense is old.
fn parts(version: &str) -> [u64; 3] {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}

/// A definition that somebody else just created is brought up to date.
async fn create(api: &Api<DynamicObject>, crd: &Crd) -> Result<(), kube::Error> {
    let object: DynamicObject =
        serde_json::from_value(crd.definition()).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(error) if is_conflict(&error) => update(api, crd).await,
        Err(error) => Err(error),
    }
}

/// By server-side apply; where the server has none, by replacing.
async fn update(api: &Api<DynamicObject>, crd: &Crd) -> Result<(), kube::Error> {
    let params = PatchParams::apply(MANAGER).force();
    match api
        .patch(&crd.name(), &params, &Patch::Apply(crd.definition()))
        .await
    {
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 405 | 415 | 501) => {
            replace(api, crd).await
        }
        other => other.map(drop),
    }
}

async fn replace(api: &Api<DynamicObject>, crd: &Crd) -> Result<(), kube::Error> {
    let mut object: DynamicObject =
        serde_json::from_value(crd.definition()).map_err(kube::Error::SerdeError)?;
    let present = api.get(&crd.name()).await?;
    object.metadata.resource_version = present.metadata.resource_version;
    api.replace(&crd.name(), &PostParams::default(), &object)
        .await
        .map(drop)
}

async fn established(api: &Api<DynamicObject>, name: &str) -> Result<(), InstallError> {
    let deadline = tokio::time::Instant::now() + ESTABLISH_LIMIT;
    loop {
        let found = match api.get(name).await {
            Ok(found) => found,
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => {
                return Err(InstallError::Refused {
                    name: name.to_owned(),
                    text: says(&error),
                });
            }
        };
        let conditions = &found.data["status"]["conditions"];
        if holds(conditions, "Established") {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(InstallError::NotServed {
                name: name.to_owned(),
                conditions: conditions.to_string(),
            });
        }
        tokio::time::sleep(ESTABLISH_LOOK).await;
    }
}

fn holds(conditions: &Value, kind: &str) -> bool {
    let all = conditions.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .any(|one| one["type"] == kind && one["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn present(version: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "x", "labels": {SCHEMA_LABEL: version}},
        }))
        .unwrap()
    }

    #[test]
    fn definitions_are_never_downgraded() {
        assert_eq!(decide(None), Installed::Created);
        assert_eq!(decide(Some(&present(SCHEMA_VERSION))), Installed::Current);
        for old in ["1.9.99", "0.1", "", "x"] {
            assert_eq!(decide(Some(&present(old))), Installed::Updated, "{old}");
        }
        for newer in ["1.33.1", "1.100.0", "2"] {
            assert_eq!(
                decide(Some(&present(newer))),
                Installed::Newer(newer.to_owned())
            );
        }
    }
}
