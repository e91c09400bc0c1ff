//! The driver: watches and writes, and the clock. It decides nothing.
use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, pin_mut, stream::FuturesUnordered};
use jiff::Timestamp;
use kube::{
    Api, Client, Resource,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    Kind, Now, Settings,
    engine::{Engine, Job, Pace, Seen},
    events::Recorder,
    health::ControllerHealth,
    namespaces::ROOT_CA,
    object::{self, Server},
    raw::Raw,
    world::NODE_LEASES,
    write::{Effect, Failure, Target, Write},
};

/// Pauses between tries to watch: short at first, because a server that restarts is back soon.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What the watches may be ahead of the engine.
const BACKLOG: usize = 1024;
/// The most writes of one job at once.
const BATCH: usize = 32;

/// The controllers, ready to run.
pub struct Controllers {
    client: Client,
    settings: Settings,
    health: HealthView,
}

/// How the controllers are, seen from anywhere; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct HealthView(Arc<Mutex<Vec<ControllerHealth>>>);

impl HealthView {
    /// One value per controller; none before the start.
    #[must_use]
    pub fn get(&self) -> Vec<ControllerHealth> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, health: Vec<ControllerHealth>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }
}

impl Controllers {
    /// Controllers that work through this client.
    #[must_use]
    pub fn new(client: Client, settings: Settings) -> Self {
        Self {
            client,
            settings,
            health: HealthView::default(),
        }
    }

    /// How they are; to be taken before they run.
    #[must_use]
    pub fn health(&self) -> HealthView {
        self.health.clone()
    }

    /// Runs them until `stop` ends. The API server may be away at any time: everything is tried again.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.work() => {}
        }
    }

    async fn work(self) {
        let clock = Clock::start();
        let pace = Pace {
            concurrency: self.settings.concurrency.max(1),
            resync: self.settings.resync,
        };
        let controllers = crate::controllers(&self.settings);
        let mut engine = Engine::new(controllers, pace, clock.now());
        let (seen, mut hear) = mpsc::channel(BACKLOG);
        // Ends all tasks when it is dropped.
        let mut tasks = JoinSet::new();
        for kind in engine.kinds() {
            tasks.spawn(follow(self.client.clone(), kind, seen.clone()));
        }
        let server = Server::new(self.client.clone());
        let recorder = Recorder::start(server.clone(), &mut tasks);
        let mut jobs = JoinSet::new();
        let mut told = Instant::now();
        loop {
            for job in engine.poll(clock.now()) {
                let (server, recorder) = (server.clone(), recorder.clone());
                jobs.spawn(async move { carry_out(&server, &recorder, job).await });
            }
            let wake = engine.deadline().map_or(Duration::from_secs(1), |at| {
                at.saturating_sub(clock.now().steady)
            });
            tokio::select! {
                Some(told) = hear.recv() => {
                    told.take(&mut engine, clock.now());
                    while let Ok(told) = hear.try_recv() {
                        told.take(&mut engine, clock.now());
                    }
                }
                Some(Ok(done)) = jobs.join_next() => finish(&mut engine, done, clock.now()),
                () = tokio::time::sleep(wake.clamp(Duration::from_millis(1), Duration::from_secs(1))) => {}
            }
            while let Some(Ok(done)) = jobs.try_join_next() {
                finish(&mut engine, done, clock.now());
            }
            if told.elapsed() > Duration::from_millis(100) {
                self.health.set(engine.health(clock.now()));
                told = Instant::now();
            }
        }
    }
}

fn finish(engine: &mut Engine, done: Done, now: Now) {
    engine.complete(&done.job, done.effects, done.failure, now);
}

/// The wall clock, and one that never goes back.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(&self) -> Now {
        Now {
            wall: Timestamp::now(),
            steady: self.0.elapsed(),
        }
    }
}

/// A job that was carried out.
struct Done {
    job: Job,
    effects: Vec<Effect>,
    failure: Option<Failure>,
}

async fn carry_out(server: &Server, recorder: &Recorder, job: Job) -> Done {
    let (mut effects, mut failure) = (Vec::new(), None);
    // Versions of objects that this job has changed already: its later writes build on its earlier ones.
    let mut versions = BTreeMap::new();
    let mut rest: &[Write] = &job.writes;
    let mut batch = 1;
    while let Some(first) = rest.first() {
        let alike = rest
            .iter()
            .take_while(|write| first.goes_with(write))
            .count();
        let slow = matches!(first, Write::Create { .. });
        let size = alike.clamp(1, if slow { batch } else { BATCH });
        let (now, later) = rest.split_at(size);
        rest = later;
        batch = if slow { (batch * 2).min(BATCH) } else { 1 };
        let mut running: FuturesUnordered<_> = now
            .iter()
            .filter(|write| failure.is_none() || write.is_report())
            .map(|write| one(server, recorder, write, &versions))
            .collect();
        let mut results = Vec::new();
        while let Some(result) = running.next().await {
            results.push(result);
        }
        drop(running);
        for result in results {
            match result {
                Ok((target, effect)) => {
                    if let (Some(target), Effect::Put(object)) = (target, &effect) {
                        versions.insert(target, object.meta().resource_version.clone());
                    }
                    effects.push(effect);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }
    if let Some(failure) = failure
        .as_ref()
        .filter(|f| !f.is_conflict() && !f.is_gone())
    {
        tracing::debug!(key = %job.key, "write failed: {}", failure.message);
    }
    Done {
        job,
        effects,
        failure,
    }
}

type Versions = BTreeMap<Target, Option<String>>;

async fn one(
    server: &Server,
    recorder: &Recorder,
    write: &Write,
    versions: &Versions,
) -> Result<(Option<Target>, Effect), Failure> {
    let result = match write {
        Write::Note(note) => {
            recorder.record(note.clone());
            return Ok((None, Effect::Nothing));
        }
        Write::Create { object, .. } => server.create(object).await.map(Effect::Put),
        Write::Patch {
            at, status, patch, ..
        } => {
            let patch = object::rebased(patch, versions.get(at));
            server.patch(at, *status, &patch).await.map(Effect::Put)
        }
        Write::Delete { at, grace, .. } => server.delete(at, *grace).await,
        Write::Bind { at, node, .. } => server.bind(at, node).await,
        Write::Look { at } => server.look(at).await,
    };
    let tell = write.tell();
    match &result {
        Ok(effect) => {
            if let Some(note) = tell.and_then(|tell| tell.done.as_ref()) {
                let name = match effect {
                    Effect::Put(object) => object.meta().name.clone(),
                    _ => None,
                };
                recorder.record(note.filled(&name.unwrap_or_default()));
            }
        }
        Err(failure)
            if failure.is_conflict() || failure.is_gone() || failure.is_namespace_ending() => {}
        Err(failure) => {
            if let Some(note) = tell.and_then(|tell| tell.failed.as_ref()) {
                recorder.record(note.filled(&failure.message));
            }
        }
    }
    let target = match write {
        Write::Patch { at, .. } => Some(at.clone()),
        _ => None,
    };
    result.map(|effect| (target, effect))
}

/// What a watch says, and who waits until it is taken in.
struct Told {
    seen: Seen,
    taken: oneshot::Sender<()>,
}

impl Told {
    fn take(self, engine: &mut Engine, now: Now) {
        engine.observe(self.seen, now);
        // Nobody waits for most of them.
        let _ = self.taken.send(());
    }
}

/// Watches a kind for ever.
async fn follow(client: Client, kind: Kind, seen: mpsc::Sender<Told>) {
    let resource = kind.resource();
    let (mut config, mut api) = (
        watcher::Config::default(),
        Api::<Raw>::all_with(client.clone(), &resource),
    );
    match kind {
        Kind::ConfigMap => config = config.fields(&format!("metadata.name={ROOT_CA}")),
        Kind::Lease => api = Api::namespaced_with(client, NODE_LEASES, &resource),
        _ => {}
    }
    let stream = watcher(api, config);
    pin_mut!(stream);
    let (mut list, mut pause) = (Vec::new(), FIRST_PAUSE);
    while let Some(event) = stream.next().await {
        match &event {
            // The stream asks again when it is polled again.
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            // Said before anything was asked for: no success yet.
            Ok(Event::Init) => {}
            Ok(_) => pause = FIRST_PAUSE,
        }
        let is_listing = matches!(event, Ok(Event::Init));
        let told = match event {
            Ok(Event::Init) => {
                list.clear();
                Some(Seen::Listing(kind))
            }
            Ok(Event::InitApply(object)) => {
                list.extend(parsed(kind, object));
                None
            }
            Ok(Event::InitDone) => Some(Seen::Listed(kind, std::mem::take(&mut list))),
            Ok(Event::Apply(object)) => parsed(kind, object).map(Seen::Applied),
            Ok(Event::Delete(object)) => parsed(kind, object).map(Seen::Deleted),
            Err(error) => Some(Seen::Failed(kind, causes(&error))),
        };
        let Some(told) = told else {
            continue;
        };
        let (taken, wait) = oneshot::channel();
        if seen.send(Told { seen: told, taken }).await.is_err() {
            return;
        }
        // The list is asked for when the stream is polled next: not before the engine has begun to note its own writes.
        if is_listing {
            let _ = wait.await;
        }
    }
}

fn parsed(kind: Kind, object: Raw) -> Option<crate::Object> {
    let name = object.meta().name.clone().unwrap_or_default();
    match object.typed(kind) {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::warn!(kind = kind.plural(), name, "an object is left out: {error}");
            None
        }
    }
}

/// An error with what is behind it, each message once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        next = cause.source();
    }
    text
}
