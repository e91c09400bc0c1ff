//! The service `Observer` whose flows are written by hand: a flow's message would be made only to be taken apart again, with what
//! thousands of flows have in common copied for each.
use super::{NodeServer, Stream, flows::Reading};
use api::hubble::observer::{GetFlowsRequest, observer_server::ObserverServer};
use futures::future::BoxFuture;
use prost::{
    Message as _,
    bytes::{BufMut as _, Bytes},
};
use std::{
    convert::Infallible,
    task::{Context, Poll},
};
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, NamedService, ServerStreamingService},
};

/// Where flows are asked for.
const GET_FLOWS: &str = "/observer.Observer/GetFlows";

/// The whole service.
#[derive(Clone, Debug)]
pub(super) struct Service {
    server: NodeServer,
    others: ObserverServer<NodeServer>,
}

impl Service {
    pub fn new(server: NodeServer) -> Self {
        Self {
            others: ObserverServer::new(server.clone()),
            server,
        }
    }
}

impl NamedService for Service {
    const NAME: &'static str = <ObserverServer<NodeServer> as NamedService>::NAME;
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != GET_FLOWS {
            return self.others.call(request);
        }
        let server = self.server.clone();
        Box::pin(async move { Ok(Grpc::new(Bytewise).server_streaming(server, request).await) })
    }
}

impl ServerStreamingService<GetFlowsRequest> for NodeServer {
    type Response = Bytes;
    type ResponseStream = Stream<Bytes>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<GetFlowsRequest>) -> Self::Future {
        let answer = self.written(&request.into_inner());
        Box::pin(async move { Ok(Response::new(answer?)) })
    }
}

impl NodeServer {
    /// What a request for flows gets: each message as its bytes.
    ///
    /// # Errors
    /// The request makes no sense.
    pub fn written(&self, request: &GetFlowsRequest) -> Result<Stream<Bytes>, Status> {
        Ok(Reading::written(self.observer.clone(), request)?.stream(self.stop.clone()))
    }
}

/// Answers are bytes already.
#[derive(Clone, Copy, Debug)]
struct Bytewise;

impl Codec for Bytewise {
    type Encode = Bytes;
    type Decode = GetFlowsRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytewise {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for Bytewise {
    type Item = GetFlowsRequest;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<GetFlowsRequest>, Status> {
        let request = GetFlowsRequest::decode(from);
        let wrong = |error| Status::invalid_argument(format!("not a GetFlowsRequest: {error}"));
        request.map(Some).map_err(wrong)
    }
}
