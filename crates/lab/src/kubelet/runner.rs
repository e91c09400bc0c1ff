//! One container: started, watched, started again as its pod's restart policy says.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};

use super::node::Node;
use crate::init::container::{ContainerSpec, Message, exit_code};
use crate::proc::ProcId;

const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// A container that ran this long starts again without an increased delay.
const STABLE: Duration = Duration::from_secs(10);

/// `restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its exit code.
    Always,
    /// When its exit code is not 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// From the pod's field; the default is to start again.
    pub fn parse(text: Option<&str>) -> RestartPolicy {
        match text {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    fn again(self, code: i32) -> bool {
        match self {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }
}

/// What happened to a container.
#[derive(Clone, Debug)]
pub enum Change {
    /// Its first process exists.
    Created(ProcId),
    /// It runs and is ready.
    Running(Timestamp),
    /// It ended.
    Exited {
        /// Exit code.
        code: i32,
        /// Why it could not start, if so.
        message: Option<String>,
        /// When it started.
        started: Timestamp,
        /// When it ended.
        finished: Timestamp,
        /// It starts again after this time.
        again: Option<Duration>,
    },
}

/// A container's process and its surroundings.
pub struct Runner {
    /// The node.
    pub node: Arc<Node>,
    /// Which container of its pod.
    pub index: usize,
    /// What to run.
    pub spec: ContainerSpec,
    /// Where its output goes.
    pub log: PathBuf,
    /// When to start again.
    pub policy: RestartPolicy,
    /// Where changes are told.
    pub changes: mpsc::UnboundedSender<(usize, Change)>,
    /// True once the pod shall stop.
    pub stop: watch::Receiver<bool>,
}

impl Runner {
    /// Runs until the container ended for good or the pod stops.
    pub async fn run(mut self) {
        let mut delay = FIRST_DELAY;
        loop {
            let (began, started) = (Instant::now(), Timestamp::now());
            let (code, message) = match self.once(started).await {
                Ok(ended) => ended,
                Err(e) => (128, Some(format!("{e:#}"))),
            };
            if began.elapsed() >= STABLE {
                delay = FIRST_DELAY;
            }
            let again = (!*self.stop.borrow() && self.policy.again(code)).then_some(delay);
            self.tell(Change::Exited {
                code,
                message,
                started,
                finished: Timestamp::now(),
                again,
            });
            let Some(pause) = again else { return };
            let stopped = self.stop.wait_for(|stop| *stop);
            if tokio::time::timeout(pause, stopped).await.is_ok() {
                return;
            }
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }

    fn tell(&self, change: Change) {
        // The pod's worker is gone only when the supervisor stops.
        let _ = self.changes.send((self.index, change));
    }

    /// Runs it once: its exit code, and why it could not start.
    async fn once(&mut self, started: Timestamp) -> anyhow::Result<(i32, Option<String>)> {
        let (mut child, mut lines) = self.start().await?;
        let mut failure = None;
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str(&line) {
                Ok(Message::Created { pid }) => ProcId::of(pid)
                    .into_iter()
                    .for_each(|p| self.tell(Change::Created(p))),
                Ok(Message::Running) => self.tell(Change::Running(started)),
                Ok(Message::Failed { message }) => failure = Some(message),
                Err(_) => tracing::warn!(
                    node = self.node.name,
                    line,
                    "a container's shim said something unknown"
                ),
            }
        }
        let status = child
            .wait()
            .await
            .context("cannot wait for the container")?;
        Ok((exit_code(status), failure))
    }

    async fn start(&self) -> anyhow::Result<(Child, Lines<BufReader<ChildStdout>>)> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot open {}", self.log.display()))?;
        let mut command = Command::from(crate::init::command("container")?);
        command.env(crate::init::LAB_ENV, self.node.lab.as_str());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        let mut child = self
            .node
            .spawn(command)
            .context("cannot start the container's shim")?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(&serde_json::to_vec(&self.spec)?)
                .await
                .context("the container's shim ended at once")?;
        }
        let out = child.stdout.take().context("the shim has no output")?;
        Ok((child, BufReader::new(out).lines()))
    }
}
