//! A cluster of 5,000 nodes in one process: how fast the operator gives ranges, and what knowing 100,000 remote pods costs an agent.
use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use agent::scale::{plan_loop, routing_plan};
use anyhow::{Context, Result, ensure};
use apiserver::{ApiServer, ServerOptions};
use futures::{StreamExt, stream};
use ipam::{NodeClaim, Planner, Space, Want, Written};
use k8s::{
    Client,
    crd::{self, CiliumNode},
    write::Objects,
};
use kube::{
    Api, Config,
    api::{ApiResource, DynamicObject, ListParams, PostParams},
};
use model::{
    Identity, IdentityKind, KUBERNETES, LocalNode, Node, Prefix, RESTORE, RemoteEndpoint, Route,
    Tables,
};
use nix::sys::resource::{UsageWho, getrusage};
use runtime::{
    health::Health,
    reconcile,
    settings::{OperatorSettings, Settings},
    stop,
};
use serde_json::json;
use tables::{Snapshot, reconcile::Target};
use tokio::net::TcpListener;

use crate::{
    filter::Filter,
    report::{Report, Row},
};

const NODES: u32 = 5_000;
/// Pods that the agent knows when its CPU time is measured, and all pods of the cluster.
const REMOTE_PODS: u32 = 100_000;
const PODS: u32 = 150_000;
const NAMESPACES: u32 = 100;
/// Changes per second, and for how long.
const CHANGES: u32 = 100;
const SECONDS: u32 = 5;
/// How long the operator may take for all nodes before the bench gives up.
const LIMIT: Duration = Duration::from_secs(300);
/// Requests at a time that fill the API server.
const FILLERS: usize = 32;

/// Adds the figures that `filter` asks for.
///
/// # Errors
/// The API server does not start, or the operator does not get through.
pub fn measure(filter: &Filter, report: &mut Report) -> Result<()> {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("starting the async runtime")
    };
    // The agent first: the memory of what came before would be counted.
    if filter.wants("scale/agent/") {
        runtime()?.block_on(agent(report))?;
    }
    if filter.wants("scale/operator/") {
        planner(report)?;
        let rate = runtime()?.block_on(operator())?;
        add(report, "scale/operator/5000-nodes", "nodes/s", rate, 2000.0);
    }
    Ok(())
}

fn add(report: &mut Report, name: &str, unit: &'static str, value: f64, goal: f64) {
    let row = Row::against_goal(name.to_owned(), unit, value, goal);
    eprintln!("{row}");
    report.add(row);
}

/// Memory of this process, in MB.
pub fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0 / f64::from(1 << 20)
}

/// CPU time of this process, in seconds.
fn cpu_time() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
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

/// A pod object as an API server sends it, in its incarnation `version`.
fn pod_object(n: u32, version: u32) -> serde_json::Value {
    let (at, host) = (n % (NODES - 1) + 1, n / (NODES - 1) + 2 + version % 2 * 100);
    let (app, address) = (n % 1000, format!("10.{}.{}.{host}", at / 256, at % 256));
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": format!("team-{}", n % NAMESPACES), "name": format!("app-{app}-7d4b9c6f5-{n:06}"),
            "uid": format!("{version:08}-0000-4000-8000-{n:012}"), "resourceVersion": n.to_string(),
            "labels": {"app": format!("app-{app}"), "version": "1", "pod-template-hash": "7d4b9c6f5"},
            "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {
                "f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}}},
                    "f:containerStatuses": {}, "f:hostIP": {}, "f:phase": {}, "f:podIP": {}, "f:podIPs": {}, "f:startTime": {}}}}],
        },
        "spec": {
            "nodeName": format!("node-{at:05}"), "serviceAccountName": "default", "restartPolicy": "Always",
            "containers": [{"name": "app", "image": "registry.example/app:1", "readinessProbe": probe, "livenessProbe": probe,
                "env": [{"name": "MODE", "value": "production"}], "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]}],
            "volumes": [{"name": "token", "emptyDir": {}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": "registry.example/app:1", "imageID": "", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
        },
    })
}

/// What the watch makes of a pod that its agent has published. Pods of a workload have one identity.
fn pod(n: u32, version: u32) -> Result<RemoteEndpoint> {
    let object = pod_object(n, version);
    let text = |path: &str| object.pointer(path).and_then(|value| value.as_str());
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let address = text("/status/podIP").context("an address")?;
    Ok(RemoteEndpoint {
        key: format!(
            "{}/{}",
            namespace.unwrap_or_default(),
            name.unwrap_or_default()
        )
        .into(),
        addresses: [address.parse()?].into(),
        identity: identity(n),
        node: node(n % (NODES - 1) + 1).address(false),
        ports: [].into(),
    })
}

fn identity(n: u32) -> u32 {
    1000 + n % 1000
}

/// In place of the kernel: counts.
struct Sink;

/// Operations on all sinks.
static OPERATIONS: AtomicU64 = AtomicU64::new(0);

impl<T: tables::Row> Target<T> for Sink {
    type Error = std::convert::Infallible;

    fn update(&mut self, _: &Snapshot, _: &T) -> Result<(), Self::Error> {
        OPERATIONS.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn delete(&mut self, _: &Snapshot, _: &T) -> Result<(), Self::Error> {
        OPERATIONS.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn prune(&mut self, _: &Snapshot, _: &mut dyn Iterator<Item = &T>) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// An agent's tables, planner and reconcilers that know all nodes and pods: memory, and CPU time under changes.
async fn agent(report: &mut Report) -> Result<()> {
    datapath::share_heap();
    let before = resident();
    let tables = Tables::new().context("making the tables")?;
    let health = Health::default();
    let (stopper, stop) = stop::channel();
    fill(&tables)?;
    reconcile::spawn::<Prefix, _>(
        &tables.db,
        &tables.prefixes,
        Default::default(),
        Sink,
        health.component("prefixes"),
        stop.clone(),
    );
    reconcile::spawn::<Route, _>(
        &tables.db,
        &tables.routes,
        Default::default(),
        Sink,
        health.component("routes"),
        stop.clone(),
    );
    let plan = routing_plan(&Settings::default());
    let began = Instant::now();
    let planning = plan_loop(tables.clone(), plan, None, health.component("plan"), stop);
    let planning = tokio::spawn(planning);
    settled(&tables, REMOTE_PODS as usize).await?;
    let first = began.elapsed().as_secs_f64() * 1000.0;
    let memory = resident() - before;
    add(
        report,
        "scale/agent/memory-100000-pods",
        "MiB",
        memory,
        120.0,
    );
    add(
        report,
        "scale/agent/first-plan-applied",
        "ms",
        first,
        2000.0,
    );
    add(
        report,
        "scale/agent/cpu-100-changes",
        "% of a core",
        under_changes(&tables).await?,
        5.0,
    );
    add_pods(&tables, REMOTE_PODS..PODS)?;
    settled(&tables, PODS as usize).await?;
    add(
        report,
        "scale/agent/memory-150000-pods",
        "MiB",
        resident() - before,
        180.0,
    );
    stopper.stop();
    planning.await?;
    Ok(())
}

/// As the watches do at start.
fn fill(tables: &Tables) -> Result<()> {
    let mut txn = tables.db.write();
    tables.nodes.replace_all(&mut txn, (0..NODES).map(node))?;
    let known = |n: u32| Identity {
        id: identity(n),
        labels: [format!("k8s:app=app-{n}")].into_iter().collect(),
        kind: IdentityKind::Cluster,
    };
    tables
        .identities
        .replace_all(&mut txn, (0..1000).map(known))?;
    let local = LocalNode {
        addresses: node(0).addresses,
        router4: "10.0.0.1".parse().ok(),
        node: node(0),
        ..LocalNode::default()
    };
    tables.local_node.insert(&mut txn, local)?;
    tables.nodes.finish_initializer(&mut txn, KUBERNETES);
    tables
        .cilium_endpoints
        .finish_initializer(&mut txn, KUBERNETES);
    tables.identities.finish_initializer(&mut txn, KUBERNETES);
    tables.endpoints.finish_initializer(&mut txn, RESTORE);
    txn.commit();
    add_pods(tables, 0..REMOTE_PODS)
}

fn add_pods(tables: &Tables, which: std::ops::Range<u32>) -> Result<()> {
    let rows: Vec<RemoteEndpoint> = which.map(|n| pod(n, 0)).collect::<Result<_>>()?;
    let mut txn = tables.db.write();
    for row in rows {
        tables.cilium_endpoints.insert(&mut txn, row)?;
    }
    txn.commit();
    Ok(())
}

/// Waits until the plan has that many pods and all of it was handed to the target.
async fn settled(tables: &Tables, pods: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let planned = tables.prefixes.len(&tables.db.snapshot());
        if planned > pods && OPERATIONS.load(Ordering::Relaxed) as usize >= planned {
            return Ok(());
        }
        ensure!(
            began.elapsed() < LIMIT,
            "the plan lacks pods: {planned} prefixes"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// CPU time in percent of a core while pods are replaced, each with another address.
async fn under_changes(tables: &Tables) -> Result<f64> {
    let rows: Vec<RemoteEndpoint> = (0..CHANGES * SECONDS)
        .map(|n| pod(n * 197 % REMOTE_PODS, 1))
        .collect::<Result<_>>()?;
    let operations = OPERATIONS.load(Ordering::Relaxed);
    let (began, before) = (Instant::now(), cpu_time()?);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHANGES);
    for row in rows {
        ticks.tick().await;
        let mut txn = tables.db.write();
        if tables.cilium_endpoints.insert_if_changed(&mut txn, row)? {
            txn.commit();
        }
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let used = (cpu_time()? - before) / began.elapsed().as_secs_f64() * 100.0;
    let done = OPERATIONS.load(Ordering::Relaxed) - operations;
    ensure!(
        done >= u64::from(2 * CHANGES * SECONDS),
        "changes were lost: {done} operations"
    );
    Ok(used)
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
    create_pods(&client).await?;
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

/// All pods of the cluster: the operator lists them, to know whose endpoints are garbage and where agents run.
async fn create_pods(client: &Client) -> Result<()> {
    let kind = |plural: &str, kind: &str| ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let namespaces: Api<DynamicObject> =
        Api::all_with(client.clone(), &kind("namespaces", "Namespace"));
    for n in 0..NAMESPACES {
        let value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("team-{n}")}});
        let object = serde_json::from_value(value)?;
        namespaces.create(&PostParams::default(), &object).await?;
    }
    let resource = kind("pods", "Pod");
    let create = |n: u32| {
        let namespace = format!("team-{}", n % NAMESPACES);
        let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
        async move {
            let mut value = pod_object(n, 0);
            value["metadata"]["resourceVersion"] = serde_json::Value::Null;
            let object = serde_json::from_value(value)?;
            pods.create(&PostParams::default(), &object).await?;
            anyhow::Ok(())
        }
    };
    let mut running = stream::iter(0..PODS).map(create).buffer_unordered(FILLERS);
    while let Some(created) = running.next().await {
        created?;
    }
    Ok(())
}
