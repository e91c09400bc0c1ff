//! The agents, one process per node, and the operator, one process on the first: started again whenever they end.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};
use nix::sys::signal::Signal;
use runtime::settings::{Key, OperatorSettings, Settings};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::nodes::last_words;
use super::outside::Joined;
use super::owned::LABEL;
use crate::init::LAB_ENV;
use crate::kubelet::node::Node;
use crate::proc::ProcId;
use crate::spec::{LabSpec, Routing};
use crate::state::{AgentState, StateDir};
use crate::topology::{CLUSTER_V4, CLUSTER_V6};

/// How long an agent may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// An agent that ran this long is started again at once.
const STABLE: Duration = Duration::from_secs(1);
/// After so many early ends one after another, `up` stops waiting for it.
const GIVE_UP: u32 = 3;
/// Before an agent that was ended early by somebody starts again.
const TOLD_PAUSE: Duration = Duration::from_millis(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a held agent looks whether it may go on.
const HOLD_CHECK: Duration = Duration::from_millis(20);

/// The settings of a lab's agents and operator, by the names of their flags: what stands in the ConfigMap.
pub fn settings(spec: &LabSpec) -> Vec<(String, String)> {
    let on = |b: bool| if b { "true" } else { "false" };
    let native = spec.routing == Routing::Native;
    let mut all = vec![
        ("ipam", "kubernetes"),
        ("enable-ipv4", on(spec.families.v4())),
        ("enable-ipv6", on(spec.families.v6())),
        ("enable-ipv4-masquerade", on(spec.families.v4())),
        ("enable-ipv6-masquerade", on(spec.families.v6())),
        ("devices", "eth0"),
        ("prometheus-serve-addr", ":9962"),
        ("routing-mode", if native { "native" } else { "tunnel" }),
    ];
    match spec.routing {
        Routing::Vxlan => all.push(("tunnel-protocol", "vxlan")),
        Routing::Geneve => all.push(("tunnel-protocol", "geneve")),
        Routing::Native => all.push(("auto-direct-node-routes", "true")),
    }
    if native && spec.families.v4() {
        all.push(("ipv4-native-routing-cidr", CLUSTER_V4));
    }
    if native && spec.families.v6() {
        all.push(("ipv6-native-routing-cidr", CLUSTER_V6));
    }
    let mut all: Vec<(String, String)> = all
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    for (key, value) in &spec.agent_config {
        all.retain(|(k, _)| k != key);
        all.push((key.clone(), value.clone()));
    }
    all
}

/// Puts the settings into the ConfigMap. What people have set there beside the lab's own keys stays; keys that the lab had set at
/// an earlier start and does not set any more go. Those of another cluster that has its own hold there.
pub(super) async fn publish(
    client: &Client,
    spec: &LabSpec,
    joined: Option<&Joined>,
) -> anyhow::Result<()> {
    let ours: BTreeMap<String, String> = settings(spec).into_iter().collect();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let present = maps.get_opt(CONFIG_MAP).await?;
    let keys: Vec<&str> = ours.keys().map(String::as_str).collect();
    let mut map = ConfigMap {
        data: Some(ours.clone()),
        ..ConfigMap::default()
    };
    map.metadata.name = Some(CONFIG_MAP.to_owned());
    map.metadata.annotations = Some([(OWN_KEYS.to_owned(), keys.join(","))].into());
    map.metadata.labels = joined.map(|joined| [(LABEL.to_owned(), joined.owner.clone())].into());
    let Some(present) = present else {
        maps.create(&PostParams::default(), &map).await?;
        return Ok(());
    };
    let theirs = present.metadata.labels != map.metadata.labels;
    if joined.is_some() && theirs {
        return Ok(());
    }
    let before = present.metadata.annotations.unwrap_or_default();
    let before = before.get(OWN_KEYS).map(String::as_str).unwrap_or_default();
    let mut data = present.data.unwrap_or_default();
    data.retain(|key, _| !before.split(',').any(|old| old == key));
    data.extend(ours);
    map.data = Some(data);
    map.metadata.resource_version = present.metadata.resource_version;
    maps.replace(CONFIG_MAP, &PostParams::default(), &map)
        .await?;
    Ok(())
}

fn has(keys: &[Key], key: &str) -> bool {
    keys.iter().any(|one| one.name == key)
}

/// Whether the agent is told of a key; what it does not know and the operator does not either is its to refuse.
fn of_agent(key: &str) -> bool {
    has(Settings::KEYS, key) || !has(OperatorSettings::KEYS, key)
}

/// Where agents and operator find their settings.
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "cilium-config";
/// Annotation: the keys that the lab has set.
const OWN_KEYS: &str = "hypha.dev/lab-keys";
/// Under which name the operator's log and state are kept.
pub(super) const OPERATOR: &str = "operator";

/// Names the program whose `agent` role is started, for tests.
const AGENT_ENV: &str = "HYPHA_LAB_AGENT";

/// The program with the `agent` role: this one, or `hypha` beside it.
fn program() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(AGENT_ENV) {
        return Ok(path.into());
    }
    crate::init::hypha()
}

/// All agents of a lab.
#[derive(Debug, Default)]
pub(super) struct Agents {
    tasks: JoinSet<()>,
    stop: Option<watch::Sender<bool>>,
    crashing: watch::Sender<Option<String>>,
}

impl Agents {
    /// Resolves when an agent ends again and again, with a text that says which, and how.
    pub(super) fn crashing(&self) -> impl Future<Output = String> + use<> {
        let mut crashing = self.crashing.subscribe();
        async move {
            match crashing.wait_for(Option::is_some).await {
                Ok(text) => text.clone().unwrap_or_default(),
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Starts one on every node.
    pub(super) fn start(
        &mut self,
        spec: &LabSpec,
        dir: &StateDir,
        nodes: &[Arc<Node>],
    ) -> anyhow::Result<()> {
        let program = program()?;
        let operator_args = vec![
            format!("--k8s-namespace={NAMESPACE}"),
            format!("--config-map={CONFIG_MAP}"),
        ];
        // What was asked for at the command line stands above the ConfigMap.
        let mut agent_args = operator_args.clone();
        let asked = spec.agent_config.iter().filter(|(key, _)| of_agent(key));
        agent_args.extend(asked.map(|(key, value)| format!("--{key}={value}")));
        let (stop, stopping) = watch::channel(false);
        self.stop = Some(stop);
        let keeper = |node: &Arc<Node>, role, name: &str, args: &[String]| {
            let way = dir.client_kubeconfig(name)?;
            let way = format!("--k8s-kubeconfig-path={}", way.display());
            anyhow::Ok(Keeper {
                node: node.clone(),
                role,
                name: name.to_owned(),
                dir: dir.clone(),
                program: program.clone(),
                args: [&[way], args].concat(),
                stop: stopping.clone(),
                crashing: self.crashing.clone(),
            })
        };
        // A program that stands in for the agent knows no other role.
        let real = std::env::var_os(AGENT_ENV).is_none();
        let operator = nodes
            .first()
            .filter(|_| real)
            .map(|node| keeper(node, "operator", OPERATOR, &operator_args));
        let agents = nodes
            .iter()
            .map(|node| keeper(node, "agent", &node.name, &agent_args));
        for keeper in operator.into_iter().chain(agents) {
            self.tasks.spawn(keeper?.run());
        }
        Ok(())
    }

    /// Ends all of them.
    pub(super) async fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(true);
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Keeper {
    node: Arc<Node>,
    /// `agent` or `operator`.
    role: &'static str,
    /// Name of its log and its state: the node's, or the operator's.
    name: String,
    dir: StateDir,
    program: PathBuf,
    args: Vec<String>,
    stop: watch::Receiver<bool>,
    crashing: watch::Sender<Option<String>>,
}

/// How an agent ended.
struct Ended {
    text: String,
    /// Somebody ended it.
    told: bool,
}

impl Ended {
    fn failed(text: impl Into<String>) -> Ended {
        Ended {
            text: text.into(),
            told: false,
        }
    }
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Ended {
        let signals = [Signal::SIGKILL as i32, Signal::SIGTERM as i32];
        Ended {
            told: status.code() == Some(0) || status.signal().is_some_and(|s| signals.contains(&s)),
            text: status.to_string(),
        }
    }
}

impl Keeper {
    async fn run(mut self) {
        let mut state = AgentState {
            process: None,
            restarts: 0,
            last_exit: None,
        };
        let (mut pause, mut crashes) = (Duration::ZERO, 0);
        while self.may_start().await {
            let began = Instant::now();
            let ended = self.once(&mut state).await;
            tracing::info!(
                node = self.node.name,
                "the {} ended: {}",
                self.role,
                ended.text
            );
            if *self.stop.borrow() {
                return;
            }
            state = AgentState {
                process: None,
                restarts: state.restarts + 1,
                last_exit: Some(ended.text.clone()),
            };
            self.write(&state);
            (pause, crashes) = match (ended.told, began.elapsed() >= STABLE) {
                (_, true) => (Duration::ZERO, 0),
                (true, false) => (TOLD_PAUSE, 0),
                (false, false) => (next_pause(pause), crashes + 1),
            };
            if crashes == GIVE_UP {
                self.tell_crashing(&ended.text);
            }
            let stopped = self.stop.wait_for(|s| *s);
            if tokio::time::timeout(pause, stopped).await.is_ok() {
                return;
            }
        }
    }

    fn tell_crashing(&self, how: &str) {
        let (node, role) = (&self.node.name, self.role);
        let words = last_words(&self.dir, &self.name);
        let text = format!("the {role} of {node} ends again and again ({how}), saying: {words}");
        self.crashing.send_replace(Some(text));
    }

    /// Waits while the agent is held. False when the lab ends.
    async fn may_start(&mut self) -> bool {
        let hold = self.dir.agent_hold(&self.name);
        while hold.exists() && !*self.stop.borrow() {
            tokio::time::sleep(HOLD_CHECK).await;
        }
        !*self.stop.borrow()
    }

    /// Runs it once: how it ended.
    async fn once(&mut self, state: &mut AgentState) -> Ended {
        let mut child = match self.start() {
            Ok(child) => child,
            Err(e) => return Ended::failed(format!("{e:#}")),
        };
        let process = child.id().and_then(|pid| ProcId::of(pid as i32));
        state.process.clone_from(&process);
        self.write(state);
        let status = tokio::select! {
            status = child.wait() => status,
            () = async { drop(self.stop.wait_for(|s| *s).await) } => {
                process.iter().for_each(|p| {
                    p.signal(Signal::SIGTERM);
                });
                match tokio::time::timeout(STOP_LIMIT, child.wait()).await {
                    Ok(status) => status,
                    Err(_) => return Ended::failed("killed, because it did not end in time"),
                }
            }
        };
        status.map_or_else(|e| Ended::failed(e.to_string()), Ended::from)
    }

    fn start(&self) -> anyhow::Result<Child> {
        let path = self.dir.agent_log(&self.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut command = Command::new(&self.program);
        command
            .arg(self.role)
            .args(&self.args)
            .current_dir(Path::new("/"));
        command
            .env("K8S_NODE_NAME", &self.node.name)
            .env(LAB_ENV, self.node.lab.as_str());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            .kill_on_drop(true);
        let child = self
            .node
            .spawn(command)
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let cgroup = self.node.cgroup().child(self.role);
        cgroup.create()?;
        if let Some(pid) = child.id() {
            cgroup.join(pid as i32)?;
        }
        Ok(child)
    }

    fn write(&self, state: &AgentState) {
        if let Err(e) = self.dir.write_agent(&self.name, state) {
            tracing::warn!("{e:#}");
        }
    }
}

fn next_pause(last: Duration) -> Duration {
    (last * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Families;

    fn value(spec: &LabSpec, key: &str) -> Option<String> {
        settings(spec)
            .into_iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v)
    }

    #[test]
    fn settings_follow_the_spec() {
        let mut spec = LabSpec::default();
        assert_eq!(value(&spec, "routing-mode").as_deref(), Some("tunnel"));
        assert_eq!(value(&spec, "tunnel-protocol").as_deref(), Some("vxlan"));
        assert_eq!(value(&spec, "ipv4-native-routing-cidr"), None);
        spec = LabSpec {
            routing: Routing::Native,
            families: Families::Ipv6,
            ..spec
        };
        assert_eq!(value(&spec, "enable-ipv4").as_deref(), Some("false"));
        assert_eq!(value(&spec, "ipv4-native-routing-cidr"), None);
        assert_eq!(
            value(&spec, "ipv6-native-routing-cidr").as_deref(),
            Some(CLUSTER_V6)
        );
        spec.agent_config = vec![("devices".into(), "eth1".into())];
        assert_eq!(
            settings(&spec)
                .iter()
                .filter(|(k, _)| k == "devices")
                .count(),
            1
        );
        assert_eq!(value(&spec, "devices").as_deref(), Some("eth1"));
    }
}
