//! The relay's answers.
use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use api::hubble::observer::observer_client::ObserverClient;
use api::hubble::observer::observer_server::Observer;
use api::hubble::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
    GetNodesRequest, GetNodesResponse, Namespace, Node, ServerStatusRequest, ServerStatusResponse,
    Tls,
};
use api::hubble::relay::NodeState;
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::flows;
use super::pool::{Peer, Pool};

/// How long a node may take for an answer that all others' wait for.
const LIMIT: Duration = Duration::from_secs(2);

/// Names of nodes that are away, as many as are told.
const AWAY: usize = 10;

/// Answers that wait for their reader.
const UNREAD: usize = 64;

/// All nodes as one observer.
#[derive(Clone, Debug)]
pub struct Relay {
    pool: Pool,
    name: String,
    version: String,
}

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Relay {
    /// The nodes of a pool; `name` is the relay's own.
    #[must_use]
    pub fn new(pool: Pool, name: String) -> Self {
        Self {
            pool,
            name,
            version: format!("hubble-relay v{}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// Asks all nodes the same: each with its answer, if it gave one in time.
    async fn ask<T>(
        &self,
        question: impl AsyncFn(ObserverClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Vec<(Peer, Option<T>)> {
        let question = &question;
        let all = self.pool.peers().into_iter().map(|peer| async move {
            let answer = match &peer.channel {
                Some(channel) => {
                    let client = ObserverClient::new(channel.clone());
                    let client = client.max_decoding_message_size(flows::LARGEST);
                    timeout(LIMIT, question(client)).await
                }
                None => Ok(Err(Status::unavailable("not connected"))),
            };
            let answer = answer.ok().and_then(Result::ok).map(Response::into_inner);
            (peer, answer)
        });
        join_all(all).await
    }

    async fn status(&self) -> ServerStatusResponse {
        let found = self
            .ask(async |mut node| node.server_status(ServerStatusRequest {}).await)
            .await;
        let mut sum = ServerStatusResponse {
            version: self.version.clone(),
            ..ServerStatusResponse::default()
        };
        let (mut connected, mut away) = (0, 0);
        for (peer, status) in found {
            let Some(status) = status else {
                away += 1;
                if sum.unavailable_nodes.len() < AWAY {
                    sum.unavailable_nodes.push(peer.name);
                }
                continue;
            };
            connected += 1;
            sum.num_flows += status.num_flows;
            sum.max_flows += status.max_flows;
            sum.seen_flows += status.seen_flows;
            sum.uptime_ns = sum.uptime_ns.max(status.uptime_ns);
            sum.flows_rate += status.flows_rate;
        }
        sum.num_connected_nodes = Some(connected);
        sum.num_unavailable_nodes = Some(away);
        sum
    }
}

fn node((peer, status): (Peer, Option<ServerStatusResponse>)) -> Node {
    let state = match (&peer.channel, &status) {
        (Some(_), Some(_)) => NodeState::NodeConnected,
        (Some(_), None) => NodeState::NodeError,
        (None, _) => NodeState::NodeUnavailable,
    };
    let status = status.unwrap_or_default();
    Node {
        name: peer.name,
        version: status.version,
        address: peer.address,
        state: state.into(),
        tls: Some(Tls {
            enabled: peer.server_name.is_some(),
            server_name: peer.server_name.unwrap_or_default(),
        }),
        uptime_ns: status.uptime_ns,
        num_flows: status.num_flows,
        max_flows: status.max_flows,
        seen_flows: status.seen_flows,
    }
}

#[tonic::async_trait]
impl Observer for Relay {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        if request.first && request.follow {
            return Err(Status::invalid_argument(
                "first and follow exclude each other",
            ));
        }
        let (answers, read) = mpsc::channel(UNREAD);
        let request = flows::Request::new(self.pool.clone(), self.name.clone(), request);
        tokio::spawn(request.answer(answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(read))))
    }

    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented(
            "a relay has no agent events; ask a node's own observer",
        ))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented(
            "a relay has no debug events; ask a node's own observer",
        ))
    }

    async fn get_nodes(
        &self,
        _: Request<GetNodesRequest>,
    ) -> Result<Response<GetNodesResponse>, Status> {
        let found = self
            .ask(async |mut node| node.server_status(ServerStatusRequest {}).await)
            .await;
        Ok(Response::new(GetNodesResponse {
            nodes: found.into_iter().map(node).collect(),
        }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let found = self
            .ask(async |mut node| node.get_namespaces(GetNamespacesRequest {}).await)
            .await;
        let all: BTreeSet<(String, String)> = found
            .into_iter()
            .filter_map(|(_, answer)| answer)
            .flat_map(|answer| answer.namespaces)
            .map(|one| (one.cluster, one.namespace))
            .collect();
        let namespaces = all
            .into_iter()
            .map(|(cluster, namespace)| Namespace { cluster, namespace })
            .collect();
        Ok(Response::new(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        Ok(Response::new(self.status().await))
    }
}
