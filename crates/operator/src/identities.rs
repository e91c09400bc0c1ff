//! Identities made by the operator (`identity-management-mode`): a number for every set of labels that pods have.
use crate::{
    controller::Context,
    rounds::Rounds,
    tables::{IdentityRow, Tables, manages_identities},
};
use futures::{StreamExt, stream};
use k8s::identity;
use model::{LabelMap, Labels, Namespace, Pod, PodLabels};
use policy::{
    identity::{Allocator, FixedIdentities, Order, Scope},
    labels::{LabelFilter, pod_labels},
};
use runtime::{settings::OperatorSettings, stop::Stop};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tables::{ChangeKind, ChangeTracker, Read, Snapshot};

/// How long one write may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How many objects are made at the same time.
const TOGETHER: usize = 16;
/// Between two computations.
const REST: Duration = Duration::from_millis(5);

/// Knows which labels count.
#[derive(Clone, Debug)]
pub(crate) struct Labeller {
    cluster: String,
    filter: LabelFilter,
    fixed: FixedIdentities,
}

/// The labeller of these settings.
pub(crate) fn labeller(settings: &OperatorSettings) -> Result<Labeller, String> {
    let fixed = FixedIdentities::parse(&settings.fixed_identity_mapping);
    let filter = LabelFilter::parse(&settings.labels);
    Ok(Labeller {
        cluster: settings.cluster_name.clone(),
        filter: filter.map_err(|error| error.to_string())?,
        fixed: fixed.map_err(|error| error.to_string())?,
    })
}

impl Labeller {
    /// The labels of a pod that need a number; none where it has a fixed one, or no network of its own, or where its namespace has
    /// not been seen.
    fn of(&self, tables: &Tables, snapshot: &Snapshot, pod: &Pod) -> Option<Labels> {
        let namespace = tables.namespaces.get(snapshot, pod.namespace())?;
        let labels: &LabelMap = &namespace.labels;
        let all = pod_labels(
            &PodLabels {
                cluster: &self.cluster,
                namespace: pod.namespace(),
                namespace_labels: labels,
                service_account: &pod.service_account,
                labels: &pod.labels,
            },
            &self.filter,
        );
        let own = !pod.host_network && !pod.finished && !all.is_empty();
        (own && self.fixed.of(&all).is_none()).then_some(all)
    }

    /// The labels of all pods.
    pub fn all(&self, tables: &Tables, snapshot: &Snapshot) -> BTreeSet<Labels> {
        let pods = tables.labelled.iter(snapshot);
        pods.filter_map(|pod| self.of(tables, snapshot, pod))
            .collect()
    }
}

/// Which labels need numbers, and which have some.
struct Giver {
    labeller: Labeller,
    allocator: Allocator,
    pods: ChangeTracker<Pod>,
    namespaces: ChangeTracker<Namespace>,
    identities: ChangeTracker<IdentityRow>,
    /// The labels of each pod, and how many pods have them.
    labels: BTreeMap<String, Labels>,
    users: BTreeMap<Labels, usize>,
}

impl Giver {
    fn new(tables: &Tables, labeller: Labeller) -> Self {
        Self {
            labeller,
            allocator: Allocator::new(Scope::Cluster, Order::ByLabels),
            pods: tables.db.track(&tables.labelled),
            namespaces: tables.db.track(&tables.namespaces),
            identities: tables.db.track(&tables.identities),
            labels: BTreeMap::new(),
            users: BTreeMap::new(),
        }
    }

    /// Takes over what has changed; the labels that pods have and that have no number.
    fn look(&mut self, tables: &Tables, snapshot: &Snapshot) -> Vec<Labels> {
        for change in self.identities.changes(snapshot) {
            let row = change.row;
            let Ok(id) = row.name.parse() else { continue };
            self.allocator.forget(id);
            if change.kind == ChangeKind::Upsert {
                // A number outside of the range is somebody else's matter.
                let _ = self.allocator.adopt(id, row.labels.clone(), Duration::ZERO);
            }
        }
        let mut touched: BTreeSet<String> = self
            .pods
            .changes(snapshot)
            .map(|change| change.row.key.to_string())
            .collect();
        for change in self.namespaces.changes(snapshot) {
            let namespace = format!("{}/", change.row.name);
            let pods = tables.labelled.iter(snapshot);
            let within = pods.filter(|pod| pod.key.starts_with(&namespace));
            touched.extend(within.map(|pod| pod.key.to_string()));
        }
        for key in touched {
            let pod = tables.labelled.get(snapshot, key.as_str());
            let now = pod.and_then(|pod| self.labeller.of(tables, snapshot, pod));
            self.set(key, now);
        }
        let without = self.users.keys();
        let without = without.filter(|labels| self.allocator.lookup(labels).is_none());
        without.cloned().collect()
    }

    fn set(&mut self, key: String, now: Option<Labels>) {
        let before = match &now {
            Some(labels) => self.labels.insert(key, labels.clone()),
            None => self.labels.remove(&key),
        };
        if let Some(labels) = now {
            *self.users.entry(labels).or_default() += 1;
        }
        if let Some(before) = before
            && let Some(count) = self.users.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&before);
            }
        }
    }

    /// Makes numbers for labels; what went wrong first.
    async fn make(&mut self, context: &Context, todo: Vec<Labels>) -> Option<String> {
        let mut tries = Vec::new();
        let mut failed = None;
        for labels in todo {
            let taken = self.allocator.propose(&labels).and_then(|id| {
                self.allocator
                    .adopt(id, labels.clone(), Duration::ZERO)
                    .map(|()| id)
            });
            match taken {
                Ok(id) => tries.push((id, labels)),
                Err(error) => failed = Some(error.to_string()),
            }
        }
        let client = &context.client;
        let outcomes: Vec<_> = stream::iter(tries)
            .map(|(id, labels)| async move {
                let work = identity::create(client, id, &labels);
                let outcome = tokio::time::timeout(LIMIT, work).await;
                let outcome = outcome.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                (id, labels, outcome)
            })
            .buffer_unordered(TOGETHER)
            .collect()
            .await;
        for (id, labels, outcome) in outcomes {
            match outcome {
                Ok(None) => tracing::info!(identity = id, %labels, "identity for new labels"),
                Ok(Some(theirs)) if theirs == labels => {}
                Ok(Some(theirs)) => {
                    self.allocator.forget(id);
                    let _ = self.allocator.adopt(id, theirs, Duration::ZERO);
                    failed = failed.or(Some(format!("identity {id} is taken")));
                }
                Err(error) => {
                    self.allocator.forget(id);
                    failed = failed.or(Some(format!("CiliumIdentity {id}: {error}")));
                }
            }
        }
        failed
    }
}

/// Gives labels their numbers until `stop`, where the operator does.
pub(crate) async fn give(context: Context, stop: Stop) {
    let health = context.health.component("controller/identities");
    if !manages_identities(&context.settings) {
        return health.ok("the agents make identities");
    }
    let labeller = match labeller(&context.settings) {
        Ok(labeller) => labeller,
        Err(error) => return health.degraded(error),
    };
    let tables = context.tables.clone();
    let watch = tables
        .labelled
        .watch()
        .and(tables.namespaces.watch())
        .and(tables.identities.watch());
    let mut giver = Giver::new(&tables, labeller);
    let mut rounds = Rounds::new();
    loop {
        let snapshot = tables.db.snapshot();
        let seen = snapshot.revision();
        let known = tables.labelled.initialized(&snapshot)
            && tables.namespaces.initialized(&snapshot)
            && tables.identities.initialized(&snapshot);
        let mut failed = None;
        if known {
            let todo = giver.look(&tables, &snapshot);
            drop(snapshot);
            let Some(outcome) = stop.or(giver.make(&context, todo)).await else {
                return;
            };
            failed = outcome;
            context.metrics.ran("identities", failed.is_none());
            match &failed {
                Some(error) => health.degraded(format!("labels have no identity: {error}")),
                None => health.ok(format!(
                    "{} sets of labels have identities",
                    giver.users.len()
                )),
            }
        } else {
            health.degraded("waiting for the API server's lists");
        }
        let news = async {
            tokio::time::sleep(REST).await;
            watch.changed(seen).await;
        };
        if !rounds.next(&stop, failed.is_some(), news).await {
            return;
        }
    }
}
