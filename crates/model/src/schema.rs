//! The agent's tables: which rows exist, by what they are found, who fills them.
use crate::{
    Allocation, Attachment, CiliumNode, ClusterIdentity, Departure, Device, Endpoint,
    EndpointSlice, Identity, Labels, LocalNode, Namespace, Node, Pod, Prefix, PrefixIdentity,
    RemoteEndpoint, Route, Text, UsedPrefix,
};
use ipnet::IpNet;
use std::net::IpAddr;
use tables::{Db, DuplicateTable, Index, Row, Table, TableDef};

/// Name of the initialiser that the Kubernetes watchers finish.
pub const KUBERNETES: &str = "kubernetes";
/// Name of the initialiser that the endpoint restore finishes.
pub const RESTORE: &str = "restore";
/// Name of the initialiser that the controllers finish: the first plan from complete inputs.
pub const PLAN: &str = "plan";
/// Name of the initialiser that policy finishes: all that the policies of the cluster name is known.
pub const POLICY: &str = "policy";

macro_rules! rows {
    ($($type:ty, $key:ty, |$row:ident| $get:expr;)+) => {
        $(impl Row for $type {
            type Key = $key;

            fn key(&self) -> $key {
                let $row = self;
                $get
            }
        })+
    };
}

rows! {
    Node, String, |row| row.name.clone();
    CiliumNode, String, |row| row.name.clone();
    Pod, Text, |row| row.key.clone();
    Namespace, String, |row| row.name.clone();
    LocalNode, String, |row| row.node.name.clone();
    Endpoint, u16, |row| row.id;
    Departure, u16, |row| row.id;
    Allocation, IpAddr, |row| row.address;
    Device, String, |row| row.name.clone();
    ClusterIdentity, u32, |row| row.id;
    RemoteEndpoint, Text, |row| row.key.clone();
    EndpointSlice, String, |row| row.name.clone();
    UsedPrefix, IpNet, |row| row.prefix;
    PrefixIdentity, IpNet, |row| row.prefix;
    Identity, u32, |row| row.id;
    Prefix, IpNet, |row| row.prefix;
    Route, IpNet, |row| row.destination;
}

/// Handles to every table of the agent.
#[derive(Clone, Debug)]
pub struct Tables {
    /// The database.
    pub db: Db,
    /// Input, from Kubernetes: all node objects.
    pub node_objects: Table<Node>,
    /// Input, from Kubernetes: what agents and operator say of the nodes.
    pub cilium_nodes: Table<CiliumNode>,
    /// All nodes, from the two before.
    pub nodes: Table<Node>,
    /// Nodes by their addresses and the ranges of their pods.
    pub nodes_by_prefix: Index<Node, IpNet>,
    /// Input, from Kubernetes: the pods of this node.
    pub pods: Table<Pod>,
    /// Input, from Kubernetes: all namespaces.
    pub namespaces: Table<Namespace>,
    /// Input, from Kubernetes: the identities of the cluster.
    pub cilium_identities: Table<ClusterIdentity>,
    /// Input, from Kubernetes: the pods of all nodes as their agents publish them; where slices are used, from those.
    pub cilium_endpoints: Table<RemoteEndpoint>,
    /// Those by address.
    pub cilium_endpoints_by_address: Index<RemoteEndpoint, IpAddr>,
    /// Those by identity.
    pub cilium_endpoints_by_identity: Index<RemoteEndpoint, u32>,
    /// Input, from Kubernetes: slices of such pods, where they are used.
    pub endpoint_slices: Table<EndpointSlice>,
    /// Input, from policy: the ranges that rules and groups name.
    pub used_prefixes: Table<UsedPrefix>,
    /// Input, from the cache of names: addresses with names that rules speak of, and the labels of these.
    pub named_prefixes: Table<UsedPrefix>,
    /// Everything on this node that has a number: reserved, fixed, of the cluster, local.
    pub identities: Table<Identity>,
    /// Identities by their labels.
    pub identities_by_labels: Index<Identity, Labels>,
    /// The identities of ranges, where they are not those that nodes and pods have anyway.
    pub prefix_identities: Table<PrefixIdentity>,
    /// Input, from the machine and the node object: one row.
    pub local_node: Table<LocalNode>,
    /// Input, from the machine: the devices in use.
    pub devices: Table<Device>,
    /// The endpoints of this node; the endpoint manager writes it.
    pub endpoints: Table<Endpoint>,
    /// Endpoints by attachment.
    pub endpoints_by_attachment: Index<Endpoint, Attachment>,
    /// Endpoints by container id.
    pub endpoints_by_container: Index<Endpoint, String>,
    /// Endpoints by address.
    pub endpoints_by_address: Index<Endpoint, IpAddr>,
    /// Endpoints by `namespace/name` of the pod.
    pub endpoints_by_pod: Index<Endpoint, String>,
    /// Deleted endpoints that the sweeper has not buried yet.
    pub departures: Table<Departure>,
    /// Addresses in use; the address manager writes it.
    pub allocations: Table<Allocation>,
    /// Input, from Kubernetes and files: policies, and what they refer to.
    pub policies: crate::PolicyTables,
    /// Input, from Kubernetes: services, what is behind them, and what else says how they are served.
    pub services: crate::ServiceTables,
    /// Desired: rows of `cilium_ipcache`.
    pub prefixes: Table<Prefix>,
    /// Desired: routes of the main table.
    pub routes: Table<Route>,
}

impl Tables {
    /// Makes all tables, empty.
    ///
    /// # Errors
    /// Two tables of one name, which is a mistake in this module.
    pub fn new() -> Result<Self, DuplicateTable> {
        let db = Db::new();
        let mut cilium_endpoints = from_kubernetes("cilium-endpoints");
        let cilium_endpoints_by_address =
            cilium_endpoints.index("address", |row: &RemoteEndpoint| row.addresses.to_vec());
        let cilium_endpoints_by_identity =
            cilium_endpoints.index("identity", |row: &RemoteEndpoint| [row.identity]);
        let mut identities = TableDef::new("identities");
        identities.initializer(KUBERNETES);
        let identities_by_labels =
            identities.index("labels", |row: &Identity| [row.labels.clone()]);
        let mut used_prefixes = TableDef::new("used-prefixes");
        used_prefixes.initializer(POLICY);
        let mut nodes = from_kubernetes("nodes");
        let nodes_by_prefix =
            nodes.index("prefix", |node: &Node| node.prefixes().collect::<Vec<_>>());
        let mut endpoints = TableDef::new("endpoints");
        endpoints.initializer(RESTORE);
        let endpoints_by_attachment =
            endpoints.unique_index("attachment", |e: &Endpoint| [e.attachment.clone()]);
        let endpoints_by_container =
            endpoints.index("container", |e: &Endpoint| [e.attachment.container.clone()]);
        let endpoints_by_address =
            endpoints.unique_index("address", |e: &Endpoint| e.addresses().collect::<Vec<_>>());
        let endpoints_by_pod = endpoints.index("pod", |e: &Endpoint| [e.pod.to_string()]);
        let services = crate::ServiceTables::register(&db)?;
        Ok(Self {
            node_objects: db.register(from_kubernetes("node-objects"))?,
            cilium_nodes: db.register(from_kubernetes("cilium-nodes"))?,
            nodes: db.register(nodes)?,
            nodes_by_prefix,
            pods: db.register(from_kubernetes("pods"))?,
            namespaces: db.register(from_kubernetes("namespaces"))?,
            cilium_identities: db.register(from_kubernetes("cilium-identities"))?,
            cilium_endpoints: db.register(cilium_endpoints)?,
            cilium_endpoints_by_address,
            cilium_endpoints_by_identity,
            endpoint_slices: db.register(from_kubernetes("cilium-endpoint-slices"))?,
            used_prefixes: db.register(used_prefixes)?,
            named_prefixes: db.register(TableDef::new("named-prefixes"))?,
            identities: db.register(identities)?,
            identities_by_labels,
            prefix_identities: db.register(TableDef::new("prefix-identities"))?,
            local_node: db.register(TableDef::new("local-node"))?,
            devices: db.register(TableDef::new("devices"))?,
            endpoints: db.register(endpoints)?,
            endpoints_by_attachment,
            endpoints_by_container,
            endpoints_by_address,
            endpoints_by_pod,
            departures: db.register(TableDef::new("departures"))?,
            allocations: db.register(TableDef::new("allocations"))?,
            policies: crate::PolicyTables::register(&db, &services.services)?,
            services,
            prefixes: db.register(desired("prefixes"))?,
            routes: db.register(desired("routes"))?,
            db,
        })
    }

    /// True once every Kubernetes table holds a complete list.
    #[must_use]
    pub fn kubernetes_synced(&self) -> bool {
        let snapshot = self.db.snapshot();
        self.nodes.initialized(&snapshot)
            && self.pods.initialized(&snapshot)
            && self.namespaces.initialized(&snapshot)
    }
}

fn from_kubernetes<T: Row>(name: &'static str) -> TableDef<T> {
    let mut def = TableDef::new(name);
    def.initializer(KUBERNETES);
    def
}

fn desired<T: Row>(name: &'static str) -> TableDef<T> {
    let mut def = TableDef::new(name);
    def.initializer(PLAN);
    def
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_start_uninitialised() {
        let tables = Tables::new().unwrap();
        assert!(!tables.kubernetes_synced());
        let mut txn = tables.db.write();
        tables.nodes.finish_initializer(&mut txn, KUBERNETES);
        tables.pods.finish_initializer(&mut txn, KUBERNETES);
        tables.namespaces.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
        assert!(tables.kubernetes_synced());
    }
}
