//! A proxy as a whole: its sockets taken over or bound, its engines, the agent's line, and its end.
use crate::{
    config::Transport,
    control::Control,
    dns, drain, folder,
    handover::{self, Sockets},
    http, kafka, keeper,
    origin::{Datagrams, Origin},
    record,
    store::Store,
    tls, transparent,
    workers::Workers,
};
use std::{
    fs, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle};

const CONTROL: &str = "control.sock";
const HANDOVER: &str = "handover.sock";
/// Threads that serve, unless somebody says so, at most.
const WORKERS: usize = 4;

/// How a proxy runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of the last snapshot.
    pub state: PathBuf,
    /// The folder of the sockets for the agent and for a successor.
    pub run: PathBuf,
    /// Where it listens.
    pub listeners: Vec<Listen>,
    /// Bounds of HTTP.
    pub http: http::Limits,
    /// Bounds of DNS.
    pub dns: dns::Limits,
    /// Bounds of Kafka.
    pub kafka: kafka::Limits,
    /// Bounds of TLS.
    pub tls: tls::Limits,
    /// Records that wait for the agent.
    pub records: usize,
    /// How long what is under way may take at the end.
    pub drain: Duration,
    /// Its sockets take what was meant for others, see [`transparent`].
    pub transparent: bool,
    /// Threads that serve.
    pub workers: usize,
}

impl Config {
    /// The usual bounds.
    #[must_use]
    pub fn new(state: PathBuf, run: PathBuf, listeners: Vec<Listen>) -> Self {
        Self {
            state,
            run,
            listeners,
            http: http::Limits::default(),
            dns: dns::Limits::default(),
            kafka: kafka::Limits::default(),
            tls: tls::Limits::default(),
            records: 4096,
            drain: Duration::from_secs(60),
            transparent: false,
            workers: thread::available_parallelism().map_or(1, |cpus| cpus.get().min(WORKERS)),
        }
    }

    /// Where the agent connects.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.run.join(CONTROL)
    }
}

/// A place where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Name by which a successor knows the socket.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// What comes there.
    pub kind: Kind,
}

/// What comes to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP.
    Http,
    /// DNS.
    Dns(Transport),
    /// Kafka.
    Kafka,
    /// TLS.
    Tls,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct StartError {
    what: String,
    source: io::Error,
}

fn at(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let what = what.into();
    move |source| StartError { what, source }
}

/// A proxy that serves.
pub struct Server {
    /// What is in force.
    pub control: Arc<Control>,
    /// Its sockets' addresses, in the order of [`Config::listeners`].
    pub addresses: Vec<SocketAddr>,
    drainer: drain::Drainer,
    _workers: Workers,
    deadline: Duration,
    line: JoinHandle<()>,
    replaced: oneshot::Receiver<()>,
    giving: keeper::Giving,
}

/// How a proxy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that was under way came to its own end.
    Finished,
    /// Something had to be cut off at the deadline.
    Cut,
}

impl Server {
    /// Starts: takes over the sockets of a proxy that runs in the same folder, or binds its own.
    ///
    /// # Errors
    /// A folder or socket cannot be had.
    pub async fn start(config: Config, origin: Arc<dyn Origin>) -> Result<Self, StartError> {
        let blocking = config.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&blocking)).await;
        let Prepared {
            store,
            taken,
            mut sockets,
        } = prepared.map_err(|error| at("starting")(io::Error::other(error)))??;
        let (recorder, records) = record::channel(config.records);
        let (control, damaged) = Control::new(store, records);
        if let Some(error) = damaged {
            tracing::error!(%error, "without a snapshot nothing is allowed until the agent sends one");
        }
        let (drainer, drain) = drain::channel();
        let workers = Workers::start(config.workers).map_err(at("threads that serve"))?;
        let engines = Engines::new(&config, &control, &origin, &recorder, &drain);
        // From here on only what serves holds the drain.
        drop(drain);
        let mut offered = Sockets::new();
        let mut addresses = Vec::new();
        for (number, listen) in config.listeners.iter().enumerate() {
            let what = || format!("{} at {}", listen.name, listen.address);
            let fd = sockets.remove(&listen.name);
            let fd = fd.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
            let fd = fd.map_err(at(what()))?;
            let copy = fd.try_clone().map_err(at(what()))?;
            offered.insert(listen.name.clone(), copy);
            let served = if listen.kind == Kind::Dns(Transport::Udp) {
                engines.serve_datagrams(fd, workers.one(number))
            } else {
                engines.serve_streams(listen.kind, &fd, &workers)
            };
            addresses.push(served.map_err(at(what()))?);
        }
        let line = listen_to_agent(&config, &control)?;
        if let Some(taken) = taken {
            // An old process that is gone by now needs no word.
            let _ = taken.confirm();
        }
        let copies = copies(&offered).map_err(at("its sockets"))?;
        let replaced = offer(&config, offered)?;
        let giving = keeper::Giving::start(config.run.clone(), copies);
        let giving = giving.map_err(at("a thread for the agent's copies"))?;
        Ok(Self {
            control,
            addresses,
            drainer,
            _workers: workers,
            deadline: config.drain,
            line,
            replaced,
            giving,
        })
    }

    /// Ends when a successor serves in its place.
    pub async fn replaced(&mut self) {
        if (&mut self.replaced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes nothing new and waits until what is under way has ended.
    pub async fn finish(self) -> End {
        // The agent finds the successor at the same path, and keeps no sockets but its.
        self.line.abort();
        drop(self.giving);
        if self.drainer.drain(self.deadline).await {
            End::Finished
        } else {
            End::Cut
        }
    }
}

struct Engines {
    http: http::Engine,
    dns: dns::Engine,
    kafka: kafka::Engine,
    tls: tls::Engine,
    transparent: bool,
}

impl Engines {
    fn new(
        config: &Config,
        control: &Arc<Control>,
        origin: &Arc<dyn Origin>,
        recorder: &record::Recorder,
        drain: &drain::Drain,
    ) -> Self {
        let common = || {
            (
                control.policy(),
                origin.clone(),
                recorder.clone(),
                drain.clone(),
            )
        };
        let (policy, from, to, until) = common();
        let http = http::Engine::new(policy, from, to, config.http, until);
        let (policy, from, to, until) = common();
        let dns = dns::Engine::new(policy, from, control.clone(), to, config.dns, until);
        let (policy, from, to, until) = common();
        let kafka = kafka::Engine::new(policy, from, to, config.kafka, until);
        let (policy, from, to, until) = common();
        let tls = tls::Engine::new(policy, from, to, config.tls, until, http.clone());
        Self {
            http,
            dns,
            kafka,
            tls,
            transparent: config.transparent,
        }
    }

    /// Serves datagrams on one thread; the result is the socket's address.
    fn serve_datagrams(&self, fd: OwnedFd, worker: &Handle) -> io::Result<SocketAddr> {
        let socket = UdpSocket::from(fd);
        let address = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        let _inside = worker.enter();
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let socket: Arc<dyn Datagrams> = if self.transparent {
            Arc::new(transparent::Datagrams::new(socket))
        } else {
            Arc::new(socket)
        };
        let dns = self.dns.clone();
        worker.spawn(async move { dns.run_udp(socket).await });
        Ok(address)
    }

    /// Serves connections on all threads, each on the one that accepts it; the result is the listener's address.
    fn serve_streams(&self, kind: Kind, fd: &OwnedFd, workers: &Workers) -> io::Result<SocketAddr> {
        let listener = TcpListener::from(fd.try_clone()?);
        listener.set_nonblocking(true)?;
        for worker in workers.all() {
            let _inside = worker.enter();
            let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
            let (http, dns) = (self.http.clone(), self.dns.clone());
            let (kafka, tls) = (self.kafka.clone(), self.tls.clone());
            worker.spawn(async move {
                match kind {
                    Kind::Http => http.run(listener).await,
                    Kind::Dns(_) => dns.run_tcp(listener).await,
                    Kind::Kafka => kafka.run(listener).await,
                    Kind::Tls => tls.run(listener).await,
                }
            });
        }
        listener.local_addr()
    }
}

struct Prepared {
    store: Store,
    taken: Option<handover::Taken>,
    sockets: Sockets,
}

fn prepare(config: &Config) -> Result<Prepared, StartError> {
    let shown = |path: &Path| path.display().to_string();
    folder::private(&config.run).map_err(at(shown(&config.run)))?;
    let store = Store::open(&config.state).map_err(at(shown(&config.state)))?;
    let mut taken = handover::take(&config.run.join(HANDOVER)).unwrap_or_else(|error| {
        tracing::warn!(%error, "the old process does not hand over its sockets");
        None
    });
    let mut old = match &mut taken {
        Some(taken) => std::mem::take(&mut taken.sockets),
        None => kept(config),
    };
    let mut sockets = Sockets::new();
    for listen in &config.listeners {
        let fd = match old.remove(&listen.name) {
            Some(fd) => fd,
            None => bind(listen, config.transparent)
                .map_err(at(format!("{} at {}", listen.name, listen.address)))?,
        };
        sockets.insert(listen.name.clone(), fd);
    }
    Ok(Prepared {
        store,
        taken,
        sockets,
    })
}

/// The sockets of a process that was killed.
fn kept(config: &Config) -> Sockets {
    let kept = keeper::ask(&config.run).unwrap_or_else(|error| {
        tracing::warn!(%error, "the agent does not hand over what it keeps");
        None
    });
    kept.unwrap_or_default()
}

fn copies(sockets: &Sockets) -> io::Result<Sockets> {
    let copy = |(name, fd): (&String, &OwnedFd)| Ok((name.clone(), fd.try_clone()?));
    sockets.iter().map(copy).collect()
}

fn bind(listen: &Listen, transparent: bool) -> io::Result<OwnedFd> {
    let datagrams = listen.kind == Kind::Dns(Transport::Udp);
    match (transparent, datagrams) {
        (false, false) => TcpListener::bind(listen.address).map(Into::into),
        (false, true) => UdpSocket::bind(listen.address).map(Into::into),
        (true, false) => transparent::listen(listen.address),
        (true, true) => transparent::datagrams(listen.address),
    }
}

/// A unix socket in the place of whatever is there.
fn fresh(path: &Path) -> Result<UnixListener, StartError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(at(path.display().to_string())(error));
        }
        _ => {}
    }
    UnixListener::bind(path).map_err(at(path.display().to_string()))
}

fn listen_to_agent(config: &Config, control: &Arc<Control>) -> Result<JoinHandle<()>, StartError> {
    let path = config.control();
    let listener = fresh(&path)?;
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixListener::from_std(listener))
        .map_err(at(path.display().to_string()))?;
    Ok(tokio::spawn(control.clone().serve(listener)))
}

/// Offers the sockets to a successor, in a thread of its own since it may wait for ever.
fn offer(config: &Config, sockets: Sockets) -> Result<oneshot::Receiver<()>, StartError> {
    let listener = fresh(&config.run.join(HANDOVER))?;
    let (sender, replaced) = oneshot::channel();
    let work = move || {
        if handover::offer(&listener, sockets).is_ok() {
            let _ = sender.send(());
        }
    };
    let thread = std::thread::Builder::new().name("handover".into());
    thread
        .spawn(work)
        .map_err(at("a thread for the handover"))?;
    Ok(replaced)
}
