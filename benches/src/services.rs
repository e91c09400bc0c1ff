//! The task of services in a large cluster, from the tables that the watches fill to the rows in the kernel's maps: in a process
//! of its own, which holds nothing else.
use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    process,
    time::{Duration, Instant},
};

use agent::scale::{Namespaces, Services};
use anyhow::{Context, Result, ensure};
use datapath::{AttachMode, Datapath, MapSizes, Object, OpenOptions};
use hypha_e2e::{
    cluster::{Cluster, pod_yaml},
    policy::objects::Server,
};
use model::{
    KUBERNETES, LocalNode, Node, Protocol, RESTORE, Service, Tables,
    service::{Endpoint, ServicePort, Slice, SlicePort},
};
use nix::{
    mount::{MntFlags, umount2},
    time::{ClockId, clock_gettime},
};
use runtime::{health::Health, settings::Settings, stop};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tables::{Read, Revision};
use zerocopy::FromZeros;

use crate::{
    filter::Filter,
    report::{Report, Row, percentile},
};

const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 10;
/// Rows that the maps hold: an address, a frontend and its slots for each service.
const ROWS: &str = "262144";
/// Changes of one endpoint that are timed.
const CHANGES: u32 = 300;
/// How long the task may take before the bench gives up.
const LIMIT: Duration = Duration::from_secs(60);

/// What the process measured: milliseconds, and MB.
#[derive(Default, Serialize, Deserialize)]
struct Measured {
    cold: f64,
    restart: f64,
    rows: u64,
    changes: Vec<f64>,
    created: Vec<f64>,
    memory: f64,
}

/// Services that are made one after the other in a lab.
const MADE: usize = 30;
/// Tries to connect until it succeeds, and says when that was.
const TRY: &str = r"
import select, socket, sys, time
for line in sys.stdin:
    print('tries', flush=True)
    while True:
        own = socket.socket()
        own.setblocking(False)
        if own.connect_ex((line.strip(), 80)) in (0, 115):
            _, done, _ = select.select([], [own], [], 0.002)
            if done and own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                break
        own.close()
        time.sleep(0.0003)
    print(time.monotonic_ns(), flush=True)
    own.close()
";

/// Adds the figures that `filter` asks for.
///
/// # Errors
/// The process fails, or a service is not served.
pub fn measure(filter: &Filter, report: &mut Report) -> Result<()> {
    if filter.wants("services/task") {
        in_a_process(report)?;
    }
    if filter.wants("services/reachable") {
        let times = reachable()?;
        for (name, share, goal) in [("p50", 0.5, 15.0), ("p99", 0.99, 50.0)] {
            let name = format!("services/reachable/{name}");
            let value = percentile(&times, share);
            report.add(Row::against_goal(name, "ms", value, goal));
        }
    }
    Ok(())
}

/// From the moment when a service is written to the API server until a client on another node than the backend's reaches it:
/// controller, watches, plan, maps and sockets.
fn reachable() -> Result<Vec<f64>> {
    let cluster = Cluster::up("bench-services", &[]);
    cluster.lab.apply(
        &pod_yaml("back", "node2").replace("{name: back}", "{name: back, labels: {app: back}}"),
    );
    let server = Server::of_cluster(&cluster);
    let mut client = cluster
        .lab
        .exec_command("node1", &["python3", "-c", TRY])
        .stdin(process::Stdio::piped())
        .stdout(process::Stdio::piped())
        .spawn()?;
    let mut input = client.stdin.take().context("the client's input")?;
    let output = client.stdout.take().context("the client's output")?;
    let mut lines = BufReader::new(output).lines();
    let mut line = || {
        lines
            .next()
            .context("the client has ended")?
            .map_err(anyhow::Error::from)
    };
    let known = cluster.kubectl(&[
        "get",
        "svc",
        "kubernetes",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ]);
    let Ok(IpAddr::V4(first)) = known.trim().parse() else {
        anyhow::bail!("{known:?} is no IPv4 address of a service");
    };
    let mut times = Vec::new();
    for round in 0..MADE {
        let ip = std::net::Ipv4Addr::from(u32::from(first) + 150 + round as u32);
        writeln!(input, "{ip}")?;
        line()?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{round}"), "namespace": "default"},
            "spec": {"clusterIP": ip, "selector": {"app": "back"}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        let began = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        server.create(&[service]);
        let at: i64 = line()?.trim().parse()?;
        let began = began.tv_sec() * 1_000_000_000 + began.tv_nsec();
        times.push((at - began) as f64 / 1e6);
    }
    drop(input);
    client.wait()?;
    Ok(times)
}

fn in_a_process(report: &mut Report) -> Result<()> {
    let output = process::Command::new(env::current_exe()?)
        .arg("drive-services")
        .stdin(process::Stdio::null())
        .stderr(process::Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "the task of services failed: {}",
        output.status
    );
    let m: Measured = serde_json::from_slice(&output.stdout)?;
    let least = u64::from(SERVICES * (BACKENDS + 2));
    ensure!(m.rows >= least, "{} of {least} rows were written", m.rows);
    let rows = [
        ("cold", "ms", m.cold, 2000.0),
        ("restart", "ms", m.restart, 2000.0),
        (
            "endpoint-change/p50",
            "ms",
            percentile(&m.changes, 0.5),
            5.0,
        ),
        (
            "endpoint-change/p99",
            "ms",
            percentile(&m.changes, 0.99),
            10.0,
        ),
        ("created/p50", "ms", percentile(&m.created, 0.5), 5.0),
        ("created/p99", "ms", percentile(&m.created, 0.99), 15.0),
        ("memory", "MB", m.memory, 150.0),
    ];
    for (name, unit, value, goal) in rows {
        let name = format!("services/task/{name}");
        report.add(Row::against_goal(name, unit, value, goal));
    }
    Ok(())
}

/// Runs in the process: prints what it measured.
///
/// # Errors
/// The datapath cannot be opened, or the task does not get through.
pub fn drive() -> Result<()> {
    datapath::share_heap();
    let bpffs = env::temp_dir().join(format!("hypha-bench-{}-services", process::id()));
    datapath::ensure_bpffs(&bpffs)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    let options = OpenOptions {
        bpffs: bpffs.clone(),
        config: abi::DatapathConfig::new_zeroed(),
        sizes: MapSizes {
            conntrack: 1024,
            nat: 1024,
            services: ROWS.parse()?,
            ..MapSizes::default()
        },
        attach: AttachMode::Auto,
        object: Object::embedded(),
    };
    let measured = netlink::netns::create_unnamed()?
        .run(|| Datapath::open(&options))?
        .map_err(anyhow::Error::from)
        .and_then(|(datapath, _)| runtime.block_on(task(&datapath.into())));
    // Lazy: the maps are still open in this process.
    let _ = umount2(&bpffs, MntFlags::MNT_DETACH);
    let _ = std::fs::remove_dir(&bpffs);
    println!("{}", serde_json::to_string(&measured?)?);
    Ok(())
}

async fn task(datapath: &std::sync::Arc<Datapath>) -> Result<Measured> {
    let mut settings = Settings::default();
    settings.set("kube-proxy-replacement", "true", "bench")?;
    settings.set("bpf-lb-map-max", ROWS, "bench")?;
    let tables = filled()?;
    let mut m = Measured::default();
    {
        let (cold, _, stopper) = started(&tables, datapath, &settings).await?;
        m.cold = cold;
        stopper.stop();
        // The thread lets go of the maps' rows.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (restart, services, _stopper) = started(&tables, datapath, &settings).await?;
    m.restart = restart;
    let maps = datapath.services()?;
    m.rows = maps.v4.services.len()? as u64;
    for round in 0..CHANGES {
        let n = round * 37 % SERVICES;
        let began = Instant::now();
        let mut txn = tables.db.write();
        tables
            .services
            .slices
            .insert(&mut txn, slice(n, BACKENDS - round % 2))?;
        let revision = txn.commit();
        reached(&services, revision).await?;
        m.changes.push(millis(began));
    }
    for round in 0..CHANGES {
        let n = SERVICES + round;
        let began = Instant::now();
        let mut txn = tables.db.write();
        tables.services.slices.insert(&mut txn, slice(n, 2))?;
        tables.services.services.insert(&mut txn, service(n))?;
        let revision = txn.commit();
        reached(&services, revision).await?;
        m.created.push(millis(began));
    }
    datapath::trim_heap();
    m.memory = resident();
    Ok(m)
}

/// A task of services on these tables, once it has written everything: how long that took.
async fn started(
    tables: &Tables,
    datapath: &std::sync::Arc<Datapath>,
    settings: &Settings,
) -> Result<(f64, Services, stop::Stopper)> {
    let (health, (stopper, stop)) = (Health::default(), stop::channel());
    let began = Instant::now();
    let services = Services::new(tables, datapath, settings, Namespaces::default())?;
    services.spawn(datapath, health.component("services"), stop)?;
    reached(&services, tables.db.snapshot().revision()).await?;
    let problems = services.list().problems;
    ensure!(
        problems.is_empty(),
        "not everything is served: {:?}",
        problems.first()
    );
    Ok((millis(began), services, stopper))
}

async fn reached(services: &Services, revision: Revision) -> Result<()> {
    let mut settled = services.settled();
    let done = settled.wait_for(|reached| *reached >= revision);
    tokio::time::timeout(LIMIT, done)
        .await
        .context("the task of services does not get through")??;
    Ok(())
}

fn filled() -> Result<Tables> {
    let tables = Tables::new()?;
    let mut txn = tables.db.write();
    for n in 0..SERVICES {
        tables.services.services.insert(&mut txn, service(n))?;
        tables
            .services
            .slices
            .insert(&mut txn, slice(n, BACKENDS))?;
    }
    let local = LocalNode {
        node: Node {
            name: "n1".to_owned(),
            ..Node::default()
        },
        ..LocalNode::default()
    };
    tables.local_node.insert(&mut txn, local)?;
    let of = &tables.services;
    of.services.finish_initializer(&mut txn, KUBERNETES);
    of.slices.finish_initializer(&mut txn, KUBERNETES);
    of.redirects.finish_initializer(&mut txn, KUBERNETES);
    tables.pods.finish_initializer(&mut txn, KUBERNETES);
    tables.endpoints.finish_initializer(&mut txn, RESTORE);
    txn.commit();
    Ok(tables)
}

fn service(n: u32) -> Service {
    Service {
        key: format!("team-{}/service-{n}", n % 100).into(),
        cluster_ips: vec![IpAddr::from((0x0a60_0000_u32 + n + 1).to_be_bytes())],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
        }],
        ..Service::default()
    }
}

fn slice(n: u32, backends: u32) -> Slice {
    let address = |b: u32| IpAddr::from((0x0a80_0000 + n * BACKENDS + b).to_be_bytes());
    Slice {
        key: format!("team-{}/service-{n}-x", n % 100).into(),
        service: format!("team-{}/service-{n}", n % 100).into(),
        ports: vec![SlicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: (0..backends)
            .map(|b| Endpoint::ready(address(b), &format!("node-{}", b % 50)))
            .collect(),
        ..Slice::default()
    }
}

fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

/// MB of memory that this process uses.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        let rest = line.strip_prefix("VmRSS:")?.trim();
        rest.strip_suffix(" kB")?.trim().parse::<f64>().ok()
    });
    kib.unwrap_or(0.0) / 1024.0
}
