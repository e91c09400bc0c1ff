//! Starts as a client of the API sees them: a lab of three nodes, and a hundred pods at once, from created to Ready, network and
//! scheduler included. Times are taken by the client, from a watch.
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{TryStreamExt, future::try_join_all};
use kube::{
    Api, Client, Config,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, PostParams, WatchEvent, WatchParams,
    },
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::report::{Report, Row, percentile};

const LAB: &str = "bench-pods";
const PODS: usize = 100;
const ROUNDS: usize = 5;
/// How long one round may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What a round gave, milliseconds.
struct Round {
    /// Of every pod, from created to Ready.
    starts: Vec<f64>,
    /// From the first creation to the last pod Ready.
    all: f64,
}

/// Starts a lab, measures, and ends it.
pub fn measure(bin: &Path, report: &mut Report) -> Result<()> {
    let hypha = bin.join("hypha");
    let up = || {
        run(
            &hypha,
            &["lab", "up", "--name", LAB, "--nodes", "3", "--sample"],
        )
    };
    let down = || run(&hypha, &["lab", "down", "--name", LAB]);
    // The figure is of a second start: the first one fills caches.
    up()?;
    down()?;
    let start = Instant::now();
    up()?;
    let ready = start.elapsed().as_secs_f64() * 1e3;
    let runtime = tokio::runtime::Runtime::new()?;
    let rounds = runtime.block_on(rounds());
    down()?;
    let rounds = rounds?;
    let of = |p: f64| -> Vec<f64> { rounds.iter().map(|r| percentile(&r.starts, p)).collect() };
    let all: Vec<f64> = rounds.iter().map(|r| r.all).collect();
    let rows = [
        ("control/lab/up", ready, 8000.0),
        ("control/pod-start/p50", percentile(&of(0.5), 0.5), 150.0),
        ("control/pod-start/p99", percentile(&of(0.99), 0.5), 1000.0),
        (
            "control/pod-start/100-at-once",
            percentile(&all, 0.5),
            1500.0,
        ),
    ];
    for (name, value, goal) in rows {
        let row = Row::against_goal(name.to_owned(), "ms", value, goal);
        eprintln!("{row}");
        report.add(row);
    }
    Ok(())
}

fn run(program: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    let status = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    ensure!(
        status.success(),
        "`{} {}` failed: {status}",
        program.display(),
        args.join(" ")
    );
    Ok(())
}

async fn rounds() -> Result<Vec<Round>> {
    let path = format!("/run/hypha-lab/{LAB}/kubeconfig");
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?;
    let client = Client::try_from(config)?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
    let pods: Api<DynamicObject> = Api::namespaced_with(client, "default", &kind);
    let mut rounds = Vec::new();
    // The first one is not counted.
    for number in 0..=ROUNDS {
        let round = tokio::time::timeout(LIMIT, round(&pods, number)).await;
        rounds.push(round.context("the pods do not become ready")??);
    }
    Ok(rounds.split_off(1))
}

async fn round(pods: &Api<DynamicObject>, number: usize) -> Result<Round> {
    let label = format!("round={number}");
    let revision = pods
        .list(&ListParams::default().limit(1))
        .await?
        .metadata
        .resource_version;
    let params = WatchParams::default().labels(&label);
    let mut events = Box::pin(pods.watch(&params, &revision.unwrap_or_default()).await?);
    let wanted: Vec<DynamicObject> = (0..PODS)
        .map(|i| serde_json::from_value(pod(number, i)))
        .collect::<Result<_, _>>()?;
    let options = PostParams::default();
    let begin = Instant::now();
    let creating = try_join_all(wanted.iter().map(|pod| pods.create(&options, pod)));
    let watching = async {
        let (mut created, mut starts) = (BTreeMap::new(), Vec::new());
        while starts.len() < PODS {
            let event = events.try_next().await?.context("the watch ended")?;
            let now = Instant::now();
            match event {
                WatchEvent::Added(pod) => drop(created.insert(name(&pod), now)),
                WatchEvent::Modified(pod) if is_ready(&pod.data) => {
                    let since = created.remove(&name(&pod));
                    starts.extend(since.map(|at| (now - at).as_secs_f64() * 1e3));
                }
                _ => {}
            }
        }
        anyhow::Ok(starts)
    };
    let (created, starts) = tokio::join!(creating, watching);
    created?;
    let all = begin.elapsed().as_secs_f64() * 1e3;
    let (gone, chosen) = (
        DeleteParams::default().grace_period(0),
        ListParams::default().labels(&label),
    );
    pods.delete_collection(&gone, &chosen).await?;
    while !pods.list(&chosen).await?.items.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(Round {
        starts: starts?,
        all,
    })
}

fn pod(round: usize, i: usize) -> Value {
    let container = json!({"name": "c", "image": "traefik/whoami"});
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("start-{round}-{i}"), "labels": {"round": round.to_string()}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
}

fn name(pod: &DynamicObject) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
}
