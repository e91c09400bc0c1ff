//! Numbers for labels that have none: objects in the API server, which many agents make at the same time.
use super::{Identities, Want};
use k8s::{
    Client,
    events::{About, Events},
    identity,
};
use model::{ClusterIdentity, Labels, Pod, PodRef, Tables};
use policy::identity::{AllocateError, Allocator, Order, Scope};
use runtime::{health::Component, stop::Stop};
use std::time::{Duration, Instant};
use tables::{Change, ChangeKind, ChangeTracker, Read, Snapshot};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How many objects are made at the same time.
const TOGETHER: usize = 16;
/// Pauses after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = if cfg!(test) {
    Duration::from_secs(1)
} else {
    Duration::from_secs(10)
};
/// How long a number that was made is believed in without the watch having shown it.
const UNSEEN: Duration = Duration::from_secs(60);

/// Makes numbers.
pub struct Allocating {
    /// The API server.
    pub client: Client,
    /// Who needs some.
    pub identities: Identities,
    /// This agent may make objects; else the operator does.
    pub creates: bool,
    /// Where pods without a number are told.
    pub events: Events,
    /// How it goes.
    pub health: Component,
}

/// What became of a number that was tried.
enum Tried {
    /// The labels have it.
    Given(u32, Labels),
    /// Other labels have it.
    Taken(u32, Labels, Labels),
    /// Nobody knows.
    Failed(u32, String),
}

impl Allocating {
    /// Works until `stop`.
    pub async fn run(self, stop: Stop) {
        let tables = self.identities.0.tables.clone();
        let mut allocator = Allocator::new(Scope::Cluster, Order::ByLabels);
        let mut seen = tables.db.track(&tables.cilium_identities);
        let mut pods = self.creates.then(|| tables.db.track(&tables.pods));
        let watch = tables
            .cilium_identities
            .watch()
            .and(tables.endpoints.watch())
            .and(tables.pods.watch());
        let mut pause = FIRST_PAUSE;
        loop {
            let snapshot = tables.db.snapshot();
            let revision = snapshot.revision();
            follow(&mut allocator, &mut seen, &snapshot);
            let listed = tables.cilium_identities.initialized(&snapshot);
            self.forget_unseen();
            if listed && self.creates {
                let changes = pods.iter_mut().flat_map(|pods| pods.changes(&snapshot));
                self.expected(changes, &tables, &snapshot);
                self.missing(&tables, &snapshot);
            }
            let open = self.open(&snapshot);
            drop(snapshot);
            let mut failed = None;
            if listed && self.creates && !open.is_empty() {
                let Some(outcome) = stop.or(self.make(&mut allocator, open)).await else {
                    return;
                };
                failed = outcome.err();
            }
            self.say(listed, failed.as_deref());
            let again = failed.is_some();
            let next = async {
                tokio::select! {
                    () = self.identities.0.asked.notified() => {}
                    () = watch.changed(revision) => {}
                    () = tokio::time::sleep(pause), if again => {}
                }
                if again {
                    // Whoever asks meanwhile must not make the tries follow each other at once.
                    tokio::time::sleep(pause).await;
                }
            };
            if stop.or(next).await.is_none() {
                return;
            }
            pause = if again {
                (pause * 2).min(LONGEST_PAUSE)
            } else {
                FIRST_PAUSE
            };
        }
    }

    /// Numbers that this agent made and that never showed up: somebody has removed them at once.
    fn forget_unseen(&self) {
        let mut state = self.identities.state();
        state.made.retain(|_, (_, since)| since.elapsed() < UNSEEN);
    }

    /// Asks for numbers for pods that will have an endpoint here: CNI ADD then finds them.
    fn expected<'s>(
        &self,
        pods: impl Iterator<Item = Change<'s, Pod>>,
        tables: &Tables,
        snapshot: &Snapshot,
    ) {
        for change in pods {
            let pod = &change.row;
            let comes = change.kind == ChangeKind::Upsert && !pod.host_network && !pod.finished;
            let has_endpoint = || tables.endpoints_by_pod.first(snapshot, &*pod.key).is_some();
            // Without its namespace it has other labels than it will have.
            let known = || tables.namespaces.get(snapshot, pod.namespace()).is_some();
            if !comes || has_endpoint() || !known() {
                continue;
            }
            let labels = self.identities.labels(snapshot, pod);
            if self.identities.lookup(snapshot, &labels).is_none() {
                let name = pod.key.split_once('/').map_or("", |(_, name)| name);
                let pod = PodRef {
                    namespace: pod.namespace().to_owned(),
                    name: name.to_owned(),
                    uid: pod.uid.to_string(),
                };
                self.identities.ask(&labels, None, Some(&pod));
            }
        }
    }

    /// Asks anew for the numbers of this node's pods that the API server no longer has.
    fn missing(&self, tables: &Tables, snapshot: &Snapshot) {
        for endpoint in tables.endpoints.iter(snapshot) {
            let id = endpoint.identity;
            if Scope::of(id) != Some(Scope::Cluster)
                || self.identities.state().made.contains_key(&id)
            {
                continue;
            }
            // One that has become other labels' is the endpoint manager's to replace.
            if tables.cilium_identities.get(snapshot, &id).is_none() {
                let (labels, pod) = (&endpoint.labels, Some(&endpoint.pod));
                self.identities.ask(labels, Some(id), pod);
            }
        }
    }

    /// What is still wanted, with those who want it.
    fn open(&self, snapshot: &Snapshot) -> Vec<(Labels, Want)> {
        let tables = &self.identities.0.tables;
        let has = |labels: &Labels, want: &Want| {
            let mut rows = tables.identities_by_labels.get(snapshot, labels);
            let shared = |id: &u32| tables.cilium_identities.get(snapshot, id).is_some();
            match want.before {
                Some(before) => shared(&before),
                None => rows.any(|row| shared(&row.id)),
            }
        };
        let needed = |want: &Want| {
            let lives = |pod: &PodRef| {
                let key = pod.to_string();
                tables.endpoints_by_pod.first(snapshot, &key).is_some()
            };
            want.since.elapsed() < UNSEEN || want.pods.iter().any(lives)
        };
        let mut state = self.identities.state();
        state
            .wanted
            .retain(|labels, want| needed(want) && !has(labels, want));
        let made: Vec<Labels> = state.made.values().map(|(own, _)| own.clone()).collect();
        for labels in &made {
            state.wanted.remove(labels);
        }
        let all = state.wanted.iter();
        all.map(|(labels, want)| (labels.clone(), want.clone()))
            .collect()
    }

    /// Makes numbers for all of `open`.
    ///
    /// # Errors
    /// What went wrong first; the rest may have worked.
    async fn make(
        &self,
        allocator: &mut Allocator,
        open: Vec<(Labels, Want)>,
    ) -> Result<(), String> {
        let mut todo = open;
        let mut failed = None;
        let mut unanswered = false;
        while !todo.is_empty() && !unanswered {
            let rest = todo.split_off(todo.len().min(TOGETHER));
            let mut tries = Vec::new();
            for (labels, want) in &todo {
                match propose(allocator, labels, want.before) {
                    Ok(id) => tries.push(self.try_number(id, labels.clone())),
                    Err(error) => {
                        let error = error.to_string();
                        // Whoever waits need not wait until all pods were told.
                        self.identities.state().failing = true;
                        self.identities.tell();
                        self.tell_pods(labels, want, &error).await;
                        failed = Some(error);
                    }
                }
            }
            let mut again = Vec::new();
            for tried in futures::future::join_all(tries).await {
                match tried {
                    Tried::Given(id, labels) => self.given(id, labels),
                    Tried::Taken(id, labels, theirs) => {
                        allocator.forget(id);
                        // It cannot be refused: the number was just given back.
                        let _ = allocator.adopt(id, theirs, Duration::ZERO);
                        if let Some(want) = self.identities.state().wanted.get_mut(&labels) {
                            want.before = None;
                            again.push((labels, want.clone()));
                        }
                    }
                    Tried::Failed(id, error) => {
                        allocator.forget(id);
                        failed = Some(error);
                        unanswered = true;
                    }
                }
            }
            todo = rest;
            todo.extend(again);
        }
        self.identities.state().failing = failed.is_some();
        self.identities.tell();
        failed.map_or(Ok(()), Err)
    }

    fn given(&self, id: u32, labels: Labels) {
        tracing::info!(identity = id, %labels, "identity for new labels");
        let now = Instant::now();
        let mut state = self.identities.state();
        state.wanted.remove(&labels);
        state.fresh.insert(id, now);
        state.made.insert(id, (labels, now));
        drop(state);
        self.identities.tell();
        self.identities.0.made.notify_one();
    }

    async fn try_number(&self, id: u32, labels: Labels) -> Tried {
        match tokio::time::timeout(LIMIT, identity::create(&self.client, id, &labels)).await {
            Ok(Ok(None)) => Tried::Given(id, labels),
            Ok(Ok(Some(theirs))) if theirs == labels => Tried::Given(id, labels),
            Ok(Ok(Some(theirs))) => Tried::Taken(id, labels, theirs),
            Ok(Err(error)) => Tried::Failed(id, format!("CiliumIdentity {id}: {error}")),
            Err(_) => {
                let text = format!("CiliumIdentity {id}: the API server did not answer in time");
                Tried::Failed(id, text)
            }
        }
    }

    /// Events for the pods that get no identity, one for each; those that cannot be written now follow at the next try.
    async fn tell_pods(&self, labels: &Labels, want: &Want, error: &str) {
        let open = &want.pods[want.told.min(want.pods.len())..];
        if open.is_empty() {
            return;
        }
        tracing::warn!(error, pods = ?open.iter().map(ToString::to_string).collect::<Vec<_>>(), "no identity can be given");
        let text = format!("no identity can be given: {error}; the pod works as reserved:init");
        for pod in open {
            let about = About {
                kind: "Pod",
                api_version: "v1".to_owned(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            };
            if !self.events.warn(&about, "NoIdentity", &text).await {
                return;
            }
            if let Some(known) = self.identities.state().wanted.get_mut(labels) {
                known.told += 1;
            }
        }
    }

    fn say(&self, listed: bool, failed: Option<&str>) {
        let waiting = self.identities.state().wanted.len();
        match (failed, waiting) {
            (Some(error), _) => self
                .health
                .degraded(format!("{waiting} label sets have no identity: {error}")),
            (None, 0) => self.health.ok("all labels have identities"),
            (None, _) if !listed => self
                .health
                .degraded(format!("{waiting} label sets wait for the API server")),
            (None, _) => self
                .health
                .degraded(format!("{waiting} label sets wait for the operator")),
        }
    }
}

/// Brings the allocator in step with the objects.
fn follow(
    allocator: &mut Allocator,
    seen: &mut ChangeTracker<ClusterIdentity>,
    snapshot: &Snapshot,
) {
    for change in seen.changes(snapshot) {
        let (id, labels) = (change.row.id, &change.row.labels);
        if change.kind == ChangeKind::Delete || allocator.labels(id) != Some(labels) {
            allocator.forget(id);
        }
        if change.kind == ChangeKind::Upsert {
            // A number outside of the range is somebody else's matter.
            let _ = allocator.adopt(id, labels.clone(), Duration::ZERO);
        }
    }
}

/// A number to try, taken until it turns out otherwise: the one that the labels had, if it is free.
fn propose(
    allocator: &mut Allocator,
    labels: &Labels,
    before: Option<u32>,
) -> Result<u32, AllocateError> {
    let kept = before.filter(|id| allocator.adopt(*id, labels.clone(), Duration::ZERO).is_ok());
    if let Some(id) = kept {
        return Ok(id);
    }
    let id = allocator.propose(labels)?;
    allocator.adopt(id, labels.clone(), Duration::ZERO)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_before_is_tried_first() {
        let labels = |text: &str| [text.to_owned()].into_iter().collect::<Labels>();
        let mut allocator = Allocator::new(Scope::Cluster, Order::ByLabels);
        assert_eq!(propose(&mut allocator, &labels("a"), Some(4000)), Ok(4000));
        let other = propose(&mut allocator, &labels("b"), Some(4000)).unwrap();
        assert_ne!(other, 4000);
        assert_eq!(allocator.lookup(&labels("b")), Some(other));
    }
}
