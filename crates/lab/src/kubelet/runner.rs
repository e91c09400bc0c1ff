//! One container: started, probed, watched, ended, and started again as its restart policy says.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Context;
use super::events::About;
use super::handle::{ContainerHandle, Input};
use super::images::{self, Image};
use super::logs::Stream;
use super::plan::{self, Facts, Waiting, termination_file};
use super::probe::Asker;
use super::prober::{Prober, Said};
use super::process::{self, Inside, Output};
use super::restart::{FIRST_DELAY, LONGEST_DELAY, RestartPolicy, Restarts, humane};
use super::starter::FirstProcess;
use super::status::Ended;
use super::volumes::References;
use crate::init::container::{ContainerSpec, Message, exit_code};

/// Before a container whose description or image is wrong is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long the API server may take to say what a container that ran before refers to by now.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the end of killed processes may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// The longest last words.
const MESSAGE: usize = 4096;

/// What happened to a container.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// It cannot start yet.
    Waiting(Waiting),
    /// It runs.
    Running {
        id: String,
        since: Timestamp,
        inside: Inside,
        /// It has no startup probe.
        started: bool,
        /// It has no readiness probe.
        ready: bool,
    },
    /// The startup probe succeeded.
    Started,
    /// The readiness probe changed its mind.
    Ready(bool),
    /// It ended; it starts again after this time.
    Exited {
        ended: Ended,
        again: Option<Duration>,
    },
}

/// When and how a container is ended: the instant after which it is killed.
pub(super) type Stop = watch::Receiver<Option<Instant>>;

/// A container's process and its surroundings.
pub(super) struct Runner {
    pub(super) context: Arc<Context>,
    pub(super) about: About,
    pub(super) pod: watch::Receiver<Arc<Pod>>,
    pub(super) container: Container,
    pub(super) facts: Facts,
    pub(super) netns: Option<PathBuf>,
    pub(super) volumes: std::collections::BTreeMap<String, PathBuf>,
    pub(super) cgroup: crate::cgroup::Cgroup,
    pub(super) handle: Arc<ContainerHandle>,
    pub(super) policy: RestartPolicy,
    pub(super) index: usize,
    pub(super) changes: mpsc::UnboundedSender<(usize, Change)>,
    pub(super) stop: Stop,
    /// What was run last.
    pub(super) planned: Option<ContainerSpec>,
}

/// Why a running container is to end.
enum Cause {
    /// By itself.
    Exit(std::process::ExitStatus),
    /// The pod ends.
    Stop,
    /// It does not live any more, as its probe says, or its hook failed.
    Dead(String),
}

impl Runner {
    /// Runs until the container ended for good or the pod stops.
    pub(super) async fn run(mut self) {
        let mut restarts = Restarts::new(self.context.longest_pause);
        loop {
            let Some((spec, reference)) = self.prepare().await else {
                return;
            };
            let began = Instant::now();
            let (ended, killed) = self.once(&spec, &reference).await;
            let stopping = self.stop.borrow().is_some();
            let again = !stopping
                && (self.policy.again(ended.code) || killed && self.policy != RestartPolicy::Never);
            let pause = again.then(|| restarts.next(began.elapsed()));
            self.tell(Change::Exited {
                ended,
                again: pause,
            });
            let Some(pause) = pause else { return };
            if !pause.is_zero() {
                self.back_off(pause);
            }
            if self.stopped_within(pause).await {
                return;
            }
        }
    }

    fn back_off(&self, pause: Duration) {
        let (name, about) = (&self.container.name, &self.about);
        let which = format!(
            "restarting failed container={name} pod={}_{}({})",
            about.name, about.namespace, about.uid
        );
        self.tell(Change::Waiting(Waiting {
            reason: "CrashLoopBackOff",
            message: format!("back-off {} {which}", humane(pause)),
        }));
        let message = format!("Back-off {which}");
        self.context
            .events
            .warning(about, Some(name), "BackOff", message);
    }

    fn tell(&self, change: Change) {
        // The pod's worker is gone only when the supervisor stops.
        let _ = self.changes.send((self.index, change));
    }

    fn normal(&self, reason: &'static str, message: String) {
        self.context
            .events
            .normal(&self.about, Some(&self.container.name), reason, message);
    }

    fn warning(&self, reason: &'static str, message: String) {
        self.context
            .events
            .warning(&self.about, Some(&self.container.name), reason, message);
    }

    /// True when the pod stops before the time is over.
    async fn stopped_within(&mut self, pause: Duration) -> bool {
        let stopped = self.stop.wait_for(Option::is_some);
        tokio::time::timeout(pause, stopped).await.is_ok()
    }

    /// What to run, once image and description are right. `None` when the pod stops before.
    async fn prepare(&mut self) -> Option<(ContainerSpec, String)> {
        let reference = self.container.image.clone().unwrap_or_default();
        let mut failures = 0_u32;
        loop {
            if self.stop.borrow().is_some() {
                return None;
            }
            let waiting = match self.plan(&reference).await {
                Ok(spec) => {
                    self.planned = Some(spec.clone());
                    self.normal(
                        "Pulled",
                        format!("Container image {reference:?} already present on machine"),
                    );
                    return Some((spec, reference));
                }
                Err(waiting) => waiting,
            };
            let image = waiting.reason == "ErrImagePull";
            let message = if image {
                format!("Failed to pull image {reference:?}: {}", waiting.message)
            } else {
                format!("Error: {}", waiting.message)
            };
            self.warning("Failed", message);
            let pause = if image {
                (FIRST_DELAY * 2_u32.saturating_pow(failures)).min(LONGEST_DELAY)
            } else {
                RETRY
            };
            failures += 1;
            self.tell(Change::Waiting(waiting.clone()));
            if image {
                // Said first what is wrong, then what is being done about it.
                if self.stopped_within(RETRY.min(pause)).await {
                    return None;
                }
                let text = format!("Back-off pulling image {reference:?}");
                self.normal("BackOff", text.clone());
                self.tell(Change::Waiting(Waiting {
                    reason: "ImagePullBackOff",
                    message: format!("{text}: ErrImagePull: {}", waiting.message),
                }));
            }
            if self.stopped_within(pause).await {
                return None;
            }
        }
    }

    fn image(&self, reference: &str) -> Result<Image, Waiting> {
        let added = images::added(&self.context.objects.images).map_err(|e| Waiting {
            reason: "ErrImagePull",
            message: format!("{e:#}"),
        })?;
        images::resolve(reference, &added, exists)
    }

    async fn plan(&self, reference: &str) -> Result<ContainerSpec, Waiting> {
        let image = self.image(reference)?;
        let pod = self.pod.borrow().clone();
        let (wanted, known) = (References::of_environments(&pod), Default::default());
        let read = self.context.objects.sources(&pod, &wanted, &known);
        // An API server that is away keeps nothing from starting again as it was.
        let patience = self.planned.as_ref().map_or(Duration::MAX, |_| PATIENCE);
        let read = tokio::time::timeout(patience, read).await;
        let silent = matches!(
            read,
            Err(_) | Ok(Err(kube::Error::Service(_) | kube::Error::HyperError(_)))
        );
        if let (true, Some(planned)) = (silent, &self.planned) {
            return Ok(planned.clone());
        }
        let sources = read
            .map_err(|_| "no answer".to_owned())
            .and_then(|read| read.map_err(|e| e.to_string()))
            .map_err(|e| plan::config_error(format!("cannot read what the pod refers to: {e}")))?;
        let mut spec = plan::container(
            &pod,
            &self.container,
            &image,
            &self.facts,
            &sources,
            &self.volumes,
        )?;
        if image.tools {
            // The program itself is gone for a moment while it is rebuilt.
            let tools = self.context.tools.iter();
            let there = tools.filter(|b| self.context.node.path(&b.from).is_file());
            spec.root.binds.extend(there.cloned());
        }
        if image.own {
            spec.root.binds.extend(self.context.own.iter().cloned());
        }
        Ok(spec)
    }

    /// Runs it once: how it ended, and whether the kubelet ended it.
    async fn once(&mut self, spec: &ContainerSpec, reference: &str) -> (Ended, bool) {
        let since = Timestamp::now();
        let id = new_id();
        let result = self.run_instance(spec, &id, since).await;
        self.handle.inside.send_replace(None);
        self.handle.set_input(None);
        self.handle.log.end();
        let not_started = result.is_err();
        let (code, killed, message) = match result {
            Ok((code, killed)) => (code, killed, self.last_words(code)),
            Err(e) => {
                let text = format!("{e:#}");
                self.warning(
                    "Failed",
                    format!(
                        "Error: failed to start container {:?}: {text}",
                        self.container.name
                    ),
                );
                tracing::info!(
                    pod = self.about.name,
                    container = self.container.name,
                    image = reference,
                    "{text}"
                );
                (128, false, Some(text))
            }
        };
        let ended = Ended {
            code,
            not_started,
            message,
            started: since,
            finished: Timestamp::now(),
            id: Some(id),
            again: false,
        };
        (ended, killed)
    }

    fn last_words(&self, code: i32) -> Option<String> {
        let path = self
            .context
            .node
            .path(termination_file(&self.facts.dir, &self.container.name));
        let said = std::fs::read(path).unwrap_or_default();
        if !said.is_empty() {
            return Some(String::from_utf8_lossy(&said[..said.len().min(MESSAGE)]).into_owned());
        }
        let from_log =
            self.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        (from_log && code != 0)
            .then(|| self.handle.log.tail(80, 2048))
            .filter(|t| !t.is_empty())
    }

    /// The error says why it could not start; else exit code, and whether the kubelet ended it.
    async fn run_instance(
        &mut self,
        spec: &ContainerSpec,
        id: &str,
        since: Timestamp,
    ) -> anyhow::Result<(i32, bool)> {
        let name = self.container.name.clone();
        let message = self
            .context
            .node
            .path(termination_file(&self.facts.dir, &name));
        if let Some(dir) = message.parent() {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        std::fs::write(&message, "").context("cannot make the file for the last words")?;
        self.handle.log.begin().context("cannot open the log")?;
        let node = &self.context.node;
        let started = process::start(
            node,
            &self.context.starter,
            self.netns.as_deref(),
            &self.cgroup,
            spec,
        )
        .await?;
        self.normal("Created", format!("Created container: {name}"));
        let mut first = started.process;
        let (hear, say) = started.control.into_split();
        let mut tasks = JoinSet::new();
        let terminal = copy_output(&mut tasks, started.output, &self.handle);
        let input = terminal.or_else(|| {
            spec.process
                .stdin
                .then(|| Input::Pipe(Arc::new(tokio::sync::Mutex::new(say))))
        });
        if let Err(e) = wait_running(hear, spec.direct).await {
            // It ends by itself then.
            let _ = tokio::time::timeout(KILL_LIMIT, first.wait()).await;
            return Err(e);
        }
        let inside = Inside {
            process: first.id.clone(),
            cgroup: self.cgroup.clone(),
            how: spec.process.clone(),
        };
        self.handle.set_input(input);
        self.handle.inside.send_replace(Some(inside.clone()));
        self.normal("Started", format!("Started container {name}"));
        let (status, killed) = self.accompany(&mut first, id, since, inside).await?;
        // All processes are gone, so the output has an end.
        let rest = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(KILL_LIMIT, rest).await;
        Ok((exit_code(status), killed))
    }

    /// From the start of a run to its end.
    async fn accompany(
        &mut self,
        first: &mut FirstProcess,
        id: &str,
        since: Timestamp,
        inside: Inside,
    ) -> anyhow::Result<(std::process::ExitStatus, bool)> {
        let running = Change::Running {
            id: id.to_owned(),
            since,
            inside: inside.clone(),
            started: self.container.startup_probe.is_none(),
            ready: self.container.readiness_probe.is_none(),
        };
        let hooks = self.container.lifecycle.clone().unwrap_or_default();
        if let Some(hook) = &hooks.post_start {
            // The container counts as running only when its hook is through.
            let asked = self.asker(&inside).hook(hook).await;
            if let Err(e) = asked {
                self.warning("FailedPostStartHook", format!("PostStartHook failed: {e}"));
                let cause = Cause::Dead("failed its postStart hook".into());
                return self.end(first, cause, &inside).await;
            }
        }
        self.tell(running);
        let (say, mut hear) = mpsc::unbounded_channel();
        let mut probes = JoinSet::new();
        probes.spawn(self.prober(&inside).run(say));
        let mut stop = self.stop.clone();
        let cause = loop {
            tokio::select! {
                status = first.wait() => break Cause::Exit(status),
                _ = async { drop(stop.wait_for(Option::is_some).await) } => break Cause::Stop,
                Some(said) = hear.recv() => match said {
                    Said::Started => self.tell(Change::Started),
                    Said::Ready(ready) => self.tell(Change::Ready(ready)),
                    Said::Dead(probe) => break Cause::Dead(format!("failed {probe} probe, will be restarted")),
                },
            }
        };
        drop(probes);
        self.end(first, cause, &inside).await
    }

    async fn end(
        &mut self,
        first: &mut FirstProcess,
        cause: Cause,
        inside: &Inside,
    ) -> anyhow::Result<(std::process::ExitStatus, bool)> {
        let name = &self.container.name;
        let deadline = match cause {
            Cause::Exit(status) => {
                return Ok((status, false));
            }
            Cause::Stop => {
                self.normal("Killing", format!("Stopping container {name}"));
                None
            }
            Cause::Dead(why) => {
                self.normal("Killing", format!("Container {name} {why}"));
                let grace = self
                    .pod
                    .borrow()
                    .spec
                    .as_ref()
                    .and_then(|s| s.termination_grace_period_seconds);
                Some(
                    Instant::now()
                        + Duration::from_secs(grace.and_then(|g| g.try_into().ok()).unwrap_or(30)),
                )
            }
        };
        let hook = self
            .container
            .lifecycle
            .as_ref()
            .and_then(|l| l.pre_stop.clone());
        let mut stop = self.stop.clone();
        let late = until(&mut stop, deadline);
        tokio::pin!(late);
        if let Some(hook) = hook {
            let asked = tokio::select! {
                asked = async { self.asker(inside).hook(&hook).await } => asked,
                () = &mut late => Err("its time is over".to_owned()),
                status = first.wait() => return Ok((status, true)),
            };
            if let Err(e) = asked {
                self.warning("FailedPreStopHook", format!("PreStopHook failed: {e}"));
            }
        }
        inside.process.signal(Signal::SIGTERM);
        tokio::select! {
            status = first.wait() => return Ok((status, true)),
            () = &mut late => {}
        }
        inside.process.signal(Signal::SIGKILL);
        let ended = tokio::time::timeout(KILL_LIMIT, first.wait()).await;
        let status = ended.map_err(|_| anyhow!("the container's processes do not end"))?;
        Ok((status, true))
    }

    fn asker<'a>(&'a self, inside: &'a Inside) -> Asker<'a> {
        Asker {
            node: &self.context.node,
            container: &self.container,
            inside,
            ip: self.ip(),
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        self.facts.pod_ips.first().copied()
    }

    fn prober(&self, inside: &Inside) -> Prober {
        Prober {
            context: self.context.clone(),
            about: self.about.clone(),
            container: self.container.clone(),
            inside: inside.clone(),
            ip: self.ip(),
        }
    }
}

/// Resolves at the deadline, or at the one of the pod's end, which may still change.
async fn until(stop: &mut Stop, own: Option<Instant>) {
    loop {
        let asked = *stop.borrow_and_update();
        let at = match (own, asked) {
            (Some(own), Some(asked)) => own.min(asked),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => Instant::now() + LONGEST_DELAY,
        };
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            changed = stop.changed() => if changed.is_err() {
                return tokio::time::sleep_until(at).await;
            }
        }
    }
}

/// The host has a program.
pub(super) fn exists(program: &str) -> bool {
    std::env::split_paths(plan::DEFAULT_PATH).any(|dir| dir.join(program).is_file())
}

fn new_id() -> String {
    let mut bytes = [0_u8; 32];
    // Without randomness the id is still one; nothing depends on it being secret.
    let _ = std::fs::File::open("/dev/urandom")
        .and_then(|mut f| std::io::Read::read_exact(&mut f, &mut bytes));
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("lab://{hex}")
}

/// Hears from the first process whether the command runs; `direct`: whether it has become the command.
async fn wait_running(hear: OwnedReadHalf, direct: bool) -> anyhow::Result<()> {
    let mut lines = BufReader::new(hear).lines();
    let line = lines.next_line().await.ok().flatten();
    if direct && line.is_none() {
        return Ok(());
    }
    let line = line.context("the container's first process ended before it started the command")?;
    match serde_json::from_str(&line)
        .context("the container's first process said something unknown")?
    {
        Message::Running => Ok(()),
        Message::Failed { message } => Err(anyhow!(message)),
    }
}

/// Copies what a container writes to its log; the terminal, if it has one.
fn copy_output(
    tasks: &mut JoinSet<()>,
    output: Output,
    handle: &Arc<ContainerHandle>,
) -> Option<Input> {
    match output {
        Output::Pipes(out, err) => {
            tasks.spawn(copy(out, Stream::Stdout, handle.clone()));
            tasks.spawn(copy(err, Stream::Stderr, handle.clone()));
            None
        }
        Output::Terminal(terminal) => {
            let (from, handle) = (terminal.clone(), handle.clone());
            tasks.spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                while let Ok(n @ 1..) = from.read(&mut buffer).await {
                    handle.log.write(Stream::Stdout, &buffer[..n]);
                }
            });
            Some(Input::Terminal(terminal))
        }
    }
}

async fn copy(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    stream: Stream,
    handle: Arc<ContainerHandle>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        handle.log.write(stream, &buffer[..n]);
    }
}
