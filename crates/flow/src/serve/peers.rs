//! The nodes that serve flows, for relays.
use super::Stream;
use api::hubble::peer::{
    ChangeNotification, ChangeNotificationType, NotifyRequest, Tls, peer_server,
};
use futures::{StreamExt as _, stream};
use model::{Node, Tables};
use runtime::stop::Stop;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};
use tables::Read as _;
use tonic::{Request, Response, Status};

/// The cluster whose name is left out.
const DEFAULT_CLUSTER: &str = "default";

/// The service `Peer`: every node of the table, and what changes of them.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tables: Tables,
    cluster: String,
    /// Port of all nodes; none: not known, the usual one.
    port: Option<u16>,
    tls: bool,
    prefer_ipv6: bool,
    stop: Stop,
}

/// Name of a node in messages about nodes: without the cluster where that is `default`.
#[must_use]
pub fn peer_name(cluster: &str, node: &str) -> String {
    match cluster {
        "" | DEFAULT_CLUSTER => node.to_owned(),
        cluster => format!("{cluster}/{node}"),
    }
}

/// Name in the certificate of a node.
#[must_use]
pub fn server_name(cluster: &str, node: &str) -> String {
    let label = |text: &str| text.replace('.', "-");
    let cluster = match cluster {
        "" => DEFAULT_CLUSTER,
        cluster => cluster,
    };
    format!("{}.{}.hubble-grpc.cilium.io", label(node), label(cluster))
}

/// What of a node is told: name → address.
type Known = BTreeMap<String, String>;

impl Peers {
    /// Tells of the nodes in `tables`, which all listen on `port`, with certificates if `tls`.
    #[must_use]
    pub fn new(
        tables: Tables,
        cluster: &str,
        port: Option<u16>,
        tls: bool,
        prefer_ipv6: bool,
        stop: Stop,
    ) -> Self {
        Self(Arc::new(Inner {
            tables,
            cluster: cluster.to_owned(),
            port,
            tls,
            prefer_ipv6,
            stop,
        }))
    }

    fn address(&self, node: &Node) -> Option<String> {
        let preferred = self.0.prefer_ipv6;
        let ip = node
            .address(preferred)
            .or_else(|| node.address(!preferred))?;
        Some(match self.0.port {
            Some(port) => SocketAddr::new(ip, port).to_string(),
            None => ip.to_string(),
        })
    }

    fn notification(
        &self,
        node: &str,
        address: &str,
        kind: ChangeNotificationType,
    ) -> ChangeNotification {
        let cluster = &self.0.cluster;
        let tls = self.0.tls.then(|| Tls {
            server_name: server_name(cluster, node),
        });
        ChangeNotification {
            name: peer_name(cluster, node),
            address: address.to_owned(),
            r#type: kind as i32,
            tls,
        }
    }

    /// What the table says that `known` does not, and the other way round.
    fn changes(
        &self,
        snapshot: &tables::Snapshot,
        known: &mut Known,
    ) -> VecDeque<ChangeNotification> {
        use ChangeNotificationType::{PeerAdded, PeerDeleted, PeerUpdated};
        let nodes = self.0.tables.nodes.iter(snapshot);
        let now: Known = nodes
            .filter_map(|node| Some((node.name.clone(), self.address(node)?)))
            .collect();
        let mut out = VecDeque::new();
        for (name, address) in known.iter().filter(|(name, _)| !now.contains_key(*name)) {
            out.push_back(self.notification(name, address, PeerDeleted));
        }
        for (name, address) in &now {
            match known.get(name) {
                None => out.push_back(self.notification(name, address, PeerAdded)),
                Some(before) if before != address => {
                    out.push_back(self.notification(name, address, PeerUpdated));
                }
                Some(_) => {}
            }
        }
        *known = now;
        out
    }
}

#[tonic::async_trait]
impl peer_server::Peer for Peers {
    type NotifyStream = Stream<ChangeNotification>;

    async fn notify(
        &self,
        _: Request<NotifyRequest>,
    ) -> Result<Response<Self::NotifyStream>, Status> {
        let state = (self.clone(), Known::new(), VecDeque::new(), None);
        let stream = stream::unfold(
            state,
            |(peers, mut known, mut ready, mut seen)| async move {
                loop {
                    if let Some(next) = ready.pop_front() {
                        return Some((Ok(next), (peers, known, ready, seen)));
                    }
                    let tables = &peers.0.tables;
                    if let Some(revision) = seen {
                        let changed = tables.nodes.watch().changed(revision);
                        peers.0.stop.or(changed).await?;
                    }
                    let snapshot = tables.db.snapshot();
                    seen = Some(snapshot.revision());
                    ready = peers.changes(&snapshot, &mut known);
                }
            },
        );
        Ok(Response::new(stream.boxed()))
    }
}
