//! What clients of a node get.
use super::world::{World, event};
use abi::{EventKind, FlowEvent};
use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use hypha_flow::{
    Observer,
    proto::{
        flow::{FlowFilter, LostEventSource, flow_filter},
        observer::{
            GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNodesRequest,
            ServerStatusRequest, get_flows_response::ResponseTypes,
            observer_client::ObserverClient,
        },
        peer::{ChangeNotificationType, NotifyRequest, peer_client::PeerClient},
    },
    record::timestamp,
    serve::{Listen, NodeServer, Peers, serve},
};
use model::Node;
use prost_types::FieldMask;
use runtime::stop::{self, Stopper};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

struct Served {
    world: World,
    channel: Channel,
    stopper: Stopper,
    _directory: tempfile::TempDir,
}

async fn served(capacity: usize) -> Served {
    let world = World::new(capacity);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hubble.sock");
    let (stopper, stop) = stop::channel();
    let server = NodeServer::new(world.observer.clone(), stop.clone());
    let peers = Peers::new(
        world.tables.clone(),
        "default",
        Some(4244),
        true,
        false,
        stop.clone(),
    );
    let listen = Listen {
        socket: Some(path.clone()),
        ..Listen::default()
    };
    serve(server, peers, &listen, &stop).await.unwrap();
    let connect = move |_| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    };
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(connect))
        .await
        .unwrap();
    Served {
        world,
        channel,
        stopper,
        _directory: directory,
    }
}

impl Served {
    fn observer(&self) -> ObserverClient<Channel> {
        ObserverClient::new(self.channel.clone())
    }

    async fn ports(&self, request: GetFlowsRequest) -> Vec<u32> {
        let stream = self
            .observer()
            .get_flows(request)
            .await
            .unwrap()
            .into_inner();
        stream.map(|one| source_port(&one.unwrap())).collect().await
    }
}

/// A packet from this port; odd ones are dropped.
fn from_port(port: u16) -> FlowEvent {
    let kind = if port.is_multiple_of(2) {
        EventKind::Trace
    } else {
        EventKind::Drop
    };
    FlowEvent {
        kind: kind as u8,
        subtype: if port.is_multiple_of(2) { 0 } else { 133 },
        sport: port.to_be_bytes(),
        ..event()
    }
}

fn source_port(response: &GetFlowsResponse) -> u32 {
    use hypha_flow::proto::flow::layer4::Protocol;
    let Some(ResponseTypes::Flow(flow)) = &response.response_types else {
        panic!("{response:?}");
    };
    match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(Protocol::Tcp(tcp)) => tcp.source_port,
        other => panic!("{other:?}"),
    }
}

fn dropped() -> Vec<FlowFilter> {
    vec![FlowFilter {
        verdict: vec![hypha_flow::proto::flow::Verdict::Dropped as i32],
        ..FlowFilter::default()
    }]
}

#[tokio::test]
async fn the_last_and_the_first_that_match() {
    let mut served = served(15).await;
    let events: Vec<_> = (1..=20).map(from_port).collect();
    served.world.feed(&events);
    let last = |number, whitelist| GetFlowsRequest {
        number,
        whitelist,
        ..GetFlowsRequest::default()
    };
    assert_eq!(served.ports(last(3, Vec::new())).await, [18, 19, 20]);
    assert_eq!(served.ports(last(3, dropped())).await, [15, 17, 19]);
    assert_eq!(
        served.ports(last(100, dropped())).await,
        [7, 9, 11, 13, 15, 17, 19]
    );
    let all: Vec<u32> = (6..=20).collect();
    assert_eq!(served.ports(last(0, Vec::new())).await, all);
    let first = GetFlowsRequest {
        first: true,
        ..last(2, Vec::new())
    };
    assert_eq!(served.ports(first).await, [6, 7]);
    let without = GetFlowsRequest {
        blacklist: dropped(),
        ..last(2, Vec::new())
    };
    assert_eq!(served.ports(without).await, [18, 20]);
}

#[tokio::test]
async fn times_bound_what_is_told() {
    let mut served = served(31).await;
    let start = event().time;
    let events: Vec<_> = (1..=10u16)
        .map(|n| FlowEvent {
            time: start + u64::from(n) * 1_000_000_000,
            ..from_port(n)
        })
        .collect();
    served.world.feed(&events);
    let times: Vec<u64> = served
        .world
        .observer
        .last(10)
        .iter()
        .map(|record| record.time)
        .collect();
    let request = GetFlowsRequest {
        since: Some(timestamp(times[3])),
        until: Some(timestamp(times[6])),
        ..GetFlowsRequest::default()
    };
    assert_eq!(served.ports(request.clone()).await, [4, 5, 6, 7]);
    let last = GetFlowsRequest {
        number: 2,
        ..request.clone()
    };
    assert_eq!(served.ports(last).await, [6, 7]);
    let first = GetFlowsRequest {
        number: 2,
        first: true,
        ..request
    };
    assert_eq!(served.ports(first).await, [4, 5]);
}

#[tokio::test]
async fn followers_get_what_comes_and_slow_ones_hear_what_they_missed() {
    let mut served = served(7).await;
    served.world.feed(&[from_port(2), from_port(4)]);
    let follow = GetFlowsRequest {
        number: 1,
        follow: true,
        ..GetFlowsRequest::default()
    };
    let mut stream = served
        .observer()
        .get_flows(follow.clone())
        .await
        .unwrap()
        .into_inner();
    let next = stream.next().await.unwrap().unwrap();
    assert_eq!(source_port(&next), 4);
    served.world.feed(&[from_port(6)]);
    let next = stream.next().await.unwrap().unwrap();
    assert_eq!(source_port(&next), 6);
    // More at once than the ring holds.
    let events: Vec<_> = (10..30).map(from_port).collect();
    served.world.feed(&events);
    let next = stream.next().await.unwrap().unwrap();
    let Some(ResponseTypes::LostEvents(lost)) = next.response_types else {
        panic!("{next:?}");
    };
    assert_eq!(lost.source(), LostEventSource::HubbleRingBuffer);
    assert_eq!(lost.num_events_lost, 13);
    assert_eq!(source_port(&stream.next().await.unwrap().unwrap()), 23);
    // From now on only.
    let now = GetFlowsRequest {
        number: 0,
        ..follow
    };
    let mut fresh = served.observer().get_flows(now).await.unwrap().into_inner();
    served.world.feed(&[from_port(100)]);
    assert_eq!(source_port(&fresh.next().await.unwrap().unwrap()), 100);
    served.stopper.stop();
    let rest: Vec<_> = tokio::time::timeout(Duration::from_secs(20), fresh.collect())
        .await
        .unwrap();
    assert!(rest.iter().all(Result::is_ok), "{rest:?}");
}

#[tokio::test]
async fn losses_are_told_whatever_is_asked_for() {
    let mut served = served(7).await;
    served.world.feeder.begin();
    served.world.feeder.event(&from_port(2));
    served
        .world
        .feeder
        .lost(LostEventSource::PerfEventRingBuffer, 5);
    served.world.feeder.event(&from_port(3));
    served.world.feeder.end();
    let request = GetFlowsRequest {
        whitelist: dropped(),
        first: true,
        ..GetFlowsRequest::default()
    };
    let stream = served
        .observer()
        .get_flows(request)
        .await
        .unwrap()
        .into_inner();
    let got: Vec<_> = stream.map(Result::unwrap).collect().await;
    assert!(
        matches!(&got[0].response_types, Some(ResponseTypes::LostEvents(lost)) if lost.num_events_lost == 5)
    );
    assert_eq!((got.len(), source_port(&got[1])), (2, 3));
}

#[tokio::test]
async fn a_mask_leaves_fields_out() {
    let mut served = served(7).await;
    served.world.feed(&[from_port(2)]);
    let mask = |path: &str| {
        Some(FieldMask {
            paths: vec![path.to_owned()],
        })
    };
    let request = GetFlowsRequest {
        field_mask: mask("source.pod_name"),
        ..GetFlowsRequest::default()
    };
    let stream = served
        .observer()
        .get_flows(request)
        .await
        .unwrap()
        .into_inner();
    let got: Vec<_> = stream.map(Result::unwrap).collect().await;
    let Some(ResponseTypes::Flow(flow)) = &got[0].response_types else {
        panic!()
    };
    assert_eq!(
        (
            flow.source.as_ref().unwrap().pod_name.as_str(),
            flow.verdict
        ),
        ("cart-1", 0)
    );
    let request = GetFlowsRequest {
        field_mask: mask("source.pod"),
        ..GetFlowsRequest::default()
    };
    let refused = served.observer().get_flows(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_makes_no_sense_is_an_invalid_argument() {
    let served = served(7).await;
    let both = GetFlowsRequest {
        first: true,
        follow: true,
        ..GetFlowsRequest::default()
    };
    let filter = FlowFilter {
        source_ip: vec!["10.0.0".into()],
        ..FlowFilter::default()
    };
    let malformed = GetFlowsRequest {
        whitelist: vec![filter],
        ..GetFlowsRequest::default()
    };
    let expression = |text: &str| GetFlowsRequest {
        whitelist: vec![FlowFilter {
            experimental: Some(flow_filter::Experimental {
                cel_expression: vec![text.into()],
            }),
            ..FlowFilter::default()
        }],
        ..GetFlowsRequest::default()
    };
    for (request, says) in [
        (both, "follow"),
        (malformed, "source_ip"),
        (
            expression("_flow.pod == 'x'"),
            "cel_expression: \"_flow.pod == 'x'\": a Flow has no field \"pod\"",
        ),
        (expression("1 +"), "cel_expression"),
    ] {
        let refused = served.observer().get_flows(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(says), "{refused}");
    }
    let refused = served
        .observer()
        .get_nodes(GetNodesRequest {})
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_status_and_the_namespaces() {
    let mut served = served(3).await;
    let events: Vec<_> = (1..=5).map(from_port).collect();
    served.world.feed(&events);
    let status = served
        .observer()
        .server_status(ServerStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.num_flows, status.max_flows, status.seen_flows),
        (3, 3, 5)
    );
    assert!(
        status.flows_rate > 0.0 && status.uptime_ns > 0 && status.version.starts_with("cilium v")
    );
    let listed = served
        .observer()
        .get_namespaces(GetNamespacesRequest {})
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = listed
        .namespaces
        .iter()
        .map(|one| (one.cluster.as_str(), one.namespace.as_str()))
        .collect();
    assert_eq!(names, [("c1", "shop")]);
}

#[tokio::test]
async fn a_thousand_followers_get_everything() {
    let mut served = served(4095).await;
    let follow = GetFlowsRequest {
        follow: true,
        ..GetFlowsRequest::default()
    };
    let mut streams = Vec::new();
    for _ in 0..1000 {
        streams.push(
            served
                .observer()
                .get_flows(follow.clone())
                .await
                .unwrap()
                .into_inner(),
        );
    }
    let events: Vec<_> = (1..=20).map(from_port).collect();
    served.world.feed(&events);
    // All at the same time: they share a connection, and what one does not read the others wait for.
    let read = streams.into_iter().map(|stream| {
        let ports = stream.take(20).map(|one| source_port(&one.unwrap()));
        ports.collect::<Vec<u32>>()
    });
    for ports in futures::future::join_all(read).await {
        assert_eq!(ports, (1..=20).collect::<Vec<u32>>());
    }
}

fn node(name: &str, ip: &str) -> Node {
    Node {
        name: name.into(),
        addresses: vec![ip.parse().unwrap()],
        ..Node::default()
    }
}

#[tokio::test]
async fn relays_hear_of_nodes() {
    let served = served(7).await;
    let tables = served.world.tables.clone();
    let put = |name: &str, ip: &str| {
        let mut txn = tables.db.write();
        tables.nodes.insert(&mut txn, node(name, ip)).unwrap();
        txn.commit();
    };
    put("w.1", "192.0.2.1");
    let mut client = PeerClient::new(served.channel.clone());
    let mut stream = client.notify(NotifyRequest {}).await.unwrap().into_inner();
    let mut next = async || {
        let one = stream.next().await.unwrap().unwrap();
        let name = one.tls.clone().unwrap().server_name;
        (one.r#type(), one.name, one.address, name)
    };
    use ChangeNotificationType::{PeerAdded, PeerDeleted, PeerUpdated};
    let name = "w-1.default.hubble-grpc.cilium.io";
    assert_eq!(
        next().await,
        (
            PeerAdded,
            "w.1".into(),
            "192.0.2.1:4244".into(),
            name.into()
        )
    );
    put("w.1", "192.0.2.9");
    assert_eq!(
        next().await,
        (
            PeerUpdated,
            "w.1".into(),
            "192.0.2.9:4244".into(),
            name.into()
        )
    );
    let mut txn = tables.db.write();
    tables.nodes.delete(&mut txn, "w.1");
    txn.commit();
    assert_eq!(
        next().await,
        (
            PeerDeleted,
            "w.1".into(),
            "192.0.2.9:4244".into(),
            name.into()
        )
    );
}

#[tokio::test]
async fn health_is_told_for_the_whole_and_for_the_observer() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    let served = served(7).await;
    let mut client = HealthClient::new(served.channel.clone());
    for service in ["", "observer.Observer"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = client.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
}

#[tokio::test]
async fn agent_events_do_not_push_flows_out() {
    use hypha_flow::proto::{
        flow::{AgentEvent, AgentEventType},
        observer::GetAgentEventsRequest,
    };
    let mut served = served(3).await;
    served.world.feed(&[from_port(2)]);
    for _ in 0..10 {
        let event = AgentEvent {
            r#type: AgentEventType::AgentStarted as i32,
            notification: None,
        };
        Observer::agent_event(&served.world.observer, event);
    }
    assert_eq!(served.ports(GetFlowsRequest::default()).await, [2]);
    let request = GetAgentEventsRequest {
        number: 4,
        ..GetAgentEventsRequest::default()
    };
    let stream = served
        .observer()
        .get_agent_events(request)
        .await
        .unwrap()
        .into_inner();
    let got: Vec<_> = stream.map(Result::unwrap).collect().await;
    assert_eq!((got.len(), got[0].node_name.as_str()), (4, "c1/w1"));
}

/// What is no message at all is an invalid argument, too.
#[tokio::test]
async fn bytes_that_are_no_request_are_an_invalid_argument() {
    use http::{Request, header::CONTENT_TYPE};
    use tonic::body::Body;
    use tower::ServiceExt as _;
    let served = served(7).await;
    let garbage: &[u8] = &[0, 0, 0, 0, 3, 0x08, 0xff, 0xff];
    let request = Request::post("http://localhost/observer.Observer/GetFlows")
        .header(CONTENT_TYPE, "application/grpc")
        .header("te", "trailers")
        .body(Body::new(http_body_util::Full::new(
            prost::bytes::Bytes::from_static(garbage),
        )))
        .unwrap();
    let answer = served.channel.clone().oneshot(request).await.unwrap();
    let status = answer.headers().get("grpc-status").unwrap();
    assert_eq!(status, "3", "{:?}", answer.headers());
    let said = answer
        .headers()
        .get("grpc-message")
        .unwrap()
        .to_str()
        .unwrap();
    assert!(said.contains("GetFlowsRequest"), "{said}");
    // The server goes on.
    let status = served
        .observer()
        .server_status(ServerStatusRequest {})
        .await;
    assert!(status.is_ok());
}

#[tokio::test]
async fn expressions_choose_flows() {
    let mut served = served(15).await;
    let events: Vec<_> = (1..=10).map(from_port).collect();
    served.world.feed(&events);
    let filter = FlowFilter {
        experimental: Some(flow_filter::Experimental {
            cel_expression: vec![
                "_flow.l4.TCP.source_port > 7u && _flow.verdict == Verdict.FORWARDED".into(),
                "_flow.source.pod_name == 'none' || _flow.l4.TCP.source_port == 3u".into(),
            ],
        }),
        ..FlowFilter::default()
    };
    let request = GetFlowsRequest {
        whitelist: vec![filter],
        ..GetFlowsRequest::default()
    };
    assert_eq!(served.ports(request).await, [3, 8, 10]);
}
