//! Flows whose bytes are written by hand are the messages that they stand for.
use super::world::{World, event};
use abi::{CtStatus, EventKind, FlowEvent};
use futures::StreamExt as _;
use hypha_flow::{
    proto::{
        flow::{Flow, LostEventSource},
        observer::{GetFlowsRequest, GetFlowsResponse, observer_server::Observer as _},
    },
    serve::NodeServer,
};
use proptest::prelude::*;
use prost::Message as _;
use prost_types::FieldMask;
use runtime::stop;
use zerocopy::{FromBytes as _, IntoBytes as _};

/// What a request gets, as messages and as bytes.
fn both(world: &World, request: &GetFlowsRequest) -> [Vec<GetFlowsResponse>; 2] {
    let (_stopper, stop) = stop::channel();
    let server = NodeServer::new(world.observer.clone(), stop);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = server.get_flows(tonic::Request::new(request.clone())).await;
        let messages = stream.unwrap().into_inner().map(Result::unwrap).collect();
        let bytes = server.written(request).unwrap().map(Result::unwrap);
        let read = bytes.map(|bytes| GetFlowsResponse::decode(bytes).unwrap());
        [messages.await, read.collect().await]
    })
}

fn requests() -> Vec<GetFlowsRequest> {
    let mask = |paths: &[&str]| GetFlowsRequest {
        field_mask: (!paths.is_empty()).then(|| FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
        ..GetFlowsRequest::default()
    };
    vec![
        mask(&[]),
        mask(&["source.pod_name", "verdict", "node_name", "l4.TCP"]),
        mask(&["uuid"]),
    ]
}

#[test]
fn bytes_are_those_of_the_messages() {
    let mut world = World::new(31);
    let (v, d) = (EventKind::PolicyVerdict as u8, EventKind::Drop as u8);
    let events = [
        event(),
        FlowEvent {
            kind: v,
            origin: 7,
            direction: 1,
            matched: 2,
            ..event()
        },
        FlowEvent {
            kind: v,
            subtype: 133,
            origin: 8,
            direction: 2,
            ..event()
        },
        FlowEvent {
            kind: d,
            subtype: 133,
            line: 7,
            ..event()
        },
        FlowEvent {
            ct_status: CtStatus::Reply as u8,
            proto: 1,
            ..event()
        },
    ];
    world.feeder.begin();
    events.iter().for_each(|event| world.feeder.event(event));
    world.feeder.lost(LostEventSource::PerfEventRingBuffer, 5);
    let whole = Flow {
        uuid: "whole".into(),
        node_name: "c1/other".into(),
        ..Flow::default()
    };
    world
        .feeder
        .whole(hypha_flow::observer::wall_clock(), whole);
    world.feeder.end();
    for request in requests() {
        let [messages, bytes] = both(&world, &request);
        assert_eq!(messages.len(), 7);
        assert_eq!(messages, bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_events_are(raw in proptest::collection::vec(any::<[u8; 80]>(), 1..20), kinds in any::<[u8; 20]>()) {
        let mut world = World::new(31);
        world.feeder.begin();
        for (mut raw, kind) in raw.into_iter().zip(kinds) {
            // Most bytes are of no kind that there is.
            let known = [EventKind::Drop, EventKind::Trace, EventKind::PolicyVerdict, EventKind::TraceSock];
            let mut some = event();
            some.kind = known[usize::from(kind) % known.len()] as u8;
            let place = some.as_bytes().iter().zip(event().as_bytes()).position(|(one, other)| one != other);
            raw[place.unwrap_or(8)] = some.kind;
            world.feeder.event(&FlowEvent::read_from_bytes(&raw[..size_of::<FlowEvent>()]).unwrap());
        }
        world.feeder.end();
        for request in requests() {
            let [messages, bytes] = both(&world, &request);
            prop_assert_eq!(messages, bytes);
        }
    }
}
