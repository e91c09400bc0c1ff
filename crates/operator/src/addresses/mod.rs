//! Addresses of services of the type `LoadBalancer`: out of pools, or those of nodes. `lb` decides; here it is fed, and what it
//! wants is written into the status of services and pools.
//!
//! What a status says already is not written again, so that a new leader writes nothing that is right.
mod keeper;
mod status;

use crate::controller::Context;
use futures::{StreamExt, stream};
use k8s::{
    Presence, Watcher,
    error::{is_not_found, says},
    events::About,
    policy::{LoadBalancerPool, Object},
    service,
    write::Objects,
};
use keeper::{Keeper, Open};
use model::{Declared, Text, service::Slice};
use runtime::{health::Component, stop::Stop};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;
use tables::{Db, DuplicateTable, Index, Row, Table, TableDef};

/// How many statuses are written at the same time.
const WRITES: usize = 8;
/// How long one write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Until what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Taint of nodes that are about to be removed.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// A service, and the conditions of its status.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ServiceRow {
    pub service: model::Service,
    pub uid: Box<str>,
    pub conditions: Vec<Value>,
}

/// A node, as far as its addresses may be those of services.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct NodeRow {
    pub node: model::Node,
    pub leaving: bool,
}

impl Row for ServiceRow {
    type Key = Text;

    fn key(&self) -> Text {
        self.service.key.clone()
    }
}

impl Row for NodeRow {
    type Key = String;

    fn key(&self) -> String {
        self.node.name.clone()
    }
}

impl From<service::Service> for ServiceRow {
    fn from(object: service::Service) -> Self {
        Self {
            conditions: object.conditions().to_vec(),
            uid: object.uid().into(),
            service: object.into(),
        }
    }
}

impl From<k8s::Node> for NodeRow {
    fn from(object: k8s::Node) -> Self {
        let tainted = object.taints().iter().any(|taint| taint["key"] == LEAVING);
        Self {
            leaving: tainted || object.metadata().deletion_timestamp.is_some(),
            node: object.into(),
        }
    }
}

/// What addresses depend on.
pub(super) struct Known {
    pub db: Db,
    pub services: Table<ServiceRow>,
    pub pools: Table<Declared>,
    pub nodes: Table<NodeRow>,
    pub slices: Table<Slice>,
    pub slices_by_service: Index<Slice, Text>,
}

impl Known {
    pub fn new() -> Result<Self, DuplicateTable> {
        fn def<T: Row>(name: &'static str) -> TableDef<T> {
            let mut def = TableDef::new(name);
            def.initializer(model::KUBERNETES);
            def
        }
        let db = Db::new();
        let mut slices = def("endpoint-slices");
        let slices_by_service = slices.index("service", |row: &Slice| [row.service.clone()]);
        Ok(Self {
            services: db.register(def("services"))?,
            pools: db.register(def("load-balancer-ip-pools"))?,
            nodes: db.register(def("nodes"))?,
            slices: db.register(slices)?,
            slices_by_service,
            db,
        })
    }

    fn watch(&self, watcher: &Watcher, pools: bool, nodes: bool) {
        watcher.follow::<service::Service, _>(&self.services, Presence::Always);
        if pools {
            watcher.follow::<Object<LoadBalancerPool>, _>(&self.pools, Presence::Optional);
        } else {
            watcher.leave_empty(&self.pools);
        }
        if nodes {
            watcher.follow::<k8s::Node, _>(&self.nodes, Presence::Always);
            let slices = &self.slices;
            watcher.follow_either::<service::EndpointSlice, service::EndpointSlice<true>, _>(
                slices, "",
            );
        } else {
            watcher.leave_empty(&self.nodes);
            watcher.leave_empty(&self.slices);
        }
    }
}

/// Gives services their addresses until `stop`.
pub(crate) async fn give(context: Context, stop: Stop) {
    let health = context.health.component("controller/lb-ipam");
    let settings = context.settings.clone();
    let (pools, nodes) = (settings.enable_lb_ipam, settings.enable_node_ipam);
    if !pools && !nodes {
        return health.ok("not asked for");
    }
    let known = match Known::new() {
        Ok(known) => known,
        Err(error) => return health.failed(error.to_string()),
    };
    let watcher = Watcher::new(&context.client, &known.db, &context.health, &stop);
    known.watch(&watcher, pools, nodes);
    let mut keeper = Keeper::new(&known, &settings);
    let watch = known
        .services
        .watch()
        .and(known.pools.watch())
        .and(known.nodes.watch())
        .and(known.slices.watch());
    loop {
        let snapshot = known.db.snapshot();
        let seen = tables::Read::revision(&snapshot);
        let complete = keeper.look(&known, &snapshot);
        drop(snapshot);
        if complete {
            context.metrics.addresses(keeper.totals(), keeper.pools());
            if stop.or(write(&context, &mut keeper)).await.is_none() {
                return;
            }
            tell(&health, &keeper);
        }
        let open = !keeper.open.is_empty();
        let next = async {
            tokio::select! {
                () = watch.changed(seen) => {}
                () = tokio::time::sleep(AGAIN), if open => {}
            }
        };
        if stop.or(next).await.is_none() {
            return;
        }
    }
}

fn tell(health: &Component, keeper: &Keeper) {
    let totals = keeper.totals();
    let open = keeper.open.len();
    if open > 0 {
        health.degraded(format!("{open} statuses could not be written"));
    } else if totals.unsatisfied + totals.conflicting > 0 {
        health.degraded(format!(
            "{} of {} services lack addresses, {} pools conflict",
            totals.unsatisfied, totals.matching, totals.conflicting
        ));
    } else {
        health.ok(format!("{} services have addresses", totals.matching));
    }
}

/// Writes what is open; what fails stays open.
async fn write(context: &Context, keeper: &mut Keeper) {
    let open = std::mem::take(&mut keeper.open);
    if open.is_empty() {
        return;
    }
    let writes = open.into_iter().map(async |((kind, key), open)| {
        let work = tokio::time::timeout(WRITE_LIMIT, say(context, &key, &open));
        let done = work.await.unwrap_or(false);
        (!done).then_some(((kind, key), open))
    });
    let failed = stream::iter(writes).buffer_unordered(WRITES);
    keeper.open = failed.filter_map(async |one| one).collect().await;
    context.metrics.ran("lb-ipam", keeper.open.is_empty());
}

/// Writes one status; true if that is done, or there is nobody any more whose status it is.
async fn say(context: &Context, key: &Text, open: &Open) -> bool {
    let (namespace, name) = model::service::names(key);
    let (about, written) = match open {
        Open::Service { uid, status, .. } => {
            let objects = Objects::core(&context.client, "Service", "services", Some(namespace));
            let about = About {
                kind: "Service",
                api_version: "v1".to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: uid.to_string(),
            };
            let write = objects.patch_status(name, status.clone());
            (about, write.await)
        }
        Open::Pool { uid, status, .. } => {
            let crd = crate::controller::crd_of("CiliumLoadBalancerIPPool");
            let about = About {
                kind: "CiliumLoadBalancerIPPool",
                api_version: "cilium.io/v2alpha1".to_owned(),
                namespace: String::new(),
                name: name.to_owned(),
                uid: uid.to_string(),
            };
            let objects = Objects::of(&context.client, &crd);
            let write = objects.merge_status(name, status.clone());
            (about, write.await)
        }
    };
    match written {
        Ok(_) => {
            if let Some((reason, why)) = open.complaint() {
                tracing::warn!(kind = about.kind, object = %key, "{why}");
                context.events.warn(&about, reason, why).await;
            }
            true
        }
        Err(error) if is_not_found(&error) => true,
        Err(error) => {
            let error = says(&error);
            tracing::warn!(kind = about.kind, object = %key, error, "the status could not be written; it is tried again");
            false
        }
    }
}

#[cfg(test)]
mod tests;
