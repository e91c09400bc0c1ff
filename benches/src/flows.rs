//! Flows from a recorded buffer of events: made, named, kept, filtered and written as messages, on one core.
use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    time::Instant,
};

use abi::{CtStatus, EventKind, FlowEvent, TracePoint};
use anyhow::{Context, Result, ensure};
use flow::{
    Feeder, Observer,
    observer::event_clock,
    proto::{flow::FlowFilter, observer::GetFlowsRequest},
    record::About,
    serve::NodeServer,
};
use futures::StreamExt;
use model::{Identity, IdentityKind, RemoteEndpoint, Tables};
use runtime::stop;
use zerocopy::FromZeros;

use crate::{
    filter::Filter,
    report::{Report, Row, percentile},
};

/// Pods that the flows are between.
const PODS: u32 = 1000;
/// Identities that they have.
const IDENTITIES: u32 = 50;
/// Flows that the largest ring keeps.
const RING: usize = 65_535;
/// Events that are read from the kernel's ring at once.
const DRAINED: usize = 2048;
/// Flows that are made and written.
const FLOWS: usize = 500_000;
/// How often the last flows are asked for.
const ASKED: usize = 50;

/// Adds the figures that `filter` asks for.
///
/// # Errors
/// The server refuses.
pub fn measure(filter: &Filter, report: &mut Report) -> Result<()> {
    if !filter.wants("flows/") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tables = tables()?;
    let observer = Observer::new(RING, about());
    let mut feeder = Feeder::plain(&observer, tables);
    let (_stopper, stop) = stop::channel();
    let server = NodeServer::new(observer.clone(), stop);
    let mut events = recorded();
    let started = Instant::now();
    for chunk in 0..FLOWS / DRAINED {
        take(&mut feeder, &mut events, chunk);
        let request = GetFlowsRequest {
            number: DRAINED as u64,
            ..GetFlowsRequest::default()
        };
        let (flows, _) = runtime.block_on(read(&server, request))?;
        ensure!(flows == DRAINED, "{flows} flows of {DRAINED}");
    }
    let rate = (FLOWS / DRAINED * DRAINED) as f64 / started.elapsed().as_secs_f64();
    let row = |name: &str, unit, value, goal| {
        Row::against_goal(format!("flows/{name}"), unit, value, goal)
    };
    report.add(row("served", "1/s", rate, 500_000.0));
    let started = Instant::now();
    for chunk in 0..FLOWS / DRAINED {
        take(&mut feeder, &mut events, chunk);
    }
    let nanos = started.elapsed().as_secs_f64() * 1e9 / FLOWS as f64;
    report.add(row("kept", "ns", nanos, 250.0));
    // A tenth of all flows match the one, a fiftieth, so that most of the ring is looked at, the other.
    let common = FlowFilter {
        source_pod: vec!["shop/pod-1".into()],
        protocol: vec!["tcp".into()],
        ..FlowFilter::default()
    };
    let rare = FlowFilter {
        source_identity: vec![identity(7)],
        ..FlowFilter::default()
    };
    for (name, wanted) in [("last-1000", common), ("last-1000-rare", rare)] {
        let mut times = Vec::new();
        for _ in 0..ASKED {
            let request = GetFlowsRequest {
                number: 1000,
                whitelist: vec![wanted.clone()],
                ..GetFlowsRequest::default()
            };
            let started = Instant::now();
            let (flows, _) = runtime.block_on(read(&server, request))?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            ensure!(flows == 1000, "{flows} flows of 1000");
        }
        report.add(row(name, "ms", percentile(&times, 0.5), 5.0));
    }
    report.add(row("memory", "MB", memory()?, 30.0));
    Ok(())
}

/// Memory that a full ring takes, in MB: of a process of its own, where nothing was freed before.
fn memory() -> Result<f64> {
    let output = Command::new(std::env::current_exe()?)
        .arg("drive-flows")
        .output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "the process with a full ring failed"
    );
    said.trim().parse().context("what the process said")
}

/// Fills a ring, and prints the memory that this took.
///
/// # Errors
/// The tables cannot be made.
pub fn drive() -> Result<()> {
    let tables = tables()?;
    let mut events = recorded();
    let before = resident()?;
    let observer = Observer::new(RING, about());
    let mut feeder = Feeder::plain(&observer, tables);
    // Twice around: what is pushed out is to leave nothing behind.
    for chunk in 0..2 * RING / DRAINED + 2 {
        take(&mut feeder, &mut events, chunk);
    }
    let status = observer.status();
    ensure!(status.flows == status.capacity, "the ring is not full");
    println!("{}", resident()? - before);
    Ok(())
}

/// Memory of this process, in MB.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = number.context("no VmRSS")?.parse()?;
    Ok(kilobytes / 1024.0)
}

/// Brings events in as they are read from the kernel's ring.
fn take(feeder: &mut Feeder, events: &mut [FlowEvent], chunk: usize) {
    let start = chunk * DRAINED % (events.len() - DRAINED);
    feeder.begin();
    let now = event_clock();
    for event in &mut events[start..start + DRAINED] {
        event.time = now;
        feeder.event(event);
    }
    feeder.end();
}

/// How many flows an answer has, and how many bytes they are.
async fn read(server: &NodeServer, request: GetFlowsRequest) -> Result<(usize, usize)> {
    let mut stream = server.written(&request)?;
    let (mut flows, mut bytes) = (0, 0);
    while let Some(message) = stream.next().await {
        bytes += message?.len();
        flows += 1;
    }
    Ok((flows, bytes))
}

/// Who sees the flows.
pub fn about() -> About {
    About {
        node_name: "default/node1".to_owned(),
        node_labels: vec!["kubernetes.io/hostname=node1".to_owned()],
        seed: 1,
    }
}

fn address(pod: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0af4_0000 + pod)
}

fn identity(pod: u32) -> u32 {
    1000 + pod % IDENTITIES
}

/// Tables with a thousand pods.
pub fn tables() -> Result<Tables> {
    let tables = Tables::new()?;
    let mut txn = tables.db.write();
    for id in 0..IDENTITIES {
        let labels = [
            format!("k8s:app=app-{id}"),
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop".to_owned(),
            "k8s:io.cilium.k8s.policy.cluster=default".to_owned(),
            "k8s:io.cilium.k8s.policy.serviceaccount=default".to_owned(),
            "k8s:io.kubernetes.pod.namespace=shop".to_owned(),
        ];
        let row = Identity {
            id: identity(id),
            labels: labels.into_iter().collect(),
            kind: IdentityKind::Cluster,
        };
        tables.identities.insert(&mut txn, row)?;
    }
    for pod in 0..PODS {
        let name = format!("shop/pod-{pod}");
        let row = RemoteEndpoint {
            key: name.as_str().into(),
            addresses: [IpAddr::from(address(pod))].into(),
            identity: identity(pod),
            ..RemoteEndpoint::default()
        };
        tables.cilium_endpoints.insert(&mut txn, row)?;
        let mut object = model::Pod::named("shop", &format!("pod-{pod}"));
        object.owner = format!("Deployment/app-{}", pod % IDENTITIES).into();
        tables.pods.insert(&mut txn, object)?;
    }
    txn.commit();
    Ok(tables)
}

fn wide(ip: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&ip.octets());
    bytes
}

/// Connections between pods, as the programs report them.
fn recorded() -> Vec<FlowEvent> {
    let event = |n: u32| {
        let (from, to) = (n * 7 % PODS, n * 13 % PODS);
        FlowEvent {
            kind: EventKind::Trace as u8,
            subtype: TracePoint::ToOverlay as u8,
            ct_status: if n.is_multiple_of(2) {
                CtStatus::New as u8
            } else {
                CtStatus::Reply as u8
            },
            endpoint: 17,
            proto: if n.is_multiple_of(10) { 17 } else { 6 },
            tcp_flags: 0x12,
            len: 74,
            src_id: identity(from),
            dst_id: identity(to),
            src: wide(address(from)),
            dst: wide(address(to)),
            sport: ((n % 28_000 + 32_768) as u16).to_be_bytes(),
            dport: 80u16.to_be_bytes(),
            ..FlowEvent::new_zeroed()
        }
    };
    (0..RING as u32).map(event).collect()
}
