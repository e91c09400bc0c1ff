//! The life of one pod on a node, from the first sight of its object to the object's removal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Context;
use super::events::About;
use super::handle::{ContainerHandle, Net, PodHandle};
use super::logs::Log;
use super::objects::{self, Changed};
use super::plan::{self, Facts, host_network};
use super::process::Inside;
use super::runner::{Change, RestartPolicy, Runner};
use super::sandbox::{Backoff, Sandbox, SandboxError};
use super::status::{Part, PodView, Slot, State};
use super::volumes::{self, Content, References};
use super::writer::StatusWriter;
use crate::state::{ContainerRecord, PodRecord};

/// How long the end of killed processes may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const DEFAULT_GRACE: i64 = 30;
/// Where a node keeps the directories of its pods.
const PODS: &str = "/run/kubelet/pods";
/// Service account tokens are asked for anew after this part of their life.
const TOKEN_PART: f64 = 0.8;
/// So often a network that is not configured yet is looked for without growing pauses.
const EARLY_ATTEMPTS: u32 = 600;
/// What sidecars have at least, once the others ended.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);

/// A pod as the API showed it last.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) pod: Arc<Pod>,
    pub(super) gone: bool,
}

impl Seen {
    fn ending(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn grace(&self) -> Duration {
        let asked = self.pod.metadata.deletion_grace_period_seconds;
        let own = self
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.termination_grace_period_seconds);
        let seconds = if self.gone {
            0
        } else {
            asked.or(own).unwrap_or(DEFAULT_GRACE)
        };
        Duration::from_secs(seconds.try_into().unwrap_or(0))
    }

    /// It ended in an earlier life of the kubelet.
    fn over(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        phase.is_some_and(|p| p == "Succeeded" || p == "Failed")
    }
}

pub(super) struct Worker {
    context: Arc<Context>,
    seen: watch::Receiver<Seen>,
    about: About,
    view: PodView,
    writer: StatusWriter,
    handle: Arc<PodHandle>,
    inside: Vec<Option<Inside>>,
    launched: Vec<bool>,
    runners: Runners,
    sandbox: Option<Sandbox>,
    facts: Facts,
    volumes: BTreeMap<String, PathBuf>,
    wanted: References,
    tokens: BTreeMap<String, String>,
    version: u64,
}

/// The tasks of containers, and how they are told to end.
struct Runners {
    main: JoinSet<()>,
    others: JoinSet<()>,
    stop_main: watch::Sender<Option<Instant>>,
    stop_others: watch::Sender<Option<Instant>>,
    changes: mpsc::UnboundedSender<(usize, Change)>,
    hear: mpsc::UnboundedReceiver<(usize, Change)>,
}

/// Why the pod's containers are ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The object is deleted.
    Deleted,
    /// Its containers ended for good, or its time is over.
    Over,
}

/// A pod's containers with the parts they play, init containers first.
fn parts(pod: &Pod) -> Vec<(Part, Container)> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let init = spec.init_containers.iter().flatten().map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        (if sidecar { Part::Sidecar } else { Part::Init }, c.clone())
    });
    let main = spec.containers.iter().map(|c| (Part::Main, c.clone()));
    init.chain(main).collect()
}

fn policy(pod: &Pod, part: Part) -> RestartPolicy {
    let own = RestartPolicy::parse(pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()));
    match (part, own) {
        (Part::Sidecar, _) => RestartPolicy::Always,
        (Part::Init, RestartPolicy::Always) => RestartPolicy::OnFailure,
        _ => own,
    }
}

impl Worker {
    pub(super) fn new(context: Arc<Context>, seen: watch::Receiver<Seen>) -> Worker {
        let pod = seen.borrow().pod.clone();
        let about = About {
            kind: "Pod",
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
        };
        let parts = parts(&pod);
        let waiting = parts.iter().any(|(p, _)| *p != Part::Main);
        let slots: Vec<Slot> = parts
            .iter()
            .map(|(part, c)| {
                let mut creating = Slot::creating();
                if waiting {
                    creating.reason = "PodInitializing";
                }
                Slot::new(
                    &c.name,
                    c.image.as_deref().unwrap_or_default(),
                    *part,
                    creating,
                )
            })
            .collect();
        let gates = pod
            .spec
            .iter()
            .flat_map(|s| s.readiness_gates.iter().flatten());
        let gates = gates.map(|g| g.condition_type.clone()).collect();
        let facts = Facts {
            node: context.node.name.clone(),
            host_ips: context.node.addresses.clone(),
            pod_ips: Vec::new(),
            hostname: plan::hostname(&pod, &context.node.name),
            dir: Path::new(PODS).join(&about.uid),
            cpus: context.cpus,
            memory: context.memory,
        };
        let handle = Arc::new(handle(&context, &about, &pod, &parts));
        context
            .pods
            .add(&about.namespace, &about.name, handle.clone());
        let (changes, hear) = mpsc::unbounded_channel();
        let api = Api::namespaced(context.client.clone(), &about.namespace);
        Worker {
            inside: slots.iter().map(|_| None).collect(),
            launched: slots.iter().map(|_| false).collect(),
            view: PodView {
                slots,
                policy: policy(&pod, Part::Main),
                ips: Vec::new(),
                sandbox: false,
                host_ips: context.node.addresses.clone(),
                seen: started_before(&pod).unwrap_or_else(Timestamp::now),
                gates,
                finished: false,
                failed: None,
            },
            writer: StatusWriter::start(api, about.name.clone(), about.uid.clone()),
            wanted: References::of(&pod),
            runners: Runners {
                main: JoinSet::new(),
                others: JoinSet::new(),
                stop_main: watch::Sender::new(None),
                stop_others: watch::Sender::new(None),
                changes,
                hear,
            },
            sandbox: None,
            facts,
            volumes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            version: Timestamp::now().as_nanosecond() as u64,
            handle,
            about,
            context,
            seen,
        }
    }

    pub(super) async fn run(mut self) {
        if !self.seen.borrow().over() && self.prepare().await {
            self.launch();
            self.write_status();
            let end = self.follow().await;
            self.stop_containers(end).await;
            if end == End::Over {
                self.release().await;
                self.write_status();
            }
        }
        self.ended().await;
        if !self.seen.borrow().over() {
            self.view.finished = true;
            self.write_status();
            self.writer.flush().await;
        }
        self.release().await;
        self.clean().await;
        self.remove_object().await;
    }

    /// Resolves once the pod is to go.
    fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut seen = self.seen.clone();
        async move {
            // An error means that the supervisor stops: the same to a pod.
            let _ = seen.wait_for(Seen::ending).await;
        }
    }

    fn pod(&self) -> Arc<Pod> {
        self.seen.borrow().pod.clone()
    }

    fn ending(&self) -> bool {
        self.seen.borrow().ending()
    }

    /// Makes what the containers need. False when the pod ends first.
    async fn prepare(&mut self) -> bool {
        if self.ending() {
            return false;
        }
        self.write_status();
        let pod = self.pod();
        let missing = plan::not_honoured(&pod);
        if !missing.is_empty() {
            let message = format!("the lab does not honour {}", missing.join(", "));
            self.context
                .events
                .warning(&self.about, None, "NotHonoured", message);
        }
        if !self.make_volumes().await {
            return false;
        }
        if host_network(&pod) {
            self.view.ips.clone_from(&self.context.node.addresses);
            self.handle.net.send_replace(Some(Net::Node));
        } else if !self.make_sandbox().await {
            return false;
        }
        self.view.sandbox = true;
        self.facts.pod_ips.clone_from(&self.view.ips);
        self.write_etc();
        true
    }

    /// Waits between attempts. False when the pod ends first.
    async fn pause(&self, backoff: &mut Backoff) -> bool {
        tokio::time::timeout(backoff.next(), self.ended())
            .await
            .is_err()
    }

    /// Tries until it succeeds. False when the pod ends first.
    async fn make_volumes(&mut self) -> bool {
        let (mut backoff, mut last) = (Backoff::new(), String::new());
        while let Err(e) = self.write_volumes().await {
            if e != last {
                self.context
                    .events
                    .warning(&self.about, None, "FailedMount", e.clone());
                last = e;
            }
            if !self.pause(&mut backoff).await {
                return false;
            }
        }
        true
    }

    /// Brings the volumes up to date; the error is for an event.
    async fn write_volumes(&mut self) -> Result<(), String> {
        let pod = self.pod();
        let Some(all) = pod.spec.as_ref().and_then(|s| s.volumes.as_ref()) else {
            return Ok(());
        };
        let read = self
            .context
            .objects
            .sources(&pod, &self.wanted, &self.tokens)
            .await;
        let sources = read.map_err(|e| format!("cannot read what the volumes refer to: {e}"))?;
        self.tokens.clone_from(&sources.tokens);
        self.version += 1;
        for volume in all {
            let failed = |e: String| {
                format!(
                    "MountVolume.SetUp failed for volume {:?} : {e}",
                    volume.name
                )
            };
            let inside = plan::volume_dir(&self.facts.dir, &volume.name);
            let outside = self.context.node.path(&inside);
            let at = match volumes::content(&pod, volume, &self.facts, &sources).map_err(failed)? {
                Content::Empty => {
                    let group = pod
                        .spec
                        .as_ref()
                        .and_then(|s| s.security_context.as_ref()?.fs_group);
                    volumes::make_empty(&outside, group).map_err(|e| failed(e.to_string()))?;
                    inside
                }
                Content::Files(files) => {
                    volumes::write_files(&outside, &files, self.version)
                        .map_err(|e| failed(e.to_string()))?;
                    inside
                }
                Content::Host { path, kind } => {
                    let root = self.context.node.path("/");
                    volumes::prepare_host_path(&root, &path, &kind).map_err(failed)?;
                    path
                }
            };
            self.volumes.insert(volume.name.clone(), at);
        }
        Ok(())
    }

    /// /etc/hosts and /etc/resolv.conf, in place: containers have these very files.
    fn write_etc(&self) {
        let pod = self.pod();
        let dns = self.context.objects.dns().borrow().clone();
        let resolv = plan::resolv_conf(&pod, &dns, &self.context.objects.host_resolv);
        let hosts = if host_network(&pod) {
            std::fs::read_to_string(self.context.node.path("/etc/hosts")).unwrap_or_default()
        } else {
            plan::hosts_file(&pod, &self.facts)
        };
        let dir = self.context.node.path(self.facts.dir.join("etc"));
        let written = std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(dir.join("hosts"), hosts))
            .and_then(|()| std::fs::write(dir.join("resolv.conf"), resolv));
        if let Err(e) = written {
            tracing::warn!(pod = self.about.name, "cannot write /etc of a pod: {e}");
        }
    }

    /// Tries until it succeeds. False when the pod ends first.
    async fn make_sandbox(&mut self) -> bool {
        let (mut backoff, mut last) = (Backoff::new(), String::new());
        for attempt in 0.. {
            if self.ending() {
                return false;
            }
            let about = &self.about;
            let made = Sandbox::create(
                &self.context,
                &about.namespace,
                &about.name,
                &about.uid,
                attempt,
            );
            match made.await {
                Ok(sandbox) => {
                    self.view.ips.clone_from(&sandbox.ips);
                    self.handle
                        .net
                        .send_replace(Some(Net::Own(sandbox.netns.clone())));
                    self.sandbox = Some(sandbox);
                    return true;
                }
                Err(e) => {
                    self.sandbox_failed(&e, &mut last);
                    // Costs nothing to look at, and is over in a moment while a node comes up.
                    if e.no_config() && attempt < EARLY_ATTEMPTS {
                        backoff = Backoff::new();
                    }
                }
            }
            if !self.pause(&mut backoff).await {
                return false;
            }
        }
        false
    }

    fn sandbox_failed(&self, error: &SandboxError, last: &mut String) {
        let message = format!("Failed to create pod sandbox: {error}");
        // The same again and again says nothing new.
        if *last != message {
            tracing::info!(
                pod = format!("{}/{}", self.about.namespace, self.about.name),
                "{message}"
            );
            self.context.events.warning(
                &self.about,
                None,
                "FailedCreatePodSandBox",
                message.clone(),
            );
            *last = message;
        }
    }

    /// Starts what may start now: the next init container, or all main ones.
    fn launch(&mut self) {
        let pod = self.pod();
        for (index, (part, container)) in parts(&pod).into_iter().enumerate() {
            let Some(slot) = self.view.slots.get(index) else {
                return;
            };
            let settled = match part {
                Part::Init => slot.done(),
                Part::Sidecar => slot.started,
                Part::Main => true,
            };
            if !self.launched[index] {
                self.launched[index] = true;
                self.spawn(index, part, container, &pod);
            }
            if part != Part::Main && !settled {
                return;
            }
        }
    }

    fn spawn(&mut self, index: usize, part: Part, container: Container, pod: &Pod) {
        let main = part == Part::Main;
        let Some(handle) = self.handle.container(&container.name).cloned() else {
            return;
        };
        let object = self.handle.object.subscribe();
        let runner = Runner {
            context: self.context.clone(),
            about: self.about.clone(),
            pod: object,
            cgroup: self.pod_cgroup().child(&container.name),
            facts: self.facts.clone(),
            netns: self.sandbox.as_ref().map(|s| s.netns.clone()),
            volumes: self.volumes.clone(),
            handle,
            policy: policy(pod, part),
            index,
            changes: self.runners.changes.clone(),
            stop: if main {
                self.runners.stop_main.subscribe()
            } else {
                self.runners.stop_others.subscribe()
            },
            container,
        };
        let tasks = if main {
            &mut self.runners.main
        } else {
            &mut self.runners.others
        };
        tasks.spawn(runner.run());
    }

    /// Keeps status and volumes current until the pod ends, one way or the other.
    async fn follow(&mut self) -> End {
        let ended = self.ended();
        tokio::pin!(ended);
        let (mut changes, mut dns) = (self.context.objects.changes(), self.context.objects.dns());
        let mut seen = self.seen.clone();
        let deadline = self.active_deadline();
        let mut tokens = self.token_deadline();
        // Changed between its first reading and now.
        if *dns.borrow_and_update() != *self.context.objects.dns().borrow() {
            self.write_etc();
        }
        loop {
            if self.view.over() {
                return End::Over;
            }
            tokio::select! {
                () = &mut ended => return End::Deleted,
                Some((index, change)) = self.runners.hear.recv() => {
                    self.apply(index, change);
                    while let Ok((index, change)) = self.runners.hear.try_recv() {
                        self.apply(index, change);
                    }
                    self.launch();
                    self.write_status();
                }
                Ok(()) = seen.changed() => self.object_changed().await,
                Ok(()) = dns.changed() => self.write_etc(),
                change = changes.recv() => if self.concerns(change) {
                    self.refresh_volumes().await;
                },
                () = tokio::time::sleep_until(tokens) => {
                    self.tokens.clear();
                    self.refresh_volumes().await;
                    tokens = self.token_deadline();
                }
                () = sleep_until(deadline) => {
                    let text = "Pod was active on the node longer than the specified deadline";
                    self.context.events.normal(&self.about, None, "DeadlineExceeded", text.into());
                    self.view.failed = Some(("DeadlineExceeded".into(), text.into()));
                    self.write_status();
                }
            }
        }
    }

    async fn object_changed(&mut self) {
        let pod = self.pod();
        self.handle.object.send_replace(pod.clone());
        let status = pod.status.as_ref();
        // Somebody ended it from outside: an eviction, or a controller.
        if status.and_then(|s| s.phase.as_deref()) == Some("Failed") && self.view.failed.is_none() {
            let reason = status
                .and_then(|s| s.reason.clone())
                .unwrap_or_else(|| "Failed".into());
            let message = status.and_then(|s| s.message.clone()).unwrap_or_default();
            self.view.failed = Some((reason, message));
        }
        let downward = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        if downward
            .into_iter()
            .any(|v| v.downward_api.is_some() || v.projected.is_some())
        {
            self.refresh_volumes().await;
        }
        if !self.view.gates.is_empty() {
            self.write_status();
        }
    }

    fn concerns(&self, change: Result<objects::Change, broadcast::error::RecvError>) -> bool {
        match change {
            Ok((_, namespace, _)) if namespace != self.about.namespace => false,
            Ok((Changed::ConfigMap, _, name)) => self.wanted.config_maps.contains(&name),
            Ok((Changed::Secret, _, name)) => self.wanted.secrets.contains(&name),
            // Some were missed: one of them may concern it.
            Err(_) => true,
        }
    }

    async fn refresh_volumes(&mut self) {
        if let Err(e) = self.write_volumes().await {
            self.context
                .events
                .warning(&self.about, None, "FailedMount", e);
        }
    }

    fn active_deadline(&self) -> Option<Instant> {
        let seconds = self.pod().spec.as_ref()?.active_deadline_seconds?;
        let passed = Timestamp::now().duration_since(self.view.seen).as_secs();
        let left = (seconds - passed).max(0);
        Some(Instant::now() + Duration::from_secs(left.try_into().unwrap_or(0)))
    }

    fn token_deadline(&self) -> Instant {
        const YEAR: f64 = 31_536_000.0;
        let shortest = self.wanted.tokens.values().min();
        let seconds = shortest.map_or(YEAR, |s| (*s as f64 * TOKEN_PART).clamp(60.0, YEAR));
        Instant::now() + Duration::from_secs_f64(seconds)
    }

    fn apply(&mut self, index: usize, change: Change) {
        let Some(slot) = self.view.slots.get_mut(index) else {
            return;
        };
        match change {
            Change::Waiting(waiting) => {
                // The end of the run before moves aside.
                if let State::Ended(ended) = &slot.state {
                    slot.last = Some(ended.clone());
                }
                slot.state = State::Waiting(waiting);
            }
            Change::Running {
                id,
                since,
                inside,
                started,
                ready,
            } => {
                if let State::Ended(ended) = &slot.state {
                    slot.last = Some(ended.clone());
                }
                if slot.id.is_some() {
                    slot.restarts += 1;
                }
                slot.state = State::Running(since);
                (slot.id, slot.started, slot.ready) = (Some(id), started, ready);
                self.inside[index] = Some(inside);
                self.write_record();
            }
            Change::Started => slot.started = true,
            Change::Ready(ready) => slot.ready = ready,
            Change::Exited { mut ended, again } => {
                ended.again = again.is_some();
                if ended.not_started && slot.id.is_some() {
                    slot.restarts += 1;
                }
                slot.id.clone_from(&ended.id);
                (slot.started, slot.ready) = (slot.part == Part::Init && ended.code == 0, false);
                slot.state = State::Ended(ended);
                self.inside[index] = None;
                self.write_record();
            }
        }
    }

    /// What `hypha lab exec` needs to know.
    fn write_record(&self) {
        let all = self.view.slots.iter().zip(&self.inside);
        let mut running: Vec<(Part, ContainerRecord)> = all
            .filter_map(|(slot, inside)| {
                let inside = inside.as_ref()?;
                let record = ContainerRecord {
                    name: slot.name.clone(),
                    process: inside.process.clone(),
                    cgroup: inside.cgroup.path().to_owned(),
                    env: inside.how.env.clone(),
                    dir: inside.how.dir.clone(),
                };
                Some((slot.part, record))
            })
            .collect();
        // The first one is the default.
        running.sort_by_key(|(part, _)| *part != Part::Main);
        let record = PodRecord {
            namespace: self.about.namespace.clone(),
            name: self.about.name.clone(),
            uid: self.about.uid.clone(),
            node: self.context.node.name.clone(),
            containers: running.into_iter().map(|(_, r)| r).collect(),
        };
        if let Err(e) = self.context.node.state.write_pod(&record) {
            tracing::warn!("{e:#}");
        }
    }

    fn pod_cgroup(&self) -> crate::cgroup::Cgroup {
        let all = self.context.node.cgroup().child("kubepods");
        all.child(&format!("pod{}", self.about.uid))
    }

    fn write_status(&mut self) {
        let seen = self.pod();
        let object = seen
            .status
            .as_ref()
            .and_then(|s| serde_json::to_value(s).ok());
        let before = self.writer.last().or(object.clone());
        let mut status = self.view.json(before.as_ref(), Timestamp::now());
        keep_foreign_conditions(&mut status, object.as_ref());
        self.writer.write(status);
    }

    /// Ends all containers, main ones first; nothing runs afterwards.
    async fn stop_containers(&mut self, end: End) {
        let grace = match end {
            End::Deleted => self.seen.borrow().grace(),
            End::Over => {
                let own = self
                    .pod()
                    .spec
                    .as_ref()
                    .and_then(|s| s.termination_grace_period_seconds);
                Duration::from_secs(own.unwrap_or(DEFAULT_GRACE).try_into().unwrap_or(0))
            }
        };
        let mut deadline = Instant::now() + grace;
        self.runners.stop_main.send_replace(Some(deadline));
        // An init container that still runs has nothing to wait for.
        if self
            .view
            .slots
            .iter()
            .any(|s| s.part == Part::Init && matches!(s.state, State::Running(_)))
        {
            self.runners.stop_others.send_replace(Some(deadline));
        }
        for main in [true, false] {
            if !main {
                deadline = deadline.max(Instant::now() + SIDECAR_GRACE.min(grace));
                self.runners.stop_others.send_replace(Some(deadline));
            }
            self.wait_runners(main, deadline).await;
        }
    }

    async fn wait_runners(&mut self, main: bool, mut deadline: Instant) {
        let mut seen = self.seen.clone();
        loop {
            let tasks = if main {
                &mut self.runners.main
            } else {
                &mut self.runners.others
            };
            tokio::select! {
                ended = tasks.join_next() => if ended.is_none() { break },
                Some((index, change)) = self.runners.hear.recv() => {
                    self.apply(index, change);
                    self.write_status();
                }
                Ok(()) = seen.changed() => {
                    // Deleted meanwhile, or again with less time.
                    let now = seen.borrow_and_update().clone();
                    let asked = Instant::now() + now.grace();
                    if now.ending() && asked < deadline {
                        deadline = asked;
                        let stop = if main { &self.runners.stop_main } else { &self.runners.stop_others };
                        stop.send_replace(Some(deadline));
                    }
                }
                () = tokio::time::sleep_until(deadline + KILL_LIMIT * 2) => {
                    tasks.abort_all();
                    for inside in self.inside.iter().flatten() {
                        inside.process.signal(Signal::SIGKILL);
                    }
                    break;
                }
            }
        }
        while let Ok((index, change)) = self.runners.hear.try_recv() {
            self.apply(index, change);
        }
    }

    /// Gives the network back.
    async fn release(&mut self) {
        if let Some(sandbox) = self.sandbox.take() {
            self.handle.net.send_replace(None);
            sandbox.destroy(&self.context).await;
            self.view.sandbox = false;
        }
    }

    async fn clean(&mut self) {
        let (cgroup, dir) = (self.pod_cgroup(), self.context.node.path(&self.facts.dir));
        let destroyed = tokio::task::spawn_blocking(move || {
            let destroyed = cgroup.destroy(KILL_LIMIT);
            match std::fs::remove_dir_all(dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!("a pod's directory stays: {e}")
                }
                _ => {}
            }
            destroyed
        });
        if let Ok(Err(e)) = destroyed.await {
            tracing::warn!(pod = self.about.name, "{e}");
        }
        let about = &self.about;
        self.context
            .pods
            .remove(&about.namespace, &about.name, &about.uid);
        self.context
            .node
            .state
            .remove_pod(&about.namespace, &about.name, &about.uid);
    }

    async fn remove_object(&self) {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.about.namespace);
        let mut backoff = Backoff::new();
        let mut params = DeleteParams::default().grace_period(0);
        params.preconditions = Some(Preconditions {
            uid: Some(self.about.uid.clone()),
            resource_version: None,
        });
        while !self.seen.borrow().gone && self.seen.has_changed().is_ok() {
            match api.delete(&self.about.name, &params).await {
                Ok(_) => return,
                // Gone already, or another pod has the name by now.
                Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => return,
                Err(e) => {
                    tracing::warn!(
                        pod = self.about.name,
                        "cannot remove a pod that has ended: {e}"
                    );
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn started_before(pod: &Pod) -> Option<Timestamp> {
    let text = serde_json::to_value(pod.status.as_ref()?.start_time.as_ref()?).ok()?;
    text.as_str()?.parse().ok()
}

fn handle(
    context: &Context,
    about: &About,
    pod: &Arc<Pod>,
    parts: &[(Part, Container)],
) -> PodHandle {
    let container = |c: &Container| {
        let path = context
            .node
            .state
            .container_log(&about.namespace, &about.name, &c.name);
        Arc::new(ContainerHandle {
            name: c.name.clone(),
            log: Log::new(path),
            inside: watch::Sender::new(None),
            input: Default::default(),
            stdin_once: c.stdin_once.unwrap_or(false),
        })
    };
    let (main, init): (Vec<_>, Vec<_>) = parts.iter().partition(|(p, _)| *p == Part::Main);
    PodHandle {
        uid: about.uid.clone(),
        containers: main
            .iter()
            .chain(&init)
            .map(|(_, c)| container(c))
            .collect(),
        net: watch::Sender::new(None),
        object: watch::Sender::new(pod.clone()),
    }
}

/// Conditions that others set, as the object has them now: a merge patch replaces the list.
fn keep_foreign_conditions(status: &mut Value, object: Option<&Value>) {
    const OWN: [&str; 5] = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ];
    let own = |c: &Value| c["type"].as_str().is_some_and(|t| OWN.contains(&t));
    let Some(list) = status["conditions"].as_array() else {
        return;
    };
    let foreign = object
        .and_then(|o| o["conditions"].as_array())
        .into_iter()
        .flatten();
    let foreign = foreign.filter(|c| !own(c)).cloned();
    let all: Vec<Value> = foreign
        .chain(list.iter().filter(|c| own(c)).cloned())
        .collect();
    status["conditions"] = json!(all);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_policies() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"restartPolicy": "Always", "containers": [{"name": "m"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]}})).unwrap();
        let parts: Vec<Part> = parts(&pod).into_iter().map(|(p, _)| p).collect();
        assert_eq!(parts, [Part::Init, Part::Sidecar, Part::Main]);
        assert_eq!(policy(&pod, Part::Init), RestartPolicy::OnFailure);
        assert_eq!(policy(&pod, Part::Sidecar), RestartPolicy::Always);
    }

    #[test]
    fn conditions_of_others_stay() {
        let mut status =
            json!({"conditions": [{"type": "Mine", "status": "old"}, {"type": "Ready"}]});
        let object = json!({"conditions": [{"type": "Mine", "status": "new"}, {"type": "Ready", "status": "x"}]});
        keep_foreign_conditions(&mut status, Some(&object));
        assert_eq!(
            status,
            json!({"conditions": [{"type": "Mine", "status": "new"}, {"type": "Ready"}]})
        );
    }
}
