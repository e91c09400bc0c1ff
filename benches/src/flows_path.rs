//! What it costs packets that their flows are observed: the same programs on the same way, with an observer as the agent has it
//! against a reader that empties the ring as an agent without flows does. And how soon a drop is seen.
use std::{
    collections::HashMap,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use datapath::events::EventReader;
use flow::{
    Feeder, Observer,
    proto::{
        flow::{FlowFilter, Verdict, layer4::Protocol},
        observer::{
            GetFlowsRequest, get_flows_response::ResponseTypes, observer_client::ObserverClient,
        },
    },
    relay::connect::{self, Address},
    serve::{Listen, NodeServer, Peers, serve},
};
use model::Tables;
use runtime::stop;

use crate::{
    Args, flows,
    load::{Load, Target},
    report::{Report, Row, percentile},
    topology::{Family, Path, Stage},
};

/// Flows that a node keeps.
const RING: usize = 4095;
/// How often an agent without flows empties the ring.
const UNHEARD: Duration = Duration::from_millis(100);
/// Datagrams that are dropped.
const DROPS: u16 = 200;
/// An address that the client has not been given.
const FOREIGN: &str = "10.99.0.1";
/// The first port that they are sent to; each has its own.
const FIRST: u16 = 20_000;

/// Adds the figures that are asked for.
///
/// # Errors
/// A stage cannot be built, or does not work.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    for path in [Path::SameNode, Path::Native] {
        cost(args, path, report)?;
    }
    let name = "flows/drop-seen/p99";
    if args.filter.wants(name) {
        let row = Row::against_goal(name.to_owned(), "ms", drop_seen()?, 100.0);
        eprintln!("{row}");
        report.add(row);
    }
    Ok(())
}

fn cost(args: &Args, path: Path, report: &mut Report) -> Result<()> {
    let name = |load: Load| format!("flows/cost/{path}/{load}");
    let loads: Vec<Load> = [Load::TcpStream, Load::Crr, Load::Urr]
        .into_iter()
        .filter(|load| args.filter.wants(&name(*load)))
        .collect();
    if loads.is_empty() {
        return Ok(());
    }
    let (on, off) = (
        Stage::read_by(path, observe)?,
        Stage::read_by(path, unheard)?,
    );
    let [ours, theirs] = [&on, &off].map(|stage| Target::of(stage, Family::V4));
    let turns = args.turns().close();
    for load in loads {
        report.add(turns.between(name(load), load, &ours, &theirs)?);
    }
    Ok(())
}

/// Observers that were made, each with a socket.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Socket of an observer.
fn socket(number: u32) -> PathBuf {
    let name = format!("hypha-bench-{}-{number}.sock", std::process::id());
    std::env::temp_dir().join(name)
}

/// Reads events as the agent does that keeps and serves flows.
fn observe(mut events: EventReader, stop: &AtomicBool) -> Result<()> {
    let path = socket(MADE.fetch_add(1, Ordering::Relaxed));
    let observer = Observer::new(RING, flows::about());
    let mut feeder = Feeder::plain(&observer, flows::tables()?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let (_stopper, stopped) = stop::channel();
    let server = NodeServer::new(observer, stopped.clone());
    let peers = Peers::new(
        Tables::new()?,
        "default",
        None,
        false,
        false,
        stopped.clone(),
    );
    let listen = Listen {
        socket: Some(path.clone()),
        ..Listen::default()
    };
    runtime.block_on(serve(server, peers, &listen, &stopped))?;
    while !stop.load(Ordering::Relaxed) {
        feeder.begin();
        events.drain(|event| feeder.event(event));
        feeder.end();
        thread::sleep(events.interval());
    }
    runtime.shutdown_background();
    // It may be gone already.
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// Reads events as the agent does that keeps no flows.
fn unheard(mut events: EventReader, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        events.drain(|event| {
            std::hint::black_box(event);
        });
        thread::sleep(UNHEARD);
    }
    Ok(())
}

/// Milliseconds within which a follower has seen 99 of 100 datagrams that were dropped.
fn drop_seen() -> Result<f64> {
    let number = MADE.load(Ordering::Relaxed);
    let stage = Stage::read_by(Path::SameNode, observe)?;
    let (seen, told) = mpsc::channel();
    let (ready, begun) = mpsc::channel();
    let follower = thread::spawn(move || follow(number, &ready, &seen));
    begun
        .recv_timeout(Duration::from_secs(10))
        .context("the follower did not begin")?;
    let to = stage.server.address(Family::V4);
    let sent = stage
        .client
        .netns
        .run(|| -> Result<HashMap<u16, Instant>> {
            let added = Command::new("ip")
                .args(["addr", "add", &format!("{FOREIGN}/32"), "dev", "eth0"])
                .status()?;
            ensure!(added.success(), "the client got no foreign address");
            let socket = UdpSocket::bind((FOREIGN, 0))?;
            let mut sent = HashMap::new();
            for number in 0..DROPS {
                sent.insert(FIRST + number, Instant::now());
                socket.send_to(&[0], SocketAddr::new(to, FIRST + number))?;
                // Pauses of all lengths, so that the reader is met in all its moods.
                thread::sleep(Duration::from_millis(u64::from(number * 7 % 60)));
            }
            Ok(sent)
        })??;
    let mut late = Vec::new();
    while late.len() < usize::from(DROPS) {
        let told = told.recv_timeout(Duration::from_secs(5));
        let (port, at): (u16, Instant) = told.context("not all drops were seen")?;
        if let Some(sent) = sent.get(&port) {
            late.push((at - *sent).as_secs_f64() * 1e3);
        }
    }
    drop(told);
    drop(stage);
    follower
        .join()
        .map_err(|_| anyhow::anyhow!("the follower panicked"))??;
    Ok(percentile(&late, 0.99))
}

/// Follows what is dropped, as any client does, until the server goes.
fn follow(
    number: u32,
    ready: &mpsc::Sender<()>,
    seen: &mpsc::Sender<(u16, Instant)>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let address = Address::Unix(socket(number));
        let channel = connect::channel(&address, None, Duration::from_secs(5), false).await?;
        let dropped = FlowFilter {
            verdict: vec![Verdict::Dropped as i32],
            ..FlowFilter::default()
        };
        let request = GetFlowsRequest {
            follow: true,
            whitelist: vec![dropped],
            ..GetFlowsRequest::default()
        };
        let stream = ObserverClient::new(channel).get_flows(request).await?;
        let mut stream = stream.into_inner();
        ready.send(())?;
        while let Ok(Some(response)) = stream.message().await {
            let Some(ResponseTypes::Flow(flow)) = response.response_types else {
                continue;
            };
            let protocol = flow.l4.and_then(|l4| l4.protocol);
            let Some(Protocol::Udp(udp)) = protocol else {
                continue;
            };
            let port = u16::try_from(udp.destination_port)?;
            if seen.send((port, Instant::now())).is_err() {
                break;
            }
        }
        Ok(())
    })
}
