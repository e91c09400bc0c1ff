//! Addresses that go from pod to pod: a flow names the pod that had it then, or none.
use super::world::{DB, FAR, World, endpoint, event, remote, wide};
use abi::FlowEvent;
use hypha_flow::record::{Record, What};

/// Names of the pods that the last `count` flows were sent to.
fn receivers(world: &World, count: usize) -> Vec<String> {
    let records = world.observer.last(count);
    let name = |record: &Record| match &record.what {
        What::Packet(seen) => seen.destination.endpoint.pod_name.clone(),
        other => panic!("{other:?}"),
    };
    records.iter().map(name).collect()
}

fn to_db(identity: u32, endpoint: u16) -> FlowEvent {
    FlowEvent {
        dst_id: identity,
        endpoint,
        ..event()
    }
}

/// The pod `db` goes, `next` gets its address.
fn replace(world: &World, id: u16, name: &str, identity: u32) {
    let mut txn = world.tables.db.write();
    world.tables.endpoints.delete(&mut txn, &11);
    world
        .tables
        .endpoints
        .insert(&mut txn, endpoint(id, name, DB, identity))
        .unwrap();
    txn.commit();
}

#[test]
fn events_from_before_and_after_are_told_apart_by_identity() {
    let mut world = World::new(31);
    world.feed(&[to_db(31007, 10)]);
    replace(&world, 12, "cache-0", 40000);
    world.feed(&[to_db(31007, 10), to_db(40000, 10), to_db(999, 10)]);
    assert_eq!(receivers(&world, 4), ["db-0", "db-0", "cache-0", ""]);
    // Nobody else has had it since.
    world.feed(&[to_db(31007, 10), to_db(999, 10)]);
    assert_eq!(receivers(&world, 2), ["cache-0", "cache-0"]);
}

#[test]
fn replicas_are_told_apart_by_the_endpoint_that_reports_or_not_at_all() {
    let mut world = World::new(31);
    world.feed(&[]);
    replace(&world, 12, "db-1", 31007);
    world.feed(&[to_db(31007, 11), to_db(31007, 12), to_db(31007, 10)]);
    assert_eq!(receivers(&world, 3), ["db-0", "db-1", ""]);
    let records = world.observer.last(1);
    let What::Packet(seen) = &records[0].what else {
        panic!()
    };
    assert_eq!(
        seen.destination.endpoint.labels[0], "k8s:app=db",
        "the identity is certain"
    );
}

#[test]
fn a_pod_that_has_just_gone_is_still_named_and_one_that_has_just_come_is_too() {
    let mut world = World::new(31);
    world.feed(&[]);
    let mut txn = world.tables.db.write();
    world.tables.endpoints.delete(&mut txn, &11);
    txn.commit();
    world.feed(&[to_db(31007, 10)]);
    assert_eq!(receivers(&world, 1), ["db-0"]);
    world.feed(&[to_db(31007, 10)]);
    assert_eq!(receivers(&world, 1), [""]);
    let mut txn = world.tables.db.write();
    world
        .tables
        .endpoints
        .insert(&mut txn, endpoint(13, "web-0", DB, 50000))
        .unwrap();
    txn.commit();
    world.feed(&[to_db(50000, 10)]);
    assert_eq!(receivers(&world, 1), ["web-0"]);
}

#[test]
fn of_two_published_pods_with_one_address_the_identity_decides() {
    let mut world = World::new(31);
    let mut txn = world.tables.db.write();
    world
        .tables
        .cilium_endpoints
        .insert(&mut txn, remote("other-1", FAR, 20500))
        .unwrap();
    txn.commit();
    let to = |identity| FlowEvent {
        dst: wide(FAR),
        dst_id: identity,
        ..event()
    };
    world.feed(&[]);
    world.feed(&[to(20400), to(20500), to(1234)]);
    assert_eq!(receivers(&world, 3), ["far-1", "other-1", ""]);
}

#[test]
fn events_from_before_the_start_name_no_pod() {
    let mut world = World::new(31);
    world.feed(&[FlowEvent { time: 1, ..event() }]);
    assert_eq!(receivers(&world, 1), [""]);
}

#[test]
fn whoever_is_met_again_is_the_same_memory() {
    let mut world = World::new(31);
    world.feed(&[event(), event()]);
    // Something else changes: what was known is looked at again.
    let mut txn = world.tables.db.write();
    world
        .tables
        .cilium_endpoints
        .insert(&mut txn, remote("new-1", [10, 244, 2, 6].into(), 1))
        .unwrap();
    txn.commit();
    world.feed(&[event()]);
    let sources: Vec<_> = world
        .observer
        .last(3)
        .into_iter()
        .filter_map(|record| match record.what {
            What::Packet(seen) => Some(std::sync::Arc::as_ptr(&seen.source) as usize),
            _ => None,
        })
        .collect();
    assert!(sources.len() == 3 && sources.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_scan_of_all_addresses_is_one_stranger() {
    let mut world = World::new(4095);
    let from = |n: u32| FlowEvent {
        src: wide((0xc000_0200 + n).into()),
        src_id: abi::identity::WORLD,
        ..event()
    };
    let events: Vec<_> = (0..40_000).map(from).collect();
    world.feed(&events);
    let sources: std::collections::BTreeSet<usize> = world
        .observer
        .last(4095)
        .into_iter()
        .filter_map(|record| match record.what {
            What::Packet(seen) => Some(std::sync::Arc::as_ptr(&seen.source) as usize),
            _ => None,
        })
        .collect();
    assert_eq!(sources.len(), 1);
}
