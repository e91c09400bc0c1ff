//! One watch per kind: list, then changes, into a table.
use crate::{
    crd,
    error::{causes, is_not_found},
    objects,
};
use futures::{StreamExt, pin_mut};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use model::{KUBERNETES, Tables};
use runtime::{
    health::{Component, Health},
    stop::Stop,
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, sync::Arc, time::Duration};
use tables::{Db, Row, Table};
use tokio::sync::watch;

/// Pauses between tries: short at first, because a server that restarts is back soon.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is known about the connection to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Not tried yet.
    Connecting,
    /// Answers; its version.
    Connected(String),
}

/// What an agent wants to know of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Name of its node: it reads the pods of that one.
    pub node: String,
    /// Endpoints of other nodes are read from slices, not one by one.
    pub slices: bool,
}

/// Starts the watches of the agent's input tables; they end with `stop`. The receiver tells whether the server answered.
#[must_use]
pub fn watch_all(
    client: &Client,
    tables: &Tables,
    interest: &Interest,
    health: &Health,
    stop: &Stop,
) -> watch::Receiver<Connection> {
    let (sender, receiver) = watch::channel(Connection::Connecting);
    watch_all_for(sender, client, tables, interest, health, stop);
    receiver
}

/// As [`watch_all`], for those who listen to `sender` already.
pub fn watch_all_for(
    sender: watch::Sender<Connection>,
    client: &Client,
    tables: &Tables,
    interest: &Interest,
    health: &Health,
    stop: &Stop,
) {
    let watcher = Watcher::new(client, &tables.db, health, stop);
    watcher.follow::<objects::Node, _>(&tables.node_objects, Presence::Always);
    watcher.follow::<crd::CiliumNode, _>(&tables.cilium_nodes, Presence::Optional);
    watcher.follow_on_node::<objects::Pod, _>(&tables.pods, &interest.node);
    watcher.follow::<objects::Namespace, _>(&tables.namespaces, Presence::Always);
    watcher.follow::<crd::CiliumIdentity, _>(&tables.cilium_identities, Presence::Optional);
    if interest.slices {
        let slices = &tables.endpoint_slices;
        watcher.follow::<crd::CiliumEndpointSlice, _>(slices, Presence::Optional);
    } else {
        let endpoints = &tables.cilium_endpoints;
        watcher.follow::<objects::PublishedEndpoint, _>(endpoints, Presence::Optional);
    }
    let (client, stop) = (client.clone(), stop.clone());
    tokio::spawn(async move {
        stop.or(async {
            let mut pauses = Pauses::new(LONGEST_PAUSE);
            loop {
                if let Ok(version) = crate::server_version(&client).await {
                    sender.send_replace(Connection::Connected(version));
                    return;
                }
                tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
            }
        })
        .await
    });
}

/// Whether every API server has a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has.
    Always,
    /// Only once somebody has installed it: until then the table is empty, and complete.
    Optional,
    /// It has, in one version or another.
    Versioned,
}

/// Starts watches.
#[derive(Clone)]
pub struct Watcher {
    client: Client,
    db: Db,
    health: Health,
    stop: Stop,
}

impl Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Watches by `client` into tables of `db`, until `stop`.
    #[must_use]
    pub fn new(client: &Client, db: &Db, health: &Health, stop: &Stop) -> Self {
        Self {
            client: client.clone(),
            db: db.clone(),
            health: health.clone(),
            stop: stop.clone(),
        }
    }

    /// Keeps `table` as the API server's objects of kind `K` are. The table's initialiser [`KUBERNETES`] ends with the first
    /// complete list; the health is that of `kubernetes/<table>`.
    pub fn follow<K, T>(&self, table: &Table<T>, presence: Presence)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Row + From<K> + PartialEq,
    {
        let api = Api::<K>::all(self.client.clone());
        self.follow_at(api, watcher::Config::default(), table, presence);
    }

    /// As [`follow`](Self::follow), of those objects alone that are bound to a node.
    pub fn follow_on_node<K, T>(&self, table: &Table<T>, node: &str)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Row + From<K> + PartialEq,
    {
        let api = Api::<K>::all(self.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
        self.follow_at(api, config, table, Presence::Always);
    }

    /// As [`follow`](Self::follow), of those objects alone that have the labels that `selector` asks for (an empty one: whatever labels), and are in
    /// `namespace` if one is given.
    pub fn follow_some<K, T>(&self, table: &Table<T>, namespace: Option<&str>, selector: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
        T: Row + From<K> + PartialEq,
    {
        let api = match namespace {
            Some(namespace) => Api::<K>::namespaced(self.client.clone(), namespace),
            None => Api::<K>::all(self.client.clone()),
        };
        let config = watcher::Config::default().labels(selector);
        self.follow_at(api, config, table, Presence::Always);
    }

    /// As [`follow`](Self::follow), of those objects alone that have the labels that `selector` asks for, from a server that may
    /// have the kind in an older version alone.
    pub fn follow_either<K, Older, T>(&self, table: &Table<T>, selector: &str)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        Older: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Row + From<K> + From<Older> + PartialEq,
    {
        let config = watcher::Config::default().labels(selector);
        let new = Api::<K>::all(self.client.clone());
        let older = Api::<Older>::all(self.client.clone());
        let mut sink = self.sink(table, Presence::Versioned);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let in_turn = async {
                let mut pauses = Pauses::new(LONGEST_PAUSE);
                loop {
                    drain(new.clone(), config.clone(), &mut sink).await;
                    let absent = drain(older.clone(), config.clone(), &mut sink).await;
                    sink.failed(&absent);
                    tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
                }
            };
            stop.or(in_turn).await
        });
    }

    /// Takes the table as empty and complete: nobody wants to know what the API server has.
    pub fn leave_empty<T: Row>(&self, table: &Table<T>) {
        let mut txn = self.db.write();
        table.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
    }

    fn follow_at<K, T>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        table: &Table<T>,
        presence: Presence,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Row + From<K> + PartialEq,
    {
        let mut sink = self.sink(table, presence);
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.or(drain(api, config, &mut sink)).await });
    }

    fn sink<T: Row>(&self, table: &Table<T>, presence: Presence) -> Sink<T> {
        let health = format!("kubernetes/{}", table.name());
        Sink {
            db: self.db.clone(),
            table: table.clone(),
            initial: Vec::new(),
            presence,
            health: self.health.component(&health),
        }
    }
}

/// Watches for ever, or where there may be another version of a kind, until the server says that it does not have this one.
async fn drain<K, T>(api: Api<K>, config: watcher::Config, sink: &mut Sink<T>) -> watcher::Error
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Row + From<K> + PartialEq,
{
    let longest = match sink.presence {
        Presence::Always | Presence::Versioned => LONGEST_PAUSE,
        // Somebody may wait for the kind to be installed.
        Presence::Optional => LONGEST_PAUSE / 3,
    };
    let stream = watcher(api, config).backoff(Pauses::new(longest));
    pin_mut!(stream);
    loop {
        match stream.next().await {
            Some(Ok(event)) => sink.take(event),
            Some(Err(error)) if sink.presence == Presence::Versioned && is_absent(&error) => {
                return error;
            }
            Some(Err(error)) => sink.failed(&error),
            // The stream of a watcher has no end.
            None => std::future::pending().await,
        }
    }
}

/// Writes events into a table.
struct Sink<T: Row> {
    db: Db,
    table: Table<T>,
    /// Objects of a list that is under way; the table keeps its old rows until the list is complete.
    initial: Vec<Arc<T>>,
    presence: Presence,
    health: Component,
}

impl<T: Row + PartialEq> Sink<T> {
    fn take<K>(&mut self, event: Event<K>)
    where
        T: From<K>,
    {
        match event {
            Event::Init => self.initial.clear(),
            Event::InitApply(object) => self.initial.push(self.known_or(object.into())),
            Event::InitDone => self.complete(),
            Event::Apply(object) => {
                let mut txn = self.db.write();
                // The only error is a unique index, which the input tables do not have.
                let changed = self
                    .table
                    .insert_if_changed(&mut txn, T::from(object))
                    .unwrap_or(false);
                if changed {
                    txn.commit();
                }
            }
            Event::Delete(object) => {
                let mut txn = self.db.write();
                self.table.delete(&mut txn, &T::from(object).key());
                txn.commit();
            }
        }
    }

    /// The row of the table if it says the same: a list that is read again takes no memory for what has not changed.
    fn known_or(&self, row: T) -> Arc<T> {
        let snapshot = self.db.snapshot();
        match self.table.get(&snapshot, &row.key()) {
            Some(known) if **known == row => known.clone(),
            _ => Arc::new(row),
        }
    }

    fn complete(&mut self) {
        let mut txn = self.db.write();
        let rows = std::mem::take(&mut self.initial);
        let count = rows.len();
        if let Err(error) = self.table.replace_all(&mut txn, rows) {
            return self
                .health
                .degraded(format!("the list does not fit the table: {error}"));
        }
        self.table.finish_initializer(&mut txn, KUBERNETES);
        txn.commit();
        self.health
            .ok(format!("synced, {count} objects at the last list"));
    }

    fn failed(&mut self, error: &watcher::Error) {
        if self.presence == Presence::Optional && is_absent(error) {
            self.initial.clear();
            self.complete();
            return self
                .health
                .ok("the API server does not have this kind (yet)");
        }
        let causes = causes(error);
        tracing::debug!(table = self.table.name(), error = %causes, "watch interrupted");
        self.health.degraded(format!(
            "the API server does not serve {}: {causes}",
            self.table.name()
        ));
    }
}

/// The API server has no such kind.
fn is_absent(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            is_not_found(error)
        }
        _ => false,
    }
}

/// Pauses that double. A stream that begins anew says so before it has asked for anything: one good event is no success yet.
pub(crate) struct Pauses {
    next: Duration,
    longest: Duration,
    /// Good events since the last pause.
    good: u32,
}

impl Pauses {
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            next: FIRST_PAUSE,
            longest,
            good: 0,
        }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.good = 0;
        self.next = (pause * 2).min(self.longest);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.good = self.good.saturating_add(1);
        if self.good > 1 {
            self.next = FIRST_PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sink(tables: &Tables) -> Sink<model::Namespace> {
        Sink {
            db: tables.db.clone(),
            table: tables.namespaces.clone(),
            initial: Vec::new(),
            presence: Presence::Always,
            health: Health::default().component("x"),
        }
    }

    fn namespace(name: &str) -> objects::Namespace {
        serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
    }

    fn names(tables: &Tables) -> Vec<String> {
        tables
            .namespaces
            .iter(&tables.db.snapshot())
            .map(|row| row.name.clone())
            .collect()
    }

    #[test]
    fn a_list_replaces_the_table_when_complete_and_not_before() {
        let tables = Tables::new().unwrap();
        let mut sink = sink(&tables);
        sink.take::<objects::Namespace>(Event::Init);
        sink.take(Event::InitApply(namespace("a")));
        assert!(names(&tables).is_empty());
        sink.take::<objects::Namespace>(Event::InitDone);
        assert_eq!(names(&tables), ["a"]);
        assert!(tables.namespaces.initialized(&tables.db.snapshot()));
        sink.take(Event::Apply(namespace("b")));
        sink.take(Event::Delete(namespace("a")));
        assert_eq!(names(&tables), ["b"]);
        sink.take::<objects::Namespace>(Event::Init);
        assert_eq!(
            names(&tables),
            ["b"],
            "what was known stays while the list is read again"
        );
        sink.take(Event::InitApply(namespace("c")));
        sink.take::<objects::Namespace>(Event::InitDone);
        assert_eq!(names(&tables), ["c"]);
    }

    #[test]
    fn pauses_grow_to_a_limit_and_reset() {
        let mut pauses = Pauses::new(LONGEST_PAUSE);
        let longest = pauses.by_ref().take(20).max().unwrap();
        assert_eq!(longest, LONGEST_PAUSE);
        pauses.reset();
        assert_eq!(
            pauses.next(),
            Some(LONGEST_PAUSE),
            "a stream that only begins"
        );
        pauses.reset();
        pauses.reset();
        assert_eq!(pauses.next(), Some(FIRST_PAUSE));
    }
}
