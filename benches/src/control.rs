//! The control path: what a pod's start and end cost, what an agent weighs and how fast it is back. Measured in a real lab of one
//! node with the release binaries; there is no kernel counterpart, so the ratio is to the goal.
use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kube::api::PostParams;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    report::{Report, Row, percentile},
    starts,
};

const LAB: &str = "bench";
/// Pods one after another, and at once.
const PODS: usize = 100;
const RESTARTS: usize = 10;
/// The first pods pay for what the kernel sets up once.
const WARM: &str = "warm";
const WARM_PODS: usize = 3;
const SERIAL: &str = "serial";
const BURST: &str = "burst";
/// Until the kubelet looks for the volumes that are not there only every few seconds.
const UNTIL_CALM: Duration = Duration::from_secs(8);
/// Until an agent has given back what a burst of pods took.
const UNTIL_IDLE: Duration = Duration::from_secs(15);

/// What the driver inside the node measured, milliseconds.
#[derive(Serialize, Deserialize)]
struct Measured {
    add: Vec<f64>,
    del: Vec<f64>,
    all_at_once: f64,
    start: Vec<f64>,
    restart: Vec<f64>,
    programs_before: usize,
    programs_after: usize,
    agent_rss: f64,
}

/// Starts a lab, measures in it, and ends it.
pub fn measure(bin: &Path, report: &mut Report) -> Result<()> {
    let hypha = bin.join("hypha");
    ensure!(
        hypha.exists(),
        "{} is not there: run `make build` first",
        hypha.display()
    );
    let up = ["lab", "up", "--name", LAB, "--nodes", "1"];
    run(&hypha, &[&up[..], &["--max-restart-pause", "0"]].concat())?;
    let measured = announce().and_then(|()| drive(&hypha, bin));
    run(&hypha, &["lab", "down", "--name", LAB])?;
    add_rows(&measured?, bin, report)
}

/// Makes the objects of the pods that the driver attaches, on the node: an agent waits for one that the API server does not have.
/// Each asks for a volume that is not there, so that the node's kubelet never comes to attach it itself.
fn announce() -> Result<()> {
    let object = |name: String| {
        let source = json!({"name": "v", "configMap": {"name": "not-there"}});
        let container = json!({"name": "c", "image": "traefik/whoami"});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "node1", "volumes": [source], "containers": [container]}})
    };
    let create = async {
        let pods = starts::connect(LAB).await?;
        for name in names() {
            let pod = serde_json::from_value(object(name))?;
            pods.create(&PostParams::default(), &pod).await?;
        }
        anyhow::Ok(())
    };
    tokio::runtime::Runtime::new()?.block_on(create)?;
    thread::sleep(UNTIL_CALM);
    Ok(())
}

/// Of all pods that the driver attaches.
fn names() -> impl Iterator<Item = String> {
    let kinds = [(WARM, WARM_PODS), (SERIAL, PODS), (BURST, PODS)];
    let of = |(kind, count): (&'static str, usize)| (0..count).map(move |i| pod_name(kind, i));
    kinds.into_iter().flat_map(of)
}

fn pod_name(kind: &str, i: usize) -> String {
    format!("bench-{kind}-{i}")
}

fn drive(hypha: &Path, bin: &Path) -> Result<Measured> {
    let own = env::current_exe()?;
    let (own, bin) = (own.display().to_string(), bin.display().to_string());
    let out = run(
        hypha,
        &[
            "lab",
            "exec",
            "--name",
            LAB,
            "node1",
            "--",
            &own,
            "drive-cni",
            "--bin",
            &bin,
        ],
    )?;
    serde_json::from_str(out.trim()).with_context(|| format!("the driver said: {out}"))
}

fn run(program: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "`{} {}` failed: {}",
        program.display(),
        args.join(" "),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn add_rows(m: &Measured, bin: &Path, report: &mut Report) -> Result<()> {
    let size = |name: &str| -> Result<f64> { Ok(fs::metadata(bin.join(name))?.len() as f64 / 1e6) };
    let rows = [
        ("control/cni-add/median", "ms", percentile(&m.add, 0.5), 5.0),
        ("control/cni-add/p99", "ms", percentile(&m.add, 0.99), 10.0),
        ("control/cni-add/100-at-once", "ms", m.all_at_once, 600.0),
        ("control/cni-del/median", "ms", percentile(&m.del, 0.5), 5.0),
        ("control/cni/start", "ms", percentile(&m.start, 0.5), 2.0),
        (
            "control/agent/restart",
            "ms",
            percentile(&m.restart, 0.5),
            150.0,
        ),
        ("control/agent/memory", "MB", m.agent_rss, 30.0),
        (
            "control/programs/node",
            "count",
            m.programs_before as f64,
            24.0,
        ),
        ("size/hypha", "MB", size("hypha")?, 40.0),
        ("size/hypha-cni", "MB", size("hypha-cni")?, 3.0),
    ];
    for (name, unit, value, goal) in rows {
        let row = Row::against_goal(name.to_owned(), unit, value, goal);
        eprintln!("{row}");
        report.add(row);
    }
    ensure!(
        m.programs_after == m.programs_before,
        "programs were loaded for pods: {} became {}",
        m.programs_before,
        m.programs_after
    );
    Ok(())
}

/// Runs inside the node's namespaces: drives the CNI plugin as a runtime does, and prints what it measured.
pub fn drive_cni(bin: &Path) -> Result<()> {
    let plugin = Plugin::new(bin)?;
    let dir = PathBuf::from("/run/netns-bench");
    fs::create_dir_all(&dir)?;
    for i in 0..WARM_PODS {
        plugin.cycle(&dir, WARM, i)?;
    }
    let programs_before = programs()?;
    let (mut add, mut del) = (Vec::new(), Vec::new());
    let pods = (0..PODS)
        .map(|i| Pod::new(&dir, SERIAL, i))
        .collect::<Result<Vec<_>>>()?;
    for pod in &pods {
        add.push(plugin.timed("ADD", pod)?);
    }
    let programs_after = programs()?;
    for pod in &pods {
        del.push(plugin.timed("DEL", pod)?);
    }
    drop(pods);
    let all_at_once = at_once(&plugin, &dir)?;
    let start = (0..20)
        .map(|_| plugin.version())
        .collect::<Result<Vec<_>>>()?;
    thread::sleep(UNTIL_IDLE);
    let agent_rss = rss(agent_pid()?)?;
    let restart = (0..RESTARTS)
        .map(|_| restart())
        .collect::<Result<Vec<_>>>()?;
    let measured = Measured {
        add,
        del,
        all_at_once,
        start,
        restart,
        programs_before,
        programs_after,
        agent_rss,
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// Milliseconds from the first of many ADDs at the same time to the last one's end.
fn at_once(plugin: &Plugin, dir: &Path) -> Result<f64> {
    let pods = (0..PODS)
        .map(|i| Pod::new(dir, BURST, i))
        .collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let outcomes: Vec<Result<f64>> = thread::scope(|scope| {
        let runs: Vec<_> = pods
            .iter()
            .map(|pod| scope.spawn(|| plugin.timed("ADD", pod)))
            .collect();
        runs.into_iter()
            .map(|run| run.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect()
    });
    let elapsed = millis(start);
    outcomes.into_iter().collect::<Result<Vec<_>>>()?;
    for pod in &pods {
        plugin.timed("DEL", pod)?;
    }
    Ok(elapsed)
}

/// A network namespace that waits for an interface.
struct Pod {
    id: String,
    netns: PathBuf,
}

impl Pod {
    fn new(dir: &Path, kind: &str, i: usize) -> Result<Self> {
        let id = pod_name(kind, i);
        let netns = dir.join(&id);
        netlink::netns::create_at(&netns)?;
        Ok(Self { id, netns })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = netlink::netns::delete_at(&self.netns);
    }
}

/// The plugin and the configuration it is given.
struct Plugin {
    program: PathBuf,
    config: Vec<u8>,
}

impl Plugin {
    fn new(bin: &Path) -> Result<Self> {
        let list: Value = serde_json::from_slice(&fs::read("/etc/cni/net.d/05-cilium.conflist")?)?;
        let mut config = list["plugins"][0].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        Ok(Self {
            program: bin.join("hypha-cni"),
            config: serde_json::to_vec(&config)?,
        })
    }

    fn cycle(&self, dir: &Path, kind: &str, i: usize) -> Result<()> {
        let pod = Pod::new(dir, kind, i)?;
        self.timed("ADD", &pod)?;
        self.timed("DEL", &pod)?;
        Ok(())
    }

    /// Runs the plugin; milliseconds from its start to its end.
    fn timed(&self, verb: &str, pod: &Pod) -> Result<f64> {
        let args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", pod.id);
        let start = Instant::now();
        let mut child = Command::new(&self.program)
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &pod.id)
            .env("CNI_NETNS", &pod.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", args)
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("no stdin")?
            .write_all(&self.config)?;
        let output = child.wait_with_output()?;
        let elapsed = millis(start);
        ensure!(
            output.status.success(),
            "{verb} of {} failed: {}",
            pod.id,
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(elapsed)
    }

    fn version(&self) -> Result<f64> {
        let start = Instant::now();
        let status = Command::new(&self.program)
            .env_clear()
            .env("CNI_COMMAND", "VERSION")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "VERSION failed");
        Ok(millis(start))
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Pid of the agent in this network namespace.
fn agent_pid() -> Result<i32> {
    let own = fs::read_link("/proc/self/ns/net")?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_agent = command.split(|b| *b == 0).nth(1) == Some(b"agent");
        if is_agent && fs::read_link(entry.path().join("ns/net")).is_ok_and(|ns| ns == own) {
            return Ok(pid);
        }
    }
    bail!("no agent runs in this namespace")
}

/// Resident memory in MB.
fn rss(pid: i32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .context("no VmRSS")?;
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .context("no figure")?
        .parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Programs of the datapath that the kernel holds, whoever loaded them.
fn programs() -> Result<usize> {
    let output = Command::new("bpftool")
        .args(["-j", "prog", "show"])
        .output()
        .context("bpftool is needed")?;
    let all: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    Ok(all
        .iter()
        .filter(|p| p["name"].as_str().is_some_and(|n| n.starts_with("cil_")))
        .count())
}

/// Kills the agent, which the lab starts again; milliseconds from the new process's first appearance until it answers.
fn restart() -> Result<f64> {
    let old = agent_pid()?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(old),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut born = None;
    while Instant::now() < deadline {
        if born.is_none() && agent_pid().is_ok_and(|pid| pid != old) {
            born = Some(Instant::now());
        }
        if let Some(born) = born
            && api::Client::new("/var/run/cilium/cilium.sock")
                .timeout(Duration::from_secs(1))
                .healthz()
                .is_ok()
        {
            return Ok(millis(born));
        }
        thread::sleep(Duration::from_millis(1));
    }
    bail!("the agent did not come back within 30 s")
}
