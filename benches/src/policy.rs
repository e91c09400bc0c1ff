//! Network policy: how fast a change is enforced, what resolving costs, and what asking costs packets.
mod task;

use std::{
    path::Path,
    pin::pin,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

pub use task::drive;

use anyhow::{Context, Result, ensure};
use futures::{AsyncBufReadExt, StreamExt};
use hypha_e2e::policy::{
    objects::{Server, cnp, wait_in_force},
    stage::Stage,
};
use kube::{
    Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind, WatchParams},
    core::Request,
};
use model::Labels;
use policy::{
    Settings,
    parse::{self, Options},
    resolve::{Change, Engine, Subject},
    rule::NamedPorts,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    filter::Filter,
    load::{Load, Target},
    report::{Report, Row, percentile},
    turns::Turns,
};

/// Of the pure measure: a large cluster, and one node of it.
const IDENTITIES: u32 = 10_000;
const POLICIES: u32 = 2_000;
const SUBJECTS: u32 = 250;
const LABEL_CHANGES: u32 = 200;
/// Changes of a policy that are timed in the lab.
const CHANGES: usize = 100;
/// Times that many rows are written.
const REPLACED: usize = 20;
/// Entries of the large policy, and of the one that packets are asked about.
const LARGE: usize = 3_000;
const ASKED: usize = 1_000;
/// How long an agent may take before the bench gives up.
const LIMIT_SECONDS: u64 = 20;

/// Adds the figures that `filter` asks for.
///
/// # Errors
/// The lab does not start, or an agent does not get through.
pub fn measure(filter: &Filter, bin: &Path, turns: Turns, report: &mut Report) -> Result<()> {
    if filter.wants("policy/task/") {
        task::measure(report)?;
    }
    if filter.wants("policy/resolve/") {
        resolve(report)?;
    }
    let (applied, asked) = (
        filter.wants("policy/applied/"),
        filter.wants("policy/datapath/"),
    );
    if applied || asked {
        ensure!(
            bin.join("hypha").exists(),
            "{} has no hypha: run `make build` first",
            bin.display()
        );
        let stage = Stage::up("bench-policy", &[]);
        let server = Server::of(&stage);
        if applied {
            enforced(&stage, &server, report)?;
        }
        if asked {
            datapath(&stage, &server, turns.close(), report)?;
        }
    }
    Ok(())
}

fn add(report: &mut Report, name: &str, unit: &'static str, value: f64, goal: f64) {
    let row = Row::against_goal(name.to_owned(), unit, value, goal);
    eprintln!("{row}");
    report.add(row);
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Labels of a pod: one of a thousand apps, in one of a hundred namespaces.
fn labels(number: u32, version: u32) -> Labels {
    [
        format!("k8s:app=app-{}", number % 1000),
        format!("k8s:version=v{version}"),
        format!("k8s:pod={number}"),
        format!("k8s:io.kubernetes.pod.namespace=team-{}", number % 100),
        "k8s:io.cilium.k8s.policy.cluster=default".to_owned(),
    ]
    .into_iter()
    .collect()
}

/// A policy as people write them: one app, three peers, two ports.
fn written(number: u32) -> Value {
    let peer = |offset: u32| {
        let app = (number * 7 + offset * 100) % 1000;
        json!({"matchLabels": {"app": format!("app-{app}"), "k8s:io.kubernetes.pod.namespace": format!("team-{}", app % 100)}})
    };
    let app = number % 1000;
    let mut object = cnp(
        &format!("team-{}", app % 100),
        &format!("policy-{number}"),
        &json!({
            "endpointSelector": {"matchLabels": {"app": format!("app-{app}")}},
            "ingress": [{"fromEndpoints": [peer(1), peer(2), peer(3)],
                "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}, {"port": "443", "protocol": "TCP"}]}]}],
        }),
    );
    object["metadata"]["uid"] = json!(format!("{number}"));
    object
}

/// The engine alone, as one agent of a large cluster has it.
fn resolve(report: &mut Report) -> Result<()> {
    let parsed = (0..POLICIES)
        .map(|number| parse::policy(&written(number), Options::default()))
        .collect::<Result<Vec<_>, _>>()?;
    let before = crate::scale::resident();
    let identity = |number, version| {
        Change::Identity(256 + number, labels(number, version), NamedPorts::new())
    };
    let subject = |number, version| {
        let labels = labels(number, version);
        Change::Subject(
            256 + number,
            Subject {
                labels,
                ports: NamedPorts::new(),
            },
        )
    };
    let all: Vec<Change> = (0..IDENTITIES)
        .map(|number| identity(number, 0))
        .chain((0..SUBJECTS).map(|number| subject(number, 0)))
        .chain(parsed.into_iter().map(Change::Policy))
        .collect();
    let start = Instant::now();
    let mut engine = Engine::new(Settings::default());
    let rows = engine.apply(all).ops.len();
    add(report, "policy/resolve/cold", "ms", millis(start), 1000.0);
    add(
        report,
        "policy/resolve/memory",
        "MB",
        crate::scale::resident() - before,
        150.0,
    );
    ensure!(rows > 0, "nothing was resolved");
    let times: Vec<f64> = (0..LABEL_CHANGES)
        .map(|round| {
            // Half of them are pods of this node.
            let number = if round % 2 == 0 {
                round % SUBJECTS
            } else {
                SUBJECTS + round * 37 % (IDENTITIES - SUBJECTS)
            };
            let mut changes = vec![identity(number, round + 1)];
            if number < SUBJECTS {
                changes.push(subject(number, round + 1));
            }
            let start = Instant::now();
            engine.apply(changes);
            millis(start)
        })
        .collect();
    add(
        report,
        "policy/resolve/label-change/p99",
        "ms",
        percentile(&times, 0.99),
        50.0,
    );
    Ok(())
}

/// A policy with so many rows: every second port, so that no row covers another.
fn large(name: &str, rows: usize, first_port: usize) -> Value {
    let ports: Vec<Value> = (0..rows)
        .map(|number| json!({"port": (first_port + number * 2).to_string(), "protocol": "UDP"}))
        .collect();
    let lists: Vec<Value> = ports
        .chunks(40)
        .map(|ports| json!({"ports": ports}))
        .collect();
    cnp(
        "a",
        name,
        &json!({
            "endpointSelector": {},
            "ingress": [{"fromEndpoints": [{}]}, {"fromEntities": ["all"], "toPorts": lists}],
            "egress": [{"toEntities": ["all"]}],
        }),
    )
}

/// The policy for other pods.
fn selecting(mut policy: Value, selector: &Value) -> Value {
    policy["spec"]["endpointSelector"] = selector.clone();
    policy
}

/// From the call that writes a policy to the moment when every node enforces it.
fn enforced(stage: &Stage, server: &Server, report: &mut Report) -> Result<()> {
    let small = |number: usize| {
        cnp(
            "a",
            "small",
            &json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "web"}}],
            "toPorts": [{"ports": [{"port": (1000 + number).to_string(), "protocol": "TCP"}]}]}]}),
        )
    };
    let (told, began) = (Told::of(stage, "small")?, Instant::now());
    let created = server.create(&[small(0)]);
    wait_in_force(stage, &created);
    told.since(began)?;
    let (mut times, mut from_event) = (Vec::new(), Vec::new());
    for number in 1..=CHANGES {
        let (start, end) = time(stage, server, &small(number))?;
        times.push(between((start, end)));
        from_event.push(between((told.since(start)?, end)));
    }
    server.delete(&created);
    wait_in_force(stage, &[]);
    let mut row = |name: &str, times: &[f64], part: f64, goal: f64| {
        let name = format!("policy/applied/{name}");
        add(report, &name, "ms", percentile(times, part), goal);
    };
    row("p50", &times, 0.5, 15.0);
    row("p99", &times, 0.99, 50.0);
    row("from-watch-event/p50", &from_event, 0.5, 5.0);
    row("from-watch-event/p99", &from_event, 0.99, 50.0);
    // Beside a policy with many rows that stays, and with all of many rows replaced by others.
    let created = server.create(&[large("large", LARGE, 10_000), small(0)]);
    wait_in_force(stage, &created);
    let beside = (1..=CHANGES)
        .map(|number| time(stage, server, &small(number)).map(between))
        .collect::<Result<Vec<f64>>>()?;
    row("beside-3000-entries/p50", &beside, 0.5, 15.0);
    // As many for one pod, and for three on two nodes, each with rows of its own.
    for (pods, selector) in [
        ("", json!({"matchLabels": {"app": "web"}})),
        // A merge takes away only what is null.
        ("3-times-", json!({"matchLabels": null})),
    ] {
        let [few, rows, others] = [(1, 10_000), (LARGE, 10_000), (LARGE, 10_001)]
            .map(|(rows, first_port)| selecting(large("large", rows, first_port), &selector));
        for (what, before) in [("applied", few), ("replaced", others)] {
            let told = Told::of(stage, "large")?;
            let (mut times, mut from_event) = (Vec::new(), Vec::new());
            for _ in 0..REPLACED {
                time(stage, server, &before)?;
                let (start, end) = time(stage, server, &rows)?;
                times.push(between((start, end)));
                from_event.push(between((told.since(start)?, end)));
            }
            let name = format!("{pods}{LARGE}-entries-{what}");
            row(&format!("{name}/p50"), &times, 0.5, 50.0);
            let name = format!("{name}/from-watch-event/p50");
            row(&name, &from_event, 0.5, 15.0);
        }
    }
    server.delete(&created);
    wait_in_force(stage, &[]);
    Ok(())
}

/// When the API server tells of a policy that says something else than before: at the same time agents hear of it.
struct Told(mpsc::Receiver<Instant>);

/// What is read of an event: little, since agents work at the same time.
#[derive(Deserialize)]
struct Event {
    object: Named,
}

#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

/// The generation is another one with each change of what a policy says.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    generation: u64,
}

impl Told {
    /// Watches the policies of a name.
    fn of(stage: &Stage, name: &'static str) -> Result<Self> {
        let path = stage.cluster.lab.dir().join("kubeconfig");
        let (sender, receiver) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the async runtime")?;
        let work = async move {
            let client = k8s::from_kubeconfig(&path, None).await?;
            let kind = GroupVersionKind::gvk("cilium.io", "v2", "CiliumNetworkPolicy");
            let kind = ApiResource::from_gvk_with_plural(&kind, "ciliumnetworkpolicies");
            let request = Request::new(DynamicObject::url_path(&kind, None))
                .watch(&WatchParams::default(), "0")?;
            let mut lines = pin!(client.request_stream(request).await?.lines());
            let mut known = 0;
            while let Some(line) = lines.next().await {
                let at = Instant::now();
                let Named { metadata } = serde_json::from_str::<Event>(&line?)?.object;
                if metadata.name == name && metadata.generation != known {
                    known = metadata.generation;
                    if sender.send(at).is_err() {
                        break;
                    }
                }
            }
            anyhow::Ok(())
        };
        thread::spawn(move || runtime.block_on(work));
        Ok(Self(receiver))
    }

    /// When the last change since `start` was told.
    fn since(&self, start: Instant) -> Result<Instant> {
        let limit = Duration::from_secs(LIMIT_SECONDS);
        loop {
            let at = self.0.recv_timeout(limit).context("no watch event")?;
            if at > start {
                return Ok(at);
            }
        }
    }
}

/// Changes a policy; when it was asked for, and when the last node enforced it.
fn time(stage: &Stage, server: &Server, object: &Value) -> Result<(Instant, Instant)> {
    let waits = stage
        .nodes
        .iter()
        .map(|node| {
            let mut agent = stage.cluster.agent(node);
            let next = agent.policy_revision()?.revision + 1;
            Ok(thread::spawn(move || -> Result<Instant> {
                let path = api::path::policy_wait(next, LIMIT_SECONDS);
                let at: api::PolicyRevision = agent.get(&path)?;
                ensure!(
                    at.realized >= next,
                    "revision {next} is not enforced after {LIMIT_SECONDS} s"
                );
                Ok(Instant::now())
            }))
        })
        .collect::<Result<Vec<_>>>()?;
    let merge = server.ready_to_merge(object, &json!({"spec": object["spec"]}));
    let start = Instant::now();
    merge();
    let mut last = start;
    for wait in waits {
        let at = wait
            .join()
            .map_err(|_| anyhow::anyhow!("a wait panicked"))??;
        last = last.max(at);
    }
    Ok((start, last))
}

fn between((start, end): (Instant, Instant)) -> f64 {
    end.saturating_duration_since(start).as_secs_f64() * 1e3
}

/// Packets of an endpoint with a thousand rows against those of the same one with none, in turns.
fn datapath(stage: &Stage, server: &Server, turns: Turns, report: &mut Report) -> Result<()> {
    let rules = large("asked", ASKED, 40_000);
    for (path, from, to) in [("same-node", "a/x", "a/y"), ("other-node", "a/x", "a/z")] {
        let (from, to) = (
            &stage.actors[stage.find(from)],
            &stage.actors[stage.find(to)],
        );
        let address = to.ip(true).context("a pod without address")?;
        for load in [Load::TcpStream, Load::Rr, Load::Crr] {
            let name = format!("policy/datapath/{path}/{load}");
            let row = turns.row(name, load, |ruled| {
                let created = if ruled {
                    server.create(std::slice::from_ref(&rules))
                } else {
                    Vec::new()
                };
                wait_in_force(stage, &created);
                let target = Target::between(&from.netns, &to.netns, address);
                let figure = load.run(&target, turns.duration)?;
                server.delete(&created);
                wait_in_force(stage, &[]);
                Ok(figure)
            })?;
            report.add(row);
        }
    }
    Ok(())
}
