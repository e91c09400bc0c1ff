//! The kubelet's side of its node's starter, see [`crate::init::starter`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::node::Node;
use crate::init::starter::{Make, Request, Told, receive, send};
use crate::proc::ProcId;
use crate::supervisor::server::MALLOC;

/// How often a process whose starter is gone is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// A node's starter, which is started when it is needed first, and again should it end.
pub(crate) struct Starter {
    node: Arc<Node>,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
}

/// A starter that runs, or has run.
struct Link {
    socket: UnixStream,
    /// `None` once it has ended.
    waiting: Mutex<Option<Waiting>>,
    /// Killed when dropped.
    _process: Child,
}

/// Who waits for what.
#[derive(Default)]
struct Waiting {
    number: u64,
    made: BTreeMap<u64, oneshot::Sender<Result<Option<FirstProcess>, String>>>,
    ends: BTreeMap<i32, oneshot::Sender<ExitStatus>>,
}

/// A container's first process. Killed when dropped before its end.
#[derive(Debug)]
pub(crate) struct FirstProcess {
    pub(crate) id: ProcId,
    end: oneshot::Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

impl FirstProcess {
    /// Waits for its end. Where the starter ended before it, nobody can tell how it ended: it counts as killed.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        let status = match (&mut self.end).await {
            Ok(status) => status,
            Err(_) => {
                while self.id.alive() {
                    tokio::time::sleep(LOOK).await;
                }
                ExitStatus::from_raw(Signal::SIGKILL as i32)
            }
        };
        self.status = Some(status);
        status
    }
}

impl Drop for FirstProcess {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.id.signal(Signal::SIGKILL);
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the node's starter has ended")
}

impl Starter {
    pub(crate) fn new(node: Arc<Node>) -> Starter {
        Starter {
            node,
            link: tokio::sync::Mutex::default(),
        }
    }

    /// Makes a network namespace that stays at a path of the node.
    pub(crate) async fn network(&self, at: PathBuf) -> io::Result<()> {
        self.ask(Make::Network(at), &[]).await.map(drop)
    }

    /// Starts a container's first process with these standard streams, in the network namespace `net` of the node or in the
    /// node's own.
    pub(crate) async fn process(
        &self,
        net: Option<&Path>,
        streams: [OwnedFd; 3],
    ) -> io::Result<FirstProcess> {
        let make = Make::Process(net.map(Path::to_owned));
        let made = self.ask(make, &streams).await?;
        made.ok_or_else(|| io::Error::other("the node's starter made no process"))
    }

    async fn ask(&self, make: Make, with: &[OwnedFd]) -> io::Result<Option<FirstProcess>> {
        let link = self.link().await?;
        let (tell, hear) = oneshot::channel();
        let number = {
            let mut waiting = link.waiting();
            let waiting = waiting.as_mut().ok_or_else(gone)?;
            waiting.number += 1;
            waiting.made.insert(waiting.number, tell);
            waiting.number
        };
        let request = Request { number, make };
        let send = || send(&link.socket, &request, with);
        link.socket.async_io(Interest::WRITABLE, send).await?;
        hear.await.map_err(|_| gone())?.map_err(io::Error::other)
    }

    /// The one that runs, or a new one.
    async fn link(&self) -> io::Result<Arc<Link>> {
        let mut link = self.link.lock().await;
        if let Some(running) = link.as_ref().filter(|link| link.waiting().is_some()) {
            return Ok(running.clone());
        }
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let mut command = Command::from(crate::init::command("starter").map_err(io::Error::other)?);
        command
            .current_dir("/")
            .env(crate::init::LAB_ENV, self.node.lab.as_str())
            .env_remove(MALLOC.0)
            .stdin(theirs)
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let made = Arc::new(Link {
            socket: UnixStream::from_std(ours.into())?,
            waiting: Mutex::new(Some(Waiting::default())),
            _process: self.node.spawn(command).await?,
        });
        tokio::spawn(listen(made.clone()));
        *link = Some(made.clone());
        Ok(made)
    }
}

impl Link {
    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes on what a starter tells, until it ends.
async fn listen(link: Arc<Link>) {
    let receive = || receive::<Told>(&link.socket);
    while let Ok(Some((told, _))) = link.socket.async_io(Interest::READABLE, receive).await {
        if let Some(waiting) = link.waiting().as_mut() {
            waiting.hear(told);
        }
    }
    *link.waiting() = None;
}

impl Waiting {
    fn hear(&mut self, told: Told) {
        let (number, answer) = match told {
            Told::Ended { pid, status } => {
                if let Some(tell) = self.ends.remove(&pid) {
                    // Who does not wait for it any more has killed it.
                    let _ = tell.send(ExitStatus::from_raw(status));
                }
                return;
            }
            Told::Network { number } => (number, Ok(None)),
            Told::Failed { number, message } => (number, Err(message)),
            Told::Process { number, pid } => (number, self.began(pid).map(Some)),
        };
        if let Some(tell) = self.made.remove(&number) {
            // A process that nobody wants any more is dropped here, and killed so.
            let _ = tell.send(answer);
        }
    }

    fn began(&mut self, pid: i32) -> Result<FirstProcess, String> {
        let id = ProcId::of(pid).ok_or("the container's first process ended at once")?;
        let (tell, end) = oneshot::channel();
        self.ends.insert(pid, tell);
        Ok(FirstProcess {
            id,
            end,
            status: None,
        })
    }
}
