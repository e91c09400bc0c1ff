//! Full rate for as long as one likes: pods come and go, some read, some are slow, one reads nothing; memory stays where it was.
//!
//! `SOAK_SECONDS=1800 cargo test --release -p hypha-flow --test it soak` is the long one.
use super::world::{DB, World, endpoint, event, wide};
use abi::FlowEvent;
use futures::StreamExt as _;
use hypha_flow::{
    observer::event_clock,
    proto::observer::observer_client::ObserverClient,
    proto::observer::{GetFlowsRequest, get_flows_response::ResponseTypes},
    record::What,
    relay::connect::{self, Address},
    serve::{Listen, NodeServer, Peers, serve},
};
use runtime::stop;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Events that are read at once.
const DRAINED: u32 = 1024;
/// How often a pod goes and another gets its address.
const CHURN: Duration = Duration::from_millis(100);
/// Memory by which a process may have grown, in kB: what allocators keep for themselves.
const GROWN: u64 = 24 * 1024;

fn seconds() -> u64 {
    let said = std::env::var("SOAK_SECONDS").ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// Memory of this process in kB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

#[test]
fn soak() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut world = World::new(4095);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hubble.sock");
    let (_stopper, stop) = stop::channel();
    let server = NodeServer::new(world.observer.clone(), stop.clone());
    let peers = Peers::new(
        world.tables.clone(),
        "default",
        None,
        false,
        false,
        stop.clone(),
    );
    let listen = Listen {
        socket: Some(path.clone()),
        ..Listen::default()
    };
    runtime
        .block_on(serve(server, peers, &listen, &stop))
        .unwrap();
    let (read, lost, ended) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut tasks = Vec::new();
    // Quick ones, slow ones, and one that takes nothing.
    for pause in [0, 0, 1, 20, u64::MAX] {
        let (path, read, lost, ended) = (path.clone(), read.clone(), lost.clone(), ended.clone());
        tasks.push(runtime.spawn(async move {
            let channel =
                connect::channel(&Address::Unix(path), None, Duration::from_secs(10), false)
                    .await
                    .unwrap();
            let request = GetFlowsRequest {
                follow: true,
                ..GetFlowsRequest::default()
            };
            let mut stream = ObserverClient::new(channel)
                .get_flows(request)
                .await
                .unwrap()
                .into_inner();
            if pause == u64::MAX {
                while !ended.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            while let Some(Ok(response)) = stream.next().await {
                match response.response_types {
                    Some(ResponseTypes::LostEvents(gone)) => {
                        lost.fetch_add(gone.num_events_lost, Ordering::Relaxed);
                    }
                    _ => {
                        read.fetch_add(1, Ordering::Relaxed);
                    }
                }
                if pause > 0 && pause < u64::MAX {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                if ended.load(Ordering::Relaxed) {
                    return;
                }
            }
        }));
    }
    let (mut fed, mut number, mut warm) = (0u64, 0u32, None);
    let begun = Instant::now();
    let (whole, mut next) = (Duration::from_secs(seconds()), begun);
    while begun.elapsed() < whole {
        if Instant::now() >= next {
            next += CHURN;
            number += 1;
            replace(&mut world, number);
            // The first look after a change may still be about who was there before.
            world.feed(&[]);
        }
        let now = event_clock();
        let batch = u32::try_from(fed % 100_000).unwrap();
        let events: Vec<FlowEvent> = (0..DRAINED)
            .map(|n| FlowEvent {
                time: now,
                dst_id: 40_000 + number % 5_000,
                src: wide((0x0a00_0000 + (batch * 7 + n) % 100_000).into()),
                src_id: 2,
                ..event()
            })
            .collect();
        world.feed(&events);
        fed += u64::from(DRAINED);
        let last = world.observer.last(1);
        let What::Packet(seen) = &last[0].what else {
            panic!("{last:?}")
        };
        assert_eq!(seen.destination.endpoint.pod_name, format!("pod-{number}"));
        if warm.is_none() && begun.elapsed() > whole / 2 {
            warm = Some(resident());
        }
    }
    let (before, after) = (warm.unwrap(), resident());
    ended.store(true, Ordering::Relaxed);
    // Whoever waits for more gets it, and ends.
    world.feed(&[event()]);
    runtime.block_on(async {
        for task in tasks {
            tokio::time::timeout(Duration::from_secs(60), task)
                .await
                .unwrap()
                .unwrap();
        }
    });
    let (read, lost) = (read.load(Ordering::Relaxed), lost.load(Ordering::Relaxed));
    eprintln!(
        "{fed} events in {:?}, {read} read, {lost} told as lost; memory {before} → {after} kB",
        begun.elapsed()
    );
    assert!(read > 0 && lost > 0, "slow readers hear what they missed");
    assert!(
        after < before + GROWN,
        "memory grew from {before} to {after} kB"
    );
    assert_eq!(world.observer.status().seen, fed + 1);
}

/// The pod at an address goes, another gets it.
fn replace(world: &mut World, number: u32) {
    let mut txn = world.tables.db.write();
    world.tables.endpoints.delete(&mut txn, &11);
    let mut next = endpoint(11, &format!("pod-{number}"), DB, 40_000 + number % 5_000);
    next.pod.uid = format!("uid-{number}");
    world.tables.endpoints.insert(&mut txn, next).unwrap();
    txn.commit();
}
