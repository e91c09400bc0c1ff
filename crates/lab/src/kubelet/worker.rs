//! The life of one pod on a node, from the first sight of its object to the object's removal.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Context;
use super::plan::{self, Facts, Waiting};
use super::runner::{Change, RestartPolicy, Runner};
use super::sandbox::{Backoff, Sandbox, SandboxError};
use super::status::{Ended, PodView, Slot, State};
use crate::init::container::ContainerSpec;
use crate::state::{ContainerRecord, PodRecord};

/// How long the end of killed processes may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const DEFAULT_GRACE: i64 = 30;

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
}

pub(super) struct Worker {
    context: Arc<Context>,
    seen: watch::Receiver<Seen>,
    namespace: String,
    name: String,
    uid: String,
    view: PodView,
    written: Option<Value>,
    specs: Vec<Option<ContainerSpec>>,
    sandbox: Option<Sandbox>,
    events: u32,
}

fn containers(pod: &Pod) -> &[Container] {
    pod.spec
        .as_ref()
        .map(|s| s.containers.as_slice())
        .unwrap_or_default()
}

fn host_network(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .and_then(|s| s.host_network)
        .unwrap_or(false)
}

impl Worker {
    pub(super) fn new(context: Arc<Context>, seen: watch::Receiver<Seen>) -> Worker {
        let pod = seen.borrow().pod.clone();
        let image = |c: &Container| c.image.clone().unwrap_or_default();
        let slots: Vec<Slot> = containers(&pod)
            .iter()
            .map(|c| Slot::new(&c.name, &image(c), Slot::creating()))
            .collect();
        let host_ips = context.node.addresses.clone();
        Worker {
            specs: slots.iter().map(|_| None).collect(),
            view: PodView {
                slots,
                ips: Vec::new(),
                host_ips,
                seen: Timestamp::now(),
            },
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            written: None,
            sandbox: None,
            events: 0,
            context,
            seen,
        }
    }

    pub(super) async fn run(mut self) {
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut changes = None;
        if self.prepare().await {
            changes = Some(self.start(&mut tasks, &stopping));
        }
        self.follow(changes.as_mut()).await;
        let _ = stop.send(true);
        self.stop_containers(&mut tasks, changes.as_mut()).await;
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

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    /// Makes what the containers need. False when the pod ends first, or cannot run at all.
    async fn prepare(&mut self) -> bool {
        let pod = self.pod();
        let over = pod
            .status
            .as_ref()
            .and_then(|s| s.phase.as_deref())
            .is_some_and(|p| p == "Succeeded" || p == "Failed");
        if over || self.seen.borrow().ending() {
            return false;
        }
        if let Some(waiting) = plan::unsupported(&pod) {
            self.refuse_all(waiting).await;
            return false;
        }
        if host_network(&pod) {
            self.view.ips = self.context.node.addresses.clone();
            return true;
        }
        self.make_sandbox().await
    }

    async fn refuse_all(&mut self, waiting: Waiting) {
        self.event("Warning", "Failed", &waiting.message).await;
        for slot in &mut self.view.slots {
            slot.state = State::Waiting(waiting.clone());
        }
        self.write_status().await;
    }

    /// Tries until it succeeds. False when the pod ends first.
    async fn make_sandbox(&mut self) -> bool {
        let mut backoff = Backoff::new();
        let mut last = String::new();
        for attempt in 0.. {
            if self.seen.borrow().ending() {
                return false;
            }
            match Sandbox::create(
                &self.context,
                &self.namespace,
                &self.name,
                &self.uid,
                attempt,
            )
            .await
            {
                Ok(sandbox) => {
                    self.view.ips.clone_from(&sandbox.ips);
                    self.sandbox = Some(sandbox);
                    return true;
                }
                Err(e) => self.sandbox_failed(&e, &mut last).await,
            }
            let ended = self.ended();
            if tokio::time::timeout(backoff.next(), ended).await.is_ok() {
                return false;
            }
        }
        false
    }

    async fn sandbox_failed(&mut self, error: &SandboxError, last: &mut String) {
        let message = format!("Failed to create pod sandbox: {error}");
        tracing::info!(
            pod = format!("{}/{}", self.namespace, self.name),
            "{message}"
        );
        // The same again and again says nothing new.
        if *last != message {
            self.event("Warning", "FailedCreatePodSandBox", &message)
                .await;
            self.write_status().await;
            *last = message;
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            node: self.context.node.name.clone(),
            host_ip: self.context.node.addresses.first().copied(),
            pod_ips: self.view.ips.clone(),
            netns: self.sandbox.as_ref().map(|s| s.netns.clone()),
        }
    }

    /// Starts every container; what they do comes through the channel.
    fn start(
        &mut self,
        tasks: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) -> mpsc::UnboundedReceiver<(usize, Change)> {
        let (changes, hear) = mpsc::unbounded_channel();
        let (pod, facts) = (self.pod(), self.facts());
        let policy =
            RestartPolicy::parse(pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()));
        for (index, container) in containers(&pod).iter().enumerate() {
            let log =
                self.context
                    .node
                    .state
                    .container_log(&self.namespace, &self.name, &container.name);
            // The log of an earlier pod of this name.
            let _ = std::fs::remove_file(&log);
            match plan::container(&pod, container, &facts) {
                Err(waiting) => self.view.slots[index].state = State::Waiting(waiting),
                Ok(spec) => {
                    self.specs[index] = Some(spec.clone());
                    let (node, changes, stop) =
                        (self.context.node.clone(), changes.clone(), stop.clone());
                    tasks.spawn(
                        Runner {
                            node,
                            index,
                            spec,
                            log,
                            policy,
                            changes,
                            stop,
                        }
                        .run(),
                    );
                }
            }
        }
        hear
    }

    /// Keeps the status current until the pod ends.
    async fn follow(&mut self, mut changes: Option<&mut mpsc::UnboundedReceiver<(usize, Change)>>) {
        self.report_refused().await;
        let ended = self.ended();
        tokio::pin!(ended);
        loop {
            self.write_status().await;
            let change = async {
                match &mut changes {
                    Some(changes) => changes.recv().await,
                    None => None,
                }
            };
            tokio::select! {
                () = &mut ended => return,
                change = change => match change {
                    Some((index, change)) => self.apply(index, change),
                    // All containers ended for good, or none could start: only the pod's end is left to come.
                    None => {
                        self.release_if_over().await;
                        return ended.await;
                    }
                },
            }
            while let Some(Ok((index, change))) = changes.as_mut().map(|c| c.try_recv()) {
                self.apply(index, change);
            }
        }
    }

    /// A pod that is over gives its addresses back at once; its object stays.
    async fn release_if_over(&mut self) {
        let over = matches!(self.view.phase(), "Succeeded" | "Failed");
        if let Some(sandbox) = self.sandbox.take_if(|_| over) {
            sandbox.destroy(&self.context).await;
        }
    }

    async fn report_refused(&mut self) {
        let waiting = |s: &Slot| match &s.state {
            State::Waiting(w) if !w.message.is_empty() => {
                Some(format!("{}: {}", w.reason, w.message))
            }
            _ => None,
        };
        let messages: Vec<String> = self.view.slots.iter().filter_map(waiting).collect();
        for message in messages {
            self.event("Warning", "Failed", &message).await;
        }
    }

    fn apply(&mut self, index: usize, change: Change) {
        let slot = &mut self.view.slots[index];
        match change {
            Change::Created(process) => slot.process = Some(process),
            Change::Running(since) => slot.state = State::Running(since),
            Change::Exited {
                code,
                message,
                started,
                finished,
                again,
            } => {
                let ended = Ended {
                    code,
                    message,
                    started,
                    finished,
                };
                slot.process = None;
                slot.state = match again {
                    None => State::Ended(ended),
                    Some(pause) => {
                        slot.restarts += 1;
                        let message = format!(
                            "back-off {pause:?} restarting container {} of pod {}",
                            slot.name, self.name
                        );
                        slot.last = Some(ended);
                        State::Waiting(Waiting {
                            reason: "CrashLoopBackOff",
                            message,
                        })
                    }
                };
            }
        }
        self.write_record();
    }

    /// What `exec` needs to know.
    fn write_record(&self) {
        let slots = self.view.slots.iter().zip(&self.specs);
        let containers = slots.filter_map(|(slot, spec)| {
            let (process, spec) = (slot.process.clone()?, spec.as_ref()?);
            let cgroup = self.pod_cgroup().child(&slot.name).path().to_owned();
            Some(ContainerRecord {
                name: slot.name.clone(),
                process,
                cgroup,
                env: spec.env.clone(),
                dir: spec.dir.clone(),
            })
        });
        let record = PodRecord {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            node: self.context.node.name.clone(),
            containers: containers.collect(),
        };
        if let Err(e) = self.context.node.state.write_pod(&record) {
            tracing::warn!("{e:#}");
        }
    }

    fn pod_cgroup(&self) -> crate::cgroup::Cgroup {
        self.context
            .node
            .cgroup()
            .child("kubepods")
            .child(&format!("pod{}", self.uid))
    }

    async fn write_status(&mut self) {
        let status = self.view.json(self.written.as_ref(), Timestamp::now());
        if self.written.as_ref() == Some(&status) || self.seen.borrow().gone {
            return;
        }
        let patch = json!({"metadata": {"uid": self.uid}, "status": status});
        match self
            .api()
            .patch_status(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => self.written = Some(status),
            Err(e) => tracing::warn!(pod = self.name, "cannot write the status of a pod: {e}"),
        }
    }

    /// SIGTERM, then after the grace period SIGKILL.
    async fn stop_containers(
        &mut self,
        tasks: &mut JoinSet<()>,
        mut changes: Option<&mut mpsc::UnboundedReceiver<(usize, Change)>>,
    ) {
        for process in self.view.slots.iter().filter_map(|s| s.process.as_ref()) {
            process.signal(Signal::SIGTERM);
        }
        let grace = self.seen.borrow().grace();
        let all_done = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all_done).await.is_err() {
            while let Some(Ok((index, change))) = changes.as_mut().map(|c| c.try_recv()) {
                self.apply(index, change);
            }
            for process in self.view.slots.iter().filter_map(|s| s.process.as_ref()) {
                process.signal(Signal::SIGKILL);
            }
            let all_done = async { while tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(KILL_LIMIT, all_done).await;
            tasks.abort_all();
        }
    }

    async fn clean(&mut self) {
        if let Some(sandbox) = self.sandbox.take() {
            sandbox.destroy(&self.context).await;
        }
        let cgroup = self.pod_cgroup();
        let destroyed = tokio::task::spawn_blocking(move || cgroup.destroy(KILL_LIMIT)).await;
        if let Ok(Err(e)) = destroyed {
            tracing::warn!(pod = self.name, "{e}");
        }
        self.context
            .node
            .state
            .remove_pod(&self.namespace, &self.name, &self.uid);
    }

    async fn remove_object(&self) {
        let mut backoff = Backoff::new();
        let mut params = DeleteParams::default().grace_period(0);
        params.preconditions = Some(Preconditions {
            uid: Some(self.uid.clone()),
            resource_version: None,
        });
        while !self.seen.borrow().gone {
            match self.api().delete(&self.name, &params).await {
                Ok(_) => return,
                // Gone already, or another pod has the name by now.
                Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => return,
                Err(e) => {
                    tracing::warn!(pod = self.name, "cannot remove a pod that has ended: {e}")
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn event(&mut self, kind: &str, reason: &str, message: &str) {
        self.events += 1;
        let now = super::status::time(Timestamp::now());
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{}.{}.{}", self.name, self.uid.split('-').next().unwrap_or_default(), self.events), "namespace": self.namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": self.name, "namespace": self.namespace, "uid": self.uid},
            "type": kind, "reason": reason, "message": message, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": "kubelet", "host": self.context.node.name}, "reportingComponent": "kubelet",
            "reportingInstance": self.context.node.name,
        });
        let Ok(event) = serde_json::from_value(event) else {
            return;
        };
        let api: Api<k8s_openapi::api::core::v1::Event> =
            Api::namespaced(self.context.client.clone(), &self.namespace);
        if let Err(e) = api.create(&Default::default(), &event).await {
            tracing::warn!(
                pod = self.name,
                "cannot write an event ({reason}: {message}): {e}"
            );
        }
    }
}
