//! A relay with nodes of this process behind it: real servers, real connections.
mod nodes;

use std::collections::BTreeMap;
use std::time::Duration;

use api::hubble::flow::FlowFilter;
use api::hubble::observer::get_flows_response::ResponseTypes;
use api::hubble::observer::observer_client::ObserverClient;
use api::hubble::observer::{
    GetAgentEventsRequest, GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest,
    GetNodesRequest, ServerStatusRequest,
};
use api::hubble::peer::peer_server::PeerServer;
use api::hubble::relay::{NodeState, NodeStatusEvent};
use prost_types::Timestamp;
use runtime::stop::{self, Stopper};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::connect::{self, Address};
use super::pool::Ways;
use super::server::{Options, Running, serve};
use nodes::{Directory, Manner, Node, Served};

const LONG: Duration = Duration::from_secs(30);

/// A relay and what is around it.
struct World {
    relay: Running,
    directory: Directory,
    nodes: BTreeMap<&'static str, (Node, Served)>,
    _stop: Stopper,
}

impl World {
    async fn of(nodes: Vec<Node>) -> Self {
        let directory = Directory {
            peers: watch::Sender::new(BTreeMap::new()),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peers = Address::Tcp(
            "127.0.0.1".to_owned(),
            listener.local_addr().unwrap().port(),
        );
        let served = directory.clone();
        tokio::spawn(async move {
            Server::builder()
                .add_service(PeerServer::new(served))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        let (stopper, stop) = stop::channel();
        let any = "127.0.0.1:0".parse().unwrap();
        let options = Options {
            listen: any,
            health: Some(any),
            page: None,
            tls: None,
            ways: Ways {
                peers,
                tls: None,
                peers_name: None,
                dial: Duration::from_secs(5),
                retry: Duration::from_millis(250),
            },
            name: "relay".to_owned(),
        };
        let relay = serve(options, None, &stop).await.unwrap();
        let mut world = Self {
            relay,
            directory,
            nodes: BTreeMap::new(),
            _stop: stopper,
        };
        for node in nodes {
            world.add(node).await;
        }
        world
    }

    async fn add(&mut self, node: Node) {
        let name = node.name;
        let served = node.serve("127.0.0.1:0").await;
        self.directory.peers.send_modify(|peers| {
            peers.insert(name, served.address);
        });
        self.nodes.insert(name, (node, served));
        self.connected(name, true).await;
    }

    /// Waits until a node is connected, or is not.
    async fn connected(&self, name: &str, wanted: bool) {
        let mut changes = self.relay.pool.changes();
        let waited = timeout(LONG, async {
            loop {
                let peers = self.relay.pool.peers();
                let peer = peers.iter().find(|peer| peer.name == name);
                if peer.is_some_and(|peer| peer.channel.is_some()) == wanted {
                    return;
                }
                changes.changed().await.unwrap();
            }
        });
        waited.await.unwrap();
    }

    async fn channel(&self) -> Channel {
        let address = Address::Tcp("127.0.0.1".to_owned(), self.relay.address.port());
        connect::channel(&address, None, LONG, false).await.unwrap()
    }

    async fn client(&self) -> ObserverClient<Channel> {
        ObserverClient::new(self.channel().await)
    }

    async fn flows(&self, request: GetFlowsRequest) -> Streaming<GetFlowsResponse> {
        let stream = self.client().await.get_flows(request).await;
        stream.unwrap().into_inner()
    }

    /// All answers of a request that ends: flows with their nodes, and what is said of nodes.
    async fn all(&self, request: GetFlowsRequest) -> (Vec<(i64, String)>, Vec<NodeStatusEvent>) {
        let mut stream = self.flows(request).await;
        let (mut flows, mut said) = (Vec::new(), Vec::new());
        while let Some(response) = timeout(LONG, stream.next()).await.unwrap() {
            sort(response.unwrap(), &mut flows, &mut said);
        }
        (flows, said)
    }
}

fn sort(
    response: GetFlowsResponse,
    flows: &mut Vec<(i64, String)>,
    said: &mut Vec<NodeStatusEvent>,
) {
    match response.response_types.unwrap() {
        ResponseTypes::Flow(flow) => flows.push((flow.time.unwrap().seconds, flow.node_name)),
        ResponseTypes::NodeStatus(status) => said.push(status),
        ResponseTypes::LostEvents(_) => {}
    }
}

async fn next_flow(
    stream: &mut Streaming<GetFlowsResponse>,
    said: &mut Vec<NodeStatusEvent>,
) -> (i64, String) {
    let mut flows = Vec::new();
    while flows.is_empty() {
        let response = timeout(LONG, stream.next()).await.unwrap().unwrap();
        sort(response.unwrap(), &mut flows, said);
    }
    flows.remove(0)
}

fn recorded(seconds: &[i64]) -> Manner {
    Manner {
        recorded: seconds.to_vec(),
        ..Manner::default()
    }
}

fn last(number: u64) -> GetFlowsRequest {
    GetFlowsRequest {
        number,
        ..GetFlowsRequest::default()
    }
}

fn names(said: &[NodeStatusEvent], state: NodeState) -> Vec<String> {
    let found = said
        .iter()
        .filter(|one| one.state_change == i32::from(state));
    found.flat_map(|one| one.node_names.clone()).collect()
}

#[tokio::test]
async fn all_nodes_in_the_order_of_time() {
    let world = World::of(vec![
        Node::new("a", recorded(&[1, 4, 7])),
        Node::new("b", recorded(&[2, 5, 8])),
        Node::new("c", recorded(&[3, 6, 9])),
    ])
    .await;
    let mut request = last(20);
    request.whitelist = vec![FlowFilter {
        protocol: vec!["tcp".to_owned()],
        ..FlowFilter::default()
    }];
    let (flows, said) = world.all(request.clone()).await;
    let seconds: Vec<i64> = flows.iter().map(|(second, _)| *second).collect();
    assert_eq!(seconds, (1..=9).collect::<Vec<_>>());
    assert_eq!(flows[1].1, "default/b");
    assert_eq!(names(&said, NodeState::NodeConnected), ["a", "b", "c"]);
    // The nodes do the filtering: they are asked the same.
    let asked = world.nodes["b"].0.asked.lock().unwrap().clone();
    assert_eq!(asked, [request]);
}

/// A node whose clock is an hour ahead comes last, and all of it comes.
#[tokio::test]
async fn clocks_may_differ() {
    let ahead: Vec<i64> = (3600..3700).collect();
    let world = World::of(vec![
        Node::new("ahead", recorded(&ahead)),
        Node::new("right", recorded(&(0..100).collect::<Vec<_>>())),
    ])
    .await;
    let (flows, _) = world.all(last(100)).await;
    assert_eq!(flows.len(), 200);
    assert!(flows.is_sorted(), "{flows:?}");
}

#[tokio::test]
async fn a_slow_node_and_one_that_says_nothing_harm_nobody() {
    let slow = Manner {
        pause: Duration::from_millis(700),
        ..recorded(&[1, 50, 99])
    };
    let silent = Manner {
        silent: true,
        ..Manner::default()
    };
    let world = World::of(vec![
        Node::new("quick", recorded(&(0..100).collect::<Vec<_>>())),
        Node::new("slow", slow),
        Node::new("silent", silent),
    ])
    .await;
    let begun = Instant::now();
    let mut stream = world.flows(last(100)).await;
    let mut said = Vec::new();
    let mut quick = Vec::new();
    while quick.len() < 100 {
        let (second, node) = next_flow(&mut stream, &mut said).await;
        if node == "default/quick" {
            quick.push(second);
        }
    }
    // Nobody is waited for longer than two holds.
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    assert!(quick.is_sorted());
    // Status does not wait for the silent one either, and tells of it.
    let status = world
        .client()
        .await
        .server_status(ServerStatusRequest {})
        .await;
    let status = status.unwrap().into_inner();
    assert_eq!(status.num_connected_nodes, Some(2));
    assert_eq!(status.unavailable_nodes, ["silent"]);
}

#[tokio::test]
async fn sums_lists_and_health() {
    let mut world = World::of(vec![
        Node::new("a", recorded(&[])),
        Node::new("bb", recorded(&[])),
    ])
    .await;
    let mut client = world.client().await;
    let status = client.server_status(ServerStatusRequest {}).await;
    let status = status.unwrap().into_inner();
    assert_eq!(
        (status.num_flows, status.max_flows, status.seen_flows),
        (20, 8190, 200)
    );
    assert_eq!((status.uptime_ns, status.flows_rate), (2, 3.0));
    assert_eq!(
        (status.num_connected_nodes, status.num_unavailable_nodes),
        (Some(2), Some(0))
    );
    assert!(
        status.version.starts_with("hubble-relay v"),
        "{}",
        status.version
    );

    let found = client.get_namespaces(GetNamespacesRequest {}).await;
    let found = found.unwrap().into_inner().namespaces;
    let found: Vec<&str> = found.iter().map(|one| one.namespace.as_str()).collect();
    assert_eq!(found, ["a", "bb", "shared"]);

    let (_, served) = world.nodes.get_mut("bb").unwrap();
    let address = served.address;
    served.die();
    world.connected("bb", false).await;
    let nodes = client.get_nodes(GetNodesRequest {}).await;
    let nodes = nodes.unwrap().into_inner().nodes;
    let state = |node: usize| (nodes[node].name.as_str(), nodes[node].state);
    assert_eq!(state(0), ("a", NodeState::NodeConnected.into()));
    assert_eq!(state(1), ("bb", NodeState::NodeUnavailable.into()));
    assert_eq!(nodes[1].address, address.to_string());

    let refused = client
        .get_agent_events(GetAgentEventsRequest::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);

    let mut health = HealthClient::new(world.channel().await);
    let mut ask = async || {
        let request = HealthCheckRequest {
            service: "observer.Observer".to_owned(),
        };
        health.check(request).await.unwrap().into_inner().status
    };
    assert_eq!(ask().await, i32::from(ServingStatus::Serving));
    world.nodes.get_mut("a").unwrap().1.die();
    world.connected("a", false).await;
    let healthy = timeout(LONG, async {
        while ask().await == i32::from(ServingStatus::Serving) {
            sleep(Duration::from_millis(10)).await;
        }
    });
    healthy.await.unwrap();
    assert!(!world.relay.pool.serves());
}

/// While somebody follows, nodes come, break, come back and go: nothing is told twice, and nothing is missing.
#[tokio::test]
async fn nodes_come_and_go_while_somebody_follows() {
    let mut world = World::of(vec![Node::new("a", recorded(&[1, 2]))]).await;
    let mut request = last(2);
    request.follow = true;
    let mut stream = world.flows(request).await;
    let mut said = Vec::new();
    assert_eq!(next_flow(&mut stream, &mut said).await.0, 1);
    assert_eq!(next_flow(&mut stream, &mut said).await.0, 2);
    assert_eq!(names(&said, NodeState::NodeConnected), ["a"]);

    world.nodes["a"].0.live.send(3).unwrap();
    assert_eq!(
        next_flow(&mut stream, &mut said).await,
        (3, "default/a".to_owned())
    );

    // A new node: what it has seen from now on.
    let b = Node::new("b", recorded(&[]));
    world.add(b.clone()).await;
    let subscribed = timeout(LONG, async {
        while b.live.receiver_count() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    });
    subscribed.await.unwrap();
    b.live.send(4).unwrap();
    assert_eq!(
        next_flow(&mut stream, &mut said).await,
        (4, "default/b".to_owned())
    );
    assert!(b.asked.lock().unwrap()[0].since.is_some());
    assert!(names(&said, NodeState::NodeConnected).contains(&"b".to_owned()));

    // One breaks, records more while nobody can ask, and comes back at the same place.
    let (mut a, served) = world.nodes.remove("a").unwrap();
    let address = served.address;
    drop(served);
    world.connected("a", false).await;
    a.manner.recorded = vec![1, 2, 3, 5, 6];
    let served = a.serve(&address.to_string()).await;
    world.nodes.insert("a", (a, served));
    world.connected("a", true).await;
    assert_eq!(next_flow(&mut stream, &mut said).await.0, 5);
    assert_eq!(next_flow(&mut stream, &mut said).await.0, 6);
    // The new one was not away before it was tried.
    assert_eq!(names(&said, NodeState::NodeUnavailable), ["a"]);

    // One is taken away.
    world.directory.peers.send_modify(|peers| {
        peers.remove("b");
    });
    let gone = timeout(LONG, async {
        loop {
            let response = stream.next().await.unwrap().unwrap();
            sort(response, &mut Vec::new(), &mut said);
            if names(&said, NodeState::NodeGone) == ["b"] {
                return;
            }
        }
    });
    gone.await.unwrap();
}

#[tokio::test]
async fn mistakes_and_complaints() {
    let refuse = |code, text| Manner {
        refuses: Some((code, text)),
        ..Manner::default()
    };
    // What every node would say is the answer.
    let world = World::of(vec![
        Node::new("a", refuse(Code::InvalidArgument, "no such field")),
        Node::new("b", refuse(Code::InvalidArgument, "no such field")),
    ])
    .await;
    let mut stream = world.flows(last(1)).await;
    let status = loop {
        match timeout(LONG, stream.next()).await.unwrap().unwrap() {
            Ok(response) => assert!(!matches!(
                response.response_types,
                Some(ResponseTypes::Flow(_))
            )),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "no such field")
    );
    let both = GetFlowsRequest {
        first: true,
        follow: true,
        ..GetFlowsRequest::default()
    };
    let refused = world.client().await.get_flows(both).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    // What some say is told beside the others' flows, once for all who say it.
    let world = World::of(vec![
        Node::new("a", refuse(Code::Internal, "it broke")),
        Node::new("b", recorded(&[1])),
        Node::new("c", refuse(Code::Internal, "it broke")),
    ])
    .await;
    let (flows, said) = world.all(last(1)).await;
    assert_eq!(flows.len(), 1);
    assert_eq!(names(&said, NodeState::NodeError), ["a", "c"]);
}

/// A reader that stops reading costs the relay no more than a bounded number of flows.
#[tokio::test]
async fn slow_readers_are_bounded() {
    let many = recorded(&(0..200_000).collect::<Vec<_>>());
    let world = World::of(vec![Node::new("a", many), Node::new("b", recorded(&[5]))]).await;
    let mut stream = world.flows(last(200_000)).await;
    let mut said = Vec::new();
    assert_eq!(next_flow(&mut stream, &mut said).await.0, 0);
    sleep(Duration::from_millis(300)).await;
    // Others are served meanwhile.
    let (flows, _) = world
        .all(GetFlowsRequest {
            since: Some(Timestamp {
                seconds: 199_999,
                nanos: 0,
            }),
            ..GetFlowsRequest::default()
        })
        .await;
    assert_eq!(flows, [(199_999, "default/a".to_owned())]);
    for second in 1..1000 {
        let (at, node) = next_flow(&mut stream, &mut said).await;
        assert!(
            at == second || node == "default/b" || at == second - 1,
            "{at} {second}"
        );
    }
}
