//! What is known of the cluster: a store per kind with the look-ups that controllers need.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    Key, Kind, Object,
    kinds::{Kept, Stores},
    meta,
    write::Failure,
};

/// The time, as it is given to everything that needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The clock on the wall, for what is written into objects and compared with it.
    pub wall: Timestamp,
    /// Time since any fixed moment; it never goes back.
    pub steady: Duration,
}

/// The objects of one kind.
pub struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// Names of a namespace's objects by the UID of the owner that controls them; of those without one under "".
    by_owner: BTreeMap<(String, String), BTreeSet<String>>,
    by_group: BTreeMap<String, BTreeSet<Key>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            by_group: BTreeMap::new(),
        }
    }
}

impl<K: Kept> Store<K> {
    /// The object of this key.
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    /// All objects, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The objects of a namespace, by name.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        self.objects
            .range(Key::new(namespace, "")..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, object)| object)
    }

    /// The objects of a namespace that the owner with this UID controls; those without controller for "".
    pub fn owned<'a>(&'a self, namespace: &str, uid: &str) -> impl Iterator<Item = &'a Arc<K>> {
        let names = self.by_owner.get(&(namespace.to_owned(), uid.to_owned()));
        let namespace = namespace.to_owned();
        names
            .into_iter()
            .flatten()
            .filter_map(move |name| self.objects.get(&Key::new(namespace.clone(), name)))
    }

    /// The objects of a group; see [`Kept::group`].
    pub fn group<'a>(&'a self, group: &str) -> impl Iterator<Item = &'a Arc<K>> {
        let keys = self.by_group.get(group).into_iter().flatten();
        keys.filter_map(|key| self.objects.get(key))
    }

    /// The groups that have objects.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.by_group.keys().map(String::as_str)
    }

    pub(crate) fn put(&mut self, object: Arc<K>) -> Option<Arc<K>> {
        let key = Key::of(object.metadata());
        let old = self.remove(&key);
        let owner = (key.namespace.clone(), owner_uid(&*object));
        self.by_owner
            .entry(owner)
            .or_default()
            .insert(key.name.clone());
        if let Some(group) = object.group() {
            self.by_group
                .entry(group.to_owned())
                .or_default()
                .insert(key.clone());
        }
        self.objects.insert(key, object);
        old
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        let owner = (key.namespace.clone(), owner_uid(&*old));
        if let Some(names) = self.by_owner.get_mut(&owner) {
            names.remove(&key.name);
            if names.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
        if let Some(group) = old.group()
            && let Some(keys) = self.by_group.get_mut(group)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_group.remove(group);
            }
        }
        Some(old)
    }
}

fn owner_uid<K: Kept>(object: &K) -> String {
    meta::controller_of(object.metadata())
        .map(|owner| owner.uid.clone())
        .unwrap_or_default()
}

/// An object before and after; at least one is there.
#[derive(Clone, Debug)]
pub struct Change {
    /// What was known before.
    pub old: Option<Object>,
    /// What is known now; nothing if it is gone.
    pub new: Option<Object>,
}

impl Change {
    /// The kind of the object.
    pub fn kind(&self) -> Option<Kind> {
        self.new.as_ref().or(self.old.as_ref()).map(Object::kind)
    }

    /// The object before, if of this type.
    pub fn before<K: Kept>(&self) -> Option<&Arc<K>> {
        self.old.as_ref().and_then(K::cast)
    }

    /// The object after, if of this type.
    pub fn after<K: Kept>(&self) -> Option<&Arc<K>> {
        self.new.as_ref().and_then(K::cast)
    }

    /// Both, as far as there and of this type.
    pub fn each<K: Kept>(&self) -> impl Iterator<Item = &Arc<K>> {
        self.before::<K>().into_iter().chain(self.after::<K>())
    }

    /// Its key, if of this type.
    pub fn key_of<K: Kept>(&self) -> Option<Key> {
        self.each::<K>()
            .next()
            .map(|object| Key::of(object.metadata()))
    }
}

/// Everything known of the cluster, and when some of it was heard.
#[derive(Default)]
pub struct World {
    pub(crate) stores: Stores,
    /// When a node was last heard of, by the steady clock: its lease or its own status changed.
    pub(crate) heartbeats: BTreeMap<String, Duration>,
    /// Since when nodes are gone, by the steady clock.
    pub(crate) gone_nodes: BTreeMap<String, Duration>,
    /// Why the last writes of a controller for a key failed, while they do.
    pub(crate) failures: BTreeMap<(&'static str, Key), Failure>,
    /// When this world began, by the steady clock.
    pub(crate) started: Duration,
}

impl World {
    /// The objects of a type.
    pub fn all<K: Kept>(&self) -> &Store<K> {
        K::store(self)
    }

    /// An object.
    pub fn get<K: Kept>(&self, key: &Key) -> Option<&Arc<K>> {
        K::store(self).get(key)
    }

    /// When the node was last heard of; none before the first time.
    pub fn heartbeat(&self, node: &str) -> Option<Duration> {
        self.heartbeats.get(node).copied()
    }

    /// Since when there is no such node; none if there is one.
    pub fn gone_since(&self, node: &str) -> Option<Duration> {
        let exists = self.stores.nodes.get(&Key::new("", node)).is_some();
        (!exists).then(|| self.gone_nodes.get(node).copied().unwrap_or(self.started))
    }

    /// Why the controller's last writes for this key failed, if they did.
    pub fn failure(&self, controller: &'static str, key: &Key) -> Option<&Failure> {
        self.failures.get(&(controller, key.clone()))
    }

    /// Takes an object in, whatever was known of it.
    pub fn put(&mut self, object: Object, now: Now) -> Change {
        self.hear(&object, now);
        let new = Some(object.clone());
        Change {
            old: self.stores.put(object),
            new,
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, kind: Kind, key: &Key, now: Now) -> Option<Change> {
        let old = self.stores.remove(kind, key)?;
        if kind == Kind::Node {
            self.heartbeats.remove(&key.name);
            self.gone_nodes.insert(key.name.clone(), now.steady);
        }
        Some(Change {
            old: Some(old),
            new: None,
        })
    }

    fn hear(&mut self, object: &Object, now: Now) {
        match object {
            Object::Lease(lease) if meta::namespace(&lease.metadata) == NODE_LEASES => {
                let renewed = |l: &k8s_openapi::api::coordination::v1::Lease| {
                    l.spec.as_ref().and_then(|s| s.renew_time.clone())
                };
                let old = self.stores.leases.get(&Key::of(&lease.metadata));
                if old.is_none_or(|old| renewed(old) != renewed(lease)) {
                    self.heartbeats
                        .insert(meta::name(&lease.metadata).to_owned(), now.steady);
                }
            }
            Object::Node(node) => {
                let name = meta::name(&node.metadata);
                self.gone_nodes.remove(name);
                let beat = |n: &k8s_openapi::api::core::v1::Node| {
                    meta::node_condition(n, "Ready").and_then(|c| c.last_heartbeat_time.clone())
                };
                let old = self.stores.nodes.get(&Key::new("", name));
                if old.is_none_or(|old| beat(old) != beat(node)) {
                    self.heartbeats.insert(name.to_owned(), now.steady);
                }
            }
            _ => {}
        }
    }
}

/// The namespace of the nodes' leases.
pub const NODE_LEASES: &str = "kube-node-lease";
