//! A cluster of 5,000 nodes in one process: how fast the operator gives ranges, and what knowing 100,000 remote pods costs an agent.
use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use agent::scale::{desired, publish, routing_plan};
use anyhow::{Context, Result};
use apiserver::{ApiServer, ServerOptions};
use ipam::{NodeClaim, Planner, Space, Want, Written};
use k8s::{
    Client,
    crd::{self, CiliumNode},
    write::Objects,
};
use kube::{Api, Config, api::ListParams};
use model::{KUBERNETES, LocalNode, Namespace, Node, Pod, RESTORE, Tables};
use runtime::{
    health::Health,
    settings::{OperatorSettings, Settings},
    stop,
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::report::{Report, Row};

const NODES: u32 = 5_000;
const PODS: u32 = 100_000;
const NAMESPACES: u32 = 100;
/// How long the operator may take for all nodes before the bench gives up.
const LIMIT: Duration = Duration::from_secs(300);

/// Adds the figures whose names contain `filter`.
///
/// # Errors
/// The API server does not start, or the operator does not get through.
pub fn measure(filter: &Option<String>, report: &mut Report) -> Result<()> {
    let wanted = filter
        .as_ref()
        .is_none_or(|text| "scale/".contains(text.as_str()));
    if !wanted {
        return Ok(());
    }
    // The agent first: the memory of what came before would be counted.
    agent(report)?;
    planner(report)?;
    let rate = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the async runtime")?
        .block_on(operator())?;
    add(report, "scale/operator/5000-nodes", "nodes/s", rate, 200.0);
    Ok(())
}

fn add(report: &mut Report, name: &str, unit: &'static str, value: f64, goal: f64) {
    let row = Row::against_goal(name.to_owned(), unit, value, goal);
    eprintln!("{row}");
    report.add(row);
}

fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0 / f64::from(1 << 20)
}

fn node(n: u32) -> Node {
    let address = format!("10.{}.{}.1", 128 + n / 256, n % 256);
    Node {
        name: format!("node-{n:05}"),
        addresses: address.parse().into_iter().collect(),
        pod_cidrs: format!("10.{}.{}.0/24", n / 256, n % 256)
            .parse()
            .into_iter()
            .collect(),
        ..Node::default()
    }
}

fn pod(n: u32, version: u32) -> Pod {
    let (at, host) = (n % (NODES - 1) + 1, n / (NODES - 1) + 2);
    let label = |key: &str, value: String| (key.to_owned(), value);
    Pod {
        namespace: format!("team-{}", n % NAMESPACES),
        name: format!("app-{}-{n:06}", n % 1000),
        uid: format!("00000000-0000-4000-8000-{n:012}"),
        node: format!("node-{at:05}"),
        labels: BTreeMap::from([
            label("app", format!("app-{}", n % 1000)),
            label("version", version.to_string()),
        ]),
        addresses: format!("10.{}.{}.{host}", at / 256, at % 256)
            .parse()
            .into_iter()
            .collect(),
        ..Pod::default()
    }
}

/// Tables and plan of an agent that knows all nodes and pods: memory, and time of a plan after changes.
fn agent(report: &mut Report) -> Result<()> {
    let before = resident();
    let tables = Tables::new().context("making the tables")?;
    let plan = routing_plan(&Settings::default());
    let health = Health::default().component("plan");
    let mut txn = tables.db.write();
    tables.nodes.replace_all(&mut txn, (0..NODES).map(node))?;
    tables
        .pods
        .replace_all(&mut txn, (0..PODS).map(|n| pod(n, 0)))?;
    let namespace = |n: u32| Namespace {
        name: format!("team-{n}"),
        ..Namespace::default()
    };
    tables
        .namespaces
        .replace_all(&mut txn, (0..NAMESPACES).map(namespace))?;
    let local = LocalNode {
        addresses: node(0).addresses,
        router4: "10.0.0.1".parse().ok(),
        node: node(0),
        ..LocalNode::default()
    };
    tables.local_node.insert(&mut txn, local)?;
    tables.nodes.finish_initializer(&mut txn, KUBERNETES);
    tables.pods.finish_initializer(&mut txn, KUBERNETES);
    tables.namespaces.finish_initializer(&mut txn, KUBERNETES);
    tables.endpoints.finish_initializer(&mut txn, RESTORE);
    txn.commit();
    let once = |tables: &Tables| -> Result<f64> {
        let began = Instant::now();
        let snapshot = tables.db.snapshot();
        let rows = desired(tables, &snapshot, &plan, "default").context("there is no own node")?;
        publish(tables, rows, &health);
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    };
    let first = once(&tables)?;
    anyhow::ensure!(
        tables.prefixes.len(&tables.db.snapshot()) > PODS as usize,
        "the plan lacks pods"
    );
    let mut times = Vec::new();
    for round in 1..=5 {
        let mut txn = tables.db.write();
        for n in 0..100 {
            tables.pods.insert(&mut txn, pod(n * 997, round))?;
        }
        txn.commit();
        times.push(once(&tables)?);
    }
    times.sort_by(f64::total_cmp);
    add(
        report,
        "scale/agent/memory-100000-pods",
        "MiB",
        resident() - before,
        150.0,
    );
    add(report, "scale/agent/first-plan", "ms", first, 2000.0);
    add(
        report,
        "scale/agent/plan-after-100-changes",
        "ms",
        times[2],
        1000.0,
    );
    Ok(())
}

/// The decision alone, for all nodes at once.
fn planner(report: &mut Report) -> Result<()> {
    let pool = "cluster-pool".to_owned();
    let space = Space::new(vec!["10.0.0.0/8".parse()?], 24)?;
    let mut planner = Planner::new();
    planner.set_spaces(BTreeMap::from([((pool.clone(), false), space)]));
    let claim = |n: u32| NodeClaim {
        name: format!("node-{n:05}"),
        version: 1,
        wants: vec![Want {
            pool: pool.clone(),
            ipv6: false,
            addresses: 1,
        }],
        ..NodeClaim::default()
    };
    let claims: Vec<NodeClaim> = (0..NODES).map(claim).collect();
    let began = Instant::now();
    let plans = planner.plan(&claims);
    let ms = began.elapsed().as_secs_f64() * 1000.0;
    anyhow::ensure!(
        plans.iter().all(|plan| plan.give.len() == 1),
        "a node lacks a range"
    );
    for plan in &plans {
        planner.written(plan, Written::Done(2));
    }
    add(report, "scale/operator/plan-5000-nodes", "ms", ms, 100.0);
    Ok(())
}

/// Nodes per second that get their ranges, API server and watches included.
async fn operator() -> Result<f64> {
    let server = ApiServer::open(ServerOptions::default()).context("starting the API server")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    let client = Client::try_from(Config::new(url.parse()?))?;
    let kind = crd::ALL.iter().find(|crd| crd.kind == "CiliumNode");
    let kind = kind.context("there are no CiliumNodes")?;
    crd::install(&client, kind).await?;
    let objects = Objects::of(&client, kind);
    for n in 0..NODES {
        let value = json!({"metadata": {"name": format!("node-{n:05}")}, "spec": {}});
        objects.create(value).await?;
    }
    let mut settings = OperatorSettings::default();
    for (key, value) in [
        ("cluster-pool-ipv4-cidr", "10.0.0.0/8"),
        ("operator-api-serve-addr", ""),
        ("operator-prometheus-serve-addr", ""),
        ("nodes-gc-interval", "0s"),
    ] {
        settings.set(key, value, "bench")?;
    }
    let (stopper, stop) = stop::channel();
    let began = Instant::now();
    let running = tokio::spawn(operator::run_until(settings, client.clone(), stop));
    let nodes: Api<CiliumNode> = Api::all(client);
    loop {
        let list = nodes.list(&ListParams::default()).await?;
        let all = list
            .items
            .iter()
            .all(|node| !node.spec.ipam.pod_cidrs.is_empty());
        if all && !list.items.is_empty() {
            break;
        }
        anyhow::ensure!(began.elapsed() < LIMIT, "the operator does not get through");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let rate = f64::from(NODES) / began.elapsed().as_secs_f64();
    stopper.stop();
    running.await??;
    server.shutdown();
    Ok(rate)
}
