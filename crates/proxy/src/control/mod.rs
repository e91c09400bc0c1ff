//! The agent's line to the proxy: snapshots come in and are acknowledged, names and records go out.
//!
//! The proxy listens and the agent connects, since the proxy is the one that is always there. Frames of JSON over a unix socket
//! and not gRPC: the line is between two processes of one version and one machine, carries five messages, and an answer to a DNS
//! question waits for a way there and back over it. A newer agent takes the line over from an older one.
pub mod frame;

use crate::{
    config::Snapshot,
    dns::{Learn, Learned},
    policy::Policy,
    record::Records,
    store::{LoadError, Store},
};
use frame::{FromProxy, PROTOCOL, ToProxy};
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot, watch},
};

/// Names that wait for an agent; the oldest give way to new ones.
pub const NAMES_MAX: usize = 10_000;
/// Records in one frame.
const BATCH: usize = 128;
/// How long the line may refuse to take what is written.
const WRITE: Duration = Duration::from_secs(10);

/// What is in force, and what waits for the agent.
pub struct Control {
    policy: watch::Sender<Arc<Policy>>,
    store: Store,
    /// The snapshot in force, to tell a repeated one from a stale one.
    snapshot: AsyncMutex<Snapshot>,
    names: Mutex<Names>,
    more_names: Notify,
    agents: AtomicUsize,
    records: AsyncMutex<Records>,
}

#[derive(Default)]
struct Names {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    lost: u64,
}

struct Waiting {
    learned: Learned,
    since: Instant,
    known: Option<oneshot::Sender<()>>,
}

impl Control {
    /// Begins with the snapshot on disk. One that cannot be read is left out and told of: without any, nothing is allowed.
    #[must_use]
    pub fn new(store: Store, records: Records) -> (Arc<Self>, Option<LoadError>) {
        let (snapshot, error) = match store.load() {
            Ok(snapshot) => (snapshot.unwrap_or_default(), None),
            Err(error) => (Snapshot::default(), Some(error)),
        };
        let policy = Policy::compile(&snapshot, None);
        let control = Self {
            policy: watch::Sender::new(Arc::new(policy)),
            store,
            snapshot: AsyncMutex::new(snapshot),
            names: Mutex::default(),
            more_names: Notify::new(),
            agents: AtomicUsize::new(0),
            records: AsyncMutex::new(records),
        };
        (Arc::new(control), error)
    }

    /// The policy in force, now and later.
    #[must_use]
    pub fn policy(&self) -> watch::Receiver<Arc<Policy>> {
        self.policy.subscribe()
    }

    /// How many names were forgotten since no agent took them.
    #[must_use]
    pub fn lost_names(&self) -> u64 {
        self.names().lost
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a snapshot in force and on disk.
    pub async fn apply(&self, offered: Snapshot) -> FromProxy {
        let mut snapshot = self.snapshot.lock().await;
        if offered.version == snapshot.version && offered == *snapshot {
            let problems = self.policy.borrow().problems().to_vec();
            let version = offered.version;
            return FromProxy::Taken { version, problems };
        }
        if offered.version <= snapshot.version {
            let why = format!(
                "snapshot {} is not newer than {}, which stays",
                offered.version, snapshot.version
            );
            tracing::warn!("{why}");
            let version = snapshot.version;
            return FromProxy::Refused { version, why };
        }
        let (store, previous) = (self.store.clone(), self.policy.borrow().clone());
        let work = tokio::task::spawn_blocking(move || {
            let policy = Policy::compile(&offered, Some(&previous));
            let saved = store.save(&offered);
            (offered, policy, saved)
        });
        let (offered, policy, saved) = match work.await {
            Ok(done) => done,
            Err(error) => {
                let (version, why) = (snapshot.version, format!("cannot compile it: {error}"));
                tracing::error!("{why}");
                return FromProxy::Refused { version, why };
            }
        };
        let mut problems = policy.problems().to_vec();
        if let Err(error) = saved {
            // In force all the same: what it denies must not pass for want of a disk.
            let why = format!(
                "snapshot {} cannot be kept on disk: {error}",
                offered.version
            );
            tracing::error!("{why}");
            problems.push(why);
        }
        let version = offered.version;
        *snapshot = offered;
        self.policy.send_replace(Arc::new(policy));
        FromProxy::Taken { version, problems }
    }

    /// Serves agents, one at a time; the newest takes over.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        let mut current: Option<tokio::task::JoinHandle<()>> = None;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if let Some(older) = current.take() {
                older.abort();
                let _ = older.await;
            }
            let control = self.clone();
            current = Some(tokio::spawn(async move {
                let _here = Here::new(&control.agents);
                if let Err(error) = control.session(stream).await {
                    tracing::warn!(%error, "the line to the agent broke");
                }
            }));
        }
    }

    async fn session(&self, stream: UnixStream) -> io::Result<()> {
        let (mut reader, mut writer) = stream.into_split();
        let version = self.snapshot.lock().await.version;
        let hello = FromProxy::Hello {
            protocol: PROTOCOL,
            version,
        };
        frame::write(&mut writer, &hello).await?;
        match frame::read(&mut reader).await? {
            Some(ToProxy::Hello { protocol: PROTOCOL }) => {}
            other => {
                let why = format!("the agent began with {other:?}, protocol {PROTOCOL} is spoken");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        let (answers, mut to_write) = mpsc::channel(16);
        let listen = async {
            while let Some(bytes) = frame::body(&mut reader).await? {
                let answer = match decode(&bytes) {
                    Ok(ToProxy::Hello { .. }) => continue,
                    Ok(ToProxy::Known { id }) => {
                        self.known(id);
                        continue;
                    }
                    Ok(ToProxy::Snapshot(snapshot)) => self.apply(snapshot).await,
                    Err(why) => {
                        let version = self.snapshot.lock().await.version;
                        tracing::error!("snapshot {version} stays: {why}");
                        FromProxy::Refused { version, why }
                    }
                };
                if answers.send(answer).await.is_err() {
                    break;
                }
            }
            Ok::<(), io::Error>(())
        };
        let tell = async {
            let mut records = self.records.lock().await;
            let mut told = 0;
            loop {
                for message in self.names_after(&mut told) {
                    write(&mut writer, &message).await?;
                }
                let message = tokio::select! {
                    biased;
                    Some(answer) = to_write.recv() => answer,
                    () = self.more_names.notified() => continue,
                    Some(first) = records.next() => batch(first, &mut records),
                    else => return Ok::<(), io::Error>(()),
                };
                write(&mut writer, &message).await?;
            }
        };
        tokio::select! {
            ended = listen => ended,
            ended = tell => ended,
        }
    }

    fn known(&self, id: u64) {
        let waiting = self.names().waiting.remove(&id);
        if let Some(known) = waiting.and_then(|waiting| waiting.known) {
            let _ = known.send(());
        }
    }

    /// Names that this agent has not been told.
    fn names_after(&self, told: &mut u64) -> Vec<FromProxy> {
        let names = self.names();
        let message = |(id, waiting): (&u64, &Waiting)| FromProxy::Names {
            id: *id,
            age: waiting.since.elapsed().as_secs(),
            learned: waiting.learned.clone(),
        };
        let new: Vec<_> = names.waiting.range(*told..).map(message).collect();
        *told = names.next;
        new
    }
}

fn decode(bytes: &[u8]) -> Result<ToProxy, String> {
    let message = serde_json::from_slice(bytes)
        .map_err(|error| format!("what the agent says cannot be understood: {error}"))?;
    if let ToProxy::Snapshot(snapshot) = &message {
        snapshot.check().map_err(|error| error.to_string())?;
    }
    Ok(message)
}

async fn write(
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
    message: &FromProxy,
) -> io::Result<()> {
    let written = tokio::time::timeout(WRITE, frame::write(writer, message)).await;
    written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn batch(first: crate::record::Record, records: &mut Records) -> FromProxy {
    let mut all = vec![first];
    while all.len() < BATCH
        && let Some(next) = records.ready()
    {
        all.push(next);
    }
    FromProxy::Records {
        records: all,
        lost: records.lost(),
    }
}

impl Learn for Control {
    /// Kept until an agent has them. While there is none nobody is waited for.
    fn learned(&self, learned: Learned) -> BoxFuture<'static, ()> {
        let (known, wait) = oneshot::channel();
        {
            let mut names = self.names();
            if names.waiting.len() >= NAMES_MAX {
                names.waiting.pop_first();
                names.lost += 1;
            }
            let id = names.next;
            names.next += 1;
            let waiting = Waiting {
                learned,
                since: Instant::now(),
                known: Some(known),
            };
            names.waiting.insert(id, waiting);
        }
        let listened_to = self.agents.load(Ordering::Relaxed) > 0;
        self.more_names.notify_one();
        Box::pin(async move {
            if listened_to {
                let _ = wait.await;
            }
        })
    }
}

/// An agent is there, until it is dropped.
struct Here<'a>(&'a AtomicUsize);

impl<'a> Here<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The agent's end of the line.
pub struct Line {
    stream: UnixStream,
    /// The snapshot that the proxy had when the line began.
    pub version: u64,
}

impl Line {
    /// Connects.
    ///
    /// # Errors
    /// The proxy is not there, or speaks another protocol.
    pub async fn connect(path: &std::path::Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path).await?;
        let hello = ToProxy::Hello { protocol: PROTOCOL };
        frame::write(&mut stream, &hello).await?;
        match frame::read(&mut stream).await? {
            Some(FromProxy::Hello {
                protocol: PROTOCOL,
                version,
            }) => Ok(Self { stream, version }),
            other => {
                let why = format!("the proxy began with {other:?}, protocol {PROTOCOL} is spoken");
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
        }
    }

    /// Says something.
    ///
    /// # Errors
    /// The line broke.
    pub async fn say(&mut self, message: &ToProxy) -> io::Result<()> {
        frame::write(&mut self.stream, message).await
    }

    /// What the proxy says next; `None` at the end.
    ///
    /// # Errors
    /// The line broke.
    pub async fn hear(&mut self) -> io::Result<Option<FromProxy>> {
        frame::read(&mut self.stream).await
    }

    /// Its two halves, for two tasks.
    #[must_use]
    pub fn split(self) -> (LineReader, LineWriter) {
        let (reader, writer) = self.stream.into_split();
        (LineReader(reader), LineWriter(writer))
    }
}

/// What the proxy says.
pub struct LineReader(OwnedReadHalf);

impl LineReader {
    /// What the proxy says next; `None` at the end. Not to be broken off.
    ///
    /// # Errors
    /// The line broke.
    pub async fn hear(&mut self) -> io::Result<Option<FromProxy>> {
        frame::read(&mut self.0).await
    }
}

/// What the agent says.
pub struct LineWriter(OwnedWriteHalf);

impl LineWriter {
    /// Says something.
    ///
    /// # Errors
    /// The line broke.
    pub async fn say(&mut self, message: &ToProxy) -> io::Result<()> {
        frame::write(&mut self.0, message).await
    }
}
