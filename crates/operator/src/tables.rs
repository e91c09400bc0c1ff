//! What the operator knows: slim rows of the objects that it decides from.
use k8s::{
    Presence, Watcher,
    crd::{
        CiliumEndpoint, CiliumEndpointSlice, CiliumIdentity, CiliumNode, CiliumPodIpPool,
        PoolRange, SliceEndpoint,
    },
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{LabelMap, Labels, Namespace, Pod, Text};
use runtime::settings::{IdentityManagement, IpamMode, OperatorSettings};
use serde::Serialize;
use serde_json::Value;
use tables::{Db, DuplicateTable, Index, Row, Table, TableDef};

/// Name of the initialiser that the watches finish.
pub(crate) use model::KUBERNETES;

/// A `CiliumNode`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct NodeRow {
    pub said: model::CiliumNode,
    pub labels: LabelMap,
    /// Seconds since 1970.
    pub created: i64,
    /// People want it kept, whether there is a node or not.
    pub keep: bool,
    pub deleted: bool,
}

/// A node object.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct NodeObject {
    pub name: String,
    pub labels: LabelMap,
    pub taints: Vec<Value>,
    /// Version of the object; without taints nobody asks for it.
    pub version: String,
    /// A condition says that the node's network is there.
    pub network_up: bool,
}

/// An agent's pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct AgentPod {
    pub key: String,
    pub node: Text,
    pub ready: bool,
}

/// A pod of those that are restarted if no agent has connected them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct VitalPod {
    pub key: String,
    pub uid: String,
    pub node: Text,
    pub running: bool,
    pub host_network: bool,
    /// When its node took it on, in seconds since 1970.
    pub started: Option<i64>,
}

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
    /// What other nodes need to know of it.
    pub entry: SliceEndpoint,
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
    pub labels: Labels,
}

/// A `CiliumEndpointSlice`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SliceRow {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub endpoints: Vec<SliceEndpoint>,
}

/// A `CiliumPodIPPool`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PoolRow {
    pub name: String,
    pub uid: String,
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
    NodeObject, |row| row.name.clone();
    AgentPod, |row| row.key.clone();
    VitalPod, |row| row.key.clone();
    PodRow, |row| row.key.clone();
    EndpointRow, |row| row.pod();
    IdentityRow, |row| row.name.clone();
    SliceRow, |row| row.name.clone();
    PoolRow, |row| row.name.clone();
}

/// The condition of a node without network, and the reason why it is not so.
pub(crate) const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";
pub(crate) const AGENT_IS_UP: &str = "CiliumIsUp";

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
            labels: object.metadata.labels.clone().unwrap_or_default().into(),
            said: object.into(),
        }
    }
}

impl From<k8s::Node> for NodeObject {
    fn from(object: k8s::Node) -> Self {
        let metadata = object.metadata().clone();
        let version = metadata.resource_version.unwrap_or_default();
        let tainted = !object.taints().is_empty();
        Self {
            name: metadata.name.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default().into(),
            taints: object.taints().to_vec(),
            version: if tainted { version } else { String::new() },
            network_up: object.condition(NETWORK_UNAVAILABLE, "False") == Some(AGENT_IS_UP),
        }
    }
}

impl From<k8s::Pod> for AgentPod {
    fn from(object: k8s::Pod) -> Self {
        let ready = object.is_ready();
        let pod = model::Pod::from(object);
        Self {
            key: pod.key.to_string(),
            node: pod.node,
            ready,
        }
    }
}

impl From<k8s::Pod> for VitalPod {
    fn from(object: k8s::Pod) -> Self {
        let (running, started) = (object.is_running(), object.started());
        let pod = model::Pod::from(object);
        Self {
            key: pod.key.to_string(),
            uid: pod.uid.into(),
            node: pod.node,
            running,
            host_network: pod.host_network,
            started,
        }
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
        let (name, status) = (metadata.name.unwrap_or_default(), object.status);
        let identity = status.identity.map_or(0, |identity| identity.id);
        Self {
            entry: SliceEndpoint {
                name: name.clone(),
                id: identity,
                networking: status.networking,
                encryption: status.encryption,
                named_ports: status.named_ports,
            },
            identity,
            namespace: metadata.namespace.unwrap_or_default(),
            name,
            uid: metadata.uid.unwrap_or_default(),
            owner: pod.map(|owner| owner.uid).unwrap_or_default(),
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
            labels: object.security_labels.into_iter().collect(),
        }
    }
}

impl From<CiliumEndpointSlice> for SliceRow {
    fn from(object: CiliumEndpointSlice) -> Self {
        Self {
            name: object.metadata.name.unwrap_or_default(),
            uid: object.metadata.uid.unwrap_or_default(),
            namespace: object.namespace,
            endpoints: object.endpoints,
        }
    }
}

impl From<CiliumPodIpPool> for PoolRow {
    fn from(object: CiliumPodIpPool) -> Self {
        Self {
            name: object.metadata.name.unwrap_or_default(),
            uid: object.metadata.uid.unwrap_or_default(),
            ipv4: object.spec.ipv4,
            ipv6: object.spec.ipv6,
        }
    }
}

/// Whether identities that nobody uses are removed. Without endpoints nobody can tell which are used.
pub(crate) fn collects_identities(settings: &OperatorSettings) -> bool {
    !settings.identity_gc_interval.is_zero() && !settings.disable_endpoint_crd
}

/// Whether the operator makes identities.
pub(crate) fn manages_identities(settings: &OperatorSettings) -> bool {
    settings.identity_management_mode != IdentityManagement::Agent
}

/// Which kinds are watched; nodes always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub pools: bool,
    pub endpoints: bool,
    pub identities: bool,
    /// Pods with all that makes their identities, and namespaces.
    pub labels: bool,
    pub slices: bool,
    /// Namespace and labels of the agents' pods.
    pub agents: Option<(String, String)>,
    /// Labels of pods that are restarted if no agent has connected them.
    pub vital: Option<String>,
}

impl Wanted {
    /// What these settings need.
    pub fn by(settings: &OperatorSettings) -> Self {
        let vital = settings.unmanaged_pod_watcher_interval > 0 && !settings.disable_endpoint_crd;
        let agents =
            vital || settings.remove_cilium_node_taints || settings.set_cilium_is_up_condition;
        let namespace = match settings.cilium_pod_namespace.as_str() {
            "" => &settings.k8s_namespace,
            namespace => namespace,
        };
        Self {
            pools: settings.ipam == IpamMode::MultiPool,
            endpoints: !settings.cilium_endpoint_gc_interval.is_zero(),
            identities: collects_identities(settings) || manages_identities(settings),
            labels: manages_identities(settings),
            slices: settings.enable_cilium_endpoint_slice,
            agents: agents.then(|| (namespace.to_owned(), settings.cilium_pod_labels.clone())),
            vital: vital.then(|| settings.pod_restart_selector.clone()),
        }
    }
}

/// Handles to every table of the operator.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub db: Db,
    pub cilium_nodes: Table<NodeRow>,
    pub nodes: Table<NodeObject>,
    pub agents: Table<AgentPod>,
    pub agents_by_node: Index<AgentPod, Text>,
    pub vital: Table<VitalPod>,
    pub pods: Table<PodRow>,
    pub endpoints: Table<EndpointRow>,
    pub identities: Table<IdentityRow>,
    /// Pods with their labels.
    pub labelled: Table<Pod>,
    pub namespaces: Table<Namespace>,
    pub slices: Table<SliceRow>,
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
        let mut agents = TableDef::new("agents");
        agents.initializer(KUBERNETES);
        let agents_by_node = agents.index("node", |pod: &AgentPod| [pod.node.clone()]);
        Ok(Self {
            agents: db.register(agents)?,
            agents_by_node,
            vital: table(&db, "vital-pods")?,
            cilium_nodes: table(&db, "cilium-nodes")?,
            nodes: table(&db, "nodes")?,
            pods: table(&db, "pods")?,
            endpoints: table(&db, "endpoints")?,
            identities: table(&db, "identities")?,
            labelled: table(&db, "labelled-pods")?,
            namespaces: table(&db, "namespaces")?,
            slices: table(&db, "endpoint-slices")?,
            pools: table(&db, "pools")?,
            db,
        })
    }

    /// Starts the watches that fill them.
    pub fn watch(&self, watcher: &Watcher, wanted: &Wanted) {
        watcher.follow::<CiliumNode, _>(&self.cilium_nodes, Presence::Optional);
        watcher.follow::<k8s::Node, _>(&self.nodes, Presence::Always);
        if let Some((namespace, labels)) = &wanted.agents {
            watcher.follow_some::<k8s::Pod, _>(&self.agents, Some(namespace), labels);
        }
        if let Some(labels) = &wanted.vital {
            watcher.follow_some::<k8s::Pod, _>(&self.vital, None, labels);
        }
        if wanted.endpoints {
            watcher.follow::<k8s::Pod, _>(&self.pods, Presence::Always);
        }
        if wanted.endpoints || wanted.identities || wanted.slices || wanted.vital.is_some() {
            watcher.follow::<CiliumEndpoint, _>(&self.endpoints, Presence::Optional);
        }
        if wanted.identities {
            watcher.follow::<CiliumIdentity, _>(&self.identities, Presence::Optional);
        }
        if wanted.labels {
            watcher.follow::<k8s::Pod, _>(&self.labelled, Presence::Always);
            watcher.follow::<k8s::Namespace, _>(&self.namespaces, Presence::Always);
        }
        if wanted.slices {
            watcher.follow::<CiliumEndpointSlice, _>(&self.slices, Presence::Optional);
        }
        if wanted.pools {
            watcher.follow::<CiliumPodIpPool, _>(&self.pools, Presence::Optional);
        }
    }
}
