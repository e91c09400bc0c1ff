//! The engine: events in, writes out. A state machine without I/O and without a clock, so that it runs in a simulation
//! as it runs in a cluster.
//!
//! What the server answered to a write is taken into the world at once, so that no plan is made from a state before the
//! controllers' own writes: nothing is created twice because a watch is late.
mod doubts;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use doubts::Doubts;

use crate::{
    Change, Key, Kind, Now, Object, World,
    health::{self, ControllerHealth},
    meta, pods,
    queue::Queue,
    write::{Effect, Failure, Plan, Target, Write},
};

/// Decides what is to be done; pure.
pub trait Controller: Send {
    /// Its name, as `deployment`.
    fn name(&self) -> &'static str;

    /// The kinds it reads; it starts when all of them have been listed.
    fn needs(&self) -> &'static [Kind];

    /// The keys that a change concerns.
    fn affected(&self, change: &Change, world: &World, keys: &mut Vec<Key>);

    /// What is to be done about a key.
    fn plan(&self, key: &Key, world: &World, now: Now) -> Plan;

    /// What is to be done about several keys; for controllers where one decision changes the next.
    fn plan_all(&self, keys: Vec<Key>, world: &World, now: Now) -> Vec<(Key, Plan)> {
        let plan = |key: Key| {
            let plan = self.plan(&key, world, now);
            (key, plan)
        };
        keys.into_iter().map(plan).collect()
    }
}

/// What a watch says.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A list of all objects of a kind is being read.
    Listing(Kind),
    /// The list.
    Listed(Kind, Vec<Object>),
    /// An object is new or has changed.
    Applied(Object),
    /// An object is gone; its last state.
    Deleted(Object),
    /// The watch does not work at the moment, and why.
    Failed(Kind, String),
}

/// Writes to carry out for a key, to be answered with [`Engine::complete`].
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Which controller's, by its place; the engine's own if absent.
    pub controller: Option<usize>,
    /// The key.
    pub key: Key,
    /// What to do, in order.
    pub writes: Vec<Write>,
    /// How many lists had been begun or read when it began.
    pub begun: u64,
}

/// How the engine paces its work.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The most keys of a controller worked on at once.
    pub concurrency: usize,
    /// Every key is looked at again after this time.
    pub resync: Duration,
}

/// The UIDs remembered of objects that are gone.
const GRAVES: usize = 8192;

/// A watch that has not failed for this long works: between its tries there is less time.
const NEWS: Duration = Duration::from_secs(15);

/// See the module.
pub struct Engine {
    world: World,
    slots: Vec<Slot>,
    watches: BTreeMap<Kind, Watch>,
    /// UIDs of objects that are gone: an answer that comes late must not bring one back.
    graves: BTreeSet<String>,
    graves_by_age: VecDeque<String>,
    /// Pods that are being given to a node, before the server has said so.
    assumed: BTreeMap<Key, Assumed>,
    doubts: Doubts,
    /// Lists begun or read so far.
    lists: u64,
    pace: Pace,
}

/// Where a pod will be, until the server shows it there.
struct Assumed {
    uid: String,
    node: String,
}

struct Slot {
    controller: Box<dyn Controller>,
    queue: Queue,
    /// When all keys were looked at the last time; none before the start.
    synced_at: Option<Duration>,
    health: ControllerHealth,
}

#[derive(Default)]
struct Watch {
    listed: bool,
    /// The number of the list that was begun or read last.
    list: u64,
    /// Own writes since the list that is being read was begun: it may be older than they are.
    written: Option<BTreeSet<Key>>,
    /// Why it did not work the last time, and when that was.
    error: Option<(String, Duration)>,
}

impl Engine {
    /// An engine of these controllers, which knows nothing yet.
    pub fn new(controllers: Vec<Box<dyn Controller>>, pace: Pace, now: Now) -> Self {
        let kinds: BTreeSet<Kind> = controllers
            .iter()
            .flat_map(|controller| controller.needs())
            .copied()
            .collect();
        let slot = |controller: Box<dyn Controller>| Slot {
            health: ControllerHealth::new(controller.name()),
            controller,
            queue: Queue::default(),
            synced_at: None,
        };
        Self {
            world: World {
                started: now.steady,
                ..World::default()
            },
            slots: controllers.into_iter().map(slot).collect(),
            watches: kinds
                .into_iter()
                .map(|kind| (kind, Watch::default()))
                .collect(),
            graves: BTreeSet::new(),
            graves_by_age: VecDeque::new(),
            assumed: BTreeMap::new(),
            doubts: Doubts::default(),
            lists: 0,
            pace,
        }
    }

    /// The kinds that some controller reads.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.watches.keys().copied()
    }

    /// What is known.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Takes in what a watch says.
    pub fn observe(&mut self, seen: Seen, now: Now) {
        match seen {
            Seen::Listing(kind) => {
                self.lists += 1;
                let list = self.lists;
                let watch = self.watch(kind);
                (watch.list, watch.written) = (list, Some(BTreeSet::new()));
            }
            Seen::Listed(kind, objects) => self.replace(kind, objects, now),
            Seen::Applied(object) => self.put(object, now),
            Seen::Deleted(object) => self.gone(&object, now),
            Seen::Failed(kind, error) => self.watch(kind).error = Some((error, now.steady)),
        }
    }

    fn watch(&mut self, kind: Kind) -> &mut Watch {
        self.watches.entry(kind).or_default()
    }

    fn replace(&mut self, kind: Kind, objects: Vec<Object>, now: Now) {
        let listed: BTreeSet<Key> = objects.iter().map(|o| Key::of(o.meta())).collect();
        self.lists += 1;
        let list = self.lists;
        let watch = self.watch(kind);
        (watch.list, watch.error) = (list, None);
        let written = watch.written.take().unwrap_or_default();
        let lost = |key: &Key| !listed.contains(key) && !written.contains(key);
        let mut known = self.world.stores.keys(kind);
        known.retain(lost);
        for key in known {
            if let Some(object) = self.world.stores.get(kind, &key) {
                self.gone(&object, now);
            }
        }
        for object in objects {
            if written.contains(&Key::of(object.meta())) {
                self.put(object, now);
            } else {
                // The list decides, also when the server has begun to count anew.
                self.take(object, now);
            }
        }
        self.watch(kind).listed = true;
        self.start_slots(now);
    }

    /// Takes an object in, unless something newer is known.
    fn put(&mut self, object: Object, now: Now) {
        let meta = object.meta();
        let key = Key::of(meta);
        let old = self.world.stores.get(object.kind(), &key);
        if old.is_none_or(|old| is_newer(&object, &old)) {
            self.take(object, now);
        }
    }

    /// Takes an object in, unless it is known to be gone.
    fn take(&mut self, object: Object, now: Now) {
        let meta = object.meta();
        let key = Key::of(meta);
        let old = self.world.stores.get(object.kind(), &key);
        if self.graves.contains(meta::uid(meta)) || old.as_ref() == Some(&object) {
            return;
        }
        let object = self.with_assumed(&key, object);
        let change = self.world.put(object, now);
        self.tell(&change);
    }

    fn gone(&mut self, object: &Object, now: Now) {
        let (kind, key, uid) = (
            object.kind(),
            Key::of(object.meta()),
            meta::uid(object.meta()),
        );
        self.bury(uid);
        if kind == Kind::Pod && self.assumed.get(&key).is_some_and(|a| a.uid == uid) {
            self.assumed.remove(&key);
        }
        let known = self.world.stores.get(kind, &key);
        if known.is_some_and(|known| meta::uid(known.meta()) == uid)
            && let Some(change) = self.world.remove(kind, &key, now)
        {
            self.tell(&change);
        }
    }

    fn bury(&mut self, uid: &str) {
        if !uid.is_empty() && self.graves.insert(uid.to_owned()) {
            self.graves_by_age.push_back(uid.to_owned());
        }
        if self.graves_by_age.len() > GRAVES
            && let Some(oldest) = self.graves_by_age.pop_front()
        {
            self.graves.remove(&oldest);
        }
    }

    fn tell(&mut self, change: &Change) {
        let mut keys = Vec::new();
        for slot in &mut self.slots {
            if slot.synced_at.is_some() {
                slot.controller.affected(change, &self.world, &mut keys);
                keys.drain(..).for_each(|key| slot.queue.add(key));
            }
        }
    }

    /// Starts the controllers whose kinds have all been listed.
    fn start_slots(&mut self, now: Now) {
        for slot in self.slots.iter_mut().filter(|s| s.synced_at.is_none()) {
            let listed = |kind: &Kind| self.watches.get(kind).is_some_and(|w| w.listed);
            if slot.controller.needs().iter().all(listed) {
                slot.look_at_all(&self.world, now);
            }
        }
    }

    /// The jobs that should be begun now.
    pub fn poll(&mut self, now: Now) -> Vec<Job> {
        let mut jobs = self.looks(now);
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let Some(synced_at) = slot.synced_at else {
                continue;
            };
            if now.steady >= synced_at + self.pace.resync {
                slot.look_at_all(&self.world, now);
            }
            let room = self.pace.concurrency.saturating_sub(slot.queue.active());
            let keys = slot.queue.take(room, now.steady);
            if keys.is_empty() {
                continue;
            }
            slot.health.plans += keys.len() as u64;
            let plans = slot.controller.plan_all(keys, &self.world, now);
            for (key, plan) in plans {
                jobs.extend(self.begin(index, key, plan, now));
            }
        }
        jobs
    }

    fn looks(&mut self, now: Now) -> Vec<Job> {
        let watches = &self.watches;
        let doubts = self.doubts.take(now.steady, |kind| is_quiet(watches, kind));
        let look = |at: Target| Job {
            controller: None,
            key: at.key.clone(),
            writes: vec![Write::Look { at }],
            begun: self.lists,
        };
        doubts.into_iter().map(look).collect()
    }

    fn begin(&mut self, controller: usize, key: Key, plan: Plan, now: Now) -> Option<Job> {
        let slot = &mut self.slots[controller];
        if let Some(after) = plan.again {
            slot.queue.add_at(key.clone(), now.steady + after);
        }
        if plan.writes.is_empty() {
            self.world
                .failures
                .remove(&(slot.controller.name(), key.clone()));
            slot.queue.done(&key);
            return None;
        }
        slot.health.writes += plan.writes.len() as u64;
        for write in &plan.writes {
            if let Write::Bind { at, node, .. } = write {
                self.assume(at, node, now);
            }
        }
        Some(Job {
            controller: Some(controller),
            key,
            writes: plan.writes,
            begun: self.lists,
        })
    }

    /// Takes in how a job went: what its writes have shown, and the first failure.
    pub fn complete(
        &mut self,
        job: &Job,
        effects: Vec<Effect>,
        failure: Option<Failure>,
        now: Now,
    ) {
        let mut bound = Vec::new();
        for effect in effects {
            match effect {
                Effect::Put(object) => self.written(object, job, now),
                Effect::Gone(target) => match self.world.stores.get(target.kind, &target.key) {
                    Some(known) if meta::uid(known.meta()) == target.uid => self.gone(&known, now),
                    _ => self.bury(&target.uid),
                },
                Effect::Bound(key) => bound.push(key),
                Effect::Nothing => {}
            }
        }
        for write in &job.writes {
            if let Write::Bind { at, .. } = write
                && !bound.contains(&at.key)
            {
                self.forget(&at.key, now);
            }
        }
        let Some(slot) = job.controller.and_then(|index| self.slots.get_mut(index)) else {
            return self.looked(job, failure.is_some(), now);
        };
        let place = (slot.controller.name(), job.key.clone());
        match failure {
            None => {
                self.world.failures.remove(&place);
                slot.queue.done(&job.key);
            }
            Some(failure) => {
                slot.queue.failed(&job.key, now.steady, failure.pause());
                if !failure.is_conflict() && !failure.is_gone() {
                    slot.health.failed(&job.key, &failure, now.wall);
                    self.world.failures.insert(place, failure);
                }
            }
        }
    }

    /// Takes in what a write has made.
    fn written(&mut self, object: Object, job: &Job, now: Now) {
        let target = Target {
            kind: object.kind(),
            key: Key::of(object.meta()),
            uid: meta::uid(object.meta()).to_owned(),
        };
        let watch = self.watch(target.kind);
        if let Some(written) = &mut watch.written {
            written.insert(target.key.clone());
        }
        if watch.written.is_some() || watch.list > job.begun {
            self.doubts.add(target, now.steady);
        }
        self.put(object, now);
    }

    fn looked(&mut self, job: &Job, failed: bool, now: Now) {
        for write in job.writes.iter().filter(|_| failed) {
            if let Write::Look { at } = write {
                self.doubts.add(at.clone(), now.steady + doubts::PAUSE);
            }
        }
    }

    /// The pod counts as the node's from now on.
    fn assume(&mut self, at: &Target, node: &str, now: Now) {
        let assumed = Assumed {
            uid: at.uid.clone(),
            node: node.to_owned(),
        };
        self.assumed.insert(at.key.clone(), assumed);
        if let Some(object) = self.world.stores.get(Kind::Pod, &at.key) {
            let object = self.with_assumed(&at.key, object);
            let change = self.world.put(object, now);
            self.tell(&change);
        }
    }

    /// The binding failed: the pod counts as nobody's again.
    fn forget(&mut self, key: &Key, now: Now) {
        if self.assumed.remove(key).is_none() {
            return;
        }
        if let Some(Object::Pod(pod)) = self.world.stores.get(Kind::Pod, key) {
            let mut pod = (*pod).clone();
            if let Some(spec) = &mut pod.spec {
                spec.node_name = None;
            }
            let change = self.world.put(pod.into(), now);
            self.tell(&change);
        }
    }

    /// The pod with the node that it is being given to, until the server shows it with one.
    fn with_assumed(&mut self, key: &Key, object: Object) -> Object {
        let Object::Pod(pod) = &object else {
            return object;
        };
        let Some(assumed) = self.assumed.get(key) else {
            return object;
        };
        if pods::node(pod).is_some() || meta::uid(&pod.metadata) != assumed.uid {
            self.assumed.remove(key);
            return object;
        }
        let mut pod = (**pod).clone();
        pod.spec.get_or_insert_default().node_name = Some(assumed.node.clone());
        pod.into()
    }

    /// When to poll again if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let of = |slot: &Slot| {
            let resync = slot.synced_at? + self.pace.resync;
            if slot.queue.active() >= self.pace.concurrency {
                return None;
            }
            Some(slot.queue.deadline().map_or(resync, |at| at.min(resync)))
        };
        let looks = self.doubts.deadline(|kind| is_quiet(&self.watches, kind));
        self.slots.iter().filter_map(of).chain(looks).min()
    }

    /// How every controller is.
    pub fn health(&self, now: Now) -> Vec<ControllerHealth> {
        let of = |slot: &Slot| ControllerHealth {
            queued: slot.queue.len(),
            failing: slot.queue.failing(),
            waiting_for: self.waiting_for(slot, now),
            ..slot.health.clone()
        };
        self.slots.iter().map(of).collect()
    }

    fn waiting_for(&self, slot: &Slot, now: Now) -> Vec<health::Missing> {
        let missing = |kind: &Kind| {
            let watch = self.watches.get(kind)?;
            // A watch that works again does not say so: no news is good news.
            let recent = |at: Duration| now.steady.saturating_sub(at) < NEWS;
            let error = watch.error.clone();
            let error = error.filter(|(_, at)| !watch.listed || recent(*at));
            (!watch.listed || error.is_some()).then(|| health::Missing {
                kind: kind.plural(),
                error: error.map(|(text, _)| text),
            })
        };
        slot.controller.needs().iter().filter_map(missing).collect()
    }
}

impl Slot {
    fn look_at_all(&mut self, world: &World, now: Now) {
        self.synced_at = Some(now.steady);
        let mut keys = Vec::new();
        for kind in self.controller.needs() {
            for key in world.stores.keys(*kind) {
                let change = Change {
                    old: None,
                    new: world.stores.get(*kind, &key),
                };
                self.controller.affected(&change, world, &mut keys);
            }
        }
        keys.into_iter().for_each(|key| self.queue.add(key));
    }
}

/// Whether no list of the kind is being read.
fn is_quiet(watches: &BTreeMap<Kind, Watch>, kind: Kind) -> bool {
    watches
        .get(&kind)
        .is_none_or(|watch| watch.written.is_none())
}

/// Whether `object` is another or a later state than `old`. Versions are compared where they are numbers; else what comes
/// later is taken as newer.
fn is_newer(object: &Object, old: &Object) -> bool {
    let version = |object: &Object| {
        let text = object.meta().resource_version.clone();
        text.and_then(|text| text.parse::<u128>().ok())
    };
    match (version(object), version(old)) {
        (Some(new), Some(old)) => new > old,
        _ => object != old,
    }
}

#[cfg(test)]
mod tests;
