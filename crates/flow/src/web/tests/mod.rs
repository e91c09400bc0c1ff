//! The page's server with flows of a made-up cluster behind it: real connections, a real browser.
mod browser;
mod page;
mod requests;
mod slow;
mod world;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use api::hubble::observer::get_flows_response::ResponseTypes;
use api::hubble::observer::observer_server::Observer;
use api::hubble::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
    GetNodesRequest, GetNodesResponse, Node, ServerStatusRequest, ServerStatusResponse,
};
use api::hubble::relay::{NodeState, NodeStatusEvent};
use runtime::stop::{self, Stopper};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use self::world::World;
use super::policy::{Found, Named, Policies};
use super::{Limits, serve};
use crate::filter::Filters;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How a relay of a test behaves.
#[derive(Clone, Copy)]
enum Manner {
    /// Has so many recorded flows and goes on with some every tenth of a second.
    Lively { recorded: u64 },
    /// Goes on without a pause.
    Endless,
    /// Refuses every request for flows in this way.
    Refuses(tonic::Code, &'static str),
}

/// Objects of policies: one is there, one cannot be read.
struct Objects;

impl Policies for Objects {
    fn object<'a>(&'a self, policy: &'a Named) -> Found<'a> {
        let found = match policy.name.as_str() {
            "only-checkout-pays" => Ok(Some(json!({
                "apiVersion": "cilium.io/v2", "kind": policy.kind,
                "metadata": {"name": policy.name, "namespace": policy.namespace},
                "spec": {"endpointSelector": {"matchLabels": {"app": "payments"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "checkout"}}]}]},
            }))),
            "secret" => Err("it is forbidden".to_owned()),
            _ => Ok(None),
        };
        Box::pin(std::future::ready(found))
    }
}

/// A relay of a test.
#[derive(Clone)]
struct Recorded {
    world: Arc<World>,
    manner: Manner,
    asked: Arc<Mutex<Vec<GetFlowsRequest>>>,
}

impl Recorded {
    fn new(world: World, manner: Manner) -> Self {
        Self {
            world: Arc::new(world),
            manner,
            asked: Arc::default(),
        }
    }

    /// Its page, until the stopper is dropped.
    async fn serve(&self, limits: Limits) -> (SocketAddr, Stopper) {
        let (stopper, stop) = stop::channel();
        let any = "127.0.0.1:0".parse().unwrap();
        let policies = Some(Arc::new(Objects) as Arc<dyn Policies>);
        let at = serve(self.clone(), policies, any, limits, &stop)
            .await
            .unwrap();
        (at, stopper)
    }

    async fn answer(
        self,
        request: GetFlowsRequest,
        send: mpsc::Sender<Result<GetFlowsResponse, Status>>,
    ) {
        let filters = Filters::compile(&request.whitelist, &request.blacklist).unwrap();
        let now = SystemTime::now();
        let recorded = match self.manner {
            Manner::Lively { recorded } => recorded,
            _ => 0,
        };
        let first = NodeStatusEvent {
            state_change: NodeState::NodeConnected.into(),
            node_names: vec!["default/worker-1".to_owned()],
            message: String::new(),
        };
        let first = GetFlowsResponse {
            response_types: Some(ResponseTypes::NodeStatus(first)),
            node_name: "relay".to_owned(),
            time: Some(now.into()),
        };
        let _ = send.send(Ok(first)).await;
        let mut number = 0;
        loop {
            let (time, pause) = if number < recorded {
                let age = Duration::from_millis((recorded - number) * 5);
                (now.checked_sub(age).unwrap_or(now), false)
            } else if !request.follow {
                return;
            } else {
                let pause = matches!(self.manner, Manner::Lively { .. }) && number % 7 == 0;
                (SystemTime::now(), pause)
            };
            if pause {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let response = self.world.flow(number, time.into());
            number += 1;
            let wanted = match &response.response_types {
                Some(ResponseTypes::Flow(flow)) => filters.passes(flow),
                _ => false,
            };
            if wanted && send.send(Ok(response)).await.is_err() {
                return;
            }
            if !wanted && send.is_closed() {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl Observer for Recorded {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        if let Manner::Refuses(code, text) = self.manner {
            return Err(Status::new(code, text));
        }
        let request = request.into_inner();
        self.asked.lock().unwrap().push(request.clone());
        let (send, receive) = mpsc::channel(64);
        tokio::spawn(self.clone().answer(request, send));
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
        let node = |number: u32| Node {
            name: format!("default/worker-{number}"),
            state: NodeState::NodeConnected.into(),
            ..Node::default()
        };
        Ok(Response::new(GetNodesResponse {
            nodes: (1..=3).map(node).collect(),
        }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        Ok(Response::new(ServerStatusResponse {
            num_flows: 12_285,
            max_flows: 12_285,
            num_connected_nodes: Some(3),
            num_unavailable_nodes: Some(0),
            flows_rate: 70.0,
            ..ServerStatusResponse::default()
        }))
    }
}
