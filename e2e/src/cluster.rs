//! A lab of a test, with the insides of its nodes and pods.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::ns::Namespaces;
use lab::proc::ProcId;
use lab::spec::LabName;
use lab::state::{AGENT, OPERATOR, StateDir};
use netlink::{Netns, netns};
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::{LabBuilder, LabGuard, Run, wait_until};

/// How long what was begun may take to end. On an idle machine it is at once.
const CALM: Duration = Duration::from_secs(30);
/// How long an agent may take to be healthy again. On an idle machine it is a tenth of a second.
const HEALTHY: Duration = Duration::from_secs(60);

/// A lab that runs.
#[derive(Debug)]
pub struct Cluster {
    /// Ends it when dropped.
    pub lab: LabGuard,
    machines: Vec<Machine>,
}

/// A node, or the router.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// The process that holds its namespaces.
    pub holder: ProcId,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

impl Machine {
    fn of(value: &Value) -> Option<Machine> {
        let addresses = value["addresses"].as_array()?.iter();
        Some(Machine {
            name: value["name"].as_str()?.to_owned(),
            holder: serde_json::from_value(value["holder"].clone()).ok()?,
            ips: addresses
                .filter_map(|ip| ip.as_str()?.split('/').next()?.parse().ok())
                .collect(),
        })
    }
}

/// A network namespace with the addresses by which others reach it.
#[derive(Debug)]
pub struct Place {
    /// As users call it.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

impl Place {
    /// Its first address of a family.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    #[track_caller]
    pub fn ip(&self, ipv4: bool) -> IpAddr {
        let found = self.ips.iter().find(|ip| ip.is_ipv4() == ipv4);
        *found.unwrap_or_else(|| panic!("{} has no such address: {:?}", self.name, self.ips))
    }
}

impl Cluster {
    /// Starts a lab.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn up(prefix: &str, args: &[&str]) -> Cluster {
        // The plugin is looked for beside `hypha`.
        let _ = crate::program("hypha-cni");
        Self::of(
            // Tests count endpoints, and cluster DNS has one.
            LabBuilder::new(crate::program("hypha"), prefix)
                .args(&["--cluster-dns", "none"])
                // Agents are killed again and again.
                .args(&["--max-restart-pause", "0"])
                .args(args)
                .up(),
        )
    }

    /// A lab that runs.
    ///
    /// # Panics
    /// If it does not say how it is.
    #[must_use]
    #[track_caller]
    pub fn of(lab: LabGuard) -> Cluster {
        let status = lab.status();
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let machines = nodes
            .chain([&status["router"]])
            .map(|value| Machine::of(value).unwrap_or_else(|| panic!("no machine: {value}")));
        let machines = machines.collect();
        Cluster { lab, machines }
    }

    /// A node, or the router.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn machine(&self, name: &str) -> &Machine {
        let found = self.machines.iter().find(|machine| machine.name == name);
        found.unwrap_or_else(|| panic!("the lab has no {name}"))
    }

    /// The namespaces of a node.
    ///
    /// # Panics
    /// If its holder is gone.
    #[must_use]
    #[track_caller]
    pub fn inside(&self, node: &str) -> Namespaces {
        Namespaces::of_machine(self.machine(node).holder.pid).expect("the node's namespaces")
    }

    /// A file of a node as this process reaches it. Links to absolute paths (`/var/run`) would lead out of the node.
    #[must_use]
    pub fn path(&self, node: &str, path: &str) -> PathBuf {
        self.machine(node).holder.proc_path(&format!("root{path}"))
    }

    /// A node or the router as a place.
    ///
    /// # Panics
    /// If its holder is gone.
    #[must_use]
    #[track_caller]
    pub fn host(&self, name: &str) -> Place {
        let machine = self.machine(name);
        Place {
            name: name.to_owned(),
            netns: netns::open(machine.holder.proc_path("ns/net"))
                .expect("the node's network namespace"),
            ips: machine.ips.clone(),
        }
    }

    /// A pod of namespace `default` as a place.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    #[track_caller]
    pub fn pod(&self, name: &str) -> Place {
        let record = dir(self.lab.name())
            .read_pod("default", name)
            .expect("the pod's record");
        let record = record.unwrap_or_else(|| panic!("pod {name} does not run"));
        let process = &record
            .containers
            .first()
            .expect("a pod has a container")
            .process;
        Place {
            name: name.to_owned(),
            netns: netns::open(process.proc_path("ns/net")).expect("the pod's network namespace"),
            ips: self
                .lab
                .pod_ips(name)
                .iter()
                .filter_map(|ip| ip.parse().ok())
                .collect(),
        }
    }

    /// The API of a node's agent.
    #[must_use]
    pub fn agent(&self, node: &str) -> api::Client {
        api::Client::new(self.path(node, "/run/cilium/cilium.sock"))
    }

    /// The process of a node's agent, while there is one.
    #[must_use]
    pub fn agent_process(&self, node: &str) -> Option<ProcId> {
        self.component(AGENT, Some(node))
    }

    /// The process of a node's proxy, while there is one.
    #[must_use]
    pub fn proxy_process(&self, node: &str) -> Option<ProcId> {
        self.component("cilium-envoy", Some(node))
    }

    /// The process of the operator, while there is one.
    #[must_use]
    pub fn operator_process(&self) -> Option<ProcId> {
        self.component(OPERATOR, None)
    }

    /// Ends the operator with a signal and waits until another one runs.
    ///
    /// # Panics
    /// If none ran, or none comes.
    #[track_caller]
    pub fn restart_operator(&self, signal: Signal) {
        let old = self.operator_process().expect("an operator runs");
        assert!(old.signal(signal), "the operator ended by itself");
        wait_until("another operator", HEALTHY, || {
            self.operator_process().filter(|new| *new != old)
        });
    }

    /// The process of the API server, while there is one.
    #[must_use]
    pub fn api_server_process(&self) -> Option<ProcId> {
        dir(self.lab.name()).api_server()
    }

    fn component(&self, container: &str, node: Option<&str>) -> Option<ProcId> {
        let found = dir(self.lab.name()).container(container, node).ok()??;
        Some(found.1.process)
    }

    /// Changes settings of agents and operator, for those that start from now on.
    ///
    /// # Panics
    /// If that is refused.
    #[track_caller]
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let data: std::collections::BTreeMap<_, _> = settings.iter().copied().collect();
        let map = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": "cilium-config", "namespace": "kube-system"},
        });
        self.lab.apply(&map.to_string());
    }

    /// Kills a node's agent. The kubelet starts another one at once.
    ///
    /// # Panics
    /// If none runs.
    #[track_caller]
    pub fn kill_agent(&self, node: &str) -> ProcId {
        let process = self
            .agent_process(node)
            .unwrap_or_else(|| panic!("no agent runs on {node}"));
        assert!(
            process.signal(Signal::SIGKILL),
            "the agent of {node} ended by itself"
        );
        process
    }

    /// Waits until another agent than `old` runs on a node and says that it is well; how long that took.
    #[track_caller]
    pub fn wait_replaced(&self, node: &str, old: Option<&ProcId>) -> Duration {
        let start = Instant::now();
        wait_until(&format!("a healthy new agent on {node}"), HEALTHY, || {
            let process = self.agent_process(node)?;
            (Some(&process) != old && self.is_healthy(node)).then_some(())
        });
        start.elapsed()
    }

    /// Whether a node's agent says that it is well.
    #[must_use]
    pub fn is_healthy(&self, node: &str) -> bool {
        self.agent(node)
            .healthz()
            .is_ok_and(|status| status.state == api::ComponentState::Ok)
    }

    /// `hypha dbg check` of every node finds nothing.
    ///
    /// # Panics
    /// With what it finds, if that is still there after half a minute.
    #[track_caller]
    pub fn assert_clean(&self) {
        let mut last = None;
        let end = Instant::now() + CALM;
        while Instant::now() < end {
            let run = self.lab.hypha(&["dbg", "check", "--all-nodes"]);
            if run.ok() {
                return;
            }
            last = Some(run);
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!(
            "the check finds: {}",
            last.map(|run| run.stdout + &run.stderr).unwrap_or_default()
        );
    }

    /// Runs kubectl, which must succeed; what it printed.
    ///
    /// # Panics
    /// If it fails, or is not there.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = std::process::Command::new("kubectl")
            .args(args)
            .env("KUBECONFIG", self.lab.dir().join("kubeconfig"))
            .output()
            .expect("kubectl is installed");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Objects of the lab's API server: the items of a list.
    ///
    /// # Panics
    /// If it does not answer with a list.
    #[must_use]
    #[track_caller]
    pub fn list(&self, path: &str) -> Vec<Value> {
        let answer = self.lab.get(path);
        let list: Value =
            serde_json::from_str(&answer).unwrap_or_else(|e| panic!("no JSON ({e}): {answer}"));
        list["items"]
            .as_array()
            .unwrap_or_else(|| panic!("no list: {list}"))
            .clone()
    }

    /// Messages of the warnings about a pod of namespace `default`.
    #[must_use]
    #[track_caller]
    pub fn warnings(&self, pod: &str) -> Vec<String> {
        let events = self.list("/api/v1/namespaces/default/events");
        let about = events
            .iter()
            .filter(|e| e["involvedObject"]["name"] == pod && e["type"] == "Warning");
        about
            .filter_map(|e| {
                Some(format!(
                    "{}: {}",
                    e["reason"].as_str()?,
                    e["message"].as_str()?
                ))
            })
            .collect()
    }

    /// Runs `hypha connectivity test` without a second try; the rows.
    ///
    /// # Panics
    /// If a cell fails.
    #[track_caller]
    pub fn assert_connected(&self, more: &[&str]) -> Vec<Value> {
        let args = [
            &[
                "connectivity",
                "test",
                "-o",
                "json",
                "--retries",
                "0",
                "--timeout",
                "5",
            ],
            more,
        ]
        .concat();
        let run: Run = self.lab.hypha(&args);
        let rows: Vec<Value> = serde_json::from_str(&run.stdout).unwrap_or_else(|e| {
            panic!("the matrix is no JSON ({e}): {}{}", run.stdout, run.stderr)
        });
        let failed: Vec<String> = rows
            .iter()
            .filter(|row| row["passed"] != true)
            .map(Value::to_string)
            .collect();
        assert!(
            run.ok() && failed.is_empty(),
            "{} of {} cells fail:\n{}\n{}",
            failed.len(),
            rows.len(),
            failed.join("\n"),
            run.stderr
        );
        rows
    }
}

/// A pod of the built-in server that ends at once when it is told to.
#[must_use]
pub fn pod_yaml(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: hypha/echo}}]\n"
    )
}

fn dir(name: &str) -> StateDir {
    let name: LabName = name.parse().expect("a lab's name");
    StateDir::of(&name)
}
