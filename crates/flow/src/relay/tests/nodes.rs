//! Nodes and a service that tells of them, as real servers in this process.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::hubble::flow::Flow;
use api::hubble::observer::get_flows_response::ResponseTypes;
use api::hubble::observer::observer_server::{Observer, ObserverServer};
use api::hubble::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
    GetNodesRequest, GetNodesResponse, Namespace, ServerStatusRequest, ServerStatusResponse,
};
use api::hubble::peer::peer_server::Peer;
use api::hubble::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest};
use prost_types::Timestamp;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use super::LONG;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How a node of a test behaves.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// Seconds of the flows that it has.
    pub recorded: Vec<i64>,
    /// Before each of them.
    pub pause: Duration,
    /// Answers to nothing.
    pub silent: bool,
    /// What it says to every request for flows.
    pub refuses: Option<(Code, &'static str)>,
}

/// A node.
#[derive(Clone)]
pub struct Node {
    pub name: &'static str,
    pub manner: Manner,
    pub live: broadcast::Sender<i64>,
    pub asked: Arc<Mutex<Vec<GetFlowsRequest>>>,
}

fn flow(node: &str, second: i64) -> GetFlowsResponse {
    let time = Some(Timestamp {
        seconds: second,
        nanos: 0,
    });
    let flow = Flow {
        time,
        node_name: format!("default/{node}"),
        ..Flow::default()
    };
    GetFlowsResponse {
        response_types: Some(ResponseTypes::Flow(flow)),
        node_name: format!("default/{node}"),
        time,
    }
}

#[tonic::async_trait]
impl Observer for Node {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        self.asked.lock().unwrap().push(request.clone());
        if let Some((code, text)) = self.manner.refuses {
            return Err(Status::new(code, text));
        }
        let (send, receive) = mpsc::channel(1);
        let (node, mut live) = (self.clone(), self.live.subscribe());
        tokio::spawn(async move {
            if node.manner.silent {
                send.closed().await;
                return;
            }
            let since = request
                .since
                .map_or(i64::MIN, |time| time.seconds + i64::from(time.nanos > 0));
            for second in node.manner.recorded.iter().filter(|at| **at >= since) {
                sleep(node.manner.pause).await;
                if send.send(Ok(flow(node.name, *second))).await.is_err() {
                    return;
                }
            }
            if !request.follow {
                return;
            }
            loop {
                let next = tokio::select! {
                    next = live.recv() => next,
                    () = send.closed() => return,
                };
                match next {
                    Ok(second) if send.send(Ok(flow(node.name, second))).await.is_ok() => {}
                    _ => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_nodes(
        &self,
        _: Request<GetNodesRequest>,
    ) -> Result<Response<GetNodesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let of = |namespace: &str| Namespace {
            cluster: "default".to_owned(),
            namespace: namespace.to_owned(),
        };
        Ok(Response::new(GetNamespacesResponse {
            namespaces: vec![of("shared"), of(self.name)],
        }))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        if self.manner.silent {
            sleep(LONG).await;
        }
        Ok(Response::new(ServerStatusResponse {
            num_flows: 10,
            max_flows: 4095,
            seen_flows: 100,
            uptime_ns: self.name.len() as u64,
            version: "cilium v1".to_owned(),
            flows_rate: 1.5,
            ..ServerStatusResponse::default()
        }))
    }
}

/// A server of a node. It has threads of its own: when they end, connections break as when a node dies.
pub struct Served {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Served {
    pub fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.die();
    }
}

impl Node {
    pub fn new(name: &'static str, manner: Manner) -> Self {
        Self {
            name,
            manner,
            live: broadcast::Sender::new(64),
            asked: Arc::default(),
        }
    }

    pub async fn serve(&self, at: &str) -> Served {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (node, at) = (self.clone(), at.to_owned());
        let (send, receive) = oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(at).await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            let (_, health) = tonic_health::server::health_reporter();
            Server::builder()
                .add_service(health)
                .add_service(ObserverServer::new(node))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Served {
            address: receive.await.unwrap(),
            runtime: Some(runtime),
        }
    }
}

/// A service that tells of nodes.
#[derive(Clone)]
pub struct Directory {
    pub peers: watch::Sender<BTreeMap<&'static str, SocketAddr>>,
}

#[tonic::async_trait]
impl Peer for Directory {
    type NotifyStream = Answers<ChangeNotification>;

    async fn notify(
        &self,
        _: Request<NotifyRequest>,
    ) -> Result<Response<Self::NotifyStream>, Status> {
        let (send, receive) = mpsc::channel(8);
        let mut peers = self.peers.subscribe();
        tokio::spawn(async move {
            let mut told: BTreeMap<&str, SocketAddr> = BTreeMap::new();
            loop {
                let now = peers.borrow_and_update().clone();
                let mut changes = Vec::new();
                for (name, address) in &now {
                    let kind = match told.get(name) {
                        None => ChangeNotificationType::PeerAdded,
                        Some(before) if before != address => ChangeNotificationType::PeerUpdated,
                        Some(_) => continue,
                    };
                    changes.push((*name, *address, kind));
                }
                for (name, address) in told.iter().filter(|(name, _)| !now.contains_key(*name)) {
                    changes.push((name, *address, ChangeNotificationType::PeerDeleted));
                }
                told = now;
                for (name, address, kind) in changes {
                    let change = ChangeNotification {
                        name: name.to_owned(),
                        address: address.to_string(),
                        r#type: kind.into(),
                        tls: None,
                    };
                    if send.send(Ok(change)).await.is_err() {
                        return;
                    }
                }
                if peers.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}
