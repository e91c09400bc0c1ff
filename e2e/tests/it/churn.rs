//! Pods come and go in waves while agents, the operator and the API server are killed: no address is given twice, none is lost,
//! and at the end everything is as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hypha_e2e::cluster::Cluster;
use hypha_e2e::kernel;
use lab::proc::ProcId;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{skip_unless_root, wait_until};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
const DEPLOYMENTS: u64 = 3;
/// Of one deployment, and bare ones: 300 together.
const REPLICAS: u64 = 80;
const BARE: u64 = 60;
/// How long it may take until everything is well again.
const CALM: Duration = Duration::from_secs(120);

/// Small numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

struct Churn<'a> {
    cluster: &'a Cluster,
    done: AtomicBool,
    faults: Mutex<Vec<String>>,
}

impl Churn<'_> {
    fn over(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn fault(&self, text: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.push(text);
    }

    fn kubectl(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        let kubeconfig = self.cluster.lab.dir().join("kubeconfig");
        command
            .args(args)
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null());
        command
    }

    /// Does it, and again while the server is away.
    fn must(&self, args: &[&str], input: &str) -> String {
        let start = Instant::now();
        loop {
            let mut command = self.kubectl(args);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = command.spawn().expect("kubectl is installed");
            if let Some(mut pipe) = child.stdin.take() {
                let _ = pipe.write_all(input.as_bytes());
            }
            let output = child.wait_with_output().unwrap();
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).into_owned();
            }
            assert!(
                start.elapsed() < CALM,
                "{args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What is known of a pod that counts: where it is, and its addresses.
type Known = BTreeMap<String, Vec<String>>;

fn key(pod: &Value) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{} ({})", text("namespace"), text("name"), text("uid"))
}

/// Addresses of a pod's own. One that is on its way out has given them back, or is about to.
fn addresses(pod: &Value) -> Vec<String> {
    let gone = !pod["metadata"]["deletionTimestamp"].is_null()
        || matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        )
        || pod["spec"]["hostNetwork"] == true;
    let ips = pod["status"]["podIPs"].as_array().filter(|_| !gone);
    ips.into_iter()
        .flatten()
        .filter_map(|ip| ip["ip"].as_str().map(str::to_owned))
        .collect()
}

/// Address → pod, and what is there twice.
fn twice(known: &Known) -> Vec<String> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for (pod, ips) in known {
        for ip in ips {
            if let Some(other) = owners.insert(ip, pod) {
                found.push(format!("{ip}: {other} and {pod}"));
            }
        }
    }
    found
}

/// Follows all pods, in the order of the server's revisions, and looks at every one of them.
fn observe(churn: &Churn<'_>) -> u64 {
    let mut revisions = 0;
    while !churn.over() {
        let listed = churn.must(&["get", "--raw", "/api/v1/pods"], "");
        let Ok(list) = serde_json::from_str::<Value>(&listed) else {
            continue;
        };
        let items = list["items"].as_array().into_iter().flatten();
        let mut known: Known = items.map(|pod| (key(pod), addresses(pod))).collect();
        let revision = list["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        let path = format!("/api/v1/pods?watch=1&timeoutSeconds=300&resourceVersion={revision}");
        let mut command = churn.kubectl(&["get", "--raw", &path]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = Watch(child.expect("kubectl is installed"));
        let Some(out) = child.0.stdout.take() else {
            continue;
        };
        for line in BufReader::new(out).lines() {
            let event = line
                .ok()
                .and_then(|line| serde_json::from_str::<Value>(&line).ok());
            let Some(event) = event else { break };
            let pod = &event["object"];
            match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => drop(known.insert(key(pod), addresses(pod))),
                Some("DELETED") => drop(known.remove(&key(pod))),
                _ => break,
            }
            revisions += 1;
            let found = twice(&known);
            if !found.is_empty() {
                churn.fault(format!("given twice: {found:?}"));
                return revisions;
            }
            if churn.over() {
                break;
            }
        }
    }
    revisions
}

struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills somebody every second or two; how often each.
fn kill(churn: &Churn<'_>, seed: u64) -> BTreeMap<&'static str, u32> {
    let mut dice = Dice(seed);
    let mut kills = BTreeMap::new();
    while !churn.over() {
        thread::sleep(Duration::from_millis(1000 + dice.roll(1000)));
        let (name, victim): (_, Option<ProcId>) = match dice.roll(5) {
            0 => ("operator", churn.cluster.operator_process()),
            1 => ("API server", churn.cluster.api_server_process()),
            n => ("agent", churn.cluster.agent_process(NODES[n as usize - 2])),
        };
        if victim.is_some_and(|process| process.signal(Signal::SIGKILL)) {
            *kills.entry(name).or_default() += 1;
        }
    }
    kills
}

fn deployment(number: u64) -> Value {
    let (name, labels) = (
        format!("wave-{number}"),
        json!({"app": format!("wave-{number}")}),
    );
    let container = json!({"name": "c", "image": "registry.k8s.io/pause"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 0, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}}})
}

fn bare(number: u64) -> Value {
    let container = json!({"name": "c", "image": "registry.k8s.io/pause"});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("bare-{number}"), "labels": {"app": "bare"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
}

fn list(items: impl Iterator<Item = Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>()}).to_string()
}

/// One change of what shall run.
fn wave(churn: &Churn<'_>, dice: &mut Dice) {
    let name = format!("deployment/wave-{}", dice.roll(DEPLOYMENTS));
    let replicas = format!("--replicas={}", dice.roll(REPLICAS + 1));
    match dice.roll(6) {
        0..=2 => churn.must(&["scale", &name, &replicas], ""),
        3 => churn.must(&["rollout", "restart", &name], ""),
        4 => {
            let first = dice.roll(BARE);
            let some = (first..BARE.min(first + 20)).map(bare);
            churn.must(&["apply", "-f", "-"], &list(some))
        }
        _ => {
            let first = dice.roll(BARE);
            let names: Vec<String> = (first..BARE.min(first + 20))
                .map(|n| format!("bare-{n}"))
                .collect();
            let mut args = vec!["delete", "pod", "--ignore-not-found", "--wait=false"];
            args.extend(names.iter().map(String::as_str));
            churn.must(&args, "")
        }
    };
}

fn pods(churn: &Churn<'_>) -> Vec<Value> {
    let text = churn.must(&["get", "--raw", "/api/v1/namespaces/default/pods"], "");
    let list: Value = serde_json::from_str(&text).unwrap();
    list["items"].as_array().cloned().unwrap_or_default()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
}

/// Everything that is asked for runs: 300 pods, each with addresses of its own.
fn assert_full(churn: &Churn<'_>) {
    for number in 0..DEPLOYMENTS {
        let replicas = format!("--replicas={REPLICAS}");
        churn.must(
            &["scale", &format!("deployment/wave-{number}"), &replicas],
            "",
        );
    }
    // Some of the old ones may be on their way out.
    wait_until("the deleted pods are gone", CALM, || {
        pods(churn)
            .iter()
            .all(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .then_some(())
    });
    churn.must(&["apply", "-f", "-"], &list((0..BARE).map(bare)));
    let wanted = (DEPLOYMENTS * REPLICAS + BARE) as usize;
    let mut last = String::new();
    let end = Instant::now() + CALM;
    loop {
        let all = pods(churn);
        let ready = all.iter().filter(|pod| is_ready(pod)).count();
        if all.len() == wanted && ready == wanted {
            let known: Known = all.iter().map(|pod| (key(pod), addresses(pod))).collect();
            assert_eq!(twice(&known), Vec::<String>::new());
            assert!(
                known.values().all(|ips| ips.len() == 2),
                "each has an address of each family"
            );
            return;
        }
        if ready != last.len() {
            last = "x".repeat(ready);
        }
        assert!(
            Instant::now() < end,
            "{ready} of {} pods are ready, {wanted} are wanted: {}",
            all.len(),
            stuck(&all)
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// A few pods that are not as they should be.
fn stuck(pods: &[Value]) -> String {
    let odd = pods.iter().filter(|pod| !is_ready(pod)).take(3);
    odd.map(|pod| {
        format!(
            "\n{} on {}: {}",
            key(pod),
            pod["spec"]["nodeName"],
            pod["status"]
        )
    })
    .collect()
}

/// What a node has, without pods.
fn state(cluster: &Cluster, node: &str) -> (BTreeSet<String>, Vec<(String, u64)>) {
    let status = cluster.agent(node).healthz().expect("the agent's state");
    let pools = status
        .ipam
        .iter()
        .map(|pool| (format!("{:?}", pool.family), pool.allocated));
    (kernel::inventory(cluster, node), pools.collect())
}

fn churns(duration: Duration) {
    if skip_unless_root() {
        return;
    }
    let given = std::env::var("CHURN_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed: u64 =
        given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1);
    eprintln!("seed {seed} (CHURN_SEED)");
    let cluster = Cluster::up("e2e-churn", &[]);
    let before: Vec<_> = NODES.iter().map(|node| state(&cluster, node)).collect();
    let churn = Churn {
        cluster: &cluster,
        done: AtomicBool::new(false),
        faults: Mutex::default(),
    };
    churn.must(
        &["apply", "-f", "-"],
        &list((0..DEPLOYMENTS).map(deployment)),
    );
    let (waves, kills, revisions) = thread::scope(|scope| {
        let observer = scope.spawn(|| observe(&churn));
        let killer = scope.spawn(|| kill(&churn, seed.rotate_left(7) | 1));
        let (mut dice, start, mut waves) = (Dice(seed), Instant::now(), 0);
        while start.elapsed() < duration && churn.faults.lock().unwrap().is_empty() {
            wave(&churn, &mut dice);
            waves += 1;
            thread::sleep(Duration::from_millis(dice.roll(400)));
        }
        churn.done.store(true, Ordering::Relaxed);
        let kills = killer.join().unwrap();
        // The observer ends with the next change.
        churn.must(&["scale", "deployment/wave-0", "--replicas=1"], "");
        churn.must(&["scale", "deployment/wave-0", "--replicas=2"], "");
        (waves, kills, observer.join().unwrap())
    });
    eprintln!("{waves} waves, {revisions} changes of pods seen, kills: {kills:?}");
    assert_eq!(churn.faults.lock().unwrap().join("\n"), "");
    let killed: u32 = kills.values().sum();
    assert!(revisions > 300 && waves > 5 && killed > 5, "the test tests");

    for node in NODES {
        cluster.wait_replaced(node, None);
    }
    let start = Instant::now();
    assert_full(&churn);
    eprintln!("300 pods ready after {:?}", start.elapsed());
    cluster.assert_clean();
    churn.must(&["delete", "deployment", "--all"], "");
    churn.must(&["delete", "pod", "--all", "--wait=false"], "");
    wait_until("no pod is left", CALM, || {
        pods(&churn).is_empty().then_some(())
    });
    for (node, before) in NODES.iter().zip(&before) {
        let mut after = state(&cluster, node);
        let end = Instant::now() + CALM;
        while after != *before && Instant::now() < end {
            thread::sleep(Duration::from_millis(100));
            after = state(&cluster, node);
        }
        let more: Vec<_> = after.0.difference(&before.0).collect();
        let less: Vec<_> = before.0.difference(&after.0).collect();
        assert!(
            more.is_empty() && less.is_empty(),
            "{node}: left over: {more:#?}\nmissing: {less:#?}"
        );
        assert_eq!(after.1, before.1, "{node}: addresses");
    }
    let endpoints = cluster.list("/apis/cilium.io/v2/namespaces/default/ciliumendpoints");
    assert_eq!(endpoints, Vec::<Value>::new());
    cluster.assert_clean();
}

#[test]
fn e2e_churn_with_kills() {
    churns(Duration::from_secs(20));
}

#[test]
#[ignore = "takes ten minutes"]
fn e2e_churn_with_kills_for_long() {
    churns(Duration::from_secs(600));
}
