//! Secrets that policies name, as whoever asks may read them: whether they are there and serve their purpose.
use std::collections::BTreeMap;

use ::kube::api::Api;
use ::policy::rule::{Policy, SecretName};
use ::policy::secrets::MISSING;
use anyhow::Result;
use k8s::error::says;
use k8s::secret::Secret;
use model::Contents;

use super::cluster::World;
use super::files::Document;
use super::manifest::{self, Known};
use crate::kube::ClusterArgs;

/// What was found of each.
pub type Found = BTreeMap<SecretName, Result<Contents, String>>;

/// Looks for those that the policies name.
///
/// # Errors
/// There is no cluster.
pub async fn find(args: &ClusterArgs, documents: &[Document], world: &World) -> Result<Found> {
    let mut found = Found::new();
    let ours = documents.iter().filter(|one| manifest::is_ours(one));
    for document in ours {
        let Ok(Known::Policy(policy)) = manifest::read(document, world.options()) else {
            continue;
        };
        for needed in policy.secret_uses() {
            let name = needed.secret;
            if found.contains_key(name) {
                continue;
            }
            let api = Api::<Secret>::namespaced(args.client().await?, &name.namespace);
            let state = match api.get_opt(&name.name).await {
                Ok(Some(secret)) => Ok(secret.into()),
                Ok(None) => Err(MISSING.to_owned()),
                Err(error) => Err(format!("it cannot be read: {}", says(&error))),
            };
            found.insert(name.clone(), state);
        }
    }
    Ok(found)
}

/// What a policy lacks, a line for each place.
#[must_use]
pub fn lacking(policy: &Policy, found: &Found) -> Vec<String> {
    let uses = policy.secret_uses().into_iter();
    let lines = uses.filter_map(|needed| {
        let contents = found.get(needed.secret)?.as_ref().map_err(Clone::clone);
        let usable = contents.and_then(|contents| operator::usable_secret(&needed, contents));
        usable.err().map(|why| needed.problem(&why))
    });
    lines.collect()
}
