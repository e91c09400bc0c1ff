//! The flow API of a node.
mod flows;
mod listen;
mod peers;
mod tls;
mod written;

pub(crate) use listen::incoming;
pub use listen::{Listen, ServeError, serve};
pub use peers::{Peers, peer_name, server_name};
pub use tls::{TlsError, TlsFiles};

use crate::observer::{Observer, wall_clock};
use api::hubble::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
    GetNodesRequest, GetNodesResponse, ServerStatusRequest, ServerStatusResponse, observer_server,
};
use flows::Reading;
use futures::stream::BoxStream;
use runtime::stop::Stop;
use tonic::{Request, Response, Status};

/// The service `Observer` of a node.
#[derive(Clone, Debug)]
pub struct NodeServer {
    observer: Observer,
    stop: Stop,
}

impl NodeServer {
    /// Serves what `observer` has, until `stop`.
    #[must_use]
    pub const fn new(observer: Observer, stop: Stop) -> Self {
        Self { observer, stop }
    }
}

type Stream<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl observer_server::Observer for NodeServer {
    type GetFlowsStream = Stream<GetFlowsResponse>;
    type GetAgentEventsStream = Stream<GetAgentEventsResponse>;
    type GetDebugEventsStream = Stream<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let reading = Reading::flows(self.observer.clone(), &request.into_inner())?;
        Ok(Response::new(reading.stream(self.stop.clone())))
    }

    async fn get_agent_events(
        &self,
        request: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        let reading = Reading::agent_events(self.observer.clone(), &request.into_inner())?;
        Ok(Response::new(reading.stream(self.stop.clone())))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented(
            "the programs of this node write no debug events; hypha dbg monitor shows what they do",
        ))
    }

    async fn get_nodes(
        &self,
        _: Request<GetNodesRequest>,
    ) -> Result<Response<GetNodesResponse>, Status> {
        Err(Status::unimplemented(
            "a node knows its own flows alone; ask the relay for the nodes",
        ))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let namespaces = self
            .observer
            .namespaces()
            .list(crate::observer::event_clock());
        Ok(Response::new(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        let status = self.observer.status();
        Ok(Response::new(ServerStatusResponse {
            num_flows: status.flows,
            max_flows: status.capacity,
            seen_flows: status.seen,
            uptime_ns: u64::try_from(status.uptime.as_nanos()).unwrap_or(u64::MAX),
            version: format!("cilium v{}", env!("CARGO_PKG_VERSION")),
            flows_rate: status.rate,
            ..ServerStatusResponse::default()
        }))
    }
}

/// What a request for flows gets, without a server in between.
pub(crate) fn follow(
    observer: Observer,
    request: &GetFlowsRequest,
    stop: Stop,
) -> Result<Stream<GetFlowsResponse>, Status> {
    Ok(Reading::flows(observer, request)?.stream(stop))
}

/// How long it is until a time of a request; none for one that is over.
fn until_then(nanos: u64) -> Option<std::time::Duration> {
    nanos
        .checked_sub(wall_clock())
        .map(std::time::Duration::from_nanos)
}
