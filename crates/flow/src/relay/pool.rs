//! The nodes that the peer service tells of, and a connection to each that answers.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::hubble::peer::peer_client::PeerClient;
use api::hubble::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::connect::{self, Address, ConnectError, Tls};

/// Where an observer listens if its address has no port.
const PORT: u16 = 4244;

/// How the pool reaches the peer service and the nodes.
#[derive(Clone, Debug)]
pub struct Ways {
    /// The peer service.
    pub peers: Address,
    /// What proves us to the peer service and to nodes; none: nobody talks TLS.
    pub tls: Option<Tls>,
    /// Name in the certificate of the peer service, where it talks TLS.
    pub peers_name: Option<String>,
    /// How long to try to connect.
    pub dial: Duration,
    /// The longest pause before the next try.
    pub retry: Duration,
}

/// What is known of a node's observer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `cluster/node`; the node alone in the cluster `default`.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// The name in its certificate; none: it does not talk TLS.
    pub server_name: Option<String>,
    /// The connection, where there is one.
    pub channel: Option<Channel>,
    /// Counts the connections there have been.
    pub generation: u64,
    /// Why there is none; empty while it was not tried yet.
    pub trouble: String,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    peers: BTreeMap<String, Entry>,
    /// Whether the peer service tells of changes now.
    informed: bool,
}

/// The nodes; cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
    ways: Arc<Ways>,
}

impl Pool {
    /// An empty pool; [`Pool::run`] fills it.
    #[must_use]
    pub fn new(ways: Ways) -> Self {
        Self {
            state: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
            ways: Arc::new(ways),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every node as it is now, in the order of the names.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let state = self.state();
        state
            .peers
            .values()
            .map(|entry| entry.peer.clone())
            .collect()
    }

    /// Whether flows can be had: somebody tells of nodes, and one of them is connected.
    #[must_use]
    pub fn serves(&self) -> bool {
        let state = self.state();
        let connected = |entry: &Entry| entry.peer.channel.is_some();
        state.informed && state.peers.values().any(connected)
    }

    /// Changes whenever a node comes, goes, connects or is lost.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Follows the peer service, for ever; while it is away the nodes stay as it last told them.
    pub async fn run(&self) {
        let mut tasks = JoinSet::new();
        let mut pause = Pause::new(self.ways.retry);
        loop {
            let begun = Instant::now();
            let error = self.follow(&mut tasks).await;
            self.state().informed = false;
            self.tell();
            tracing::warn!(
                "the peer service at {} is away: {error}; nodes stay as they were",
                self.ways.peers
            );
            pause.after(begun).await;
        }
    }

    async fn follow(&self, tasks: &mut JoinSet<()>) -> String {
        let ways = &self.ways;
        // The socket of this node's agent is plain; a service is as its nodes are.
        let tls = ways.tls.clone().map(|tls| Tls {
            server_name: ways.peers_name.clone().or(tls.server_name.clone()),
            ..tls
        });
        let channel = match connect::channel(&ways.peers, tls.as_ref(), ways.dial, true).await {
            Ok(channel) => channel,
            Err(error) => return error.to_string(),
        };
        let mut stream = match PeerClient::new(channel).notify(NotifyRequest {}).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return status.message().to_owned(),
        };
        // Who is not named again has gone meanwhile: the service begins with all that are there.
        let mut before: Vec<String> = self.state().peers.keys().cloned().collect();
        let settled = sleep(SETTLE);
        tokio::pin!(settled);
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(change)) => {
                        before.retain(|name| *name != change.name);
                        self.state().informed = true;
                        self.apply(&change, tasks);
                    }
                    Ok(None) => return "it has closed the connection".to_owned(),
                    Err(status) => return status.message().to_owned(),
                },
                () = &mut settled, if !before.is_empty() => {
                    for name in before.drain(..) {
                        self.remove(&name);
                    }
                }
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    fn apply(&self, change: &ChangeNotification, tasks: &mut JoinSet<()>) {
        let kind = ChangeNotificationType::try_from(change.r#type).unwrap_or_default();
        let server_name = change.tls.as_ref().map(|tls| tls.server_name.clone());
        match kind {
            ChangeNotificationType::PeerDeleted => self.remove(&change.name),
            ChangeNotificationType::PeerAdded | ChangeNotificationType::PeerUpdated => {
                let mut state = self.state();
                let old = state.peers.get(&change.name).map(|entry| &entry.peer);
                let same = old.is_some_and(|peer| {
                    peer.address == change.address && peer.server_name == server_name
                });
                if same {
                    return;
                }
                let peer = Peer {
                    name: change.name.clone(),
                    address: change.address.clone(),
                    server_name,
                    channel: None,
                    generation: old.map_or(0, |peer| peer.generation),
                    trouble: String::new(),
                };
                let task = tasks.spawn(self.clone().keep(peer.clone()));
                if let Some(old) = state
                    .peers
                    .insert(change.name.clone(), Entry { peer, task })
                {
                    old.task.abort();
                }
            }
            ChangeNotificationType::Unknown => {}
        }
        self.tell();
    }

    fn remove(&self, name: &str) {
        if let Some(entry) = self.state().peers.remove(name) {
            entry.task.abort();
        }
        self.tell();
    }

    /// Connects to a node, again and again.
    async fn keep(self, peer: Peer) {
        let mut pause = Pause::new(self.ways.retry);
        loop {
            let begun = Instant::now();
            let trouble = match self.dial(&peer).await {
                Ok(channel) => {
                    tracing::debug!("node {} at {} is connected", peer.name, peer.address);
                    self.update(&peer.name, |peer| {
                        peer.channel = Some(channel.clone());
                        peer.generation += 1;
                        peer.trouble.clear();
                    });
                    watch_health(channel).await
                }
                Err(error) => error.to_string(),
            };
            tracing::debug!("node {} at {} is away: {trouble}", peer.name, peer.address);
            self.update(&peer.name, |peer| {
                peer.channel = None;
                peer.trouble = trouble;
            });
            pause.after(begun).await;
        }
    }

    fn update(&self, name: &str, change: impl FnOnce(&mut Peer)) {
        if let Some(entry) = self.state().peers.get_mut(name) {
            change(&mut entry.peer);
        }
        self.tell();
    }

    async fn dial(&self, peer: &Peer) -> Result<Channel, ConnectError> {
        let address = address(&peer.address).map_err(ConnectError::Name)?;
        let tls = match (&self.ways.tls, &peer.server_name) {
            (Some(tls), Some(name)) => Some(Tls {
                server_name: Some(name.clone()),
                ..tls.clone()
            }),
            (None, Some(_)) => {
                return Err(ConnectError::Name(format!(
                    "{}: it wants TLS, and we have no certificates",
                    peer.address
                )));
            }
            (_, None) => None,
        };
        connect::channel(&address, tls.as_ref(), self.ways.dial, true).await
    }
}

/// How long the peer service may take to name all nodes that are there.
const SETTLE: Duration = Duration::from_secs(5);

/// `IP:port`, or an address alone.
fn address(text: &str) -> Result<Address, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    match text.parse::<std::net::IpAddr>() {
        Ok(ip) => Ok(Address::Tcp(ip.to_string(), PORT)),
        Err(_) => Err(text.to_owned()),
    }
}

/// Looks at a node until it is lost; says why. The stream ends with the connection, which pings keep an eye on.
async fn watch_health(channel: Channel) -> String {
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let stream = HealthClient::new(channel.clone()).watch(request).await;
    let mut stream = match stream {
        Ok(stream) => stream.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return check_health(channel).await,
        Err(status) => return said(&status),
    };
    loop {
        match stream.message().await {
            Ok(Some(health)) if health.status == i32::from(ServingStatus::NotServing) => {
                return "it says that it does not serve".to_owned();
            }
            Ok(Some(_)) => {}
            Ok(None) => return "it has closed the connection".to_owned(),
            Err(status) if status.code() == Code::Unimplemented => {
                return check_health(channel).await;
            }
            Err(status) => return said(&status),
        }
    }
}

/// As [`watch_health`], for servers that have to be asked.
async fn check_health(channel: Channel) -> String {
    let mut health = HealthClient::new(channel);
    loop {
        sleep(Duration::from_secs(5)).await;
        let request = HealthCheckRequest {
            service: String::new(),
        };
        match tokio::time::timeout(Duration::from_secs(5), health.check(request)).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => return said(&status),
            Err(_) => return "no answer in 5 s".to_owned(),
        }
    }
}

fn said(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => connect::innermost(cause),
        None => status.message().to_owned(),
    }
}

/// Pauses between tries: longer each time, short again after something that lasted.
struct Pause {
    next: Duration,
    longest: Duration,
}

const SHORTEST: Duration = Duration::from_millis(250);

impl Pause {
    fn new(longest: Duration) -> Self {
        Self {
            next: SHORTEST.min(longest),
            longest,
        }
    }

    /// Waits; `begun` is when the last try began.
    async fn after(&mut self, begun: Instant) {
        if begun.elapsed() > self.longest {
            *self = Self::new(self.longest);
        }
        sleep(self.next).await;
        self.next = (self.next * 2).min(self.longest);
    }
}
