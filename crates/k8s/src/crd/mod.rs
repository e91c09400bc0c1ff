//! The custom resources: one description per kind, from which the definitions are made that the operator installs.
//!
//! A later kind joins by a module with its types and its [`Crd`], and a line in [`ALL`].
mod endpoint;
mod endpoint_slice;
mod identity;
mod install;
mod node;
mod node_config;
mod policy;
mod pool;
mod rule;
mod schema;
mod service;

pub use endpoint::{
    AddressPair, CiliumEndpoint, EndpointEncryption, EndpointIdentity, EndpointNetworking,
    EndpointPolicy, EndpointPolicyDirection, EndpointPort, EndpointStatus,
};
pub use endpoint_slice::{CiliumEndpointSlice, SliceEndpoint};
pub use identity::CiliumIdentity;
pub use install::{InstallError, Installed, install};
pub use node::{
    CiliumNode, CiliumNodeSpec, CiliumNodeStatus, Encryption, IpUse, IpamSpec, IpamStatus,
    NODE_AUDIT, NeededIps, NodeAddress, OperatorStatus, PoolAllocation, PoolRequest, Pools,
};
pub use node_config::{
    CiliumNodeConfig, CiliumNodeConfigSpec, LabelSelector, LabelSelectorRequirement,
};
pub use pool::{CiliumPodIpPool, CiliumPodIpPoolSpec, PoolRange};

use kube::api::ApiResource;
use serde_json::{Value, json};

/// API group of all of them.
pub const GROUP: &str = "cilium.io";
/// Label of a definition: version of its schema, by which a definition is never replaced by an older one.
pub const SCHEMA_LABEL: &str = "io.cilium.k8s.crd.schema.version";
/// Version of the schemas below; raise it with every change of one.
pub const SCHEMA_VERSION: &str = "1.33.0";

/// Whether objects of a kind belong to a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// They do.
    Namespaced,
    /// They do not.
    Cluster,
}

/// A column of `kubectl get`, after the name.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    name: &'static str,
    path: &'static str,
    kind: &'static str,
    description: &'static str,
    /// Only with `-o wide`.
    wide: bool,
}

impl Column {
    const fn new(name: &'static str, kind: &'static str, path: &'static str) -> Self {
        Self {
            name,
            path,
            kind,
            description: "",
            wide: false,
        }
    }

    const fn text(name: &'static str, path: &'static str) -> Self {
        Self::new(name, "string", path)
    }

    const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }

    const fn about(self, description: &'static str) -> Self {
        Self {
            description,
            ..self
        }
    }

    fn value(&self) -> Value {
        let mut column = json!({"name": self.name, "type": self.kind, "jsonPath": self.path});
        if !self.description.is_empty() {
            column["description"] = self.description.into();
        }
        if self.wide {
            column["priority"] = 1.into();
        }
        column
    }
}

/// Age of the object.
const AGE: Column = Column::new("Age", "date", ".metadata.creationTimestamp");

/// One custom resource.
#[derive(Clone, Copy, Debug)]
pub struct Crd {
    /// Kind.
    pub kind: &'static str,
    /// Plural name, as in paths.
    pub plural: &'static str,
    /// Short names.
    pub short: &'static [&'static str],
    /// Scope.
    pub scope: Scope,
    /// Versions that are served, the stored one first.
    pub versions: &'static [&'static str],
    /// The status is a subresource.
    pub status: bool,
    /// Further categories beside `cilium`.
    pub categories: &'static [&'static str],
    /// Columns.
    pub columns: &'static [Column],
    /// Schema of every version.
    schema: fn() -> Value,
}

/// Every custom resource, in the order in which they are installed.
pub const ALL: &[Crd] = &[
    node::CRD,
    endpoint::CRD,
    identity::CRD,
    endpoint_slice::CRD,
    policy::NETWORK,
    policy::CLUSTERWIDE,
    policy::CIDR_GROUP,
    pool::CRD,
    node_config::CRD,
    service::POOL,
    service::L2_ANNOUNCEMENT,
    service::LOCAL_REDIRECT,
];

impl Crd {
    /// Name of the definition.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{GROUP}", self.plural)
    }

    /// How the API server is asked for objects of this kind in the stored version.
    #[must_use]
    pub fn resource(&self) -> ApiResource {
        ApiResource {
            group: GROUP.to_owned(),
            version: self.versions[0].to_owned(),
            api_version: format!("{GROUP}/{}", self.versions[0]),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// The definition as an object of `apiextensions.k8s.io/v1`.
    #[must_use]
    pub fn definition(&self) -> Value {
        let categories: Vec<&str> = ["cilium"].iter().chain(self.categories).copied().collect();
        let mut names = json!({
            "kind": self.kind,
            "listKind": format!("{}List", self.kind),
            "plural": self.plural,
            "singular": self.kind.to_ascii_lowercase(),
            "categories": categories,
        });
        if !self.short.is_empty() {
            names["shortNames"] = self.short.into();
        }
        let versions: Vec<Value> = self
            .versions
            .iter()
            .map(|name| self.version(name))
            .collect();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": self.name(), "labels": {SCHEMA_LABEL: SCHEMA_VERSION}},
            "spec": {
                "group": GROUP,
                "names": names,
                "scope": match self.scope {
                    Scope::Namespaced => "Namespaced",
                    Scope::Cluster => "Cluster",
                },
                "versions": versions,
            },
        })
    }

    fn version(&self, name: &str) -> Value {
        let columns: Vec<Value> = self.columns.iter().map(Column::value).collect();
        let mut version = json!({
            "name": name,
            "served": true,
            "storage": name == self.versions[0],
            "additionalPrinterColumns": columns,
            "schema": {"openAPIV3Schema": (self.schema)()},
        });
        if self.status {
            version["subresources"] = json!({"status": {}});
        }
        version
    }
}

/// The definition as YAML, keys in alphabetical order.
///
/// # Errors
/// Never for the kinds of [`ALL`].
pub fn yaml(crd: &Crd) -> Result<String, String> {
    serde_saphyr::to_string(&crd.definition()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
