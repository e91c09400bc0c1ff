//! Starts as a client of the API sees them: a lab of three nodes, and pods one after another, ten and a hundred at once, from
//! created to Ready, network and scheduler included. Times are taken by the client: a pod is created when the server has
//! answered or a watch shows it, whichever is first, and Ready when the watch says so.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream::FuturesUnordered};
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
/// How long one round may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Before every round, so that what the one before left is through.
const REST: Duration = Duration::from_secs(1);

/// Pods that are started in the same way.
struct Kind {
    name: &'static str,
    /// How many at once.
    pods: usize,
    rounds: usize,
    /// Goals in milliseconds: half of the pods, all but one of a hundred.
    goals: [f64; 2],
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "one",
        pods: 1,
        rounds: 40,
        goals: [100.0, 300.0],
    },
    Kind {
        name: "10-at-once",
        pods: 10,
        rounds: 10,
        goals: [150.0, 500.0],
    },
    Kind {
        name: "100-at-once",
        pods: 100,
        rounds: 5,
        goals: [150.0, 1000.0],
    },
];

/// What a round gave, milliseconds.
#[derive(Default)]
struct Round {
    /// Of every pod, from created to Ready.
    starts: Vec<f64>,
    /// Of every pod, from the client's request to Ready.
    asked: Vec<f64>,
    /// From the first request to the last pod Ready.
    all: f64,
    /// Processor time of the whole lab, by its parts.
    cpu: BTreeMap<String, f64>,
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
    let mut add = |name: &str, value: f64, goal: f64| {
        let row = Row::against_goal(format!("control/{name}"), "ms", value, goal);
        eprintln!("{row}");
        report.add(row);
    };
    add("lab/up", ready, 8000.0);
    let runtime = tokio::runtime::Runtime::new()?;
    let measured = runtime.block_on(async {
        let pods = connect(LAB).await?;
        let mut number = 0;
        for kind in &KINDS {
            let mut rounds = Vec::new();
            // The first one is not counted.
            for _ in 0..=kind.rounds {
                tokio::time::sleep(REST.min(REST / 10 * u32::try_from(kind.pods)?)).await;
                let round = tokio::time::timeout(LIMIT, round(&pods, number, kind.pods)).await;
                rounds.push(round.context("the pods do not become ready")??);
                number += 1;
            }
            tell(kind, &rounds[1..], &mut add);
        }
        anyhow::Ok(())
    });
    down()?;
    measured
}

/// The middle one of what each round has of it; the rounds of single pods are one.
fn tell(kind: &Kind, rounds: &[Round], add: &mut impl FnMut(&str, f64, f64)) {
    let of = |of: fn(&Round) -> &Vec<f64>, p: f64| {
        let each: Vec<f64> = match kind.pods {
            1 => vec![percentile(
                &rounds.iter().flat_map(of).copied().collect::<Vec<_>>(),
                p,
            )],
            _ => rounds
                .iter()
                .map(|round| percentile(of(round), p))
                .collect(),
        };
        percentile(&each, 0.5)
    };
    let name = |what: &str| format!("pod-start/{}/{what}", kind.name);
    let [half, most] = kind.goals;
    add(&name("p50"), of(|r| &r.starts, 0.5), half);
    add(&name("p99"), of(|r| &r.starts, 0.99), most);
    add(&name("asked/p50"), of(|r| &r.asked, 0.5), half);
    add(&name("asked/p99"), of(|r| &r.asked, 0.99), most);
    let all: Vec<f64> = rounds.iter().map(|r| r.all).collect();
    if kind.pods > 1 {
        add(&name("all"), percentile(&all, 0.5), most);
    }
    let pods = kind.pods as f64;
    let cpu: Vec<f64> = rounds
        .iter()
        .map(|r| r.cpu.values().sum::<f64>() / pods)
        .collect();
    add(&name("cpu"), percentile(&cpu, 0.5), 10.0);
    let parts = rounds.iter().flat_map(|round| round.cpu.keys());
    for part in parts.collect::<std::collections::BTreeSet<_>>() {
        let used = rounds.iter().filter_map(|round| round.cpu.get(part));
        let used: Vec<f64> = used.map(|ms| ms / pods).collect();
        eprintln!(
            "  {:<40} {:>8.2} ms of a processor per pod",
            part,
            percentile(&used, 0.5)
        );
    }
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

/// The pods of a lab's namespace `default`.
pub async fn connect(lab: &str) -> Result<Api<DynamicObject>> {
    let path = format!("/run/hypha-lab/{lab}/kubeconfig");
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?;
    let client = Client::try_from(config)?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
    Ok(Api::namespaced_with(client, "default", &kind))
}

/// Processor time, in milliseconds, that the parts of the lab have taken so far.
fn used() -> BTreeMap<String, f64> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let root = mounts.find_map(|mut words| {
        let at = PathBuf::from(words.nth(1)?);
        (words.next() == Some("cgroup2")).then_some(at)
    });
    let lab = root.unwrap_or_default().join(format!("hypha-lab-{LAB}"));
    let parts = fs::read_dir(lab).into_iter().flatten().flatten();
    let parts = parts.filter_map(|part| {
        let text = fs::read_to_string(part.path().join("cpu.stat")).ok()?;
        let used = text.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
        let name = part.file_name().to_string_lossy().into_owned();
        Some((name, used.parse::<f64>().ok()? / 1e3))
    });
    parts.collect()
}

async fn round(pods: &Api<DynamicObject>, number: usize, count: usize) -> Result<Round> {
    let label = format!("round={number}");
    let chosen = ListParams::default().labels(&label);
    let revision = pods.list(&chosen).await?.metadata.resource_version;
    let params = WatchParams::default().labels(&label);
    let mut events = Box::pin(pods.watch(&params, &revision.unwrap_or_default()).await?);
    let wanted: Vec<DynamicObject> = (0..count)
        .map(|i| serde_json::from_value(pod(number, i)))
        .collect::<Result<_, _>>()?;
    let options = PostParams::default();
    let before = used();
    let begin = Instant::now();
    let mut creating: FuturesUnordered<_> = wanted
        .iter()
        .map(|pod| async {
            let made = pods.create(&options, pod).await?;
            anyhow::Ok((name(&made), Instant::now()))
        })
        .collect();
    let (mut created, mut ready) = (BTreeMap::new(), BTreeMap::new());
    while ready.len() < count || !creating.is_empty() {
        tokio::select! {
            Some(made) = creating.next() => {
                let (name, at) = made?;
                created.entry(name).or_insert(at);
            }
            event = events.try_next() => match event?.context("the watch ended")? {
                WatchEvent::Added(pod) => {
                    created.entry(name(&pod)).or_insert_with(Instant::now);
                }
                WatchEvent::Modified(pod) if is_ready(&pod.data) => {
                    ready.entry(name(&pod)).or_insert_with(Instant::now);
                }
                _ => {}
            }
        }
    }
    let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
    let mut round = Round {
        all: ms(begin, Instant::now()),
        ..Round::default()
    };
    for (name, ready) in &ready {
        round
            .starts
            .extend(created.get(name).map(|at| ms(*at, *ready)));
        round.asked.push(ms(begin, *ready));
    }
    let after = used();
    round.cpu = after
        .into_iter()
        .map(|(part, ms)| {
            let ms = ms - before.get(&part).copied().unwrap_or_default();
            (part, ms)
        })
        .collect();
    let gone = DeleteParams::default().grace_period(0);
    pods.delete_collection(&gone, &chosen).await?;
    while !pods.list(&chosen).await?.items.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(round)
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
