//! For tests: a small API server of plain values around the engine, where every step can come in any order.
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Kept, Key, Kind, Now, Object, Settings,
    engine::{Engine, Job, Pace, Seen},
    meta, object,
    write::{Effect, Failure, Note, Write},
};

pub(crate) struct Sim {
    pub(crate) engine: Engine,
    objects: BTreeMap<(Kind, Key), Value>,
    /// What the watches have not told yet, per kind.
    watches: BTreeMap<Kind, VecDeque<Seen>>,
    running: VecDeque<Running>,
    pub(crate) notes: Vec<Note>,
    pub(crate) now: Now,
    serial: u64,
    /// Creations of pods are refused with this message.
    pub(crate) refuse_pods: Option<String>,
    /// The server fails now and then, or its answer is lost.
    pub(crate) flaky: Option<Dice>,
    /// Writes carried out, conflicts not counted.
    pub(crate) written: usize,
}

struct Running {
    job: Job,
    next: usize,
    effects: Vec<Effect>,
    failure: Option<Failure>,
    versions: BTreeMap<crate::write::Target, Option<String>>,
}

impl Sim {
    /// A simulation whose nodes need no heartbeat.
    pub(crate) fn new() -> Self {
        Self::with(&Settings {
            node_grace: Duration::from_secs(1_000_000),
            ..Settings::default()
        })
    }

    pub(crate) fn with(settings: &Settings) -> Self {
        let now = Now {
            wall: Timestamp::from_second(1_800_000_000).unwrap(),
            steady: Duration::from_secs(1000),
        };
        let pace = Pace {
            concurrency: settings.concurrency,
            resync: settings.resync,
        };
        let mut engine = Engine::new(crate::controllers(settings), pace, now);
        for kind in engine.kinds().collect::<Vec<_>>() {
            engine.observe(Seen::Listing(kind), now);
            engine.observe(Seen::Listed(kind, Vec::new()), now);
        }
        Self {
            engine,
            objects: BTreeMap::new(),
            watches: BTreeMap::new(),
            running: VecDeque::new(),
            notes: Vec::new(),
            now,
            serial: 0,
            refuse_pods: None,
            flaky: None,
            written: 0,
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now.steady += time;
        self.now.wall += jiff::SignedDuration::try_from(time).unwrap();
    }

    fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn tell(&mut self, seen: Seen) {
        let kind = match &seen {
            Seen::Applied(object) | Seen::Deleted(object) => object.kind(),
            Seen::Listing(kind) | Seen::Listed(kind, _) | Seen::Failed(kind, _) => *kind,
        };
        self.watches.entry(kind).or_default().push_back(seen);
    }

    /// Makes or replaces an object, as a user would.
    pub(crate) fn apply(&mut self, kind: Kind, mut value: Value) -> Key {
        let serial = self.serial();
        let meta = &mut value["metadata"];
        if meta["name"].is_null() {
            let start = meta["generateName"].as_str().unwrap_or("x-").to_owned();
            meta["name"] = json!(format!("{start}{serial:05}"));
        }
        if kind.namespaced() && meta["namespace"].is_null() {
            meta["namespace"] = json!("default");
        }
        let namespace = meta["namespace"].as_str().unwrap_or_default();
        let key = Key::new(namespace, meta["name"].as_str().unwrap());
        let old = self.objects.get(&(kind, key.clone())).cloned();
        let old = old.unwrap_or_default();
        let fresh = old.is_null();
        let pick = |field: &str, new: Value| {
            if fresh {
                new
            } else {
                old["metadata"][field].clone()
            }
        };
        meta["uid"] = pick("uid", json!(format!("uid-{serial}")));
        meta["creationTimestamp"] = pick("creationTimestamp", json!(meta::time(self.now.wall)));
        let before = old["metadata"]["generation"].as_i64().unwrap_or(0);
        let same = old["spec"] == value["spec"] && !fresh;
        value["metadata"]["generation"] = json!(before + i64::from(!same));
        value["metadata"]["resourceVersion"] = json!(serial.to_string());
        if value.get("status").is_none() && !old["status"].is_null() {
            value["status"] = old["status"].clone();
        }
        let object = kind.parse(value.clone()).unwrap();
        self.objects.insert((kind, key.clone()), value);
        self.tell(Seen::Applied(object));
        key
    }

    /// Changes an object by a function, as a user or a kubelet would.
    pub(crate) fn edit(&mut self, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) {
        let namespace = if kind.namespaced() { "default" } else { "" };
        let key = Key::new(namespace, name);
        let mut value = self.objects.get(&(kind, key)).cloned().unwrap();
        change(&mut value);
        self.apply(kind, value);
    }

    pub(crate) fn remove(&mut self, kind: Kind, key: &Key) {
        let serial = self.serial();
        if let Some(mut value) = self.objects.remove(&(kind, key.clone())) {
            value["metadata"]["resourceVersion"] = json!(serial.to_string());
            let object = kind.parse(value).unwrap();
            self.tell(Seen::Deleted(object));
        }
    }

    pub(crate) fn get<K: Kept>(&self, name: &str) -> Option<K> {
        let namespace = if K::STORED.namespaced() {
            "default"
        } else {
            ""
        };
        let value = self.objects.get(&(K::STORED, Key::new(namespace, name)))?;
        Self::read(value)
    }

    pub(crate) fn all<K: Kept>(&self) -> Vec<K> {
        let own = self
            .objects
            .iter()
            .filter(|((kind, _), _)| *kind == K::STORED);
        own.filter_map(|(_, value)| Self::read(value)).collect()
    }

    fn read<K: Kept>(value: &Value) -> Option<K> {
        let object = K::STORED.parse(value.clone()).unwrap();
        K::cast(&object).map(|object| (**object).clone())
    }

    /// Lets everything happen until nothing is left to do for a second, in a fixed order.
    pub(crate) fn settle(&mut self) {
        let end = self.now.steady + Duration::from_secs(1);
        for _ in 0..100_000 {
            if self.step(0) {
                continue;
            }
            match self.engine.deadline().filter(|at| *at <= end) {
                Some(at) => self.pass(at.saturating_sub(self.now.steady)),
                None => return,
            }
        }
        panic!("it never settles");
    }

    /// Lets one thing happen, chosen by a number; false if nothing can.
    pub(crate) fn step(&mut self, choice: usize) -> bool {
        let jobs = self.engine.poll(self.now);
        self.running.extend(jobs.into_iter().map(Running::new));
        self.watches.retain(|_, queue| !queue.is_empty());
        let options = self.watches.len() + self.running.len();
        if options == 0 {
            return false;
        }
        let choice = choice % options;
        if let Some(queue) = self.watches.values_mut().nth(choice) {
            let seen = queue.pop_front().unwrap();
            if let Seen::Listing(kind) = seen {
                // What comes before the list is in the list.
                queue.clear();
                let of_kind = self.objects.iter().filter(|((k, _), _)| *k == kind);
                let list = of_kind.map(|(_, value)| kind.parse(value.clone()).unwrap());
                queue.push_back(Seen::Listed(kind, list.collect()));
            }
            self.engine.observe(seen, self.now);
        } else {
            let index = choice - self.watches.len();
            let running = self.running.remove(index).unwrap();
            if let Some(running) = self.advance(running) {
                self.running.push_back(running);
            }
        }
        true
    }

    /// A watch breaks: what it had not told yet is lost, and it begins with a list again.
    pub(crate) fn relist(&mut self, kind: Kind) {
        let queue = self.watches.entry(kind).or_default();
        queue.clear();
        queue.push_back(Seen::Listing(kind));
    }

    fn advance(&mut self, mut running: Running) -> Option<Running> {
        let Some(write) = running.job.writes.get(running.next).cloned() else {
            let (effects, failure) = (running.effects, running.failure);
            self.engine
                .complete(&running.job, effects, failure, self.now);
            return None;
        };
        running.next += 1;
        if running.failure.is_some() && !write.is_report() {
            return Some(running);
        }
        let luck = self.flaky.as_mut().map_or(9, |dice| dice.roll(10));
        let mut result = match luck {
            0 => Err(refused(500, "InternalError", "no luck")),
            _ => self.carry_out(&write, &running),
        };
        if luck == 1 && !matches!(write, Write::Note(_)) {
            result = Err(refused(0, "NoAnswer", "lost"));
        }
        match result {
            Ok(effect) => {
                self.written += 1;
                let name = match &effect {
                    Effect::Put(object) => meta::name(object.meta()).to_owned(),
                    _ => String::new(),
                };
                if let (Write::Patch { at, .. }, Effect::Put(object)) = (&write, &effect) {
                    let version = object.meta().resource_version.clone();
                    running.versions.insert(at.clone(), version);
                }
                self.notes.extend(
                    write
                        .tell()
                        .and_then(|t| Some(t.done.as_ref()?.filled(&name))),
                );
                running.effects.push(effect);
            }
            Err(failure) => {
                let told = write.tell().filter(|_| !failure.is_conflict());
                self.notes
                    .extend(told.and_then(|t| Some(t.failed.as_ref()?.filled(&failure.message))));
                running.failure.get_or_insert(failure);
            }
        }
        Some(running)
    }

    fn carry_out(&mut self, write: &Write, running: &Running) -> Result<Effect, Failure> {
        match write {
            Write::Note(note) => {
                self.notes.push(note.clone());
                Ok(Effect::Nothing)
            }
            Write::Create { object, .. } => self.create(object),
            Write::Patch {
                at, status, patch, ..
            } => {
                let patch = object::rebased(patch, running.versions.get(at));
                self.patch(at.kind, &at.key, *status, &patch)
            }
            Write::Delete { at, grace, .. } => self.delete(at.kind, &at.key, &at.uid, *grace),
            Write::Look { at } => match self.objects.get(&(at.kind, at.key.clone())) {
                Some(value) if value["metadata"]["uid"] == at.uid => Ok(self.put(at.kind, &at.key)),
                _ => Ok(Effect::Gone(at.clone())),
            },
            Write::Bind { at, node, .. } => self.bind(&at.key, &at.uid, node),
        }
    }

    fn create(&mut self, object: &Object) -> Result<Effect, Failure> {
        let kind = object.kind();
        if let Some(message) = self.refuse_pods.clone().filter(|_| kind == Kind::Pod) {
            return Err(refused(403, "Forbidden", &message));
        }
        let meta = object.meta();
        if meta.name.is_some() && self.objects.contains_key(&(kind, Key::of(meta))) {
            return Err(refused(409, "AlreadyExists", "exists"));
        }
        let key = self.apply(kind, object.json().unwrap());
        Ok(self.put(kind, &key))
    }

    fn put(&self, kind: Kind, key: &Key) -> Effect {
        let value = self.objects[&(kind, key.clone())].clone();
        Effect::Put(kind.parse(value).unwrap())
    }

    fn patch(
        &mut self,
        kind: Kind,
        key: &Key,
        status: bool,
        patch: &Value,
    ) -> Result<Effect, Failure> {
        let Some(mut value) = self.objects.get(&(kind, key.clone())).cloned() else {
            return Err(refused(404, "NotFound", "not found"));
        };
        for field in ["uid", "resourceVersion"] {
            let wanted = &patch["metadata"][field];
            if !wanted.is_null() && *wanted != value["metadata"][field] {
                return Err(refused(409, "Conflict", "changed"));
            }
        }
        let kept = value["status"].clone();
        if status {
            merge(&mut value["status"], &patch["status"]);
        } else {
            merge(&mut value, patch);
            value["status"] = kept;
        }
        self.apply(kind, value);
        Ok(self.put(kind, key))
    }

    fn delete(
        &mut self,
        kind: Kind,
        key: &Key,
        uid: &str,
        grace: Option<u32>,
    ) -> Result<Effect, Failure> {
        let Some(value) = self.objects.get(&(kind, key.clone())).cloned() else {
            return Ok(Effect::Nothing);
        };
        if value["metadata"]["uid"] != uid {
            return Err(refused(409, "Conflict", "another object"));
        }
        let bound = kind == Kind::Pod && !value["spec"]["nodeName"].is_null();
        if bound && grace != Some(0) {
            let mut value = value;
            if value["metadata"]["deletionTimestamp"].is_null() {
                value["metadata"]["deletionTimestamp"] = json!(meta::time(self.now.wall));
                value["metadata"]["deletionGracePeriodSeconds"] = json!(30);
                self.apply(kind, value);
            }
            return Ok(self.put(kind, key));
        }
        self.remove(kind, key);
        Ok(Effect::Nothing)
    }

    fn bind(&mut self, key: &Key, uid: &str, node: &str) -> Result<Effect, Failure> {
        let Some(mut value) = self.objects.get(&(Kind::Pod, key.clone())).cloned() else {
            return Err(refused(404, "NotFound", "not found"));
        };
        if value["metadata"]["uid"] != uid || !value["spec"]["nodeName"].is_null() {
            return Err(refused(409, "Conflict", "bound"));
        }
        value["spec"]["nodeName"] = json!(node);
        self.apply(Kind::Pod, value);
        Ok(Effect::Bound(key.clone()))
    }

    /// What a kubelet does with the pod: runs it, or lets go of it.
    pub(crate) fn run_pod(&mut self, name: &str, ready: bool) {
        let Some(pod) = self.get::<k8s_openapi::api::core::v1::Pod>(name) else {
            return;
        };
        if meta::is_ending(&pod.metadata) {
            return self.remove(Kind::Pod, &Key::of(&pod.metadata));
        }
        let (now, serial) = (json!(meta::time(self.now.wall)), self.serial());
        let ready = if ready { "True" } else { "False" };
        self.edit(Kind::Pod, name, |pod| {
            if pod["status"]["conditions"][0]["status"] != ready {
                pod["status"]["conditions"] =
                    json!([{"type": "Ready", "status": ready, "lastTransitionTime": now}]);
            }
            pod["status"]["phase"] = json!("Running");
            if pod["status"]["podIP"].is_null() {
                let ip = format!("10.0.{}.{}", serial / 250 % 250, serial % 250 + 1);
                pod["status"]["podIPs"] = json!([{"ip": ip}, {"ip": format!("fd00::{serial:x}")}]);
                pod["status"]["podIP"] = json!(ip);
            }
        });
    }

    /// All kubelets do their work until nothing changes any more.
    pub(crate) fn run_all(&mut self) {
        for _ in 0..200 {
            self.settle();
            let pods = self.all::<k8s_openapi::api::core::v1::Pod>();
            let open = pods.iter().filter(|pod| {
                crate::pods::node(pod).is_some()
                    && !crate::pods::is_over(pod)
                    && (meta::is_ending(&pod.metadata) || !crate::pods::is_ready(pod))
            });
            let open: Vec<String> = open
                .map(|pod| meta::name(&pod.metadata).to_owned())
                .collect();
            if open.is_empty() {
                return;
            }
            for name in open {
                self.run_pod(&name, true);
            }
        }
        panic!("pods never rest");
    }

    pub(crate) fn nodes(&mut self, count: usize) {
        for i in 1..=count {
            let name = format!("n{i}");
            self.apply(
                Kind::Node,
                json!({
                    "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                    "spec": {},
                    "status": {
                        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                        "conditions": [{"type": "Ready", "status": "True"}],
                    },
                }),
            );
        }
    }

    pub(crate) fn messages(&self, reason: &str) -> Vec<String> {
        let notes = self.notes.iter().filter(|note| note.reason == reason);
        notes.map(|note| note.message.clone()).collect()
    }
}

impl Running {
    fn new(job: Job) -> Self {
        Self {
            job,
            next: 0,
            effects: Vec::new(),
            failure: None,
            versions: BTreeMap::new(),
        }
    }
}

fn refused(code: u16, reason: &str, message: &str) -> Failure {
    Failure {
        code,
        reason: reason.into(),
        message: message.into(),
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// Numbers that look random and repeat.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides.max(1)
    }
}

/// So many cases of a property, or as many as the environment variable `PROPTEST_CASES` asks for.
pub(crate) fn cases(number: u32) -> proptest::test_runner::Config {
    if std::env::var_os("PROPTEST_CASES").is_some() {
        proptest::test_runner::Config::default()
    } else {
        proptest::test_runner::Config::with_cases(number)
    }
}
