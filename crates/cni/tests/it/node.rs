//! A node and its pods as namespaces, and the plugin run in the node.

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use netlink::{Handle, Netns, netns};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::Agent;

pub struct Node {
    pub ns: Netns,
    pub dir: TempDir,
    pub agent: Agent,
}

/// How an invocation ended.
#[derive(Debug)]
pub struct Outcome {
    pub ok: bool,
    pub json: Value,
}

impl Outcome {
    pub fn code(&self) -> u64 {
        self.json["code"].as_u64().unwrap_or(0)
    }
    pub fn message(&self) -> String {
        format!(
            "{} {}",
            self.json["msg"].as_str().unwrap_or(""),
            self.json["details"].as_str().unwrap_or("")
        )
    }
}

impl Node {
    /// `None` (with one line) when not root.
    pub fn new() -> Option<Self> {
        Self::with_cidrs("10.244.1.0/24", "fd00:244:1::/112")
    }

    pub fn with_cidrs(v4: &str, v6: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root for network namespaces");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::start(&dir.path().join("cilium.sock"), v4, v6);
        Some(Self {
            ns: netns::create_unnamed().unwrap(),
            dir,
            agent,
        })
    }

    pub fn pod(&self, name: &str) -> Pod {
        let path = self.dir.path().join(format!("ns-{name}"));
        Pod {
            name: name.to_owned(),
            ns: netns::create_at(&path).unwrap(),
            path,
        }
    }

    pub fn config(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "cilium", "type": "hypha-cni", "enable-debug": true,
            "log-file": self.dir.path().join("cni.log"), "agent-socket": self.dir.path().join("cilium.sock"),
        })
    }

    pub fn run(&self, command: &str, pod: &Pod) -> Outcome {
        self.run_with(command, pod, &self.config())
    }

    pub fn run_with(&self, command: &str, pod: &Pod, config: &Value) -> Outcome {
        let mut env = pod.env();
        env.insert("CNI_COMMAND".into(), command.into());
        self.run_raw(&env, config.to_string().as_bytes())
    }

    pub fn run_raw(&self, env: &BTreeMap<String, String>, stdin: &[u8]) -> Outcome {
        let run = || {
            let mut child = Command::new(binary())
                .env_clear()
                .envs(env)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // A plugin that refuses early may not read everything.
            let _ = child.stdin.take().unwrap().write_all(stdin);
            child.wait_with_output().unwrap()
        };
        let output = self.ns.run(run).unwrap();
        let json = if output.stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&output.stdout).unwrap()
        };
        Outcome {
            ok: output.status.success(),
            json,
        }
    }

    pub fn handle(&self) -> Handle {
        Handle::in_netns(&self.ns).unwrap()
    }

    /// Names of the host sides of pods' interfaces.
    pub fn interfaces(&self) -> Vec<String> {
        self.handle()
            .links()
            .unwrap()
            .into_iter()
            .map(|l| l.name)
            .filter(|n| n.starts_with("lxc"))
            .collect()
    }

    /// Nothing of any pod is there: the router's two addresses, no endpoint, no interface.
    pub fn assert_clean(&self) {
        assert_eq!(
            (
                self.agent.allocated(),
                self.agent.endpoints(),
                self.interfaces()
            ),
            (2, 0, vec![])
        );
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("cni.log")).unwrap_or_default()
    }
}

/// The plugin: the one built for this test, or another one to be measured.
fn binary() -> String {
    std::env::var("HYPHA_CNI_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_hypha-cni").to_owned())
}

pub struct Pod {
    pub name: String,
    pub ns: Netns,
    pub path: PathBuf,
}

impl Drop for Pod {
    fn drop(&mut self) {
        netns::delete_at(&self.path).unwrap();
    }
}

impl Pod {
    pub fn env(&self) -> BTreeMap<String, String> {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={};K8S_POD_UID=u-1;X=",
            self.name
        );
        [
            ("CNI_CONTAINERID", self.name.clone()),
            ("CNI_NETNS", self.path.display().to_string()),
            ("CNI_IFNAME", "eth0".into()),
            ("CNI_ARGS", args),
            ("CNI_PATH", "/opt/cni/bin".into()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into()
    }

    pub fn handle(&self) -> Handle {
        Handle::in_netns(&self.ns).unwrap()
    }
}
