//! What the operator knows: slim rows of the objects that it decides from.
use k8s::{
    Presence, Watcher,
    crd::{CiliumEndpoint, CiliumIdentity, CiliumNode, CiliumPodIpPool, PoolRange},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use tables::{Db, DuplicateTable, Row, Table, TableDef};

/// Name of the initialiser that the watches finish.
pub(crate) use model::KUBERNETES;

/// A `CiliumNode`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct NodeRow {
    pub said: model::CiliumNode,
    /// Seconds since 1970.
    pub created: i64,
    /// People want it kept, whether there is a node or not.
    pub keep: bool,
    pub deleted: bool,
}

/// A node object: its name is all that counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct NodeName(pub String);

/// A pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PodRow {
    pub key: String,
    pub uid: String,
    /// It ran to its end.
    pub finished: bool,
}

/// A `CiliumEndpoint`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EndpointRow {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Number of the pod that owns it; empty without.
    pub owner: String,
    pub identity: u32,
}

impl EndpointRow {
    pub fn pod(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A `CiliumIdentity`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct IdentityRow {
    pub name: String,
    pub uid: String,
    pub version: String,
}

/// A `CiliumPodIPPool`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PoolRow {
    pub name: String,
    pub ipv4: Option<PoolRange>,
    pub ipv6: Option<PoolRange>,
}

macro_rules! rows {
    ($($type:ty, |$row:ident| $get:expr;)+) => {
        $(impl Row for $type {
            type Key = String;

            fn key(&self) -> String {
                let $row = self;
                $get
            }
        })+
    };
}

rows! {
    NodeRow, |row| row.said.name.clone();
    NodeName, |row| row.0.clone();
    PodRow, |row| row.key.clone();
    EndpointRow, |row| row.pod();
    IdentityRow, |row| row.name.clone();
    PoolRow, |row| row.name.clone();
}

/// Annotation that keeps a `CiliumNode` without a node.
const KEEP: &str = "cilium.io/do-not-gc";

fn seconds(metadata: &ObjectMeta) -> i64 {
    let created = metadata.creation_timestamp.as_ref();
    created.map_or(0, |time| time.0.as_second())
}

impl From<CiliumNode> for NodeRow {
    fn from(object: CiliumNode) -> Self {
        let annotations = object.metadata.annotations.as_ref();
        Self {
            created: seconds(&object.metadata),
            keep: annotations.is_some_and(|all| all.contains_key(KEEP)),
            deleted: object.metadata.deletion_timestamp.is_some(),
            said: object.into(),
        }
    }
}

impl From<k8s::Node> for NodeName {
    fn from(object: k8s::Node) -> Self {
        Self(model::Node::from(object).name)
    }
}

impl From<k8s::Pod> for PodRow {
    fn from(object: k8s::Pod) -> Self {
        let pod = model::Pod::from(object);
        Self {
            key: pod.key.to_string(),
            uid: pod.uid.into(),
            finished: pod.finished,
        }
    }
}

impl From<CiliumEndpoint> for EndpointRow {
    fn from(object: CiliumEndpoint) -> Self {
        let metadata = object.metadata;
        let owners = metadata.owner_references.unwrap_or_default();
        let pod = owners.into_iter().find(|owner| owner.kind == "Pod");
        Self {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            owner: pod.map(|owner| owner.uid).unwrap_or_default(),
            identity: object.status.identity.map_or(0, |identity| identity.id),
        }
    }
}

impl From<CiliumIdentity> for IdentityRow {
    fn from(object: CiliumIdentity) -> Self {
        let metadata = object.metadata;
        Self {
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            version: metadata.resource_version.unwrap_or_default(),
        }
    }
}

impl From<CiliumPodIpPool> for PoolRow {
    fn from(object: CiliumPodIpPool) -> Self {
        Self {
            name: object.metadata.name.unwrap_or_default(),
            ipv4: object.spec.ipv4,
            ipv6: object.spec.ipv6,
        }
    }
}

/// Which kinds are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub pools: bool,
    pub endpoints: bool,
    pub identities: bool,
    pub nodes: bool,
}

/// Handles to every table of the operator.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub db: Db,
    pub cilium_nodes: Table<NodeRow>,
    pub nodes: Table<NodeName>,
    pub pods: Table<PodRow>,
    pub endpoints: Table<EndpointRow>,
    pub identities: Table<IdentityRow>,
    pub pools: Table<PoolRow>,
}

impl Tables {
    /// Makes all tables, empty.
    pub fn new() -> Result<Self, DuplicateTable> {
        fn table<T: Row>(db: &Db, name: &'static str) -> Result<Table<T>, DuplicateTable> {
            let mut def = TableDef::new(name);
            def.initializer(KUBERNETES);
            db.register(def)
        }
        let db = Db::new();
        Ok(Self {
            cilium_nodes: table(&db, "cilium-nodes")?,
            nodes: table(&db, "nodes")?,
            pods: table(&db, "pods")?,
            endpoints: table(&db, "endpoints")?,
            identities: table(&db, "identities")?,
            pools: table(&db, "pools")?,
            db,
        })
    }

    /// Starts the watches that fill them.
    pub fn watch(&self, watcher: &Watcher, wanted: Wanted) {
        watcher.follow::<CiliumNode, _>(&self.cilium_nodes, Presence::Optional);
        if wanted.nodes {
            watcher.follow::<k8s::Node, _>(&self.nodes, Presence::Always);
        }
        if wanted.endpoints {
            watcher.follow::<k8s::Pod, _>(&self.pods, Presence::Always);
        }
        if wanted.endpoints || wanted.identities {
            watcher.follow::<CiliumEndpoint, _>(&self.endpoints, Presence::Optional);
        }
        if wanted.identities {
            watcher.follow::<CiliumIdentity, _>(&self.identities, Presence::Optional);
        }
        if wanted.pools {
            watcher.follow::<CiliumPodIpPool, _>(&self.pools, Presence::Optional);
        }
    }
}
