//! Events → flows.
use super::world::{CART, FAR, VIP, World, event, wide};
use abi::{
    CtStatus, DropReason, EventKind, FlowEvent, SockEvent, SockPoint, TracePoint, event_flags,
};
use hypha_flow::proto::{
    flow::{FlowType, TrafficDirection, Verdict},
    json,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use zerocopy::{FromBytes as _, FromZeros as _};

/// The message as JSON, without what is different every time.
fn shown(world: &mut World, event: FlowEvent) -> Value {
    let mut flow = world.flow(event);
    assert_eq!((flow.uuid.len(), flow.time.is_some()), (36, true));
    flow.uuid.clear();
    flow.time = None;
    serde_json::from_str(&json::to_string(&flow).unwrap()).unwrap()
}

fn cart() -> Value {
    json!({
        "ID": 10, "identity": 20311, "cluster_name": "c1", "namespace": "shop", "pod_name": "cart-1",
        "labels": ["k8s:app=cart", "k8s:io.cilium.k8s.policy.cluster=c1", "k8s:io.kubernetes.pod.namespace=shop"],
        "workloads": [{"kind": "Deployment", "name": "cart"}],
    })
}

fn db() -> Value {
    json!({
        "ID": 11, "identity": 31007, "cluster_name": "c1", "namespace": "shop", "pod_name": "db-0",
        "labels": ["k8s:app=db", "k8s:io.cilium.k8s.policy.cluster=c1", "k8s:io.kubernetes.pod.namespace=shop"],
    })
}

#[test]
fn a_packet_that_is_delivered() {
    let mut world = World::new(7);
    let got = shown(&mut world, event());
    let wanted = json!({
        "verdict": "FORWARDED", "Type": "L3_L4", "Summary": "TCP Flags: SYN",
        "IP": {"source": "10.244.1.7", "destination": "10.244.1.9", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 40112, "destination_port": 80, "flags": {"SYN": true}}},
        "source": cart(), "destination": db(),
        "node_name": "c1/w1", "node_labels": ["zone=a"],
        "event_type": {"type": 4}, "traffic_direction": "INGRESS", "is_reply": false,
        "trace_observation_point": "TO_ENDPOINT", "trace_reason": "NEW",
    });
    assert_eq!(got, wanted);
}

#[test]
fn a_packet_that_is_dropped_says_why_and_by_whom() {
    let mut world = World::new(7);
    let dropped = FlowEvent {
        kind: EventKind::Drop as u8,
        subtype: DropReason::PolicyDeny as u8,
        endpoint: 11,
        origin: 8,
        direction: 1,
        line: 12,
        ..event()
    };
    let got = shown(&mut world, dropped);
    let policy = json!([{"name": "deny-all", "namespace": "shop", "kind": "CiliumNetworkPolicy", "revision": "3"}]);
    let wanted = json!({
        "verdict": "DROPPED", "Type": "L3_L4", "Summary": "TCP Flags: SYN",
        "drop_reason": 181, "drop_reason_desc": "POLICY_DENY",
        "file": {"name": "from_container.rs", "line": 12},
        "IP": {"source": "10.244.1.7", "destination": "10.244.1.9", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 40112, "destination_port": 80, "flags": {"SYN": true}}},
        "source": cart(), "destination": db(),
        "node_name": "c1/w1", "node_labels": ["zone=a"],
        "event_type": {"type": 1, "sub_type": 181}, "traffic_direction": "INGRESS",
        "ingress_denied_by": policy,
    });
    assert_eq!(got, wanted);
}

#[test]
fn verdicts_name_the_policy_and_how_it_matched() {
    let mut world = World::new(7);
    let allowed = FlowEvent {
        kind: EventKind::PolicyVerdict as u8,
        subtype: 0,
        origin: 7,
        direction: 2,
        matched: 2,
        ..event()
    };
    let flow = world.flow(allowed);
    assert_eq!(flow.verdict(), Verdict::Forwarded);
    assert_eq!((flow.policy_match_type, flow.is_reply), (2, Some(false)));
    assert_eq!(flow.traffic_direction(), TrafficDirection::Egress);
    assert_eq!(flow.egress_allowed_by[0].name, "allow-cart");
    let audited = FlowEvent {
        subtype: DropReason::PolicyDenied as u8,
        origin: 0,
        direction: 1,
        flags: event_flags::AUDITED,
        ..allowed
    };
    let flow = world.flow(audited);
    assert_eq!((flow.verdict(), flow.drop_reason), (Verdict::Audit, 0));
    assert!(flow.ingress_denied_by.is_empty(), "no rule denied it");
    let denied = world.flow(FlowEvent {
        flags: 0,
        ..audited
    });
    assert_eq!(
        (denied.verdict(), denied.drop_reason),
        (Verdict::Dropped, 133)
    );
    assert_eq!(
        denied.is_reply,
        Some(false),
        "policy is asked about what begins something"
    );
}

#[test]
fn directions_follow_the_endpoint_of_this_node() {
    let mut world = World::new(7);
    let mut direction = |point: TracePoint, status: CtStatus, endpoint: u16| {
        let event = FlowEvent {
            subtype: point as u8,
            ct_status: status as u8,
            endpoint,
            dst: wide(FAR),
            dst_id: 20400,
            ..event()
        };
        let flow = world.flow(event);
        (flow.traffic_direction(), flow.is_reply)
    };
    use CtStatus::{Established, New, Reply, Unknown};
    use TrafficDirection::{Egress, Ingress};
    assert_eq!(
        direction(TracePoint::ToNetwork, New, 10),
        (Egress, Some(false))
    );
    assert_eq!(
        direction(TracePoint::ToNetwork, Reply, 10),
        (Ingress, Some(true))
    );
    assert_eq!(
        direction(TracePoint::ToEndpoint, Established, 11),
        (Ingress, Some(false))
    );
    assert_eq!(
        direction(TracePoint::ToEndpoint, Reply, 11),
        (Egress, Some(true))
    );
    assert_eq!(
        direction(TracePoint::FromNetwork, Unknown, 0),
        (TrafficDirection::Unknown, None)
    );
}

#[test]
fn who_is_elsewhere_has_no_number_here() {
    let mut world = World::new(7);
    let event = FlowEvent {
        dst: wide(FAR),
        dst_id: 20400,
        subtype: TracePoint::ToOverlay as u8,
        ..event()
    };
    let far = world.flow(event).destination.unwrap();
    assert_eq!(
        (far.id, far.pod_name.as_str(), far.namespace.as_str()),
        (0, "far-1", "shop")
    );
    assert_eq!(far.labels[0], "k8s:app=far");
    let world_event = FlowEvent {
        dst: wide([192, 0, 2, 1].into()),
        dst_id: abi::identity::WORLD,
        ..event
    };
    let flow = world.flow(world_event);
    assert_eq!(flow.destination_names, ["www.example.org"]);
    assert!(flow.source_names.is_empty());
    let outside = flow.destination.unwrap();
    assert_eq!(outside.labels, ["reserved:world"]);
    assert_eq!((outside.identity, outside.pod_name.as_str()), (2, ""));
}

#[test]
fn what_the_kernel_does_not_know_the_address_cache_may() {
    let mut world = World::new(7);
    let mut txn = world.tables.db.write();
    for (prefix, identity) in [("0.0.0.0/0", 2), ("192.0.2.0/24", 16_777_217)] {
        let row = model::Prefix {
            prefix: prefix.parse().unwrap(),
            identity,
            tunnel: None,
            source: model::PrefixSource::Generated,
            owner: model::Text::default(),
        };
        world.tables.prefixes.insert(&mut txn, row).unwrap();
    }
    let labels = ["cidr:192.0.0.0/8", "cidr:192.0.2.0/24", "reserved:world"];
    let identity = model::Identity {
        id: 16_777_217,
        labels: labels.map(str::to_owned).into_iter().collect(),
        kind: model::IdentityKind::Local,
    };
    world.tables.identities.insert(&mut txn, identity).unwrap();
    txn.commit();
    for known in [0, abi::identity::WORLD, 16_777_217] {
        let event = FlowEvent {
            src: wide([192, 0, 2, 1].into()),
            src_id: known,
            ..event()
        };
        let source = world.flow(event).source.unwrap();
        assert_eq!(source.identity, 16_777_217);
        assert_eq!(source.labels, ["cidr:192.0.2.0/24", "reserved:world"]);
    }
    let event = FlowEvent {
        src: wide([198, 51, 100, 1].into()),
        src_id: 0,
        ..event()
    };
    assert_eq!(world.flow(event).source.unwrap().identity, 2);
}

#[test]
fn services_have_their_names_at_their_ports() {
    let mut world = World::new(7);
    let to = |port: u16| FlowEvent {
        dst: wide(VIP),
        dst_id: 0,
        dport: port.to_be_bytes(),
        ..event()
    };
    let service = world.flow(to(80)).destination_service.unwrap();
    assert_eq!(
        (service.namespace.as_str(), service.name.as_str()),
        ("shop", "db")
    );
    assert_eq!(world.flow(to(81)).destination_service, None);
    let mut txn = world.tables.db.write();
    world.tables.services.services.delete(&mut txn, "shop/db");
    txn.commit();
    assert_eq!(world.flow(to(80)).destination_service, None);
}

#[test]
fn calls_at_sockets() {
    let mut world = World::new(7);
    let call = |point: SockPoint, netns: u64| -> FlowEvent {
        zerocopy::transmute!(SockEvent {
            time: hypha_flow::observer::event_clock(),
            kind: EventKind::TraceSock as u8,
            point: point as u8,
            proto: 6,
            cookie: 4711,
            cgroup: 99,
            netns,
            dst: wide(VIP),
            dport: 80u16.to_be_bytes(),
            ..SockEvent::new_zeroed()
        })
    };
    let flow = world.flow(call(SockPoint::PreForward, 77));
    assert_eq!(
        (flow.r#type(), flow.verdict()),
        (FlowType::Sock, Verdict::Traced)
    );
    assert_eq!(
        (flow.sock_xlate_point, flow.socket_cookie, flow.cgroup_id),
        (1, 4711, 99)
    );
    assert_eq!(flow.source.as_ref().unwrap().pod_name, "cart-1");
    assert_eq!(flow.ip.as_ref().unwrap().source, CART.to_string());
    assert_eq!((flow.summary.as_str(), flow.is_reply), ("TCP", None));
    assert_eq!(flow.destination_service.unwrap().name, "db");
    assert_eq!(flow.interface, None);
    let flow = world.flow(call(SockPoint::PostReverse, 1));
    assert_eq!(flow.verdict(), Verdict::Translated);
    assert_eq!(flow.source.unwrap().labels, ["reserved:host"]);
}

#[test]
fn pings_and_what_has_no_ports() {
    let mut world = World::new(7);
    let ping = FlowEvent {
        proto: 1,
        tcp_flags: 8,
        dport: 0x1234u16.to_be_bytes(),
        ..event()
    };
    assert_eq!(world.flow(ping).summary, "ICMPv4 EchoRequest");
    let unreachable = FlowEvent {
        tcp_flags: 3,
        dport: [0, 3],
        ..ping
    };
    assert_eq!(
        world.flow(unreachable).summary,
        "ICMPv4 DestinationUnreachable(Port)"
    );
    let unread = FlowEvent {
        flags: event_flags::NO_PORTS,
        ..event()
    };
    let flow = world.flow(unread);
    assert_eq!((flow.l4, flow.summary.as_str()), (None, ""));
}

proptest! {
    #[test]
    fn any_bytes_are_some_flow_or_none(bytes in proptest::collection::vec(any::<u8>(), size_of::<FlowEvent>())) {
        let mut world = World::new(7);
        let event = FlowEvent::read_from_bytes(&bytes).unwrap();
        world.feed(&[event]);
        for record in world.observer.last(7) {
            if let hypha_flow::record::What::Packet(seen) = &record.what {
                let about = world.observer.about();
                let flow = hypha_flow::record::Shown { seen, time: record.time, about: &about }.to_flow();
                prop_assert!(json::to_string(&flow).is_ok());
            }
        }
    }
}
