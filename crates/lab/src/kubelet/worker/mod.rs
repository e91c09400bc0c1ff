//! The life of one pod on a node, from the first sight of its object to the object's removal.

mod end;
mod setup;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Context;
use super::events::About;
use super::handle::{ContainerHandle, PodHandle};
use super::logs::Log;
use super::plan::{self, Facts};
use super::process::Inside;
use super::restart::RestartPolicy;
use super::runner::{Change, Runner};
use super::sandbox::Sandbox;
use super::status::{Part, PodView, Slot};
use super::volumes::References;
use super::writer::StatusWriter;

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
    /// Held from the beginning until the containers are started: many pods at once start one after another, which takes them as
    /// long in all, but each but the last is sooner there.
    place: Option<OwnedSemaphorePermit>,
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
            writer: StatusWriter::start(
                context.client.clone(),
                about.namespace.clone(),
                about.name.clone(),
                about.uid.clone(),
            ),
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
            place: None,
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
            self.place = None;
            self.stop_containers(end).await;
            if end == End::Over {
                self.release().await;
                self.write_status();
            }
        }
        self.place = None;
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
            planned: None,
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
                    self.place = None;
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
        let before = self.handle.object.send_replace(pod.clone());
        let status = pod.status.as_ref();
        // Somebody ended it from outside: an eviction, or a controller.
        if status.and_then(|s| s.phase.as_deref()) == Some("Failed") && self.view.failed.is_none() {
            let reason = status
                .and_then(|s| s.reason.clone())
                .unwrap_or_else(|| "Failed".into());
            let message = status.and_then(|s| s.message.clone()).unwrap_or_default();
            self.view.failed = Some((reason, message));
        }
        // Nothing else of a pod that changes is shown in its volumes, least of all the status that is written here.
        let shown = |pod: &Pod| {
            (
                pod.metadata.labels.clone(),
                pod.metadata.annotations.clone(),
            )
        };
        let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        if shown(&before) != shown(&pod)
            && volumes.any(|v| v.downward_api.is_some() || v.projected.is_some())
        {
            self.refresh_volumes().await;
        }
        if !self.view.gates.is_empty() {
            self.write_status();
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

#[cfg(test)]
mod tests {
    use serde_json::json;

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
}
