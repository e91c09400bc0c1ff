//! The drivers: they wait, ask the pure parts what to do, and do it.
use crate::{
    gc::{self, Garbage, Heartbeats, Twice},
    identities,
    metrics::Metrics,
    nodes::{self, NodeWrite, Spaces},
    rounds::Rounds,
    tables::{Tables, collects_identities, manages_identities},
};
use futures::{StreamExt, stream};
use ipam::{Planner, Written};
use k8s::{
    Client, crd,
    error::{is_conflict, is_not_found, says},
    events::{About, Events},
    write::{Meant, Objects},
};
use runtime::{
    health::{Component, Health},
    settings::{IpamMode, OperatorSettings},
    stop::Stop,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tables::Read;

/// How long one write may take before its outcome counts as unknown.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a computation, as a multiple of the time it took: at most a fifth of a CPU goes into planning.
const REST: u32 = 4;
const LONGEST_REST: Duration = Duration::from_secs(1);
/// The most objects that are removed at the same time.
const REMOVALS: usize = 16;

/// What the drivers share.
#[derive(Clone)]
pub(crate) struct Context {
    pub client: Client,
    pub settings: Arc<OperatorSettings>,
    pub tables: Tables,
    pub health: Health,
    pub metrics: Metrics,
    pub events: Events,
}

/// Gives nodes their ranges until `stop`, in the modes in which the operator does.
pub(crate) async fn give_ranges(context: Context, stop: Stop) {
    let health = context.health.component("controller/ipam");
    let mode = context.settings.ipam;
    if !matches!(mode, IpamMode::ClusterPool | IpamMode::MultiPool) {
        return health.ok("nothing to give in this mode");
    }
    let mut giver = Giver {
        objects: Objects::of(&context.client, &crd_of("CiliumNode")),
        planner: Planner::new(),
        told: BTreeSet::new(),
        health,
        context,
    };
    let tables = giver.context.tables.clone();
    let watch = tables.cilium_nodes.watch().and(tables.pools.watch());
    let mut rounds = Rounds::new();
    loop {
        let seen = tables.db.snapshot().revision();
        let began = Instant::now();
        let outcome = stop.or(giver.round()).await;
        let rest = (began.elapsed() * REST).clamp(Duration::from_millis(1), LONGEST_REST);
        let news = async {
            tokio::time::sleep(rest).await;
            watch.changed(seen).await;
        };
        if !rounds
            .next(&stop, !matches!(outcome, Some(Ok(()))), news)
            .await
        {
            return;
        }
    }
}

pub(crate) fn crd_of(kind: &str) -> crd::Crd {
    // Every kind that is named here is in the list.
    *crd::ALL
        .iter()
        .find(|crd| crd.kind == kind)
        .unwrap_or(&crd::ALL[0])
}

struct Giver {
    context: Context,
    objects: Objects,
    planner: Planner,
    /// Complaints about pools that the log has.
    told: BTreeSet<String>,
    health: Component,
}

impl Giver {
    /// One round: what is wanted now is written.
    ///
    /// # Errors
    /// Something could not be written.
    async fn round(&mut self) -> Result<(), String> {
        let tables = self.context.tables.clone();
        let mode = self.context.settings.ipam;
        let snapshot = tables.db.snapshot();
        let pools_known = mode != IpamMode::MultiPool || tables.pools.initialized(&snapshot);
        if !tables.cilium_nodes.initialized(&snapshot) || !pools_known {
            self.health.degraded("waiting for the API server's lists");
            return Ok(());
        }
        let spaces = self.spaces(&snapshot);
        self.tell(&snapshot, &spaces).await;
        self.planner.set_spaces(spaces.all);
        let claims = nodes::claims(&tables, &snapshot, mode, self.planner.spaces());
        let plans = self.planner.plan(&claims);
        let lacking = plans.iter().filter(|plan| !plan.error.is_empty()).count();
        self.context.metrics.nodes(plans.len(), lacking);
        let first = plans
            .iter()
            .find(|plan| !plan.error.is_empty())
            .map(|plan| format!("node {}: {}", plan.name, plan.error));
        let total = plans.len();
        let writes = nodes::writes(&tables, &snapshot, plans);
        let failed = self.carry_out(writes).await;
        self.context.metrics.ran("ipam", failed.is_none());
        let unused = spaces.errors.values().next().cloned();
        match (&failed, first.or(unused)) {
            (Some(error), _) => self.health.degraded(error.clone()),
            (None, Some(error)) if lacking > 0 => self.health.degraded(format!(
                "{lacking} of {total} nodes lack addresses; {error}"
            )),
            (None, Some(error)) => self.health.degraded(error),
            (None, None) => self.health.ok(format!("{total} nodes have what they need")),
        }
        failed.map_or(Ok(()), Err)
    }

    /// Says of each pool that is not used why, once.
    async fn tell(&mut self, snapshot: &tables::Snapshot, spaces: &Spaces) {
        for (pool, error) in &spaces.errors {
            if !self.told.insert(error.clone()) {
                continue;
            }
            tracing::warn!("{error}");
            let row = self.context.tables.pools.get(snapshot, pool);
            let about = About {
                kind: "CiliumPodIPPool",
                api_version: "cilium.io/v2alpha1".to_owned(),
                namespace: String::new(),
                name: pool.clone(),
                uid: row.map(|row| row.uid.clone()).unwrap_or_default(),
            };
            self.context.events.warn(&about, "PoolNotUsed", error).await;
        }
        let errors: BTreeSet<&String> = spaces.errors.values().collect();
        self.told.retain(|error| errors.contains(error));
    }

    fn spaces(&self, snapshot: &tables::Snapshot) -> Spaces {
        let settings = &self.context.settings;
        if settings.ipam == IpamMode::ClusterPool {
            // Checked at start.
            nodes::cluster_spaces(settings).unwrap_or_default()
        } else {
            let pools: Vec<_> = self.context.tables.pools.iter(snapshot).cloned().collect();
            nodes::pool_spaces(&pools)
        }
    }

    /// Writes, several nodes at a time; what failed.
    async fn carry_out(&mut self, writes: Vec<NodeWrite>) -> Option<String> {
        let workers = self.context.settings.parallel_alloc_workers.max(1) as usize;
        let (objects, events) = (&self.objects, &self.context.events);
        let metrics = &self.context.metrics;
        let mut running = stream::iter(writes)
            .map(|write| async move {
                let began = Instant::now();
                let outcome = perform(objects, events, &write).await;
                if write.spec.is_some() {
                    let given = matches!(outcome.0, Written::Done(_));
                    metrics.allocation(given, began.elapsed().as_secs_f64());
                }
                (write, outcome)
            })
            .buffer_unordered(workers);
        let mut failed = None;
        while let Some((write, (written, error))) = running.next().await {
            self.planner.written(&write.plan, written);
            if matches!(written, Written::Done(_)) && write.spec.is_some() {
                for (pool, net) in &write.plan.give {
                    tracing::info!(node = write.plan.name, pool, range = %net, "range given");
                    self.context.metrics.gave(pool);
                }
            }
            failed = failed.or(error);
        }
        failed
    }
}

/// Carries one write out: what became of the ranges, and what went wrong.
async fn perform(
    objects: &Objects,
    events: &Events,
    write: &NodeWrite,
) -> (Written, Option<String>) {
    let name = &write.plan.name;
    let fail = |error: &kube::Error| format!("CiliumNode {name}: {}", says(error));
    let mut written = Written::Refused;
    if let Some(spec) = &write.spec {
        let work = objects.merge(name, spec.clone(), Some(&write.version));
        match tokio::time::timeout(WRITE_LIMIT, work).await {
            Ok(Ok(object)) => {
                let version = object.metadata.resource_version.unwrap_or_default();
                written = Written::Done(nodes::version(&version));
            }
            // Somebody else changed the object: the watch brings what it is now.
            Ok(Err(error)) if is_conflict(&error) => return (Written::Refused, None),
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => {
                let error = kube::Error::Api(status);
                return (Written::Refused, Some(fail(&error)));
            }
            Ok(Err(error)) => return (Written::Unknown, Some(fail(&error))),
            Err(_) => {
                let text = format!("CiliumNode {name}: the API server did not answer in time");
                return (Written::Unknown, Some(text));
            }
        }
    }
    if let Some(status) = &write.error {
        if !write.plan.error.is_empty() {
            tracing::warn!(node = name, "{}", write.plan.error);
        }
        let work = objects.merge_status(name, status.clone());
        match tokio::time::timeout(WRITE_LIMIT, work).await {
            Ok(Ok(object)) if !write.plan.error.is_empty() => {
                let about = About {
                    kind: "CiliumNode",
                    api_version: "cilium.io/v2".to_owned(),
                    namespace: String::new(),
                    name: name.clone(),
                    uid: object.metadata.uid.unwrap_or_default(),
                };
                let reason = "NoPodAddresses";
                events.warn(&about, reason, &write.plan.error).await;
            }
            Ok(Ok(_)) => {}
            // It has gone meanwhile, and with it the error.
            Ok(Err(error)) if is_not_found(&error) => {}
            Ok(Err(error)) => return (written, Some(fail(&error))),
            Err(_) => {
                return (
                    written,
                    Some(format!("CiliumNode {name}: no answer in time")),
                );
            }
        }
    }
    (written, None)
}

/// Looks for garbage again and again until `stop`.
pub(crate) async fn collect_garbage(context: Context, stop: Stop) {
    let settings = context.settings.clone();
    futures::join!(
        endpoints(context.clone(), settings.cilium_endpoint_gc_interval, &stop),
        cilium_nodes(context.clone(), settings.nodes_gc_interval, &stop),
        unused_identities(context, &stop),
    );
}

async fn endpoints(context: Context, interval: Duration, stop: &Stop) {
    let remover = Remover::new(
        &context,
        Removes::Garbage("CiliumEndpoint"),
        "controller/endpoint-gc",
    );
    let mut twice = Twice::default();
    while wait(interval, stop).await {
        let snapshot = context.tables.db.snapshot();
        let garbage = twice.again(gc::endpoints(&context.tables, &snapshot));
        if stop.or(remover.remove(garbage)).await.is_none() {
            return;
        }
    }
}

async fn cilium_nodes(context: Context, interval: Duration, stop: &Stop) {
    let remover = Remover::new(
        &context,
        Removes::Garbage("CiliumNode"),
        "controller/node-gc",
    );
    let mut twice = Twice::default();
    while wait(interval, stop).await {
        let snapshot = context.tables.db.snapshot();
        let garbage = twice.again(gc::nodes(&context.tables, &snapshot));
        if stop.or(remover.remove(garbage)).await.is_none() {
            return;
        }
    }
}

async fn unused_identities(context: Context, stop: &Stop) {
    let settings = context.settings.clone();
    let remover = Remover::new(
        &context,
        Removes::Garbage("CiliumIdentity"),
        "controller/identity-gc",
    );
    let mut heartbeats = Heartbeats::default();
    let started = Instant::now();
    let mut budget = Budget::default();
    if !collects_identities(&settings) {
        return;
    }
    let labeller = identities::labeller(&settings).ok();
    while wait(settings.identity_gc_interval, stop).await {
        let (began, now) = (Instant::now(), started.elapsed());
        let limit = budget.left(
            now,
            settings.identity_gc_rate_interval,
            settings.identity_gc_rate_limit as usize,
        );
        let snapshot = context.tables.db.snapshot();
        let timeout = settings.identity_heartbeat_timeout;
        let labeller = labeller.as_ref().filter(|_| manages_identities(&settings));
        let wanted = labeller.map(|labeller| labeller.all(&context.tables, &snapshot));
        let wanted = wanted.unwrap_or_default();
        let dead = heartbeats.look(&context.tables, &snapshot, &wanted, (now, timeout), limit);
        let Some((removed, well)) = stop.or(remover.remove(dead)).await else {
            return;
        };
        budget.used += removed;
        let alive = heartbeats.known().saturating_sub(removed);
        let seconds = began.elapsed().as_secs_f64();
        context.metrics.identities(alive, removed, well, seconds);
    }
}

/// Waits for the next look; false if there is none.
async fn wait(interval: Duration, stop: &Stop) -> bool {
    if interval.is_zero() {
        return false;
    }
    stop.or(tokio::time::sleep(interval)).await.is_some()
}

/// How many removals are left for a while.
#[derive(Debug, Default)]
struct Budget {
    since: Duration,
    used: usize,
}

impl Budget {
    fn left(&mut self, now: Duration, interval: Duration, limit: usize) -> usize {
        if now.saturating_sub(self.since) >= interval {
            (self.since, self.used) = (now, 0);
        }
        limit.saturating_sub(self.used)
    }
}

/// What is removed, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Removes {
    /// Objects of one of our kinds that nobody needs.
    Garbage(&'static str),
    /// Pods, so that they are made anew.
    Pods,
}

impl Removes {
    fn kind(self) -> &'static str {
        match self {
            Self::Garbage(kind) => kind,
            Self::Pods => "Pod",
        }
    }

    fn why(self) -> &'static str {
        match self {
            Self::Garbage(_) => "removed: nobody needs it any more",
            Self::Pods => "restarted: no agent has connected it",
        }
    }

    fn objects(self, client: &Client, namespace: &str) -> Objects {
        let Self::Garbage(kind) = self else {
            return Objects::core(client, "Pod", "pods", Some(namespace));
        };
        let crd = crd_of(kind);
        match crd.scope {
            crd::Scope::Cluster => Objects::of(client, &crd),
            crd::Scope::Namespaced => Objects::within(client, &crd, namespace),
        }
    }
}

/// Removes objects of one kind.
pub(crate) struct Remover {
    client: Client,
    removes: Removes,
    group: &'static str,
    health: Component,
    metrics: Metrics,
}

impl Remover {
    pub fn new(context: &Context, removes: Removes, group: &'static str) -> Self {
        let health = context.health.component(group);
        health.ok("nothing removed yet");
        Self {
            client: context.client.clone(),
            removes,
            group,
            health,
            metrics: context.metrics.clone(),
        }
    }

    /// Removes what is still as it was seen; how much was removed, and whether nothing failed.
    pub async fn remove(&self, garbage: Vec<Garbage>) -> (usize, bool) {
        let total = garbage.len();
        let mut apis: BTreeMap<String, Objects> = BTreeMap::new();
        for one in &garbage {
            apis.entry(one.namespace.clone())
                .or_insert_with(|| self.removes.objects(&self.client, &one.namespace));
        }
        let apis = &apis;
        let outcomes: Vec<Result<bool, String>> = stream::iter(garbage)
            .map(|one| async move { self.remove_one(apis, one).await })
            .buffer_unordered(REMOVALS)
            .collect()
            .await;
        let removed = outcomes.iter().filter(|one| **one == Ok(true)).count();
        let failed = outcomes.into_iter().find_map(Result::err);
        self.metrics.ran(self.group, failed.is_none());
        match &failed {
            Some(error) => self.health.degraded(error.clone()),
            None => self
                .health
                .ok(format!("{removed} of {total} removed at the last look")),
        }
        (removed, failed.is_none())
    }

    async fn remove_one(
        &self,
        apis: &BTreeMap<String, Objects>,
        one: Garbage,
    ) -> Result<bool, String> {
        let Some(api) = apis.get(&one.namespace) else {
            return Ok(false);
        };
        let meant = Meant {
            uid: Some(one.uid),
            version: one.version,
        };
        match api.delete(&one.name, meant).await {
            Ok(removed) => {
                if removed {
                    tracing::info!(
                        kind = self.removes.kind(),
                        namespace = one.namespace,
                        name = one.name,
                        "{}",
                        self.removes.why()
                    );
                }
                Ok(removed)
            }
            // It is another one by now, or was changed: not garbage.
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(format!(
                "{} {}: {}",
                self.removes.kind(),
                one.name,
                says(&error)
            )),
        }
    }
}
