//! `CiliumIdentity`: the labels behind a number.
use super::{
    AGE, Column, Crd, Scope,
    schema::{Object, map, text},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) const CRD: Crd = Crd {
    kind: "CiliumIdentity",
    plural: "ciliumidentities",
    short: &["ciliumid"],
    scope: Scope::Cluster,
    versions: &["v2"],
    status: true,
    categories: &[],
    columns: &[
        Column::text(
            "Namespace",
            r".metadata.labels.io\.kubernetes\.pod\.namespace",
        )
        .about("Namespace of the pods with this identity"),
        AGE.about("Time since the identity was made"),
    ],
    schema,
};

/// A security identity; its name is the decimal number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CiliumIdentity {
    /// Name and the like.
    pub metadata: ObjectMeta,
    /// The labels, keys with their source.
    pub security_labels: BTreeMap<String, String>,
}

fn schema() -> Value {
    Object::new("The labels behind the number of a security identity.")
        .required(
            "security-labels",
            map(text()),
            "The labels, their keys with the source before them.",
        )
        .optional("status", Object::new("Unused.").build(), "Unused.")
        .root()
}
