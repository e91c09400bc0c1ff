//! Policies as they stand in the API server or a file, and what they refer to by name. Nothing of a policy is understood
//! here: whoever enforces it reads its text.
use crate::{Secret, Service, Text};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use tables::{Db, DuplicateTable, Row, Table, TableDef};

/// A policy, or a group of address ranges, without its status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyObject {
    /// `namespace/name`, or the name of what has no namespace. Of a file: its path and the place in it.
    pub key: Text,
    /// Kind of the object.
    pub kind: Text,
    /// The object as JSON: name, namespace, UID, labels, and what it says.
    pub json: Box<str>,
}

/// Addresses behind a service that no controller wrote for pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ManualEndpoints {
    /// `namespace/name` of the object.
    pub key: Text,
    /// `namespace/name` of the service.
    pub service: Text,
    /// The addresses.
    pub addresses: Box<[IpAddr]>,
}

macro_rules! keyed {
    ($($type:ty),+) => {
        $(impl Row for $type {
            type Key = Text;

            fn key(&self) -> Text {
                self.key.clone()
            }
        })+
    };
}

keyed!(PolicyObject, ManualEndpoints);

/// Input, from Kubernetes and from files: policies and what they refer to.
#[derive(Clone, Debug)]
pub struct PolicyTables {
    /// CiliumNetworkPolicies.
    pub cilium: Table<PolicyObject>,
    /// CiliumClusterwideNetworkPolicies.
    pub clusterwide: Table<PolicyObject>,
    /// NetworkPolicies of Kubernetes.
    pub kubernetes: Table<PolicyObject>,
    /// AdminNetworkPolicies.
    pub admin: Table<PolicyObject>,
    /// BaselineAdminNetworkPolicies.
    pub baseline: Table<PolicyObject>,
    /// CiliumCIDRGroups.
    pub groups: Table<PolicyObject>,
    /// Policies of the node's own files; whoever reads them writes this table, and finishes its initialiser.
    pub files: Table<PolicyObject>,
    /// Services: the table of [`ServiceTables`](crate::ServiceTables).
    pub services: Table<Service>,
    /// What is behind services without a selector.
    pub manual_endpoints: Table<ManualEndpoints>,
    /// Secrets that rules need, of the one namespace that agents read them of.
    pub secrets: Table<Secret>,
}

/// Name of the initialiser that the reader of policy files finishes.
pub const FILES: &str = "files";

impl PolicyTables {
    pub(crate) fn register(db: &Db, services: &Table<Service>) -> Result<Self, DuplicateTable> {
        let mut files = TableDef::new("static-policies");
        files.initializer(FILES);
        Ok(Self {
            cilium: watched(db, "cilium-network-policies")?,
            clusterwide: watched(db, "cilium-clusterwide-network-policies")?,
            kubernetes: watched(db, "network-policies")?,
            admin: watched(db, "admin-network-policies")?,
            baseline: watched(db, "baseline-admin-network-policies")?,
            groups: watched(db, "cidr-groups")?,
            files: db.register(files)?,
            services: services.clone(),
            manual_endpoints: watched(db, "manual-endpoints")?,
            secrets: watched(db, "policy-secrets")?,
        })
    }

    /// The tables that hold policies, not groups.
    pub fn policies(&self) -> impl Iterator<Item = &Table<PolicyObject>> {
        [
            &self.cilium,
            &self.clusterwide,
            &self.kubernetes,
            &self.admin,
            &self.baseline,
            &self.files,
        ]
        .into_iter()
    }
}

fn watched<T: Row>(db: &Db, name: &'static str) -> Result<Table<T>, DuplicateTable> {
    let mut def = TableDef::new(name);
    def.initializer(crate::KUBERNETES);
    db.register(def)
}
